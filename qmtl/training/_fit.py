"""fit: train a model on data and evaluate it; fit_rows: only train it, on rows in memory."""

import copy
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from qmtl.data import MultiTaskData, Split
from qmtl.errors import InvalidInputError, ModelFileError
from qmtl.model import MultiTaskModel
from qmtl.tasks import labelled_rows
from qmtl.training._batches import MultiTaskDataModule
from qmtl.training._checkpoints import (
    BEST,
    LAST,
    ResumedSettings,
    best_checkpoint,
    is_finished,
    last_checkpoint,
    read_checkpoint,
    remove_leftovers,
    restoring,
)
from qmtl.training._combine import rehearse
from qmtl.training._evaluate import baseline_metrics, evaluate
from qmtl.training._module import MultiTaskModule
from qmtl.training._progress import progress_callback
from qmtl.training._result import Result
from qmtl.training._settings import TrainingSettings, settings_from
from qmtl.training._threads import torch_threads
from qmtl.training._trainer import make_trainer, quiet_libraries, run_trainer

__all__ = ["RowsFit", "check_fit", "fit", "fit_rows"]


def fit(
    model: MultiTaskModel,
    data: MultiTaskData,
    settings: TrainingSettings | None = None,
    *,
    checkpoints: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    callbacks: list[Callback] | None = None,
    **options: Any,
) -> Result:
    """Train a model, keep the weights of the best validation epoch, and evaluate them.

    Args:
        model: what to train, in place. Its regression targets' scale is set from the training
            split.
        data: tasks, splits and labels; the tasks must be the model's.
        settings: how to train; or give its fields as keyword arguments, such as
            ``aggregator="upgrad", max_epochs=20, seed=0``.
        checkpoints: folder to keep the last and the best checkpoint in; None keeps none.
        resume: continue from the last checkpoint in that folder. The result is the same, bit for
            bit on a CPU, as that of a run that was not interrupted.
        progress: whether to show it.
        callbacks: further Lightning callbacks.

    Raises:
        InvalidInputError: for settings that do not fit model and data, such as `patience` without
            any validation label, or other tasks in data and model.
        ModelFileError: for a checkpoint that is damaged or of another run's shape.

    Example:
        >>> import qmtl
        >>> data = qmtl.data.digits(tasks=["parity"])
        >>> circuit = qmtl.HeadCircuit(data.tasks)
        >>> encoder = qmtl.encoders.MLP(64, out_features=circuit.n_features, seed=0)
        >>> model = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
        >>> result = fit(model, data, max_epochs=2, progress=False)
        >>> result.metrics["test"]["parity"]["accuracy"] > 0.7
        True
    """
    if not hasattr(data, "tasks"):
        raise InvalidInputError(
            f"data must be MultiTaskData, with its splits and tasks, got {type(data).__name__}"
        )
    settings = settings_from(settings, options)
    _check_one(model, data, settings)
    _set_target_scales(model, data)
    model.columns = data.columns
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary if checkpoints is None else checkpoints)
        last = folder / LAST if resume else None
        saved = None if last is None else read_checkpoint(last)
        module = MultiTaskModule(model, settings)
        resumed = ResumedSettings(settings, model.tasks)
        if saved is not None:
            # Lightning would load these too, but with errors of torch's own.
            with quiet_libraries(), restoring(last, resumed):
                module.on_load_checkpoint(saved)
            _load_weights(module, saved)
        started = time.perf_counter()
        if saved is not None and is_finished(saved, settings):
            epochs = int(saved["epoch"]) + 1
        else:
            if not resume:
                (folder / BEST).unlink(missing_ok=True)
            remove_leftovers(folder)
            used = [resumed, *(callbacks or ()), best_checkpoint(folder)]
            if progress:
                used.append(progress_callback())
            if checkpoints is not None:
                # Last of all, so that it holds the state of the callbacks above after this epoch.
                used.append(last_checkpoint(folder))
            with restoring(last, resumed):
                epochs = run_trainer(module, data, used, folder, checkpoint=last)
        seconds = time.perf_counter() - started
        best_epoch = epochs
        if settings.restore_best and _has_validation(data) and (folder / BEST).is_file():
            best = read_checkpoint(folder / BEST)
            _load_weights(module, best)
            best_epoch = int(best["epoch"]) + 1
    model.to("cpu").eval()
    splits = data.splits
    # With shots, too, a run that was interrupted comes to the same metrics.
    with torch.random.fork_rng(devices=[]), torch_threads(model, settings):
        torch.manual_seed(settings.seed)
        metrics = {name: evaluate(model, split) for name, split in splits.items()}
    return Result(
        model=model,
        metrics=metrics,
        baselines={name: baseline_metrics(data, split) for name, split in splits.items()},
        history=module.history,
        epochs=epochs,
        best_epoch=best_epoch,
        seconds=seconds,
        checkpoints=None if checkpoints is None else folder,
    )


