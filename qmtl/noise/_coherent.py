"""Coherent errors: rotations by a little too much or too little."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from qmtl.circuit import Angle, Gate
from qmtl.errors import InvalidInputError

__all__ = ["CoherentError"]


@dataclass(frozen=True)
class CoherentError:
    """What a gate does wrong without any loss of coherence.

    Args:
        relative: share by which the gate's own angle is too large (negative: too small); ``"sx"``
            and ``"x"`` are rotations by a quarter and by half a turn, and gates like CZ have none.
        rotations: further rotations right after the gate: name (``"RX"``, ``"RY"``, ``"RZ"`` or
            ``"IsingZZ"``), positions of their wires among the gate's, and angle in radians.

    Raises:
        InvalidInputError: for a rotation that there is not.

    Example:
        >>> error = CoherentError(rotations=(("IsingZZ", (0, 1), 0.02), ("RZ", (1,), -0.01)))
        >>> print(*error.after((4, 5)), sep="; ")
        IsingZZ(0.02) 4,5; RZ(-0.01) 5
    """

    relative: float = 0.0
    rotations: tuple[tuple[str, tuple[int, ...], float], ...] = ()

    def __post_init__(self) -> None:
        for name, at, _ in self.rotations:
            Gate(name, at, Angle())
            if not set(at) <= {0, 1}:
                raise InvalidInputError(f"a rotation's wires are 0 or 1 of its gate, got {at}")

    def after(self, wires: tuple[int, ...]) -> list[Gate]:
        """The rotations after a gate on these wires."""
        if any(max(at) >= len(wires) for _, at, _ in self.rotations):
            raise InvalidInputError(f"{self} needs two wires, got a gate on {wires}")
        return [
            Gate(name, tuple(wires[i] for i in at), Angle(constant=angle))
            for name, at, angle in self.rotations
        ]

    def scaled(self, scale: float) -> "CoherentError":
        """All angles times `scale`."""
        rotations = tuple((name, at, angle * scale) for name, at, angle in self.rotations)
        return CoherentError(self.relative * scale, rotations)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description."""
        rotations = [[name, list(at), angle] for name, at, angle in self.rotations]
        return {"relative": self.relative, "rotations": rotations}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        """The error that `to_dict` described."""
        rotations = description["rotations"]
        return cls(
            float(description["relative"]),
            tuple((name, tuple(at), float(angle)) for name, at, angle in rotations),
        )
