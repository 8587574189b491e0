"""UnifiedLoss: one mean squared error for tasks of all kinds, in a common space of targets."""

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from qmtl.errors import InvalidInputError
from qmtl.methods._method import Method, MethodSection
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task, TaskLayout


class UnifiedLoss(MethodSection):
    """Option ``loss = "unified"``: squared errors of values in [−1, 1], for tasks of all kinds.

    Class labels become −1 and 1, one for each output (one-hot with −1 for 0). Predictions become
    2·p − 1 of the model's probabilities p, which have the range of ⟨Z⟩. Regression values are
    standardised, with mean 0 and deviation 1. A task's loss is the mean over its labelled entries,
    and for classes over the classes. So no task has a larger loss only because of its kind. For
    classes, the loss is four times the Brier score. The use of probabilities is qmtl's choice,
    because heads without a circuit have no ⟨Z⟩; in the paper, tasks are images in the space of a
    decoder.

    Validation and test use the tasks' own losses and metrics, so that runs are comparable. Tasks
    with class weights are refused.

    Attributes:
        kind: name of the loss, ``unified``.

    References:
        StableMTL: arXiv:2506.08013.
    """

    short: ClassVar[str] = "kind"
    kind: Literal["unified"] = "unified"

    def build(self, model: MultiTaskModel, tasks: Sequence[Task], seed: int) -> Method:
        for task in tasks:
            if task.class_weights is not None:
                raise InvalidInputError(
                    f"loss = 'unified' has no class weights, but task {task.name!r} has "
                    f"{task.class_weights}"
                )
        return _SquaredErrors()


class _SquaredErrors(Method):
    def loss_terms(
        self,
        logits: Tensor,
        targets: Tensor,
        layout: TaskLayout,
        *,
        complete: bool,
        sample_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        columns = _columns(layout, logits.device)
        labels = targets.index_select(1, columns.target).to(logits.dtype)
        there = ~labels.isnan()
        predictions = layout.activation(torch.where(there, logits, 0.0))
        labels = torch.where(columns.label < 0, labels, labels == columns.label).to(logits.dtype)
        errors = columns.factor * (predictions - torch.where(there, labels, 0.0))
        # In the type of the errors, which is at least float32.
        weights = there.to(errors.dtype)
        if sample_weight is not None:
            weights = weights * sample_weight.to(errors.dtype)[:, None]
        zeros = errors.new_zeros(len(layout.tasks))
        sums, counts = (weights * errors.square()).sum(0), weights.sum(0)
        return zeros.index_add(0, columns.task, sums), zeros.index_add(0, columns.task, counts)


class _Columns(NamedTuple):
    """Properties of each column of joined logits, (outputs,)."""

    target: Tensor
    """Its column of joined targets."""
    task: Tensor
    """The place of its task."""
    label: Tensor
    """Its class; −1 if its target is a number or a single label."""
    factor: Tensor
    """2 where targets 0 and 1 stand for −1 and 1; 1 for regressions."""


@lru_cache
def _columns(layout: TaskLayout, device: torch.device) -> _Columns:
    task, label, factor = [], [], []
    for place, own in enumerate(layout.tasks):
        task += [place] * own.n_outputs
        classes = own.kind == "multiclass"
        label += list(range(own.n_outputs)) if classes else [-1] * own.n_outputs
        factor += [1.0 if own.kind == "regression" else 2.0] * own.n_outputs
    tables = (layout.column_of_output, *map(torch.tensor, (task, label, factor)))
    return _Columns(*(table.to(device) for table in tables))
