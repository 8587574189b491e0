"""Cones: the gates that outputs depend on, on local wires, as layers and a readout.

Outputs that are Z-strings run separately, each on its own cone, or together on the task's cone,
whichever has fewer amplitudes. For example, fourteen labels on fourteen wires are fourteen small
cones instead of one of eighteen wires.

Most circuits look the same around most tasks. So one walk finds the cone of a task, and all other
tasks with the same surrounding gates get the same cone, shifted along the wires.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from qmtl.circuit import (
    MAX_READ_WIRES,
    Angle,
    Gate,
    HeadCircuit,
    LightCone,
    backward_cone,
    spanned_wires,
    z_strings_of,
)
from qmtl.errors import CircuitTooLargeError
from qmtl.simulators._angles import Columns, angle_columns
from qmtl.simulators._contract import cause_of_size

# No machine has the memory for a larger cone, and its plan would take minutes to build.
MAX_CONE_WIRES = 64

IntArray = NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True)
class Op:
    """A gate or channel on local wires; `slot` numbers the rotations, or the channels."""

    name: str
    wires: tuple[int, ...]
    slot: int | None


@dataclass(frozen=True)
class Layer:
    """Gates that run together: diagonal gates as one phase vector, one-wire gates wire by wire."""

    diagonal: bool
    ops: tuple[Op, ...]


@dataclass(frozen=True)
class Cone:
    """Outputs that are read together, with the gates that they depend on.

    Attributes:
        outputs: indices of the task's outputs; if several tasks share a state, their outputs are
            numbered one task after another.
        wires: the circuit's wires in local order: the wires that are read, the block's other wires,
            the rest.
        n_inner: number of local wires, from the first, that the block acts on or the readout reads.
        encoding: layers of the encoding.
        block: layers of the task's block.
        encoding_gates: for each slot of the encoding, the index of its gate in the circuit's
            encoding.
        block_angles: for each slot of the block, its angle.
        readout: outputs as rows over the basis states of the wires that are read.
        sizes: size of the cone after each gate that widens it, backwards from the readout.
    """

    outputs: tuple[int, ...]
    wires: tuple[int, ...]
    n_inner: int
    encoding: tuple[Layer, ...]
    block: tuple[Layer, ...]
    encoding_gates: tuple[int, ...]
    block_angles: tuple[Angle, ...]
    readout: tuple[tuple[float, ...], ...]
    sizes: tuple[int, ...]


class _Part(NamedTuple):
    """Outputs of a task that are read together, with their light cone."""

    task: str
    outputs: tuple[int, ...]
    read: tuple[int, ...]
    cone: LightCone

    @property
    def inner(self) -> set[int]:
        """Wires that the readout reads or that the remaining gates of the block act on."""
        return set(self.read).union(*(gate.wires for gate in self.cone.block))


def cones_of(circuit: HeadCircuit, task: str, together: Sequence[str] = ()) -> list[Cone]:
    """Return the cones of a task's outputs.

    Args:
        circuit: the head circuit.
        task: the task's name.
        together: (shared layout) all tasks that run on the same encoded state.

    Raises:
        CircuitTooLargeError: for a cone that no memory could hold.
    """
    parts = _parts(circuit, task)
    if circuit.layout == "partitioned":
        return [_cone(circuit, [part], part.cone, list(part.read), part.inner) for part in parts]
    read, inner, shared = _shared_state(circuit, tuple(together or (task,)))
    cones = [replace(shared, block=part.cone.block) for part in parts]
    return [
        _cone(circuit, [part], cone, list(read), set(inner))
        for part, cone in zip(parts, cones, strict=True)
    ]


@lru_cache(maxsize=16)
def _shared_state(
    circuit: HeadCircuit, tasks: tuple[str, ...]
) -> tuple[tuple[int, ...], frozenset[int], LightCone]:
    """Return the wires that are read, the blocks' wires, and the tasks' joint light cone."""
    parts = [part for task in tasks for part in _parts(circuit, task)]
    inner: set[int] = set().union(*(part.inner for part in parts))
    read = sorted(set().union(*(part.read for part in parts)))
    cone = backward_cone(circuit.encoding_gates, [], inner, diagonal=False)
    return tuple(read), frozenset(inner), cone


def _parts(circuit: HeadCircuit, task: str) -> list[_Part]:
    """Return the task's outputs as one part, or as several if that takes fewer amplitudes."""
    together = _together(circuit, task)
    strings = z_strings_of(circuit, task)
    parts = [together]
    if strings is not None and len(strings) > 1 and circuit.layout == "partitioned":
        apart = [_part(circuit, task, (j,), wires) for j, wires in enumerate(strings)]
        if sum(1 << len(p.cone.wires) for p in apart) < 1 << len(together.cone.wires):
            parts = apart
    for part in parts:
        _check_size(circuit, part)
    return parts


