"""Weights of rows: their checks, and metrics of one column of predictions.

A row of weight 2 counts like two equal rows. `_metrics` computes the most common metrics of many
columns at once, if there are no weights.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qmtl.errors import InvalidInputError

ECE_BINS = 15  # as in torchmetrics

Floats = np.ndarray[Any, np.dtype[np.float64]]


def row_weights(values: Any, n_rows: int) -> Tensor | None:
    """Weights of rows as float64 (n_rows,); None stays None.

    Args:
        values: one number for each row, or one number for all rows.
        n_rows: number of rows.

    Raises:
        InvalidInputError: for another shape, a weight that is negative, missing or infinite, or if
            no weight is above zero.

    Example:
        >>> row_weights([1, 0.5], 2)
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    if values is None:
        return None
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        # Decimal numbers and texts are not accepted as numbers here.
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


def weighted_score(kind: str, name: str, p: Tensor, y: Tensor, w: Tensor) -> float:
    """A metric of one column, over its labelled rows with a weight above zero.

    Args:
        kind: "binary", "multiclass" or "regression".
        name: name of the metric.
        p: predictions, shape (N,) or (classes, N).
        y: labels, shape (N,), NaN where missing.
        w: weights, shape (N,).

    Returns:
        The metric; NaN where it is undefined, in the same cases as without weights.

    Example:
        >>> p, y = torch.tensor([0.9, 0.9]), torch.tensor([1.0, 0.0])
        >>> weighted_score("binary", "accuracy", p, y, torch.tensor([3.0, 1.0]))
        0.75
    """
    kept = ~y.isnan() & (w > 0)
    p, y, w = p[..., kept], y[kept], w[kept]
    if not len(y) or not bool(p.isfinite().all()):
        return math.nan
    arrays = (p.double().numpy().T, y.double().numpy(), w.double().numpy())
    if kind == "regression":
        return float(_NUMBERS[name](*arrays))
    if kind == "binary" and name in ("auroc", "average_precision", "ece"):
        probability = arrays[0].clip(0, 1)
        return float(_RANKED[name](probability, *arrays[1:]))
    if name == "ece":
        sure = arrays[0].max(axis=1).clip(0, 1)
        right = arrays[0].argmax(axis=1) == arrays[1]
        return _calibration_error(sure, right.astype(np.float64), arrays[2])
    hard = arrays[0] >= 0.5 if kind == "binary" else arrays[0].argmax(axis=1)
    return _hard_score(kind, name, hard.astype(np.int64), arrays[1].astype(np.int64), arrays[2])


def _hard_score(kind: str, name: str, decided: Any, y: Any, w: Floats) -> float:
    from sklearn import metrics as skm

    right = decided == y
    if name == "accuracy":
        return float(np.average(right, weights=w))
    if name == "balanced_accuracy":
        return float(np.mean([np.average(right[y == c], weights=w[y == c]) for c in np.unique(y)]))
    if name == "matthews":
        if (y == y[0]).all():
            return math.nan
        return float(skm.matthews_corrcoef(y, decided, sample_weight=w))
    average = {"f1": "binary" if kind == "binary" else "macro", "macro_f1": "macro"}
    options: Any = {"average": average.get(name, "weighted"), "zero_division": 0}
    return float(skm.f1_score(y, decided, sample_weight=w, **options))


def _auroc(p: Floats, y: Floats, w: Floats) -> float:
    from sklearn.metrics import roc_auc_score

    if (y == y[0]).all():
        return math.nan
    return float(roc_auc_score(y, p, sample_weight=w))


def _average_precision(p: Floats, y: Floats, w: Floats) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(y, p, sample_weight=w)) if y.any() else math.nan


def _calibration_error(sure: Floats, right: Floats, w: Floats) -> float:
    """Weighted mean over bins of |mean confidence - share of correct predictions|."""
    # The edges are in float32 as in torchmetrics: 0.6 is on the edge between two bins.
    edges = torch.linspace(0, 1, ECE_BINS + 1)
    bins = torch.bucketize(torch.from_numpy(sure), edges.double(), right=True) - 1
    gaps = np.bincount(bins.numpy(), weights=w * (sure - right), minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / w.sum())


_RANKED: dict[str, Callable[..., float]] = {
    "auroc": _auroc, "average_precision": _average_precision, "ece": _calibration_error,
}  # fmt: skip


def _mean_square(p: Floats, y: Floats, w: Floats) -> float:
    return float(np.average((p - y) ** 2, weights=w))


def _mean_size(p: Floats, y: Floats, w: Floats) -> float:
    return float(np.average(np.abs(p - y), weights=w))


def _r2(p: Floats, y: Floats, w: Floats) -> float:
    if (y == y[0]).all():
        return math.nan
    spread = np.average((y - np.average(y, weights=w)) ** 2, weights=w)
    return float(1 - _mean_square(p, y, w) / spread)


def _pearson(p: Floats, y: Floats, w: Floats) -> float:
    if (y == y[0]).all() or (p == p[0]).all():
        return math.nan
    cov = np.cov(p, y, aweights=w)
    return float(cov[0, 1] / math.sqrt(cov[0, 0] * cov[1, 1]))


def _spearman(p: Floats, y: Floats, w: Floats) -> float:
    return _pearson(_ranks(p, w), _ranks(y, w), w)


def _ranks(values: Floats, w: Floats) -> Floats:
    """Weighted ranks: the mean rank of a row if it is repeated as often as its weight says."""
    _, place = np.unique(values, return_inverse=True)
    weight = np.bincount(place, weights=w)
    middle: Floats = (weight.cumsum() - weight / 2)[place]
    return middle


_NUMBERS: dict[str, Callable[..., float]] = {
    "r2": _r2, "mse": _mean_square, "mae": _mean_size, "pearson": _pearson, "spearman": _spearman,
}  # fmt: skip
