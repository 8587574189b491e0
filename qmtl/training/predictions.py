"""Predictions as rows of a table, the form in which they are written to CSV."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from qmtl.model import MultiTaskModel
from qmtl.tasks import Task

__all__ = ["class_labels", "column_names", "prediction_rows"]


def prediction_rows(
    model: MultiTaskModel,
    inputs: Tensor,
    index: Tensor | Sequence[int],
    targets: Mapping[str, Tensor] | None = None,
) -> list[dict[str, Any]]:
    """One row per sample: its number, and each task's decision, probabilities and target.

    Columns are ``row``; ``TASK`` (the class, by name if it has one, or the value);
    ``TASK:CLASS`` (probabilities; of a multilabel task, the decision, and ``TASK:CLASS:p`` the
    probability); ``TASK:target`` when targets are given (blank if missing). A backslash stands
    before ":" and backslashes in names, before a task called ``row`` and before a class called
    ``target``, so that no two columns have one name.
    """
    predictions = model.predict(inputs)
    rows: list[dict[str, Any]] = [{"row": int(i)} for i in index]
    for task in model.tasks:
        columns = _columns(task, predictions[task.name])
        if targets is not None:
            columns |= _targets(task, targets[task.name])
        for name, values in columns.items():
            for row, value in zip(rows, values, strict=True):
                row[name] = value
    return rows


def _escaped(name: str, reserved: str) -> str:
    text = name.replace("\\", "\\\\").replace(":", "\\:")
    return f"\\{text}" if text == reserved else text


def column_names(task: Task) -> tuple[str, list[str]]:
    """The task and its classes as they stand in the names of columns.

    Example:
        >>> column_names(Task.multilabel("row", 2, class_names=("a", "target")))[1][0]
        'a'
    """
    return _escaped(task.name, "row"), [_escaped(c, "target") for c in class_labels(task)]


def class_labels(task: Task) -> list[str]:
    """Names of the classes, labels or targets, or their numbers if they have none."""
    names = task.class_names
    count = 2 if task.kind == "binary" else task.n_outputs
    return list(names) if names else [str(i) for i in range(count)]


def _columns(task: Task, prediction: Tensor) -> dict[str, list[Any]]:
    name, classes = column_names(task)
    decided = task.decision(prediction)
    if task.kind == "regression":
        return _per_output(task, prediction, "")
    if task.kind == "multilabel":
        hard = {f"{name}:{c}": decided[:, i].tolist() for i, c in enumerate(classes)}
        soft = {f"{name}:{c}:p": prediction[:, i].tolist() for i, c in enumerate(classes)}
        return hard | soft
    columns: dict[str, list[Any]] = {name: [class_labels(task)[i] for i in decided.tolist()]}
    if task.kind == "binary":
        return columns | {f"{name}:{classes[1]}": prediction.tolist()}
    return columns | {f"{name}:{c}": prediction[:, i].tolist() for i, c in enumerate(classes)}


def _per_output(task: Task, values: Tensor, suffix: str) -> dict[str, list[Any]]:
    name, labels = column_names(task)
    if values.ndim == 1:
        return {f"{name}{suffix}": [_blank(v) for v in values.tolist()]}
    return {
        f"{name}:{label}{suffix}": [_blank(v) for v in values[:, i].tolist()]
        for i, label in enumerate(labels)
    }


def _targets(task: Task, targets: Tensor) -> dict[str, list[Any]]:
    if task.kind in ("regression", "multilabel"):
        return _per_output(task, targets, ":target")
    classes = class_labels(task)
    names = ["" if v != v or v < 0 else classes[int(v)] for v in targets.tolist()]
    return {f"{column_names(task)[0]}:target": names}


def _blank(value: float) -> Any:
    return "" if value != value else value