def _together(circuit: HeadCircuit, task: str) -> _Part:
    register = circuit.register(task)
    readout = register.readout
    return _part(circuit, task, range(readout.n_outputs), readout.read_wires(len(register.wires)))


def _part(
    circuit: HeadCircuit, task: str, outputs: Sequence[int], positions: Sequence[int]
) -> _Part:
    read = tuple(circuit.register(task).wires[i] for i in positions)
    return _Part(task, tuple(outputs), read, circuit.light_cone(task, positions))


def _check_size(circuit: HeadCircuit, part: _Part) -> None:
    if len(part.cone.wires) > MAX_CONE_WIRES:
        raise CircuitTooLargeError(
            f"task {part.task!r}: its light cone has {len(part.cone.wires)} of {circuit.n_wires} "
            f"wires, more than the {MAX_CONE_WIRES} that any memory could hold. "
            f"{cause_of_size(circuit, part.task, len(part.cone.wires), len(part.inner))}"
        )
    if len(part.read) > MAX_READ_WIRES:
        raise CircuitTooLargeError(
            f"task {part.task!r}: {len(part.read)} of its wires are read together, at most "
            f"{MAX_READ_WIRES} can be simulated: use fewer wires for this task"
        )


def _cone(
    circuit: HeadCircuit, parts: Sequence[_Part], cone: LightCone, read: list[int], inner: set[int]
) -> Cone:
    order = _local_order(circuit.n_wires, cone, read, inner)
    local = {wire: i for i, wire in enumerate(order)}
    encoding, slots = _sorted_into_layers(cone.encoding, local)
    block, block_slots = _sorted_into_layers(cone.block, local)
    readout = [row for part in parts for row in _readout(circuit, part, read).tolist()]
    return Cone(
        outputs=tuple(output for part in parts for output in part.outputs),
        wires=tuple(order),
        n_inner=len(inner),
        encoding=encoding,
        block=block,
        encoding_gates=tuple(cone.positions[i] for i in slots),
        block_angles=tuple(angle for i in block_slots if (angle := cone.block[i].angle)),
        readout=tuple(map(tuple, readout)),
        sizes=tuple(size for _, size in cone.growth),
    )


def joint_cone(circuit: HeadCircuit, tasks: Sequence[str]) -> Cone:
    """Join the cones of tasks that depend on nearly the same wires.

    The blocks act on disjoint wires, so their sequence is one block.
    """
    parts = [_together(circuit, task) for task in tasks]
    blocks = [gate for task in tasks for gate in circuit.block_gates(task)]
    read = [wire for part in parts for wire in part.read]
    cone = backward_cone(circuit.encoding_gates, blocks, read)
    return _cone(circuit, parts, cone, read, set().union(*(part.inner for part in parts)))


def _local_order(n_wires: int, cone: LightCone, read: list[int], inner: set[int]) -> list[int]:
    """Order a cone's wires: those that are read, other wires of the block, all others.

    The last two parts are ordered by distance along the ring from the first wire that is read.
    Therefore cones that differ by a rotation of the ring get the same order, and can share a plan.
    """

    def offset(wire: int) -> int:
        steps = (wire - read[0]) % n_wires
        return steps - n_wires if steps > n_wires // 2 else steps

    block = sorted(inner - set(read), key=offset)
    return [*read, *block, *sorted(set(cone.wires) - inner, key=offset)]


