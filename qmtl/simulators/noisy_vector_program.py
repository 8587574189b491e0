"""Noisy cones as vectors of the numbers tr(Pρ): what to apply, in which order, to which strings.

Where Pauli strings one by one would be too many, all strings of some wires are a vector, and a gate
is a small matrix on its wires' letters. Wires are joined only when a gate asks for it and leave as
soon as nothing looks at them. Each wire has only the letters (I, X, Y, Z) that the state can have
there and that the outputs can see, so that a vector is much shorter than 4^wires.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from qmtl.simulators.layers import Op
from qmtl.simulators.noisy_maps import pattern
from qmtl.simulators.noisy_vector_order import GONE, Letters, VectorStep, scheduled

__all__ = ["VectorProgram", "numbers", "swapped", "vector_program", "vector_programs"]

BoolArray = NDArray[np.bool_]
Number = TypeVar("Number", np.bool_, np.float64)
ZERO_STATE: Letters = (0, 3)
READ = 3


@dataclass(frozen=True)
class VectorProgram:
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
    steps: tuple[VectorStep, ...]
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
def vector_programs(
    ops: tuple[Op, ...], strings: tuple[int, ...], n_wires: int, *, are_apart: bool
) -> tuple[VectorProgram, ...]:
    """The programs of Z-strings: one for all, or one for each where that is less work.

    Args:
        ops: of the cone, on local wires.
        strings: masks of the wires of each Z-string.
        n_wires: of the cone.
        are_apart: whether strings may be computed apart.
    """
    together = (vector_program(ops, strings, n_wires),)
    if not are_apart or len(strings) == 1:
        return together
    apart = tuple(vector_program(ops, (mask,), n_wires) for mask in strings)
    smaller = sum(one.operations for one in apart) < together[0].operations
    return apart if smaller else together


def vector_program(ops: Sequence[Op], strings: Sequence[int], n_wires: int) -> VectorProgram:
    """The program of some Z-strings.

    Example:
        >>> program = vector_program([Op("RY", (0,), 0), Op("CZ", (0, 1), None)], [0b1], 2)
        >>> program.start, program.largest  # only Z of wire 0 is ever looked at
        (((3,), (0,)), 1)
    """
    items = _runs(ops)
    patterns = [_pattern([ops[i] for i in run]) for _, run in items]
    start, befores, afters, end = _letters(items, patterns, strings, n_wires)
    steps = [
        VectorStep(wires, run, before, after)
        for (wires, run), before, after in zip(items, befores, afters, strict=True)
        if not all(own == GONE for own in (*before, *after))
    ]
    # Where no letter can be, every string is zero.
    if not all(end) or any(not own for step in steps for own in (*step.before, *step.after)):
        return VectorProgram((), (), (), (-1,) * len(strings), 0, 0, 0)
    left = tuple((wire, own) for wire, own in enumerate(end) if own != GONE)
    place = {number: i for i, number in enumerate(numbers(end).tolist())}
    places = [place.get(_number(mask, n_wires), -1) for mask in strings]
    ordered, cost = scheduled(steps, start)
    return VectorProgram(start, ordered, left, tuple(places), *cost)


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
        n = len(op.wires)
        own = pattern(op.name, n, has_angle=op.slot is not None)
        if op.wires != ops[0].wires:
            own = swapped(own)
        found = own if found is None else own @ found
    assert found is not None
    return found


def swapped(matrix: NDArray[Number]) -> NDArray[Number]:
    """A matrix on two wires, with the wires the other way round."""
    return matrix.reshape(4, 4, 4, 4).transpose(1, 0, 3, 2).reshape(16, 16)


def _read(strings: Sequence[int], n_wires: int) -> list[Letters]:
    """Letters of each wire in any of the strings."""
    return [
        tuple(sorted({READ * (mask >> wire & 1) for mask in strings})) for wire in range(n_wires)
    ]


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
    seen = [
        tuple(sorted(set(a) & set(b))) for a, b in zip(_read(strings, n_wires), can, strict=True)
    ]
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
