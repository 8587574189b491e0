"""``qmtl recipes`` and ``qmtl init``: list recipes, and write a recipe for your own table."""

import json
import re
import shlex
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from qmtl._html import rendered
from qmtl._io import print_table, recipe_texts
from qmtl.cli._options import Delimiter, complete_recipe, label_task, path_argument, path_option
from qmtl.cli._output import check_out, write_out
from qmtl.errors import InvalidInputError, UnclearKindError, unknown_name

if TYPE_CHECKING:
    from qmtl.data import LabelTable
    from qmtl.tasks import Task

# Most columns that the recipe lists.
MOST = 40


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
    """Split the comment at the top of a recipe into its description and the command in it."""
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
    from qmtl.experiments import recipe_from
    from qmtl.heads import HEAD_TYPES

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
            line = _target_line(name, task, kind)
            lines.append(f"# {line}  # or {' or '.join(more)}")
    if len(names) > MOST:
        lines.append(f"# … {len(names):,} columns in all")
    # Use a path relative to the recipe, so that both files can move together.
    near = table.resolve().is_relative_to(path.resolve().parent)
    where = table.resolve().relative_to(path.resolve().parent) if near else table.resolve()
    columns = data.columns
    assert columns is not None
    used = {*wanted, *columns.names}
    recipe = rendered(
        "init.toml.j2",
        table=table.name,
        rows=len(labels),
        columns=len(names),
        recipe=shlex.quote(str(path)),
        name=json.dumps(_plain(table.stem)),
        path=json.dumps(where.as_posix(), ensure_ascii=False),
        delimiter=None if delimiter is None else json.dumps(delimiter),
        inputs={
            "numbers": [name for name, *_ in columns.numeric],
            "dates": [name for name, *_ in columns.dates],
            "categories": [f"{name} ({len(found)})" for name, found in columns.categorical],
        },
        most=MOST,
        ignored=json.dumps([name for name in names if name not in used], ensure_ascii=False),
        notes=data.notes,
        targets=lines,
        heads=HEAD_TYPES,
        defaults=recipe_from({"data": {"source": "digits"}}),
        comment=_comment,
    )
    write_out(path, f"{recipe}\n")


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
    return f"{key} = {json.dumps(kind)}{f'  # {_comment(about)}' if about else ''}"


def _comment(text: str) -> str:
    """Return a text for a TOML comment: one line without control characters."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def _plain(name: str) -> str:
    """Replace characters that are not allowed in a recipe's name."""
    kept = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    return kept if kept[:1].isalnum() else f"table{kept}"
