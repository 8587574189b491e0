"""From logits to losses, over the labelled entries only, and to predictions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as nnf

from qmtl.errors import InvalidInputError
from qmtl.tasks.kinds import is_flat
from qmtl.tasks.labels import present

if TYPE_CHECKING:
    from qmtl.tasks.task import Task

__all__ = ["activation", "check_shapes", "loss", "loss_terms", "terms_of_stack"]


def _check_logits(task: "Task", logits: Tensor) -> None:
    """Raise if logits are not (batch, n_outputs)."""
    if logits.ndim != 2 or logits.shape[1] != task.n_outputs:
        raise InvalidInputError(
            f"task '{task.name}': logits have shape {tuple(logits.shape)}, "
            f"expected (batch, {task.n_outputs})"
        )


def check_shapes(task: "Task", logits: Tensor, targets: Tensor) -> None:
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
    check_shapes(task, logits, targets)
    total, count = terms_of_stack([task], logits.unsqueeze(0), targets.unsqueeze(0))
    return total[0], count[0]


def terms_of_stack(
    tasks: Sequence["Task"], logits: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """`Task.loss_terms` of tasks that differ in name and in the values of their weights only.

    Args:
        tasks: of one kind and number of outputs, all with class weights or all without.
        logits: (tasks, B, n_outputs).
        targets: canonical ones, stacked: (tasks, B) or (tasks, B, n_outputs).

    Returns:
        The sums and the normalisers, both (tasks,).
    """
    first = tasks[0]
    kept = present(targets)
    # Missing entries are replaced on both sides *before* the loss: masking it afterwards
    # would leave 0 * NaN in the gradient.
    safe = torch.where(kept, targets, torch.zeros_like(targets))
    columns = logits[..., 0] if is_flat(first) and first.kind != "multiclass" else logits
    mask = kept.unsqueeze(-1) if first.kind == "multiclass" else kept
    columns = torch.where(mask, columns, torch.zeros_like(columns))
    weights = None
    if first.class_weights is not None:
        weights = logits.new_tensor([task.class_weights for task in tasks])
    losses, normalisers = _entry_losses(first.kind, columns, safe, weights)
    counted = kept.to(logits.dtype)
    return (losses * counted).flatten(1).sum(1), (normalisers * counted).flatten(1).sum(1)


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


def _entry_losses(
    kind: str, logits: Tensor, targets: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Loss of every entry, and its part in the normaliser; class weights are (tasks, classes)."""
    ones = torch.ones_like(targets, dtype=logits.dtype)
    if kind == "multiclass":
        flat = nnf.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        losses = flat.view_as(targets)
        own = ones if weights is None else weights.gather(1, targets)
        return losses if weights is None else losses * own, own
    targets = targets.to(logits.dtype)
    if kind == "regression":
        return (logits - targets).square(), ones
    entropy = nnf.binary_cross_entropy_with_logits
    if kind == "multilabel":
        positive = None if weights is None else weights.unsqueeze(1)
        return entropy(logits, targets, pos_weight=positive, reduction="none"), ones
    losses = entropy(logits, targets, reduction="none")
    return losses if weights is None else losses * weights.gather(1, targets.long()), ones
