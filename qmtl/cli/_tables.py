"""A table's rows in the form that a run's model takes."""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmtl.errors import InvalidInputError, UnclearKindError, nearest

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from qmtl.data import LabelTable
    from qmtl.experiments import Run
    from qmtl.tasks import Task


def label_task(labels: "LabelTable", table: Path, name: str, kind: str | None) -> "Task":
    """The task of a ``--target``, with errors in the words of the command line.

    Args:
        labels: the table's columns.
        table: the file, for messages.
        name: the column.
        kind: the kind that was given; None for that of the labels.

    Raises:
        InvalidInputError: if the labels do not fit the kind, or do not say which it is.
    """
    try:
        return labels.task(name, kind)
    except UnclearKindError as error:
        ways = " or ".join(f"--target {shlex.quote(f'{name}={one}')}" for one in error.kinds)
        raise InvalidInputError(f"{table}: {error.problem}; say it with {ways}") from None
    except InvalidInputError as error:
        raise InvalidInputError(f"{table}: {error}") from None


def read_inputs(
    run: "Run", table: Path, delimiter: str | None, labels: Sequence[str] = ()
) -> tuple["Tensor", "pd.DataFrame"]:
    """Inputs of a table's rows, (rows, inputs), and the table.

    Args:
        run: a run that was trained on a table.
        table: the file.
        delimiter: character between cells; None detects it.
        labels: further columns that the table must have, read as text.

    Raises:
        InvalidInputError: if the run has no columns, the table lacks some, or a cell does not fit.
    """
    from qmtl.data import TableColumns, read_table

    columns_file = run.path / "inputs.json"
    if not columns_file.is_file():
        raise InvalidInputError(
            f"the run {run.path} was not trained on a table: it has no inputs.json"
        )
    try:
        content: Any = json.loads(columns_file.read_text(encoding="utf-8"))
        columns = TableColumns.from_dict(content)
    except ValueError as error:
        raise InvalidInputError(f"{columns_file} is damaged: {error}") from None
    categories = [name for name, _ in columns.categorical]
    rows = read_table(table, delimiter, texts=[*categories, *labels])
    header = [str(name) for name in rows.columns]
    missing = [name for name in (*columns.names, *labels) if name not in header]
    if missing:
        whose = "the target and " if set(missing) & set(labels) else ""
        free = [name for name in header if name not in columns.names]
        near = [(name, nearest(name, free)) for name in missing[:8]]
        means = ", ".join(f"{own[0]!r} for {name!r}" for name, own in near if own)
        raise InvalidInputError(
            f"{table}: the header lacks {_some(missing)} of {whose}the columns that the run's "
            f"model needs; {f'is it {means}? ' if means else ''}it has {_some(header)}"
        )
    for name, unseen in columns.unseen(rows).items():
        print(
            f"warning: {table}: column {name!r} has {_some(unseen)}, which the run has not seen "
            f"and takes as blank",
            file=sys.stderr,
        )
    try:
        return columns.encode(rows), rows
    except InvalidInputError as error:
        raise InvalidInputError(f"{table}: {error}") from None


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(repr(name) for name in names[:8])
    return listed if len(names) <= 8 else f"{listed} and {len(names) - 8} more"
