"""NoisySimulator: exact head circuits under a device's noise, at any number of tasks.

Gates and channels act on Pauli strings. Noise on strings is almost free, and a string meets only
the noise on its own wires, so that a task's cost depends on its light cone only. Noisy cones also
include the noise of gates that cancel, which are outside an ideal cone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl._html import bytes_text
from qmtl.circuit import HeadCircuit, Walk, gates_by_wire, task_strings
from qmtl.errors import CircuitTooLargeError, check_type
from qmtl.noise import DeviceNoise, Event, NativeCircuit, device_events, head_steps
from qmtl.simulators._angles import Slots, TableBuilder, split_slots
from qmtl.simulators._autograd import Step
from qmtl.simulators._cones import Op, WireTable, gate_table
from qmtl.simulators._contract import by_task, cause_of_size, memory_limit
from qmtl.simulators._engine import Engine, Program
from qmtl.simulators._explain import Explanation, GroupCost, largest_chunk
from qmtl.simulators._lightcone import LightConeSimulator
from qmtl.simulators._network import CHUNK_BYTES, Contraction, NetworkEngine, contractions
from qmtl.simulators._pauli import PauliEngine, PauliProgram, write_program
from qmtl.simulators._pauli._polynomials import Polynomials
from qmtl.simulators._pauli._walk import Circuit, TooLargeError
from qmtl.simulators._plan import Group, Plan, Structure, output_columns
from qmtl.tasks import chosen_tasks

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
# Programs on single strings with more operations take longer to plan than many steps on vectors.
LARGEST_PROGRAM = 100_000
# Bytes of a single-precision number. The memory must hold at least one sample in this precision.
SINGLE = 4
CACHED_CIRCUITS = 4


class NoisySimulator(LightConeSimulator):
    """Exact simulation of head circuits under noise: values, probabilities and gradients.

    Time and memory are linear in the number of tasks. Use it as
    ``QuantumHead(circuit, simulator=NoisySimulator(noise))`` or
    ``head.with_simulator(NoisySimulator(noise))``.

    Args:
        noise: channels after the gates, and read-out errors.
        max_memory: bytes that a training step may take; None for three quarters of the machine's
            memory.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> circuit = HeadCircuit([Task.binary("a"), Task.binary("b")])
        >>> weights = torch.zeros(circuit.n_circuit_weights)
        >>> noisy = NoisySimulator(DeviceNoise.uniform(readout=0.1))
        >>> noisy.values(circuit, torch.zeros(1, 4), weights)
        tensor([[0.8000, 0.8000]])
    """

    def __init__(self, noise: DeviceNoise, max_memory: int | None = None) -> None:
        super().__init__(max_memory)
        check_type("noise", noise, DeviceNoise)
        self.noise = noise
        self._runs = lru_cache(maxsize=CACHED_CIRCUITS)(self._run)

    def explain(
        self, circuit: HeadCircuit, batch_size: int, dtype: torch.dtype = torch.float32
    ) -> Explanation:
        """Return noisy and ideal cones, bytes and operations of a step, without running one.

        Raises:
            CircuitTooLargeError: if not even one sample fits in single precision.

        Example:
            >>> from qmtl import AngleEncoding, HeadCircuit, Task
            >>> circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(8)], AngleEncoding(1))
            >>> plan = NoisySimulator(DeviceNoise.uniform(0.001, 0.01)).explain(circuit, 32)
            >>> plan.groups[0].cone_wires, plan.groups[0].ideal_wires
            (6, 4)
        """
        program = self._prepare(circuit, None)
        plan, engines = program.plan, program.engines
        limit = memory_limit(torch.device("cpu"), self.max_memory)
        costs = []
        for group, engine in zip(plan.groups, engines, strict=True):
            assert isinstance(group, NoisyGroup)
            cost = GroupCost.of(group, engine, (batch_size, dtype.itemsize, limit))
            wires = max(len(circuit.light_cone(task).wires) for task in group.tasks)
            numbers = max(program.largest for program in group.cone.contractions())
            costs.append(replace(cost, amplitudes=0, ideal_wires=wires, numbers=numbers))
        return Explanation(len(plan.tasks), circuit.n_wires, batch_size, dtype, limit, tuple(costs))

    def to_dict(self) -> dict[str, Any]:
        return {"type": "noisy", "noise": self.noise.to_dict(), "max_memory": self.max_memory}

    def _prepare(
        self, circuit: HeadCircuit, tasks: Sequence[str] | None, *, joint: bool = True
    ) -> Program:
        return super()._prepare(circuit, tasks, joint=False)

    def _new(self, circuit: HeadCircuit, tasks: tuple[str, ...] | None, joint: bool) -> Program:
        names = chosen_tasks(tasks, circuit.registers)
        run = self._runs(circuit, names if circuit.layout == "shared" else tuple(circuit.registers))
        return _program(circuit, names, run, self.max_memory)

    def _run(self, circuit: HeadCircuit, tasks: tuple[str, ...]) -> "_Run":
        """Return all gates and channels of the circuits that measure these tasks."""
        # In the shared layout every task is a separate circuit with a separate schedule. Placed
        # side by side on separate wires, the circuits form one run.
        apart = circuit.layout == "shared"
        events: list[Event] = []
        in_block: list[bool] = []
        wires: dict[str, tuple[int, ...]] = {}
        n_encoding = len(circuit.encoding_gates)
        for i, together in enumerate([[task] for task in tasks] if apart else [list(tasks)]):
            first = i * circuit.n_wires
            for place, found in enumerate(device_events(head_steps(circuit, together), self.noise)):
                if first:
                    found = [replace(e, wires=tuple(first + w for w in e.wires)) for e in found]
                events += found
                in_block += [place >= n_encoding] * len(found)
            for task in together:
                wires[task] = tuple(first + wire for wire in circuit.register(task).wires)
        n_wires = circuit.n_wires * (max(1, len(wires)) if apart else 1)
        return _Run.of(events, in_block, wires, n_wires, circuit.weight_slices)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.noise, self.max_memory)

    def __repr__(self) -> str:
        # A device's noise has thousands of numbers.
        values = {part.name: getattr(self.noise, part.name) for part in fields(self.noise)}
        parts = [name for name, value in values.items() if value not in (None, {}, (0.0, 0.0))]
        return f"NoisySimulator(DeviceNoise with {', '.join(parts) or 'nothing'})"


def native_values(
    circuit: HeadCircuit, native: NativeCircuit, angles: Tensor, noise: DeviceNoise
) -> dict[str, Tensor]:
    """Compute exact outputs of a native circuit under noise, (batch, n_outputs) per task.

    Args:
        circuit: the head circuit, for registers and readouts only.
        native: the transpiled circuit that the device runs.
        angles: encoding angles in radians, shape (batch, n_features).
        noise: noise of the device's wires and gates.

    Raises:
        CircuitTooLargeError: if a cone does not fit into memory.
    """
    trains = torch.is_grad_enabled() and angles.requires_grad
    run = _native_run(native, noise)
    tasks = tuple(native.wires)
    program = _program(circuit, tasks, run, None, strings=False, trains=trains)
    limit = memory_limit(angles.device, None)
    chunk = largest_chunk(program.engines, len(angles), angles.itemsize, limit)
    step = Step(circuit, program, None, None, max(1, chunk))
    # The weights are bound in the native circuit, so these zeros are ignored.
    values = step(angles, None, angles.new_zeros(circuit.n_circuit_weights))
    sizes = [circuit.register(task).readout.n_outputs for task in tasks]
    return by_task(values, tasks, sizes)


def native_size(circuit: HeadCircuit, native: NativeCircuit, noise: DeviceNoise) -> int:
    """Return the length of the longest vector that `native_values` makes for one sample."""
    cones = _cones(circuit, tuple(native.wires), _native_run(native, noise))
    return max(one.largest for cone, *_ in cones for one in cone.contractions())


def _native_run(native: NativeCircuit, noise: DeviceNoise) -> "_Run":
    events = list(chain.from_iterable(device_events(native.steps, noise)))
    used = [event.wires for event in events] + list(native.wires.values())
    n_wires = 1 + max(wire for wires in used for wire in wires)
    return _Run.of(events, [False] * len(events), native.wires, n_wires, {})


class _Run(NamedTuple):
    """All gates and channels of a device's run, in order.

    `in_block` marks events of blocks and readouts, and `wires` holds the wires of each task's
    register. The table's weights are indices in the flat vector. `numbers` holds each channel's
    factors and, last, its shift.
    """

    events: list[Event]
    by_wire: dict[int, list[int]]
    in_block: list[bool]
    wires: Mapping[str, tuple[int, ...]]
    table: WireTable
    numbers: FloatArray

    @classmethod
    def of(
        cls,
        events: list[Event],
        in_block: list[bool],
        wires: Mapping[str, tuple[int, ...]],
        n_wires: int,
        owners: Mapping[str, slice],
    ) -> "_Run":
        """Make the run of these events; `owners` holds each owner's slice of the weights."""
        table = gate_table(events, n_wires, owners)
        numbers = np.zeros((len(events), 17))
        for own, event in zip(numbers, events, strict=True):
            if event.channel is not None:
                own[: len(event.channel.factors)] = event.channel.factors
                own[-1] = event.channel.shift
        return cls(events, gates_by_wire(events), in_block, wires, table, numbers)


