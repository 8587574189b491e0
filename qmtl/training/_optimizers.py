"""The parameters that a run trains, the task of each of their entries, and the optimisers."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qmtl._growth import last_layer
from qmtl.encoders import TaskEncoder
from qmtl.errors import InvalidInputError
from qmtl.heads import Head
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task
from qmtl.training._settings import TrainingSettings, monitor_mode


class TrainedParameters:
    """The parameters of a model that the training of some tasks changes.

    Attributes:
        shared: parameters that several of these tasks depend on.
        own: parameters whose entries each belong to one task, and the `further` ones.
        further: the `further` parameters, at the end of `own`.
        row_of: the optimiser's row of each entry along a parameter's first axis: a task's row, a
            row that is never stepped, or a row that is always stepped.

    Raises:
        InvalidInputError: if no parameter is to be trained.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Sequence[Task],
        *,
        only: bool = False,
        further: Sequence[nn.Parameter] = (),
    ) -> None:
        self.tasks, self.only = tuple(tasks), only
        self._rows: Any = model.task_rows()
        self.own = [p for rows in self._rows for p in rows.parameters() if p.requires_grad]
        owned = {id(p) for p in self.own}
        self.shared = [p for p in model.parameters() if p.requires_grad and id(p) not in owned]
        place = {task.name: i for i, task in enumerate(self.tasks)}
        self.row_of: dict[nn.Parameter, Tensor] = {}
        for rows in self._rows:
            entries = torch.tensor([place.get(name, len(place)) for name in rows.names])
            self.row_of |= dict.fromkeys(rows.parameters(), entries[rows.row_of.cpu()])
        if only:
            self.shared = []
            alone = self._alone(model)
            self.own += alone
            self.row_of |= alone
        if not self.shared and not any(
            rows.parameter.requires_grad and len(rows.frozen) < len(rows.names)
            for rows in self._rows
        ):
            raise InvalidInputError(
                "there is nothing to train: every parameter of the model is frozen, by "
                "requires_grad_(False) or head.freeze(task)"
            )
        self.further = list(further)
        self.own += further

    def _alone(self, model: MultiTaskModel) -> dict[nn.Parameter, Tensor]:
        """Mark the entries of shared parameters that affect only these tasks."""
        never = len(self.tasks)
        depends = model.head.dependencies() if isinstance(model.head, Head) else None
        if depends is None:
            return {}
        names = {task.name for task in self.tasks}
        trained = [i for i, task in enumerate(model.tasks) if task.name in names]
        layer = last_layer(model.encoder)
        by_features = [] if layer is None else list(layer.parameters())
        by_weights = [p for n, p in model.head.named_parameters(recurse=False) if n == "encoding"]
        # A parameter that encoder and head share has two kinds of entries.
        encoders, heads = ({id(p) for p in m.parameters()} for m in (model.encoder, model.head))
        found: dict[nn.Parameter, Tensor] = {}
        for (task, place), parameters in zip(depends, (by_features, by_weights), strict=True):
            mine = np.isin(task, trained)
            for parameter in parameters:
                if id(parameter) not in encoders & heads:
                    found[parameter] = torch.zeros(len(parameter), dtype=torch.bool)
                    found[parameter][torch.from_numpy(place[mine])] = True
                    found[parameter][torch.from_numpy(place[~mine])] = False
        if isinstance(model.encoder, TaskEncoder):
            for parameter, owners in model.encoder.task_parameters().items():
                found[parameter] = torch.tensor([name in names for name in owners])
        return {
            parameter: never + alone.long()
            for parameter, alone in found.items()
            if parameter.requires_grad and bool(alone.any())
        }

    def stepped(self, present: Tensor | None, device: torch.device) -> Tensor | None:
        """Return which rows the optimiser steps, bool (rows,), see `row_of`; None for all."""
        frozen = {name for rows in self._rows for name in rows.frozen}
        if present is None and not frozen and not self.only:
            return None
        mask = self.mask(present, device)
        if frozen:
            mask &= torch.tensor([t.name not in frozen for t in self.tasks], device=device)
        return torch.cat([mask, torch.tensor([False, True], device=device)]) if self.only else mask

    def mask(self, present: Tensor | None, device: torch.device) -> Tensor:
        """Return which tasks are present, bool (tasks,)."""
        mask = torch.zeros(len(self.tasks), dtype=torch.bool, device=device)
        mask[slice(None) if present is None else present] = True
        return mask


