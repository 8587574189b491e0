"""The torchmetrics objects of tasks; torchmetrics is imported when one is made."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from qmtl.tasks._kinds import metric_names

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

    from qmtl.tasks._task import Task

__all__ = ["harden", "metric_collection", "silence"]


@contextmanager
def silence() -> Iterator[None]:
    """Torchmetrics warns where we answer NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)
        yield


def harden(predictions: Tensor) -> Tensor:
    """Hard labels of probabilities: a tie at 0.5 is positive."""
    return (predictions >= 0.5).long()


def metric_collection(task: "Task") -> "MetricCollection":
    """The task's metrics as one torchmetrics object; see `Task.metrics`."""
    from torchmetrics import MetricCollection

    with silence():
        built = {n: _torchmetric(task.kind, task.n_outputs, n) for n in metric_names(task)}
        return MetricCollection(built, compute_groups=False)


def _torchmetric(kind: str, n: int, name: str) -> Any:
    """The torchmetrics object for one metric name; `n` is the number of outputs."""
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
