"""Reading predictions back from the CSV file that a run, or ``qmtl predict``, writes."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qmtl.errors import RunDirectoryError
from qmtl.tasks import Task
from qmtl.training.predictions import class_labels, column_names

__all__ = ["TaskPredictions", "read_predictions"]

Columns = dict[str, list[str]]


@dataclass(frozen=True)
class TaskPredictions:
    """One task's predictions and targets on the rows of a split.

    Attributes:
        task: the task.
        predictions: as from `Task.activation`: binary (N,), multiclass and multilabel
            (N, n_outputs) probabilities; regression (N,), or (N, n_outputs), in the targets' units.
        targets: as from `Task.to_targets`, missing labels included; None if the file has none.
    """

    task: Task
    predictions: Tensor
    targets: Tensor | None


def read_predictions(path: str | Path, tasks: Sequence[Task]) -> dict[str, TaskPredictions]:
    """Predictions by task name, from a file that `prediction_rows` became.

    Args:
        path: such as ``RUN/predictions.csv``.
        tasks: those of the model that predicted.

    Raises:
        RunDirectoryError: if the file cannot be read, a column is missing, or a cell is no number;
            the column is named.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = [*csv.reader(file)] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunDirectoryError(f"{path} cannot be read: {error}") from None
    if not header:
        raise RunDirectoryError(f"{path} is damaged: it is empty")
    if any(len(row) != len(header) for row in rows):
        raise RunDirectoryError(f"{path} is damaged: not every row has {len(header)} columns")
    columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True)) if rows else {}
    columns = columns or {name: [] for name in header}
    try:
        return {task.name: _task(task, columns) for task in tasks}
    except KeyError as error:
        raise RunDirectoryError(f"{path} is damaged: there is no column {error}") from None
    except ValueError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from None


def _task(task: Task, columns: Columns) -> TaskPredictions:
    name, classes = column_names(task)
    several = task.kind == "multilabel" or (task.kind == "regression" and task.n_outputs > 1)
    if task.kind == "binary":
        predictions = _numbers(columns, [f"{name}:{classes[1]}"])[:, 0]
    elif task.kind == "multiclass":
        predictions = _numbers(columns, [f"{name}:{c}" for c in classes])
    elif task.kind == "multilabel":
        predictions = _numbers(columns, [f"{name}:{c}:p" for c in classes])
    else:
        names = [f"{name}:{c}" for c in classes] if several else [name]
        predictions = _numbers(columns, names)
        predictions = predictions if several else predictions[:, 0]
    targets = [f"{name}:{c}:target" for c in classes] if several else [f"{name}:target"]
    if targets[0] not in columns:
        return TaskPredictions(task, predictions, None)
    if task.kind in ("binary", "multiclass"):
        return TaskPredictions(task, predictions, _classes(task, columns[targets[0]]))
    found = _numbers(columns, targets)
    return TaskPredictions(task, predictions, task.to_targets(found if several else found[:, 0]))


def _classes(task: Task, cells: Sequence[str]) -> Tensor:
    labels = {label: i for i, label in enumerate(class_labels(task))}
    unknown = {cell for cell in cells if cell} - set(labels)
    if unknown:
        raise ValueError(f"task {task.name!r} has no class {min(unknown)!r}")
    return task.to_targets([labels[cell] if cell else None for cell in cells])


def _numbers(columns: Columns, names: Sequence[str]) -> Tensor:
    """The columns side by side, (N, columns); blanks are NaN."""
    result = torch.empty(len(columns[names[0]]), len(names), dtype=torch.float64)
    for i, name in enumerate(names):
        try:
            values = [float(cell) if cell else float("nan") for cell in columns[name]]
        except ValueError as error:
            raise ValueError(f"column {name!r}: {error}") from None
        result[:, i] = torch.tensor(values, dtype=torch.float64)
    return result