def _readout(circuit: HeadCircuit, part: _Part, read: list[int]) -> NDArray[np.float64]:
    """Return the part's outputs over the basis states of the wires `read`."""
    register = circuit.register(part.task)
    states = np.arange(1 << len(read))
    bits = {wire: states >> (len(read) - 1 - i) & 1 for i, wire in enumerate(read)}
    strings = z_strings_of(circuit, part.task)
    if strings is None:
        n = spanned_wires(circuit, part.task)
        matrix = np.array(register.readout.matrix(n), dtype=np.float64)
        zero = np.zeros_like(states)
        columns = sum(bits.get(w, zero) << (n - 1 - i) for i, w in enumerate(register.wires[:n]))
        return matrix[list(part.outputs)][:, columns]
    rows = [sum(bits[register.wires[i]] for i in strings[j]) % 2 for j in part.outputs]
    return 1.0 - 2.0 * np.array(rows)


def _sorted_into_layers(
    gates: Sequence[Gate], local: dict[int, int]
) -> tuple[tuple[Layer, ...], list[int]]:
    """Sort gates into layers: one-wire gates at even levels, diagonal gates at odd levels.

    A CNOT becomes a CZ between two Hadamards. So each layer of diagonal gates is one vector of
    phases. The second result is the index of the gate of each slot.
    """
    level = dict.fromkeys(local, 0)
    levels: dict[int, list[tuple[int, Gate]]] = {}
    for number, gate in _without_cnots(gates):
        parity = 1 if gate.is_diagonal else 0
        place = max(level[w] + (level[w] % 2 != parity) for w in gate.wires)
        levels.setdefault(place, []).append((number, gate))
        for w in gate.wires:
            level[w] = place
    layers: list[Layer] = []
    slots: list[int] = []
    for place in sorted(levels):
        ops = []
        # Gates of a layer on different wires commute, and a fixed order lets equal cones compare
        # equal.
        for number, gate in sorted(levels[place], key=lambda item: _sort_key(item[1], local)):
            wires = tuple(local[w] for w in gate.wires)
            wires = tuple(sorted(wires)) if gate.is_diagonal else wires
            ops.append(Op(gate.name, wires, None if gate.angle is None else len(slots)))
            if gate.angle is not None:
                slots.append(number)
        layers.append(Layer(diagonal=place % 2 == 1, ops=tuple(ops)))
    return tuple(layers), slots


def _without_cnots(gates: Iterable[Gate]) -> Iterator[tuple[int, Gate]]:
    for number, gate in enumerate(gates):
        if gate.name == "CNOT":
            flip = Gate("Hadamard", (gate.wires[1],))
            yield from ((number, flip), (number, Gate("CZ", gate.wires)), (number, flip))
        else:
            yield number, gate


def _sort_key(gate: Gate, local: dict[int, int]) -> tuple[object, ...]:
    wires = tuple(sorted(local[w] for w in gate.wires))
    # One-wire gates on one wire do not commute: the sort is stable and must ignore their names.
    return (wires, gate.name) if gate.is_diagonal else (wires,)


class WireTable(NamedTuple):
    """An encoding's gates along each wire.

    Attributes:
        at: indices of the gates on each wire, in order, shape (wires, most gates); padded with -1.
        wire: first wire of each gate.
        rank: index of the gate among the gates of this wire.
        kind: one number per wire, equal for wires with the same gates and neighbours at the same
            distances.
        angles: columns of the gates' angles.
    """

    at: IntArray
    wire: IntArray
    rank: IntArray
    kind: IntArray
    angles: Columns

    def moved(self, gates: Sequence[int], shifts: IntArray) -> IntArray:
        """Return the corresponding gates on shifted wires, shape (shifts, gates)."""
        chosen = np.array(gates, np.int64)
        wires = (self.wire[chosen] + shifts[:, None]) % len(self.at)
        found: IntArray = self.at[wires, self.rank[chosen]]
        return found

    def equal_around(
        self,
        keys: Sequence[object],
        starts: Sequence[int],
        walk: Callable[[int], tuple[T, IntArray]],
    ) -> Iterator[tuple[T, IntArray, IntArray]]:
        """Find walks that are equal up to a shift along the wires.

        A backward walk depends only on the gates of the wires that it meets. So two walks are equal
        if these wires, counted from each walk's start, have the same gates.

        Args:
            keys: a key for each walk; equal walks must also have equal keys.
            starts: for each walk, the wire where it starts.
            walk: computes the result of one walk, and the wires that it meets.

        Yields:
            The result of a walk, the indices of the walks with the same result, and their shifts in
            wires.
        """
        n, alike = len(self.kind), dict[object, list[int]]()
        for i, key in enumerate(keys):
            alike.setdefault(key, []).append(i)
        for places in alike.values():
            left, first = np.array(places), np.array([starts[i] for i in places])
            while len(left):
                found, wires = walk(int(left[0]))
                shifts = first - first[0]
                there = (wires + shifts[:, None]) % n
                same = (self.kind[there] == self.kind[wires]).all(axis=1)
                yield found, left[same], shifts[same]
                left, first = left[~same], first[~same]


