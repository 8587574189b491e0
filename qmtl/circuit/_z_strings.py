"""Readouts as sums of Z-strings: products of Z on some wires."""

import numpy as np
from numpy.typing import NDArray

from qmtl.circuit._head_circuit import HeadCircuit
from qmtl.errors import CircuitTooLargeError

__all__ = ["MAX_READ_WIRES", "spanned_wires", "task_strings", "z_strings", "z_strings_of"]

# A readout is kept as a matrix over the basis states of the wires that are read together.
MAX_READ_WIRES = 20


def z_strings_of(circuit: HeadCircuit, task: str) -> list[tuple[int, ...]] | None:
    """Positions of the Zs of each output; None if the readout is not made of Z-strings."""
    register = circuit.register(task)
    strings = getattr(register.readout, "z_strings", None)
    return None if strings is None else strings(len(register.wires))


def spanned_wires(circuit: HeadCircuit, task: str) -> int:
    """How many of a register's first wires a readout's matrix has to be written over.

    A matrix over a wide register is huge: its last wires are left out if the readout does.
    """
    register = circuit.register(task)
    readout, n = register.readout, len(register.wires)
    read = tuple(readout.read_wires(n))
    least = max(readout.min_wires, max(read) + 1)
    if least < n and tuple(readout.read_wires(least)) == read:
        n = least
    if n > MAX_READ_WIRES:
        raise CircuitTooLargeError(
            f"task {task!r}: its readout {readout} spans {n} wires of the register, at most "
            f"{MAX_READ_WIRES} can be simulated: use fewer wires for this task"
        )
    return n


def task_strings(
    circuit: HeadCircuit, task: str
) -> tuple[tuple[int, ...], tuple[tuple[float, ...], ...] | None]:
    """The masks of the Z-strings that a task reads, and how they make its outputs (None: as is).

    Bit i of a mask is the i-th wire of the register.

    Example:
        >>> from qmtl.tasks import Task
        >>> task_strings(HeadCircuit([Task.multilabel("a", 2)]), "a")
        ((1, 2), None)
    """
    found = z_strings_of(circuit, task)
    if found is not None:
        return tuple(sum(1 << i for i in string) for string in found), None
    matrix = circuit.register(task).readout.matrix(spanned_wires(circuit, task))
    masks, mixing = z_strings(np.array(matrix, np.float64))
    return tuple(masks), None if mixing is None else tuple(map(tuple, mixing.tolist()))


def z_strings(readout: NDArray[np.float64]) -> tuple[list[int], NDArray[np.float64] | None]:
    """The masks of the Z-strings that diagonal observables are made of, and how they make them.

    Args:
        readout: shape (observables, 2^n), the first wire the most significant bit.

    Returns:
        Masks, whose bit i is the i-th wire, and coefficients of shape (observables, masks); None
        if each observable is one of the strings.

    Example:
        >>> z_strings(np.array([[1.0, 0.0]]))  # |0><0| = (I + Z) / 2
        ([0, 1], array([[0.5, 0.5]]))
    """
    n_read = readout.shape[1].bit_length() - 1
    weights = readout.reshape(-1, *[2] * n_read)
    # A Walsh-Hadamard transform: on each axis, index 1 becomes Z and 0 becomes I.
    for axis in range(1, n_read + 1):
        zero, one = np.moveaxis(weights, axis, 0)
        weights = np.stack([zero + one, zero - one], axis) / 2
    weights = weights.reshape(len(readout), -1)
    used = np.flatnonzero((weights != 0).any(axis=0))
    masks = [sum(1 << w for w in range(n_read) if s >> (n_read - 1 - w) & 1) for s in used.tolist()]
    mixing = weights[:, used]
    is_plain = mixing.shape[0] == mixing.shape[1] and bool((mixing == np.eye(len(mixing))).all())
    return masks, None if is_plain else mixing
