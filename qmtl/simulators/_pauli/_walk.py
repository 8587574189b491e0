"""Strings taken backwards through a circuit, gates and noise alike, and written as polynomials.

A noise channel multiplies each string by a number of its own; a damping one also adds, for a string
with a Z on its wire, a multiple of the same string without it. (In the Heisenberg picture; both
numbers are factors of a constant, so that cones with other noise share a program.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qmtl.simulators._cones import Op
from qmtl.simulators._pauli._polynomials import ONE, Builder, Polynomials, Value
from qmtl.simulators._pauli._strings import Pauli, after_clifford, rotated, without_z, written

__all__ = [
    "CHANNEL",
    "DAMPING",
    "SHIFT",
    "Circuit",
    "TooLargeError",
    "block_sums",
    "write_encoding",
]

# Names of the operations that are noise; their slot is the channel.
CHANNEL, DAMPING = "channel", "damping"
# Which number of a damping channel it adds.
SHIFT = -1
# Strings that are followed at once and in all: more take longer than many steps by another engine.
MOST_STRINGS = 20_000
MOST_VISITS = 1_000_000
Sums = dict[Pauli, Value]
Partner = tuple[Pauli, int] | None


class TooLargeError(Exception):
    """The program would have more operations than allowed."""


@dataclass(frozen=True)
class Circuit:
    """A cone's operations on local wires, in the order of application.

    Attributes:
        encoding: operations of the encoding.
        block: operations of the task's block, up to the readout.
        encoding_slots: the encoding's slots: those that depend on the sample, and the others.
        block_slots: the block's.
    """

    encoding: Sequence[Op]
    block: Sequence[Op]
    encoding_slots: tuple[tuple[int, ...], tuple[int, ...]]
    block_slots: tuple[int, ...]


def block_sums(
    builder: Builder, string: Pauli, ops: Sequence[Op], slots: Sequence[int], most: int
) -> Sums:
    """A string taken back through a block: the strings it becomes, with their coefficients."""
    angle_of = {slot: i for i, slot in enumerate(slots)}
    sums: Sums = {string: ONE}
    for op in reversed(ops):
        grown: Sums = {}
        for p, value in sums.items():
            if op.name in (CHANNEL, DAMPING):
                grown[p] = builder.combine(ONE, _damped(value, op, p), ONE, grown.get(p))
                if op.name == DAMPING and (rest := without_z(op.wires[0], p)) is not None:
                    added = _times(value, (_slot(op), SHIFT))
                    grown[rest] = builder.combine(ONE, grown.get(rest), ONE, added)
            elif op.slot is None:
                q, sign = after_clifford(op, p)
                grown[q] = _signed(value, sign)
            else:
                _rotate(builder, grown, sums, op, angle_of[op.slot], p)
        sums = grown
        _check(len(builder) + len(sums), most)
    return sums


def _rotate(builder: Builder, grown: Sums, sums: Sums, op: Op, angle: int, p: Pauli) -> None:
    partner, value = rotated(op, p), sums[p]
    if partner is None:
        grown[p] = value
        return
    q, sign = partner
    # P becomes cos P + sign sin Q, and Q, if it is there, cos Q - sign sin P.
    sine = builder.sine(angle, -sign)
    grown[p] = builder.combine(builder.cosine(angle), value, sine, sums.get(q))
    if q not in sums:
        grown[q] = builder.combine(builder.sine(angle, sign), value)


@dataclass(frozen=True)
class Walk:
    """Strings taken backwards through an encoding.

    Attributes:
        start: the strings of |0…0⟩ that are needed; all are products of Z.
        steps: per operation, in the order of application: it, and for each string that is needed
            after it the other string that it comes from, and its sign.
        operations: how many sums of two products that makes.
    """

    start: set[Pauli]
    steps: list[tuple[Op, Mapping[Pauli, Partner]]]
    operations: int


def walk(terms: Sequence[Pauli], ops: Sequence[Op], most: int) -> Walk:
    """Find the strings that `terms` ask for, before each operation."""
    touched = [0]
    for op in ops:
        wires = () if op.name in (CHANNEL, DAMPING) else op.wires
        touched.append(touched[-1] | sum(1 << w for w in wires))
    steps: list[tuple[Op, Mapping[Pauli, Partner]]] = []
    needed, operations, visits = set(terms), 0, 0
    for op, before in zip(reversed(ops), touched[-2::-1], strict=True):
        partners: dict[Pauli, Any] = {p: _partner(op, p) for p in needed}
        found = [partner[0] for partner in partners.values() if partner is not None]
        if op.slot is not None:
            operations += len(found)
            found += needed
        steps.append((op, partners))
        # X or Y on a wire that no earlier gate has touched is zero.
        needed = {p for p in found if not p[0] & ~before}
        visits += len(needed)
        _check(operations, most)
        _check(len(needed), MOST_STRINGS)
        _check(visits, MOST_VISITS)
    # Without any operation, nothing has been left out so far.
    start = {p for p in needed if not p[0]}
    return Walk(start, steps[::-1], operations)


def _partner(op: Op, p: Pauli) -> Partner:
    if op.name == CHANNEL:
        return None
    if op.name == DAMPING:
        rest = without_z(op.wires[0], p)
        return None if rest is None else (rest, 1)
    return after_clifford(op, p) if op.slot is None else rotated(op, p)


def write_encoding(
    terms: Sequence[Pauli], found: Walk, slots: tuple[tuple[int, ...], tuple[int, ...]]
) -> Polynomials:
    """Expectation values of `terms` after the encoding."""
    angle_of = {slot: i for i, slot in enumerate(slots[0] + slots[1])}
    builder = Builder(len(angle_of))
    values: Sums = dict.fromkeys(found.start, ONE)
    for op, partners in found.steps:
        after: Sums = {}
        for p, partner in partners.items():
            value = values.get(p)
            other = None if partner is None else _signed(values.get(partner[0]), partner[1])
            if op.name in (CHANNEL, DAMPING):
                shifted = None if other is None else _times(other, (_slot(op), SHIFT))
                after[p] = builder.combine(ONE, _damped(value, op, p), ONE, shifted)
            elif op.slot is None:
                after[p] = other
            elif partner is None:
                after[p] = value
            else:
                angle = angle_of[op.slot]
                after[p] = builder.combine(builder.cosine(angle), value, builder.sine(angle), other)
        values = after
    return builder.finish([values.get(term) for term in terms])


def _damped(value: Value, op: Op, p: Pauli) -> Value:
    """A string's value after noise on its wires."""
    which = written(op.wires, p)
    return _times(value, (_slot(op), which)) if which else value


def _times(value: Value, factor: tuple[int, int]) -> Value:
    if value is None:
        return None
    return value[0], value[1], tuple(sorted((*value[2], factor)))


def _signed(value: Value, sign: int) -> Value:
    return None if value is None else (value[0], value[1] * sign, value[2])


def _slot(op: Op) -> int:
    assert op.slot is not None
    return op.slot


def _check(operations: int, most: int) -> None:
    if operations > most:
        raise TooLargeError
