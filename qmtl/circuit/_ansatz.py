"""Task blocks: the small circuit that each task has on its own register.

An ansatz is any frozen object with ``n_weights(n_wires, read)`` and ``gates(n_wires, read)``, where
`read` lists the positions in the register that are measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from qmtl.circuit._entanglers import entangler_edges, entangler_gates
from qmtl.circuit._gates import Angle, Gate, GateSequence
from qmtl.errors import check_integer


@runtime_checkable
class Ansatz(Protocol):
    """What `HeadCircuit` needs from a task block."""

    def n_weights(self, n_wires: int, read: Sequence[int]) -> int:
        """Return the number of trainable weights on a register of `n_wires` wires."""

    def gates(self, n_wires: int, read: Sequence[int]) -> list[Gate]:
        """Gates on wires ``0 … n_wires-1``; their weights are numbered from 0 in gate order."""


@dataclass(frozen=True)
class RotationAnsatz:
    """RZ and RY on every wire, then the entangler, layer by layer; a last layer on the read wires.

    The last layer has no entangler and turns only the wires that are read: RZ and CZ before a Z
    measurement do nothing. A register of one wire has a single layer, since RZ RY RZ RY on one
    wire before a Z measurement has dead directions.

    Args:
        n_layers: number of layers, the last one included.
        entangler: a name from `qmtl.circuit.ENTANGLERS`.

    Example:
        >>> ansatz = RotationAnsatz(n_layers=2)
        >>> [str(gate) for gate in ansatz.gates(2, read=(0,))][-3:]
        ['CZ 0,1', 'RZ(w[4]) 0', 'RY(w[5]) 0']
    """

    n_layers: int = 2
    entangler: str = "cz_ring"

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_layers", check_integer("n_layers", self.n_layers))
        entangler_edges(self.entangler, 2)

    def n_weights(self, n_wires: int, read: Sequence[int]) -> int:
        """Return the number of trainable weights on a register of `n_wires` wires."""
        full_layers = 0 if n_wires == 1 else self.n_layers - 1
        return 2 * n_wires * full_layers + 2 * len(read)

    def gates(self, n_wires: int, read: Sequence[int]) -> list[Gate]:
        """Return the gates in the order of application."""
        full_layers = 0 if n_wires == 1 else self.n_layers - 1
        layers = [range(n_wires)] * full_layers + [tuple(read)]
        gates: list[Gate] = []
        weight = 0
        for layer, wires in enumerate(layers):
            for name in ("RZ", "RY"):
                gates += [Gate(name, (w,), Angle(weight=weight + i)) for i, w in enumerate(wires)]
                weight += len(wires)
            if layer < full_layers:
                gates += entangler_gates(self.entangler, range(n_wires))
        return gates


@dataclass(frozen=True)
class RealAmplitudes:
    """RY on every wire, then the entangler, layer by layer; a last RY layer on the read wires.

    The circuit of Qiskit's ``RealAmplitudes`` with its last rotations on the measured wires only.

    Args:
        n_layers: number of entangling layers.
        entangler: a name from `qmtl.circuit.ENTANGLERS`.

    Example:
        >>> RealAmplitudes(n_layers=1).n_weights(3, read=(0, 1, 2))
        6
    """

    n_layers: int = 1
    entangler: str = "cz_ring"

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_layers", check_integer("n_layers", self.n_layers))
        entangler_edges(self.entangler, 2)

    def n_weights(self, n_wires: int, read: Sequence[int]) -> int:
        """Return the number of trainable weights on a register of `n_wires` wires."""
        full_layers = 0 if n_wires == 1 else self.n_layers
        return n_wires * full_layers + len(read)

    def gates(self, n_wires: int, read: Sequence[int]) -> list[Gate]:
        """Return the gates in the order of application."""
        full_layers = 0 if n_wires == 1 else self.n_layers
        gates: list[Gate] = []
        for layer in range(full_layers):
            first = layer * n_wires
            gates += [Gate("RY", (i,), Angle(weight=first + i)) for i in range(n_wires)]
            gates += entangler_gates(self.entangler, range(n_wires))
        first = full_layers * n_wires
        gates += [Gate("RY", (w,), Angle(weight=first + i)) for i, w in enumerate(read)]
        return gates


@dataclass(frozen=True)
class IdentityAnsatz:
    """A block without weights, for ablations: the shared encoding is measured directly.

    Args:
        turned: whether to measure wires along X instead of Z, by a fixed RY(π/2) before the
            readout. Near features of zero, ⟨Z⟩ after an angle encoding has zero slope.

    Example:
        >>> IdentityAnsatz().gates(2, read=(0,))
        []
        >>> [str(gate) for gate in IdentityAnsatz(turned=True).gates(2, read=(0,))]
        ['RY(1.5708) 0']
    """

    turned: bool = False

    def n_weights(self, n_wires: int, read: Sequence[int]) -> int:
        """Zero: the block has no weights."""
        return 0

    def gates(self, n_wires: int, read: Sequence[int]) -> list[Gate]:
        """Return no gates, or a quarter turn of every read wire."""
        quarter = Angle(constant=math.pi / 2)
        return [Gate("RY", (wire,), quarter) for wire in read] if self.turned else []


ANSATZE = {
    "RotationAnsatz": RotationAnsatz,
    "RealAmplitudes": RealAmplitudes,
    "IdentityAnsatz": IdentityAnsatz,
    "GateSequence": GateSequence,
}
"""Task blocks by the names that catalogue files and saved models use."""
