"""Values of metrics on predictions and labels, of which some may be missing."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qmtl.errors import InvalidInputError
from qmtl.tasks.kinds import is_flat, metric_names
from qmtl.tasks.labels import read_labels
from qmtl.tasks.metrics import harden, silence

if TYPE_CHECKING:
    from qmtl.tasks.task import Task

__all__ = ["evaluate"]


def evaluate(task: "Task", predictions: Any, targets: Any) -> dict[str, float]:
    """The task's metrics on the labelled rows and entries; see `Task.evaluate`."""
    labels = torch.from_numpy(read_labels(task, targets, 0))
    if not isinstance(predictions, Tensor):
        predictions = torch.tensor(np.asarray(predictions, dtype=np.float64))
    given = predictions.detach().to("cpu", torch.float64)
    expected = (len(labels), task.n_outputs)
    shapes = [expected, expected[:1]] if task.n_outputs == 1 else [expected]
    if tuple(given.shape) not in shapes:
        raise InvalidInputError(
            f"task '{task.name}': predictions have shape {tuple(given.shape)}, expected "
            f"{expected[:1] if is_flat(task) and task.n_outputs == 1 else expected} "
            f"for targets of shape {tuple(labels.shape)}"
        )
    given, labels = given.reshape(expected), labels.reshape(len(labels), -1)
    with silence():
        return {name: _score(task.kind, name, given, labels) for name in metric_names(task)}


def _score(kind: str, name: str, predictions: Tensor, labels: Tensor) -> float:
    """One metric; predictions (N, n_outputs) and labels (N, 1 or n_outputs), NaN if missing."""
    if kind == "multiclass":
        rows = ~labels[:, 0].isnan()
        return _class_score(name, predictions[rows], labels[rows, 0].long())
    columns = []
    for p, y in zip(predictions.T, labels.T, strict=True):
        present = ~y.isnan()
        columns.append((p[present], y[present]))
    if kind == "multilabel" and name == "accuracy":
        columns = [(torch.cat([p for p, _ in columns]), torch.cat([y for _, y in columns]))]
    if kind == "regression":
        return _mean([_number_score(name, p, y) for p, y in columns])
    if kind == "multilabel" and name in ("macro_f1", "weighted_f1"):
        scores = [_binary_score("f1", p, y.long()) for p, y in columns]
        return _mean(scores, None if name == "macro_f1" else [float(y.sum()) for _, y in columns])
    return _mean([_binary_score(name, p, y.long()) for p, y in columns])


def _mean(scores: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """Mean of the scores that are defined."""
    pairs = zip(scores, weights or [1.0] * len(scores), strict=True)
    kept = [(score, weight) for score, weight in pairs if not math.isnan(score)]
    total = sum(weight for _, weight in kept)
    return sum(score * weight for score, weight in kept) / total if total > 0 else math.nan


def _binary_score(name: str, p: Tensor, y: Tensor) -> float:
    from torchmetrics.functional import classification as tmf

    if not len(y) or not p.isfinite().all():
        return math.nan
    if name in ("auroc", "average_precision"):
        return _ranking_score(name, p, y)
    if name == "f1":
        return float(tmf.binary_f1_score(harden(p), y))
    if name == "ece":
        return float(tmf.binary_calibration_error(p.clamp(0, 1), y))
    return _hard_score(name, harden(p), y, 2)


def _class_score(name: str, p: Tensor, y: Tensor) -> float:
    from torchmetrics.functional import classification as tmf

    if not len(y) or not p.isfinite().all():
        return math.nan
    n_classes = p.shape[1]
    if name in ("auroc", "average_precision"):
        return _mean([_ranking_score(name, p[:, c], (y == c).long()) for c in range(n_classes)])
    if name == "ece":
        return float(tmf.multiclass_calibration_error(p.clamp(0, 1), y, n_classes))
    return _hard_score(name, p.argmax(dim=1), y, n_classes)


def _hard_score(name: str, decided: Tensor, y: Tensor, n_classes: int) -> float:
    from torchmetrics.functional import classification as tmf

    if name == "accuracy":
        return float((decided == y).double().mean())
    if name == "balanced_accuracy":
        # torchmetrics' macro average counts a class that is predicted but has no label as 0.
        return _mean([float((decided[y == c] == c).double().mean()) for c in range(n_classes)])
    if name == "matthews":
        if (y == y[0]).all():
            return math.nan
        if (decided == decided[0]).all():
            return 0.0  # as GLUE and scikit-learn have it; torchmetrics gives a small number
        return float(tmf.multiclass_matthews_corrcoef(decided, y, n_classes))
    average: Any = "weighted" if name == "weighted_f1" else "macro"
    return float(tmf.multiclass_f1_score(decided, y, n_classes, average=average))


def _ranking_score(name: str, p: Tensor, y: Tensor) -> float:
    from torchmetrics.functional import classification as tmf

    positives = int(y.sum())
    if positives == 0 or (name == "auroc" and positives == len(y)):
        return math.nan
    rank = tmf.binary_auroc if name == "auroc" else tmf.binary_average_precision
    # Predictions outside [0, 1], be it by rounding, would be taken for logits.
    return float(rank(p.clamp(0, 1), y))


def _number_score(name: str, p: Tensor, y: Tensor) -> float:
    from torchmetrics import functional as tmf

    if not len(y) or not p.isfinite().all():
        return math.nan
    varies, predicted = bool((y != y[0]).any()), bool((p != p[0]).any())
    if (name == "r2" and not varies) or (
        name in ("pearson", "spearman") and not (varies and predicted)
    ):
        return math.nan
    if name == "r2":  # torchmetrics takes sums of squares below 1e-4 for zero
        return float(1 - (y - p).square().sum() / (y - y.mean()).square().sum())
    # No metric here depends on a common shift, and torchmetrics' sums of squares need one.
    centre = y.mean()
    functions: Any = {
        "mse": tmf.mean_squared_error,
        "mae": tmf.mean_absolute_error,
        "pearson": tmf.pearson_corrcoef,
        "spearman": tmf.spearman_corrcoef,
    }
    return float(functions[name](p - centre, y - centre))