# Devices on which torch has kernels that step many parameters at once.
FUSED = ("cpu", "cuda")


class _ByRow(torch.optim.Optimizer):
    """The step of `RowAdam` and similar classes; a subclass steps the rows of one parameter."""

    _step_rows: Any

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, present: Tensor | None = None
    ) -> float | None:
        """Step all rows, or the `present` ones, bool (rows,), of parameters with a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        held = []
        for group in self.param_groups:
            for parameter, row_of in zip(group["params"], group.get("row_of", ()), strict=False):
                if row_of is None or parameter.grad is None:
                    continue
                counts = self.state[parameter].get("step")
                if present is not None or (counts is not None and counts.ndim > 0):
                    held.append((parameter, parameter.grad, group, row_of))
                    parameter.grad = None
        # If every task has had labels in every step so far, torch's kernel can do the step.
        super().step()
        for parameter, gradient, group, row_of in held:
            parameter.grad = gradient
            signed = -gradient if group["maximize"] else gradient
            rows = _Rows(row_of.to(parameter.device), present, parameter.ndim)
            self._step_rows(parameter, signed, self.state[parameter], group, rows)
        return loss


class _Rows:
    """The rows of a parameter's entries, and which of them to step."""

    def __init__(self, row_of: Tensor, present: Tensor | None, ndim: int) -> None:
        self.row_of, self.present, self.ndim = row_of, present, ndim
        self.here = None if present is None else self.spread(present)

    def spread(self, values: Tensor) -> Tensor:
        """Expand one number per row to each entry of a parameter."""
        return values[self.row_of].view(-1, *[1] * (self.ndim - 1))

    def replace(self, target: Tensor, new: Tensor) -> None:
        target.copy_(new if self.here is None else torch.where(self.here, new, target))

    def counted(self, state: dict[str, Any], like: Tensor) -> Tensor:
        """Return step counts: one number until a row has been absent, then one per row."""
        if not state["step"].ndim and self.present is not None:
            state["step"] = state["step"].expand(len(self.present)).clone()
        counts: Tensor = state["step"].to(like.device)
        state["step"] = counts
        return counts


class _AdamRows(_ByRow):
    def _step_rows(
        self, weights: Tensor, gradient: Tensor, state: Any, group: dict[str, Any], rows: _Rows
    ) -> None:
        if group["amsgrad"] or group["differentiable"]:
            raise InvalidInputError("RowAdam supports neither amsgrad nor differentiable")
        if not state:
            state |= {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(weights)}
            state["exp_avg_sq"] = torch.zeros_like(weights)
        mean, square, counts = state["exp_avg"], state["exp_avg_sq"], rows.counted(state, weights)
        counts += 1 if rows.present is None else rows.present
        rate, (first, second) = group["lr"], group["betas"]
        start = weights
        if group["weight_decay"] and group["decoupled_weight_decay"]:
            start = weights * (1 - rate * group["weight_decay"])
        elif group["weight_decay"]:
            gradient = gradient.add(weights, alpha=group["weight_decay"])
        rows.replace(mean, mean.lerp(gradient, 1 - first))
        rows.replace(square, (square * second).addcmul(gradient, gradient, value=1 - second))
        # Double precision, as in torch; MPS lacks it.
        exact = counts if counts.device.type == "mps" else counts.double()
        sizes = rows.spread((rate / (1 - torch.pow(first, exact))).to(weights.dtype))
        roots = rows.spread((1 - torch.pow(second, exact)).sqrt().to(weights.dtype))
        rows.replace(weights, start - mean / (square.sqrt() / roots + group["eps"]) * sizes)


class RowAdam(_AdamRows, torch.optim.Adam):
    """`torch.optim.Adam` that steps parameters row by row in groups with the key ``row_of``.

    ``row_of`` holds for each parameter of the group an int64 tensor that gives the row of each
    entry along its first axis, or None for a parameter without rows. ``step(present=...)`` then
    steps only the rows that are present (bool, one per row). The others keep their weights, moments
    and step counts bit for bit, weight decay included. The result is as if each row were a
    parameter with its own optimiser state. In ``state_dict``, ``step`` is one number until a row
    has been absent, and one number per row from then on.

    Raises:
        InvalidInputError: if a step by row is used with ``amsgrad`` or ``differentiable``.

    Example:
        >>> weights = torch.nn.Parameter(torch.zeros(4))
        >>> group = {"params": [weights], "row_of": [torch.tensor([0, 0, 1, 1])]}
        >>> optimizer = RowAdam([group], lr=0.1)
        >>> weights.grad = torch.ones(4)
        >>> optimizer.step(present=torch.tensor([True, False]))
        >>> weights.detach()
        tensor([-0.1000, -0.1000,  0.0000,  0.0000])
    """


