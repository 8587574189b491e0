"""NoisySimulator: exact head circuits under a device's noise, at any number of tasks.

Gates and channels act on Pauli strings, where noise costs next to nothing and every string meets
only the noise on its own wires. So a task costs what its light cone costs, and noise that an ideal
cone would not see, of gates that cancel but stay in the circuit, is seen.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.circuit import HeadCircuit, Walk, gates_by_wire
from qmtl.errors import CircuitTooLargeError
from qmtl.noise import Channel, DeviceNoise
from qmtl.simulators._angles import TableBuilder
from qmtl.simulators._autograd import Program, Step
from qmtl.simulators._cones import Op, WireTable, gate_table
from qmtl.simulators._contract import check_tasks
from qmtl.simulators._engine import Engine
from qmtl.simulators._events import Event, NativeCircuit, device_events, head_steps
from qmtl.simulators._explain import Explanation, GroupCost, largest_chunk
from qmtl.simulators._lightcone import LightConeSimulator, _Prepared
from qmtl.simulators._memory import bytes_text, cause_of_size, memory_limit
from qmtl.simulators._network import CHUNK_BYTES, Channels, Contraction, NetworkEngine, contractions
from qmtl.simulators._pauli import PauliEngine, PauliProgram, task_strings, write_program
from qmtl.simulators._pauli._polynomials import Polynomials
from qmtl.simulators._pauli._walk import Circuit, TooLargeError
from qmtl.simulators._plan import Group, Plan, Structure, output_columns

__all__ = ["NoisySimulator", "native_values"]

IntArray = NDArray[np.int64]
# Operations of strings one by one: more take longer to write down than many steps with vectors.
LARGEST_PROGRAM = 100_000
# Bytes of a number, when it is asked whether a single sample fits.
SINGLE = 4
CACHED_CIRCUITS = 4


class NoisySimulator(LightConeSimulator):
    """Exact simulation of head circuits under noise: values, probabilities and gradients.

    Time and memory are linear in the number of tasks. Use it as
    ``QuantumHead(circuit, simulator=NoisySimulator(noise))`` or
    ``head.with_simulator(NoisySimulator(noise))``.

    Args:
        noise: channels after the gates, and read-out errors.
        max_memory: bytes that a training step may take; None for three quarters of the machine's.

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
        self.noise = noise
        self._runs = lru_cache(maxsize=CACHED_CIRCUITS)(self._run)

    def explain(
        self, circuit: HeadCircuit, batch_size: int, dtype: torch.dtype = torch.float32
    ) -> Explanation:
        """Noisy and ideal cones, bytes and operations of a step, without running one.

        Raises:
            CircuitTooLargeError: if not even one sample in single precision fits.

        Example:
            >>> from qmtl import AngleEncoding, HeadCircuit, Task
            >>> circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(8)], AngleEncoding(1))
            >>> plan = NoisySimulator(DeviceNoise.uniform(0.001, 0.01)).explain(circuit, 32)
            >>> plan.groups[0].cone_wires, plan.groups[0].ideal_wires
            (6, 4)
        """
        plan, engines, _ = self._prepare(circuit, None)
        limit = memory_limit(torch.device("cpu"), self.max_memory)
        costs = []
        for group, engine in zip(plan.groups, engines, strict=True):
            assert isinstance(group, NoisyGroup)
            cost = GroupCost.of(group, engine, batch_size, dtype.itemsize, limit)
            wires = max(len(circuit.light_cone(task).wires) for task in group.tasks)
            numbers = max(program.largest for program in group.cone.contractions())
            costs.append(replace(cost, amplitudes=0, ideal_wires=wires, numbers=numbers))
        return Explanation(len(plan.tasks), circuit.n_wires, batch_size, dtype, limit, tuple(costs))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description."""
        return {"type": "noisy", "noise": self.noise.to_dict(), "max_memory": self.max_memory}

    def _prepare(
        self, circuit: HeadCircuit, tasks: Sequence[str] | None, *, joint: bool = True
    ) -> _Prepared:
        return super()._prepare(circuit, tasks, joint=False)

    def _new(self, circuit: HeadCircuit, tasks: tuple[str, ...] | None, joint: bool) -> _Prepared:
        names = check_tasks(circuit, tasks)
        run = self._runs(circuit, names if circuit.layout == "shared" else tuple(circuit.registers))
        return _prepared(circuit, names, run, self.max_memory)

    def _run(self, circuit: HeadCircuit, tasks: tuple[str, ...]) -> "_Run":
        """Everything that happens when these tasks are measured."""
        # In the shared layout every task is a circuit of its own, with a schedule of its own: they
        # are put side by side.
        apart = circuit.layout == "shared"
        events: list[Event] = []
        in_block: list[bool] = []
        wires: dict[str, tuple[int, ...]] = {}
        n_encoding = len(circuit.encoding_gates)
        for i, together in enumerate([[task] for task in tasks] if apart else [list(tasks)]):
            first = i * circuit.n_wires
            for place, found in enumerate(device_events(head_steps(circuit, together), self.noise)):
                events += [_moved(event, first) for event in found] if first else found
                in_block += [place >= n_encoding] * len(found)
            for task in together:
                wires[task] = tuple(first + wire for wire in circuit.register(task).wires)
        starts = {owner: part.start for owner, part in circuit.weight_slices.items()}
        n_wires = circuit.n_wires * (max(1, len(wires)) if apart else 1)
        return _Run.of(events, in_block, wires, n_wires, starts)

    def __getstate__(self) -> dict[str, Any]:
        return {"noise": self.noise, "max_memory": self.max_memory}

    def __repr__(self) -> str:
        return f"NoisySimulator({self.noise!r})"


def native_values(
    circuit: HeadCircuit, native: NativeCircuit, angles: Tensor, noise: DeviceNoise
) -> dict[str, Tensor]:
    """Exact outputs of the tasks of a native circuit under noise, shape (batch, n_outputs) each.

    Args:
        circuit: the head circuit; only its registers and readouts are looked at.
        native: the same as the device runs it.
        angles: encoding angles in radians, shape (batch, n_features).
        noise: of the device's wires and gates.

    Raises:
        CircuitTooLargeError: if a cone does not fit into memory.
    """
    events = list(chain.from_iterable(device_events(native.steps, noise)))
    n_wires = 1 + max((wire for event in events for wire in event.wires), default=0)
    n_wires = max(n_wires, 1 + max(wire for own in native.wires.values() for wire in own))
    run = _Run.of(events, [False] * len(events), native.wires, n_wires, {})
    plan, engines, program = _prepared(circuit, tuple(native.wires), run, None, strings=False)
    limit = memory_limit(angles.device, None)
    chunk = largest_chunk(engines, len(angles), angles.itemsize, limit)
    step = Step(circuit, program, None, None, max(1, chunk))
    # Its weights are bound: none of these is looked at.
    values = step(angles, None, angles.new_zeros(circuit.n_circuit_weights))
    sizes = [circuit.register(task).readout.n_outputs for task in plan.tasks]
    return dict(zip(plan.tasks, values.split(sizes, dim=1), strict=True))


class _Run(NamedTuple):
    """What happens on a device, in its order.

    Attributes:
        events: gates and channels.
        by_wire: places of the events on each wire.
        in_block: which events belong to blocks and readouts.
        wires: where each task's register is.
        table: of the events; its weights are places in the flat vector.
        channel: of each event the index of its channel.
        numbers: of all channels: the factors of the strings, and the shift at the end.
    """

    events: list[Event]
    by_wire: dict[int, list[int]]
    in_block: list[bool]
    wires: Mapping[str, tuple[int, ...]]
    table: WireTable
    channel: IntArray
    numbers: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        events: list[Event],
        in_block: list[bool],
        wires: Mapping[str, tuple[int, ...]],
        n_wires: int,
        starts: Mapping[str, int],
    ) -> "_Run":
        """The run of these events, with the first weight of each owner."""
        table = gate_table(events, n_wires)
        first = [starts.get(e.angle.owner, 0) if e.angle is not None else 0 for e in events]
        weights = np.where(table.weights >= 0, table.weights + np.array(first, np.int64), -1)
        channels: dict[Channel, int] = {}
        index = [0 if e.channel is None else channels.setdefault(e.channel, len(channels))
                 for e in events]  # fmt: skip
        numbers = np.zeros((len(channels), 17))
        for i, channel in enumerate(channels):
            numbers[i, : len(channel.factors)] = channel.factors
            numbers[i, -1] = channel.shift
        return cls(events, gates_by_wire(events), in_block, wires, table._replace(weights=weights),
                   np.array(index, np.int64), numbers)  # fmt: skip


def _moved(event: Event, first: int) -> Event:
    return replace(event, wires=tuple(first + wire for wire in event.wires))


@dataclass(frozen=True)
class NoisyCone:
    """What noisy cones must have in common to run in one batch.

    Attributes:
        encoding: operations of the encoding on local wires; slots number the angles, and for
            channels the channels.
        block: operations of the block, and read-out errors; their slots follow.
        n_wires: local wires.
        sampled: which of the angles depend on the sample.
        n_encoding: how many of them are the encoding's.
        strings: the Z-strings that are read, as masks of local wires.
        mixing: how they make the outputs; None if each output is one of them.
    """

    encoding: tuple[Op, ...]
    block: tuple[Op, ...]
    n_wires: int
    sampled: tuple[bool, ...]
    n_encoding: int
    strings: tuple[int, ...]
    mixing: tuple[tuple[float, ...], ...] | None

    @property
    def n_outputs(self) -> int:
        """Outputs of each task."""
        return len(self.strings if self.mixing is None else self.mixing)

    def slots(self, *, block: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Columns of the angles that depend on the sample, and of the others."""
        own = self.sampled[self.n_encoding :] if block else self.sampled[: self.n_encoding]
        found = list(enumerate(own))
        return tuple(i for i, yes in found if yes), tuple(i for i, yes in found if not yes)

    def contractions(self) -> tuple[Contraction, ...]:
        """How vectors of strings compute the outputs; several where they run apart."""
        ops = (*self.encoding, *self.block)
        return contractions(ops, self.strings, self.n_wires, are_apart=self.mixing is None)


