"""The light-cone plan: which tasks share a batch, and the layers that their cones run.

A plan is made once per circuit and set of tasks, from plain gates; running it needs no Python per
task. Cones with the same gates up to a renaming of wires form one group. Within a cone the gates
are sorted into alternating layers of one-wire gates and of diagonal gates (a CNOT is a CZ between
two Hadamards), so that a layer of diagonal gates becomes one vector of phases.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmtl.circuit.gates import Angle, Gate
from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.circuit.light_cone import LightCone, backward_cone
from qmtl.errors import CircuitTooLargeError

__all__ = ["Group", "Layer", "Op", "Plan", "SlotTable", "build_plan", "cause_of_size"]

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Op:
    """One gate of a layer on local wires; `slot` is its column in the group's table of angles."""

    name: str
    wires: tuple[int, ...]
    slot: int | None


@dataclass(frozen=True)
class Layer:
    """Gates that run together: diagonal ones as one phase vector, or one-wire ones per wire."""

    diagonal: bool
    ops: tuple[Op, ...]


@dataclass(frozen=True)
class SlotTable:
    """Where the angles of a section come from: one row per cone, one column per rotation.

    Attributes:
        features: indices of the features that are multiplied, shape (cones, slots, factors);
            -1 where there is none.
        weights: index of the weight, shape (cones, slots); -1 where there is none.
        constants: factors, shape (cones, slots).
    """

    features: IntArray
    weights: IntArray
    constants: NDArray[np.float64]

    @property
    def feature_slots(self) -> IntArray:
        """Slots whose angle depends on the sample."""
        return np.flatnonzero((self.features[0] >= 0).any(axis=1))

    @property
    def weight_slots(self) -> IntArray:
        """Slots whose angle is the same for all samples."""
        return np.flatnonzero(~(self.features[0] >= 0).any(axis=1))


@dataclass(frozen=True)
class Group:
    """Tasks whose cones have the same structure; they run as one batch.

    Attributes:
        tasks: their names, in the circuit's order.
        wires: each cone's wires in local order, shape (cones, n_wires); the block's wires first.
        n_inner: how many of the first local wires the block acts on or the readout reads.
        encoding: layers of the encoding on the cone.
        block: layers of the task block on the first `n_inner` wires.
        encoding_slots: angles of the encoding; one row per cone, or a single one if all tasks
            share one cone.
        block_slots: angles of the block, one row per task.
        readout: outputs over the inner wires' basis states, shape (n_outputs, 2^n_inner).
        kept: what engines derive from the group once.
    """

    tasks: tuple[str, ...]
    wires: IntArray
    n_inner: int
    encoding: tuple[Layer, ...]
    block: tuple[Layer, ...]
    encoding_slots: SlotTable
    block_slots: SlotTable
    readout: NDArray[np.float64]
    kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def n_wires(self) -> int:
        """Wires of each cone."""
        return int(self.wires.shape[1])

    @property
    def n_cones(self) -> int:
        """Encoded states per sample: one per task, or one if the tasks share it."""
        return int(self.wires.shape[0])

    @property
    def amplitudes(self) -> int:
        """Complex amplitudes per sample over all tasks of the group, at the widest point."""
        return max(self.n_cones, len(self.tasks) if self.n_cones == 1 else 0) << self.n_wires

    @cached_property
    def steps(self) -> int:
        """Operations on whole states: one per diagonal layer, one per wire of the other layers."""
        layers = (*self.encoding[1:], *self.block)
        return sum(1 if lay.diagonal else len({op.wires[0] for op in lay.ops}) for lay in layers)


