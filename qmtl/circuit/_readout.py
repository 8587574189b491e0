"""Readouts and registers: each task's measured wires, and its outputs from their measurement.

All measurements are in the Z basis, so that one measured circuit serves all tasks. A readout's
outputs are therefore linear in the register's basis-state probabilities; `Readout.matrix` returns
the coefficients.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from qmtl.circuit._gates import PauliString
from qmtl.errors import InvalidInputError, check_integer, unknown_name
from qmtl.tasks import Task


class Readout(Protocol):
    """The attributes and methods that a readout must have."""

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""

    @property
    def min_wires(self) -> int:
        """The smallest number of wires that a register may have."""

    @property
    def is_probability(self) -> bool:
        """Whether outputs are probabilities in [0, 1], rather than Z values in [-1, 1]."""

    def read_wires(self, n_wires: int) -> tuple[int, ...]:
        """Return the positions in a register of `n_wires` wires that are measured."""

    def z_strings(self, n_wires: int) -> list[tuple[int, ...]] | None:
        """Return the positions of the Zs in each output's Z-string; None for other outputs."""

    def matrix(self, n_wires: int) -> list[list[float]]:
        """Return outputs as rows over the register's ``2^n_wires`` basis-state probabilities."""


@dataclass(frozen=True)
class ExpectationZ:
    """⟨Z⟩ on `n` wires of the register, one output each.

    Args:
        n: number of outputs.
        step: distance between the read wires ``0, step, 2·step, …``. With step 2 an unread wire
            follows every read wire.

    Example:
        >>> ExpectationZ(1).matrix(2), ExpectationZ(2, step=2).read_wires(4)
        ([[1, 1, -1, -1]], (0, 2))
    """

    n: int = 1
    step: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", check_integer("ExpectationZ's n", self.n, 1))
        object.__setattr__(self, "step", check_integer("ExpectationZ's step", self.step, 1))

    @property
    def n_outputs(self) -> int:
        """Number of outputs: one per measured wire."""
        return self.n

    @property
    def min_wires(self) -> int:
        """The number of wires up to the last read wire."""
        return (self.n - 1) * self.step + 1

    @property
    def is_probability(self) -> bool:
        """False: values lie in [-1, 1]."""
        return False

    def read_wires(self, n_wires: int) -> tuple[int, ...]:
        """Return every `step`-th wire."""
        return tuple(range(0, self.n * self.step, self.step))

    def z_strings(self, n_wires: int) -> list[tuple[int, ...]]:
        """Return one string per read wire, with a single Z."""
        return [(wire,) for wire in self.read_wires(n_wires)]

    def matrix(self, n_wires: int) -> list[list[float]]:
        """Return the sign of each Z in each basis state, shape (n_outputs, 2^n_wires)."""
        strings = [
            PauliString("I" * i + "Z" + "I" * (n_wires - 1 - i)) for i in self.read_wires(n_wires)
        ]
        return [list(string.signs()) for string in strings]