@dataclass(frozen=True, eq=False, kw_only=True)
class NoisyGroup(Group):
    """A group of noisy cones.

    Attributes:
        cone: what they have in common.
        channels: those of each cone.
    """

    cone: NoisyCone
    channels: Channels


class _Members(NamedTuple):
    """Tasks whose cones are those of the first of them, moved along the wires.

    Attributes:
        events: places of the cone's events in the run: the encoding's, then the block's.
        wires: of the run, in local order.
        tasks: places of the tasks among those asked for.
        shifts: by how many wires each task's cone is moved.
    """

    events: list[int]
    wires: list[int]
    tasks: IntArray
    shifts: IntArray


def _prepared(
    circuit: HeadCircuit,
    tasks: tuple[str, ...],
    run: _Run,
    max_memory: int | None,
    *,
    strings: bool = True,
) -> _Prepared:
    """The plan of tasks on a device, and what runs it.

    Args:
        circuit: whose readouts they have.
        tasks: their names.
        run: what happens on the device.
        max_memory: bytes that a step may take.
        strings: whether small cones may run as strings one by one, which take time to write down.

    Raises:
        CircuitTooLargeError: if not even one sample in single precision fits.
    """
    builder, columns = TableBuilder(), output_columns(circuit, tasks)
    alike: dict[NoisyCone, list[_Members]] = {}
    for cone, members in _cones(circuit, tasks, run):
        alike.setdefault(cone, []).append(members)
    groups = [
        _group(circuit, tasks, run, cone, parts, columns, builder) for cone, parts in alike.items()
    ]
    table = builder.finish()
    limit = memory_limit(torch.device("cpu"), max_memory)
    engines = [_engine(group, limit, strings=strings) for group in groups]
    for group, engine in zip(groups, engines, strict=True):
        _check_fits(circuit, group, engine, limit)
    n_outputs = int(columns[-1])
    plan = Plan(tasks, tuple(groups), (), table, n_outputs)
    return _Prepared(plan, engines, Program(table, engines, n_outputs))


