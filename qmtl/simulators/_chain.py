"""Chains: exact outputs where two-wire gates join neighbours only, linear in the number of wires.

The light cones of a ``cnot_line`` or ``cnot_ring`` encoding are the whole chain, but every layer
adds only one bond of dimension 2 between neighbours: the encoded state is a matrix product state
with one site per wire. A register's reduced density matrix is its own sites between a left and a
right environment; products of transfer matrices over a balanced tree give the environments of all
registers at once. Everything is real: operators are expanded in Pauli matrices.

Entries of a transfer matrix of any length are overlaps of states of norm at most one, so that
nothing overflows or needs to be normalised, however long the chain is.

References:
    Schollwöck, The density-matrix renormalization group in the age of matrix product states,
    arXiv:1008.3477; operators in the Pauli basis: Greenbaum, arXiv:1509.02921.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.circuit import Angle, Gate, HeadCircuit, backward_cone
from qmtl.errors import InvalidInputError
from qmtl.simulators._angles import AngleRows, TableBuilder, angle_columns
from qmtl.simulators._cones import wire_table
from qmtl.simulators._network import ChunkedEngine
from qmtl.simulators._pauli import task_strings
from qmtl.simulators._pauli._strings import written
from qmtl.simulators._plan import output_columns
from qmtl.simulators._transfer import applied, half_of_gate

__all__ = ["ChainEngine", "chain_applies", "chained_tasks"]

# Samples run in chunks whose intermediate results take about so many bytes.
CHUNK_BYTES = 2**29
# Bonds of an edge: four make environments of 256 x 256 numbers per register and sample.
MAX_BONDS = 4
# Wires whose joint density matrix is made: 4^8 numbers per register and sample.
MAX_BLOCK_WIRES = 8
# Cones of fewer wires are not worth the question.
LONG_CHAIN = 9
# A CNOT or CZ is a projector on its first wire and a Pauli on its second, joined by a bond.
HALVES = {"CNOT": ("control", "X"), "CZ": ("control", "Z")}
LEFT, RIGHT, NEITHER = 0, 1, -1

IntArray = NDArray[np.int64]


class _SiteStep(NamedTuple):
    """A one-wire gate, or half of a two-wire gate with a bond to a neighbour.

    Attributes:
        name: a gate's name; or ``"control"``, ``"X"`` or ``"Z"``.
        side: where half a gate's bond goes.
        looks: for a rotation how many features its angle has.
    """

    name: str
    side: int = NEITHER
    looks: int | None = None


@dataclass(frozen=True)
class _Part:
    """Outputs of a task that are read together.

    Attributes:
        outputs: which of a task's outputs.
        wires: positions in the register that they depend on after the encoding.
        gates: of the block that matter, on positions within `wires`.
        readout: coefficients of the observables over Pauli strings, shape (n_outputs, 4, …, 4).
    """

    outputs: tuple[int, ...]
    wires: tuple[int, ...]
    gates: tuple[Gate, ...]
    readout: NDArray[np.float64]

    @property
    def angles(self) -> list[Angle]:
        """Of the gates."""
        return [gate.angle for gate in self.gates if gate.angle is not None]


class _Sites(NamedTuple):
    """Wires with the same gates.

    Attributes:
        steps: the gates, in the order of application.
        wires: where.
        angles: a row per wire.
    """

    steps: tuple[_SiteStep, ...]
    wires: IntArray
    angles: AngleRows


class _Readers(NamedTuple):
    """Tasks whose registers have the same gates, and the same is read of them.

    Attributes:
        registers: their places along the chain.
        sites: for each wire of the register, the index of its `_Sites`.
        places: and for each task the place there, shape (tasks, wires).
        parts: what is read.
        angles: of each part's block, a row per task.
        columns: of each part's outputs in what the engine returns, shape (tasks, outputs).
    """

    registers: IntArray
    sites: tuple[int, ...]
    places: IntArray
    parts: tuple[_Part, ...]
    angles: list[AngleRows]
    columns: list[IntArray]


def chain_applies(circuit: HeadCircuit, task: str) -> bool:
    """Whether `ChainEngine` can compute a task's outputs.

    It can in the partitioned layout, for an encoding of one-wire gates, CNOT and CZ, the latter
    between neighbours on a line or ring and at most four on each pair, if no output depends on
    more than eight wires of the register through the task's block.

    Example:
        >>> from qmtl import AngleEncoding, Task
        >>> circuit = HeadCircuit([Task.binary("a")], AngleEncoding(entangler="cnot_ring"))
        >>> chain_applies(circuit, "a")
        True
    """
    return _bonds(circuit) is not None and bool(_parts(circuit, task))


def chained_tasks(circuit: HeadCircuit, tasks: Sequence[str]) -> tuple[str, ...]:
    """Tasks to run as a chain, if that takes fewer operations than their cones.

    Example:
        >>> from qmtl import AngleEncoding, Task
        >>> tasks = [Task.binary(f"t{i}") for i in range(6)]
        >>> ring = HeadCircuit(tasks, AngleEncoding(entangler="cnot_ring"))
        >>> len(chained_tasks(ring, ["t0", "t5"])), chained_tasks(HeadCircuit(tasks), ["t0"])
        (2, ())
    """
    # Cones along a chain grow with the wires; a few tell, and all of them would take long to find.
    some = {*tasks[:1], *tasks[len(tasks) // 2 :][:1], *tasks[-1:]}
    cones = [circuit.light_cone(task) for task in some]
    if max((len(cone.wires) for cone in cones), default=0) < LONG_CHAIN:
        return ()
    bonds = _bonds(circuit)
    if bonds is None:
        return ()
    parts = _all_parts(circuit, tasks)
    chained = tuple(task for task in tasks if parts[task])
    amplitudes = sum(28 * len(cone.gates) << len(cone.wires) for cone in cones) // len(cones)
    widths = _Widths(4 ** max(bonds), 4 ** bonds[-1])
    sizes = [len(register.wires) for register in circuit.registers.values()]
    operations = 6 * widths.sizes(sizes, [(len(circuit.registers[task].wires), parts[task] or ())
                                          for task in chained])[1]  # fmt: skip
    return chained if operations < len(chained) * amplitudes else ()


class ChainEngine(ChunkedEngine):
    """Outputs of tasks along a chain, all of them together.

    Args:
        circuit: a circuit to whose tasks `chain_applies`.
        tasks: all tasks of the plan.
        chained: those to compute.
        builder: collects the angles; finish it before the engine runs.

    Raises:
        InvalidInputError: if the circuit is no such chain, or a task's block is too wide.
    """

    def __init__(
        self,
        circuit: HeadCircuit,
        tasks: Sequence[str],
        chained: Sequence[str],
        builder: TableBuilder,
    ) -> None:
        bonds = _bonds(circuit)
        if bonds is None:
            raise InvalidInputError(
                f"a chain needs the partitioned layout and an encoding of one-wire gates and at "
                f"most {MAX_BONDS} CNOT or CZ per pair of neighbours, got {circuit!r}"
            )
        parts = _all_parts(circuit, chained)
        for task in chained:
            if not parts[task]:
                raise InvalidInputError(
                    f"task {task!r}: outputs depend on more than {MAX_BLOCK_WIRES} wires of its "
                    f"register together, more than a chain's density matrices can have"
                )
        first = dict(zip(tasks, output_columns(circuit, tasks).tolist(), strict=False))
        own = [first[t] + np.arange(circuit.registers[t].readout.n_outputs) for t in chained]
        columns = np.concatenate(own) if own else np.zeros(0, np.int64)
        super().__init__(columns[None], CHUNK_BYTES)
        self.name = f"matrix products with bonds of {2 ** (max(bonds) + bonds[-1])}"  # type: ignore[misc]
        self._widths = _Widths(4 ** max(bonds), 4 ** bonds[-1])
        self._sizes = np.array([len(r.wires) for r in circuit.registers.values()])
        self._sites = _sites(circuit, builder)
        self._readers = _readers(circuit, chained, parts, self._sites, builder)
        read = [(len(circuit.registers[task].wires), parts[task] or ()) for task in chained]
        self._numbers, self._products = self._widths.sizes(self._sizes.tolist(), read)
        # Observables take their place whatever the samples.
        self._constant = 3 * sum(part.readout.size for _, own in read for part in own)

    def lane_bytes(self, itemsize: int) -> int:
        """What a sample keeps in a training step."""
        return self._numbers * itemsize

    def step_bytes(self, samples: int, itemsize: int) -> int:
        """Estimated bytes of a training step."""
        return super().step_bytes(samples, itemsize) + self._constant * itemsize

    def step_operations(self, samples: int) -> int:
        """Estimated floating-point operations of a training step."""
        return 6 * samples * self._products

    def values_of(self, sampled: Tensor, fixed: Tensor, members: slice) -> Tensor:
        """Outputs, shape (1, outputs, batch)."""
        width = self._widths.edge
        sites = [_Site.of(own, sampled, fixed, width) for own in self._sites]
        transfers = self._along([site.transfer() for site in sites])
        left, right = _environments(transfers, self._widths)
        found = [sampled.new_zeros(0, sampled.shape[1])]
        columns = [np.zeros(0, np.int64)]
        for own in self._readers:
            place = _index(own.registers, sampled)
            around = left[place], right[place]
            chosen = [
                sites[group].at(_index(own.places[:, i], sampled))
                for i, group in enumerate(own.sites)
            ]
            for part, angles, to in zip(own.parts, own.angles, own.columns, strict=True):
                density = _density(*around, chosen, part.wires)
                observables = _observables(part, _by_slot(angles, sampled, fixed), sampled)
                values = torch.einsum("nosp,nps->nos", observables, density)
                found.append(values.flatten(0, 1))
                columns.append(to.ravel())
        order = _index(np.concatenate(columns).argsort(), sampled)
        return torch.cat(found)[order][None]

    def _along(self, transfers: Sequence[Tensor]) -> Tensor:
        """The registers' transfer matrices, from those of the wires."""
        joined = torch.cat(tuple(transfers))
        place = np.concatenate([own.wires for own in self._sites]).argsort()
        sizes = self._sizes
        starts = np.cumsum(sizes) - sizes
        parts, registers = [], []
        for size in np.unique(sizes).tolist():
            own = np.flatnonzero(sizes == size)
            product = joined[_index(place[starts[own]], joined)]
            for i in range(1, size):
                product = product @ joined[_index(place[starts[own] + i], joined)]
            parts.append(product)
            registers.append(own)
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts)[_index(np.concatenate(registers).argsort(), joined)]


