"""Losses, metrics and predictions on a split; predictions as rows of a CSV file."""

import csv
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qmtl._calls import evaluating
from qmtl.data import MultiTaskData, Split
from qmtl.errors import InvalidInputError, RunDirectoryError, as_path, check_integer, check_type
from qmtl.methods import Attack, Batch, attacked_split
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task, evaluate_all, evaluate_joined, task_layout

Metrics = dict[str, dict[str, float]]


def joined_scores(
    model: MultiTaskModel,
    logits: Tensor,
    targets: Tensor,
    tasks: Sequence[str] | None = None,
    sample_weight: Tensor | None = None,
) -> Metrics:
    """Return each task's loss (NaN without labels) and metrics on a split, from joined tensors."""
    by_name = {task.name: task for task in model.tasks}
    layout = task_layout(tuple(by_name[name] for name in tasks or by_name))
    # Large weights may overflow in the type of the losses.
    relative = None if sample_weight is None else sample_weight / sample_weight.max()
    mean, std = model.target_scale(tasks)
    # Half precision cannot represent the sum and the number of many rows.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    terms = layout.loss_terms(logits, (targets - mean) / std, sample_weight=relative)
    sums, counts = (part.tolist() for part in terms)
    column = layout.column_of_output.to(logits.device)
    predictions = layout.activation(logits) * std[column] + mean[column]
    # Weights as the user gave them, as in `baseline_metrics`: weights relative to the largest would
    # round metrics differently.
    scores = evaluate_joined(layout, predictions, targets, sample_weight)
    return {
        task.name: {"loss": total / count if count else math.nan, **scores[task.name]}
        for task, total, count in zip(layout.tasks, sums, counts, strict=True)
    }


def score(
    model: MultiTaskModel,
    logits: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    sample_weight: Tensor | None = None,
) -> Metrics:
    """Return loss and metrics of the tasks with logits, from their canonical targets.

    Raises:
        InvalidInputError: if a label or a shape does not fit; the error names the task.
    """
    tasks = [task for task in model.tasks if task.name in logits]
    scores = evaluate_all(tasks, model.predictions(logits), targets, sample_weight)
    if sample_weight is not None:
        sample_weight = sample_weight / sample_weight.max()
    for task in tasks:
        own = logits[task.name]
        own = own.to(torch.promote_types(own.dtype, torch.float32))
        wanted = model.standardise(task, targets[task.name])
        total, count = task.loss_terms(own, wanted, sample_weight)
        scores[task.name] = {"loss": float(total / count), **scores[task.name]}
    return scores


@torch.no_grad()
def evaluate(
    model: MultiTaskModel, split: Split, *, batch_size: int = 256, attack: Attack | None = None
) -> Metrics:
    """Return loss and metrics of every task that the split has targets for.

    Args:
        model: the model.
        split: rows with targets of some of its tasks.
        batch_size: number of rows at once.
        attack: an attack that changes the inputs first, for robust metrics; see
            `qmtl.methods.attacked_split` for errors.

    Raises:
        InvalidInputError: if the split has no targets of the model's tasks, or of another kind.

    Example:
        >>> import qmtl
        >>> data = qmtl.data.digits(tasks=["parity"])
        >>> head = qmtl.QuantumHead(qmtl.HeadCircuit(data.tasks), seed=0)
        >>> model = MultiTaskModel(qmtl.encoders.MLP(64, out_features=head.n_features), head)
        >>> list(evaluate(model, data.test, attack=qmtl.methods.Attack(epsilon=0.1))["parity"])
        ['loss', 'accuracy', 'f1', 'auroc']
    """
    check_type("split", split, Split)
    check_integer("batch_size", batch_size)
    tasks = tuple(task for task in model.tasks if task.name in split.targets)
    if not tasks:
        raise InvalidInputError(
            f"the split has targets of {list(split.targets)}, the model has the tasks "
            f"{[task.name for task in model.tasks]}: none in common"
        )
    own = {task.name: task.to_targets(split.targets[task.name]) for task in tasks}
    if attack is not None:
        check_type("attack", attack, Attack)
        split = attacked_split(model, split, attack, batch_size=batch_size)
    reference = next(model.parameters())
    names = None if len(tasks) == len(model.tasks) else [task.name for task in tasks]
    with evaluating(model):
        parts = [
            model(chunk.to(reference), names, joined=True)
            for chunk in split.inputs.split(batch_size)
        ]
    targets = task_layout(tasks).join_targets(own)
    rows = Batch(split.inputs[:0], targets, sample_weight=split.sample_weight).to(reference.device)
    return joined_scores(model, torch.cat(parts), rows.targets, names, rows.sample_weight)