def _cones(
    circuit: HeadCircuit, tasks: Sequence[str], run: _Run
) -> Iterable[tuple[NoisyCone, _Members]]:
    """The cones of the tasks; those that see the same around them together."""
    kind = run.table.kind
    n = len(kind)
    alike: dict[object, list[int]] = {}
    for i, task in enumerate(tasks):
        wires = run.wires[task]
        key = (circuit.register(task).readout, tuple((w - wires[0]) % n for w in wires))
        alike.setdefault(key, []).append(i)
    for places in alike.values():
        left = np.array(places)
        starts = np.array([run.wires[tasks[i]][0] for i in places])
        readout = task_strings(circuit, tasks[places[0]])
        while len(left):
            task = tasks[left[0]]
            register = run.wires[task]
            reads = circuit.register(task).readout.read_wires(len(register))
            walk = Walk([register[i] for i in reads])
            kept = walk.back_through(run.events, run.by_wire)
            # Wires are numbered from the register on, so that equal cones look equal along a ring.
            met = dict.fromkeys(register)
            for place in reversed(kept):
                met |= dict.fromkeys(run.events[place].wires)
            around = np.array(list(met))
            there = (around + (starts - starts[0])[:, None]) % n
            same = (kind[there] == kind[around]).all(axis=1)
            events = sorted(kept, key=lambda place: run.in_block[place])
            cone = _cone(run, events, {wire: i for i, wire in enumerate(met)}, readout)
            yield cone, _Members(events, list(met), left[same], (starts - starts[0])[same])
            left, starts = left[~same], starts[~same]


Readings = tuple[tuple[int, ...], tuple[tuple[float, ...], ...] | None]


