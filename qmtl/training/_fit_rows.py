"""fit_rows: train a model on rows in memory, and do nothing else."""

import copy
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from qmtl.data import MultiTaskData, Split
from qmtl.errors import InvalidInputError
from qmtl.model import MultiTaskModel
from qmtl.training._fit import check_parts, run_trainer, set_target_scales
from qmtl.training._module import MultiTaskModule
from qmtl.training._settings import TrainingSettings

__all__ = ["RowsFit", "fit_rows"]


@dataclass(frozen=True)
class RowsFit:
    """How `fit_rows` went.

    Attributes:
        history: one row per epoch, split, task and metric, as in `qmtl.Result`.
        epochs: epochs trained.
        best_epoch: the epoch whose weights were kept, counted from 0.
    """

    history: list[dict[str, Any]]
    epochs: int
    best_epoch: int

    def training_losses(self) -> list[float]:
        """The mean over tasks of the training loss, per epoch.

        Example:
            >>> rows = [{"epoch": 0, "split": "train", "task": t, "metric": "loss", "value": v}
            ...         for t, v in (("a", 1.0), ("b", 3.0))]
            >>> RowsFit(rows, 1, 0).training_losses()
            [2.0]
        """
        epochs: list[list[float]] = [[] for _ in range(self.epochs)]
        for row in self.history:
            if (row["split"], row["metric"]) == ("train", "loss"):
                epochs[row["epoch"]].append(row["value"])
        return [sum(losses) / len(losses) for losses in epochs]


class _KeepBest(Callback):
    """Holds the weights of the epoch with the best validation loss, in memory."""

    def __init__(self) -> None:
        self.loss = float("inf")
        self.epoch: int | None = None
        self.state: dict[str, Any] = {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        loss = float(trainer.callback_metrics["validation_loss"])
        if loss < self.loss:
            self.loss, self.epoch = loss, int(trainer.current_epoch)
            self.state = copy.deepcopy(pl_module.model.state_dict())


def fit_rows(
    model: MultiTaskModel,
    train: Split,
    settings: TrainingSettings,
    validation: Split | None = None,
) -> RowsFit:
    """Train a model in place: no files, no progress, no metrics but the losses.

    The same steps as `qmtl.fit` takes, which adds checkpoints, metrics of three splits and
    baselines. For callers that fit many small models, such as `qmtl.sklearn`.

    Args:
        model: what to train. Its regression targets' scale is set from `train`.
        train: rows to learn from.
        settings: how; one process (`devices` = 1).
        validation: rows by whose loss the best epoch is chosen, and training stopped with
            `patience`; None keeps the last epoch's weights.

    Raises:
        InvalidInputError: for settings that do not fit, such as `patience` without `validation`.

    Example:
        >>> import qmtl, torch
        >>> rows = Split(torch.randn(8, 2), {"a": torch.tensor([0.0, 1.0] * 4)})
        >>> circuit = qmtl.HeadCircuit([qmtl.Task.binary("a")])
        >>> model = MultiTaskModel(qmtl.encoders.Identity(2), qmtl.QuantumHead(circuit, seed=0))
        >>> len(fit_rows(model, rows, TrainingSettings(max_epochs=2)).training_losses())
        2
    """
    if settings.devices != 1:
        raise InvalidInputError(f"devices must be 1 to fit rows in memory, got {settings.devices}")
    if validation is None and (settings.patience is not None or settings.schedule == "plateau"):
        key = "patience" if settings.patience is not None else "schedule 'plateau'"
        raise InvalidInputError(f"{key} needs validation rows, but there are none")
    spare = train if validation is None else validation
    data = MultiTaskData("rows", model.tasks, train, spare, spare)
    check_parts(model, data, settings)
    set_target_scales(model, data)
    module = MultiTaskModule(model, settings)
    keep = _KeepBest()
    callbacks: list[Callback] = [keep] if validation is not None and settings.restore_best else []
    epochs = run_trainer(module, data, callbacks, validate=validation is not None)
    if keep.epoch is not None:
        model.load_state_dict(keep.state)
    model.to("cpu").eval()
    return RowsFit(module.history, epochs, epochs - 1 if keep.epoch is None else keep.epoch)
