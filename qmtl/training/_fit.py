"""fit: train a model on data, and evaluate it."""

import logging
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ProgressBar
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from qmtl.data import MultiTaskData
from qmtl.errors import InvalidInputError, ModelFileError
from qmtl.model import MultiTaskModel
from qmtl.tasks import labelled_rows
from qmtl.training._batches import MultiTaskDataModule
from qmtl.training._checkpoints import (
    BEST,
    LAST,
    best_checkpoint,
    is_finished,
    last_checkpoint,
    read_checkpoint,
)
from qmtl.training._combine import rehearse
from qmtl.training._evaluate import baseline_metrics, evaluate
from qmtl.training._module import MultiTaskModule
from qmtl.training._progress import progress_callback
from qmtl.training._result import Result
from qmtl.training._settings import TrainingSettings, settings_from
from qmtl.training._single_task import fit_each_task, is_separate, single_task_parts

__all__ = [
    "check_fit", "check_parts", "fit", "quiet_libraries", "run_trainer", "set_target_scales",
]  # fmt: skip


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

    Single-task models (`qmtl.encoders.SeparateEncoders` before `qmtl.heads.SeparateHeads`) are
    trained one after the other, each on the rows with its label and to its own best epoch.

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
        callbacks: further Lightning callbacks (of single-task models: of each in turn).

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
    fit_one = partial(_fit, progress=progress, callbacks=callbacks or [])
    if is_separate(model):
        _check_tasks(model, data)
        return fit_each_task(fit_one, model, data, settings, checkpoints, resume)
    return fit_one(model, data, settings, checkpoints=checkpoints, resume=resume)


def _fit(
    model: MultiTaskModel,
    data: MultiTaskData,
    settings: TrainingSettings,
    *,
    checkpoints: str | Path | None,
    resume: bool,
    progress: bool,
    callbacks: list[Callback],
) -> Result:
    check_parts(model, data, settings)
    set_target_scales(model, data)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary if checkpoints is None else checkpoints)
        saved = read_checkpoint(folder / LAST) if resume else None
        module = MultiTaskModule(model, settings)
        if saved is not None:
            # Lightning would load these too, but with errors of torch's own.
            with quiet_libraries():
                module.on_load_checkpoint(saved)
            _load_weights(module, saved)
        started = time.perf_counter()
        if saved is not None and is_finished(saved, settings):
            epochs = int(saved["epoch"]) + 1
        else:
            if not resume:
                (folder / BEST).unlink(missing_ok=True)
            used = [*callbacks, best_checkpoint(folder)]
            if progress:
                used.append(progress_callback())
            if checkpoints is not None:
                # Last of all, so that it holds the state of the callbacks above after this epoch.
                used.append(last_checkpoint(folder))
            last = folder / LAST if resume else None
            epochs = run_trainer(module, data, used, folder, checkpoint=last)
        seconds = time.perf_counter() - started
        best_epoch = epochs - 1
        if settings.restore_best and _has_validation(data) and (folder / BEST).is_file():
            best = read_checkpoint(folder / BEST)
            _load_weights(module, best)
            best_epoch = int(best["epoch"])
    model.to("cpu").eval()
    splits = data.splits
    # With shots, too, a run that was interrupted comes to the same metrics.
    with torch.random.fork_rng(devices=[]):
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
    if is_separate(model):
        _check_tasks(model, data)
        for part in single_task_parts(model, data, settings):
            check_parts(part.model, part.data, part.settings)
    else:
        check_parts(model, data, settings)
    with quiet_libraries():
        _trainer(settings, [])


def check_parts(model: MultiTaskModel, data: MultiTaskData, settings: TrainingSettings) -> None:
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


def set_target_scales(model: MultiTaskModel, data: MultiTaskData) -> None:
    """Set each regression task's mean and standard deviation from the training split."""
    for task in model.tasks:
        if task.kind == "regression":
            targets = data.train.targets[task.name].reshape(len(data.train), -1).double()
            mean = targets.nanmean(0)
            std = (targets - mean).square().nanmean(0).sqrt()
            # A constant has a deviation of rounding errors, which would blow up in the quotient.
            varies = ~(std <= 1e-12 * mean.abs())
            model.set_target_scale(task.name, mean, torch.where(varies, std, 1.0))


def _trainer(
    settings: TrainingSettings,
    callbacks: list[Callback],
    folder: Path | None = None,
    *,
    validate: bool = True,
) -> pl.Trainer:
    """Lightning's trainer; without a folder it writes nothing.

    Raises:
        InvalidInputError: for an accelerator that is not there.
    """
    used = list(callbacks)
    if settings.patience is not None:
        # Before callbacks that save the state of the others.
        stop = EarlyStopping("validation_loss", patience=settings.patience, mode="min")
        used.insert(0, stop)
    strategy: Any = "auto"
    if settings.devices > 1:
        gloo = settings.accelerator == "cpu" or not torch.cuda.is_available()
        strategy = DDPStrategy(process_group_backend="gloo" if gloo else None)
    try:
        return pl.Trainer(
            max_epochs=settings.max_epochs,
            accelerator=settings.accelerator,
            devices=settings.devices,
            strategy=strategy,
            callbacks=used,
            logger=False,
            enable_checkpointing=folder is not None,
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in used),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=None if validate else 0,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
    except MisconfigurationException as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(
            f"training.accelerator {settings.accelerator!r} with {settings.devices} devices: "
            f"{reason}"
        ) from None


def run_trainer(
    module: MultiTaskModule,
    data: MultiTaskData,
    callbacks: list[Callback],
    folder: Path | None = None,
    *,
    checkpoint: Path | None = None,
    validate: bool = True,
) -> int:
    """Run Lightning's trainer; the number of epochs that the module has been trained in all."""
    # Training draws random numbers; the caller's stream must not notice.
    with quiet_libraries(), torch.random.fork_rng(devices=[]):
        trainer = _trainer(module.settings, callbacks, folder, validate=validate)
        with _plain_interrupt():
            trainer.fit(
                module,
                datamodule=MultiTaskDataModule(data, module.settings),
                ckpt_path=None if checkpoint is None else str(checkpoint),
                weights_only=True,
            )
    return int(trainer.current_epoch)


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


@contextmanager
def _plain_interrupt() -> Iterator[None]:
    """Let Ctrl-C be a `KeyboardInterrupt`: Lightning exits instead, and ignores it from then on."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if in_main_thread and handler is not None:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Lightning's notes on devices and workers are for its own users, not for ours."""
    names = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            warnings.filterwarnings("ignore", module="lightning_fabric")
            # Nash-MTL's problem, as TorchJD poses it; the solution is right all the same.
            warnings.filterwarnings(
                "ignore", message=".*parameterized problem that is not DPP", module="torchjd"
            )
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
