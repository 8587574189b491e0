"""A task's outputs as sums of Z-strings, or as probabilities of bit strings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qmtl.circuit._ablations import rebuilt
from qmtl.circuit._head_circuit import HeadCircuit
from qmtl.circuit._readout import Probabilities, Register
from qmtl.errors import CircuitTooLargeError
from qmtl.tasks import Task

# Most wires that a task may read: their distribution has 2^wires entries.
MOST_WIRES = 10


@dataclass(frozen=True)
class _BitStrings(Probabilities):
    """Probabilities of the bit strings of the wires `read` of a register."""

    read: tuple[int, ...]

    @property
    def min_wires(self) -> int:
        return max(self.read) + 1

    def read_wires(self, n_wires: int) -> tuple[int, ...]:
        return self.read

    def matrix(self, n_wires: int) -> list[list[float]]:
        strings = _strings(self.read, n_wires).tolist()
        return [[float(string == row) for string in strings] for row in range(self.n)]


def _strings(read: Sequence[int], n_wires: int) -> NDArray[np.int64]:
    """Return the bit string on the wires `read` for each basis state of the register."""
    states = np.arange(1 << n_wires)
    strings = np.zeros_like(states)
    for wire in read:
        strings = 2 * strings + (states >> (n_wires - 1 - wire) & 1)
    return strings


@lru_cache(maxsize=16)
def distribution_circuit(circuit: HeadCircuit) -> HeadCircuit:
    """Return the circuit that outputs the probabilities of bit strings on each task's read wires.

    Task names, angles and weights stay the same.

    Raises:
        CircuitTooLargeError: if a task reads more than 10 wires.

    Example:
        >>> circuit = HeadCircuit([Task.binary("a"), Task.multilabel("b", 2)])
        >>> [task.n_outputs for task in distribution_circuit(circuit).tasks]
        [2, 4]
    """
    readouts = {}
    for name, register in circuit.registers.items():
        read = tuple(register.readout.read_wires(len(register.wires)))
        if len(read) > MOST_WIRES:
            raise CircuitTooLargeError(
                f"task {name!r} reads {len(read)} wires together, shots can be drawn for at most "
                f"{MOST_WIRES}: give the task fewer outputs"
            )
        readouts[name] = _BitStrings(1 << len(read), read)
    tasks = [Task.multiclass(name, readout.n_outputs) for name, readout in readouts.items()]
    return rebuilt(circuit, tasks=tasks, readouts=readouts)


@lru_cache(maxsize=2**12)
def output_matrix(register: Register) -> NDArray[np.float64]:
    """Return a task's outputs over the bit strings of its read wires: (n_outputs, 2^read wires).

    Example:
        >>> output_matrix(HeadCircuit([Task.binary("a")]).register("a"))
        array([[ 1., -1.]])
    """
    n = len(register.wires)
    # Outputs do not depend on unread wires, so any basis state of these wires will do.
    _, states = np.unique(_strings(register.readout.read_wires(n), n), return_index=True)
    return np.array(register.readout.matrix(n), np.float64)[:, states]


MAX_READ_WIRES = 20
"""Most wires of a readout's matrix over the basis states."""
MAX_READ_NUMBERS = 2**24
"""Most numbers of a readout's matrix: outputs times basis states."""


def z_strings_of(circuit: HeadCircuit, task: str) -> list[tuple[int, ...]] | None:
    """Return the positions of the Zs in each output's Z-string; None for other outputs."""
    register = circuit.register(task)
    strings = getattr(register.readout, "z_strings", None)
    return None if strings is None else strings(len(register.wires))


def spanned_wires(circuit: HeadCircuit, task: str) -> int:
    """Return the number of wires, from a register's first, that the readout's matrix covers.

    A matrix over a wide register is huge, so the matrix leaves out unused last wires.

    Raises:
        CircuitTooLargeError: if the matrix would cover more than `MAX_READ_WIRES` wires, or have
            more than `MAX_READ_NUMBERS` numbers.

    Example:
        >>> spanned_wires(HeadCircuit([Task.binary("a")], wires_per_task=30), "a")
        1
    """
    register = circuit.register(task)
    readout, n = register.readout, len(register.wires)
    read = tuple(readout.read_wires(n))
    least = max(readout.min_wires, max(read) + 1)
    if least < n and tuple(readout.read_wires(least)) == read:
        n = least
    if n > MAX_READ_WIRES or readout.n_outputs << n > MAX_READ_NUMBERS:
        raise CircuitTooLargeError(
            f"task {task!r}: its readout {readout} has {readout.n_outputs} outputs on {n} wires of "
            f"the register; at most {MAX_READ_WIRES} wires, and {MAX_READ_NUMBERS:,} outputs times "
            f"basis states, can be simulated: use fewer wires for this task"
        )
    return n


def task_strings(
    circuit: HeadCircuit, task: str
) -> tuple[tuple[int, ...], tuple[tuple[float, ...], ...] | None]:
    """Return the Z-strings that a task reads, as bit masks, and the matrix to the task's outputs.

    Bit i of a mask stands for the register's i-th wire. The matrix is None if each output is one of
    the strings.

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
    """Write diagonal observables as sums of Z-strings.

    Args:
        readout: the diagonals, shape (observables, 2^n); the first wire is the most significant
            bit.

    Returns:
        Bit masks (bit i stands for the i-th wire), and coefficients of shape (observables, masks);
        None if each observable is one of the strings.

    Example:
        >>> z_strings(np.array([[1.0, 0.0]]))  # |0><0| = (I + Z) / 2
        ([0, 1], array([[0.5, 0.5]]))
    """
    n_read = readout.shape[1].bit_length() - 1
    weights = readout.reshape(-1, *[2] * n_read)
    # A Walsh-Hadamard transform: on each axis, index 0 becomes I and index 1 becomes Z.
    for axis in range(1, n_read + 1):
        zero, one = np.moveaxis(weights, axis, 0)
        weights = np.stack([zero + one, zero - one], axis) / 2
    weights = weights.reshape(len(readout), -1)
    used = np.flatnonzero((weights != 0).any(axis=0))
    masks = [sum(1 << w for w in range(n_read) if s >> (n_read - 1 - w) & 1) for s in used.tolist()]
    mixing = weights[:, used]
    is_plain = mixing.shape[0] == mixing.shape[1] and bool((mixing == np.eye(len(mixing))).all())
    return masks, None if is_plain else mixing
