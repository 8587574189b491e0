"""The losses of chosen rows, for methods that use gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from qmtl._target_scale import label_scale
from qmtl.data import MultiTaskData, Split
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task, task_layout


class LossesOfRows:
    """Sums of the tasks' losses over chosen rows of a split.

    Regression targets are standardised by the model's scale; if it was never set, by the scale of
    the training rows.

    Raises:
        InvalidInputError: for a task that the model does not have, or an unknown split.
    """

    def __init__(self, model: MultiTaskModel, data: MultiTaskData, split: str) -> None:
        check_tasks_of(model, data)
        if split not in data.splits:
            raise unknown_name("split", split, data.splits)
        self.model = model
        self.rows: Split = data.splits[split]
        reference = next(model.parameters())
        self.inputs = self.rows.inputs.to(reference)
        layout = task_layout(data.tasks)
        self._slices = layout.column_slices
        mean, std = _target_scale(model, data)
        targets = layout.join_targets(self.rows.targets)
        self._targets = ((targets - mean) / std).to(reference)
        self._centred: dict[str, Tensor] = {}
        weights = self.rows.relative_weight
        self._weights = weights if weights is None else weights.to(reference)

    def sums(self, features: Tensor, rows: Tensor, tasks: Sequence[Task]) -> Tensor:
        """Return each task's loss, summed over the labels of these rows, (tasks,)."""
        logits = self.model.logits(features, [task.name for task in tasks])
        return self.terms_of_logits(logits, rows, tasks)[0]

    def misfits(self, features: Tensor, rows: Tensor, tasks: Sequence[Task]) -> Tensor:
        """Return each task's ``-Σ w·(y - ȳ)·logit``, shape (tasks,).

        The sum is over the task's outputs and those of the rows that have a label. Here y is 0 or 1
        for a class or a label and a standardised target for a regression, ȳ is its weighted mean
        over the split, and w is the row's weight. For a learned task the gradient of the loss
        vanishes; the gradient of this sum does not.
        """
        logits = self.model.logits(features, [task.name for task in tasks])
        parts = logits.split([task.n_outputs for task in tasks], dim=1)
        pairs = zip(tasks, parts, strict=True)
        return torch.stack([-(self._centred_of(task)[rows] * part).sum() for task, part in pairs])

    def _centred_of(self, task: Task) -> Tensor:
        """Return a task's weight · (y - ȳ), shape (rows, outputs); 0 where there is no label."""
        if task.name not in self._centred:
            values = self._targets[:, self._slices[task.name]]
            if task.kind == "multiclass":
                hot = values.nan_to_num().long() == torch.arange(task.n_outputs).to(values.device)
                values = torch.where(values.isnan(), values, hot.to(values))
            weights = values.new_ones(len(values)) if self._weights is None else self._weights
            known = weights[:, None] * ~values.isnan()
            values = values.nan_to_num()
            mean = (known * values).sum(0) / known.sum(0).clamp(min=1e-30)
            self._centred[task.name] = known * (values - mean)
        return self._centred[task.name]

    def terms_of_logits(
        self, logits: Tensor, rows: Tensor, tasks: Sequence[Task]
    ) -> tuple[Tensor, Tensor]:
        """Return the `sums` and their divisors, from the joined logits of these tasks."""
        columns = [self._targets[rows, self._slices[task.name]] for task in tasks]
        weights = self._weights if self._weights is None else self._weights[rows]
        layout, targets = task_layout(tuple(tasks)), torch.cat(columns, 1)
        return layout.loss_terms(logits, targets, sample_weight=weights)


def check_tasks_of(model: MultiTaskModel, data: MultiTaskData) -> None:
    """Raise if the data are not `MultiTaskData`, or have a task that the model lacks."""
    if not isinstance(data, MultiTaskData):
        raise InvalidInputError(
            f"data must be MultiTaskData, with its splits and tasks, got {type(data).__name__}"
        )
    known = {task.name: task for task in model.tasks}
    for task in data.tasks:
        if task.name not in known:
            raise unknown_name("task of the data, for this model:", task.name, known)
        own = known[task.name]
        if (task.kind, task.n_outputs) != (own.kind, own.n_outputs):
            raise InvalidInputError(
                f"task {task.name!r} is {task.kind} with {task.n_outputs} outputs in the data, "
                f"and {own.kind} with {own.n_outputs} in the model"
            )


def _target_scale(model: MultiTaskModel, data: MultiTaskData) -> tuple[Tensor, Tensor]:
    mean, std = (part.cpu().double() for part in model.target_scale([t.name for t in data.tasks]))
    layout = task_layout(data.tasks)
    own, width = label_scale(layout.join_targets(data.train.targets), data.train.sample_weight)
    unset = (mean == 0) & (std == 1)
    for task in data.tasks:
        unset[layout.column_slices[task.name]] &= task.kind == "regression"
    return torch.where(unset, own, mean), torch.where(unset, width, std)
