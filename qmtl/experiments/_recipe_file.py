"""Reading recipes: built-in ones and TOML files, with values set on the command line."""

import codecs
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from qmtl.errors import RecipeError, unknown_name
from qmtl.experiments._recipe import Recipe, recipe_from, set_key

__all__ = ["built_in_recipes", "parse_grid", "read_recipe"]


def built_in_recipes() -> list[str]:
    """Names of the recipes that come with the package.

    Example:
        >>> "digits" in built_in_recipes()
        True
    """
    folder = resources.files("qmtl.experiments") / "recipes"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def read_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by built-in name or by path.

    Args:
        name_or_path: such as ``"digits"`` or ``"my.toml"``.
        overrides: ``"section.key=value"`` with a TOML value (quotes around text may be left out).

    Raises:
        RecipeError: for a file that is missing or not TOML, an unknown key (the nearest valid
            one is named), or a value that does not fit.

    Example:
        >>> read_recipe("digits", ["training.seed=3"]).training.seed
        3
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.is_file():
        try:
            text = _decoded(path.read_bytes())
        except FileNotFoundError:
            raise RecipeError(f"recipe {path}: there is no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe {path} cannot be read: {error}") from None
    elif str(name_or_path) in built_in_recipes():
        text = (
            resources.files("qmtl.experiments") / "recipes" / f"{name_or_path}.toml"
        ).read_text()
    else:
        raise unknown_name(
            "recipe (or path to a .toml file)", str(name_or_path), built_in_recipes()
        )
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {name_or_path} is not valid TOML: {error}") from None
    for override in overrides:
        _override(content, override)
    return recipe_from(content, str(name_or_path), path.parent)


def _decoded(content: bytes) -> str:
    """Text in UTF-8, with or without a byte order mark, or in UTF-16 with one."""
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if utf_16 else "utf-8-sig")


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """A grid from texts ``KEY=V1,V2,...`` with TOML values (quotes around words may be left out).

    Raises:
        RecipeError: for a text without a key or a value, or a key that is given twice.

    Example:
        >>> parse_grid(["training.learning_rate=0.01,0.1", "training.scalarizer=mean,uw"])
        {'training.learning_rate': [0.01, 0.1], 'training.scalarizer': ['mean', 'uw']}
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, _, values = (part.strip() for part in text.partition("="))
        if not key or not values:
            raise RecipeError(f"--grid needs KEY=V1,V2,..., got {text!r}")
        if key in grid:
            raise RecipeError(f"--grid: the key {key!r} is given twice; separate values by commas")
        try:
            grid[key] = tomllib.loads(f"values = [{values}]")["values"]
        except tomllib.TOMLDecodeError:
            grid[key] = [_value(value.strip()) for value in values.split(",")]
    return grid


def _override(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise RecipeError(f"--set needs KEY=VALUE, got {override!r}")
    set_key(content, key.strip(), _value(text), f"--set {override!r}")


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