class _Widths(NamedTuple):
    """Sizes of a chain's bonds: of an edge, and of the one that closes a ring (1 on a line)."""

    edge: int
    closing: int

    def sizes(
        self, registers: Iterable[int], read: Iterable[tuple[int, Sequence[_Part]]]
    ) -> tuple[int, int]:
        """Numbers that a step keeps, and multiplications of its forward pass, per sample.

        Args:
            registers: wires of each register.
            read: of each task its register's wires, and what is read.
        """
        width, rows = self
        square, n, wires = width**2, 0, 0
        for size in registers:
            n, wires = n + 1, wires + size
        # Sites are made, then their transfer matrices; their products over the tree; gradients.
        numbers = wires * 4 * square + n * (4 * square + 4 * rows * width)
        products = wires * (4 * square + width * square) + 2 * n * rows * square
        for size, parts in read:
            for part in parts:
                left, strings = 4 ** (len(part.wires) // 2), 4 ** len(part.wires)
                # On a ring the sites of the right half are written out, on a line never.
                right = 5 * square if rows > 1 else rows * width
                numbers += 7 * left * rows * width + strings // left * right + 2 * strings
                products += size * left * rows * square + strings * rows * width
                products += strings * len(part.outputs)
        return numbers, products


def _index(places: IntArray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(places)).to(like.device)


# --- the plan ----------------------------------------------------------------------------------


def _bonds(circuit: HeadCircuit) -> tuple[int, ...] | None:
    """How many two-wire gates there are on each edge, the one that closes the ring last.

    None if the encoding is no chain.
    """
    if circuit.layout != "partitioned" and len(circuit.tasks) > 1:
        return None
    wires = [wire for register in circuit.registers.values() for wire in register.wires]
    if wires != list(range(circuit.n_wires)):
        return None
    counts = [0] * circuit.n_wires
    for gate in circuit.encoding_gates:
        if len(gate.wires) == 2:
            edge = _edge(gate, circuit.n_wires)
            if edge is None or gate.name not in HALVES:
                return None
            counts[edge] += 1
    return tuple(counts) if max(counts) <= MAX_BONDS else None


def _edge(gate: Gate, n_wires: int) -> int | None:
    """The edge's first wire; None for wires that are no neighbours. Two wires have one edge."""
    low, high = sorted(gate.wires)
    if high == low + 1:
        return low
    return high if (low, high) == (0, n_wires - 1) else None


def _sites(circuit: HeadCircuit, builder: TableBuilder) -> list[_Sites]:
    """The wires, those with equal gates together."""
    steps: list[list[_SiteStep]] = [[] for _ in range(circuit.n_wires)]
    rotations: list[list[int]] = [[] for _ in range(circuit.n_wires)]
    for place, gate in enumerate(circuit.encoding_gates):
        if len(gate.wires) == 2:
            edge = _edge(gate, circuit.n_wires)
            for wire, half in zip(gate.wires, HALVES[gate.name], strict=True):
                steps[wire].append(_SiteStep(half, RIGHT if wire == edge else LEFT))
            continue
        looks = None if gate.angle is None else len(gate.angle.features)
        steps[gate.wires[0]].append(_SiteStep(gate.name, looks=looks))
        if gate.angle is not None:
            rotations[gate.wires[0]].append(place)
    alike: dict[tuple[_SiteStep, ...], list[int]] = {}
    for wire, own in enumerate(steps):
        alike.setdefault(tuple(own), []).append(wire)
    table, found = wire_table(circuit), []
    for key, wires in alike.items():
        gates = np.array([rotations[wire] for wire in wires], np.int64).reshape(len(wires), -1)
        rows = builder.add(table.features[gates], table.weights[gates], table.constants[gates])
        found.append(_Sites(key, np.array(wires), rows))
    return found


def _all_parts(circuit: HeadCircuit, tasks: Iterable[str]) -> dict[str, tuple[_Part, ...] | None]:
    """What each task reads; None where that is too wide."""
    found: dict[str, tuple[_Part, ...] | None] = {}
    known: dict[object, tuple[_Part, ...] | None] = {}
    for task in tasks:
        register = circuit.register(task)
        key = (circuit.ansatz(task), register.readout, len(register.wires))
        if key not in known:
            known[key] = _parts(circuit, task)
        found[task] = known[key]
    return found


def _parts(circuit: HeadCircuit, task: str) -> tuple[_Part, ...] | None:
    """A task's outputs together, or apart where that takes fewer Pauli strings.

    Fourteen labels on fourteen wires are fourteen density matrices of a few wires each.
    """
    register = circuit.register(task)
    size, first = len(register.wires), register.wires[0]
    masks, mixing = task_strings(circuit, task)
    matrix = np.eye(len(masks)) if mixing is None else np.array(mixing)
    block = circuit.block_gates(task)

    def part(outputs: Sequence[int], read: Iterable[int]) -> _Part | None:
        cone = backward_cone((), block, [first + i for i in read])
        wires = tuple(wire - first for wire in cone.wires)
        if len(wires) > MAX_BLOCK_WIRES:
            return None
        local = {wire: i for i, wire in enumerate(cone.wires)}
        gates = [Gate(g.name, tuple(local[w] for w in g.wires), g.angle) for g in cone.block]
        return _Part(tuple(outputs), wires, tuple(gates), readout(outputs, wires))

    def readout(outputs: Sequence[int], wires: Sequence[int]) -> NDArray[np.float64]:
        full = np.zeros((len(outputs), 4 ** len(wires)))
        for mask, column in zip(masks, matrix[list(outputs)].T, strict=True):
            if not mask & ~sum(1 << wire for wire in wires):
                full[:, written(tuple(wires), (0, mask))] = column
        return full.reshape(-1, *[4] * len(wires))

    n_outputs = register.readout.n_outputs
    together = part(range(n_outputs), register.readout.read_wires(size))
    read = [] if mixing else [[i for i in range(size) if mask >> i & 1] for mask in masks]
    singles = [part([j], wires) for j, wires in enumerate(read)]
    apart = tuple(one for one in singles if one is not None)
    if len(apart) == len(singles) > 0 and (
        together is None or sum(4 ** len(p.wires) for p in apart) < 4 ** len(together.wires)
    ):
        return apart
    return None if together is None else (together,)


def _readers(
    circuit: HeadCircuit,
    tasks: Sequence[str],
    parts: dict[str, tuple[_Part, ...] | None],
    sites: Sequence[_Sites],
    builder: TableBuilder,
) -> list[_Readers]:
    """The tasks, those with equal registers and parts together."""
    group, place = np.zeros(circuit.n_wires, np.int64), np.zeros(circuit.n_wires, np.int64)
    for i, own in enumerate(sites):
        group[own.wires], place[own.wires] = i, np.arange(len(own.wires))
    register = {name: i for i, name in enumerate(circuit.registers)}
    first = dict(zip(tasks, output_columns(circuit, tasks).tolist(), strict=False))
    alike: dict[tuple[object, ...], list[str]] = {}
    for task in tasks:
        wires = list(circuit.registers[task].wires)
        # Equal parts are one object.
        alike.setdefault((id(parts[task]), tuple(group[wires].tolist())), []).append(task)
    found = []
    for names in alike.values():
        read = parts[names[0]] or ()
        registers = [list(circuit.registers[task].wires) for task in names]
        starts = np.array([circuit.weight_slices[task].start for task in names])
        columns = np.array([first[task] for task in names])
        angles = []
        for part in read:
            features, weights, constants = angle_columns(part.angles)
            n = len(names)
            weights = np.where(weights >= 0, weights + starts[:, None], -1)
            features = np.broadcast_to(features, (n, *features.shape))
            angles.append(builder.add(features, weights, np.tile(constants, (n, 1))))
        found.append(
            _Readers(
                np.array([register[task] for task in names]),
                tuple(group[registers[0]].tolist()),
                place[np.array(registers)],
                read,
                angles,
                [columns[:, None] + np.array(part.outputs) for part in read],
            )
        )
    return found


# --- tensors -----------------------------------------------------------------------------------


def _by_slot(rows: AngleRows, sampled: Tensor, fixed: Tensor) -> list[Tensor]:
    """The angle of each slot, shape (places, samples or 1)."""
    assert rows.rows is not None
    return [
        sampled[_index(own, sampled)] if moving else fixed[_index(own, fixed)][:, None]
        for moving, own in zip(rows.is_sampled, rows.rows.T, strict=True)
    ]


class _Site(NamedTuple):
    """Sites of equal structure, what a wire's gates do between its left and its right bonds.

    Bonds are flattened with the last gate's first. Where an edge has fewer bonds than others its
    first indices are used, and the others are zero. A site's last gates, the halves of the last
    layer's two-wire gates, depend on no angle. They are kept apart, so that a site is
    4^(L-1) x 4^(L-1) x 4 numbers per sample and not 16 times as many.

    Attributes:
        early: gates up to the last that has an angle, shape (places, samples, left, right, 4).
        late: gates after it, shape (4 new Paulis, left, right, 4 old Paulis).
        width: size of an edge.
    """

    early: Tensor
    late: Tensor
    width: int

    @classmethod
    def of(cls, sites: _Sites, sampled: Tensor, fixed: Tensor, width: int) -> "_Site":
        """The tensor of these wires."""
        late = list(takewhile(lambda step: step.side >= 0, reversed(sites.steps)))[::-1]
        early = sites.steps[: len(sites.steps) - len(late)]
        n, samples = len(sites.wires), sampled.shape[1]
        zero = sampled.new_tensor([1.0, 0.0, 0.0, 1.0])[:, None, None]
        values, left, right = _run(zero, early, _by_slot(sites.angles, sampled, fixed))
        values = values.expand(*values.shape[:-2], n, samples).permute(-2, -1, *left, *right, 0)
        values = values.reshape(n, samples, 4 ** len(left), 4 ** len(right), 4)
        identity = torch.eye(4, dtype=sampled.dtype, device=sampled.device)[:, None, :]
        constant, left, right = _run(identity, late, ())
        constant = constant.permute(0, *left, *right, -1, -2)
        return cls(values, constant.reshape(4, 4 ** len(left), 4 ** len(right), 4), width)

    def at(self, places: Tensor) -> "_Site":
        """Some of the sites."""
        return self._replace(early=self.early[places])

    def transfer(self) -> Tensor:
        """The sites if nobody looks at them, shape (places, samples, width, width)."""
        return self._joined(1)[..., 0, :]

    def after(self, left: Tensor, *, read: bool) -> Tensor:
        """What is left of the site's right bonds, its Paulis last among the strings.

        Args:
            left: what is left of the site, shape (places, samples, rows, strings, width).
            read: whether the site's Paulis are kept; if not, the site is traced out.
        """
        edge = left[..., : self.late.shape[1] * self.early.shape[2]]
        edge = edge.unflatten(-1, (self.late.shape[1], self.early.shape[2]))
        # n, b: places, samples; s: rows and strings; l, r: early bonds; t, v: late bonds.
        found = torch.einsum("nbstl,nblrp->nbstrp", edge.flatten(2, 3), self.early)
        found = torch.einsum("nbstrp,utvp->nbsuvr", found, self.late[: 4 if read else 1])
        found = found.flatten(-2).unflatten(2, left.shape[2:4]).flatten(3, 4)
        return self._padded(found, 4)

    def before(self, right: Tensor | None, *, read: bool) -> Tensor:
        """What is right of the site's left bonds, its Paulis first among the strings.

        Args:
            right: what is right of the site, shape (places, samples, width, strings, rows);
                None for the identity.
            read: whether the site's Paulis are kept.
        """
        paulis = 4 if read else 1
        if right is None:
            return self._joined(paulis)
        edge = right[:, :, : self.late.shape[2] * self.early.shape[3]].flatten(3, 4)
        edge = edge.unflatten(2, (self.late.shape[2], self.early.shape[3]))
        found = torch.einsum("nblrp,nbvrs->nblpvs", self.early, edge)
        found = torch.einsum("nblpvs,utvp->nbtlus", found, self.late[:paulis])
        found = found.flatten(2, 3).unflatten(-1, right.shape[3:]).flatten(3, 4)
        return self._padded(found, 2)

    def _joined(self, paulis: int) -> Tensor:
        """The first `paulis` Paulis, shape (places, samples, width, paulis, width)."""
        kept = self.late[:paulis]
        joined = self.early @ kept.reshape(-1, 4).T
        joined = joined.unflatten(-1, kept.shape[:3]).permute(0, 1, 5, 2, 4, 6, 3)
        joined = joined.flatten(5, 6).flatten(2, 3)
        return self._padded(self._padded(joined, -1), 2)

    def _padded(self, values: Tensor, axis: int) -> Tensor:
        missing = self.width - values.shape[axis]
        if not missing:
            return values
        behind = (values.ndim - 1 - axis) % values.ndim
        return torch.nn.functional.pad(values, (0, 0) * behind + (0, missing))


def _run(
    values: Tensor, steps: Sequence[_SiteStep], angles: Sequence[Tensor]
) -> tuple[Tensor, list[int], list[int]]:
    """Gates on Paulis, the first axis of `values`; also the axes of the left and right bonds.

    A bond's axis is put behind the Paulis, so that no numbers are moved: late bonds come first.
    """
    sides: list[int] = []
    rest = iter(angles)
    for step in steps:
        if step.side == NEITHER:
            values = applied(values, step.name, [0], None if step.looks is None else next(rest))
        else:
            half = torch.from_numpy(half_of_gate(step.name)).to(values)
            values = (half.reshape(16, 4) @ values.flatten(1)).reshape(4, 4, *values.shape[1:])
            sides.insert(0, step.side)
    left, right = ([i + 1 for i, s in enumerate(sides) if s == side] for side in (LEFT, RIGHT))
    return values, left, right


def _environments(transfers: Tensor, widths: _Widths) -> tuple[Tensor, Tensor]:
    """What is left and right of every register.

    Args:
        transfers: of the registers along the chain, shape (registers, samples, width, width).
        widths: the closing edge's bonds are the rows of what is left of a register and the columns
            of what is right of it.
    """
    levels = [transfers]
    while len(levels[-1]) > 1:
        last = levels[-1]
        even = len(last) - len(last) % 2
        levels.append(torch.cat([last[0:even:2] @ last[1:even:2], last[even:]]))
    samples, (width, closing) = transfers.shape[1], widths
    edge = torch.eye(closing, width, dtype=transfers.dtype, device=transfers.device)
    left = edge.expand(1, samples, closing, width)
    right = edge.T.expand(1, samples, width, closing)
    for level in reversed(levels[:-1]):
        pairs, even = len(level) // 2, len(level) - len(level) % 2
        after = torch.stack([left[:pairs], left[:pairs] @ level[0:even:2]], 1).flatten(0, 1)
        before = torch.stack([level[1:even:2] @ right[:pairs], right[:pairs]], 1).flatten(0, 1)
        left, right = torch.cat([after, left[pairs:]]), torch.cat([before, right[pairs:]])
    return left, right


def _density(left: Tensor, right: Tensor, sites: Sequence[_Site], wires: Sequence[int]) -> Tensor:
    """Reduced density matrices of `wires`, shape (registers, 4^wires Pauli strings, samples)."""
    middle = wires[len(wires) // 2]
    closed = left.shape[2] > 1
    # On a ring both environments are matrices: joined, they are needed on one side only.
    first = (right @ left if closed else left)[..., None, :]
    for place in range(middle):
        first = sites[place].after(first, read=place in wires)
    last = None if closed else right[..., None, :]
    for place in reversed(range(middle, len(sites))):
        last = sites[place].before(last, read=place in wires)
    assert last is not None
    first = first.transpose(2, 3).flatten(3, 4)
    last = last.permute(0, 1, 4, 2, 3).flatten(2, 3)
    return (first @ last).flatten(2, 3).transpose(1, 2)


def _observables(part: _Part, angles: Sequence[Tensor], like: Tensor) -> Tensor:
    """The readout taken back through the block: (registers, outputs, samples or 1, strings)."""
    # Wires first; then outputs, registers and samples.
    values = torch.from_numpy(part.readout).to(like).movedim(0, -1)[..., None, None]
    rest = iter(reversed(angles))
    for gate in reversed(part.gates):
        angle = None if gate.angle is None else next(rest)
        values = applied(values, gate.name, gate.wires, angle, backwards=True)
    return values.flatten(0, len(part.wires) - 1).permute(2, 1, 3, 0)
