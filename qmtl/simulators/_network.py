"""Contractions of Pauli transfer matrices, for noisy cones with too many strings to follow singly.

The state of some wires is a vector of the numbers tr(Pρ) of all their Pauli strings P. A gate is a
small matrix on the letters (I, X, Y, Z) of its wires. A gate on two wires joins their vectors, and
a wire leaves its vector after the last operation on it. Each wire has only the letters that the
state can have and that the outputs depend on, so that a vector is much shorter than 4^wires.

Steps run for several cones and samples at a time. The backward pass recomputes each chunk, so that
memory is bounded for any batch.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import prod
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.noise import CHANNEL, DAMPING
from qmtl.simulators._angles import AngleRows
from qmtl.simulators._cones import Op
from qmtl.simulators._engine import Engine
from qmtl.simulators._transfer import matrices_of

# Bytes of a chunk; larger chunks are not faster.
CHUNK_BYTES = 2**26
# Letters of a wire, ascending: I 0, X 1, Y 2, Z 3.
Letters = tuple[int, ...]
# The letters of a wire that no vector contains: only the identity.
GONE: Letters = (0,)
ZERO_STATE: Letters = (0, 3)
READ = 3

Number = TypeVar("Number", np.bool_, np.float64)
FloatArray = NDArray[np.float64]
# The wires of a vector, and its numbers in shape (cones or 1, samples or 1, letters of each wire).
Vector = tuple[list[int], Tensor]


class MatrixStep(NamedTuple):
    """Consecutive operations (given by position) on one or two wires, as one matrix.

    The matrix has the letters before the operations as columns, and those after them as rows. A
    wire that no vector contains has the letters ``(0,)``.
    """

    wires: tuple[int, ...]
    ops: tuple[int, ...]
    before: tuple[Letters, ...]
    after: tuple[Letters, ...]


class Contraction(NamedTuple):
    """Steps from the state 0…0 to the expectation values of some Z-strings.

    The steps start from the letters of each wire and end on the wires `read`. `places` is the index
    of each string in the vector over these wires, -1 if its value is zero. Per sample, `largest`
    numbers are in the longest vector and `kept` numbers in all vectors and matrices; a forward pass
    takes `operations` multiplications.
    """

    start: tuple[Letters, ...]
    steps: tuple[MatrixStep, ...]
    read: tuple[int, ...]
    places: tuple[int, ...]
    largest: int
    kept: int
    operations: int


@lru_cache(maxsize=256)
def contractions(
    ops: tuple[Op, ...], strings: tuple[int, ...], n_wires: int, *, are_apart: bool
) -> tuple[Contraction, ...]:
    """Return one contraction for all Z-strings, or one for each string if that is less work."""
    together = (_contraction(ops, strings, n_wires),)
    if not are_apart or len(strings) == 1:
        return together
    apart = tuple(_contraction(ops, (mask,), n_wires) for mask in strings)
    smaller = sum(one.operations for one in apart) < together[0].operations
    return apart if smaller else together


def _contraction(ops: Sequence[Op], strings: Sequence[int], n_wires: int) -> Contraction:
    """Return one contraction that computes all these strings."""
    # Consecutive operations on the same wires become one matrix.
    runs: list[tuple[tuple[int, ...], list[int]]] = []
    last: dict[int, int] = {}
    for position, op in enumerate(ops):
        found = {last.get(wire, -1) for wire in op.wires}
        run = found.pop()
        if not found and run >= 0 and set(runs[run][0]) == set(op.wires):
            runs[run][1].append(position)
            continue
        last |= dict.fromkeys(op.wires, len(runs))
        runs.append((op.wires, [position]))
    # A forward walk finds the letters that the state can have.
    can: list[Letters] = [ZERO_STATE] * n_wires
    patterns: list[tuple[NDArray[np.bool_], list[Letters], list[Letters]]] = []
    for wires, positions in runs:
        pattern = np.eye(4 ** len(wires), dtype=np.bool_)
        for op in (ops[i] for i in positions):
            own: NDArray[np.bool_] = (matrices_of(op) != 0).any(axis=0)
            pattern = (own if op.wires == wires else _swapped(own)) @ pattern
        before = [can[wire] for wire in wires]
        _set(can, wires, np.flatnonzero(pattern[:, _numbers(before)].any(axis=1)))
        patterns.append((pattern, before, [can[wire] for wire in wires]))
    # A backward walk keeps those letters that the outputs depend on.
    masks = np.array(strings, object if n_wires > 62 else np.int64)
    is_read = [(masks >> wire & 1).astype(np.bool_) for wire in range(n_wires)]
    wanted = [{*([0] if not own.all() else []), *([READ] if own.any() else [])} for own in is_read]
    seen: list[Letters] = [tuple(sorted(wanted[w] & set(can[w]))) for w in range(n_wires)]
    end, steps = tuple(seen), []
    for (wires, positions), (pattern, before, after) in zip(
        runs[::-1], patterns[::-1], strict=True
    ):
        now = tuple(
            tuple(letter for letter in own if letter in seen[wire])
            for wire, own in zip(wires, after, strict=True)
        )
        columns = _numbers(before)
        _set(seen, wires, columns[pattern[np.ix_(_numbers(now), columns)].any(axis=0)])
        step = MatrixStep(wires, tuple(positions), tuple(seen[wire] for wire in wires), now)
        if any(own != GONE for own in (*step.before, *step.after)):
            steps.append(step)
    # If a wire has no possible letter, every string is zero.
    if not all(end) or any(not own for step in steps for own in (*step.before, *step.after)):
        return Contraction((), (), (), (-1,) * len(strings), 0, 0, 0)
    # The index of each string in the vector over its wires; the last wire's letters vary fastest.
    places, is_there = np.zeros(len(masks), np.int64), np.ones(len(masks), np.bool_)
    for letters, is_z in zip(end, is_read, strict=True):
        place = np.full(4, -1)
        place[list(letters)] = range(len(letters))
        found = place[READ * is_z]
        places, is_there = places * len(letters) + found, is_there & (found >= 0)
    places[~is_there] = -1
    read = tuple(wire for wire, own in enumerate(end) if own != GONE)
    return _scheduled(steps[::-1], tuple(seen), read, tuple(places.tolist()))


def _numbers(letters: Sequence[Letters]) -> NDArray[np.int64]:
    """Number the strings of these letters in base 4, first wire first."""
    found = np.zeros(1, np.int64)
    for own in letters:
        found = (4 * found[:, None] + np.array(own, np.int64)).ravel()
    return found


def _set(letters: list[Letters], wires: Sequence[int], strings: NDArray[np.int64]) -> None:
    """Give each wire the letters that occur on it in the strings."""
    for i, wire in enumerate(reversed(wires)):
        letters[wire] = tuple(np.unique(strings >> 2 * i & 3).tolist())


def _swapped(matrices: NDArray[Number]) -> NDArray[Number]:
    """Exchange the two wires of matrices."""
    turned = matrices.reshape(-1, 4, 4, 4, 4).transpose(0, 2, 1, 4, 3)
    return turned.reshape(matrices.shape)


def _length(letters: Iterable[Letters]) -> int:
    return prod(map(len, letters))


def _scheduled(
    steps: Sequence[MatrixStep],
    start: tuple[Letters, ...],
    read: tuple[int, ...],
    places: tuple[int, ...],
) -> Contraction:
    """Order the steps so that vectors stay short, and count their cost.

    The next step is always the possible step after which the vectors grow least.
    """
    letters = dict(enumerate(start))
    # For each wire, all wires of its vector.
    shared = {w: frozenset() if own == GONE else frozenset([w]) for w, own in enumerate(start)}

    def lengths(step: MatrixStep) -> tuple[int, int, int]:
        """Return how the vectors grow, and the joined vector's length before and after a step."""
        met = {shared[wire] for wire in step.wires} - {frozenset()}
        sizes = [_length(letters[wire] for wire in wires) for wires in met]
        before = prod(sizes)
        after = before // _length(step.before) * _length(step.after)
        return after - sum(sizes), before, after

    waiting: dict[int, list[int]] = {}
    for position in range(len(steps) - 1, -1, -1):
        for wire in steps[position].wires:
            waiting.setdefault(wire, []).append(position)
    ordered: list[MatrixStep] = []
    largest = kept = operations = 0
    while first := {queue[-1] for queue in waiting.values() if queue}:
        ready = [i for i in first if all(waiting[wire][-1] == i for wire in steps[i].wires)]
        step = steps[min(ready, key=lambda i: (lengths(steps[i])[0], i))]
        _, before, after = lengths(step)
        columns = _length(step.before)
        largest = max(largest, before, after)
        # Kept are the joined vector, its copy with the wires in front, the result, and the matrix.
        size = max(_length(step.after), columns) ** 2
        kept += 2 * before + after + len(step.ops) * size
        operations += after * columns
        wires = frozenset(step.wires).union(*(shared[wire] for wire in step.wires))
        letters |= zip(step.wires, step.after, strict=True)
        left = frozenset(wire for wire in wires if letters[wire] != GONE)
        shared |= {wire: left if wire in left else frozenset() for wire in wires}
        ordered.append(step)
        for wire in step.wires:
            waiting[wire].pop()
    return Contraction(start, tuple(ordered), read, places, largest, kept, operations)


