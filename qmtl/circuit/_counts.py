"""Counts of a head circuit: trainable numbers, and layers of gates."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qmtl.circuit._gates import Gate

__all__ = ["ParameterCount", "gate_depth"]


@dataclass(frozen=True)
class ParameterCount:
    """Trainable numbers of a head: the encoding's, each task's circuit weights, and the scales."""

    encoding: int
    tasks: dict[str, int]
    scales: int

    @property
    def circuit(self) -> int:
        """Circuit weights: the encoding's and all blocks'."""
        return self.encoding + sum(self.tasks.values())

    @property
    def total(self) -> int:
        """Circuit weights and one scale per task."""
        return self.circuit + self.scales


def gate_depth(circuits: Iterable[Sequence[Gate]], n_wires: int, *, two_qubit_only: bool) -> int:
    """Layers of gates on disjoint wires, of all gates or the two-qubit ones, in the deepest."""
    deepest = 0
    for gates in circuits:
        level = [0] * n_wires
        for gate in gates:
            step = 1 if len(gate.wires) == 2 or not two_qubit_only else 0
            top = max(level[w] for w in gate.wires) + step
            for w in gate.wires:
                level[w] = top
        deepest = max(deepest, *level)
    return deepest
