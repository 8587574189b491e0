"""``qmtl recipes`` and ``qmtl init``: list recipes, and write a recipe for your own table."""

import json
import re
import shlex
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from qmtl._io import print_table
from qmtl.cli._options import (
    Delimiter,
    complete_recipe,
    label_task,
    path_argument,
    path_option,
    recipe_texts,
)
from qmtl.cli._output import check_out, write_out
from qmtl.errors import InvalidInputError, UnclearKindError, unknown_name

if TYPE_CHECKING:
    from qmtl.data import LabelTable, MultiTaskData
    from qmtl.tasks import Task

# Most columns that the recipe lists.
MOST = 40
TEXT = """\
# Recipe of {table}: {rows} rows, {columns} columns. Train it with: qmtl train {recipe}
# Lines that begin with # are comments; the keys in them show defaults.
name = {name}

[data]
source = "csv"
path = {path}
{delimiter}
# Columns that are neither targets nor inputs.
# ignore = []
# Inputs; by default all other columns:
{inputs}# Fractions of train, validation and test, and the seed of the split.
# splits = [0.7, 0.15, 0.15]
# seed = {data_seed}

# What to predict, with the kind of each column: binary, multiclass or regression.
[data.targets]
{targets}
[encoder]
type = "MLP"
# hidden = {hidden}

[head]
# Others: {heads}
type = "quantum"

[circuit]
# A design of qmtl circuits list, or a file.
design = "cz-ring"

[training]
# seed = {training_seed}
# Without max_epochs there are about 7·rows^¾ steps.
# Without batch_size a step has 32 rows, or more with more than 16,384 training rows.
# batch_size = {batch_size}
# learning_rate = {learning_rate}
# How the tasks' losses are combined: a scalarizer, or an aggregator such as "upgrad".
# scalarizer = "mean"
"""


