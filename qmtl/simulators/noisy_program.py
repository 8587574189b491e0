"""Noisy cones as polynomials, without the operations that no string meets."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from qmtl.simulators.layers import Op
from qmtl.simulators.noisy_cones import NoisyStructure
from qmtl.simulators.pauli.program import PauliProgram, write_program
from qmtl.simulators.pauli.strings import (
    Pauli,
    after_clifford,
    rotated,
    without_z,
    written,
    z_string,
)
from qmtl.simulators.pauli.walk import CHANNEL, DAMPING, Circuit, TooLargeError

__all__ = ["noisy_program"]

# Strings that are followed at once and in all, and operations that they make: more take longer to
# write down than many steps with vectors take.
MOST_STRINGS = 20_000
MOST_VISITS = 1_000_000
LARGEST_PROGRAM = 100_000


@lru_cache(maxsize=256)
def noisy_program(
    structure: NoisyStructure,
) -> tuple[PauliProgram, tuple[int, ...], tuple[int, ...]] | None:
    """The program, and which angles of encoding and block it uses; None if it is too large."""
    strings: set[Pauli] = {z_string(mask) for mask in structure.strings}
    try:
        block = _met(structure.block, strings)
        encoding = _met(structure.encoding, strings, is_start=True)
        used, of_block = _slots(encoding), _slots(block)
        sampled = tuple(i for i, slot in enumerate(used) if structure.sampled[slot])
        fixed = tuple(i for i, slot in enumerate(used) if not structure.sampled[slot])
        circuit = Circuit(
            _renumbered(encoding, used),
            _renumbered(block, of_block),
            (sampled, fixed),
            tuple(range(len(of_block))),
        )
        mixing = None if structure.mixing is None else np.array(structure.mixing)
        program = write_program([circuit], structure.strings, mixing, LARGEST_PROGRAM)
    except TooLargeError:
        return None
    return program, used, of_block


def _met(ops: Sequence[Op], strings: set[Pauli], *, is_start: bool = False) -> list[Op]:
    """The operations that change any of the strings; `strings` become those before them.

    Args:
        ops: in the order of application.
        strings: those after them.
        is_start: whether the wires are in state 0 before them, where strings with X or Y are zero.
    """
    touched = [0]
    for op in ops:
        touched.append(touched[-1] | sum(1 << w for w in op.wires))
    kept: list[Op] = []
    visits = 0
    for op, wires in zip(reversed(ops), touched[-2::-1], strict=True):
        before: set[Pauli] = set()
        changes = False
        for p in strings:
            found = _before(op, p)
            changes |= found != [p] or (_is_noise(op) and written(op.wires, p) > 0)
            # A Hadamard takes Y to -Y: a change of sign alone.
            changes |= op.slot is None and after_clifford(op, p)[1] < 0
            before.update(found)
        if changes:
            kept.append(op)
            strings.clear()
            strings |= {p for p in before if not (is_start and p[0] & ~wires)}
        visits += len(strings)
        if len(strings) > MOST_STRINGS or visits > MOST_VISITS:
            raise TooLargeError
    return kept[::-1]


def _before(op: Op, p: Pauli) -> list[Pauli]:
    if op.name == CHANNEL:
        return [p]
    if op.name == DAMPING:
        rest = without_z(op.wires[0], p)
        return [p] if rest is None else [p, rest]
    if op.slot is None:
        return [after_clifford(op, p)[0]]
    partner = rotated(op, p)
    return [p] if partner is None else [p, partner[0]]


def _slots(ops: Sequence[Op]) -> tuple[int, ...]:
    """The angles of the gates, ascending."""
    return tuple(sorted(op.slot for op in ops if op.slot is not None and not _is_noise(op)))


def _renumbered(ops: Sequence[Op], slots: Sequence[int]) -> list[Op]:
    place = {slot: i for i, slot in enumerate(slots)}
    return [
        op if op.slot is None or _is_noise(op) else Op(op.name, op.wires, place[op.slot])
        for op in ops
    ]


def _is_noise(op: Op) -> bool:
    return op.name in (CHANNEL, DAMPING)
