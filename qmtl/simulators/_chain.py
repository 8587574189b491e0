"""Chains: exact outputs if two-wire gates join neighbours only, at a cost linear in the wires.

Each light cone of a ``cnot_line`` or ``cnot_ring`` encoding is the whole chain. But every layer
adds only one bond of dimension 2 between neighbours: the encoded state is a matrix product state
with one site per wire. The reduced density matrix of some wires consists of their sites between a
left and a right environment. Products of transfer matrices over a balanced tree give the
environments of all wires at once. Operators are expanded in Pauli matrices, so that all numbers are
real.

Entries of a transfer matrix are overlaps of states of norm at most one. So chains of any length
need no normalisation and do not overflow.

References:
    Schollwöck, The density-matrix renormalization group in the age of matrix product states,
    arXiv:1008.3477; operators in the Pauli basis: Greenbaum, arXiv:1509.02921.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from qmtl.circuit import Gate, HeadCircuit, backward_cone, task_strings
from qmtl.errors import InvalidInputError
from qmtl.simulators._angles import AngleRows, TableBuilder, angle_columns
from qmtl.simulators._cones import wire_table
from qmtl.simulators._engine import Engine
from qmtl.simulators._pauli._strings import written
from qmtl.simulators._plan import output_columns
from qmtl.simulators._transfer import applied, half_of_gate

# Samples run in chunks whose intermediate results take about this many bytes.
CHUNK_BYTES = 2**29
# Most two-qubit gates between neighbouring wires: each is a bond of dimension 4, so that four make
# environments of 256 x 256 numbers per wire and sample.
MAX_BONDS = 4
# Most wires of one density matrix: 4^8 numbers per register and sample.
MAX_BLOCK_WIRES = 8
# Only cones of at least this many wires are compared with a chain.
LONG_CHAIN = 9
# A CNOT or CZ is a projector on its first wire and a Pauli on its second; a bond joins them.
HALVES = {"CNOT": ("control", "X"), "CZ": ("control", "Z")}

IntArray = NDArray[np.int64]


class _Part(NamedTuple):
    """Outputs of a task that follow from one density matrix of some register positions.

    Gates of the block act on indices into `wires`. The readout holds the observables' coefficients
    over Pauli strings, shape (n_outputs, 4, …, 4).
    """

    outputs: tuple[int, ...]
    wires: tuple[int, ...]
    gates: list[Gate]
    readout: NDArray[np.float64]


# Tasks with equal blocks and readouts, and the parts of their outputs (empty if one is too wide).
_Read = list[tuple[list[str], list[_Part]]]


def chained_tasks(circuit: HeadCircuit, tasks: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks for which a chain takes fewer operations than cones."""
    # Finding all cones would take long, because cones along a chain are long; a few suffice to
    # decide.
    some = {*tasks[:1], *tasks[len(tasks) // 2 :][:1], *tasks[-1:]}
    cones = [circuit.light_cone(task) for task in some]
    if max((len(cone.wires) for cone in cones), default=0) < LONG_CHAIN:
        return ()
    bonds = _bonds(circuit)
    if bonds is None:
        return ()
    read = _read(circuit, tasks)
    can = {name for names, parts in read if parts for name in names}
    amplitudes = sum(28 * len(cone.gates) << len(cone.wires) for cone in cones) // len(cones)
    operations = 6 * _cost(bonds, read)[1]
    return (
        tuple(task for task in tasks if task in can) if operations < len(can) * amplitudes else ()
    )


class ChainEngine(Engine):
    """Computes the outputs of several tasks together along a chain.

    The encoding may have only one-wire gates, and CNOT and CZ between neighbours on a line or ring,
    at most four on each pair. No output may depend on more than eight wires through its block.

    Args:
        circuit: a circuit in the partitioned layout.
        tasks: all tasks of the plan.
        chained: the tasks to compute.
        builder: collects the angles; call its `finish` before the engine runs.

    Raises:
        InvalidInputError: if the circuit is not such a chain, or a task's block is too wide.
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
        read = _read(circuit, chained)
        for names, parts in read:
            if not parts:
                raise InvalidInputError(
                    f"task {names[0]!r}: outputs depend on more than {MAX_BLOCK_WIRES} wires of "
                    f"its register together, more than a chain's density matrices can have"
                )
        self.name = f"matrix products with bonds of {2 ** (max(bonds) + bonds[-1])}"  # type: ignore[misc]
        self._closing = 4 ** max(bonds) if bonds[-1] else 1
        numbers, self._products = _cost(bonds, read)
        # The observables' memory does not depend on the number of samples.
        self._constant = 3 * sum(part.readout.size for _, parts in read for part in parts)
        self._sites, most = _sites(circuit, bonds, builder)
        self._early = 4**most
        self._width = 4 ** (max(bonds) - most)
        # Each part, with one row per task: the register's first wire, and the block's angles.
        self._read: list[tuple[_Part, IntArray, AngleRows]] = []
        column = dict(zip(tasks, output_columns(circuit, tasks).tolist(), strict=False))
        columns = [np.zeros(0, np.int64)]
        for names, parts in read:
            starts = np.array([circuit.weight_slices[task].start for task in names])[:, None]
            first = np.array([circuit.registers[task].wires[0] for task in names])
            for part in parts:
                found = [gate.angle for gate in part.gates if gate.angle is not None]
                block = angle_columns(found).at(None).at(np.zeros(len(names), np.int64))
                self._read.append((part, first, builder.add(block.moved(starts))))
                columns += [column[task] + np.array(part.outputs) for task in names]
        super().__init__(np.concatenate(columns)[None], numbers, CHUNK_BYTES)

    def step_bytes(self, samples: int, itemsize: int) -> int:
        return super().step_bytes(samples, itemsize) + self._constant * itemsize

    def step_operations(self, samples: int) -> int:
        return 6 * samples * self._products

    def torch_values(self, sampled: Tensor, fixed: Tensor, members: slice = slice(None)) -> Tensor:
        samples = sampled.shape[1]
        parts: tuple[list[Tensor], list[Tensor]] = ([], [])
        zero = sampled.new_tensor([1.0, 0.0, 0.0, 1.0])[:, None, None]
        paulis = torch.eye(4, dtype=sampled.dtype, device=sampled.device)[:, None]
        for wires, steps, late_steps, rows in self._sites:
            states, angles = zero.expand(4, len(wires), samples), rows.angles(sampled, fixed)
            parts[0].append(_run(states, steps, angles, self._early))
            own = _run(paulis, late_steps, (), self._width)
            parts[1].append(own.expand(len(wires), *own.shape[1:]))
        order = np.concatenate([wires for wires, *_ in self._sites]).argsort()
        early, late = (_chosen(torch.cat(part), order) for part in parts)
        transfers = torch.einsum("nblpm,nptv->nbtlvm", early, late[:, :, :, 0])
        left, right = _environments(transfers.flatten(4).flatten(2, 3), self._closing)
        found = [sampled.new_zeros(0, samples)]
        for part, first, rows in self._read:
            density = _density(left, right, early, late, first, part.wires)
            observables = _observables(part, rows.angles(sampled, fixed), sampled)
            found.append(torch.einsum("nosp,nsp->nos", observables, density).flatten(0, 1))
        return torch.cat(found)[None]


# --- the plan ----------------------------------------------------------------------------------


def _bonds(circuit: HeadCircuit) -> list[int] | None:
    """Count the two-wire gates on each edge; return None if the encoding is not a chain.

    The edge that closes the ring comes last.
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
    return counts if max(counts) <= MAX_BONDS else None


def _edge(gate: Gate, n_wires: int) -> int | None:
    """Return the first wire of the gate's edge; None if the wires are not neighbours."""
    low, high = sorted(gate.wires)
    if high == low + 1:
        return low
    return high if (low, high) == (0, n_wires - 1) else None


# Half of a two-wire gate, as (side of its bond, half); or a one-wire gate, as (type of its angle,
# name), where the type is "none", "fixed" or "sampled".
_Step = tuple[str, str]


# Wires with equal gates: the wires, the early gates, the late gates, and the angles of the early
# gates (one row per wire). Late gates are the two-wire gates after the last one-wire gate.
_Sites = tuple[IntArray, list[_Step], list[_Step], AngleRows]


def _sites(
    circuit: HeadCircuit, bonds: Sequence[int], builder: TableBuilder
) -> tuple[list[_Sites], int]:
    """Return the sites of all wires, and the largest number of early bonds of an edge."""
    gates, n = circuit.encoding_gates, circuit.n_wires
    last = max((i + 1 for i, gate in enumerate(gates) if len(gate.wires) == 1), default=0)
    counts = np.zeros((2, n), np.int64)
    steps: list[list[tuple[_Step, bool]]] = [[] for _ in range(n)]
    rotations: list[list[int]] = [[] for _ in range(n)]
    for place, gate in enumerate(gates):
        if len(gate.wires) == 2:
            edge, is_late = _edge(gate, n), place >= last
            counts[int(is_late), edge] += 1
            for wire, half in zip(gate.wires, HALVES[gate.name], strict=True):
                steps[wire].append((("right" if wire == edge else "left", half), is_late))
            continue
        kind = "none"
        if gate.angle is not None:
            kind = "sampled" if gate.angle.features else "fixed"
            rotations[gate.wires[0]].append(place)
        steps[gate.wires[0]].append(((kind, gate.name), False))
    # Early and late bonds are padded separately, unless that would make edges wider.
    early, late = int(counts[0].max()), int(counts[1].max())
    splits = early + late <= max(bonds)
    alike: dict[tuple[tuple[_Step, bool], ...], list[int]] = {}
    for wire, own in enumerate(steps):
        alike.setdefault(tuple(own), []).append(wire)
    table, found = wire_table(circuit), []
    for key, wires in alike.items():
        turning = np.array([rotations[wire] for wire in wires], np.int64).reshape(len(wires), -1)
        first = [step for step, is_late in key if not (is_late and splits)]
        last_ones = [step for step, is_late in key if is_late and splits]
        found.append((np.array(wires), first, last_ones, builder.add(table.angles.at(turning))))
    return found, early if splits else max(bonds)


def _read(circuit: HeadCircuit, tasks: Sequence[str]) -> _Read:
    alike: dict[object, list[str]] = {}
    for task in tasks:
        register = circuit.register(task)
        key = (circuit.ansatz(task), register.readout, len(register.wires))
        alike.setdefault(key, []).append(task)
    return [(names, _parts(circuit, names[0])) for names in alike.values()]


def _parts(circuit: HeadCircuit, task: str) -> list[_Part]:
    """Return a task's outputs as one part, or as several if that takes fewer Pauli strings.

    For example, fourteen labels on fourteen wires become fourteen density matrices of a few wires.
    The list is empty if a part is too wide.
    """
    register, block = circuit.register(task), circuit.block_gates(task)
    size, first, n_outputs = len(register.wires), register.wires[0], register.readout.n_outputs
    masks, mixing = task_strings(circuit, task)
    matrix = np.eye(n_outputs) if mixing is None else np.array(mixing)
    choices = [[(tuple(range(n_outputs)), register.readout.read_wires(size))]]
    if mixing is None:
        choices.append(
            [((j,), tuple(i for i in range(size) if m >> i & 1)) for j, m in enumerate(masks)]
        )
    best: list[_Part] = []
    least = np.inf
    for choice in choices:
        cones = [backward_cone((), block, [first + i for i in read]) for _, read in choice]
        widths = [len(cone.wires) for cone in cones]
        strings = sum(4**width for width in widths)
        if max(widths) > MAX_BLOCK_WIRES or strings >= least:
            continue
        best, least = [], strings
        for (outputs, _), cone in zip(choice, cones, strict=True):
            local = {wire: i for i, wire in enumerate(cone.wires)}
            gates = [replace(g, wires=tuple(local[w] for w in g.wires)) for g in cone.block]
            wires = tuple(wire - first for wire in cone.wires)
            readout = np.zeros((len(outputs), 4 ** len(wires)))
            for mask, column in zip(masks, matrix[list(outputs)].T, strict=True):
                if not mask & ~sum(1 << wire for wire in wires):
                    readout[:, written(wires, (0, mask))] = column
            best.append(_Part(outputs, wires, gates, readout.reshape(-1, *[4] * len(wires))))
    return best


def _cost(bonds: Sequence[int], read: _Read) -> tuple[int, int]:
    """Count the numbers that a step keeps and its forward multiplications, per sample."""
    width = 4 ** max(bonds)
    rows = width if bonds[-1] else 1
    square = width**2
    # The sites, their products over a tree, and the left and right environments of each site.
    numbers = len(bonds) * (10 * square + 4 * rows * width)
    products = len(bonds) * (4 * square + width * square + 2 * rows * square)
    for names, parts in read:
        for part in parts:
            n, strings = len(part.wires), 4 ** len(part.wires)
            half = rows * 4 ** (n - n // 2)
            numbers += len(names) * (4 * n * square + 5 * half * width + 2 * strings)
            steps = (part.wires[-1] - part.wires[0] + 1) * half * square
            products += len(names) * (steps + strings * (rows * width + len(part.outputs)))
    return numbers, products


# --- tensors -----------------------------------------------------------------------------------


def _chosen(values: Tensor, places: IntArray) -> Tensor:
    return values.index_select(0, torch.from_numpy(places).to(values.device))


def _run(values: Tensor, steps: Sequence[_Step], angles: Sequence[Tensor], width: int) -> Tensor:
    """Apply a wire's gates to Pauli matrices: (4, wires, n) to (wires, n, left, 4, right).

    Bonds are flattened with the last gate's bond first. An edge with fewer bonds than others is
    padded with zeros at the end.
    """
    sides: list[str] = []
    rest, shape = iter(angles), values.shape[1:]
    for kind, name in steps:
        if kind in ("left", "right"):
            # With the bond's axis behind the Paulis, no data has to be moved.
            half = torch.from_numpy(half_of_gate(name)).to(values)
            values = (half.flatten(0, 1) @ values.flatten(1)).reshape(4, 4, *values.shape[1:])
            sides.insert(0, kind)
        else:
            values = applied(values, name, [0], None if kind == "none" else next(rest))
    left, right = ([1 + i for i, s in enumerate(sides) if s == side] for side in ("left", "right"))
    values = values.permute(-2, -1, *left, 0, *right)
    values = values.reshape(*shape, 4 ** len(left), 4, 4 ** len(right))
    missing = [width - values.shape[axis] for axis in (2, -1)]
    return pad(values, (0, missing[1], 0, 0, 0, missing[0])) if any(missing) else values


def _environments(transfers: Tensor, closing: int) -> tuple[Tensor, Tensor]:
    """Return the environments to the left and to the right of every wire.

    The closing edge's bond (1 on a line) is the row index of the left and the column index of the
    right environments.
    """
    levels = [transfers]
    while len(levels[-1]) > 1:
        last = levels[-1]
        even = len(last) - len(last) % 2
        levels.append(torch.cat([last[0:even:2] @ last[1:even:2], last[even:]]))
    n, samples, width, _ = levels[-1].shape
    edge = torch.eye(closing, width, dtype=transfers.dtype, device=transfers.device)
    left, right = edge.expand(n, samples, -1, -1), edge.T.expand(n, samples, -1, -1)
    for level in reversed(levels[:-1]):
        pairs, even = len(level) // 2, len(level) - len(level) % 2
        after = torch.stack([left[:pairs], left[:pairs] @ level[0:even:2]], 1).flatten(0, 1)
        before = torch.stack([level[1:even:2] @ right[:pairs], right[:pairs]], 1).flatten(0, 1)
        left, right = torch.cat([after, left[pairs:]]), torch.cat([before, right[pairs:]])
    return left, right


def _density(
    left: Tensor, right: Tensor, early: Tensor, late: Tensor, first: IntArray, wires: Sequence[int]
) -> Tensor:
    """Return density matrices of `wires`, counted from each `first`: (tasks, samples, strings)."""

    def site(wire: int) -> tuple[Tensor, Tensor]:
        seen = late if wire in wires else late[:, :, :, :1]
        return _chosen(early, first + wire), _chosen(seen, first + wire)

    # Contract from both ends to the middle. Indices: n: places; b: samples; r: closing bond;
    # s: strings; l, m: early bonds; t, v: late bonds; p, u: Paulis before and after the late gates.
    bonds = late.shape[2], early.shape[2]
    start = _chosen(left, first + wires[0])[..., None, :]
    end = _chosen(right, first + wires[-1])[..., None, :]
    middle = wires[len(wires) // 2]
    for wire in range(wires[0], middle):
        start = torch.einsum("nbrstl,nblpm->nbrstpm", start.unflatten(-1, bonds), site(wire)[0])
        start = torch.einsum("nbrstpm,nptuv->nbrsuvm", start, site(wire)[1])
        start = start.flatten(5).flatten(3, 4)
    for wire in range(wires[-1], middle - 1, -1):
        end = torch.einsum("nblpm,nbvmsr->nblpvsr", site(wire)[0], end.unflatten(2, bonds))
        end = torch.einsum("nblpvsr,nptuv->nbtlusr", end, site(wire)[1])
        end = end.flatten(2, 3).flatten(3, 4)
    return torch.einsum("nbrsl,nbltr->nbst", start, end).flatten(2)


def _observables(part: _Part, angles: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the readout's Pauli strings before the block: (tasks, outputs, samples, strings).

    The axis of tasks or samples has length 1 if no angle depends on it.
    """
    # The axes of the wires come first, then outputs, tasks and samples.
    values = torch.from_numpy(part.readout).to(like).movedim(0, -1)[..., None, None]
    rest = iter(reversed(angles))
    for gate in reversed(part.gates):
        angle = None if gate.angle is None else next(rest)
        values = applied(values, gate.name, gate.wires, angle, backwards=True)
    return values.flatten(0, len(part.wires) - 1).permute(2, 1, 3, 0)
