"""From logits to losses, over the labelled entries only, and to predictions."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as nnf

from qmtl.errors import InvalidInputError
from qmtl.tasks.kinds import is_flat
from qmtl.tasks.labels import present

if TYPE_CHECKING:
    from qmtl.tasks.task import Task

__all__ = ["activation", "loss", "loss_terms"]


def _check_logits(task: "Task", logits: Tensor) -> None:
    """Raise if logits are not (batch, n_outputs)."""
    if logits.ndim != 2 or logits.shape[1] != task.n_outputs:
        raise InvalidInputError(
            f"task '{task.name}': logits have shape {tuple(logits.shape)}, "
            f"expected (batch, {task.n_outputs})"
        )


def loss_terms(task: "Task", logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the loss over the labelled entries, and its normaliser; see `Task.loss_terms`."""
    _check_logits(task, logits)
    expected = logits.shape[:1] if is_flat(task) else logits.shape
    if targets.shape != expected or targets.is_floating_point() == (task.kind == "multiclass"):
        raise InvalidInputError(
            f"task '{task.name}': logits {tuple(logits.shape)} need targets from "
            f"Task.to_targets of shape {tuple(expected)}, got {tuple(targets.shape)} "
            f"{targets.dtype}"
        )
    kept = present(targets)
    # Missing entries are replaced on both sides *before* the loss: masking it afterwards
    # would leave 0 * NaN in the gradient.
    safe = torch.where(kept, targets, torch.zeros_like(targets))
    columns = logits[:, 0] if is_flat(task) and task.kind != "multiclass" else logits
    mask = kept.unsqueeze(1) if task.kind == "multiclass" else kept
    columns = torch.where(mask, columns, torch.zeros_like(columns))
    losses, weights = _entry_losses(task, columns, safe)
    counted = kept.to(logits.dtype)
    return (losses * counted).sum(), (weights * counted).sum()


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
    if task.kind == "multiclass":
        return logits.softmax(dim=1)
    values = logits if task.kind == "regression" else logits.sigmoid()
    return values[:, 0] if is_flat(task) else values


def _entry_losses(task: "Task", logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of every entry, and its part in the normaliser."""
    weights = None if task.class_weights is None else logits.new_tensor(task.class_weights)
    ones = torch.ones_like(targets, dtype=logits.dtype)
    if task.kind == "multiclass":
        losses = nnf.cross_entropy(logits, targets, weight=weights, reduction="none")
        return losses, ones if weights is None else weights[targets]
    targets = targets.to(logits.dtype)
    if task.kind == "regression":
        return (logits - targets).square(), ones
    if task.kind == "multilabel":
        entropy = nnf.binary_cross_entropy_with_logits
        return entropy(logits, targets, pos_weight=weights, reduction="none"), ones
    losses = nnf.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return losses if weights is None else losses * weights[targets.long()], ones
