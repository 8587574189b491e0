"""Metrics: as torchmetrics objects, and as functions of many columns of predictions at once.

In the functions ``..._scores`` columns are along the first dimension and rows along the last.
Labels are float64, NaN if missing. A metric is NaN where there is no label, or where the prediction
of a labelled row is not finite. `w` holds the weights of the rows, None for 1 each: a row of weight
2 counts like two equal rows. torchmetrics is imported only when it is needed.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qmtl.errors import InvalidInputError
from qmtl.tasks._definition import metric_names

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

    from qmtl.tasks._task import Task


@contextmanager
def silence() -> Iterator[None]:
    """Silence torchmetrics' warnings in cases where qmtl returns NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)
        yield


def harden(predictions: Tensor) -> Tensor:
    """Return hard labels of probabilities: a tie at 0.5 is positive."""
    return (predictions >= 0.5).long()


def metric_collection(task: "Task") -> "MetricCollection":
    """Return the task's metrics as one torchmetrics object; see `Task.metrics`."""
    from torchmetrics import MetricCollection

    with silence():
        built = {n: _torchmetric(task.kind, task.n_outputs, n) for n in metric_names(task)}
        return MetricCollection(built, compute_groups=False)


def _torchmetric(kind: str, n: int, name: str) -> Any:
    """Return the torchmetrics object of one metric; `n` is the number of outputs."""
    from torchmetrics import classification as tmc
    from torchmetrics import regression as tmr
    from torchmetrics.wrappers import LambdaInputTransformer

    def hard(metric: Any) -> Any:  # torchmetrics thresholds at > 0.5, `decision` at >= 0.5
        return LambdaInputTransformer(metric, transform_pred=harden)

    averages = {"f1": "macro", "macro_f1": "macro", "weighted_f1": "weighted"}
    if kind == "regression":
        by_name: dict[str, Any] = {"r2": tmr.R2Score, "mse": tmr.MeanSquaredError}
        by_name["mae"] = tmr.MeanAbsoluteError
        outputs = {"pearson": tmr.PearsonCorrCoef, "spearman": tmr.SpearmanCorrCoef}
        return by_name[name]() if name in by_name else outputs[name](num_outputs=n)
    if kind == "multilabel" and n > 1:  # torchmetrics refuses a single label
        if name == "accuracy":
            return hard(tmc.MultilabelAccuracy(n, average="micro"))
        if name in averages:
            return hard(tmc.MultilabelF1Score(n, average=averages[name]))
        ranked = {"auroc": tmc.MultilabelAUROC, "average_precision": tmc.MultilabelAveragePrecision}
        return ranked[name](n)
    if kind == "multiclass" or name in ("balanced_accuracy", "macro_f1", "weighted_f1"):
        n_classes = n if kind == "multiclass" else 2
        built: Any = {
            "accuracy": lambda: tmc.MulticlassAccuracy(n_classes, average="micro"),
            "balanced_accuracy": lambda: tmc.MulticlassAccuracy(n_classes, average="macro"),
            "auroc": lambda: tmc.MulticlassAUROC(n_classes),
            "average_precision": lambda: tmc.MulticlassAveragePrecision(n_classes),
            "matthews": lambda: tmc.MulticlassMatthewsCorrCoef(n_classes),
            "ece": lambda: tmc.MulticlassCalibrationError(n_classes),
        }
        if name in averages:
            built[name] = lambda: tmc.MulticlassF1Score(n_classes, average=averages[name])
        if kind == "multilabel" and name != "balanced_accuracy":
            return hard(tmc.BinaryF1Score())
        return built[name]() if kind == "multiclass" else hard(built[name]())
    if name in ("accuracy", "f1", "matthews"):
        one = {"accuracy": tmc.BinaryAccuracy, "f1": tmc.BinaryF1Score}
        return hard(one.get(name, tmc.BinaryMatthewsCorrCoef)())
    soft: Any = {"auroc": tmc.BinaryAUROC, "average_precision": tmc.BinaryAveragePrecision}
    return soft.get(name, tmc.BinaryCalibrationError)()