def check_fit(model: MultiTaskModel, data: MultiTaskData, settings: TrainingSettings) -> None:
    """Find what would keep `fit` from training, without training or writing anything.

    Raises:
        InvalidInputError: as `fit` would.
    """
    _check_one(model, data, settings)
    with quiet_libraries():
        make_trainer(settings, [])


def _check_one(model: MultiTaskModel, data: MultiTaskData, settings: TrainingSettings) -> None:
    """`check_fit` for one model, without the accelerator."""
    _check_tasks(model, data)
    if not _has_validation(data):
        if settings.patience is not None:
            raise InvalidInputError(
                f"patience {settings.patience} needs a validation loss, but no task has a label in "
                f"the validation split"
            )
        if settings.schedule == "plateau":
            raise InvalidInputError(
                "schedule 'plateau' needs a validation loss, but no task has a label in the "
                "validation split"
            )
    with quiet_libraries():
        rehearse(settings, len(model.tasks), next(model.parameters()).dtype)
    _check_steps(model, data, settings)


def _has_validation(data: MultiTaskData) -> bool:
    return bool(labelled_rows(data.tasks, data.validation.targets).any())


def _check_steps(model: MultiTaskModel, data: MultiTaskData, settings: TrainingSettings) -> None:
    """Look ahead through the plan of batches, rather than stop in the middle of training."""
    module = MultiTaskModule(model, settings)
    labelled = labelled_rows(data.tasks, data.train.targets)
    if not module.needs_all_tasks or bool(labelled.all()):
        return
    plan = MultiTaskDataModule(data, settings).plan
    steps = (rows for epoch in range(settings.max_epochs) for rows in plan.epoch(epoch))
    for step, rows in enumerate(steps):
        module.check_present(labelled[:, rows].any(dim=1).nonzero().flatten(), step)


def _check_tasks(model: MultiTaskModel, data: MultiTaskData) -> None:
    expected = [(task.name, task.kind, task.n_outputs) for task in model.tasks]
    given = [(task.name, task.kind, task.n_outputs) for task in data.tasks]
    if expected != given:
        raise InvalidInputError(
            f"data must have the model's tasks in the same order: the model has "
            f"{[name for name, *_ in expected]}, the data {[name for name, *_ in given]}"
            if [e[0] for e in expected] != [g[0] for g in given]
            else f"tasks of the data differ in kind or outputs: model {expected}, data {given}"
        )


def _set_target_scales(model: MultiTaskModel, data: MultiTaskData) -> None:
    """Set each regression task's mean and standard deviation from the training split."""
    for task in model.tasks:
        if task.kind == "regression":
            targets = data.train.targets[task.name].reshape(len(data.train), -1).double()
            mean = targets.nanmean(0)
            std = (targets - mean).square().nanmean(0).sqrt()
            # A constant has a deviation of rounding errors, which would blow up in the quotient.
            varies = ~(std <= 1e-12 * mean.abs())
            model.set_target_scale(task.name, mean, torch.where(varies, std, 1.0))


def _load_weights(module: MultiTaskModule, content: dict[str, Any]) -> None:
    prefix = "model."
    state = {
        key.removeprefix(prefix): value
        for key, value in content["state_dict"].items()
        if key.startswith(prefix)
    }
    try:
        module.model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"the checkpoint does not fit the model: {reason}") from None


@dataclass(frozen=True)
class RowsFit:
    """How `fit_rows` went.

    Attributes:
        history: one row per epoch, split, task and metric, as in `qmtl.Result`.
        epochs: epochs trained.
        best_epoch: the epoch whose weights were kept; the first is 1.
    """

    history: list[dict[str, Any]]
    epochs: int
    best_epoch: int

    def training_losses(self) -> list[float]:
        """The mean over tasks of the training loss, per epoch.

        Example:
            >>> rows = [{"epoch": 1, "split": "train", "task": t, "metric": "loss", "value": v}
            ...         for t, v in (("a", 1.0), ("b", 3.0))]
            >>> RowsFit(rows, 1, 1).training_losses()
            [2.0]
        """
        epochs: list[list[float]] = [[] for _ in range(self.epochs)]
        for row in self.history:
            if (row["split"], row["metric"]) == ("train", "loss"):
                epochs[row["epoch"] - 1].append(row["value"])
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
            self.loss, self.epoch = loss, int(trainer.current_epoch) + 1
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
    _check_one(model, data, settings)
    _set_target_scales(model, data)
    module = MultiTaskModule(model, settings)
    keep = _KeepBest()
    callbacks: list[Callback] = [keep] if validation is not None and settings.restore_best else []
    epochs = run_trainer(module, data, callbacks, validate=validation is not None)
    if keep.epoch is not None:
        model.load_state_dict(keep.state)
    model.to("cpu").eval()
    return RowsFit(module.history, epochs, epochs if keep.epoch is None else keep.epoch)
