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
from qmtl.tasks._layout import TaskLayout, alike
from qmtl.tasks._metrics import binary_scores, class_scores, number_scores, row_weights, silence

if TYPE_CHECKING:
    from qmtl.tasks._task import Task

# Entries that are computed at once, so that large tables need little additional memory.
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
    return _evaluate_alike([task], predictions.unsqueeze(0), labels.unsqueeze(0), weights)[0]


def evaluate_all(
    tasks: Sequence["Task"],
    predictions: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    sample_weight: Tensor | None = None,
) -> dict[str, dict[str, float]]:
    """Apply `Task.evaluate` to many tasks; those of equal kind and shape run together.

    Args:
        tasks: the tasks.
        predictions: task name → predictions, in the form that `Task.activation` returns.
        targets: task name → canonical labels.
        sample_weight: weights of the rows, (N,); None for 1 each.

    Returns:
        Task name → metric name → value.

    Raises:
        InvalidInputError: if a label or a shape does not fit; the error names the task.

    Example:
        >>> from qmtl.tasks import Task
        >>> tasks = [Task.binary(name, metrics=("accuracy",)) for name in "ab"]
        >>> predictions = {"a": torch.tensor([0.9, 0.2]), "b": torch.tensor([0.9, 0.2])}
        >>> evaluate_all(tasks, predictions, {"a": torch.ones(2), "b": torch.tensor([1.0, 0.0])})
        {'a': {'accuracy': 0.5}, 'b': {'accuracy': 1.0}}
    """
    keys = []
    for task in tasks:
        given, wanted = predictions[task.name], targets[task.name]
        kind = (task.kind, task.n_outputs, metric_names(task))
        keys.append((kind, given.shape, given.dtype, wanted.shape, wanted.dtype))
    found: dict[str, dict[str, float]] = {}
    for places in alike(keys):
        first = tasks[places[0]]
        size = max(1, CHUNK // max(1, predictions[first.name].numel()))
        for start in range(0, len(places), size):
            some = [tasks[i] for i in places[start : start + size]]
            labels = _read_alike(some, torch.stack([targets[task.name] for task in some]))
            _check_shape(first, predictions[first.name], labels[0])
            given = torch.stack([predictions[task.name] for task in some])
            scores = _evaluate_alike(some, given, labels, sample_weight)
            found |= zip((task.name for task in some), scores, strict=True)
    return {task.name: found[task.name] for task in tasks}


def evaluate_joined(
    layout: TaskLayout, predictions: Tensor, targets: Tensor, sample_weight: Tensor | None = None
) -> dict[str, dict[str, float]]:
    """Apply `evaluate_all` to joined tensors; the labels must have been checked before.

    Args:
        layout: layout of the tasks.
        predictions: (N, outputs), in the form that `Task.activation` returns.
        targets: (N, columns), NaN where missing.
        sample_weight: weights of the rows, (N,); None for 1 each.

    Returns:
        Task name → metric name → value.

    Example:
        >>> from qmtl.tasks import Task
        >>> layout = TaskLayout([Task.binary(name, metrics=("accuracy",)) for name in "ab"])
        >>> predictions = torch.tensor([[0.9, 0.9], [0.2, 0.2]])
        >>> evaluate_joined(layout, predictions, torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
        {'a': {'accuracy': 0.5}, 'b': {'accuracy': 1.0}}
    """
    predictions, targets = predictions.cpu().double(), targets.cpu().double()
    weights = None if sample_weight is None else sample_weight.cpu().double()
    found: dict[str, dict[str, float]] = {}
    for group in layout.groups(predictions.device):
        n_tasks, n_rows = len(group.tasks), len(predictions)
        given, labels = (
            columns(joined).unflatten(1, (n_tasks, columns.n // n_tasks)).transpose(0, 1)
            for columns, joined in ((group.outputs, predictions), (group.columns, targets))
        )
        size = max(1, CHUNK // max(1, n_rows * group.n_outputs))
        for same in alike(metric_names(layout.tasks[i]) for i in group.tasks):
            for start in range(0, len(same), size):
                some = same[start : start + size]
                chosen = slice(None) if len(some) == n_tasks else some
                tasks = [layout.tasks[group.tasks[i]] for i in some]
                scores = _evaluate_alike(tasks, given[chosen], labels[chosen], weights)
                found |= zip((task.name for task in tasks), scores, strict=True)
    return {task.name: found[task.name] for task in layout.tasks}


def _read_alike(tasks: Sequence["Task"], targets: Tensor) -> Tensor:
    """Check the labels of stacked targets, (tasks, N) or (tasks, N, n_outputs)."""
    try:
        labels = read_labels(tasks[0], targets.flatten(0, 1))
    except InvalidInputError:
        for task, values in zip(tasks, targets, strict=True):
            read_labels(task, values)  # raises an error that names the right task
        raise
    return torch.from_numpy(labels).reshape(*targets.shape[:2], *labels.shape[1:])


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
    """Refuse logits: compared with 0.5, they would give metrics that look right."""
    if task.kind == "regression":
        return
    # NaN and infinity pass here and make the metrics NaN. Rounding may lead slightly
    # out of [0, 1].
    outside = (predictions < -ROUNDING) | (predictions > 1 + ROUNDING)
    bad = outside & predictions.isfinite()
    if bad.any():
        value = float(predictions[bad].reshape(-1)[0])
        raise InvalidInputError(
            f"task '{task.name}': predictions must be probabilities in [0, 1], got {value:g}; "
            f"Task.activation turns logits into probabilities"
        )


def _evaluate_alike(
    tasks: Sequence["Task"], predictions: Tensor, labels: Tensor, weights: Tensor | None = None
) -> list[dict[str, float]]:
    """Return the metrics of tasks that differ only in their names, stacked along dimension 0."""
    first, shape = tasks[0], labels.shape[:2]
    given = predictions.detach().to("cpu", torch.float64).reshape(*shape, first.n_outputs)
    # Shape (tasks, outputs, N): metrics are computed along the last dimension.
    given = given.transpose(1, 2)
    labels = (labels if labels.ndim == 3 else labels.unsqueeze(2)).transpose(1, 2)
    names = metric_names(first)
    with silence():
        values = [_scores(first.kind, name, given, labels, weights) for name in names]
    return [dict(zip(names, own, strict=True)) for own in zip(*values, strict=True)]


def _scores(
    kind: str, name: str, predictions: Tensor, labels: Tensor, w: Tensor | None
) -> list[float]:
    """Compute one metric of every task; arrays are (tasks, outputs, N), labels NaN if missing."""
    if kind == "multiclass":
        return class_scores(name, predictions, labels[:, 0], w)
    if kind == "multilabel" and name == "accuracy":
        rows = None if w is None else w.repeat(predictions.shape[1])
        return binary_scores(name, predictions.flatten(1), labels.flatten(1), rows)
    columns = predictions.flatten(0, 1), labels.flatten(0, 1)
    weights: list[list[float] | None] = [None] * len(labels)
    if kind == "multilabel" and name in ("macro_f1", "weighted_f1"):
        if name == "weighted_f1":
            weights = list((labels if w is None else labels * w).nansum(dim=2).tolist())
        name = "f1"
    scores = number_scores if kind == "regression" else binary_scores
    found = scores(name, *columns, w)
    n = predictions.shape[1]
    parts = [found[start : start + n] for start in range(0, len(found), n)]
    return [_mean(own, weight) for own, weight in zip(parts, weights, strict=True)]


def _mean(scores: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """Return the mean of the scores that are defined."""
    pairs = zip(scores, weights or [1.0] * len(scores), strict=True)
    kept = [(score, weight) for score, weight in pairs if not math.isnan(score)]
    total = sum(weight for _, weight in kept)
    return sum(score * weight for score, weight in kept) / total if total > 0 else math.nan