@dataclass(frozen=True)
class NoisyCone:
    """The common structure of noisy cones that run in one batch.

    Operations are on local wires: the encoding's come first, then the block's and the read-out
    errors. Angles of encoding and block share one numbering of slots, and channels have another;
    `block_slots` start at 0 again. Outputs are Z-strings, given as masks of local wires; the mixing
    matrix, if there is one, multiplies them.
    """

    encoding: tuple[Op, ...]
    block: tuple[Op, ...]
    n_wires: int
    encoding_slots: Slots
    block_slots: Slots
    strings: tuple[int, ...]
    mixing: tuple[tuple[float, ...], ...] | None

    def contractions(self) -> tuple[Contraction, ...]:
        """Return the contractions that compute the outputs; several if outputs run separately."""
        ops = (*self.encoding, *self.block)
        # Many strings together are less work, and need no long planning of steps for each string.
        are_apart = self.mixing is None and len(self.strings) <= self.n_wires
        return contractions(ops, self.strings, self.n_wires, are_apart=are_apart)


@dataclass(frozen=True, eq=False, kw_only=True)
class NoisyGroup(Group):
    """A group of noisy cones, with each cone's channel numbers, (members, channels, 17)."""

    cone: NoisyCone
    channels: FloatArray


def _program(
    circuit: HeadCircuit,
    tasks: tuple[str, ...],
    run: _Run,
    max_memory: int | None,
    *,
    strings: bool = True,
    trains: bool = True,
) -> Program:
    """Make the program of tasks on a device; without `strings`, all cones run as vectors.

    Raises:
        CircuitTooLargeError: if not even one sample fits in single precision.
    """
    builder, columns = TableBuilder(), output_columns(circuit, tasks)
    alike: dict[NoisyCone, list[tuple[IntArray, ...]]] = {}
    for cone, *members in _cones(circuit, tasks, run):
        alike.setdefault(cone, []).append(tuple(members))
    groups: list[NoisyGroup] = []
    for cone, parts in alike.items():
        index, places, wires = map(np.concatenate, zip(*parts, strict=True))
        order = np.argsort(index, kind="stable")
        index, places = index[order], places[order]
        events = [run.events[place] for place in places[0].tolist()]
        turning = places[:, [event.angle is not None for event in events]]
        angles = [
            builder.add(run.table.angles.at(own))
            for own in np.split(turning, [sum(map(len, cone.encoding_slots))], axis=1)
        ]
        n_own = len(cone.strings if cone.mixing is None else cone.mixing)
        slots = cone.encoding_slots, cone.block_slots
        n_inner = len(run.wires[tasks[index[0]]])
        groups.append(
            NoisyGroup(
                structure=Structure(cone.n_wires, n_inner, (), (), *slots, ()),
                tasks=tuple(tasks[i] for i in index.tolist()),
                columns=columns[index][:, None] + np.arange(n_own),
                wires=wires[order] % circuit.n_wires,
                encoding=angles[0],
                block=angles[1],
                sizes=(),
                cone=cone,
                channels=run.numbers[places[:, [e.channel is not None for e in events]]],
            )
        )
    plan = Plan(tasks, tuple(groups), (), builder.finish(), int(columns[-1]))
    limit = memory_limit(torch.device("cpu"), max_memory)
    engines: dict[int, Engine] = {}
    # The largest group comes first, so that the error for a too large circuit comes early.
    sizes = [(group.cone.n_wires, len(group.cone.encoding)) for group in groups]
    for i in sorted(range(len(groups)), key=sizes.__getitem__, reverse=True):
        group = groups[i]
        engine = engines[i] = _engine(group, limit, strings=strings, trains=trains)
        needed, seen = engine.step_bytes(1, SINGLE), group.cone.n_wires
        if needed > limit:
            # n wires under noise have as many numbers as 2n ideal wires have amplitudes.
            task, inner = group.tasks[0], group.structure.n_inner
            raise CircuitTooLargeError(
                f"task {task!r}: under noise its outputs depend on {seen} of {circuit.n_wires} "
                f"wires; a step of one sample would take about {bytes_text(needed)}, the limit is "
                f"{bytes_text(limit)}. {cause_of_size(circuit, task, 2 * seen, 2 * inner)}"
            )
    return Program(plan, [engines[i] for i in range(len(groups))])