class NetworkEngine(Engine):
    """Evaluates noisy cones of one structure by vectors of Pauli strings.

    Args:
        columns: columns of the members' outputs among the plan's, shape (members, n_outputs).
        ops: operations of the cones on local wires; their slots number angles, or channels.
        programs: the contractions that compute the strings.
        angles: angles of the slots, in order.
        channels: channels of each cone, shape (members, channels, numbers); see `channel_matrices`.
        mixing: matrix from strings to outputs; None if each output is one of the strings.
        most_bytes: most bytes of a chunk; a chunk holds at least one sample of one cone.
        trains: whether gradients are needed; the engine then keeps all vectors.
    """

    name: ClassVar[str] = "vectors of Pauli strings"

    def __init__(
        self,
        columns: NDArray[np.int64],
        ops: Sequence[Op],
        programs: Sequence[Contraction],
        angles: Sequence[AngleRows],
        channels: FloatArray,
        mixing: FloatArray | None,
        most_bytes: int = CHUNK_BYTES,
        *,
        trains: bool = True,
    ) -> None:
        # Memory: a training step keeps all vectors and matrices, and their gradients. Without
        # training, only the longest vector counts.
        lane = 2 * sum(one.kept for one in programs)
        if not trains:
            lane = max((3 * one.largest for one in programs), default=0)
        super().__init__(columns, max(1, lane), most_bytes)
        self.programs, self._mixing = programs, mixing
        self._parts = [[_parts(s, ops, channels) for s in one.steps] for one in programs]
        self._angles = angles

    def step_operations(self, samples: int) -> int:
        products = sum(program.operations for program in self.programs)
        return 6 * products * len(self.columns) * samples

    def torch_values(self, sampled: Tensor, fixed: Tensor, members: slice = slice(None)) -> Tensor:
        angles = [own for rows in self._angles for own in rows.angles(sampled, fixed, members)]
        shape = (len(self.columns[members]), -1, sampled.shape[1])
        found = []
        for program, parts in zip(self.programs, self._parts, strict=True):
            matrices = (_matrix(own, angles, members, sampled) for own in parts)
            found.append(_expectations(program, matrices, sampled).expand(shape))
        strings = torch.cat(found, 1)
        if self._mixing is None:
            return strings
        return torch.from_numpy(self._mixing).to(strings) @ strings


