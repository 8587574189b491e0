"""Exact outcome probabilities of noisy circuits, without ever holding all wires at once.

A wire takes part from its first two-wire operation to its last one; before, it is a vector, and
afterwards only what is measured of it is kept. Operations are taken in an order, allowed by their
dependencies, that keeps few wires in play: along a ring of shallow depth as many as its light cones
are wide, however long the ring is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmtl.hardware._transfer import Operation

__all__ = ["Plan", "best_plan", "causal_cone", "outcome_probabilities"]

Array = NDArray[Any]
ZERO = np.array([1.0, 0.0, 0.0, 1.0], np.float32)
# A wire in play takes two bits of the state's size, a measured one afterwards one.
IN_PLAY = 2
MEMORY = 1 << 28
# States of so many bits are not worth many trials.
EASY, TRIALS = 18, 2000


@dataclass(frozen=True)
class Plan:
    """An order of the two-wire operations.

    Attributes:
        order: indices, operations in a row on the same wires being one.
        peak: size of the largest state on the way, in bits.
        work: numbers of all states on the way.
    """

    order: tuple[int, ...]
    peak: int
    work: float


def causal_cone(operations: Sequence[Operation], wires: Iterable[int]) -> list[Operation]:
    """The operations that what is measured on some wires can depend on."""
    support = set(wires)
    kept = []
    for operation in reversed(operations):
        if not support.isdisjoint(operation.wires):
            support.update(operation.wires)
            kept.append(operation)
    return kept[::-1]


def best_plan(operations: Sequence[Operation], measured: Iterable[int], seed: int = 0) -> Plan:
    """The best of many orders that start with each possible operation and go on greedily."""
    blocks, _ = _blocks(operations)
    names = {wire: i for i, wire in enumerate(dict.fromkeys(w for on, _ in blocks for w in on))}
    read = frozenset(names.get(wire, -1 - wire) for wire in measured)
    return _best_plan(tuple(tuple(names[w] for w in on) for on, _ in blocks), read, seed)


@lru_cache(maxsize=256)
def _best_plan(pairs: tuple[tuple[int, ...], ...], read: frozenset[int], seed: int) -> Plan:
    random = Random(seed)
    starts = [i for i in range(len(pairs)) if _is_first(i, pairs)]
    plans = [_greedy(pairs, read, start, None) for start in starts]
    if plans and min(plan.peak for plan in plans) > EASY:
        trials = TRIALS // len(pairs)
        plans += [_greedy(pairs, read, start, random) for start in starts for _ in range(trials)]
    return min(plans, key=lambda plan: (plan.peak, plan.work), default=Plan((), len(read), 0.0))


def _is_first(index: int, pairs: Sequence[tuple[int, ...]]) -> bool:
    return all(set(pairs[index]).isdisjoint(earlier) for earlier in pairs[:index])


def _greedy(
    pairs: Sequence[tuple[int, ...]], measured: frozenset[int], start: int, random: Random | None
) -> Plan:
    queues: dict[int, list[int]] = {}
    for i, pair in enumerate(pairs):
        for wire in pair:
            queues.setdefault(wire, []).append(i)
    done = dict.fromkeys(queues, 0)
    order: list[int] = []
    size = peak = 0
    work = 0.0

    def ready(wire: int) -> int | None:
        return queues[wire][done[wire]] if done[wire] < len(queues[wire]) else None

    def growth(i: int) -> tuple[int, int]:
        added = sum(IN_PLAY for wire in pairs[i] if not done[wire])
        ends = [wire for wire in pairs[i] if done[wire] + 1 == len(queues[wire])]
        return added - sum(IN_PLAY - (wire in measured) for wire in ends), added

    candidates = {start}
    while candidates:
        # Ties are broken at random: which way to go along a ring shows only later.
        chosen = min(candidates, key=lambda i: (*growth(i), random.random() if random else i))
        net, added = growth(chosen)
        work += 2.0 ** (size + added)
        peak, size = max(peak, size + added), size + net
        order.append(chosen)
        for wire in pairs[chosen]:
            done[wire] += 1
        if len(order) == 1:
            fresh: Iterable[int | None] = map(ready, queues)
        else:
            candidates.discard(chosen)
            fresh = map(ready, pairs[chosen])
        candidates |= {
            i for i in fresh if i is not None and all(ready(wire) == i for wire in pairs[i])
        }
        candidates.discard(chosen)
    lone = sum(wire not in queues for wire in measured)
    return Plan(tuple(order), max(peak, size + lone), work)


def outcome_probabilities(
    operations: Sequence[Operation],
    measured: Sequence[int],
    readouts: Mapping[int, tuple[float, float]],
    n_samples: int,
    plan: Plan | None = None,
) -> Array:
    """How likely each outcome is, all wires starting in 0.

    Args:
        operations: on one or two wires each, in the order of application.
        measured: wires that are read, the first the most significant bit of an outcome.
        readouts: probabilities that a wire is read as 1 when 0, and as 0 when 1.
        n_samples: parameter sets.
        plan: of `best_plan`.

    Returns:
        Shape (n_samples, 2^measured).

    Example:
        >>> flip = Operation((0,), np.diag([1.0, 1.0, -1.0, -1.0])[None])
        >>> outcome_probabilities([flip], [0], {0: (0.0, 0.25)}, 1)
        array([[0.25, 0.75]])
    """
    plan = best_plan(operations, measured) if plan is None else plan
    chunk = max(1, MEMORY // (4 << plan.peak))
    parts = []
    for first in range(0, n_samples, chunk):
        rows = slice(first, min(first + chunk, n_samples))
        own = [
            Operation(o.wires, o.matrices[rows] if len(o.matrices) > 1 else o.matrices)
            for o in operations
        ]
        parts.append(_Contraction(own, measured, readouts, rows.stop - first).run(plan))
    return np.concatenate(parts) if parts else np.empty((0, 1 << len(measured)))


def _blocks(
    operations: Sequence[Operation],
) -> tuple[list[tuple[tuple[int, ...], Array]], dict[int, Array]]:
    """Two-wire operations that have taken in what is around them; and each wire's last matrices."""
    pending: dict[int, Array] = {}
    blocks: list[tuple[tuple[int, ...], Array]] = []
    latest: dict[int, int] = {}
    for operation in operations:
        wires, own = operation.wires, operation.matrices
        if len(wires) == 1:
            before = pending.get(wires[0])
            pending[wires[0]] = own if before is None else own @ before
            continue
        a, b = (pending.pop(wire, np.eye(4)[None]) for wire in wires)
        both = own @ np.einsum("sij,skl->sikjl", *np.broadcast_arrays(a, b)).reshape(-1, 16, 16)
        last = latest.get(wires[0])
        if last is not None and latest.get(wires[1]) == last:
            earlier = blocks[last]
            blocks[last] = (earlier[0], _turned(both, wires != earlier[0]) @ earlier[1])
            continue
        latest |= dict.fromkeys(wires, len(blocks))
        blocks.append((wires, both))
    return blocks, pending