def baseline_metrics(data: MultiTaskData, split: Split) -> Metrics:
    """Return metrics of the best constant prediction: class frequencies, or mean of labels.

    Example:
        >>> import qmtl
        >>> data = qmtl.data.digits()
        >>> round(baseline_metrics(data, data.test)["digit"]["accuracy"], 1)
        0.1
    """
    rows = {}
    for task in data.tasks:
        labels = data.train.targets[task.name]
        prediction = task.baseline(labels, data.train.sample_weight)
        rows[task.name] = prediction.expand(len(split), *prediction.shape)
    return evaluate_all(data.tasks, rows, split.targets, split.sample_weight)


def prediction_rows(
    model: MultiTaskModel,
    inputs: Tensor,
    index: Tensor | Sequence[int],
    targets: Mapping[str, Tensor] | None = None,
) -> list[dict[str, Any]]:
    """Return one row per sample: its number, and each task's decision, probabilities, target.

    The first column is ``row``. A task with classes has ``TASK`` (the decided class) and
    ``TASK:CLASS`` (probabilities; for a binary task that of the second class only). A multilabel
    task has ``TASK:LABEL`` (decisions) and ``TASK:LABEL:p`` (probabilities). A regression has
    ``TASK``, or ``TASK:OUTPUT`` for each of several outputs. Targets, if given, are in
    ``TASK:target``, ``TASK:LABEL:target`` or ``TASK:OUTPUT:target``, blank if missing. A backslash
    stands before ":" and backslashes in names, before a task name ``row`` and before a class name
    ``target``, so that column names stay distinct. Probabilities have nine
    significant digits, values of a regression twelve.

    Warns:
        UserWarning: predictions are NaN, which gives blank cells.
    """
    predictions = model.predict(inputs)
    for name, values in predictions.items():
        bad = values.isnan().reshape(len(values), -1).any(dim=1)
        if bad.any():
            warnings.warn(
                f"predictions of task {name!r} are not a number in {int(bad.sum())} of {len(bad)} "
                f"rows: their cells are blank; the model's weights or inputs may not be finite",
                UserWarning,
                stacklevel=2,
            )
    columns: dict[str, list[Any]] = {"row": [int(i) for i in index]}
    for task in model.tasks:
        own = None if targets is None else targets[task.name]
        columns |= _columns(task, predictions[task.name], own)
    names = list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _escaped(name: str, reserved: str) -> str:
    text = name.replace("\\", "\\\\").replace(":", "\\:")
    return f"\\{text}" if text == reserved else text


def class_labels(task: Task) -> list[str]:
    """Return the names of a task's classes, labels or targets; numbers if there are no names."""
    names = task.class_names
    count = 2 if task.kind == "binary" else task.n_outputs
    return list(names) if names else [str(i) for i in range(count)]


class _Names(NamedTuple):
    """Names of a task's columns in a file."""

    decisions: list[str]  # the decided class, or a decision per label; empty for a regression
    values: list[str]  # probabilities, or the values of a regression
    targets: list[str]

    @classmethod
    def of(cls, task: Task) -> "_Names":
        name = _escaped(task.name, "row")
        each = [f"{name}:{_escaped(label, 'target')}" for label in class_labels(task)]
        if task.kind == "multilabel":
            return cls(each, [f"{one}:p" for one in each], [f"{one}:target" for one in each])
        if task.kind == "regression":
            values = each if task.n_outputs > 1 else [name]
            return cls([], values, [f"{one}:target" for one in values])
        return cls([name], each[1:] if task.kind == "binary" else each, [f"{name}:target"])


