"""From logits to losses, over the labelled entries only, and to predictions."""

from typing import TYPE_CHECKING

from torch import Tensor

from qmtl.errors import InvalidInputError
from qmtl.tasks._kinds import is_flat
from qmtl.tasks._layout import task_layout

if TYPE_CHECKING:
    from qmtl.tasks._task import Task

__all__ = ["activation", "loss", "loss_terms"]


def _check_logits(task: "Task", logits: Tensor) -> None:
    """Raise if logits are not (batch, n_outputs)."""
    if logits.ndim != 2 or logits.shape[1] != task.n_outputs:
        raise InvalidInputError(
            f"task '{task.name}': logits have shape {tuple(logits.shape)}, "
            f"expected (batch, {task.n_outputs})"
        )


def _check_shapes(task: "Task", logits: Tensor, targets: Tensor) -> None:
    """Raise if logits are not (batch, n_outputs), or targets not canonical ones of these rows."""
    _check_logits(task, logits)
    expected = logits.shape[:1] if is_flat(task) else logits.shape
    if targets.shape != expected or targets.is_floating_point() == (task.kind == "multiclass"):
        raise InvalidInputError(
            f"task '{task.name}': logits {tuple(logits.shape)} need targets from "
            f"Task.to_targets of shape {tuple(expected)}, got {tuple(targets.shape)} "
            f"{targets.dtype}"
        )


def loss_terms(task: "Task", logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the loss over the labelled entries, and its normaliser; see `Task.loss_terms`."""
    _check_shapes(task, logits, targets)
    layout = task_layout((task,))
    total, count = layout.loss_terms(logits, layout.join_targets({task.name: targets}))
    return total[0], count[0]


def loss(task: "Task", logits: Tensor, targets: Tensor) -> Tensor:
    """The mean loss over the labelled entries; see `Task.loss`."""
    total, count = loss_terms(task, logits, targets)
    if count == 0:
        raise InvalidInputError(
            f"task '{task.name}': the loss needs at least one label, but all "
            f"{targets.numel()} targets are missing"
        )
    return total / count


def activation(task: "Task", logits: Tensor) -> Tensor:
    """Predictions from logits; see `Task.activation`."""
    _check_logits(task, logits)
    values = task_layout((task,)).activation(logits)
    return values[:, 0] if is_flat(task) and task.kind != "multiclass" else values
