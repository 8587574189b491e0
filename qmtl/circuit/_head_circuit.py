"""HeadCircuit: tasks, layout, encoding, task blocks and readouts as one circuit description."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from qmtl.circuit._ansatz import Ansatz, RotationAnsatz
from qmtl.circuit._encodings import AngleEncoding, Encoding
from qmtl.circuit._gates import Gate, elementary
from qmtl.circuit._light_cone import LightCone, backward_cone, gates_by_wire
from qmtl.circuit._readout import (
    Layout,
    Readout,
    Register,
    check_names,
    check_sizes,
    default_readout,
    make_registers,
    register_sizes,
)
from qmtl.errors import InvalidInputError, check_type, unknown_name
from qmtl.tasks import Task, check_tasks


@dataclass(frozen=True, repr=False)
class ParameterCount:
    """Numbers of trainable parameters of a head.

    Attributes:
        encoding: number of weights of the shared encoding.
        tasks: number of weights of each task's block, by task name.
        scales: number of scales: one per task.
    """

    encoding: int
    tasks: dict[str, int]
    scales: int

    @property
    def circuit(self) -> int:
        """Number of circuit weights: the encoding's and all blocks'."""
        return self.encoding + sum(self.tasks.values())

    @property
    def total(self) -> int:
        """Number of circuit weights plus one scale per task."""
        return self.circuit + self.scales

    def __repr__(self) -> str:
        parts = f"encoding={self.encoding}, tasks={self.tasks}, scales={self.scales}"
        return f"ParameterCount({parts}, total={self.total})"


def gate_depth(circuits: Iterable[Sequence[Gate]], n_wires: int, *, two_qubit_only: bool) -> int:
    """Return the depth of the deepest circuit, for all gates or for two-qubit gates only."""
    deepest = 0
    for gates in circuits:
        level = [0] * n_wires
        for gate in gates:
            step = 1 if len(gate.wires) == 2 or not two_qubit_only else 0
            top = max(level[w] for w in gate.wires) + step
            for w in gate.wires:
                level[w] = top
        deepest = max(deepest, *level)
    return deepest


class HeadCircuit:
    """The circuit of a quantum multi-task head: shared encoding, task blocks, readouts.

    In the ``partitioned`` layout every task owns a register of wires, in the order of `tasks`, and
    one circuit serves all tasks. The order of tasks is part of the circuit, because neighbours
    share light cones. In the ``shared`` layout every task's block acts on all wires after the
    encoding, so that each task has a circuit.

    Args:
        tasks: the tasks, with distinct names.
        encoding: the shared encoding.
        ansatz: the block of all tasks, or a dictionary from task name to block; other tasks get
            `RotationAnsatz()`.
        layout: ``"partitioned"`` or ``"shared"``.
        wires_per_task: (partitioned) number of wires of every register, or a dictionary from task
            name to number; None for the defaults (binary 2, regression 2 per target, multiclass
            ``max(2, ⌈log2 C⌉)``, multilabel one per label and at least 2).
        n_wires: (shared) number of wires of the common register; None for the largest number that a
            task needs.
        readouts: readouts by task name; other tasks get `default_readout`.

    Raises:
        InvalidInputError: if a register is too small for its readout, a readout and its task have
            different numbers of outputs, or a name is unknown.

    Example:
        >>> circuit = HeadCircuit([Task.binary("cola"), Task.multiclass("emotion", 9)])
        >>> circuit.n_wires, circuit.light_cone("cola").wires
        (6, (0, 1, 2, 3, 4, 5))
        >>> circuit.count_parameters().tasks
        {'cola': 6, 'emotion': 16}
    """

    encoding_gates: tuple[Gate, ...]
    """Gates of the shared encoding, in the order of application."""

    def __init__(
        self,
        tasks: Sequence[Task],
        encoding: Encoding | None = None,
        ansatz: Ansatz | Mapping[str, Ansatz] | None = None,
        *,
        layout: Layout = "partitioned",
        wires_per_task: int | Mapping[str, int] | None = None,
        n_wires: int | None = None,
        readouts: Mapping[str, Readout] | None = None,
    ) -> None:
        self.tasks = check_tasks(tasks)
        self.encoding: Encoding = AngleEncoding() if encoding is None else encoding
        if not isinstance(self.encoding, Encoding):
            raise InvalidInputError(
                f"encoding must have gates, n_features and n_weights, got {encoding!r}"
            )
        if layout not in ("partitioned", "shared"):
            raise unknown_name("layout", layout, ["partitioned", "shared"])
        self.layout: Layout = layout
        for method in (self.encoding.gates, self.encoding.n_weights, self.encoding.n_features):
            _check_arguments(method, "n_wires")
        names = [task.name for task in self.tasks]
        chosen = dict(readouts or {})
        check_names("readouts", chosen, names)
        sizes = register_sizes(self.tasks, layout, chosen, wires_per_task, n_wires)
        reads = {
            task.name: chosen.get(task.name, default_readout(task, sizes[task.name]))
            for task in self.tasks
        }
        check_sizes(sizes, reads)
        self._ansatz = self._blocks(ansatz, names)
        self.registers = make_registers(self.tasks, layout, reads, sizes)
        self.n_wires = max(register.wires[-1] for register in self.registers.values()) + 1
        self.n_features = self.encoding.n_features(self.n_wires)
        if not self.n_features:
            raise InvalidInputError(
                f"the encoding {self.encoding!r:.80} loads no features; if it is a task's block, "
                f"pass it as ansatz="
            )
        self.encoding_gates = self._encoding_gates()
        self._check_blocks()

    def _encoding_gates(self) -> tuple[Gate, ...]:
        """Return the encoding's gates; raise if they do not match the encoding's counts."""
        # A user's encoding may yield its gates, which are needed twice.
        n, gates = self.n_wires, list(self.encoding.gates(self.n_wires))
        what = type(self.encoding).__name__
        _check_gates(what, gates, n, self.n_features, self.encoding.n_weights(n))
        return tuple(gate.owned_by("encoding") for gate in elementary(gates))

    def _check_blocks(self) -> None:
        """Raise if the gates of a user's block do not match the block's counts."""
        checked: set[object] = set()
        for name, register in self.registers.items():
            size = len(register.wires)
            read = register.readout.read_wires(size)
            key = (id(self._ansatz[name]), size, read)
            if key in checked:
                continue
            checked.add(key)
            try:
                gates = self._ansatz[name].gates(size, read)
            except InvalidInputError as error:
                raise InvalidInputError(f"task {name!r}: {error}") from error
            what = f"task {name!r}: {type(self._ansatz[name]).__name__}"
            _check_gates(what, gates, size, self.n_features, self.n_weights(name))

    def _blocks(
        self, ansatz: Ansatz | Mapping[str, Ansatz] | None, names: list[str]
    ) -> dict[str, Ansatz]:
        if isinstance(ansatz, Mapping):
            check_names("ansatz", ansatz, names)
            blocks = {name: ansatz.get(name, RotationAnsatz()) for name in names}
        else:
            blocks = dict.fromkeys(names, RotationAnsatz() if ansatz is None else ansatz)
        checked: set[int] = set()
        for name, block in blocks.items():
            if id(block) in checked:
                continue
            checked.add(id(block))
            if not isinstance(block, Ansatz):
                raise InvalidInputError(
                    f"task {name!r}: an ansatz must have gates and n_weights, got {block!r}"
                )
            for method in (block.gates, block.n_weights):
                _check_arguments(method, "n_wires", "read")
        return blocks

    def task(self, name: str) -> Task:
        """Return the task with this name; the error for an unknown name suggests the nearest."""
        return self.register(name).task

    def register(self, name: str) -> Register:
        """Return the register of the task with this name."""
        if name not in self.registers:
            raise unknown_name("task", name, self.registers)
        return self.registers[name]

    def ansatz(self, name: str) -> Ansatz:
        """Return the block of the task with this name."""
        self.register(name)
        return self._ansatz[name]

    @cached_property
    def _encoding_by_wire(self) -> dict[int, list[int]]:
        return gates_by_wire(self.encoding_gates)

    def block_gates(self, name: str) -> tuple[Gate, ...]:
        """Return the gates of one task's block, on the circuit's wires."""
        register = self.register(name)
        read = register.readout.read_wires(len(register.wires))
        gates = elementary(self._ansatz[name].gates(len(register.wires), read))
        return tuple(g.on(register.wires[w] for w in g.wires).owned_by(name) for g in gates)

    def gates(self, task: str | None = None) -> tuple[Gate, ...]:
        """Return the circuit's gates, in the order of application.

        Args:
            task: the name of a task, for the encoding and this task's block; None for the whole
                circuit (partitioned layout only: the shared layout has one circuit per task).
        """
        if task is not None:
            return self.encoding_gates + self.block_gates(task)
        if self.layout == "shared" and len(self.tasks) > 1:
            raise InvalidInputError(
                f"the shared layout has one circuit per task; name one of {list(self.registers)}"
            )
        blocks = tuple(gate for name in self.registers for gate in self.block_gates(name))
        return self.encoding_gates + blocks

    def light_cone(self, task: str, read: Sequence[int] | None = None) -> LightCone:
        """Return the gates and wires that a task's outputs depend on.

        Args:
            task: the task's name.
            read: positions in the register to read; None for the positions that the readout reads.
        """
        register = self.register(task)
        if read is None:
            read = register.readout.read_wires(len(register.wires))
        wrong = [i for i in read if not 0 <= i < len(register.wires)]
        if wrong:
            raise InvalidInputError(
                f"task {task!r}: its register has wires 0 to {len(register.wires) - 1}, got "
                f"{wrong[0]}"
            )
        return backward_cone(
            self.encoding_gates,
            self.block_gates(task),
            [register.wires[i] for i in read],
            encoding_by_wire=self._encoding_by_wire,
        )

    @property
    def n_encoding_weights(self) -> int:
        """Number of trainable weights of the encoding."""
        return self.encoding.n_weights(self.n_wires)

    @cached_property
    def n_circuit_weights(self) -> int:
        """Number of trainable weights of the encoding and of all blocks."""
        return sum(size for (size,) in self.weight_sizes.values())

    def n_weights(self, task: str) -> int:
        """Return the number of trainable weights of one task's block."""
        register = self.register(task)
        read = register.readout.read_wires(len(register.wires))
        return self._ansatz[task].n_weights(len(register.wires), read)

    @cached_property
    def weight_sizes(self) -> dict[str, tuple[int]]:
        """Shapes of the weight vectors of ``"encoding"`` and of each task."""
        tasks = {name: (self.n_weights(name),) for name in self.registers}
        return {"encoding": (self.n_encoding_weights,)} | tasks

    @cached_property
    def weight_slices(self) -> dict[str, slice]:
        """The slice of ``"encoding"`` and of each task in one flat vector of all weights.

        Example:
            >>> HeadCircuit([Task.binary("a"), Task.binary("b")]).weight_slices["a"]
            slice(4, 10, None)
        """
        return _slices({name: size for name, (size,) in self.weight_sizes.items()})

    @cached_property
    def output_slices(self) -> dict[str, slice]:
        """The columns of each task in the joined outputs of all tasks.

        Example:
            >>> HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)]).output_slices["b"]
            slice(1, 4, None)
        """
        return _slices({task.name: task.n_outputs for task in self.tasks})

    def count_parameters(self) -> ParameterCount:
        """Count the encoding weights, each task's weights, and the scales (one per task)."""
        tasks = {name: self.n_weights(name) for name in self.registers}
        return ParameterCount(self.n_encoding_weights, tasks, scales=len(tasks))

    @cached_property
    def depth(self) -> int:
        """Number of layers of gates on disjoint wires (the deepest task in the shared layout)."""
        return gate_depth(self._circuits(), self.n_wires, two_qubit_only=False)

    @cached_property
    def two_qubit_depth(self) -> int:
        """Number of layers of two-qubit gates (of the deepest task in the shared layout)."""
        return gate_depth(self._circuits(), self.n_wires, two_qubit_only=True)

    @cached_property
    def two_qubit_gates(self) -> int:
        """Number of two-qubit gates (of the largest task circuit in the shared layout)."""
        return max(sum(len(g.wires) == 2 for g in gates) for gates in self._circuits())

    def _circuits(self) -> list[tuple[Gate, ...]]:
        if self.layout == "partitioned":
            return [self.gates()]
        return [self.gates(name) for name in self.registers]

    def draw(
        self, task: str | None = None, *, max_wires: int = 16, max_width: int | None = None
    ) -> str:
        """Return a text drawing of the first wires.

        Args:
            task: the task whose circuit to draw in the shared layout (None: the first).
            max_wires: most wires to draw.
            max_width: most characters of a line; a wider drawing continues below.

        Example:
            >>> print(HeadCircuit([Task.binary("a")], AngleEncoding(n_layers=1)).draw())
            a 0: ─RY(x[0])─●─RZ(a[0])─RY(a[2])─●─RZ(a[4])─RY(a[5])─⟨Z⟩
            a 1: ─RY(x[1])─●─RZ(a[1])─RY(a[3])─●──────────────────────
        """
        from qmtl.circuit._drawing import draw_text

        return draw_text(self, task, max_wires=max_wires, max_width=max_width)

    def _repr_html_(self) -> str:
        from qmtl._html import panel
        from qmtl.circuit._drawing import circuit_parts

        return panel(
            f"HeadCircuit: {len(self.tasks):,} task{'s' if len(self.tasks) > 1 else ''}, "
            f"{self.n_wires:,} wire{'s' if self.n_wires > 1 else ''}",
            *circuit_parts(self),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able description; `qmtl.circuit.circuit_from_dict` reads it."""
        from qmtl.circuit._catalogue import circuit_to_dict

        return circuit_to_dict(self)

    @classmethod
    def load(cls, name_or_path: str, tasks: Sequence[Task]) -> "HeadCircuit":
        """Return a catalogue design by name (``"cz-ring"``), or read a design file, for `tasks`."""
        from qmtl.circuit._catalogue import load_design

        return load_design(name_or_path).circuit(tasks)

    def _key(self) -> tuple[object, ...]:
        return (
            self.layout,
            self.encoding,
            tuple(self.registers.values()),
            tuple(self._ansatz.values()),
        )

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, HeadCircuit) and self._key() == other._key()

    @cached_property
    def _hash(self) -> int:
        return hash(self._key())

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        count = self.count_parameters()
        cone = max(len(self.light_cone(name).wires) for name in list(self.registers)[:8])
        return (
            f"HeadCircuit({len(self.tasks)} tasks, {self.n_wires} wires, {self.layout}, "
            f"{self.encoding}, cones of up to {cone} wires, {count.circuit} weights)"
        )


def _slices(sizes: Mapping[str, int]) -> dict[str, slice]:
    ends = accumulate(sizes.values())
    pairs = zip(sizes.items(), ends, strict=True)
    return {name: slice(end - size, end) for (name, size), end in pairs}


def _check_arguments(method: Callable[..., object], *names: str) -> None:
    """Raise if a method of a user's class does not take these arguments; the error names it."""
    try:
        inspect.signature(method).bind(*names)
    except TypeError as error:
        name = getattr(method, "__qualname__", repr(method))
        raise InvalidInputError(f"{name} must take ({', '.join(names)}): {error}") from None


def _check_gates(
    what: str, gates: Sequence[Gate], n_wires: int, n_features: int, n_weights: int
) -> None:
    for given in gates:
        if not isinstance(given, Gate):
            raise InvalidInputError(f"{what}: gates must be a list of Gate, got {given!r}")
        for gate in given.decomposed():
            angle = gate.angle
            indices = [("wire", wire, n_wires) for wire in gate.wires]
            if angle is not None:
                indices += [("feature", feature, n_features) for feature in angle.features]
                indices += [] if angle.weight is None else [("weight", angle.weight, n_weights)]
            for kind, index, number in indices:
                if index >= number:
                    raise InvalidInputError(
                        f"{what}: the gate {given} has {kind} {index}, there are {number} "
                        f"(numbered from 0)"
                    )


def check_circuit(circuit: Any) -> None:
    """Raise `InvalidInputError` for anything but a `HeadCircuit`, such as a head."""
    hint = "; give its .circuit" if hasattr(circuit, "circuit") else ""
    check_type("circuit", circuit, HeadCircuit, hint)
