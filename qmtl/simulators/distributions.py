"""Joint distributions: a circuit whose outputs are how likely each bit string of a task is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.circuit.registers import Register
from qmtl.errors import CircuitTooLargeError
from qmtl.tasks import Task

__all__ = ["distribution_circuit", "output_matrix"]

MOST_WIRES = 10


@dataclass(frozen=True)
class _BitStrings:
    """Probabilities of the bit strings of the wires `read` of a register."""

    read: tuple[int, ...]

    @property
    def n_outputs(self) -> int:
        return 1 << len(self.read)

    @property
    def min_wires(self) -> int:
        return max(self.read) + 1

    @property
    def is_probability(self) -> bool:
        return True

    def read_wires(self, n_wires: int) -> tuple[int, ...]:
        return self.read

    def z_strings(self, n_wires: int) -> None:
        """None: a probability is a sum of Z-strings."""

    def matrix(self, n_wires: int) -> list[list[float]]:
        strings = _strings_of(np.arange(1 << n_wires), self.read, n_wires)
        rows: list[list[float]] = (np.arange(self.n_outputs)[:, None] == strings).tolist()
        return [list(map(float, row)) for row in rows]


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
    readouts = {name: _bit_strings(register) for name, register in circuit.registers.items()}
    sizes = {name: len(register.wires) for name, register in circuit.registers.items()}
    shared = circuit.layout == "shared"
    return HeadCircuit(
        [Task.multiclass(name, readout.n_outputs) for name, readout in readouts.items()],
        circuit.encoding,
        {name: circuit.ansatz(name) for name in readouts},
        layout=circuit.layout,
        n_wires=circuit.n_wires if shared else None,
        wires_per_task=None if shared else sizes,
        readouts=readouts,
    )


def output_matrix(register: Register) -> Tensor:
    """A task's outputs over the bit strings of the wires it reads, float64.

    Shape (n_outputs, 2^wires read).
    """
    n = len(register.wires)
    read = register.readout.read_wires(n)
    matrix = torch.tensor(register.readout.matrix(n), dtype=torch.float64)
    # A readout does not depend on wires that it does not read: any basis state will do.
    states = [
        sum((string >> (len(read) - 1 - i) & 1) << (n - 1 - wire) for i, wire in enumerate(read))
        for string in range(1 << len(read))
    ]
    return matrix[:, states]


def _bit_strings(register: Register) -> _BitStrings:
    size = len(register.wires)
    read = tuple(register.readout.read_wires(size))
    if len(read) > MOST_WIRES:
        raise CircuitTooLargeError(
            f"task {register.task.name!r} reads {len(read)} wires together, shots can be drawn for "
            f"at most {MOST_WIRES}: give the task fewer outputs"
        )
    return _BitStrings(read)


def _strings_of(states: np.ndarray, read: Sequence[int], n_wires: int) -> np.ndarray:
    """The bit string of the wires read in each basis state, the first most significant."""
    strings = np.zeros_like(states)
    for wire in read:
        strings = 2 * strings + (states >> (n_wires - 1 - wire) & 1)
    return strings
