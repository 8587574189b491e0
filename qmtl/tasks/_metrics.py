"""Metrics: as torchmetrics objects, and computed for many columns of predictions at once.

The import of torchmetrics takes seconds, so functions import it when they need it.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from qmtl.errors import InvalidInputError
from qmtl.tasks._definition import metric_names

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

    from qmtl.tasks._task import Task

ECE_BINS = 15  # as in torchmetrics
_RANKED = ("auroc", "average_precision")
_TORCHMETRICS = {
    "accuracy": ("Accuracy", "micro"), "balanced_accuracy": ("Accuracy", "macro"),
    "f1": ("F1Score", "macro"), "macro_f1": ("F1Score", "macro"),
    "weighted_f1": ("F1Score", "weighted"), "auroc": ("AUROC", None),
    "average_precision": ("AveragePrecision", None), "matthews": ("MatthewsCorrCoef", None),
    "ece": ("CalibrationError", None), "r2": ("R2Score", None), "mse": ("MeanSquaredError", None),
    "mae": ("MeanAbsoluteError", None), "pearson": ("PearsonCorrCoef", None),
    "spearman": ("SpearmanCorrCoef", None),
}  # fmt: skip
"""torchmetrics' class, and the kind of average over classes or labels, by metric name."""


@contextmanager
def silence() -> Iterator[None]:
    """Silence torchmetrics' warnings about undefined metrics, for which qmtl returns NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)
        yield


def harden(predictions: Tensor) -> Tensor:
    """Convert probabilities to hard labels; 0.5 is positive."""
    return (predictions >= 0.5).long()


def metric_collection(task: "Task") -> "MetricCollection":
    """Return a task's metrics as torchmetrics objects."""
    from torchmetrics import MetricCollection

    with silence():
        built = {n: _torchmetric(task.kind, task.n_outputs, n) for n in metric_names(task)}
        return MetricCollection(built, compute_groups=False)


def _torchmetric(kind: str, n: int, name: str) -> Any:
    import torchmetrics
    from torchmetrics.wrappers import LambdaInputTransformer

    own, average = _TORCHMETRICS[name]
    make = getattr(torchmetrics, own)
    if kind == "regression":
        return make(num_outputs=n) if name in ("pearson", "spearman") else make()
    # torchmetrics thresholds at > 0.5, `Task.decision` at >= 0.5.
    hard = kind != "multiclass" and name not in (*_RANKED, "ece")
    if kind == "multilabel" and n == 1:  # torchmetrics refuses a single label
        kind = "binary"
    elif kind == "binary" and name in ("balanced_accuracy", "macro_f1", "weighted_f1"):
        kind, n = "multiclass", 2
    options: dict[str, Any] = {} if average is None else {"average": average}
    if kind != "binary":
        options["num_classes" if kind == "multiclass" else "num_labels"] = n
    metric = make(task=kind, **options)
    return LambdaInputTransformer(metric, transform_pred=harden) if hard else metric


