"""TargetScale: standardises regression targets by the training split, and undoes it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qmtl.errors import InvalidInputError, unknown_name
from qmtl.heads import Loading, escaped, own_storage
from qmtl.tasks import Task, rounding, task_layout

# The mean of targets, its rounding error, and their standard deviation.
PARTS = ("mean", "rest", "std")


class TargetScale(nn.Module):
    """The mean and standard deviation of every column of joined targets.

    For tasks other than regressions they are 0 and 1. The mean is stored in two parts, which keep
    float64's digits in a float32 model. In the state of the enclosing module the keys are
    ``target_mean_TASK`` and so on, by `split_scale` and `join_scale`.
    """

    mean: Tensor
    rest: Tensor
    std: Tensor

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        layout = task_layout(tuple(tasks))
        self.slices = layout.column_slices
        self.regressions = [task.name for task in tasks if task.kind == "regression"]
        for part in PARTS:
            start = torch.ones if part == "std" else torch.zeros
            self.register_buffer(part, start(layout.n_columns))

    def set(self, task: str, mean: Tensor | float, std: Tensor | float) -> None:
        """Set a regression task's target mean and standard deviation: numbers, or one per target.

        Raises:
            InvalidInputError: if a mean is not finite, or a deviation not finite and positive, in
                float32; or if the task is not a regression.
        """
        if task not in self.regressions:
            raise unknown_name("regression task", task, self.regressions)
        whole, rest, deviation = (getattr(self, part)[self.slices[task]] for part in PARTS)
        mean, std = (torch.as_tensor(v).reshape(-1).to(whole.device) for v in (mean, std))
        # Float32 also in a float64 model, so that a cast of the model does not change the scale.
        rounded, width = mean.float(), std.float()
        if not (rounded.isfinite() & width.isfinite() & (width > 0)).all():
            raise InvalidInputError(
                f"task {task!r}: the targets' means must be finite and their standard deviations "
                f"finite and positive, got {mean.tolist()} and {std.tolist()}"
            )
        whole.copy_(rounded)
        rest.copy_(mean - rounded)
        deviation.copy_(width)

    def forward(self, tasks: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
        """Return means and standard deviations of these tasks' columns (None: all), in float64.

        On MPS, which has no float64, they are in the model's type.
        """
        parts = [self.mean, self.rest, self.std]
        if self.mean.device.type != "mps":
            parts = [part.double() for part in parts]
        mean, rest, std = parts
        mean = mean + rest
        if tasks is None:
            return mean, std
        mean, std = (torch.cat([v[self.slices[name]] for name in tasks]) for v in (mean, std))
        return mean, std

    def standardised(self, task: str, targets: Tensor) -> Tensor:
        """Return one task's targets in the form that its loss uses; only regressions change."""
        if task not in self.regressions:
            return targets
        mean, std = self.forward([task])
        return ((targets.reshape(len(targets), -1) - mean) / std).reshape(targets.shape)

    def restored(self, task: str, predictions: Tensor) -> Tensor:
        """Return one task's predictions in its targets' units; only regressions change."""
        if task not in self.regressions:
            return predictions
        mean, std = self.forward([task])
        wide = predictions.reshape(predictions.shape[0], -1)
        return (wide * std + mean).reshape(predictions.shape)

    def keys(self, part: str, prefix: str) -> dict[str, slice]:
        """Return each regression's key in a state of the enclosing module, and its columns."""
        own = self.regressions
        return {f"{prefix}target_{part}_{escaped(name)}": self.slices[name] for name in own}


def label_scale(targets: Tensor, sample_weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return each column's mean and standard deviation (1 for a constant), float64 (columns,).

    Args:
        targets: targets (rows,) or (rows, columns), NaN where missing.
        sample_weight: weights of the rows, (rows,); None for 1 each.
    """
    values = targets.reshape(len(targets), -1).double()
    weights = (~values.isnan()).double()
    if sample_weight is not None:
        weights = weights * sample_weight.double().unsqueeze(1)
    values, total = values.nan_to_num(), weights.sum(0)
    mean = (weights * values).sum(0) / total
    std = ((weights * (values - mean).square()).sum(0) / total).sqrt()
    # The deviation of a constant is a rounding error, and dividing by it would blow up.
    return mean, torch.where(std <= rounding(len(values)) * mean.abs(), 1.0, std)


def split_scale(model: Any, state: dict[str, Any], prefix: str, _: object) -> None:
    """Split a `TargetScale` in a module's state into one key per task (a hook of torch)."""
    for part in PARTS:
        values = state.pop(f"{prefix}scale.{part}")
        keys = model.scale.keys(part, prefix)
        state.update((key, own_storage(values[own])) for key, own in keys.items())


def join_scale(model: Any, loading: Loading) -> None:
    """Join such keys again before a state is loaded (a hook of `qmtl.heads.Loading`)."""
    for part in PARTS:
        values = getattr(model.scale, part).clone()
        for key, own in model.scale.keys(part, loading.prefix).items():
            values[own] = loading.take(key, values[own])
        loading.state[f"{loading.prefix}scale.{part}"] = values