@dataclass(frozen=True)
class Plan:
    """Groups that together compute the outputs of `tasks`."""

    tasks: tuple[str, ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class _Cone:
    """A task's cone: its structure on local wires, and the indices that set it apart."""

    task: str
    wires: tuple[int, ...]
    inner: tuple[int, ...]
    encoding: tuple[Layer, ...]
    block: tuple[Layer, ...]
    encoding_angles: tuple[Angle, ...]
    block_angles: tuple[Angle, ...]
    readout: tuple[tuple[float, ...], ...]
    n_weights: int

    @property
    def structure(self) -> tuple[object, ...]:
        """What two cones must have in common to run in one batch."""
        kinds = tuple(
            (len(a.features), a.weight is None) for a in self.encoding_angles + self.block_angles
        )
        sizes = (len(self.wires), len(self.inner), self.n_weights)
        return (sizes, self.encoding, self.block, kinds, self.readout)


def _local_order(circuit: HeadCircuit, cone: Iterable[int], inner: Sequence[int]) -> list[int]:
    """Inner wires first, then the others by their place around the ring, seen from the register."""
    n = circuit.n_wires
    others = set(cone) - set(inner)

    def offset(wire: int) -> int:
        steps = (wire - inner[0]) % n
        return steps - n if steps > n // 2 else steps

    return [*inner, *sorted(others, key=offset)]


def _without_cnots(gates: Iterable[Gate]) -> list[Gate]:
    expanded = []
    for gate in gates:
        if gate.name == "CNOT":
            flip = Gate("Hadamard", (gate.wires[1],))
            expanded += [flip, Gate("CZ", gate.wires), flip]
        else:
            expanded.append(gate)
    return expanded


def _layers(gates: Iterable[Gate], local: dict[int, int]) -> tuple[list[Layer], list[Angle]]:
    """Sort gates into layers, one-wire ones at even levels and diagonal ones at odd levels."""
    level = dict.fromkeys(local, 0)
    levels: dict[int, list[Gate]] = {}
    for gate in _without_cnots(gates):
        parity = 1 if gate.is_diagonal else 0
        place = max(level[w] + (level[w] % 2 != parity) for w in gate.wires)
        levels.setdefault(place, []).append(gate)
        for w in gate.wires:
            level[w] = place
    layers: list[Layer] = []
    angles: list[Angle] = []
    for place in sorted(levels):
        ops = []
        # Gates of a layer on different wires commute; sorting them makes equal cones look equal.
        for gate in sorted(levels[place], key=lambda g: _sort_key(g, local)):
            wires = tuple(local[w] for w in gate.wires)
            wires = tuple(sorted(wires)) if gate.is_diagonal else wires
            ops.append(Op(gate.name, wires, None if gate.angle is None else len(angles)))
            if gate.angle is not None:
                angles.append(gate.angle)
        layers.append(Layer(diagonal=place % 2 == 1, ops=tuple(ops)))
    return layers, angles


def _sort_key(gate: Gate, local: dict[int, int]) -> tuple[object, ...]:
    wires = tuple(sorted(local[w] for w in gate.wires))
    # One-wire gates on one wire do not commute: the sort is stable and must not see their names.
    return (wires, gate.name) if gate.is_diagonal else (wires,)


def _cone(circuit: HeadCircuit, task: str, cone: LightCone, inner: Sequence[int]) -> _Cone:
    order = _local_order(circuit, cone.wires, inner)
    local = {wire: i for i, wire in enumerate(order)}
    encoding, encoding_angles = _layers(cone.encoding, local)
    block, block_angles = _layers(cone.block, local)
    return _Cone(
        task,
        tuple(order),
        tuple(inner),
        tuple(encoding),
        tuple(block),
        tuple(encoding_angles),
        tuple(block_angles),
        tuple(map(tuple, _inner_readout(circuit, task, inner))),
        circuit.n_weights(task),
    )


def _inner_readout(circuit: HeadCircuit, task: str, inner: Sequence[int]) -> list[list[float]]:
    """The readout's matrix over the basis states of the inner wires.

    A wire of the register that is not inner is not read: its bit does not change the outputs.
    """
    register = circuit.register(task)
    readout, k = register.readout, len(register.wires)
    # A matrix over a wide register is huge: leave its last wires out if the readout does.
    read = readout.read_wires(k)
    least = max(readout.min_wires, max(read) + 1)
    if least < k and tuple(readout.read_wires(least)) == tuple(read):
        k = least
    if k > MAX_READOUT_WIRES:
        raise CircuitTooLargeError(
            f"task {task!r}: its readout {readout} spans {k} wires of the register, at most "
            f"{MAX_READOUT_WIRES} can be simulated: use fewer wires for this task"
        )
    matrix = readout.matrix(k)
    columns = []
    for state in range(2 ** len(inner)):
        bits = {wire: state >> (len(inner) - 1 - i) & 1 for i, wire in enumerate(inner)}
        column = sum(bits.get(wire, 0) << (k - 1 - i) for i, wire in enumerate(register.wires[:k]))
        columns.append(column)
    return [[row[column] for column in columns] for row in matrix]


# The readout is kept as a matrix over the basis states of the inner wires, and is first written
# over those of the register.
MAX_INNER_WIRES = 16
MAX_READOUT_WIRES = 20
# More amplitudes than any memory has; a plan for such cones would take minutes to build.
MAX_CONE_WIRES = 64


def _inner_wires(circuit: HeadCircuit, task: str, cone: LightCone) -> list[int]:
    """Wires that the block's remaining gates touch or the readout reads, in register order."""
    register = circuit.register(task)
    read = {register.wires[i] for i in register.readout.read_wires(len(register.wires))}
    touched = read.union(*(gate.wires for gate in cone.block))
    inner = [wire for wire in register.wires if wire in touched]
    if len(inner) > MAX_INNER_WIRES:
        raise CircuitTooLargeError(
            f"task {task!r}: its block acts on {len(inner)} wires, at most {MAX_INNER_WIRES} can "
            f"be simulated: use fewer wires for this task"
        )
    return inner


def cause_of_size(circuit: HeadCircuit, task: str, cone_wires: int, block_wires: int) -> str:
    """Why a task's light cone is as large as it is, and what to use instead."""
    encoding = circuit.encoding
    if cone_wires <= 12:
        return "The cones are small: use a smaller batch, or fewer tasks at a time."
    if block_wires >= cone_wires - 2:
        return f"The task's register has {block_wires} wires: use fewer wires."
    pattern = getattr(encoding, "entangler", None) or getattr(encoding, "pattern", None)
    layers = getattr(encoding, "n_layers", None)
    if pattern in ("cnot_ring", "cnot_line", "all_to_all"):
        why = "joins every pair of wires" if pattern == "all_to_all" else "is one chain of CNOTs"
        return (
            f"The cause is the encoding's entangler {pattern!r}, which {why}; 'cz_ring' widens a "
            f"cone by 2 wires per layer only."
        )
    if pattern is not None and layers is not None:
        return (
            f"The cause is {layers} encoding layers of {pattern!r}, each of which widens the cone "
            f"by 2 wires: use fewer layers."
        )
    gate, size = circuit.light_cone(task).growth[-1]
    return f"The cone reaches {size} wires at the encoding's gate {gate}."


def _checked_cone(circuit: HeadCircuit, task: str) -> tuple[LightCone, list[int]]:
    cone = circuit.light_cone(task)
    inner = _inner_wires(circuit, task, cone)
    if len(cone.wires) > MAX_CONE_WIRES:
        raise CircuitTooLargeError(
            f"task {task!r}: its light cone has {len(cone.wires)} of {circuit.n_wires} wires, "
            f"more than the {MAX_CONE_WIRES} that any memory could hold. "
            f"{cause_of_size(circuit, task, len(cone.wires), len(inner))}"
        )
    return cone, inner


def _cones(circuit: HeadCircuit, tasks: Sequence[str]) -> list[_Cone]:
    cones, inner = {}, {}
    for task in tasks:
        cones[task], inner[task] = _checked_cone(circuit, task)
    if circuit.layout == "shared":
        # One encoded state for all tasks: the cone of everything that any of them looks at.
        union = sorted(set().union(*inner.values()))
        joint = backward_cone(circuit.encoding_gates, [], union, diagonal=False)
        cones = {
            task: LightCone(joint.wires, joint.encoding, cone.block, joint.growth)
            for task, cone in cones.items()
        }
        inner = dict.fromkeys(tasks, union)
    return [_cone(circuit, task, cones[task], inner[task]) for task in tasks]


def _slot_table(rows: Sequence[Sequence[Angle]]) -> SlotTable:
    n_slots = len(rows[0])
    factors = max((len(angle.features) for angle in rows[0]), default=0)
    features = np.full((len(rows), n_slots, factors), -1, dtype=np.int64)
    weights = np.full((len(rows), n_slots), -1, dtype=np.int64)
    constants = np.ones((len(rows), n_slots))
    for i, row in enumerate(rows):
        for j, angle in enumerate(row):
            features[i, j, : len(angle.features)] = angle.features
            weights[i, j] = -1 if angle.weight is None else angle.weight
            constants[i, j] = angle.constant
    return SlotTable(features, weights, constants)


def _group(cones: Sequence[_Cone]) -> Group:
    first = cones[0]
    same = all(
        cone.wires == first.wires and cone.encoding_angles == first.encoding_angles
        for cone in cones
    )
    states = cones[:1] if same else cones
    return Group(
        tasks=tuple(cone.task for cone in cones),
        wires=np.array([cone.wires for cone in states], dtype=np.int64),
        n_inner=len(first.inner),
        encoding=first.encoding,
        block=first.block,
        encoding_slots=_slot_table([cone.encoding_angles for cone in states]),
        block_slots=_slot_table([cone.block_angles for cone in cones]),
        readout=np.array(first.readout, dtype=np.float64),
    )


def build_plan(circuit: HeadCircuit, tasks: Sequence[str]) -> Plan:
    """Group the cones of `tasks` by structure.

    Example:
        >>> from qmtl.tasks import Task
        >>> circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(8)])
        >>> plan = build_plan(circuit, list(circuit.registers))
        >>> len(plan.groups), plan.groups[0].wires.shape
        (1, (8, 6))
    """
    groups: dict[tuple[object, ...], list[_Cone]] = {}
    for cone in _cones(circuit, tasks):
        groups.setdefault(cone.structure, []).append(cone)
    return Plan(tuple(tasks), tuple(_group(cones) for cones in groups.values()))