def column_scores(kind: str, name: str, p: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Return one metric of every column, float64 (columns,).

    The metric is NaN where it is undefined, where no row is labelled, and where a labelled row's
    prediction is not finite. Predictions `p` are float64 (columns, N), or (columns, classes, N) for
    multiclass. Labels `y` are (columns, N), NaN where missing. Weights `w` are (N,): a row of
    weight 2 counts like two equal rows.
    """
    kept = ~y.isnan() & (w > 0)
    finite = p.isfinite() if p.ndim == 2 else p.isfinite().all(dim=1)
    defined = kept.any(dim=1) & (finite | ~kept).all(dim=1)
    if not defined.any():
        return torch.full(defined.shape, math.nan, dtype=torch.float64)
    used = kept & finite
    p = torch.where(used if p.ndim == 2 else used.unsqueeze(1), p, 0.0)
    y, w = torch.where(used, y, 0.0), used * (w / w.max())
    return torch.where(defined, _score(kind, name, p, y, w), math.nan)


def _score(kind: str, name: str, p: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Return the metric of every column; weights are (columns, N).

    Where a label is missing, its weight, its label and its prediction are 0.
    """
    if kind == "regression":
        return _number_score(name, p, y, w)
    if kind == "multiclass" and name in _RANKED:
        classes = torch.arange(p.shape[1])
        one = [_score("binary", name, p[:, c], (y == c).double(), w) for c in classes]
        return torch.stack(one).nanmean(dim=0)
    if name == "ece":
        sure, right = (p, y) if kind == "binary" else (p.amax(1), p.argmax(1) == y)
        return _calibration_error(sure.clamp(0, 1), right.double(), w)
    if name in _RANKED:
        positives, negatives = w * (y == 1), w * (y == 0)
        if name == "auroc":  # the share of correctly ordered pairs (Mann-Whitney)
            pairs = positives.sum(1) * negatives.sum(1)
            won = torch.add(*_below(p.clamp(0, 1), negatives)) / 2
            return (positives * won).sum(1) / pairs
        found, every = (_below(-p.clamp(0, 1), rows)[1] for rows in (positives, w))
        return _mean((found / every).nan_to_num(), positives)
    return _hard_score(kind, name, p, y, w)


def _number_score(name: str, p: Tensor, y: Tensor, w: Tensor) -> Tensor:
    if name == "mae":
        return _mean((p - y).abs(), w)
    if name == "mse":
        return _mean((p - y).square(), w)
    if name == "r2":
        spread = _mean(_centred(y, w).square(), w)
        return torch.where(_varied(y, w), 1 - _mean((p - y).square(), w) / spread, math.nan)
    if name == "spearman":  # a rank is the mean of the first and last place of equal values
        p, y = (torch.add(*_below(values, w)) / 2 for values in (p, y))
    varied = _varied(p, w) & _varied(y, w)
    p, y = _centred(p, w), _centred(y, w)
    size = _mean(p.square(), w).sqrt() * _mean(y.square(), w).sqrt()
    return torch.where(varied, _mean(p * y, w) / size, math.nan)


def _hard_score(kind: str, name: str, p: Tensor, y: Tensor, w: Tensor) -> Tensor:
    decided = harden(p) if kind == "binary" else p.argmax(1)
    if name == "accuracy":
        return _mean((decided == y).double(), w)
    classes = torch.arange(2 if kind == "binary" else p.shape[1]).unsqueeze(1)
    found, labels = decided.unsqueeze(1) == classes, y.unsqueeze(1) == classes
    # Total weights of right decisions, of decisions and of labels, each (columns, classes).
    right, n_found, n_labels = (
        (rows * w.unsqueeze(1)).sum(-1) for rows in (found & labels, found, labels)
    )
    if name == "balanced_accuracy":
        return (right / n_labels).nanmean(1)
    if name == "matthews":
        total = n_labels.sum(1)
        covariance = right.sum(1) * total - (n_found * n_labels).sum(1)
        spreads = [total.square() - n.square().sum(1) for n in (n_found, n_labels)]
        constant = torch.where(spreads[1] > 0, 0.0, math.nan)  # 0 for constant decisions
        both = spreads[0].sqrt() * spreads[1].sqrt()
        return torch.where(both > 0, covariance / both, constant)
    f1 = (2 * right / (n_found + n_labels)).nan_to_num(nan=0.0)
    if kind == "binary" and name == "f1":
        return f1[:, 1]
    # As in torchmetrics and scikit-learn, classes that never occur do not count.
    weights = n_labels if name == "weighted_f1" else ((n_found + n_labels) > 0).double()
    return _mean(f1, weights)


def _calibration_error(sure: Tensor, right: Tensor, w: Tensor) -> Tensor:
    """Return the weighted mean over bins of |mean confidence - share of correct predictions|."""
    # The edges are in float32 as in torchmetrics, because 0.6 is on the edge between two bins.
    edges = torch.linspace(0, 1, ECE_BINS + 1)
    bins = torch.bucketize(sure, edges.double(), right=True) - 1
    gaps = sure.new_zeros(len(sure), ECE_BINS + 1).scatter_add_(1, bins, w * (sure - right))
    return gaps.abs().sum(1) / w.sum(1)


def _mean(values: Tensor, w: Tensor) -> Tensor:
    return (values * w).sum(1) / w.sum(1)


def _centred(values: Tensor, w: Tensor) -> Tensor:
    return values - _mean(values, w).unsqueeze(1)


def _varied(values: Tensor, w: Tensor) -> Tensor:
    """Return whether a column has two different values of positive weight."""
    low, high = (torch.where(w > 0, values, end) for end in (math.inf, -math.inf))
    return low.amin(1) < high.amax(1)


def _below(values: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each row's value, the weight of the rows below it, and of those not above it."""
    ordered, order = values.sort(dim=1)
    total = pad(w.gather(1, order).cumsum(1), (1, 0))
    places = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    below, upto = (total.gather(1, place) for place in places)
    return below, upto


def as_numpy(values: Any) -> Any:
    """Return a tensor, or the tensors in a list, as NumPy arrays; other values stay as they are.

    NumPy has no bfloat16, which becomes float32.

    Example:
        >>> as_numpy([torch.ones(2, dtype=torch.bfloat16), None])
        [array([1., 1.], dtype=float32), None]
    """
    if isinstance(values, Tensor):
        kept = values.detach().cpu()
        return (kept.float() if kept.dtype == torch.bfloat16 else kept).numpy()
    if isinstance(values, list | tuple) and any(isinstance(value, Tensor) for value in values):
        return [as_numpy(value) for value in values]
    return values


def row_weights(values: Any, n_rows: int) -> Tensor | None:
    """Check weights of rows, or one weight for all; return float64 (n_rows,), or None for None.

    Raises:
        InvalidInputError: for another shape, a weight that is negative, missing or infinite, or
            only weights of zero.

    Example:
        >>> row_weights([1, 0.5], 2)
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    if values is None:
        return None
    values = as_numpy(values)
    try:
        if isinstance(values, np.ma.MaskedArray):
            values = np.ma.filled(values.astype(np.float64), np.nan)
        # Objects of the class Decimal and texts do not count as numbers.
        given = np.asarray(values)
        weights = np.array(given, dtype=np.float64)
        if given.dtype.kind in "USMm":
            raise ValueError(given.dtype)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"sample_weight: expected one number for each of the {n_rows} rows, got "
            f"{type(values).__name__}"
        ) from error
    if weights.ndim == 0:
        weights = np.full(n_rows, float(weights))
    if weights.shape != (n_rows,):
        raise InvalidInputError(
            f"sample_weight: expected one number for each row, shape ({n_rows},), got shape "
            f"{weights.shape}"
        )
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        row = int(bad.argmax())
        raise InvalidInputError(
            f"sample_weight: expected finite numbers that are not negative, row {row} has "
            f"{weights[row]:g}"
        )
    if n_rows and not weights.any():
        raise InvalidInputError("sample_weight: every weight is zero, so that no row is left")
    return torch.from_numpy(weights)