def _cones(
    circuit: HeadCircuit, tasks: Sequence[str], run: _Run
) -> Iterator[tuple[NoisyCone, IntArray, IntArray, IntArray]]:
    """Yield cones, with the indices, events and wires of each cone's tasks, one row per task.

    Events of the block come last.
    """

    def walk(i: int) -> tuple[tuple[NoisyCone, list[int], IntArray], IntArray]:
        register, readout = run.wires[tasks[i]], circuit.register(tasks[i]).readout
        reads = [register[place] for place in readout.read_wires(len(register))]
        kept = Walk(reads).back_through(run.events, run.by_wire)
        # Local wire numbers start at the register, so that equal cones along a ring compare equal.
        met = dict.fromkeys(register)
        for place in reversed(kept):
            met |= dict.fromkeys(run.events[place].wires)
        local, wires = {wire: i for i, wire in enumerate(met)}, np.array(list(met))
        events = sorted(kept, key=lambda place: run.in_block[place])
        return (_cone(run, events, local, task_strings(circuit, tasks[i])), events, wires), wires

    registers = [run.wires[task] for task in tasks]
    keys = [
        (circuit.register(task).readout, tuple((w - own[0]) % len(run.table.kind) for w in own))
        for task, own in zip(tasks, registers, strict=True)
    ]
    starts = [own[0] for own in registers]
    for (cone, events, wires), places, shifts in run.table.equal_around(keys, starts, walk):
        yield cone, places, run.table.moved(events, shifts), wires + shifts[:, None]


