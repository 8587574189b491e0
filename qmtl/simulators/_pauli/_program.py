"""Convert a group of equal cones to polynomials: its circuit in the Heisenberg picture.

A task's outputs are sums of Pauli-Z strings on the wires that it reads. The task's block, applied
backwards, turns each string into a sum of strings on the block's wires; the coefficients depend on
the block's weights only. The encoding, applied backwards, turns these strings into strings on
|0…0⟩, of which only products of Z are non-zero. So their expectation values depend on the features
and the encoding's weights only. Coefficients and expectation values are polynomials in cosines and
sines of the angles. Gates without an angle cost nothing, and a string never meets wires outside its
cone.

The number of strings grows as 4^wires, the size of a state vector as 2^wires. So the number of
operations decides which engine runs a group.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qmtl.circuit import z_strings
from qmtl.simulators._cones import Layer, Op
from qmtl.simulators._pauli._polynomials import Builder, Polynomials
from qmtl.simulators._pauli._strings import Pauli
from qmtl.simulators._pauli._walk import Circuit, TooLargeError, block_sums, write_encoding
from qmtl.simulators._plan import Structure

# Most sums of strings to follow; with more, planning takes seconds.
LARGEST_PROGRAM = 20_000
# Most Z-strings of a readout.
MOST_STRINGS = 64


@dataclass(frozen=True)
class PauliProgram:
    """A group's outputs as ``mixing @ block(weights) @ encoding(features, weights)``.

    Attributes:
        encoding: expectation values of the strings that the blocks need; angles that depend on the
            sample come first.
        block: coefficients of these strings, for each Z-string that is read.
        n_terms: number of these strings.
        mixing: matrix from Z-strings to outputs, shape (n_outputs, n_strings); None if each output
            is one of the strings.
    """

    encoding: Polynomials
    block: Polynomials
    n_terms: int
    mixing: NDArray[np.float64] | None

    @property
    def operations(self) -> int:
        """Additions and multiplications per sample and task of a forward pass."""
        sums = int((self.encoding.ops[:, 0] > 0).sum())
        n_outputs = len(self.block.outputs) // self.n_terms
        if self.mixing is not None:
            n_outputs = len(self.mixing)
        return len(self.encoding.ops) + 2 * sums + 2 * n_outputs * self.n_terms


@lru_cache(maxsize=256)
def pauli_program(structure: Structure, most_sums: int = LARGEST_PROGRAM) -> PauliProgram | None:
    """Convert the cones of one structure to a program of polynomials.

    The result is None if the program needs more than `most_sums` sums of two strings, or if an
    angle of a task's block depends on the sample.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> from qmtl.simulators._plan import build_plan
        >>> circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(8)])
        >>> (group,) = build_plan(circuit, list(circuit.registers)).groups
        >>> program = pauli_program(group.structure)
        >>> program.n_terms, len(program.encoding.ops)
        (12, 59)
    """
    if structure.block_slots[0]:
        return None
    masks, mixing = z_strings(np.array(structure.readout))
    if len(masks) > MOST_STRINGS:
        return None
    circuit = Circuit(
        _operations(structure.encoding, structure.alias, inwards=True),
        _operations(structure.block),
        structure.distinct_slots,
        structure.block_slots[1],
    )
    try:
        return write_program(circuit, masks, mixing, most_sums)
    except TooLargeError:
        return None


def write_program(
    circuit: Circuit, masks: Sequence[int], mixing: NDArray[np.float64] | None, most: int
) -> PauliProgram:
    """Write a cone's program.

    Args:
        circuit: the cone.
        masks: the wires of each Z-string that is read, as bit masks.
        mixing: matrix from strings to outputs; None if each output is one of the strings.
        most: largest number of sums of strings; the program has far fewer operations.

    Raises:
        TooLargeError: if there would be more sums.
    """
    slots = circuit.block_slots
    builder = Builder(len(slots))
    # Each sample multiplies every term by a coefficient for every output, and adds the products.
    most_terms = most // (2 * len(masks if mixing is None else mixing))
    sums, seen = [], set[Pauli]()
    for mask in masks:
        sums.append(block_sums(builder, (0, mask), circuit.block, slots, most))
        seen.update(sums[-1])
        if len(seen) > most_terms:
            raise TooLargeError
    terms = sorted(seen)
    # The encoding comes first: if it is too large, the block need not be written.
    encoding = write_encoding(terms, circuit, most)
    block = builder.finish([found.get(term) for found in sums for term in terms])
    return PauliProgram(encoding, block, len(terms), mixing)


def _operations(
    layers: Iterable[Layer], alias: Sequence[int] = (), *, inwards: bool = False
) -> list[Op]:
    """List the gates one by one; slots that always have the same angle are merged.

    With `inwards`, each layer begins with the wires farthest from the task's block, which are the
    last local wires. Strings move from the last gate to the first, so they grow from the block
    outwards, and there are fewer of them.
    """
    ops: list[Op] = []
    for layer in layers:
        # Sorting is stable: gates on one wire keep their order.
        ops += sorted(layer.ops, key=lambda op: -op.wires[0]) if inwards else layer.ops
    if alias:
        ops = [op if op.slot is None else replace(op, slot=alias[op.slot]) for op in ops]
    return ops