class RowAdamW(_AdamRows, torch.optim.AdamW):
    """`torch.optim.AdamW` that steps parameters row by row; see `RowAdam`."""


class RowSGD(_ByRow, torch.optim.SGD):
    """`torch.optim.SGD`, with or without momentum, that steps row by row; see `RowAdam`."""

    def _step_rows(
        self, weights: Tensor, gradient: Tensor, state: Any, group: dict[str, Any], rows: _Rows
    ) -> None:
        if group["weight_decay"]:
            gradient = gradient.add(weights, alpha=group["weight_decay"])
        if group["momentum"]:
            if "step" not in state:
                known = state.get("momentum_buffer") is not None
                state["step"] = torch.tensor(float(known))
                if not known:
                    state["momentum_buffer"] = torch.zeros_like(weights)
            buffer, counts = state["momentum_buffer"], rows.counted(state, weights)
            # The first momentum of a row is its gradient, without dampening.
            new = (buffer * group["momentum"]).add(gradient, alpha=1 - group["dampening"])
            rows.replace(buffer, torch.where(rows.spread(counts == 0), gradient, new))
            counts += 1 if rows.present is None else rows.present
            gradient = gradient + group["momentum"] * buffer if group["nesterov"] else buffer
        rows.replace(weights, weights - group["lr"] * gradient)


OPTIMIZERS = {"adam": RowAdam, "adamw": RowAdamW, "sgd": RowSGD}


def make_optimizer(
    settings: TrainingSettings, groups: Sequence[dict[str, Any]]
) -> torch.optim.Optimizer:
    """Return the optimiser for groups of parameters.

    Where possible, torch's fused kernel steps all parameters at once, because a loop over many
    small ones is slow. The kernel needs contiguous memory.
    """
    parameters = [p for group in groups for p in group["params"]]
    fused = all(
        p.is_floating_point() and p.device.type in FUSED and p.is_contiguous() for p in parameters
    )
    make: Any = OPTIMIZERS[settings.optimizer]
    # None, because False would also turn off torch's `foreach` implementation.
    optimizer: torch.optim.Optimizer = make(
        groups, lr=settings.learning_rate, weight_decay=0.0, fused=fused or None
    )
    return optimizer


def planned_epochs(settings: TrainingSettings, model: MultiTaskModel, trainer: Any) -> float:
    """Return a run's number of epochs; infinity if only time or the user ends it.

    Raises:
        InvalidInputError: if the schedule or the encoder needs a number, and there is none.
    """
    epochs = settings.max_epochs or trainer.max_epochs
    if epochs is not None and epochs > 0:
        return float(epochs)
    if trainer.max_steps > 0:
        trainer.fit_loop.setup_data()
        batches = trainer.max_steps * settings.accumulate_grad_batches
        return float(math.ceil(batches / trainer.num_training_batches))
    if settings.schedule == "cosine" or isinstance(model.encoder, TaskEncoder):
        what = "schedule 'cosine'" if settings.schedule == "cosine" else "the encoder"
        raise InvalidInputError(
            f"{what} needs the number of epochs: set max_epochs in the settings or the trainer, or "
            f"the trainer's max_steps; got max_epochs={epochs} and max_steps={trainer.max_steps}"
        )
    return math.inf


def make_schedule(
    settings: TrainingSettings, optimizer: torch.optim.Optimizer, n_epochs: float
) -> Any:
    """Return the schedule of the learning rates; None for constant ones."""
    schedulers = torch.optim.lr_scheduler
    if settings.schedule == "cosine":
        return schedulers.CosineAnnealingLR(optimizer, int(n_epochs))
    if settings.schedule == "plateau":
        mode: Any = monitor_mode(settings.monitor)
        return schedulers.ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=5)
    return None