def _cone(
    run: _Run,
    events: Sequence[int],
    local: Mapping[int, int],
    readout: tuple[tuple[int, ...], tuple[tuple[float, ...], ...] | None],
) -> NoisyCone:
    sections: tuple[list[Op], list[Op]] = ([], [])
    sampled: tuple[list[bool], list[bool]] = ([], [])
    n_channels = 0
    for place in events:
        event, block = run.events[place], run.in_block[place]
        slot = None
        if event.channel is not None:
            slot, n_channels = n_channels, n_channels + 1
        elif event.angle is not None:
            slot = sum(map(len, sampled))
            sampled[block].append(bool(event.angle.features))
        sections[block].append(Op(event.name, tuple(local[w] for w in event.wires), slot))
    encoding, block_ops = map(tuple, sections)
    return NoisyCone(
        encoding, block_ops, len(local), split_slots(sampled[0]), split_slots(sampled[1]), *readout
    )


def _engine(group: NoisyGroup, limit: int, *, strings: bool, trains: bool) -> Engine:
    """Return the faster engine for single strings, or one for vectors if there are many strings."""
    cone = group.cone
    program = _string_program(cone) if strings else None
    if program is not None:
        encoding, block = (_constants(own, group) for own in (program.encoding, program.block))
        return PauliEngine(group, program, (encoding, block))
    return NetworkEngine(
        group.columns,
        (*cone.encoding, *cone.block),
        cone.contractions(),
        (group.encoding, group.block),
        group.channels,
        None if cone.mixing is None else np.array(cone.mixing),
        min(CHUNK_BYTES, limit // 2),
        trains=trains,
    )


@lru_cache(maxsize=256)
def _string_program(cone: NoisyCone) -> PauliProgram | None:
    """Write outputs as polynomials; None if these are too large, or the block has a feature."""
    moving, still = cone.block_slots
    if moving:
        return None
    n_encoding = sum(map(len, cone.encoding_slots))
    slots = tuple(n_encoding + slot for slot in still)
    circuit = Circuit(cone.encoding, cone.block, cone.encoding_slots, slots)
    mixing = None if cone.mixing is None else np.array(cone.mixing)
    try:
        return write_program(circuit, cone.strings, mixing, LARGEST_PROGRAM)
    except TooLargeError:
        return None


def _constants(polynomials: Polynomials, group: NoisyGroup) -> FloatArray:
    """Return the value of each constant for each cone."""
    found = np.ones((group.n_members, len(polynomials.constants)))
    for i, factors in enumerate(polynomials.constants):
        for slot, which in factors:
            found[:, i] *= group.channels[:, slot, which]
    return found
