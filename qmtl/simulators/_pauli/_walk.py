"""Move strings backwards through a circuit with gates and noise, and write them as polynomials.

In the Heisenberg picture, a noise channel multiplies each string by a number. If the string has a Z
on a damping channel's wire, the channel also adds a multiple of the string without that Z. These
numbers are constants of the polynomials, so that cones with different noise share a program.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from qmtl.noise import CHANNEL, DAMPING
from qmtl.simulators._angles import Slots
from qmtl.simulators._cones import Op
from qmtl.simulators._pauli._polynomials import ONE, Builder, Polynomials, Value, cosine, sine
from qmtl.simulators._pauli._strings import Pauli, after_clifford, rotated, without_z, written

# Index of the shift among a channel's numbers: the coefficient of the string without its Z.
SHIFT = -1
# Most strings to follow; with more, another engine is faster.
MOST_STRINGS = 20_000
MOST_VISITS = 1_000_000
Sums = dict[Pauli, Value]
Image = tuple[Pauli, tuple[tuple[Pauli, Value], ...]]


class TooLargeError(Exception):
    """Raised if there would be more strings, or sums of two strings, than allowed."""


@dataclass(frozen=True)
class Circuit:
    """A cone's operations on local wires, in the order of application.

    Attributes:
        encoding: operations of the encoding.
        block: operations of the task's block, up to the readout.
        encoding_slots: the encoding's slots: those with angles that depend on the sample, and the
            others.
        block_slots: the block's slots, in the same form.
    """

    encoding: Sequence[Op]
    block: Sequence[Op]
    encoding_slots: Slots
    block_slots: tuple[int, ...]

    @property
    def encoding_angles(self) -> dict[int, int]:
        """The index of the angle of each slot of the encoding."""
        return {slot: i for i, slot in enumerate(chain(*self.encoding_slots))}


def images(op: Op, strings: Iterable[Pauli], angle_of: Mapping[int, int]) -> Iterator[Image]:
    """Yield each string with its image, one or two strings before an operation.

    Args:
        op: the operation.
        strings: the strings after it.
        angle_of: the index of the angle of each slot.

    Example:
        >>> list(images(Op("RY", (0,), 3), [(0, 1)], {3: 0}))  # Z becomes cos Z - sin X
        [((0, 1), (((0, 1), (1, ((-1, 1),))), ((1, 0), (-1, ((-1, 2),)))))]
    """
    if op.slot is None:
        for p in strings:
            q, sign = after_clifford(op, p)
            yield p, ((q, (sign, ())),)
    elif op.name in (CHANNEL, DAMPING):
        numbers = [ONE, *((1, ((op.slot, which),)) for which in range(1, 4 ** len(op.wires)))]
        for p in strings:
            kept = (p, numbers[written(op.wires, p)])
            rest = without_z(op.wires[0], p) if op.name == DAMPING else None
            yield p, (kept,) if rest is None else (kept, (rest, (1, ((op.slot, SHIFT),))))
    else:
        angle = angle_of[op.slot]
        cos, sines = cosine(angle), {sign: sine(angle, sign) for sign in (1, -1)}
        for p in strings:
            partner = rotated(op, p)
            yield p, ((p, ONE),) if partner is None else ((p, cos), (partner[0], sines[partner[1]]))


def block_sums(
    builder: Builder, string: Pauli, ops: Sequence[Op], slots: Sequence[int], most: int
) -> Sums:
    """Move a string back through a block; return the resulting strings and their coefficients."""
    angle_of = {slot: i for i, slot in enumerate(slots)}
    sums: Sums = {string: ONE}
    for op in reversed(ops):
        grown: dict[Pauli, list[tuple[Value, Value]]] = {}
        for p, found in images(op, sums, angle_of):
            for q, factor in found:
                grown.setdefault(q, []).append((factor, sums[p]))
        sums = {q: builder.combine(*products) for q, products in grown.items()}
        _check(len(builder) + len(sums), most)
    return sums


def write_encoding(terms: Sequence[Pauli], circuit: Circuit, most: int) -> Polynomials:
    """Write the expectation values of strings after an encoding.

    Args:
        terms: the strings.
        circuit: the circuit that the encoding is part of.
        most: largest number of sums of two strings.

    Raises:
        TooLargeError: if there would be more sums.
    """
    angle_of = circuit.encoding_angles
    first, *later = _needed(terms, circuit, most)
    builder = Builder(len(angle_of))
    values: Sums = dict.fromkeys(first, ONE)
    for op, needed in zip(circuit.encoding, later, strict=True):
        values = {
            p: builder.combine(*[(factor, values.get(q)) for q, factor in before])
            for p, before in images(op, needed, angle_of)
        }
    return builder.finish([values.get(term) for term in terms])


def _needed(terms: Sequence[Pauli], circuit: Circuit, most: int) -> list[set[Pauli]]:
    """List the strings that `terms` depend on: first on |0…0⟩, then after each operation."""
    angle_of, touched = circuit.encoding_angles, [0]
    for op in circuit.encoding:
        wires = () if op.name in (CHANNEL, DAMPING) else op.wires
        touched.append(touched[-1] | sum(1 << w for w in wires))
    needed, sums, visits = [set(terms)], 0, 0
    for op, before in zip(reversed(circuit.encoding), touched[-2::-1], strict=True):
        found = needed[-1]
        if op.name == DAMPING:
            rests = {q for p in found if (q := without_z(op.wires[0], p)) is not None}
            sums += len(rests)
            found = found | rests
        elif op.name != CHANNEL:  # a channel only multiplies strings by numbers
            every = [terms for _, terms in images(op, found, angle_of)]
            sums += sum(map(len, every)) - len(every)
            found = {q for terms in every for q, _ in terms}
        # A string with X or Y on a wire without earlier gates has the expectation value zero.
        needed.append({q for q in found if not q[0] & ~before})
        visits += len(needed[-1])
        _check(sums, most)
        _check(len(needed[-1]), MOST_STRINGS)
        _check(visits, MOST_VISITS)
    # Without operations, the loop has not removed strings with X or Y.
    needed[-1] = {p for p in needed[-1] if not p[0]}
    return needed[::-1]


def _check(number: int, most: int) -> None:
    if number > most:
        raise TooLargeError