@dataclass(frozen=True)
class PauliStrings:
    """Expectation values of Z-strings over the register, one output each.

    Args:
        strings: Z-strings such as ``("ZI", "ZZ")``, with one letter per wire of the register.

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
        """Number of outputs: one per string."""
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
        """Return the wires on which any string has a Z."""
        return tuple(sorted({w for string in self.strings for w in PauliString(string).wires}))

    def z_strings(self, n_wires: int) -> list[tuple[int, ...]]:
        """Return the positions of the Zs in each string."""
        return [PauliString(string).wires for string in self.strings]

    def matrix(self, n_wires: int) -> list[list[float]]:
        """Return the sign of each string in each basis state, shape (n_outputs, 2^n_wires)."""
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
        object.__setattr__(self, "n", check_integer("Probabilities' n", self.n, 2))

    @property
    def n_outputs(self) -> int:
        """Number of outputs: one per basis state."""
        return self.n

    @property
    def min_wires(self) -> int:
        """The smallest number of wires with `n` basis states."""
        return (self.n - 1).bit_length()

    @property
    def is_probability(self) -> bool:
        """True: values lie in [0, 1]."""
        return True

    def read_wires(self, n_wires: int) -> tuple[int, ...]:
        """Return all wires of the register."""
        return tuple(range(n_wires))

    def z_strings(self, n_wires: int) -> None:
        """Return None, because a probability is a sum of Z-strings."""

    def matrix(self, n_wires: int) -> list[list[float]]:
        """Return the first rows of the identity."""
        return [[float(row == state) for state in range(2**n_wires)] for row in range(self.n)]


READOUTS = {
    "ExpectationZ": ExpectationZ,
    "PauliStrings": PauliStrings,
    "Probabilities": Probabilities,
}
"""Readouts by the names that catalogue files and saved models use."""


Layout = Literal["partitioned", "shared"]


@dataclass(frozen=True)
class Register:
    """The wires of one task, the most significant first, and the readout that measures them."""

    task: Task
    wires: tuple[int, ...]
    readout: Readout


def default_readout(task: Task, n_wires: int | None = None) -> Readout:
    """Return Z on one wire per output, or basis-state probabilities for a multiclass task.

    The read wires are spread over the register. With three targets on six wires, if the read wires
    were neighbours, a weight of the opposite wire would have no effect.

    Args:
        task: the task.
        n_wires: number of wires of the task's register; None for the default number.

    Example:
        >>> default_readout(Task.multiclass("emotion", 9))
        Probabilities(n=9)
        >>> default_readout(Task.regression("pose", 3))
        ExpectationZ(n=3, step=2)
    """
    if task.kind == "multiclass":
        return Probabilities(task.n_outputs)
    size = _default_wires(task) if n_wires is None else n_wires
    if task.n_outputs == 1:
        return ExpectationZ(1)
    return ExpectationZ(task.n_outputs, step=max(1, size // task.n_outputs))


def _default_wires(task: Task) -> int:
    if task.kind == "multiclass":
        return max(2, Probabilities(task.n_outputs).min_wires)
    return max(2, 2 * task.n_outputs if task.kind == "regression" else task.n_outputs)


def register_sizes(
    tasks: Sequence[Task],
    layout: Layout,
    readouts: Mapping[str, Readout],
    wires_per_task: int | Mapping[str, int] | None,
    n_wires: int | None,
) -> dict[str, int]:
    """Return the requested, or else the default, number of wires of each task's register."""
    defaults = {
        task.name: max(_default_wires(task), readouts[task.name].min_wires)
        if task.name in readouts
        else _default_wires(task)
        for task in tasks
    }
    if layout == "shared":
        if wires_per_task is not None:
            raise InvalidInputError("wires_per_task is for the partitioned layout; use n_wires")
        sizes = dict.fromkeys(defaults, max(defaults.values()) if n_wires is None else n_wires)
    else:
        if n_wires is not None:
            raise InvalidInputError("n_wires is for the shared layout; use wires_per_task")
        if isinstance(wires_per_task, Mapping):
            check_names("wires_per_task", wires_per_task, list(defaults))
            sizes = defaults | dict(wires_per_task)
        else:
            sizes = defaults if wires_per_task is None else dict.fromkeys(defaults, wires_per_task)
    given: dict[str, Any] = dict(sizes)
    return {
        name: check_integer(
            f"task {name!r}: wires", int(size) if isinstance(size, np.integer) else size
        )
        for name, size in given.items()
    }


def check_sizes(sizes: Mapping[str, int], readouts: Mapping[str, Readout]) -> None:
    """Check that every register has the wires that its readout needs."""
    for name, size in sizes.items():
        if size < readouts[name].min_wires:
            raise InvalidInputError(
                f"task {name!r}: the readout {readouts[name]} needs at least "
                f"{readouts[name].min_wires} wires, its register has {size}"
            )


def make_registers(
    tasks: Sequence[Task], layout: Layout, readouts: Mapping[str, Readout], sizes: Mapping[str, int]
) -> dict[str, Register]:
    """Return registers side by side if partitioned, all on the same wires if shared."""
    registers = {}
    start = 0
    for task in tasks:
        readout = readouts[task.name]
        if readout.n_outputs != task.n_outputs:
            raise InvalidInputError(
                f"task {task.name!r} has {task.n_outputs} outputs, its readout {readout} has "
                f"{readout.n_outputs}"
            )
        size = sizes[task.name]
        registers[task.name] = Register(task, tuple(range(start, start + size)), readout)
        start += size if layout == "partitioned" else 0
    return registers


def check_names(what: str, given: Mapping[str, object], names: list[str]) -> None:
    """Raise if `given`, a dictionary by task name, has a key that is not among the tasks' names."""
    known = set(names)
    for name in given:
        if name not in known:
            raise unknown_name(f"task in {what}", name, names)