def recipes(
    name: Annotated[
        str | None,
        Argument(help="Recipe to show as TOML. [list all]", autocompletion=complete_recipe),
    ] = None,
) -> None:
    """List the built-in recipes, or show one as a starting point for your own.

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
    """Return the comment at the top of a recipe without its command, and the command."""
    comment = re.match(r"(#.*\n)*", text)
    lines = comment[0].replace("#", " ").splitlines() if comment else []
    command = re.search(r"qmtl (?:train|bench) [^`\n]*", comment[0] if comment else "")
    words = " ".join(line.strip() for line in lines)
    if command is None:
        return words, f"qmtl train {name}"
    found = command[0].strip()
    return words.replace(f"`{found}`", "").replace(found, "").strip(), found


def init(
    table: Annotated[Path, path_argument("A CSV file with a header.")],
    target: Annotated[
        list[str] | None,
        Option(
            metavar="NAME[=KIND]", help="A column to predict; repeatable. [the last suitable one]"
        ),
    ] = None,
    out: Annotated[Path | None, path_option("New recipe to write. [TABLE.toml here]")] = None,
    delimiter: Delimiter = None,
) -> None:
    """Write a recipe for a table, with the kinds of its columns as comments.

    Examples of use:

    qmtl init table.csv

    qmtl init table.csv --target price --target grade=multiclass --out mine.toml
    """
    from qmtl.data import LabelTable, from_csv

    path = Path(f"{table.stem}.toml") if out is None else out
    check_out(path)
    if path.exists():
        raise InvalidInputError(f"{path} exists already; give another --out")
    labels = LabelTable(table, delimiter)
    names = labels.names

    @cache
    def task_of(name: str) -> "Task | InvalidInputError":
        try:
            return labels.task(name)
        except InvalidInputError as error:
            return error

    if target:
        wanted = _given(target, labels, table)
    else:
        tried = map(task_of, reversed(names))
        last = next((one for one in tried if not isinstance(one, InvalidInputError)), None)
        if last is None:
            error = task_of(names[-1])
            why = error.problem if isinstance(error, UnclearKindError) else error
            raise InvalidInputError(
                f"no column has labels whose kind is clear (the last: {why}); name one: --target "
                f"NAME=KIND with the kind binary, multiclass or regression"
            )
        wanted = {last.name: last.kind}
    with warnings.catch_warnings():
        # The recipe itself lists the columns that are left out.
        warnings.simplefilter("ignore")
        # Load the data as in training, so that errors appear now.
        data = from_csv(table, targets=wanted, delimiter=delimiter)
    blank = {name: _without_label(task_of(name), labels) for name in wanted}
    lines = [_target_line(n, task_of(n), kind, blank[n]) for n, kind in wanted.items()]
    for name in names[:MOST]:
        task = task_of(name)
        if name in wanted:
            continue
        if not isinstance(task, InvalidInputError):
            lines.append(f"# {_target_line(name, task, task.kind)}")
        elif isinstance(task, UnclearKindError) and len(task.kinds) > 1:
            kind, *more = task.kinds
            line = _target_line(name, task, kind).rstrip()
            lines.append(f"# {line}  # or {' or '.join(more)}\n")
    if len(names) > MOST:
        lines.append(f"# … {len(names):,} columns in all\n")
    # Use a path relative to the recipe, so that both files can move together.
    near = table.resolve().is_relative_to(path.resolve().parent)
    where = table.resolve().relative_to(path.resolve().parent) if near else table.resolve()
    write_out(
        path,
        TEXT.format(
            table=_comment(table.name),
            rows=f"{len(labels):,}",
            columns=f"{len(names):,}",
            recipe=_comment(shlex.quote(str(path))),
            name=json.dumps(_plain(table.stem)),
            path=json.dumps(where.as_posix(), ensure_ascii=False),
            delimiter="# delimiter, decimal and encoding are detected unless they are given."
            if delimiter is None
            else f"delimiter = {json.dumps(delimiter)}",
            inputs=_inputs(data),
            targets="".join(lines),
            **_defaults(),
        ),
    )


def _given(target: list[str], labels: "LabelTable", table: Path) -> dict[str, str]:
    """Return the kind of each column in ``--target``; infer missing kinds from the labels."""
    wanted: dict[str, str] = {}
    for text in target:
        # A name may itself contain a =.
        name, _, kind = (text, "", "") if text in labels.names else text.rpartition("=")
        if name not in labels.names:
            raise unknown_name("column in --target:", name or text, labels.names)
        wanted[name] = label_task(labels, table, name, kind or None).kind
    return wanted


def _without_label(task: "Task | InvalidInputError", labels: "LabelTable") -> str:
    """Say how many rows have no label, in case their word for it should be a class."""
    if isinstance(task, InvalidInputError) or task.kind == "regression":
        return ""
    targets = labels.targets(task)
    missing = int((targets.isnan() | (targets < 0)).sum())
    return f"{missing:,} of {len(labels):,} rows have no label" if missing else ""


def _target_line(
    name: str, task: "Task | InvalidInputError", kind: str, more_about: str = ""
) -> str:
    """Write a recipe's line for a target: column, kind, and a comment on its classes."""
    about = ""
    if not isinstance(task, InvalidInputError) and kind == task.kind:
        names = [str(name) for name in task.class_names or ()]
        more = ", …" if len(names) > 6 else ""
        count = f"{task.n_outputs} classes" if task.kind == "multiclass" else ""
        about = ": ".join(part for part in (count, ", ".join(names[:6]) + more) if part)
        about = "; ".join(part for part in (about, more_about) if part)
    key = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
    return f"{key} = {json.dumps(kind)}{f'  # {_comment(about)}' if about else ''}\n"


def _inputs(data: "MultiTaskData") -> str:
    columns = data.columns
    assert columns is not None
    parts = {
        "numbers": [name for name, *_ in columns.numeric],
        "dates": [name for name, *_ in columns.dates],
        "categories": [f"{name} ({len(found)})" for name, found in columns.categorical],
    }
    lines = [
        f"#   {what}: {_comment(', '.join(names[:MOST]))}{', …' if len(names) > MOST else ''}\n"
        for what, names in parts.items()
        if names
    ]
    lines += [f"#   {_comment(note)}\n" for note in data.notes]
    return "".join(lines)


def _defaults() -> dict[str, Any]:
    from qmtl.encoders import MLPSection
    from qmtl.experiments import Recipe
    from qmtl.heads import HEAD_TYPES

    recipe = Recipe.model_validate({"data": {"source": "digits"}})
    training = recipe.training
    return {
        "hidden": MLPSection().hidden,
        "heads": ", ".join(name for name in HEAD_TYPES if name != "quantum"),
        "data_seed": recipe.data.seed,
        "training_seed": training.seed,
        "batch_size": training.batch_for(0),
        "learning_rate": training.learning_rate,
    }


def _comment(text: str) -> str:
    """Return a text for a TOML comment: one line without control characters."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def _plain(name: str) -> str:
    """Replace characters that are not allowed in a recipe's name."""
    kept = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    return kept if kept[:1].isalnum() else f"table{kept}"
