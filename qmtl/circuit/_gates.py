"""The parts of head circuits as plain data: gates, angles and Pauli-Z strings.

Simulators know the seven elementary gates of `GATE_WIRES`. `Gate` also takes other PennyLane gates,
up to a global phase. It replaces aliases (``H``, ``S``, ``T``) at once; `Gate.decomposed` writes
composed gates (``Rot``, ``SWAP``, ``CRX``, ...) as elementary gates.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, pi
from numbers import Integral
from typing import Any, Literal

from qmtl.errors import InvalidInputError, unknown_name

GATE_WIRES = {"Hadamard": 1, "RX": 1, "RY": 1, "RZ": 1, "CZ": 2, "CNOT": 2, "IsingZZ": 2}
"""Number of wires of each gate. Names and signs are PennyLane's: RX(a) = exp(-i a X / 2)."""
ROTATIONS = frozenset({"RX", "RY", "RZ", "IsingZZ"})
"""Gates that take an angle."""
DIAGONAL_GATES = frozenset({"RZ", "CZ", "IsingZZ"})
"""Gates whose matrix is diagonal in the Z basis."""
# Other names of gates: the elementary gate, and its angle if that is fixed.
ALIASES: dict[str, tuple[str, float | None]] = {
    "H": ("Hadamard", None),
    "S": ("RZ", pi / 2),
    "T": ("RZ", pi / 4),
    "SX": ("RX", pi / 2),
    "X": ("RX", pi),
    "Y": ("RY", pi),
    "Z": ("RZ", pi),
    "PauliX": ("RX", pi),
    "PauliY": ("RY", pi),
    "PauliZ": ("RZ", pi),
    "PhaseShift": ("RZ", None),
}
# Gates that decompose into several elementary ones: number of wires and of angles.
COMPOSED = {
    "Rot": (1, 3),
    "SWAP": (2, 0),
    "CY": (2, 0),
    "CRX": (2, 1),
    "CRY": (2, 1),
    "CRZ": (2, 1),
    "ControlledPhaseShift": (2, 1),
    "IsingXX": (2, 1),
    "IsingYY": (2, 1),
}
Kind = Literal["diagonal", "CNOT", "channel", "other"]
"""The class of a gate, from which a light cone's walk decides which operators commute with it."""


def _is_index(value: Any) -> bool:
    # `int` comes first, because the check of an abstract class takes ten times longer.
    return isinstance(value, (int, Integral)) and int(value) >= 0


@dataclass(frozen=True)
class Angle:
    """A rotation angle in radians: ``constant · Π features · weight``.

    Args:
        features: indices of the encoding angles that are multiplied together; empty for none.
        weight: index into the weights of `owner`, or None.
        constant: a numerical factor.
        owner: the owner of the weight: ``"encoding"`` or a task's name. Encodings and blocks leave
            this empty; `HeadCircuit` sets the owner.

    Example:
        >>> print(Angle(features=(0, 3)), Angle(weight=2, owner="cola"), Angle(constant=0.5))
        x[0]·x[3] cola[2] 0.5
    """

    features: tuple[int, ...] = ()
    weight: int | None = None
    constant: float = 1.0
    owner: str = ""

    def __post_init__(self) -> None:
        features: Any = self.features
        if not isinstance(features, (tuple, Sequence)):
            raise InvalidInputError(f"an Angle's features must be a tuple, got {features!r}")
        for index in (*features, *(() if self.weight is None else (self.weight,))):
            if not _is_index(index):
                raise InvalidInputError(f"an Angle's indices must be integers >= 0, got {index!r}")
        try:
            finite = isfinite(self.constant)
        except TypeError:
            finite = False
        if not finite:
            raise InvalidInputError(
                f"an Angle's constant must be a finite number, got {self.constant!r}"
            )

    def times(self, factor: float) -> "Angle":
        """Return the same angle times a number."""
        return replace(self, constant=self.constant * factor)

    def __str__(self) -> str:
        factors = [f"x[{i}]" for i in self.features]
        if self.weight is not None:
            factors.append(f"{self.owner or 'w'}[{self.weight}]")
        if self.constant != 1.0 or not factors:
            factors.insert(0, f"{self.constant:g}")
        return "·".join(factors)


