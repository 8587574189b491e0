"""Inputs of commands: shared arguments and options, shell completion, parsing, tables."""

# Import torch only inside functions, because the shell calls the completion at every key press.

import shlex
import sys
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from qmtl._html import listed
from qmtl._io import design_texts, recipe_texts
from qmtl.errors import InvalidInputError, UnclearKindError, nearest

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from qmtl.data import LabelTable
    from qmtl.experiments import Run
    from qmtl.tasks import Task


def expanded(value: Any) -> Any:
    """Expand ``~`` in a path or a list of paths; shells do not expand ``--out=~/x``."""
    if isinstance(value, list | tuple):
        return [expanded(item) for item in value]
    if isinstance(value, str) and value.startswith("~"):
        return str(Path(value).expanduser())
    return value.expanduser() if isinstance(value, Path) else value


def path_option(text: str, *names: str, **more: Any) -> Any:
    """Return an option that takes a path, with this help."""
    return Option(*names, callback=expanded, help=text, **more)


def path_argument(text: str, **more: Any) -> Any:
    """Return an argument that takes paths, with this help."""
    return Argument(callback=expanded, help=text, **more)


RunDirectory = Annotated[Path, path_argument("A run directory.")]
Split = Annotated[str, Option(help="train, validation or test.")]
Overrides = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="Override a recipe key; repeatable."),
]
SeedOption = Annotated[
    int | None, Option(min=0, help="Seed of split, encoder, head and training. [the recipe's]")
]
Delimiter = Annotated[
    str | None, Option(help="Character between cells, \\\\t for a tab; detected by default.")
]
Decimal = Annotated[str | None, Option(help="Decimal mark, . or , [detected]")]


def with_seed(overrides: list[str] | None, seed: int | None) -> list[str]:
    """Return overrides that set every seed, followed by `overrides`, which take precedence."""
    sections = () if seed is None else ("data", "encoder", "head", "training")
    return [*(f"{section}.seed={seed}" for section in sections), *(overrides or [])]


def complete_recipe(incomplete: str) -> list[str]:
    """Complete the names of built-in recipes."""
    return [name for name in recipe_texts() if name.startswith(incomplete)]


def complete_design(incomplete: str) -> list[str]:
    """Complete the names of the catalogue's designs."""
    return [name for name in design_texts() if name.startswith(incomplete)]


def complete_head(incomplete: str) -> list[str]:
    """Complete the types of heads."""
    from qmtl.heads import HEAD_TYPES

    return [name for name in (*HEAD_TYPES, "single-task") if name.startswith(incomplete)]


def complete_heads(incomplete: str) -> list[str]:
    """Complete the last type of head in a comma-separated list."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in complete_head(last)]


def parse_numbers(option: str, text: str, least: int = 1, kind: type = int) -> tuple[Any, ...]:
    """Return distinct finite numbers from comma-separated text, in ascending order."""
    try:
        numbers = {kind(word) for word in text.split(",")}
    except ValueError:
        numbers = set()
    if not numbers or not all(least <= number < inf for number in numbers):
        words = "whole numbers" if kind is int else "numbers"
        raise InvalidInputError(
            f"{option}: expected {words} >= {least} between commas, got {text!r}"
        )
    return tuple(sorted(numbers))


def label_task(labels: "LabelTable", table: Path, name: str, kind: str | None) -> "Task":
    """Return the task of a ``--target``; error messages mention the option."""
    try:
        return labels.task(name, kind)
    except UnclearKindError as error:
        ways = " or ".join(f"--target {shlex.quote(f'{name}={one}')}" for one in error.kinds)
        raise InvalidInputError(f"{table}: {error.problem}; say it with {ways}") from None
    except InvalidInputError as error:
        raise InvalidInputError(f"{table}: {error}") from None


def table_options(run: "Run") -> dict[str, Any]:
    """Return options for tables like the run's own: its decimal mark, encoding, missing values."""
    columns, data = run.columns(), run.recipe.data
    return {
        "usual_decimal": None if columns is None else columns.decimal,
        "usual_encoding": getattr(data, "encoding", None),
        "na_values": getattr(data, "na_values", None) or (),
    }


def read_label_table(
    run: "Run", table: Path, delimiter: str | None, decimal: str | None
) -> "LabelTable":
    """Read a table's labels, and its rows' weights in the column that the run's recipe names."""
    from qmtl.data import LabelTable

    weights = getattr(run.recipe.data, "weights", None)
    labels = LabelTable(table, delimiter, decimal=decimal, weights=weights, **table_options(run))
    if weights is not None and labels.row_weights is None:
        print(
            f"warning: {table}: the header lacks the run's weights {weights!r}: rows count equally",
            file=sys.stderr,
        )
    return labels


def targets_in(labels: "LabelTable", table: Path, tasks: Sequence["Task"]) -> dict[str, "Tensor"]:
    """Return the targets of the tasks whose labels a table has; warn of tasks that it lacks."""
    lacking = listed(repr(task.name) for task in tasks if task.name not in labels.names)
    try:
        found = {t.name: labels.targets(t) for t in tasks if t.name in labels.names}
    except InvalidInputError as error:
        raise InvalidInputError(f"{table}: {error}") from None
    if not found:
        raise InvalidInputError(
            f"{table}: the header has none of the targets {lacking}; qmtl predict needs none"
        )
    if lacking:
        print(f"warning: {table}: the header lacks the targets {lacking}", file=sys.stderr)
    return found


def read_inputs(
    run: "Run",
    table: Path,
    delimiter: str | None,
    labels: Sequence[str] = (),
    decimal: str | None = None,
    kept: "pd.Index | None" = None,
) -> tuple["Tensor", "pd.DataFrame"]:
    """Return the inputs in a table, shape (rows, inputs), and the table.

    `labels` are columns that it must have besides the inputs; they stay texts. `kept` are labels of
    the rows to read; None for all.
    """
    from qmtl.data import read_table

    columns = run.columns()
    if columns is None:
        raise InvalidInputError(
            f"the run {run.path} was not trained on a table: it has no inputs.json"
        )
    categories = [name for name, _ in columns.categorical]
    # If the new file is ambiguous, use the decimal mark and encoding of the training file.
    texts, options = [*categories, *labels], table_options(run)
    rows = read_table(table, delimiter, decimal=decimal, texts=texts, **options)
    rows = rows if kept is None else rows[rows.index.isin(kept)]
    header = [str(name) for name in rows.columns]
    missing = [name for name in (*columns.names, *labels) if name not in header]
    if missing:
        whose = "the target and " if set(missing) & set(labels) else ""
        free = [name for name in header if name not in columns.names]
        near = [(name, nearest(name, free)) for name in missing[:8]]
        means = ", ".join(f"{own[0]!r} for {name!r}" for name, own in near if own)
        raise InvalidInputError(
            f"{table}: the header lacks {listed(map(repr, missing))} of {whose}the columns that "
            f"the run's model needs; {f'is it {means}? ' if means else ''}it has "
            f"{listed(map(repr, header))}"
        )
    for note in columns.unseen_notes(rows):
        print(f"warning: {table}: {note}", file=sys.stderr)
    try:
        return columns.encode(rows), rows
    except InvalidInputError as error:
        raise InvalidInputError(f"{table}: {error}") from None
