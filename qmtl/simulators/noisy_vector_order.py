"""In which order the steps of a vector program run: small vectors first, large ones late."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

__all__ = ["GONE", "Letters", "VectorCost", "VectorStep", "scheduled"]

# Letters of a wire, ascending: I 0, X 1, Y 2, Z 3.
Letters = tuple[int, ...]
# Those of a wire that is part of no vector.
GONE: Letters = (0,)


@dataclass(frozen=True)
class VectorStep:
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


class VectorCost(NamedTuple):
    """What the steps take for each sample: see `VectorProgram`."""

    largest: int
    kept: int
    operations: int


def scheduled(
    steps: Sequence[VectorStep], start: Sequence[Letters]
) -> tuple[tuple[VectorStep, ...], VectorCost]:
    """The steps in an order that keeps vectors short, and what they cost.

    Steps on different wires may change places; of those that can run, the one that lets the vectors
    grow least is next, so that wires are joined late and left early.

    Args:
        steps: in the order of application.
        start: letters of each wire.

    Example:
        >>> own = (0, 3)
        >>> joins = VectorStep((0, 1), (0,), (own, own), (own, own))
        >>> shrinks = VectorStep((2,), (1,), (own,), ((3,),))
        >>> [step.wires for step in scheduled([joins, shrinks], [own, own, own])[0]]
        [(2,), (0, 1)]
    """
    vectors = _Vectors(start)
    waiting: dict[int, list[int]] = {}
    for position in range(len(steps) - 1, -1, -1):
        for wire in steps[position].wires:
            waiting.setdefault(wire, []).append(position)
    ordered: list[VectorStep] = []
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
    return tuple(ordered), VectorCost(largest, kept, operations)


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

    def growth(self, step: VectorStep) -> int:
        """By how many numbers the vectors grow in a step."""
        now = sum(self._size(together) for together in self._all(step.wires))
        return self.joined(step.wires) // _length(step.before) * _length(step.after) - now

    def run(self, step: VectorStep) -> None:
        """Join the wires of a step, and let go of those that nothing looks at after it."""
        wires = frozenset().union(step.wires, *self._all(step.wires))
        for wire, own in zip(step.wires, step.after, strict=True):
            self._letters[wire] = own
        left = frozenset(wire for wire in wires if self._letters[wire] != GONE)
        for wire in wires:
            self._together[wire] = left if wire in left else frozenset()
