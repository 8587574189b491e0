"""``qmtl recipes``: the recipes that come with the package."""

import re
from typing import Annotated

import typer

from qmtl.cli._options import complete_recipe, recipe_texts
from qmtl.cli._output import print_table
from qmtl.errors import unknown_name

__all__ = ["recipes"]


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="Show this one as TOML.", autocompletion=complete_recipe),
    ] = None,
) -> None:
    """List the built-in recipes, or show one as a start for your own.

    Examples of use:

    qmtl recipes

    qmtl recipes digits
    """
    texts = recipe_texts()
    if name is not None:
        if name not in texts:
            raise unknown_name("recipe", name, texts)
        print(texts[name], end="")
        return
    rows = [(recipe, *_about(recipe, text)) for recipe, text in texts.items()]
    print_table(("recipe", "what it is", "command"), rows)


def _about(name: str, text: str) -> tuple[str, str]:
    """What the comment at a recipe's head says, and the command in it."""
    comment = re.match(r"(#.*\n)*", text)
    lines = comment[0].replace("#", " ").splitlines() if comment else []
    command = re.search(r"qmtl (?:train|bench) [^`\n]*", comment[0] if comment else "")
    words = " ".join(line.strip() for line in lines)
    if command is None:
        return words, f"qmtl train {name}"
    found = command[0].strip()
    return words.replace(f"`{found}`", "").replace(found, "").strip(), found
