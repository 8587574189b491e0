"""The exceptions a user may catch: every error that qmtl raises on purpose is a `QmtlError`."""

import difflib
import operator
import os
from collections.abc import Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import SupportsIndex
from unicodedata import normalize

__all__ = [
    "CircuitTooLargeError",
    "HardwareAccountError",
    "HardwareBudgetError",
    "HardwareBusyError",
    "HardwareConnectionError",
    "HardwareError",
    "HardwareJobError",
    "HardwareRefusedError",
    "HardwareResultError",
    "InvalidInputError",
    "LedgerError",
    "MissingDependencyError",
    "ModelFileError",
    "QmtlError",
    "RecipeError",
    "RunDirectoryError",
    "UnclearKindError",
    "as_path",
    "check_integer",
    "check_type",
    "missing_extra",
    "near_paths",
    "nearest",
    "unknown_name",
]


class QmtlError(Exception):
    """Any error that qmtl raises on purpose. The command line prints it on one line and exits 2."""


class InvalidInputError(QmtlError, ValueError):
    """An argument, a file or a label has a wrong type, shape or value."""


class UnclearKindError(InvalidInputError):
    """Labels do not say which kind of task they are.

    Attributes:
        problem: what is unclear.
        kinds: the kinds that fit the labels, the likeliest first.
        advice: what to do in Python.
    """

    def __init__(self, problem: str, kinds: tuple[str, ...] = (), advice: str = "") -> None:
        super().__init__(problem, kinds, advice)
        self.problem, self.kinds, self.advice = problem, kinds, advice

    def __str__(self) -> str:
        return f"{self.problem}; {self.advice}" if self.advice else self.problem


class CircuitTooLargeError(InvalidInputError):
    """A circuit cannot be simulated within the memory limit; the message names the cause."""


class RecipeError(InvalidInputError):
    """A recipe has an unknown key or a value that does not fit."""


class ModelFileError(InvalidInputError):
    """A model or checkpoint is damaged, incomplete, or of a version that cannot be read."""


class RunDirectoryError(InvalidInputError):
    """A run directory already exists, or a folder is not a run directory."""


class HardwareError(QmtlError):
    """A quantum service, or a job on it, failed."""


class HardwareAccountError(HardwareError):
    """There is no account, a token is invalid, or the account has no access to an instance."""


class HardwareConnectionError(HardwareError):
    """The service cannot be reached, or is out of order; the account is not the problem."""


class HardwareRefusedError(HardwareError):
    """The service refused a request: too many requests came, or it cannot run this one."""


class HardwareBusyError(HardwareRefusedError):
    """The service accepts no more requests at present; it may do so later."""


class HardwareBudgetError(HardwareError):
    """A run would cost more than its budget or what the account has left; nothing was sent."""


class HardwareJobError(HardwareError):
    """A job failed, was cancelled, ran too long, or cannot be found."""


class HardwareResultError(HardwareError):
    """A job's result arrived damaged or incomplete; qmtl did not store it."""


class LedgerError(InvalidInputError):
    """The ledger of hardware runs cannot be used, or another process is working on a run."""


