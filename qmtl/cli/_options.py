"""Options that several commands have: what the shell completes, and lists of numbers."""

from collections.abc import Iterable
from importlib.resources import files
from math import isfinite
from pathlib import Path

from qmtl.errors import InvalidInputError

__all__ = [
    "complete_design",
    "complete_head",
    "complete_heads",
    "complete_recipe",
    "parse_numbers",
    "parse_scales",
]

# As in `qmtl.heads.HEAD_TYPES`, which would import torch; a test holds them equal.
HEADS = (
    "quantum", "linear", "local-register", "local-cone", "low-rank", "fixed-width", "single-task",
    "vqc-per-task", "shared-vqc", "quantum-no-block", "quantum-frozen", "quantum-no-entangler",
)  # fmt: skip


def complete_recipe(incomplete: str) -> list[str]:
    """Built-in recipes.

    Example:
        >>> complete_recipe("dig")
        ['digits']
    """
    folder = files("qmtl") / "experiments" / "recipes"
    return _matching((entry.name for entry in folder.iterdir()), incomplete)


def complete_design(incomplete: str) -> list[str]:
    """Designs of the catalogue.

    Example:
        >>> complete_design("cz")
        ['cz-ring']
    """
    installed = files("qmtl") / "circuits"
    folder = installed if installed.is_dir() else Path(__file__).parents[2] / "circuits"
    return _matching((entry.name for entry in folder.iterdir()), incomplete)


def complete_head(incomplete: str) -> list[str]:
    """Types of heads.

    Example:
        >>> complete_head("local")
        ['local-register', 'local-cone']
    """
    return [name for name in HEADS if name.startswith(incomplete)]


def complete_heads(incomplete: str) -> list[str]:
    """Types of heads, the last one of a list with commas.

    Example:
        >>> complete_heads("linear,loc")
        ['linear,local-register', 'linear,local-cone']
    """
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in complete_head(last)]


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    found = [name.removesuffix(".toml") for name in names if name.endswith(".toml")]
    return sorted(name for name in found if name.startswith(incomplete))


def parse_numbers(option: str, text: str, *, least: int = 1) -> tuple[int, ...]:
    """Whole numbers between commas, ascending and without repetition.

    Raises:
        InvalidInputError: something is no whole number, or too small.

    Example:
        >>> parse_numbers("--tasks", "8, 2,4")
        (2, 4, 8)
    """
    try:
        numbers = {int(word) for word in text.split(",")}
    except ValueError:
        numbers = set()
    if not numbers or min(numbers) < least:
        raise InvalidInputError(
            f"{option}: expected whole numbers >= {least} between commas, got {text!r}"
        )
    return tuple(sorted(numbers))


def parse_scales(option: str, text: str) -> tuple[float, ...]:
    """Finite numbers >= 0 between commas, ascending and without repetition.

    Raises:
        InvalidInputError: something is no such number.

    Example:
        >>> parse_scales("--scale", "0,1,0.5")
        (0.0, 0.5, 1.0)
    """
    try:
        numbers = {float(word) for word in text.split(",")}
    except ValueError:
        numbers = set()
    if not numbers or not all(isfinite(number) and number >= 0 for number in numbers):
        raise InvalidInputError(f"{option}: expected numbers >= 0 between commas, got {text!r}")
    return tuple(sorted(numbers))