@dataclass(frozen=True, init=False)
class Gate:
    """One gate: its PennyLane name, its wires, and its angle if it is a rotation.

    Args:
        name: an elementary gate (``"Hadamard"``, ``"RX"``, ``"RY"``, ``"RZ"``, ``"CZ"``,
            ``"CNOT"``, ``"IsingZZ"``), an alias (``"H"``, ``"S"``, ``"T"``, ``"SX"``, ``"X"``,
            ``"Y"``, ``"Z"``, ``"PhaseShift"``), or a composed gate (``"Rot"``, ``"SWAP"``,
            ``"CY"``, ``"CRX"``, ``"CRY"``, ``"CRZ"``, ``"ControlledPhaseShift"``, ``"IsingXX"``,
            ``"IsingYY"``).
        wires: one or two wires, the control first.
        angle: angle of a rotation; ``"Rot"`` takes three, in PennyLane's order.
        angles: the three angles of ``"Rot"``, if `angle` is None.

    Raises:
        InvalidInputError: for an unknown name, a wrong number of wires, a repeated or negative
            wire, or an angle that is missing or not expected.

    Example:
        >>> print(Gate("RY", (3,), Angle(features=(3,))), Gate("T", (0,)), sep="; ")
        RY(x[3]) 3; RZ(0.785398) 0
    """

    name: str
    wires: tuple[int, ...]
    angle: Angle | None
    angles: tuple[Angle, ...] = field(default=(), repr=False)

    def __init__(
        self,
        name: str,
        wires: Iterable[int] | int,
        angle: Angle | tuple[Angle, ...] | None = None,
        angles: tuple[Angle, ...] = (),
    ) -> None:
        given = name
        if name in ALIASES:
            name, constant = ALIASES[name]
            if constant is not None:
                if angle is not None:
                    raise InvalidInputError(f"{given} takes no angle, got {angle}")
                angle = Angle(constant=constant)
        if name in GATE_WIRES:
            n_wires, n_angles = GATE_WIRES[name], int(name in ROTATIONS)
        elif name in COMPOSED:
            n_wires, n_angles = COMPOSED[name]
        else:
            raise unknown_name("gate", name, [*GATE_WIRES, *ALIASES, *COMPOSED])
        wires = tuple(wires) if isinstance(wires, (tuple, Iterable)) else (wires,)
        if not (len(wires) == len(set(wires)) == n_wires and all(map(_is_index, wires))):
            raise InvalidInputError(
                f"{given} acts on {n_wires} distinct wire{'s' if n_wires > 1 else ''} >= 0, got "
                f"{wires}"
            )
        if angle is not None:
            angles = angle if isinstance(angle, tuple) else (angle,)
        if len(angles) != n_angles:
            wanted = {0: "takes no angle", 1: "needs an angle", 3: "needs a tuple of 3 angles"}
            raise InvalidInputError(
                f"{given} {wanted[n_angles]}, got {', '.join(map(str, angles)) or None}"
            )
        for one in angles:
            if not isinstance(one, Angle):
                raise InvalidInputError(
                    f"the angle of {given} must be an Angle, such as Angle(constant=0.3), got "
                    f"{one!r}"
                )
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "wires", wires)
        object.__setattr__(self, "angle", angles[0] if n_angles == 1 else None)
        object.__setattr__(self, "angles", angles if n_angles > 1 else ())

    @property
    def is_diagonal(self) -> bool:
        """Whether the gate is diagonal in the Z basis; diagonal gates commute."""
        return self.name in DIAGONAL_GATES

    @property
    def kind(self) -> Kind:
        """The gate's commutation class: diagonal, CNOT, or other."""
        if self.is_diagonal:
            return "diagonal"
        return "CNOT" if self.name == "CNOT" else "other"

    def owned_by(self, owner: str) -> "Gate":
        """Return the same elementary gate with its weight assigned to `owner`."""
        if self.angle is None or self.angle.weight is None:
            return self
        return Gate(self.name, self.wires, replace(self.angle, owner=owner))

    def on(self, wires: Iterable[int]) -> "Gate":
        """Return the same gate on other wires."""
        return Gate(self.name, tuple(wires), self.angles or self.angle)

    def decomposed(self) -> "list[Gate]":
        """Return the elementary gates of this gate, up to a global phase.

        Example:
            >>> [str(gate) for gate in Gate("CRZ", (0, 1), Angle(weight=0)).decomposed()]
            ['RZ(0.5·w[0]) 1', 'IsingZZ(-0.5·w[0]) 0,1']
        """
        if self.name in GATE_WIRES:
            return [self]
        if self.name == "Rot":
            names = ("RZ", "RY", "RZ")
            return [Gate(n, self.wires, a) for n, a in zip(names, self.angles, strict=True)]
        a, b = self.wires
        if self.name == "SWAP":
            return [Gate("CNOT", (a, b)), Gate("CNOT", (b, a)), Gate("CNOT", (a, b))]
        if self.name == "CY":
            return [_quarter("RZ", b, -1), Gate("CNOT", (a, b)), _quarter("RZ", b, 1)]
        angle = self.angle
        assert angle is not None
        half = angle.times(0.5)
        if self.name in ("CRZ", "ControlledPhaseShift"):
            gates = [Gate("RZ", (b,), half), Gate("IsingZZ", (a, b), half.times(-1))]
            return gates if self.name == "CRZ" else [Gate("RZ", (a,), half), *gates]
        # A change of basis on the target, or on both wires, replaces each Z by X or Y.
        wires = (b,) if self.name in ("CRX", "CRY") else (a, b)
        if self.name.endswith("X"):
            before = after = [Gate("Hadamard", (w,)) for w in wires]
        else:
            before = [_quarter("RX", w, 1) for w in wires]
            after = [_quarter("RX", w, -1) for w in wires]
        inner = Gate("CRZ" if len(wires) == 1 else "IsingZZ", (a, b), angle)
        return [*before, *inner.decomposed(), *after]

    def __str__(self) -> str:
        angles = self.angles or (() if self.angle is None else (self.angle,))
        inside = f"({', '.join(map(str, angles))})" if angles else ""
        return f"{self.name}{inside} {','.join(map(str, self.wires))}"


