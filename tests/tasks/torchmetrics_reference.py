"""torchmetrics as an independent reference of the metrics."""

import warnings

import torchmetrics
from torchmetrics import MetricCollection
from torchmetrics.wrappers import LambdaInputTransformer

from qmtl.tasks import metric_names

CLASSES = {
    "accuracy": ("Accuracy", "micro"), "balanced_accuracy": ("Accuracy", "macro"),
    "f1": ("F1Score", "macro"), "macro_f1": ("F1Score", "macro"),
    "weighted_f1": ("F1Score", "weighted"), "auroc": ("AUROC", None),
    "average_precision": ("AveragePrecision", None), "matthews": ("MatthewsCorrCoef", None),
    "ece": ("CalibrationError", None), "r2": ("R2Score", None), "mse": ("MeanSquaredError", None),
    "mae": ("MeanAbsoluteError", None), "pearson": ("PearsonCorrCoef", None),
    "spearman": ("SpearmanCorrCoef", None),
}  # fmt: skip
"""torchmetrics' class, and the kind of average over classes or labels, by metric name."""


def by_torchmetrics(task, predictions, targets):
    """The task's metrics of complete labels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)
        names = metric_names(task)
        built = {name: _metric(task.kind, task.n_outputs, name) for name in names}
        found = MetricCollection(built, compute_groups=False)(predictions, targets)
    return {name: float(value) for name, value in found.items()}


def _metric(kind, n, name):
    own, average = CLASSES[name]
    make = getattr(torchmetrics, own)
    if kind == "regression":
        return make(num_outputs=n) if name in ("pearson", "spearman") else make()
    # torchmetrics thresholds at > 0.5, `Task.decision` at >= 0.5.
    hard = kind != "multiclass" and name not in ("auroc", "average_precision", "ece")
    if kind == "multilabel" and n == 1:  # torchmetrics refuses a single label
        kind = "binary"
    elif kind == "binary" and name in ("balanced_accuracy", "macro_f1", "weighted_f1"):
        kind, n = "multiclass", 2
    options = {} if average is None else {"average": average}
    if kind != "binary":
        options["num_classes" if kind == "multiclass" else "num_labels"] = n
    metric = make(task=kind, **options)
    return LambdaInputTransformer(metric, harden) if hard else metric


def harden(predictions):
    return (predictions >= 0.5).long()
