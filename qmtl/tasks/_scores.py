"""Values of metrics on predictions and labels, some of which may be missing."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qmtl.errors import InvalidInputError
from qmtl.tasks._definition import is_flat, metric_names
from qmtl.tasks._labels import read_labels
from qmtl.tasks._layout import TaskLayout, alike, task_layout
from qmtl.tasks._metrics import column_scores, row_weights, silence

if TYPE_CHECKING:
    from qmtl.tasks._task import Task

# Most entries of a computation, so that large tables need little additional memory.
CHUNK = 2**22
ROUNDING = 1e-3


def evaluate(
    task: "Task", predictions: Any, targets: Any, sample_weight: Any = None
) -> dict[str, float]:
    """Return the task's metrics on the labelled rows and entries; see `Task.evaluate`."""
    labels = torch.from_numpy(read_labels(task, targets))
    if not isinstance(predictions, Tensor):
        try:
            predictions = torch.tensor(np.array(predictions, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"task '{task.name}': predictions must be numbers, got {type(predictions).__name__}"
            ) from error
    _check_shape(task, predictions, labels)
    _check_probabilities(task, predictions)
    weights = row_weights(sample_weight, len(labels))
    return evaluate_all([task], {task.name: predictions}, {task.name: labels}, weights)[task.name]


def evaluate_all(
    tasks: Sequence["Task"],
    predictions: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    sample_weight: Tensor | None = None,
) -> dict[str, dict[str, float]]:
    """Apply `Task.evaluate` to many tasks on the same rows; tasks of equal kind run together.

    Args:
        tasks: the tasks.
        predictions: task name → predictions, in the form that `Task.activation` returns.
        targets: task name → canonical labels.
        sample_weight: weights of the rows, (N,); None for 1 each.

    Returns:
        Task name → metric name → value.

    Raises:
        InvalidInputError: a label or a shape does not fit; the error names the task.

    Example:
        >>> from qmtl.tasks import Task
        >>> tasks = [Task.binary(name, metrics=("accuracy",)) for name in "ab"]
        >>> predictions = {"a": torch.tensor([0.9, 0.2]), "b": torch.tensor([0.9, 0.2])}
        >>> evaluate_all(tasks, predictions, {"a": torch.ones(2), "b": torch.tensor([1.0, 0.0])})
        {'a': {'accuracy': 0.5}, 'b': {'accuracy': 1.0}}
    """
    if not tasks:
        return {}
    given: list[Tensor] = []
    wanted: list[Tensor] = []
    for task in tasks:
        labels = torch.from_numpy(read_labels(task, targets[task.name]))
        _check_shape(task, predictions[task.name], labels)
        if wanted and len(labels) != len(wanted[0]):
            raise InvalidInputError(
                f"task {task.name!r} has {len(labels)} rows, and {tasks[0].name!r} has "
                f"{len(wanted[0])}; evaluate tasks with different rows one by one"
            )
        own = predictions[task.name].detach().to("cpu", torch.float64)
        given.append(own.reshape(len(labels), task.n_outputs))
        wanted.append(labels.reshape(len(labels), 1 if is_flat(task) else task.n_outputs))
    layout = task_layout(tuple(tasks))
    return evaluate_joined(layout, torch.cat(given, 1), torch.cat(wanted, 1), sample_weight)


def evaluate_joined(
    layout: TaskLayout, predictions: Tensor, targets: Tensor, sample_weight: Tensor | None = None
) -> dict[str, dict[str, float]]:
    """Apply `evaluate_all` to joined tensors, without a check of the labels.

    Args:
        layout: layout of the tasks.
        predictions: (N, outputs), in the form that `Task.activation` returns.
        targets: (N, columns), NaN where missing.
        sample_weight: weights of the rows, (N,); None for 1 each.

    Example:
        >>> from qmtl.tasks import Task
        >>> layout = TaskLayout([Task.binary(name, metrics=("accuracy",)) for name in "ab"])
        >>> predictions = torch.tensor([[0.9, 0.9], [0.2, 0.2]])
        >>> evaluate_joined(layout, predictions, torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
        {'a': {'accuracy': 0.5}, 'b': {'accuracy': 1.0}}
    """
    predictions, targets = predictions.detach().cpu().double(), targets.cpu().double()
    n_rows = len(predictions)
    weights = torch.ones(n_rows) if sample_weight is None else sample_weight.cpu()
    found: dict[str, dict[str, float]] = {}
    for group in layout.groups(predictions.device):
        n_tasks = len(group.tasks)
        # (tasks, outputs, N) and (tasks, columns, N): metrics run along the last axis.
        given, labels = (
            columns(joined).T.unflatten(0, (n_tasks, columns.n // n_tasks))
            for columns, joined in ((group.outputs, predictions), (group.columns, targets))
        )
        size = max(1, CHUNK // max(1, n_rows * group.n_outputs))
        for same in alike(metric_names(layout.tasks[i]) for i in group.tasks):
            for start in range(0, len(same), size):
                some = same[start : start + size]
                tasks = [layout.tasks[group.tasks[i]] for i in some]
                names, own = metric_names(tasks[0]), (given[some], labels[some], weights.double())
                with silence():
                    values = [_scores(group.kind, name, *own).tolist() for name in names]
                for task, scores in zip(tasks, zip(*values, strict=True), strict=True):
                    # With the same NaN object everywhere, equal metrics are equal dictionaries.
                    own_scores = (math.nan if math.isnan(score) else score for score in scores)
                    found[task.name] = dict(zip(names, own_scores, strict=True))
    return {task.name: found[task.name] for task in layout.tasks}


def _check_shape(task: "Task", predictions: Tensor, labels: Tensor) -> None:
    expected = (len(labels), task.n_outputs)
    shapes = [expected, expected[:1]] if task.n_outputs == 1 else [expected]
    if tuple(predictions.shape) not in shapes:
        raise InvalidInputError(
            f"task '{task.name}': predictions have shape {tuple(predictions.shape)}, expected "
            f"{expected[:1] if is_flat(task) and task.n_outputs == 1 else expected} "
            f"for targets of shape {tuple(labels.shape)}"
        )


def _check_probabilities(task: "Task", predictions: Tensor) -> None:
    """Raise for logits, which would give wrong but plausible metrics when compared with 0.5."""
    if task.kind == "regression":
        return
    # NaN and infinity pass, because metrics become NaN. Rounding may lead slightly out of [0, 1].
    outside = (predictions < -ROUNDING) | (predictions > 1 + ROUNDING)
    bad = outside & predictions.isfinite()
    if bad.any():
        value = float(predictions[bad].reshape(-1)[0])
        raise InvalidInputError(
            f"task '{task.name}': predictions must be probabilities in [0, 1], got {value:g}; "
            f"Task.activation turns logits into probabilities"
        )


def _scores(kind: str, name: str, p: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Compute one metric of every task; arrays are (tasks, outputs, N), labels NaN if missing."""
    if kind == "multiclass":
        return column_scores(kind, name, p, y[:, 0], w)
    if kind == "multilabel" and name == "accuracy":
        return column_scores("binary", name, p.flatten(1), y.flatten(1), w.repeat(p.shape[1]))
    one = "regression" if kind == "regression" else "binary"
    per_output = "f1" if kind == "multilabel" and name.endswith("f1") else name
    found = column_scores(one, per_output, p.flatten(0, 1), y.flatten(0, 1), w).view(p.shape[:2])
    if kind == "multilabel" and name == "weighted_f1":
        positives = (y * w).nansum(2)
        return (found * positives).nansum(1) / (positives * ~found.isnan()).sum(1)
    return found.nanmean(1)