def _quarter(name: str, wire: int, sign: int) -> Gate:
    return Gate(name, (wire,), Angle(constant=sign * pi / 2))


def elementary(gates: Iterable[Gate]) -> list[Gate]:
    """Decompose composed gates into elementary ones."""
    return [part for gate in gates for part in gate.decomposed()]


@dataclass(frozen=True)
class GateSequence:
    """A fixed list of gates on a fixed number of wires, as an encoding or as a task's block.

    A sequence is plain data and saved with a model. `qmtl.pennylane.from_qfunc` makes a sequence
    from a PennyLane function; `of` makes one from gates.

    Args:
        n_wires: number of wires that the gates act on.
        rows: name, wires, features, weight (or None) and constant of each elementary gate; gates
            without an angle have no features, no weight, and the constant 0.

    Raises:
        InvalidInputError: for a malformed row, a wire out of range, or a gap in the numbers of
            features or weights; later, if the sequence is used on another number of wires, or is a
            block with features.

    Example:
        >>> sequence = GateSequence.of(2, [Gate("H", (0,)), Gate("CRZ", (0, 1), Angle(weight=0))])
        >>> sequence.n_weights(2), [str(gate) for gate in sequence.gates(2)][0]
        (1, 'Hadamard 0')
    """

    n_wires: int
    rows: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, n_wires: int, gates: Iterable[Gate]) -> "GateSequence":
        """Return a sequence of the given gates."""
        return cls(n_wires, tuple(_row(gate) for gate in elementary(gates)))

    def __post_init__(self) -> None:
        try:
            gates = self._gates()
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"a row of a GateSequence does not fit: {error}") from None
        for gate in gates:
            if max(gate.wires) >= self.n_wires:
                raise InvalidInputError(f"{gate}: the sequence has wires 0 to {self.n_wires - 1}")
        for what, used in (("features", self._features()), ("weights", self._weights())):
            missing = set(range(len(used))) - used
            if missing:
                raise InvalidInputError(
                    f"{what} must be numbered from 0 without a gap: no gate uses "
                    f"{sorted(missing)[0]}, but a gate uses {max(used)}"
                )

    def __repr__(self) -> str:
        return (
            f"GateSequence({self.n_wires} wires, {len(self.rows)} gates, "
            f"features: {len(self._features())}, weights: {len(self._weights())})"
        )

    def _gates(self) -> list[Gate]:
        gates = []
        for name, wires, features, weight, constant in self.rows:
            turns = name in ROTATIONS
            angle = Angle(tuple(features), weight, float(constant)) if turns else None
            gates.append(Gate(name, tuple(wires), angle))
        return gates

    def _features(self) -> set[int]:
        return {feature for row in self.rows for feature in row[2]}

    def _weights(self) -> set[int]:
        return {row[3] for row in self.rows if row[3] is not None}

    def n_features(self, n_wires: int) -> int:
        """Return the number of encoding angles."""
        return len(self._features())

    def n_weights(self, n_wires: int, read: Iterable[int] = ()) -> int:
        """Return the number of trainable weights."""
        return len(self._weights())

    def gates(self, n_wires: int, read: Iterable[int] | None = None) -> list[Gate]:
        """Return the gates, in the order of application.

        Args:
            n_wires: number of wires, equal to that of the sequence.
            read: positions that are read, for a task's block; None for an encoding.
        """
        if n_wires != self.n_wires and read is not None:
            raise InvalidInputError(
                f"the block is on {self.n_wires} wires, the task has {n_wires}; give "
                f"wires_per_task, or ansatz as a dictionary with a block for each task"
            )
        if n_wires != self.n_wires:
            raise InvalidInputError(
                f"the GateSequence is on {self.n_wires} wires, the circuit has {n_wires}"
            )
        if read is not None and self._features():
            raise InvalidInputError(
                f"a task's block takes weights only; the GateSequence has {len(self._features())} "
                f"features"
            )
        return self._gates()


def _row(gate: Gate) -> tuple[Any, ...]:
    angle = gate.angle
    if angle is None:
        return gate.name, gate.wires, (), None, 0.0
    return gate.name, gate.wires, angle.features, angle.weight, angle.constant


@dataclass(frozen=True)
class PauliString:
    """A Z-string on a register: a tensor product of Z and I.

    Attributes:
        factors: one letter, I or Z, for each wire of the register, in order.
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
        """Positions in the register where the string has a Z."""
        return tuple(i for i, factor in enumerate(self.factors) if factor == "Z")

    def signs(self) -> tuple[int, ...]:
        """Return the diagonal: one sign per basis state, the first wire most significant."""
        n = len(self.factors)
        masks = [1 << (n - 1 - i) for i in self.wires]
        return tuple(
            -1 if sum(bool(state & mask) for mask in masks) % 2 else 1 for state in range(2**n)
        )
