"""Readouts: what is measured on a task's register and how it becomes outputs.

Everything is read in the Z basis, so that one measured circuit serves all tasks. A readout's
outputs are therefore linear in the register's basis-state probabilities; its `matrix` says how.
"""

from dataclasses import dataclass
from typing import Protocol

from qmtl.circuit._gates import PauliString
from qmtl.errors import InvalidInputError

__all__ = ["READOUTS", "ExpectationZ", "PauliStrings", "Probabilities", "Readout"]


class Readout(Protocol):
    """What `HeadCircuit` and the simulators ask of a readout."""

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""

    @property
    def min_wires(self) -> int:
        """Fewest wires a register must have."""

    @property
    def is_probability(self) -> bool:
        """Whether outputs are probabilities in [0, 1], rather than Z values in [-1, 1]."""

    def read_wires(self, n_wires: int) -> tuple[int, ...]:
        """Positions in a register of `n_wires` wires that are measured."""

    def z_strings(self, n_wires: int) -> list[tuple[int, ...]] | None:
        """Positions of the Zs of each output, if every output is one Z-string; else None."""

    def matrix(self, n_wires: int) -> list[list[float]]:
        """Outputs as rows over the register's ``2^n_wires`` basis-state probabilities."""


@dataclass(frozen=True)
class ExpectationZ:
    """⟨Z⟩ on `n` wires of the register, one output each.

    Args:
        n: number of outputs.
        step: the wires read are ``0, step, 2·step, …``; with step 2 every read wire has another
            one beside it.

    Example:
        >>> ExpectationZ(1).matrix(2), ExpectationZ(2, step=2).read_wires(4)
        ([[1, 1, -1, -1]], (0, 2))
    """

    n: int = 1
    step: int = 1

    def __post_init__(self) -> None:
        _check_integer("ExpectationZ's n", self.n, 1)
        _check_integer("ExpectationZ's step", self.step, 1)

    @property
    def n_outputs(self) -> int:
        """One output per measured wire."""
        return self.n

    @property
    def min_wires(self) -> int:
        """Enough wires to reach the last one read."""
        return (self.n - 1) * self.step + 1

    @property
    def is_probability(self) -> bool:
        """False: values lie in [-1, 1]."""
        return False

    def read_wires(self, n_wires: int) -> tuple[int, ...]:
        """Every `step`-th wire."""
        return tuple(range(0, self.n * self.step, self.step))

    def z_strings(self, n_wires: int) -> list[tuple[int, ...]]:
        """One Z each."""
        return [(wire,) for wire in self.read_wires(n_wires)]

    def matrix(self, n_wires: int) -> list[list[float]]:
        """Signs of each Z over the basis states."""
        strings = [
            PauliString("I" * i + "Z" + "I" * (n_wires - 1 - i)) for i in self.read_wires(n_wires)
        ]
        return [list(string.signs()) for string in strings]


@dataclass(frozen=True)
class PauliStrings:
    """Expectation values of Z-strings over the register, one output each.

    Args:
        strings: such as ``("ZI", "ZZ")``, all as long as the register has wires.

    Example:
        >>> PauliStrings(("ZI", "ZZ")).matrix(2)
        [[1, 1, -1, -1], [1, -1, -1, 1]]
    """

    strings: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "strings", tuple(self.strings))
        if not self.strings:
            raise InvalidInputError("PauliStrings needs at least one string, got none")
        lengths = {len(PauliString(string).factors) for string in self.strings}
        if len(lengths) > 1:
            raise InvalidInputError(f"Pauli strings must have one length, got {self.strings}")
        if len(set(self.strings)) < len(self.strings):
            raise InvalidInputError(f"Pauli strings must differ, got {self.strings}")

    @property
    def n_outputs(self) -> int:
        """One output per string."""
        return len(self.strings)

    @property
    def min_wires(self) -> int:
        """The strings' length."""
        return len(self.strings[0])

    @property
    def is_probability(self) -> bool:
        """False: values lie in [-1, 1]."""
        return False

    def read_wires(self, n_wires: int) -> tuple[int, ...]:
        """Wires on which any string has a Z."""
        return tuple(sorted({w for string in self.strings for w in PauliString(string).wires}))

    def z_strings(self, n_wires: int) -> list[tuple[int, ...]]:
        """Where each string has its Zs."""
        return [PauliString(string).wires for string in self.strings]

    def matrix(self, n_wires: int) -> list[list[float]]:
        """Signs of each string over the basis states."""
        pad = "I" * (n_wires - self.min_wires)
        return [list(PauliString(string + pad).signs()) for string in self.strings]


@dataclass(frozen=True)
class Probabilities:
    """Probabilities of the register's first `n` basis states, one output each.

    Example:
        >>> Probabilities(3).min_wires
        2
    """

    n: int

    def __post_init__(self) -> None:
        _check_integer("Probabilities' n", self.n, 2)

    @property
    def n_outputs(self) -> int:
        """One output per basis state."""
        return self.n

    @property
    def min_wires(self) -> int:
        """Enough wires for `n` basis states."""
        return (self.n - 1).bit_length()

    @property
    def is_probability(self) -> bool:
        """True: values lie in [0, 1]."""
        return True

    def read_wires(self, n_wires: int) -> tuple[int, ...]:
        """All wires of the register."""
        return tuple(range(n_wires))

    def z_strings(self, n_wires: int) -> None:
        """None: a probability is a sum of Z-strings."""

    def matrix(self, n_wires: int) -> list[list[float]]:
        """The first rows of the identity."""
        return [[float(row == state) for state in range(2**n_wires)] for row in range(self.n)]


def _check_integer(what: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidInputError(f"{what} must be an integer >= {least}, got {value!r}")


READOUTS = {
    "ExpectationZ": ExpectationZ,
    "PauliStrings": PauliStrings,
    "Probabilities": Probabilities,
}
