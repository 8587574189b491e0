"""Which Pauli transfer matrices to apply, in which order, to which strings.

All strings of some wires are a vector of the numbers tr(Pρ), and a gate is a small matrix on its
wires' letters. Wires are joined only when a gate asks for it and leave as soon as nothing looks at
them. Each wire has only the letters (I, X, Y, Z) that the state can have there and that the outputs
can see, so that a vector is much shorter than 4^wires.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from qmtl.simulators._cones import Op
from qmtl.simulators._transfer import pattern

__all__ = ["GONE", "Contraction", "MatrixStep", "contractions", "numbers", "swapped"]

BoolArray = NDArray[np.bool_]
Number = TypeVar("Number", np.bool_, np.float64)
# Letters of a wire, ascending: I 0, X 1, Y 2, Z 3.
Letters = tuple[int, ...]
# Those of a wire that is part of no vector.
GONE: Letters = (0,)
ZERO_STATE: Letters = (0, 3)
READ = 3


@dataclass(frozen=True)
class MatrixStep:
    """One or several operations on the same wires, as one matrix.

    Attributes:
        wires: local wires, one or two.
        ops: positions of the operations, in the order of application.
        before: letters of each wire before them, the columns of the matrix; ``(0,)`` for a wire
            that is part of no vector.
        after: letters after them, its rows.
    """

    wires: tuple[int, ...]
    ops: tuple[int, ...]
    before: tuple[Letters, ...]
    after: tuple[Letters, ...]


@dataclass(frozen=True)
class Contraction:
    """Steps from the state 0…0 to the expectation values of some Z-strings.

    Attributes:
        start: letters of each wire at the start.
        steps: in the order of application.
        read: wires that are left, with their letters.
        places: of each Z-string in the vector over these wires; -1 if the string is zero.
        largest: numbers of the longest vector.
        kept: numbers of all vectors and matrices, which a backward pass wants.
        operations: multiplications of a forward pass.
    """

    start: tuple[Letters, ...]
    steps: tuple[MatrixStep, ...]
    read: tuple[tuple[int, Letters], ...]
    places: tuple[int, ...]
    largest: int
    kept: int
    operations: int


def numbers(letters: Sequence[Letters]) -> NDArray[np.int64]:
    """The strings of these letters as numbers in base 4, first wire first.

    Example:
        >>> numbers([(0, 3), (1,)]).tolist()
        [1, 13]
    """
    found = np.zeros(1, np.int64)
    for own in letters:
        found = (4 * found[:, None] + np.array(own, np.int64)).ravel()
    return found


@lru_cache(maxsize=256)
def contractions(
    ops: tuple[Op, ...], strings: tuple[int, ...], n_wires: int, *, are_apart: bool
) -> tuple[Contraction, ...]:
    """The contractions of Z-strings: one for all, or one for each where that is less work.

    Args:
        ops: of the cone, on local wires.
        strings: masks of the wires of each Z-string.
        n_wires: of the cone.
        are_apart: whether strings may be computed apart.

    Example:
        >>> ops = (Op("RY", (0,), 0), Op("CZ", (0, 1), None))
        >>> (one,) = contractions(ops, (0b1,), 2, are_apart=False)
        >>> one.start, one.largest  # only Z of wire 0 is ever looked at
        (((3,), (0,)), 1)
    """
    together = (_contraction(ops, strings, n_wires),)
    if not are_apart or len(strings) == 1:
        return together
    apart = tuple(_contraction(ops, (mask,), n_wires) for mask in strings)
    smaller = sum(one.operations for one in apart) < together[0].operations
    return apart if smaller else together


def _contraction(ops: Sequence[Op], strings: Sequence[int], n_wires: int) -> Contraction:
    items = _runs(ops)
    patterns = [_pattern([ops[i] for i in run]) for _, run in items]
    start, befores, afters, end = _letters(items, patterns, strings, n_wires)
    steps = [
        MatrixStep(wires, run, before, after)
        for (wires, run), before, after in zip(items, befores, afters, strict=True)
        if not all(own == GONE for own in (*before, *after))
    ]
    # Where no letter can be, every string is zero.
    if not all(end) or any(not own for step in steps for own in (*step.before, *step.after)):
        return Contraction((), (), (), (-1,) * len(strings), 0, 0, 0)
    left = tuple((wire, own) for wire, own in enumerate(end) if own != GONE)
    place = {number: i for i, number in enumerate(numbers(end).tolist())}
    places = [place.get(_number(mask, n_wires), -1) for mask in strings]
    ordered, cost = _scheduled(steps, start)
    return Contraction(start, ordered, left, tuple(places), *cost)


def _number(mask: int, n_wires: int) -> int:
    number = 0
    for wire in range(n_wires):
        number = 4 * number + READ * (mask >> wire & 1)
    return number


def _runs(ops: Sequence[Op]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Operations that follow each other on the same wires, together: wires and positions."""
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
    return [(wires, tuple(run)) for wires, run in runs]


def _pattern(ops: Sequence[Op]) -> BoolArray:
    """Where the matrix of a run may be other than zero."""
    found: BoolArray | None = None
    for op in ops:
        own = pattern(op) if op.wires == ops[0].wires else swapped(pattern(op))
        found = own if found is None else own @ found
    assert found is not None
    return found


