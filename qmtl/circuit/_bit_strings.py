"""Bit strings of the wires that a task reads, from which all of its outputs follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qmtl.circuit._ablations import rebuilt
from qmtl.circuit._head_circuit import HeadCircuit
from qmtl.circuit._readout import Probabilities
from qmtl.circuit._registers import Register
from qmtl.errors import CircuitTooLargeError
from qmtl.tasks import Task

__all__ = ["distribution_circuit", "output_matrix"]

# Wires that are read together; their distribution is a vector of two to their number.
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
    """The bit string that each basis state has on the wires `read`."""
    states = np.arange(1 << n_wires)
    strings = np.zeros_like(states)
    for wire in read:
        strings = 2 * strings + (states >> (n_wires - 1 - wire) & 1)
    return strings


@lru_cache(maxsize=16)
def distribution_circuit(circuit: HeadCircuit) -> HeadCircuit:
    """The same gates, with the bit strings of all wires that a task reads as its outputs.

    Its tasks have the names of the circuit's, and it takes the same angles and weights.

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
    """A task's outputs over the bit strings of the wires it reads.

    Shape (n_outputs, 2^wires read).

    Example:
        >>> output_matrix(HeadCircuit([Task.binary("a")]).register("a"))
        array([[ 1., -1.]])
    """
    n = len(register.wires)
    # A readout does not depend on wires that it does not read: any basis state will do.
    _, states = np.unique(_strings(register.readout.read_wires(n), n), return_index=True)
    return np.array(register.readout.matrix(n), np.float64)[:, states]
