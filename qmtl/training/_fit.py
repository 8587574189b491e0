"""fit: train a model on data and evaluate it. fit_rows: only train it, on rows in memory."""

import copy
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, StochasticWeightAveraging
from torch import Tensor, nn
from torch import distributed as dist

from qmtl._calls import evaluating, seeded
from qmtl.data import MultiTaskData, Split, TableColumns, column_differences
from qmtl.errors import InvalidInputError, ModelFileError, as_path, unknown_name
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task, chosen_tasks, labelled_rows, metric_names
from qmtl.training._batches import MultiTaskDataModule
from qmtl.training._checkpoints import (
    BEST,
    LAST,
    ResumedSettings,
    TimeSpent,
    best_checkpoint,
    is_finished,
    last_checkpoint,
    read_checkpoint,
    remove_leftovers,
    restoring,
)
from qmtl.training._combine import rehearse
from qmtl.training._evaluate import baseline_metrics, evaluate
from qmtl.training._jacobian import n_processes
from qmtl.training._loggers import progress_callback
from qmtl.training._module import MultiTaskModule
from qmtl.training._result import Result
from qmtl.training._settings import TrainingSettings, monitor_mode, settings_from
from qmtl.training._trainer import make_trainer, quiet_libraries, run_trainer, torch_threads

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def fit(
    model: MultiTaskModel,
    data: MultiTaskData,
    settings: TrainingSettings | None = None,
    *,
    tasks: Sequence[str] | None = None,
    checkpoints: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    callbacks: Iterable[Callback] | Callback | None = None,
    **options: Any,
) -> Result:
    """Train a model, keep the weights of the best validation epoch, and evaluate them.

    Args:
        model: the model, which is trained in place. The scale of its regression targets is computed
            from the training split.
        data: splits with labels of the model's tasks.
        settings: the settings, or give its fields as keyword arguments, such as
            ``aggregator="upgrad", max_epochs=20, seed=0``.
        tasks: names of the tasks to train; None for all. Parameters that other tasks depend on,
            such as the encoder's, are not trained. The predictions of other tasks stay equal bit
            for bit (up to rounding on circuits that entangle more than ten wires all to all). The
            data may have only these tasks, or all tasks of the model.
        checkpoints: folder for the last and the best checkpoint; None for no checkpoints.
        resume: whether to continue from the last checkpoint in that folder. On a CPU the result is
            bit for bit that of a run that was not interrupted. Learning rates, weight decay,
            `max_epochs` and `patience` may differ, but not the seed or the batches. If the run has
            more than `max_epochs` epochs already, `fit` warns and trains nothing.
        progress: whether to show progress.
        callbacks: further Lightning callbacks, or one.

    Raises:
        InvalidInputError: for settings that do not fit model and data, such as `patience` without
            any validation label, or if data and model have different tasks.
        ModelFileError: for a checkpoint that is damaged or belongs to another kind of run.

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
    several = callbacks is None or isinstance(callbacks, Iterable)
    used_callbacks = list(callbacks or ()) if several else [callbacks]
    for callback in used_callbacks:
        if not isinstance(callback, Callback):
            raise InvalidInputError(f"callbacks must be Lightning callbacks, got {callback!r}")
    if not isinstance(model, nn.Module) or not hasattr(model, "encoder"):
        raise InvalidInputError(f"model must be a MultiTaskModel, got {type(model).__name__}")
    if not hasattr(data, "tasks"):
        raise InvalidInputError(
            f"data must be MultiTaskData, with its splits and tasks, got {type(data).__name__}"
        )
    settings = settings_from(settings, options)
    names = None if tasks is None else chosen_tasks(tasks, [task.name for task in model.tasks])
    if names is not None and [task.name for task in data.tasks] != list(names):
        data = data.subset(names)
    module = _checked(model, data, settings, names)
    settings = module.settings
    _check_callbacks(used_callbacks, model, settings)
    with tempfile.TemporaryDirectory() as temporary:
        folder = as_path(temporary if checkpoints is None else checkpoints, "checkpoints")
        last = folder / LAST if resume else None
        saved = None if last is None else read_checkpoint(last)
        resumed = ResumedSettings(settings, model.tasks)
        if saved is not None:
            # Lightning would load this, too, but raise torch's errors.
            with quiet_libraries(), restoring(last, resumed):
                module.on_load_checkpoint(saved)
            _load_weights(module, saved)
        time_spent = TimeSpent()
        kept = folder / BEST
        if saved is not None and is_finished(saved, settings):
            epochs = int(saved["epoch"]) + 1
            time_spent.load_state_dict(saved["callbacks"].get("TimeSpent", {"seconds": 0.0}))
            if epochs > settings.n_epochs:
                message = (
                    f"{folder} has trained {epochs} epochs already, more than max_epochs = "
                    f"{settings.n_epochs}: nothing is trained"
                )
                warnings.warn(message, UserWarning, stacklevel=2)
        else:
            if not resume:  # if this run is killed early, its folder must hold no old checkpoint
                for name in (BEST, LAST):
                    (folder / name).unlink(missing_ok=True)
            remove_leftovers(folder)
            keeper = best_checkpoint(folder, settings.monitor, used_callbacks)
            used = [resumed, time_spent, *used_callbacks, keeper]
            if progress:
                used.append(progress_callback())
            if checkpoints is not None:
                # It comes last, so that it saves the other callbacks' state after this epoch.
                used.append(last_checkpoint(folder))
            with restoring(last, resumed):
                epochs = run_trainer(module, data, used, checkpoints, checkpoint=last)
            # All processes use the first process's folder.
            kept = Path(keeper.best_model_path or kept)
        seconds = time_spent.seconds
        best_epoch = epochs
        if settings.restore_best and _has_validation(data, settings):
            best = read_checkpoint(kept)
            _load_weights(module, best)
            best_epoch = int(best["epoch"]) + 1
        if n_processes() > 1:
            # The first process deletes its folder only when all have read it.
            dist.barrier()
    model.to("cpu").eval()
    splits = data.splits
    # The seed gives the same shots in a resumed run as in an unbroken one.
    with seeded(settings.seed), torch_threads(model, settings):
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


def _see_inputs(model: MultiTaskModel, inputs: Tensor) -> None:
    """Run lazy layers once; they infer their widths from their first input."""
    if not any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
        return
    try:
        with torch.no_grad(), evaluating(model):
            model.encoder(inputs[:2])
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"the encoder's lazy layers do not take inputs of shape {tuple(inputs[:2].shape)}: "
            f"{' '.join(str(error).split())}"
        ) from None


def check_fit(model: MultiTaskModel, data: MultiTaskData, settings: TrainingSettings) -> None:
    """Raise what `fit` would raise, without training or writing anything."""
    _checked(model, data, settings)
    with quiet_libraries():
        make_trainer(settings, [])


def _check_callbacks(
    callbacks: Sequence[Callback], model: MultiTaskModel, settings: TrainingSettings
) -> None:
    """Refuse StochasticWeightAveraging where `fit` would replace or further train its average."""
    cannot = settings.restore_best or any(isinstance(m, BATCH_NORMS) for m in model.modules())
    if cannot and any(isinstance(callback, StochasticWeightAveraging) for callback in callbacks):
        raise InvalidInputError(
            "StochasticWeightAveraging sets its average when training ends: it needs "
            "restore_best=False and a model without batch normalisation. Lightning's "
            "WeightAveraging averages during training, and works with both"
        )


def settings_for(settings: TrainingSettings, data: MultiTaskData) -> TrainingSettings:
    """Replace None in the settings by the numbers that `fit` uses for these training rows.

    Example:
        >>> from qmtl.data import digits
        >>> settings_for(TrainingSettings(), digits()).max_epochs
        39
    """
    plan = MultiTaskDataModule(data, settings).plan
    return settings.for_rows(sum(len(rows) for rows in plan.rows), plan.n_steps)


def _checked(
    model: MultiTaskModel,
    data: MultiTaskData,
    settings: TrainingSettings,
    tasks: Sequence[str] | None = None,
) -> MultiTaskModule:
    """Return the module to train, after all checks except that of the accelerator."""
    settings = settings_for(settings, data)
    _see_inputs(model, data.train.inputs)
    _check_parameters(model)
    module = MultiTaskModule(model, settings, tasks)
    _check_tasks(module.tasks, data)
    if tasks is not None and model.columns is not None and data.columns is not None:
        _check_columns(model.columns, data.columns)
    _check_monitor(data, settings)
    with quiet_libraries():
        rehearse(settings, len(module.tasks), module.dtype_of_model)
    _check_steps(module, data)
    return module


def _check_parameters(model: MultiTaskModel) -> None:
    if torch.is_inference_mode_enabled() or any(p.is_inference() for p in model.parameters()):
        raise InvalidInputError(
            "a model cannot be made or trained in torch.inference_mode(); make and train it outside"
        )
    meta = [name for name, p in model.named_parameters() if p.is_meta]
    if meta:
        raise InvalidInputError(
            f"{meta[0]} is on the device 'meta' and has no values; make the model on another device"
        )


def _check_monitor(data: MultiTaskData, settings: TrainingSettings) -> None:
    names = {
        f"validation/{task.name}/{metric}": task
        for task in data.tasks
        for metric in ("loss", *metric_names(task))
    }
    monitor = settings.monitor
    if monitor != "validation_loss" and monitor not in names:
        raise unknown_name("monitor", monitor, ["validation_loss", *names])
    if _has_validation(data, settings):
        return
    own = monitor in names
    whose = f"task {names[monitor].name!r} has no label" if own else "no task has a label"
    for what, used in (
        (f"patience {settings.patience}", settings.patience is not None),
        ("schedule 'plateau'", settings.schedule == "plateau"),
        (f"monitor {monitor!r}", own),
    ):
        if used:
            raise InvalidInputError(
                f"{what} needs a validation loss or metric, but {whose} in the validation split"
            )


def _has_validation(data: MultiTaskData, settings: TrainingSettings) -> bool:
    own = [t for t in data.tasks if settings.monitor.startswith(f"validation/{t.name}/")]
    return bool(labelled_rows(own or data.tasks, data.validation.targets).any())


def _check_steps(module: MultiTaskModule, data: MultiTaskData) -> None:
    """Check before training that every batch has the labels that the combiner needs."""
    labelled = labelled_rows(data.tasks, data.train.targets)
    if not module.needs_all_tasks or bool(labelled.all()):
        return
    plan = MultiTaskDataModule(data, module.settings).plan
    steps = (rows for epoch in range(module.settings.n_epochs) for rows in plan.epoch(epoch))
    for step, rows in enumerate(steps):
        module.check_present(labelled[:, rows].any(dim=1).nonzero().flatten(), step)


def _check_columns(own: TableColumns, given: TableColumns) -> None:
    """Check that the data encode a table as the model does, which predicts with its own columns."""
    if own.is_close(given):
        return
    ours, theirs = column_differences(own, given)
    said = (
        f"the model and the data encode their tables differently: the model has {ours}; the data "
        f"have {theirs}"
    )
    hint = "from_arrays(model.as_samples(table), ...) makes data as the model encodes them"
    if not own.has_inputs_of(given):
        raise InvalidInputError(f"{said}; {hint}")
    warnings.warn(
        f"{said}. Training takes the data's scale, predictions the model's; {hint}",
        UserWarning,
        stacklevel=4,
    )


def _check_tasks(tasks: Sequence[Task], data: MultiTaskData) -> None:
    expected, given = ([task.name for task in side] for side in (tasks, data.tasks))
    if expected != given:
        raise InvalidInputError(
            f"data must have the model's tasks in the same order: the model has {expected}, the "
            f"data {given}"
        )
    for ours, theirs in zip(tasks, data.tasks, strict=True):
        if not ours.labelled_like(theirs):
            raise InvalidInputError(
                f"task {ours.name!r} of the data is {theirs.labels_in_words()}; that of the model "
                f"is {ours.labels_in_words()}"
            )
        weights = theirs.class_weights
        if weights not in (None, ours.class_weights) and set(weights or ()) != {1.0}:
            warnings.warn(
                f"class_weights {weights} of task {ours.name!r} in the data have no "
                f"effect: the model's task has {ours.class_weights}; make its head from data.tasks",
                UserWarning,
                stacklevel=4,
            )


def _load_weights(module: MultiTaskModule, content: dict[str, Any]) -> None:
    parts = [(key.partition("."), value) for key, value in content["state_dict"].items()]
    state = {key: value for (part, _, key), value in parts if part == "model"}
    try:
        module.model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"the checkpoint does not fit the model: {reason}") from None


@dataclass(frozen=True)
class RowsFit:
    """The outcome of `fit_rows`, in the form of `qmtl.Result`."""

    history: list[dict[str, Any]]
    epochs: int
    best_epoch: int

    def training_losses(self) -> list[float]:
        """Return the mean over tasks of the training loss, per epoch."""
        epochs: list[list[float]] = [[] for _ in range(self.epochs)]
        for row in self.history:
            if (row["split"], row["metric"]) == ("train", "loss"):
                epochs[row["epoch"] - 1].append(row["value"])
        return [sum(losses) / len(losses) for losses in epochs]


class _KeepBest(Callback):
    """Keeps the weights of the epoch with the best monitored value in memory."""

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self.sign = 1 if monitor_mode(monitor) == "min" else -1
        self.least = float("inf")
        self.epoch: int | None = None
        self.state: dict[str, Any] = {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        value = self.sign * float(trainer.callback_metrics[self.monitor])
        if value < self.least:
            self.least, self.epoch = value, int(trainer.current_epoch) + 1
            self.state = copy.deepcopy(pl_module.model.state_dict())


def fit_rows(
    model: MultiTaskModel, train: Split, settings: TrainingSettings, validation: Split | None = None
) -> RowsFit:
    """Train a model in place, without files, progress or metrics other than losses.

    The steps are those of `qmtl.fit`, which adds checkpoints, metrics of three splits and
    baselines. This function is for callers that fit many small models, such as `qmtl.sklearn`.

    Args:
        model: the model. The scale of its regression targets is computed from `train`.
        train: training rows.
        settings: settings of training, with one process (`devices` = 1).
        validation: rows whose loss selects the best epoch, and stops training with `patience`; None
            keeps the last epoch's weights.

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
    module = _checked(model, data, settings)
    keep = _KeepBest(settings.monitor)
    callbacks: list[Callback] = [keep] if validation is not None and settings.restore_best else []
    epochs = run_trainer(module, data, callbacks, validate=validation is not None)
    if keep.epoch is not None:
        model.load_state_dict(keep.state)
    model.to("cpu").eval()
    return RowsFit(module.history, epochs, epochs if keep.epoch is None else keep.epoch)
