"""Kinds of tasks, the metrics that fit each, and the missing label."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from qmtl.tasks._task import Task

__all__ = ["METRICS", "MISSING", "Kind", "is_flat", "metric_names"]

Kind = Literal["binary", "multiclass", "multilabel", "regression"]

MISSING = -100
"""The missing label in integer targets (torch's `ignore_index`)."""

_CLASS_METRICS = (
    "accuracy", "balanced_accuracy", "f1", "macro_f1", "weighted_f1",
    "auroc", "average_precision", "matthews", "ece",
)  # fmt: skip
METRICS: dict[str, tuple[str, ...]] = {
    "binary": _CLASS_METRICS,
    "multiclass": _CLASS_METRICS,
    "multilabel": ("accuracy", "f1", "macro_f1", "weighted_f1", "auroc", "average_precision"),
    "regression": ("r2", "mse", "mae", "pearson", "spearman"),
}
_DEFAULT_METRICS: dict[str, tuple[str, ...]] = {
    "binary": ("accuracy", "f1", "auroc"),
    "multiclass": ("accuracy", "macro_f1"),
    "multilabel": ("accuracy", "macro_f1", "auroc"),
    "regression": ("r2", "mae"),
}


def metric_names(task: "Task") -> tuple[str, ...]:
    """The task's metrics, or its kind's default ones."""
    return task.metric_names or _DEFAULT_METRICS[task.kind]


def is_flat(task: "Task") -> bool:
    """Whether canonical targets are (N,), not (N, n_outputs)."""
    return task.kind in ("binary", "multiclass") or (
        task.kind == "regression" and task.n_outputs == 1
    )
