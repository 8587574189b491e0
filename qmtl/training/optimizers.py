"""The optimiser of a run and its schedule, by the names that settings have for them."""

from collections.abc import Sequence
from typing import Any

import torch

from qmtl.training.settings import TrainingSettings

__all__ = ["make_optimizer", "make_schedule"]

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
# Devices on which torch has kernels that step many parameters at once.
FUSED = ("cpu", "cuda")


def make_optimizer(
    settings: TrainingSettings, groups: Sequence[dict[str, Any]]
) -> torch.optim.Optimizer:
    """The optimiser of groups of parameters.

    One kernel steps all of them where torch has one: a loop over a thousand small ones is slow. It
    takes all numbers for contiguous, so that parameters in another layout have torch's loop.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> make_optimizer(TrainingSettings(), [{"params": [weight]}]).defaults["fused"]
        True
    """
    parameters = [p for group in groups for p in group["params"]]
    fused = all(
        p.is_floating_point() and p.device.type in FUSED and p.is_contiguous() for p in parameters
    )
    make: Any = OPTIMIZERS[settings.optimizer]
    # Not False, which would turn off torch's other ways to step many at once.
    optimizer: torch.optim.Optimizer = make(
        groups, lr=settings.learning_rate, weight_decay=0.0, fused=fused or None
    )
    return optimizer


def make_schedule(settings: TrainingSettings, optimizer: torch.optim.Optimizer) -> Any:
    """The schedule of the learning rates; None for constant ones.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))])
        >>> make_schedule(TrainingSettings(schedule="cosine"), optimizer).T_max
        30
    """
    schedulers = torch.optim.lr_scheduler
    if settings.schedule == "cosine":
        return schedulers.CosineAnnealingLR(optimizer, settings.max_epochs)
    if settings.schedule == "plateau":
        return schedulers.ReduceLROnPlateau(optimizer, factor=0.5, patience=5)
    return None