def _cone(
    run: _Run, events: Sequence[int], local: Mapping[int, int], readout: Readings
) -> NoisyCone:
    sections: tuple[list[Op], list[Op]] = ([], [])
    sampled: list[bool] = []
    n_channels = n_encoding = 0
    for place in events:
        event, block = run.events[place], run.in_block[place]
        slot = None
        if event.channel is not None:
            slot, n_channels = n_channels, n_channels + 1
        elif event.angle is not None:
            slot = len(sampled)
            sampled.append(bool(event.angle.features))
            n_encoding += not block
        sections[block].append(Op(event.name, tuple(local[w] for w in event.wires), slot))
    encoding, block_ops = map(tuple, sections)
    return NoisyCone(encoding, block_ops, len(local), tuple(sampled), n_encoding, *readout)


def _group(
    circuit: HeadCircuit,
    tasks: Sequence[str],
    run: _Run,
    cone: NoisyCone,
    parts: Sequence[_Members],
    columns: IntArray,
    builder: TableBuilder,
) -> NoisyGroup:
    table, n = run.table, circuit.n_wires
    order = np.argsort(np.concatenate([part.tasks for part in parts]), kind="stable")
    index = np.concatenate([part.tasks for part in parts])[order]
    places = np.concatenate([table.moved(part.events, part.shifts) for part in parts])[order]
    wires = np.concatenate([np.array(p.wires) + p.shifts[:, None] for p in parts])[order]
    events = [run.events[place] for place in parts[0].events]
    turning = [i for i, event in enumerate(events) if event.angle is not None]
    noisy = [i for i, event in enumerate(events) if event.channel is not None]
    angles = [
        builder.add(table.features[own], table.weights[own], table.constants[own])
        for own in np.split(places[:, turning], [cone.n_encoding], axis=1)
    ]
    slots = cone.slots(block=False), cone.slots(block=True)
    n_inner = len(run.wires[tasks[index[0]]])
    return NoisyGroup(
        structure=Structure(cone.n_wires, n_inner, (), (), *slots, ()),
        tasks=tuple(tasks[i] for i in index.tolist()),
        columns=columns[index][:, None] + np.arange(cone.n_outputs),
        wires=wires % n,
        encoding=angles[0],
        block=angles[1],
        sizes=(),
        cone=cone,
        channels=Channels(run.channel[places[:, noisy]], run.numbers),
    )


def _engine(group: NoisyGroup, limit: int, *, strings: bool) -> Engine:
    """Strings one by one, which are quicker where they are few; vectors take the other cones."""
    cone = group.cone
    program = _string_program(cone) if strings else None
    if program is not None:
        constants = (program.encoding, program.block)
        return PauliEngine(
            group, program, (_constants(constants[0], group), _constants(constants[1], group))
        )
    return NetworkEngine(
        group.columns,
        (*cone.encoding, *cone.block),
        cone.contractions(),
        (group.encoding, group.block),
        group.channels,
        None if cone.mixing is None else np.array(cone.mixing),
        min(CHUNK_BYTES, limit // 2),
    )


@lru_cache(maxsize=256)
def _string_program(cone: NoisyCone) -> PauliProgram | None:
    """The outputs as polynomials; None if these are too large, or the block has a feature."""
    moving, still = cone.slots(block=True)
    if moving:
        return None
    slots = tuple(cone.n_encoding + slot for slot in still)
    circuit = Circuit(cone.encoding, cone.block, cone.slots(block=False), slots)
    mixing = None if cone.mixing is None else np.array(cone.mixing)
    try:
        return write_program([circuit], cone.strings, mixing, LARGEST_PROGRAM)
    except TooLargeError:
        return None


def _constants(polynomials: Polynomials, group: NoisyGroup) -> NDArray[np.float64]:
    """The value of each constant for each cone."""
    index, numbers = group.channels
    found = np.ones((len(index), len(polynomials.constants)))
    for i, factors in enumerate(polynomials.constants):
        for slot, which in factors:
            found[:, i] *= numbers[index[:, slot], which]
    return found


def _check_fits(circuit: HeadCircuit, group: NoisyGroup, engine: Engine, limit: int) -> None:
    needed = engine.step_bytes(1, SINGLE)
    if needed <= limit:
        return
    task, wires = group.tasks[0], group.cone.n_wires
    # Numbers of n wires under noise are as many as the amplitudes of 2n wires without.
    cause = cause_of_size(circuit, task, 2 * wires, 2 * group.structure.n_inner)
    raise CircuitTooLargeError(
        f"task {task!r}: under noise its outputs depend on {wires} of {circuit.n_wires} wires; a "
        f"step of one sample would take about {bytes_text(needed)}, the limit is "
        f"{bytes_text(limit)}. {cause}"
    )