def _turned(matrices: Array, turn: bool) -> Array:
    """The same of the two wires in the other order."""
    if not turn:
        return matrices
    return matrices.reshape(-1, 4, 4, 4, 4).transpose(0, 2, 1, 4, 3).reshape(-1, 16, 16)


class _Contraction:
    """The state while operations are taken in: (samples, an axis for each wire in play)."""

    def __init__(
        self,
        operations: Sequence[Operation],
        measured: Sequence[int],
        readouts: Mapping[int, tuple[float, float]],
        n_samples: int,
    ) -> None:
        self.measured = list(measured)
        self.readouts = readouts
        # Rounding in single precision is far below what any number of shots can show.
        self.state: Array = np.ones((n_samples, 1), np.float32)
        self.axes: list[int] = []
        self.blocks, self.pending = _blocks(operations)
        self.left = {wire: 0 for wires, _ in self.blocks for wire in wires}
        for wires, _ in self.blocks:
            for wire in wires:
                self.left[wire] += 1

    def run(self, plan: Plan) -> Array:
        for index in plan.order:
            wires, matrices = self.blocks[index]
            for wire in wires:
                if wire not in self.axes:
                    self._enter(wire)
            self._apply(wires, matrices)
            for wire in wires:
                self.left[wire] -= 1
                if not self.left[wire]:
                    self._leave(wire)
        for wire in self.measured:
            if wire not in self.axes:
                self._enter(wire)
                self._leave(wire)
        return self._probabilities()

    def _enter(self, wire: int) -> None:
        self.state = self.state[..., None] * ZERO
        self.axes.append(wire)

    def _to_end(self, wires: Sequence[int]) -> tuple[Array, tuple[int, ...]]:
        """The state with these wires' axes last; and the sizes of the other axes."""
        rest = [wire for wire in self.axes if wire not in wires]
        order = [0, 1, *(2 + self.axes.index(wire) for wire in (*rest, *wires))]
        moved = self.state.transpose(order)
        self.axes = [*rest, *wires]
        return moved, moved.shape[1 : 2 + len(rest)]

    def _apply(self, wires: Sequence[int], matrices: Array) -> None:
        moved, rest = self._to_end(wires)
        n_samples = len(moved)
        size = matrices.shape[2]
        matrices = matrices.astype(np.float32)
        flat = moved.reshape(n_samples, -1, size) @ matrices.transpose(0, 2, 1)
        shape = (n_samples, *rest)
        if matrices.shape[1] == 16:
            shape += (4, 4)
        elif matrices.shape[1] > 1:
            shape += (matrices.shape[1],)
        self.state = flat.reshape(shape)

    def _leave(self, wire: int) -> None:
        last = self.pending.get(wire, np.eye(4)[None])
        if wire not in self.measured:
            self._apply([wire], last[:, :1])
            self.axes.remove(wire)
            return
        up, down = self.readouts.get(wire, (0.0, 0.0))
        read = np.array([[1.0, 0.0], [down - up, 1 - up - down]])
        self._apply([wire], read @ last[:, [0, 3]])

    def _probabilities(self) -> Array:
        moved, _ = self._to_end(self.measured)
        n = len(self.measured)
        state = moved.astype(np.float64).reshape(len(moved), -1, *(2,) * n)
        for axis in range(2, 2 + n):
            one, z = np.take(state, 0, axis), np.take(state, 1, axis)
            state = np.stack([(one + z) / 2, (one - z) / 2], axis)
        found: Array = state.reshape(len(moved), 1 << n)
        return found
