"""Noise in the Pauli basis: channels, and coherent errors of gates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

from qmtl.circuit import ROTATIONS, Angle, Gate
from qmtl.errors import InvalidInputError, check_type, is_number, unknown_name

LETTERS = "IXYZ"


@dataclass(frozen=True)
class Channel:
    """A noise channel on one or two wires, by its action on Pauli strings (Heisenberg picture).

    The channel multiplies each Pauli string by a factor. Damping also turns part of Z into I. This
    covers Pauli noise, amplitude and phase damping, thermal relaxation, and read-out errors.

    Args:
        factors: the factor of each Pauli string, in the order II, IX, IY, IZ, XI, ...; the first
            letter is the first wire's. The first factor is 1.
        shift: the coefficient of I that the channel adds to Z (one wire only).

    Example:
        >>> Channel.depolarising(0.75).factors
        (1.0, 0.0, 0.0, 0.0)
        >>> Channel.amplitude_damping(0.1).shift
        0.1
    """

    factors: tuple[float, ...]
    shift: float = 0.0

    def __post_init__(self) -> None:
        numbers = all(map(is_number, (*self.factors, self.shift)))
        if not numbers or len(self.factors) not in (4, 16) or self.factors[0] != 1:
            raise InvalidInputError(
                f"factors must be 4 or 16 numbers, the first of them 1, got {self.factors}"
            )
        if not all(-1 <= factor <= 1 for factor in self.factors) or not -1 <= self.shift <= 1:
            raise InvalidInputError(
                f"factors and shift must be in [-1, 1], got {self.factors} and {self.shift}"
            )
        if self.shift and len(self.factors) != 4:
            raise InvalidInputError("a shift needs a channel on one wire, got one on two")
        # NumPy's numbers would not go into a file.
        object.__setattr__(self, "factors", tuple(map(float, self.factors)))
        object.__setattr__(self, "shift", float(self.shift))

    @property
    def n_wires(self) -> int:
        """Number of wires: 1 or 2."""
        return 1 if len(self.factors) == 4 else 2

    @property
    def is_identity(self) -> bool:
        """Whether the channel has no effect."""
        return not self.shift and all(factor == 1 for factor in self.factors)

    @classmethod
    def pauli(cls, probabilities: Mapping[str, float]) -> Self:
        """Return Pauli errors with the given probabilities of strings such as ``"X"`` or ``"XZ"``.

        Example:
            >>> Channel.pauli({"Z": 0.25}).factors
            (1.0, 0.5, 0.5, 1.0)
        """
        check_type("probabilities", probabilities, Mapping)
        lengths = {len(string) for string in probabilities}
        if lengths not in ({1}, {2}) or set("".join(probabilities)) - set(LETTERS):
            raise InvalidInputError(
                f"probabilities must be of Pauli strings of one or of two letters, got "
                f"{list(probabilities)}"
            )
        for string, probability in probabilities.items():
            check_probability(f"probability of {string}", probability)
        check_probability("sum of the probabilities", sum(probabilities.values()))
        strings = ["".join(letters) for letters in product(LETTERS, repeat=lengths.pop())]
        return cls(
            tuple(
                1.0 - 2 * sum(p for error, p in probabilities.items() if _anticommute(error, s))
                for s in strings
            )
        )

    @classmethod
    def depolarising(cls, probability: float, n_wires: int = 1) -> Self:
        """Return the 3 Pauli errors (two wires: 15), equally likely, with this total probability.

        Full depolarisation has the probability 3/4 (two wires: 15/16), as in PennyLane. Qiskit's
        parameter is 4/3 (two wires: 16/15) times this probability.
        """
        check_probability("probability", probability)
        if n_wires not in (1, 2):
            raise InvalidInputError(f"n_wires must be 1 or 2, got {n_wires!r}")
        rest = 1 - probability * 4**n_wires / (4**n_wires - 1)
        return cls((1.0, *[rest] * (4**n_wires - 1)))

    @classmethod
    def amplitude_damping(cls, gamma: float) -> Self:
        """Return decay from 1 to 0 with probability `gamma`."""
        check_probability("gamma", gamma)
        root = math.sqrt(1 - gamma)
        return cls((1.0, root, root, 1 - gamma), gamma)

    @classmethod
    def phase_damping(cls, gamma: float) -> Self:
        """Return loss of phase: X and Y shrink by √(1 - `gamma`), as in PennyLane and Qiskit."""
        check_probability("gamma", gamma)
        root = math.sqrt(1 - gamma)
        return cls((1.0, root, root, 1.0))

    @classmethod
    def thermal_relaxation(
        cls, t1: float, t2: float, duration: float, excited: float = 0.0
    ) -> Self:
        """Return thermal relaxation over a duration, in seconds; see `Relaxation`."""
        numbers = all(map(is_number, (t1, t2, duration)))
        if not (numbers and t1 > 0 and 0 < t2 <= 2 * t1 and duration >= 0):
            raise InvalidInputError(
                f"t1 and t2 must be positive with t2 <= 2·t1, and the duration not negative, got "
                f"t1={t1!r}, t2={t2!r}, duration={duration!r}"
            )
        check_probability("excited", excited)
        phase, energy = math.exp(-duration / t2), math.exp(-duration / t1)
        return cls((1.0, phase, phase, energy), (1 - energy) * (1 - 2 * excited))

    @classmethod
    def readout(cls, p01: float, p10: float) -> Self:
        """Return a read-out error: 0 is read as 1 with probability `p01`, and 1 as 0 with `p10`."""
        check_probability("p01", p01)
        check_probability("p10", p10)
        return cls((1.0, 1.0, 1.0, 1 - p01 - p10), p10 - p01)

    def then(self, other: "Channel") -> "Channel":
        """Return the channel followed by another on the same wires, as one channel.

        Example:
            >>> Channel.amplitude_damping(1.0).then(Channel.depolarising(0.75)).shift
            0.0
        """
        check_type("other", other, Channel)
        if other.n_wires != self.n_wires:
            raise InvalidInputError(
                f"other must be on as many wires, {self.n_wires}, got {other.n_wires}"
            )
        factors = tuple(a * b for a, b in zip(self.factors, other.factors, strict=True))
        return Channel(factors, other.factors[3] * self.shift + other.shift)

    def scaled(self, scale: float) -> "Channel":
        """Return the channel `scale` times as strong: factors to this power, shift accordingly."""
        check_scale(scale)
        if scale == 1:
            return self
        factors = tuple(
            math.copysign(abs(f) ** scale, f) if f else 0.0**scale for f in self.factors
        )
        share = (1 - factors[3]) / (1 - self.factors[3]) if self.shift else 0.0
        return Channel(factors, self.shift * share)


def _anticommute(a: str, b: str) -> bool:
    pairs = zip(a, b, strict=True)
    return sum(x != y and "I" not in (x, y) for x, y in pairs) % 2 == 1


def check_scale(scale: Any) -> None:
    """Raise `InvalidInputError` unless 0 <= scale."""
    if not is_number(scale) or not scale >= 0:
        raise InvalidInputError(f"scale must be a number that is not negative, got {scale!r}")


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def check_probability(name: str, value: Any) -> None:
    """Raise `InvalidInputError` unless 0 <= value <= 1."""
    if not is_number(value) or not 0 <= float(value) <= 1:
        raise InvalidInputError(f"{name} must be in [0, 1], got {value!r}")


@dataclass(frozen=True)
class CoherentError:
    """A coherent error of a gate: a wrong angle, or further rotations after the gate.

    Args:
        relative: relative excess of the gate's angle; negative if the angle is too small. ``"sx"``
            and ``"x"`` are rotations by a quarter and by half a turn; gates like CZ have no angle.
        rotations: further rotations right after the gate: name (``"RX"``, ``"RY"``, ``"RZ"`` or
            ``"IsingZZ"``), positions of their wires among the gate's wires, and angle in radians.

    Example:
        >>> error = CoherentError(rotations=(("IsingZZ", (0, 1), 0.02), ("RZ", (1,), -0.01)))
        >>> print(*error.after((4, 5)), sep="; ")
        IsingZZ(0.02) 4,5; RZ(-0.01) 5
    """

    relative: float = 0.0
    rotations: tuple[tuple[str, tuple[int, ...], float], ...] = ()

    def __post_init__(self) -> None:
        if not _is_finite(self.relative):
            raise InvalidInputError(f"relative must be a number, got {self.relative!r}")
        check_type("rotations", self.rotations, Sequence)
        for rotation in self.rotations:
            if not isinstance(rotation, Sequence) or len(rotation) != 3:
                raise InvalidInputError(
                    f"rotations must have a name, positions and an angle, got {rotation!r}"
                )
            name, at, angle = rotation
            if name not in ROTATIONS:
                raise unknown_name("rotation", name, sorted(ROTATIONS))
            if not _is_finite(angle):
                raise InvalidInputError(f"the angle of {name} must be a number, got {angle!r}")
            Gate(name, at, Angle())
            if not set(at) <= {0, 1}:
                raise InvalidInputError(f"wires of {name} must be positions 0 or 1, got {at}")

    def after(self, wires: tuple[int, ...]) -> list[Gate]:
        """Return the rotations after a gate on these wires."""
        if any(max(at) >= len(wires) for _, at, _ in self.rotations):
            raise InvalidInputError(f"{self} needs two wires, got a gate on {wires}")
        return [
            Gate(name, tuple(wires[i] for i in at), Angle(constant=angle))
            for name, at, angle in self.rotations
        ]

    def scaled(self, scale: float) -> "CoherentError":
        """Return the same error with all angles times `scale`."""
        rotations = tuple((name, at, angle * scale) for name, at, angle in self.rotations)
        return CoherentError(self.relative * scale, rotations)

    def to_dict(self) -> dict[str, Any]:
        """Return the error as data that JSON can hold."""
        rotations = [[name, list(at), angle] for name, at, angle in self.rotations]
        return {"relative": self.relative, "rotations": rotations}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        """Return the error from the data of `to_dict`."""
        rotations = description["rotations"]
        return cls(
            float(description["relative"]),
            tuple((name, tuple(at), float(angle)) for name, at, angle in rotations),
        )