# A constant matrix (cones or 1, rows, columns), or a rotation's three matrices and its slot. They
# are numpy arrays, because torch replaces tensors by fake ones when it traces.
Part = tuple[FloatArray, int | None]


def _parts(step: MatrixStep, ops: Sequence[Op], channels: FloatArray) -> list[Part]:
    """Return a step's matrices; consecutive constant ones are multiplied, for each cone."""
    found: list[tuple[FloatArray, int | None]] = []
    for op in (ops[position] for position in step.ops):
        is_channel = op.name in (CHANNEL, DAMPING)
        slot = None if is_channel else op.slot
        matrices = matrices_of(op, channels[:, op.slot] if is_channel else None)
        if op.wires != step.wires:
            matrices = _swapped(matrices)
        if slot is None and found and found[-1][1] is None:
            matrices = matrices @ found.pop()[0]
        found.append((matrices, slot))
    # Keep only the rows and columns that are needed, in the last and in the first matrix.
    found[0] = found[0][0][..., _numbers(step.before)], found[0][1]
    found[-1] = found[-1][0][..., _numbers(step.after), :], found[-1][1]
    return [(np.ascontiguousarray(m), slot) for m, slot in found]


def _matrix(
    parts: Sequence[Part], angles: Sequence[Tensor], members: slice, like: Tensor
) -> Tensor:
    """Return the matrix of a step, shape (cones or 1, samples or 1, rows, columns)."""
    found: Tensor | None = None
    for numbers, slot in parts:
        matrices = torch.from_numpy(numbers)
        if slot is None:
            own = (matrices if len(matrices) == 1 else matrices[members]).to(like)[:, None]
        else:
            rest, cosine, sine = matrices.to(like)
            angle = angles[slot][..., None, None]
            own = rest + angle.cos() * cosine + angle.sin() * sine
        found = own if found is None else own @ found
    assert found is not None
    return found