def swapped(matrices: NDArray[Number]) -> NDArray[Number]:
    """Matrices on two wires, with the wires the other way round."""
    shape, axes = matrices.shape, range(matrices.ndim - 2)
    n = len(axes)
    turned = matrices.reshape(*shape[:-2], 4, 4, 4, 4).transpose(*axes, n + 1, n, n + 3, n + 2)
    return turned.reshape(shape)


def _letters(
    items: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    patterns: Sequence[BoolArray],
    strings: Sequence[int],
    n_wires: int,
) -> tuple[
    tuple[Letters, ...], list[tuple[Letters, ...]], list[tuple[Letters, ...]], Sequence[Letters]
]:
    """Letters that can be and are seen: at the start, before and after each item, at the end."""
    can = [ZERO_STATE] * n_wires
    possible: list[tuple[tuple[Letters, ...], tuple[Letters, ...]]] = []
    for (wires, _), matrix in zip(items, patterns, strict=True):
        before = tuple(can[wire] for wire in wires)
        rows = np.flatnonzero(matrix[:, numbers(before)].any(axis=1))
        for wire, own in zip(wires, _letters_of(rows, len(wires)), strict=True):
            can[wire] = own
        possible.append((before, tuple(can[wire] for wire in wires)))
    looked_at = [
        {READ * (mask >> wire & 1) for mask in strings} & set(can[wire]) for wire in range(n_wires)
    ]
    seen = [tuple(sorted(own)) for own in looked_at]
    end = tuple(seen)
    befores: list[tuple[Letters, ...]] = []
    afters: list[tuple[Letters, ...]] = []
    for (wires, _), matrix, (before, after) in zip(
        items[::-1], patterns[::-1], possible[::-1], strict=True
    ):
        now = tuple(
            tuple(sorted(set(seen[wire]) & set(own)))
            for wire, own in zip(wires, after, strict=True)
        )
        columns = numbers(before)
        used = columns[matrix[np.ix_(numbers(now), columns)].any(axis=0)]
        for wire, own in zip(wires, _letters_of(used, len(wires)), strict=True):
            seen[wire] = own
        afters.append(now)
        befores.append(tuple(seen[wire] for wire in wires))
    return tuple(seen), befores[::-1], afters[::-1], end


def _letters_of(strings: NDArray[np.int64], n_wires: int) -> list[Letters]:
    return [tuple(np.unique(strings >> 2 * (n_wires - 1 - i) & 3).tolist()) for i in range(n_wires)]


class _Cost(NamedTuple):
    """What the steps take for each sample: see `Contraction`."""

    largest: int
    kept: int
    operations: int


def _scheduled(
    steps: Sequence[MatrixStep], start: Sequence[Letters]
) -> tuple[tuple[MatrixStep, ...], _Cost]:
    """The steps in an order that keeps vectors short, and what they cost.

    Steps on different wires may change places; of those that can run, the one that lets the vectors
    grow least is next, so that wires are joined late and left early.
    """
    vectors = _Vectors(start)
    waiting: dict[int, list[int]] = {}
    for position in range(len(steps) - 1, -1, -1):
        for wire in steps[position].wires:
            waiting.setdefault(wire, []).append(position)
    ordered: list[MatrixStep] = []
    largest = kept = operations = 0
    while any(waiting.values()):
        first = {queue[-1] for queue in waiting.values() if queue}
        ready = [i for i in first if all(waiting[wire][-1] == i for wire in steps[i].wires)]
        chosen = min(ready, key=lambda i: (vectors.growth(steps[i]), i))
        step = steps[chosen]
        rows, columns = _length(step.after), _length(step.before)
        before = vectors.joined(step.wires)
        after = before // columns * rows
        largest = max(largest, before, after)
        # What is joined, its copy with the wires in front, the result, and the matrix.
        kept += 2 * before + after + len(step.ops) * max(rows, columns) ** 2
        operations += after * columns
        vectors.run(step)
        ordered.append(step)
        for wire in step.wires:
            waiting[wire].pop()
    return tuple(ordered), _Cost(largest, kept, operations)


def _length(letters: Iterable[Letters]) -> int:
    return prod(map(len, letters))


class _Vectors:
    """Which wires share a vector, and with which letters."""

    def __init__(self, start: Sequence[Letters]) -> None:
        self._letters = list(start)
        self._together = [
            frozenset() if own == GONE else frozenset([i]) for i, own in enumerate(start)
        ]

    def _all(self, wires: Iterable[int]) -> set[frozenset[int]]:
        return {self._together[wire] for wire in wires} - {frozenset()}

    def _size(self, wires: Iterable[int]) -> int:
        return _length(self._letters[wire] for wire in wires)

    def joined(self, wires: Sequence[int]) -> int:
        """Numbers of the vector that these wires share once they are joined."""
        return prod(self._size(together) for together in self._all(wires))

    def growth(self, step: MatrixStep) -> int:
        """By how many numbers the vectors grow in a step."""
        now = sum(self._size(together) for together in self._all(step.wires))
        return self.joined(step.wires) // _length(step.before) * _length(step.after) - now

    def run(self, step: MatrixStep) -> None:
        """Join the wires of a step, and let go of those that nothing looks at after it."""
        wires = frozenset().union(step.wires, *self._all(step.wires))
        for wire, own in zip(step.wires, step.after, strict=True):
            self._letters[wire] = own
        left = frozenset(wire for wire in wires if self._letters[wire] != GONE)
        for wire in wires:
            self._together[wire] = left if wire in left else frozenset()
