"""Columns of a table as labels: which ones, their numbers or texts, and the task they make."""

import contextlib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qmtl.data._cells import (
    Cells,
    cell_error,
    cell_numbers,
    checked_numbers,
    is_number_type,
    text_values,
    typing_errors,
)
from qmtl.data._csv import TextTable, is_nameless
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import Task, check_varied, infer_task

if TYPE_CHECKING:
    import pandas as pd

Wanted = tuple[tuple[str, ...], Task | str | None]  # columns of a task, and the task or its kind
Targets = str | Task | Sequence[Task | str] | Mapping[str, str | Task | None]


class LabelTable:
    r"""The columns of a file as labels, read as `from_csv` reads the targets.

    Args:
        path: the file.
        delimiter: character between cells; None detects it.
        decimal: decimal mark; None detects it.
        weights: column with the weights of the rows, if the file has it. Rows of weight 0 are left
            out, as in training.
        usual_decimal, usual_encoding, na_values: see `read_table`.

    Attributes:
        names: names of the columns.
        rows: labels of the rows, as in the index of `read_table`.
        row_weights: the rows' weights, float64 (N,); None if there is no such column.

    Raises:
        InvalidInputError: the file cannot be read as a table, or a weight is missing or negative.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
        >>> _ = path.write_text("sold;price\nyes;1,5\nno;2,25\nyes;3,75\n")
        >>> table = LabelTable(path)
        >>> table.names, len(table), table.task("price").kind
        (('sold', 'price'), 3, 'regression')
        >>> table.targets(table.task("sold"))
        tensor([1., 0., 1.])
    """

    def __init__(
        self,
        path: str | PathLike[str],
        delimiter: str | None = None,
        *,
        decimal: str | None = None,
        weights: str | None = None,
        usual_decimal: str | None = None,
        usual_encoding: str | None = None,
        na_values: Any = (),
    ) -> None:
        usual = {"usual_decimal": usual_decimal, "usual_encoding": usual_encoding}
        file = TextTable(path, delimiter, decimal, na_values=na_values, **usual)
        self.names = tuple(file.header)
        self._decimal = file.decimal
        self._frame = file.frame(file.header)
        self.row_weights: Tensor | None = None
        if weights in self.names:
            try:
                numbers = read_weights(self._frame, weights, self._decimal)
            except InvalidInputError as error:
                raise InvalidInputError(f"{path}: {error}") from None
            self._frame = self._frame[numbers > 0]
            self.row_weights = torch.from_numpy(numbers[numbers > 0])
        self.rows = self._frame.index

    def __len__(self) -> int:
        return len(self._frame)

    def task(self, name: str, kind: str | None = None) -> Task:
        """Return a column's task, of the given kind or inferred from the labels; see `infer_task`.

        Raises:
            InvalidInputError: the labels do not fit, have one class, or no clear kind.

        Warns:
            UserWarning: a regression target has one value.
        """
        task, targets = read_labels(self._frame, (name,), kind, self._decimal)
        check_varied(task, targets)
        return task

    def targets(self, task: Task) -> Tensor:
        """Return the canonical targets of the task's column, see `Task.to_targets`."""
        return read_labels(self._frame, (task.name,), task, self._decimal)[1]


def read_weights(table: "pd.DataFrame", name: str, decimal: str | None) -> np.ndarray:
    """Return the column of a table that holds the weights of its rows."""
    if name not in table.columns:
        raise unknown_name("weights:", name, table.columns)
    weights = cell_numbers(table[name], decimal)
    bad = ~(weights >= 0)
    if bad.any():
        raise cell_error(table[name], int(bad.argmax()), "a weight of at least 0")
    if not weights.any():
        raise InvalidInputError(f"weights: column '{name}' is zero everywhere: no row is left")
    return weights


def read_labels(
    table: "pd.DataFrame", names: Sequence[str], wanted: Task | str | None, decimal: str | None
) -> tuple[Task, Tensor]:
    """Return the task of some label columns, and its canonical targets."""
    values = [label_values(table[name], wanted, decimal) for name in names]
    task = wanted if isinstance(wanted, Task) else task_of(table[names[0]], values[0], wanted)
    together = values[0] if len(values) == 1 else np.stack(values, axis=1)
    return task, targets_of(task, together, table.index)