class MissingDependencyError(QmtlError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


def check_integer(name: str, value: object, least: int = 1) -> int:
    """Return the argument as an `int`; NumPy's integers are accepted, `bool` is not.

    Args:
        name: name of the argument.
        value: its value.
        least: the smallest allowed value.

    Raises:
        InvalidInputError: if it is not an integer, or is less than `least`; the error names the
            argument.

    Example:
        >>> check_integer("dim", 0)
        Traceback (most recent call last):
        qmtl.errors.InvalidInputError: dim must be an integer >= 1, got 0
    """
    if isinstance(value, (int, SupportsIndex)) and not isinstance(value, bool):
        try:
            number = operator.index(value)
        except TypeError:  # Arrays and tensors have the method, and only some of them an index.
            number = None
        if number is not None and number >= least:
            return number
    raise InvalidInputError(f"{name} must be an integer >= {least}, got {value!r}")


def is_number(value: object) -> bool:
    """Return whether a value is a real number; NumPy's count, truth values do not.

    Example:
        >>> is_number(0.5), is_number(True), is_number("0.5")
        (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def check_type(name: str, value: object, kind: type, hint: str = "") -> None:
    """Raise `InvalidInputError` if an argument is not of a type.

    Example:
        >>> check_type("circuit", 3, str)
        Traceback (most recent call last):
        qmtl.errors.InvalidInputError: circuit must be a str, got int
    """
    if not isinstance(value, kind):
        raise InvalidInputError(
            f"{name} must be a {kind.__name__}, got {type(value).__name__}{hint}"
        )


def check_rows(name: str, values: object, kind: type) -> None:
    """Raise `InvalidInputError` unless an argument is a sequence, not empty, of one type.

    Example:
        >>> check_rows("costs", [1, "x"], int)
        Traceback (most recent call last):
        qmtl.errors.InvalidInputError: costs must be one or more int in a sequence, got list of str
    """
    got = type(values).__name__
    if isinstance(values, Sequence) and not isinstance(values, str):
        wrong = next((type(value).__name__ for value in values if not isinstance(value, kind)), "")
        if values and not wrong:
            return
        got = f"{got} of {wrong}" if wrong else f"an empty {got}"
    raise InvalidInputError(f"{name} must be one or more {kind.__name__} in a sequence, got {got}")


def as_path(value: object, name: str = "path") -> Path:
    """Return an argument as a path, with ``~`` expanded.

    Raises:
        InvalidInputError: if it is not a text or a path; the error names the argument.

    Example:
        >>> as_path(None)
        Traceback (most recent call last):
        qmtl.errors.InvalidInputError: path must be a path (text), got None
    """
    if not isinstance(value, str | os.PathLike) or "\0" in str(value):
        raise InvalidInputError(f"{name} must be a path (text), got {value!r}")
    return Path(value).expanduser()


def missing_extra(what: str, extra: str, reason: object = "") -> MissingDependencyError:
    """Return an error about packages that are not installed, with the command that installs them.

    Args:
        what: the beginning of the message: what needs the packages, or what is not installed.
        extra: the extra of qmtl that installs them.
        reason: the import's own error.

    Example:
        >>> str(missing_extra("a report needs matplotlib", "x")).split("run: ")[1]
        'pip install -c scripts/constraints.txt -e ".[x]"'
    """
    why = f" ({' '.join(str(reason).split())})" if reason else ""
    return MissingDependencyError(
        f"{what}{why}; in your clone of qmtl, run: "
        f'pip install -c scripts/constraints.txt -e ".[{extra}]"'
    )


def nearest(name: object, choices: Iterable[str]) -> list[str]:
    """Return up to two choices that are spelled nearly like a name, or have it as initials.

    Example:
        >>> nearest("ash", ["Ash", "Alcohol"]), nearest("lr", ["loss", "learning_rate"])
        (['Ash'], ['learning_rate'])
    """
    known, text = list(choices), str(name).lower()
    lowered = {choice.lower(): choice for choice in known}
    close = difflib.get_close_matches(str(name), known, n=2) or [
        lowered[c] for c in difflib.get_close_matches(text, lowered, n=2)
    ]
    return close or [c for c in known if "".join(word[0] for word in c.split("_") if word) == text]


def near_paths(path: Path) -> str:
    """Return the end of an error about a missing path: existing paths with similar names.

    Example:
        >>> near_paths(Path("nowhere", "at", "all"))
        ''
    """
    while path != path.parent and not path.parent.exists():
        path = path.parent
    if path.is_symlink():
        return f"; it is a link to {os.readlink(path)}"
    try:
        close = [] if path.exists() else nearest(path.name, (p.name for p in path.parent.iterdir()))
    except OSError:
        return ""  # the folder cannot be read
    found = " or ".join(repr(str(path.parent / name)) for name in close)
    return f"; did you mean {found}?" if found else ""


def unknown_name(what: str, name: object, choices: Iterable[str]) -> InvalidInputError:
    """Return an error about a name that is not among `choices`, with the nearest valid ones.

    Example:
        >>> str(unknown_name("entangler", "cz_rng", ["cz_ring", "cz_line"]))
        "unknown entangler 'cz_rng'; did you mean 'cz_ring' or 'cz_line'? Known: cz_ring, cz_line"
    """
    known = list(choices)
    close = nearest(name, known)
    # Different texts may look the same: an umlaut is one character, or a letter and a mark.
    alike = any(normalize("NFC", c) == normalize("NFC", str(name)) for c in close)
    written = ascii if alike else repr
    hint = f"; did you mean {' or '.join(map(written, close))}?" if close else "."
    return InvalidInputError(
        f"unknown {what} {written(name)}{hint} Known: {', '.join(known) or 'none'}"
    )