NO_ANGLE = Angle()


@lru_cache(maxsize=4)
def wire_table(circuit: HeadCircuit) -> WireTable:
    """Return the table of a circuit's encoding."""
    return gate_table(circuit.encoding_gates, circuit.n_wires)


def gate_table(
    gates: Sequence[Any], n: int, owners: Mapping[str, slice] | None = None
) -> WireTable:
    """Return the table of gates, or of other items with a name, wires and angle, on `n` wires."""
    codes: dict[str, int] = {}
    code = np.array([codes.setdefault(g.name, len(codes)) for g in gates], np.int64)
    first = np.array([g.wires[0] for g in gates], np.int64)
    last = np.array([g.wires[-1] for g in gates], np.int64)
    angles = angle_columns([g.angle or NO_ANGLE for g in gates], owners)
    looks = (angles.features >= 0).sum(axis=1) * 2 + (angles.weights >= 0)
    both = np.flatnonzero(first != last)
    wire = np.concatenate([first, last[both]])
    place = np.concatenate([np.arange(len(gates)), both])
    other = np.concatenate([last, first[both]])
    role = np.concatenate([np.zeros(len(gates), np.int64), np.ones(len(both), np.int64)])
    order = np.lexsort((place, wire))
    wire, place, other, role = wire[order], place[order], other[order], role[order]
    counts = np.bincount(wire, minlength=n)
    rank = np.arange(len(wire)) - np.repeat(np.cumsum(counts) - counts, counts)
    seen = np.full((n, max(1, int(counts.max(initial=0)))), -1, np.int64)
    at = seen.copy()
    at[wire, rank] = place
    size = int(looks.max(initial=0)) + 1
    seen[wire, rank] = ((code[place] * 2 + role) * n + (other - wire) % n) * size + looks[place]
    kind = np.unique(seen, axis=0, return_inverse=True)[1].ravel()
    rank_of = np.empty(len(gates), np.int64)
    rank_of[place[role == 0]] = rank[role == 0]
    return WireTable(at, first, rank_of, kind, angles)


class Moved(NamedTuple):
    """Tasks with the same cones, up to a shift along the wires.

    Attributes:
        cones: cones of the first task.
        tasks: indices of the tasks among the requested ones.
        shifts: number of wires by which each task's cones are shifted.
    """

    cones: list[Cone]
    tasks: IntArray
    shifts: IntArray


def moved_tasks(circuit: HeadCircuit, tasks: Sequence[str]) -> Iterator[Moved]:
    """Group the tasks that have equal cones."""
    if circuit.layout == "shared":
        for i, task in enumerate(tasks):
            yield Moved(cones_of(circuit, task, tasks), np.array([i]), np.zeros(1, np.int64))
        return

    def walk(i: int) -> tuple[list[Cone], IntArray]:
        cones = cones_of(circuit, tasks[i])
        return cones, np.unique(np.concatenate([np.array(cone.wires) for cone in cones]))

    registers = [circuit.registers[task] for task in tasks]
    keys = [(circuit.ansatz(r.task.name), len(r.wires), r.readout) for r in registers]
    starts = [register.wires[0] for register in registers]
    yield from (Moved(*found) for found in wire_table(circuit).equal_around(keys, starts, walk))
