"""Gates, angles and Pauli-Z strings: what a head circuit is made of, as plain data."""

from dataclasses import dataclass, replace
from typing import Literal

from qmtl.errors import InvalidInputError, unknown_name

__all__ = ["DIAGONAL_GATES", "GATE_WIRES", "Angle", "Gate", "Kind", "PauliString"]

# Names and signs are PennyLane's: RX(a) = exp(-i a X / 2), IsingZZ(a) = exp(-i a Z Z / 2).
GATE_WIRES = {"Hadamard": 1, "RX": 1, "RY": 1, "RZ": 1, "CZ": 2, "CNOT": 2, "IsingZZ": 2}
ROTATIONS = frozenset({"RX", "RY", "RZ", "IsingZZ"})
DIAGONAL_GATES = frozenset({"RZ", "CZ", "IsingZZ"})
# What an operator may commute with: see `qmtl.circuit._light_cone`.
Kind = Literal["diagonal", "CNOT", "channel", "other"]


@dataclass(frozen=True)
class Angle:
    """A rotation angle in radians: ``constant · Π features · weight``.

    Args:
        features: indices of the encoding angles that are multiplied together; empty for none.
        weight: index into the weights of `owner`, or None.
        constant: a factor.
        owner: whose weight it is, ``"encoding"`` or a task's name. Blocks leave it empty;
            `HeadCircuit` fills it in.

    Example:
        >>> print(Angle(features=(0, 3)), Angle(weight=2, owner="cola"), Angle(constant=0.5))
        x[0]·x[3] cola[2] 0.5
    """

    features: tuple[int, ...] = ()
    weight: int | None = None
    constant: float = 1.0
    owner: str = ""

    def __post_init__(self) -> None:
        for index in (*self.features, *(() if self.weight is None else (self.weight,))):
            if index < 0:
                raise InvalidInputError(f"an Angle's indices must be >= 0, got {index}")

    def __str__(self) -> str:
        factors = [f"x[{i}]" for i in self.features]
        if self.weight is not None:
            factors.append(f"{self.owner or 'w'}[{self.weight}]")
        if self.constant != 1.0 or not factors:
            factors.insert(0, f"{self.constant:g}")
        return "·".join(factors)


@dataclass(frozen=True)
class Gate:
    """One gate: its PennyLane name, its wires, and its angle if it is a rotation.

    Raises:
        InvalidInputError: for an unknown name, a wrong number of wires, a repeated wire, or an
            angle that is missing or not expected.

    Example:
        >>> print(Gate("RY", (3,), Angle(features=(3,))))
        RY(x[3]) 3
    """

    name: str
    wires: tuple[int, ...]
    angle: Angle | None = None

    def __post_init__(self) -> None:
        if self.name not in GATE_WIRES:
            raise unknown_name("gate", self.name, GATE_WIRES)
        if len(self.wires) != GATE_WIRES[self.name] or len(set(self.wires)) != len(self.wires):
            raise InvalidInputError(
                f"{self.name} acts on {GATE_WIRES[self.name]} distinct wires, got {self.wires}"
            )
        if (self.angle is not None) != (self.name in ROTATIONS):
            verb = "needs" if self.name in ROTATIONS else "takes no"
            raise InvalidInputError(f"{self.name} {verb} angle, got {self.angle}")

    @property
    def is_diagonal(self) -> bool:
        """Whether the gate is diagonal in the Z basis (then it commutes with every such gate)."""
        return self.name in DIAGONAL_GATES

    @property
    def kind(self) -> Kind:
        """Diagonal, a CNOT, or another gate."""
        if self.is_diagonal:
            return "diagonal"
        return "CNOT" if self.name == "CNOT" else "other"

    def owned_by(self, owner: str) -> "Gate":
        """The same gate with its weight assigned to `owner`."""
        if self.angle is None or self.angle.weight is None:
            return self
        return replace(self, angle=replace(self.angle, owner=owner))

    def __str__(self) -> str:
        angle = "" if self.angle is None else f"({self.angle})"
        return f"{self.name}{angle} {','.join(map(str, self.wires))}"


@dataclass(frozen=True)
class PauliString:
    """A tensor product of Z and I on a register, first character on its first wire.

    Example:
        >>> PauliString("ZI").signs()
        (1, 1, -1, -1)
    """

    factors: str

    def __post_init__(self) -> None:
        if not self.factors or set(self.factors) - {"I", "Z"} or "Z" not in self.factors:
            raise InvalidInputError(
                f"a Pauli-Z string has only the letters I and Z, with at least one Z, "
                f"got {self.factors!r}"
            )

    @property
    def wires(self) -> tuple[int, ...]:
        """Positions in the register at which there is a Z."""
        return tuple(i for i, factor in enumerate(self.factors) if factor == "Z")

    def signs(self) -> tuple[int, ...]:
        """The diagonal: one sign per basis state, the first wire the most significant bit."""
        n = len(self.factors)
        masks = [1 << (n - 1 - i) for i in self.wires]
        return tuple(
            -1 if sum(bool(state & mask) for mask in masks) % 2 else 1 for state in range(2**n)
        )