def binary_scores(name: str, p: Tensor, y: Tensor, w: Tensor | None = None) -> list[float]:
    """Return each column's metric of yes-or-no labels; `p` and `y` have shape (columns, N).

    Example:
        >>> p, y = torch.tensor([[0.9, 0.2], [0.9, 0.2]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        >>> binary_scores("auroc", p.double(), y.double())
        [1.0, nan]
    """
    together = {"accuracy": _accuracy, "f1": _binary_f1, "auroc": _aurocs}
    if w is None and name in together:
        return _where_defined(together[name], p, y)
    return _one_by_one("binary", name, p, y, w)


def class_scores(name: str, p: Tensor, y: Tensor, w: Tensor | None = None) -> list[float]:
    """Return each task's metric of classes; `p` has shape (tasks, classes, N), `y` (tasks, N).

    Example:
        >>> p = torch.eye(3).double().unsqueeze(0)
        >>> class_scores("accuracy", p, torch.tensor([[0.0, 1.0, float("nan")]]).double())
        [1.0]
    """
    if name in ("auroc", "average_precision"):
        return [_one_against_rest(name, *task, w) for task in zip(p, y, strict=True)]
    averages = {"f1": "macro", "macro_f1": "macro", "weighted_f1": "weighted"}
    if w is None and name == "accuracy":
        return _where_defined(lambda p, y: _share_equal(p.argmax(1), y), p, y)
    if w is None and name in averages:
        return _where_defined(lambda p, y: _class_f1(averages[name], p, y), p, y)
    return _one_by_one("multiclass", name, p, y, w)


def number_scores(name: str, p: Tensor, y: Tensor, w: Tensor | None = None) -> list[float]:
    """Return each column's metric of numbers; `p` and `y` have shape (columns, N).

    Example:
        >>> number_scores("mae", torch.zeros(1, 2).double(), torch.tensor([[2.0, 4.0]]).double())
        [3.0]
    """
    # torchmetrics rounds sums of squares below 1e-4 to zero.
    together = {"r2": _r2s, "mse": _mean_squares, "mae": _mean_sizes}
    if w is None and name in together:
        return _where_defined(together[name], p, y)
    return _one_by_one("regression", name, p, y, w)


def _where_defined(score: Callable[[Tensor, Tensor], Tensor], p: Tensor, y: Tensor) -> list[float]:
    if not y.shape[1]:
        return [math.nan] * len(y)
    kept = ~y.isnan()
    finite = p.isfinite() if p.ndim == 2 else p.isfinite().all(dim=1)
    defined = kept.any(dim=1) & (finite | ~kept).all(dim=1)
    values: list[float] = torch.where(defined, score(p, y).double(), math.nan).tolist()
    return values


def _one_by_one(kind: str, name: str, p: Tensor, y: Tensor, w: Tensor | None) -> list[float]:
    """Return the score of each column; rows are the last dimension."""
    weights = torch.ones(y.shape[1]) if w is None else w
    return [weighted_score(kind, name, *own, weights) for own in zip(p, y, strict=True)]


def _share_equal(decided: Tensor, y: Tensor) -> Tensor:
    return (decided == y).sum(1).double() / (~y.isnan()).sum(1)


def _accuracy(p: Tensor, y: Tensor) -> Tensor:
    return _share_equal(harden(p), y)


def _binary_f1(p: Tensor, y: Tensor) -> Tensor:
    decided = harden(p) == 1
    return _f1(decided & (y == 1), decided & (y == 0), ~decided & (y == 1))


def _class_f1(average: str, p: Tensor, y: Tensor) -> Tensor:
    # Columns are (tasks, classes, N) here.
    classes = torch.arange(p.shape[1]).unsqueeze(1)
    decided, labels = p.argmax(1, keepdim=True) == classes, y.unsqueeze(1) == classes
    decided = decided & ~y.isnan().unsqueeze(1)
    found = _f1(decided & labels, decided & ~labels, ~decided & labels)
    # As in torchmetrics and scikit-learn, classes that never occur do not count.
    weights = labels.sum(-1) if average == "weighted" else (decided | labels).any(-1)
    return (found * weights).sum(1) / weights.sum(1)