def _columns(task: Task, prediction: Tensor, targets: Tensor | None) -> dict[str, list[Any]]:
    names, labels = _Names.of(task), class_labels(task)
    classes = task.kind in ("binary", "multiclass")

    def cells(values: Tensor, names: list[str]) -> list[list[Any]]:
        columns = values.reshape(len(values), len(names)).T.tolist()
        return [["" if v != v else v for v in column] for column in columns]

    # The digits that single precision has; a regression may differ little from a large mean.
    digits = 12 if task.kind == "regression" else 9
    found = cells(prediction, names.values)
    found = [["" if v == "" else float(f"{v:.{digits}g}") for v in column] for column in found]
    columns = dict(zip(names.values, found, strict=True))
    if names.decisions:
        unknown = prediction.isnan()
        if classes and prediction.ndim == 2:
            unknown = unknown.any(dim=1)
        decisions = task.decision(prediction).double().masked_fill(unknown, math.nan)
        decided = cells(decisions, names.decisions)
        if classes:
            decided = [["" if i == "" else labels[int(i)] for i in decided[0]]]
        else:
            decided = [["" if i == "" else int(i) for i in column] for column in decided]
        columns = dict(zip(names.decisions, decided, strict=True)) | columns
    if targets is not None:
        given = cells(targets, names.targets)
        if classes:
            given = [["" if i == "" or i < 0 else labels[int(i)] for i in given[0]]]
        columns |= zip(names.targets, given, strict=True)
    return columns


Columns = dict[str, list[str]]


@dataclass(frozen=True)
class TaskPredictions:
    """One task's predictions and targets on the rows of a split.

    Attributes:
        task: the task.
        predictions: in the form of `Task.activation`: binary (N,), multiclass and multilabel (N,
            n_outputs) probabilities; regression (N,), or (N, n_outputs), in the targets' units.
        targets: in the form of `Task.to_targets`, with missing labels; None if the file has none.
    """

    task: Task
    predictions: Tensor
    targets: Tensor | None


def read_predictions(path: str | Path, tasks: Sequence[Task]) -> dict[str, TaskPredictions]:
    """Read predictions by task name, from a CSV file of `prediction_rows`.

    Args:
        path: a file such as ``RUN/predictions.csv``.
        tasks: tasks of the model that predicted.

    Raises:
        RunDirectoryError: if the file cannot be read, a column is missing, or a cell is not a
            number; the error names the column.
    """
    path = as_path(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = [*csv.reader(file)] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunDirectoryError(f"{path} cannot be read: {error}") from None
    if not header:
        raise RunDirectoryError(f"{path} is damaged: it is empty")
    if any(len(row) != len(header) for row in rows):
        raise RunDirectoryError(f"{path} is damaged: not every row has {len(header)} columns")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    try:
        return {task.name: _task(task, columns) for task in tasks}
    except KeyError as error:
        raise RunDirectoryError(f"{path} is damaged: there is no column {error}") from None
    except ValueError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from None


def _task(task: Task, columns: Columns) -> TaskPredictions:
    names = _Names.of(task)
    several = task.kind in ("multiclass", "multilabel") or task.n_outputs > 1
    predictions, targets = _numbers(columns, names.values), None
    if names.targets[0] in columns:
        if task.kind in ("binary", "multiclass"):
            codes = {"": math.nan} | {label: i for i, label in enumerate(class_labels(task))}
            cells = columns[names.targets[0]]
            if unknown := set(cells) - set(codes):
                raise ValueError(f"task {task.name!r} has no class {min(unknown)!r}")
            found = torch.tensor([codes[cell] for cell in cells], dtype=torch.float64)
        else:
            found = _numbers(columns, names.targets)
            found = found if several else found[:, 0]
        targets = task.to_targets(found)
    return TaskPredictions(task, predictions if several else predictions[:, 0], targets)


def _numbers(columns: Columns, names: Sequence[str]) -> Tensor:
    """Return the columns side by side, (N, columns); blanks are NaN."""
    result = torch.empty(len(columns[names[0]]), len(names), dtype=torch.float64)
    for i, name in enumerate(names):
        try:
            values = [float(cell) if cell else float("nan") for cell in columns[name]]
        except ValueError as error:
            raise ValueError(f"column {name!r}: {error}") from None
        result[:, i] = torch.tensor(values, dtype=torch.float64)
    return result
