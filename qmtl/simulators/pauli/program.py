"""From a group of equal cones to polynomials: its circuit in the Heisenberg picture.

A task's outputs are sums of Pauli-Z strings on the wires it reads. Taken backwards through its
block, such a string is a sum of strings on the block's wires, with coefficients that depend on the
block's weights alone. The expectation values of those strings after the encoding depend on the
features and the encoding's weights alone; they come from the encoding taken backwards to |0…0⟩,
where only products of Z survive. Both are polynomials in cosines and sines of the angles.
Gates without an angle cost nothing, and no wire outside a string's own cone is ever touched.

Strings grow as 4^wires where state vectors grow as 2^wires: the choice is by the number of
operations.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmtl.simulators.layers import Layer, Op
from qmtl.simulators.pauli.polynomials import ONE, Builder, Polynomials, Value
from qmtl.simulators.pauli.strings import Pauli, after_clifford, rotated, z_string
from qmtl.simulators.pauli_basis import z_coefficients
from qmtl.simulators.plan import Structure

__all__ = ["PauliProgram", "pauli_program"]

# A program of more operations takes seconds to plan.
LARGEST_PROGRAM = 5_000
# Z-strings that a readout may be made of.
MOST_STRINGS = 64
Sums = dict[Pauli, Value]


@dataclass(frozen=True)
class PauliProgram:
    """A group's outputs as ``mixing @ block(weights) @ encoding(features, weights)``.

    Attributes:
        encoding: expectation values of the strings that the blocks ask for; the angles that depend
            on the sample come first.
        block: coefficients of these strings, for each Z-string that is read.
        n_terms: number of these strings.
        mixing: the outputs as sums of Z-strings, shape (n_outputs, n_strings); None if each output
            is one of them.
    """

    encoding: Polynomials
    block: Polynomials
    n_terms: int
    mixing: NDArray[np.float64] | None

    @property
    def operations(self) -> int:
        """Additions and multiplications per sample and task of a forward pass."""
        sums = int((self.encoding.ops[:, 0] > 0).sum())
        return len(self.encoding.ops) + 2 * sums + 2 * self.n_outputs * self.n_terms

    @property
    def n_outputs(self) -> int:
        """Outputs of each task."""
        if self.mixing is not None:
            return len(self.mixing)
        return len(self.block.outputs) // self.n_terms


class _TooLargeError(Exception):
    """The program would have more operations than allowed."""


@lru_cache(maxsize=256)
def pauli_program(
    structure: Structure, most_operations: int = LARGEST_PROGRAM
) -> PauliProgram | None:
    """The program of cones of this structure.

    None if it would have more than `most_operations`, or if the block depends on the sample.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> from qmtl.simulators.plan import build_plan
        >>> circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(8)])
        >>> (group,) = build_plan(circuit, list(circuit.registers)).groups
        >>> program = pauli_program(group.structure)
        >>> program.n_terms, len(program.encoding.ops)
        (12, 192)
    """
    if structure.block_slots[0]:
        return None
    masks, mixing = _z_strings(structure)
    if len(masks) > MOST_STRINGS:
        return None
    try:
        return _program(structure, masks, mixing, most_operations)
    except _TooLargeError:
        return None


def _program(
    structure: Structure, masks: Sequence[int], mixing: NDArray[np.float64] | None, most: int
) -> PauliProgram:
    angle_of = {slot: i for i, slot in enumerate(structure.block_slots[1])}
    builder = Builder(len(angle_of))
    ops = _operations(structure.block)
    sums = [_taken_back(builder, z_string(mask), ops, angle_of, most) for mask in masks]
    terms = sorted(set().union(*sums))
    block = builder.finish([found.get(term) for found in sums for term in terms])
    walks = (_walk(structure, terms, order, most) for order in _wire_orders(structure))
    encoding = _encoding(structure, terms, min(walks, key=lambda walk: walk.operations))
    return PauliProgram(encoding, block, len(terms), mixing)


def _z_strings(structure: Structure) -> tuple[list[int], NDArray[np.float64] | None]:
    """The masks of the Z-strings that are read, and how they make the outputs."""
    readout = np.array(structure.readout)
    n_read = readout.shape[1].bit_length() - 1
    weights = z_coefficients(readout).reshape(len(readout), -1)
    used = np.flatnonzero((weights != 0).any(axis=0))
    # The first wire is the most significant bit of a state, and bit 0 of a string.
    masks = [sum(1 << w for w in range(n_read) if s >> (n_read - 1 - w) & 1) for s in used.tolist()]
    mixing = weights[:, used]
    is_plain = mixing.shape[0] == mixing.shape[1] and bool((mixing == np.eye(len(mixing))).all())
    return masks, None if is_plain else mixing


def _operations(layers: Iterable[Layer], order: Sequence[int] = ()) -> list[Op]:
    """The gates one by one; those of a layer of one-wire gates in the given order of wires."""
    place = {wire: i for i, wire in enumerate(order)}
    ops: list[Op] = []
    for layer in layers:
        # Sorting is stable: gates on one wire keep their order.
        ops += sorted(layer.ops, key=lambda op: place.get(op.wires[0], 0))
    return ops


def _wire_orders(structure: Structure) -> list[list[int]]:
    """Orders in which commuting rotations may run; which is cheapest depends on the circuit."""
    inner, rest = range(structure.n_inner), range(structure.n_inner, structure.n_wires)
    half = structure.n_inner + len(rest) // 2
    ring = [*range(structure.n_inner, half), *inner, *range(half, structure.n_wires)]
    outwards = [*inner, *rest]
    return [outwards[::-1], outwards, ring, ring[::-1]]


def _taken_back(
    builder: Builder, string: Pauli, ops: Sequence[Op], angle_of: dict[int, int], most: int
) -> Sums:
    """U† P U as a sum of strings."""
    sums: Sums = {string: ONE}
    for op in reversed(ops):
        if op.slot is None:
            moved = ((after_clifford(op, p), value) for p, value in sums.items())
            sums = {p: _signed(value, sign) for (p, sign), value in moved}
            continue
        angle = angle_of[op.slot]
        grown: Sums = {}
        for p, value in sums.items():
            partner = rotated(op, p)
            if partner is None:
                grown[p] = value
                continue
            q, sign = partner
            # P becomes cos P + sign sin Q, and Q, if it is there, cos Q - sign sin P.
            sine = builder.sine(angle, -sign)
            grown[p] = builder.combine(builder.cosine(angle), value, sine, sums.get(q))
            if q not in sums:
                grown[q] = builder.combine(builder.sine(angle, sign), value)
        sums = grown
        _check(len(builder) + len(sums), most)
    return sums


@dataclass(frozen=True)
class _Walk:
    """Strings taken backwards through the encoding.

    Attributes:
        start: the strings of |0…0⟩ that are needed; all are products of Z.
        steps: per gate, in the order of application: the gate, and for each string that is needed
            after it the string that it comes from and its sign; None if it stays as it is.
        operations: how many sums of two products that makes.
    """

    start: set[Pauli]
    steps: list[tuple[Op, dict[Pauli, tuple[Pauli, int] | None]]]
    operations: int


def _walk(structure: Structure, terms: Sequence[Pauli], order: Sequence[int], most: int) -> _Walk:
    ops = _operations(structure.encoding, order)
    touched = [0]
    for op in ops:
        touched.append(touched[-1] | sum(1 << w for w in op.wires))
    steps: list[tuple[Op, dict[Pauli, tuple[Pauli, int] | None]]] = []
    needed, operations = set(terms), 0
    for op, wires in zip(reversed(ops), touched[-2::-1], strict=True):
        if op.slot is None:
            partners: dict[Pauli, Any] = {p: after_clifford(op, p) for p in needed}
            found = [q for q, _ in partners.values()]
        else:
            partners = {p: rotated(op, p) for p in needed}
            found = [partner[0] for partner in partners.values() if partner is not None]
            operations += len(found)
            found += needed
        steps.append((op, partners))
        # X or Y on a wire that no earlier gate has touched is zero.
        needed = {p for p in found if not p[0] & ~wires}
        _check(operations, most)
    return _Walk(needed, steps[::-1], operations)


def _encoding(structure: Structure, terms: Sequence[Pauli], walk: _Walk) -> Polynomials:
    """Expectation values of `terms` after the encoding."""
    sampled, fixed = structure.encoding_slots
    angle_of = {slot: i for i, slot in enumerate(sampled + fixed)}
    builder = Builder(len(angle_of))
    values: Sums = dict.fromkeys(walk.start, ONE)
    for op, partners in walk.steps:
        found: Sums = {}
        for p, partner in partners.items():
            if partner is None:
                found[p] = values.get(p)
            elif op.slot is None:
                found[p] = _signed(values.get(partner[0]), partner[1])
            else:
                cosine = builder.cosine(angle_of[op.slot])
                sine = builder.sine(angle_of[op.slot], partner[1])
                found[p] = builder.combine(cosine, values.get(p), sine, values.get(partner[0]))
        values = found
    return builder.finish([values.get(term) for term in terms])


def _signed(value: Value, sign: int) -> Value:
    return None if value is None else (value[0], value[1] * sign)


def _check(operations: int, most: int) -> None:
    if operations > most:
        raise _TooLargeError
