"""Arguments and options shared by several commands: help, shell completion, parsing.

Nothing here imports torch, except the completion of heads, because the shell calls this at every
key press.
"""

from collections.abc import Iterable
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer

from qmtl.errors import InvalidInputError

# Sections of a recipe with a seed.
SEEDED = ("data", "encoder", "head", "training")


def expanded(value: Any) -> Any:
    """A path, or a list of them, with ``~`` expanded; shells do not expand it in ``--out=~/x``.

    A recipe or a design may also be a name, and stays text.

    Example:
        >>> expanded(Path("~")) == Path.home()
        True
    """
    if isinstance(value, list | tuple):
        return [expanded(item) for item in value]
    if isinstance(value, str) and value.startswith("~"):
        return str(Path(value).expanduser())
    return value.expanduser() if isinstance(value, Path) else value


RunDirectory = Annotated[Path, typer.Argument(help="A run directory.", callback=expanded)]
Split = Annotated[str, typer.Option(help="train, validation or test.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key; repeatable."),
]
SeedOption = Annotated[
    int | None,
    typer.Option(min=0, help="Of split, encoder, head and training at once. [the recipe's]"),
]


Delimiter = Annotated[
    str | None,
    typer.Option(help="Between cells of the table, \\\\t for a tab; found out by default."),
]


def with_seed(overrides: list[str] | None, seed: int | None) -> list[str]:
    """Overrides of a recipe, with one seed for everything that is random.

    A single seed that ``--set`` gives takes precedence.

    Example:
        >>> with_seed(["training.seed=1"], 7)[-2:]
        ['training.seed=7', 'training.seed=1']
    """
    seeds = [] if seed is None else [f"{section}.seed={seed}" for section in SEEDED]
    return [*seeds, *(overrides or [])]


def complete_recipe(incomplete: str) -> list[str]:
    """Complete the names of built-in recipes.

    Example:
        >>> complete_recipe("dig")
        ['digits']
    """
    return [name for name in recipe_texts() if name.startswith(incomplete)]


def recipe_texts() -> dict[str, str]:
    """Built-in recipes by name, as TOML text."""
    folder = files("qmtl") / "experiments" / "recipes"
    entries = [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return {
        entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8")
        for entry in sorted(entries, key=lambda entry: entry.name)
    }


def complete_design(incomplete: str) -> list[str]:
    """Complete the names of the catalogue's designs.

    Example:
        >>> complete_design("cz")
        ['cz-ring']
    """
    installed = files("qmtl") / "circuits"
    folder = installed if installed.is_dir() else Path(__file__).parents[2] / "circuits"
    return _matching((entry.name for entry in folder.iterdir()), incomplete)


def complete_head(incomplete: str) -> list[str]:
    """Complete the types of heads.

    Example:
        >>> complete_head("local")
        ['local-cone', 'local-register']
    """
    from qmtl.heads import HEAD_TYPES

    names = (*HEAD_TYPES, "single-task")
    return [name for name in names if name.startswith(incomplete)]


def complete_heads(incomplete: str) -> list[str]:
    """Complete the last type of head in a comma-separated list.

    Example:
        >>> complete_heads("linear,loc")
        ['linear,local-cone', 'linear,local-register']
    """
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in complete_head(last)]


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    found = [name.removesuffix(".toml") for name in names if name.endswith(".toml")]
    return sorted(name for name in found if name.startswith(incomplete))


def parse_numbers(option: str, text: str, *, least: int = 1) -> tuple[int, ...]:
    """Comma-separated whole numbers, ascending and without repetition.

    Raises:
        InvalidInputError: if an entry is not a whole number, or too small.

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
    """Comma-separated finite numbers >= 0, ascending and without repetition.

    Raises:
        InvalidInputError: if an entry is not such a number.

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