def task_of(column: Any, values: Any, kind: str | None) -> Task:
    """Return the task of a label column; ordered categories give the order of the classes."""
    categories = getattr(column.dtype, "categories", None)
    # Numbers in a column of pandas' categorical type are classes.
    typed = categories is not None and is_number_type(categories.dtype)
    task = infer_task(str(column.name), column if typed else values, kind)
    if categories is None or not column.dtype.ordered or not task.class_names:
        return task
    order = [name for name in map(str, categories) if name in task.class_names]
    same = len(order) == len(task.class_names)
    return replace(task, class_names=tuple(order)) if same else task


def label_values(column: "pd.Series", wanted: str | Task | None, decimal: str | None) -> Any:
    """Return the labels in a column: numbers as float64, other columns as they are.

    Durations are numbers of days.
    """
    from pandas.api import types

    kind = wanted.kind if isinstance(wanted, Task) else wanted
    if types.is_datetime64_any_dtype(column.dtype):
        return column.astype(object)  # `Task.to_targets` refuses these and names the row
    if types.is_bool_dtype(column.dtype):
        return column
    if is_number_type(column.dtype) or kind == "regression":
        return cell_numbers(column, decimal)
    cells = Cells.of(column)
    named = isinstance(wanted, Task) and kind != "multilabel" and wanted.class_names
    if named and set(cells.texts) <= set(named):
        return column
    numbers = text_values(str(column.name), cells.texts, decimal)
    if cells.texts and len(numbers) == len(cells.texts):
        return checked_numbers(column, cells.spread(numbers))
    if kind is None and typing_errors(cells.texts, numbers):
        checked_numbers(column, cells.spread(numbers))  # raises and names the row
    return column


def targets_of(task: Task, values: Any, rows: Sequence[Any]) -> Tensor:
    """Return the targets of a task; each distinct text is converted once."""
    import pandas as pd

    if isinstance(values, pd.Series):
        with contextlib.suppress(InvalidInputError, TypeError):
            codes, distinct = pd.factorize(values, use_na_sentinel=False)
            distinct = np.asarray(distinct, dtype=object)
            return task.to_targets(distinct)[torch.from_numpy(codes)]
    return task.to_targets(values, rows=rows)  # an error names the row


def wanted_columns(header: Sequence[str], targets: Targets, roles: Iterable[str]) -> list[Wanted]:
    """Return the target columns; patterns do not match columns with one of the given roles."""
    if isinstance(targets, str | Task):
        targets = [targets]
    if not isinstance(targets, Iterable):
        raise InvalidInputError(
            f"targets: expected tasks, column names or a dict of kinds, got {targets!r}"
        )
    if isinstance(targets, Mapping):
        pairs = [(str(name), wanted) for name, wanted in targets.items()]
    else:
        pairs = [(t.name, t) if isinstance(t, Task) else (str(t), None) for t in targets]
    if not pairs:
        raise InvalidInputError("targets: expected at least one column, got none")
    named = {name for name, _ in pairs if name in header} | {*roles}
    found: list[Wanted] = []
    for name, wanted in pairs:
        if isinstance(wanted, Task):
            if wanted.name != name:
                raise InvalidInputError(
                    f"targets: the key '{name}' holds a task named '{wanted.name}'; use one name"
                )
            found.append((_label_columns(wanted, header), wanted))
        elif name in header:
            found.append(((name,), wanted))
        elif any(mark in name for mark in "*?["):
            free = [c for c in header if c not in named and not is_nameless(c)]
            columns = [c for c in free if fnmatch.fnmatchcase(c, name)]
            if not columns:
                raise InvalidInputError(
                    f"targets: no column fits the pattern {name!r}; the columns are "
                    f"{', '.join(free[:20])}{', ...' if len(free) > 20 else ''}"
                )
            named.update(columns)
            found += [((column,), wanted) for column in columns]
        else:
            raise unknown_name("target column", name, header)
    return found


def _label_columns(task: Task, header: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of the task's labels: the one with its name, or one for each class."""
    several = task.kind in ("multilabel", "regression") and task.n_outputs > 1
    columns: tuple[str, ...] = (task.name,)
    if task.class_names and (several or (task.kind == "multilabel" and task.name not in header)):
        columns = task.class_names
    elif several:
        raise InvalidInputError(
            f"targets: task '{task.name}' has {task.n_outputs} outputs; name their columns in its "
            f"class_names"
        )
    for column in columns:
        if column not in header:
            raise unknown_name("target column", column, header)
    return columns