def _f1(right: Tensor, too_many: Tensor, too_few: Tensor) -> Tensor:
    """Compute F1 from true positives, false positives and false negatives; 0 if all are 0.

    torchmetrics has the same function, but its import takes seconds.
    """
    hits = 2 * right.sum(-1).double()
    return hits / (hits + too_many.sum(-1) + too_few.sum(-1)).clamp(min=1)


def _aurocs(p: Tensor, y: Tensor) -> Tensor:
    """Return the share of correctly ordered pairs (Mann-Whitney); NaN without a pair."""
    # Importing SciPy's rankdata takes most of a second. A rank is the mean of the first and last
    # places that the value could have; unlabelled rows come after all others.
    ranked = torch.where(y.isnan(), math.inf, p.clamp(0, 1))
    ordered = ranked.sort(dim=1).values
    below, upto = (torch.searchsorted(ordered, ranked, right=right) for right in (False, True))
    ranks = (below + upto + 1).double() / 2
    positives, negatives = (y == 1).sum(1).double(), (y == 0).sum(1).double()
    least = positives * (positives + 1) / 2
    return (torch.where(y == 1, ranks, 0.0).sum(1) - least) / (positives * negatives)


def _r2s(p: Tensor, y: Tensor) -> Tensor:
    spread = (y - y.nanmean(1, keepdim=True)).square().nansum(1)
    low, high = y.nan_to_num(nan=math.inf).amin(1), y.nan_to_num(nan=-math.inf).amax(1)
    return torch.where(low < high, 1 - (p - y).square().nansum(1) / spread, math.nan)


def _mean_squares(p: Tensor, y: Tensor) -> Tensor:
    return (p - y).square().nanmean(1)


def _mean_sizes(p: Tensor, y: Tensor) -> Tensor:
    return (p - y).abs().nanmean(1)


def _one_against_rest(name: str, p: Tensor, y: Tensor, w: Tensor | None) -> float:
    """Average over classes for which the metric is defined; `p` has shape (classes, N)."""
    if not p[:, ~y.isnan()].isfinite().all():
        return math.nan
    classes = torch.arange(len(p)).unsqueeze(1)
    found = binary_scores(name, p, torch.where(y.isnan(), y, (y == classes).double()), w)
    return float(torch.tensor(found, dtype=torch.float64).nanmean())


ECE_BINS = 15  # as in torchmetrics

Floats = np.ndarray[Any, np.dtype[np.float64]]


def row_weights(values: Any, n_rows: int) -> Tensor | None:
    """Return weights of rows as float64 (n_rows,); None stays None.

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
    """Return a metric of one column, over its labelled rows with a weight above zero.

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
    """Return the weighted mean over bins of |mean confidence - share of correct predictions|."""
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
    # The normalisation cancels in the quotient; numpy's default one is 0 if one weight dominates.
    cov = np.cov(p, y, aweights=w, ddof=0)
    return float(cov[0, 1] / math.sqrt(cov[0, 0] * cov[1, 1]))


def _spearman(p: Floats, y: Floats, w: Floats) -> float:
    return _pearson(_ranks(p, w), _ranks(y, w), w)


def _ranks(values: Floats, w: Floats) -> Floats:
    """Return each row's mean rank if every row is repeated as often as its weight says."""
    _, place = np.unique(values, return_inverse=True)
    weight = np.bincount(place, weights=w)
    middle: Floats = (weight.cumsum() - weight / 2)[place]
    return middle


_NUMBERS: dict[str, Callable[..., float]] = {
    "r2": _r2, "mse": _mean_square, "mae": _mean_size, "pearson": _pearson, "spearman": _spearman,
}  # fmt: skip