def _expectations(program: Contraction, matrices: Iterable[Tensor], like: Tensor) -> Tensor:
    """Return expectation values of a program's strings, (cones or 1, strings, samples or 1)."""
    if set(program.places) == {-1}:
        return like.new_zeros(1, len(program.places), 1)
    vectors: list[Vector] = [
        ([wire], like.new_ones(1, 1, len(own)))
        for wire, own in enumerate(program.start)
        if own != GONE
    ]
    for step, matrix in zip(program.steps, matrices, strict=True):
        own = step.wires
        met = [vector for vector in vectors if not set(own).isdisjoint(vector[0])]
        vectors = [vector for vector in vectors if set(own).isdisjoint(vector[0])]
        new = [wire for wire, left in zip(own, step.after, strict=True) if left != GONE]
        rest = [wire for wires, _ in met for wire in wires if wire not in own]
        # The matrix maps each wire to a new one, with the index ~wire; a wire that no vector
        # contains has one letter.
        matrix = matrix.reshape(*matrix.shape[:2], *map(len, (*step.after, *step.before)))
        vector = ([~wire for wire in own] + list(own), matrix)
        values = _product([vector, *met], [~wire for wire in new] + rest)
        vectors += [(new + rest, values)] if new or rest else []
    values = _product([([], like.new_ones(1, 1)), *vectors], program.read)[..., None].flatten(2)
    # A string that is always zero has index -1; any entry will do, because zero replaces it.
    places = torch.tensor(program.places, device=like.device)
    return (values[..., places.clamp(min=0)] * (places >= 0)).mT


def _product(vectors: Sequence[Vector], wires: Sequence[int]) -> Tensor:
    """Return the product of vectors, summed over all wires except the given ones."""
    axes = {wire: 0 for own, _ in vectors for wire in own}
    axes |= {wire: i for i, wire in enumerate(axes, 2)}
    operands: list[Any] = []
    for own, values in vectors:
        operands += [values, [0, 1, *(axes[wire] for wire in own)]]
    return torch.einsum(*operands, [0, 1, *(axes[wire] for wire in wires)])
