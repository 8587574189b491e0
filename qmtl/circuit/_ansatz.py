"""Task blocks: the small circuit of each task on its register.

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
    """The methods that a task block must have."""

    def n_weights(self, n_wires: int, read: Sequence[int]) -> int:
        """Return the number of trainable weights on a register of `n_wires` wires."""

    def gates(self, n_wires: int, read: Sequence[int]) -> list[Gate]:
        """Return gates on wires ``0 … n_wires-1``, with weights numbered from 0 in gate order."""


@dataclass(frozen=True)
class RotationAnsatz:
    """Layers of RZ and RY on every wire and an entangler; a last layer on the read wires.

    The last layer has RZ and RY on the read wires only, and no entangler, because a CZ before a Z
    measurement has no effect. A register of one wire has a single layer: in RZ RY RZ RY on one wire
    before a Z measurement, some directions of the weights have no effect.

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
    """Layers of RY on every wire and an entangler; a last layer of RY on the read wires.

    This is Qiskit's ``RealAmplitudes``, with the last rotations on the read wires only.

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
    """A block without weights, for ablations: the readout measures the shared encoding directly.

    Args:
        turned: whether a fixed RY(π/2) precedes the readout, which then measures X instead of Z.
            Near features of zero, ⟨Z⟩ after an angle encoding has zero slope.

    Example:
        >>> IdentityAnsatz().gates(2, read=(0,))
        []
        >>> [str(gate) for gate in IdentityAnsatz(turned=True).gates(2, read=(0,))]
        ['RY(1.5708) 0']
    """

    turned: bool = False

    def n_weights(self, n_wires: int, read: Sequence[int]) -> int:
        """Return zero: the block has no weights."""
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
