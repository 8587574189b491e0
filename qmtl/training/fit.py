"""fit: train a model on data, and evaluate it."""

import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pydantic import ValidationError
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy

from qmtl.data import MultiTaskData
from qmtl.errors import InvalidInputError, ModelFileError, unknown_name
from qmtl.model import MultiTaskModel
from qmtl.training.datamodule import MultiTaskDataModule
from qmtl.training.evaluate import baseline_metrics, evaluate
from qmtl.training.module import MultiTaskModule
from qmtl.training.progress import progress_callback
from qmtl.training.result import Result
from qmtl.training.settings import TrainingSettings

__all__ = ["LAST_CHECKPOINT", "fit", "read_checkpoint", "settings_from"]

LAST_CHECKPOINT = "last.ckpt"


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
        InvalidInputError: for settings that do not fit, or other tasks in data and model.
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
    settings = settings_from(settings, options)
    _check_tasks(model, data)
    _set_target_scales(model, data)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary if checkpoints is None else checkpoints)
        last = folder / LAST_CHECKPOINT
        if resume:
            read_checkpoint(last)
        module = MultiTaskModule(model, settings)
        trainer, best = _trainer(settings, folder, progress, callbacks or [])
        started = time.perf_counter()
        # Training draws random numbers; the caller's stream must not notice.
        with _quiet_lightning(), torch.random.fork_rng(devices=[]):
            trainer.fit(
                module,
                datamodule=MultiTaskDataModule(data, settings),
                ckpt_path=str(last) if resume else None,
                weights_only=True,
            )
        seconds = time.perf_counter() - started
        if trainer.interrupted:
            raise KeyboardInterrupt
        epochs = trainer.current_epoch
        best_epoch = _restore_best(module, best, epochs, settings)
    model.to("cpu").eval()
    splits = data.splits
    return Result(
        model=model,
        metrics={name: evaluate(model, split) for name, split in splits.items()},
        baselines={name: baseline_metrics(data, split) for name, split in splits.items()},
        history=module.history,
        epochs=epochs,
        best_epoch=best_epoch,
        seconds=seconds,
        checkpoints=None if checkpoints is None else folder,
    )


def settings_from(
    settings: TrainingSettings | None, options: dict[str, Any]
) -> TrainingSettings:
    """Settings from an object or from keyword arguments, with one-line errors."""
    if settings is not None and options:
        raise InvalidInputError(f"give settings or keyword arguments, not both: {sorted(options)}")
    for name in options:
        if name not in TrainingSettings.model_fields:
            raise unknown_name("training setting", name, TrainingSettings.model_fields)
    try:
        return settings or TrainingSettings(**options)
    except ValidationError as error:
        raise InvalidInputError(
            "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'training'}: {e['msg']}, got {e['input']!r}"
                for e in error.errors()
            )
        ) from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, or an error that says what is wrong with the file.

    Raises:
        ModelFileError: if it is missing, cut short, or not a checkpoint.
    """
    if not path.is_file():
        raise ModelFileError(f"there is no checkpoint {path} to resume from")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load has no error of its own for a damaged file.
        reason = " ".join(str(error).split())[:160]
        raise ModelFileError(f"checkpoint {path} is damaged or cut short: {reason}") from None
    if not isinstance(content, dict) or "qmtl" not in content:
        raise ModelFileError(f"{path} is not a checkpoint of qmtl")
    return content


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
    for task in model.tasks:
        if task.kind == "regression":
            targets = data.train.targets[task.name].reshape(len(data.train), -1)
            mean = targets.nanmean(0)
            std = (targets - mean).square().nanmean(0).sqrt()
            model.set_target_scale(task.name, mean, torch.where(std > 0, std, 1.0))


def _trainer(
    settings: TrainingSettings, folder: Path, progress: bool, callbacks: list[Callback]
) -> tuple[pl.Trainer, ModelCheckpoint]:
    common: dict[str, Any] = {
        "dirpath": folder,
        "enable_version_counter": False,
        "save_on_train_epoch_end": True,
    }
    best = ModelCheckpoint(filename="best", monitor="validation_loss", mode="min", **common)
    last = ModelCheckpoint(filename=LAST_CHECKPOINT.removesuffix(".ckpt"), **common)
    used: list[Callback] = [*callbacks, best]
    if settings.patience is not None:
        used.append(EarlyStopping("validation_loss", patience=settings.patience, mode="min"))
    if progress:
        used.append(progress_callback())
    # Last of all, so that it holds the state of the callbacks above after this epoch.
    used.append(last)
    strategy: Any = "auto"
    if settings.devices > 1:
        gloo = settings.accelerator == "cpu" or not torch.cuda.is_available()
        strategy = DDPStrategy(process_group_backend="gloo" if gloo else None)
    trainer = pl.Trainer(
        max_epochs=settings.max_epochs,
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=strategy,
        callbacks=used,
        logger=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    return trainer, best


def _restore_best(
    module: MultiTaskModule, best: ModelCheckpoint, epochs: int, settings: TrainingSettings
) -> int:
    if not settings.restore_best or not best.best_model_path:
        return epochs - 1
    content = read_checkpoint(Path(best.best_model_path))
    prefix = "model."
    state = {
        key.removeprefix(prefix): value
        for key, value in content["state_dict"].items()
        if key.startswith(prefix)
    }
    module.model.load_state_dict(state)
    return int(content["epoch"])


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's notes on devices and workers are for its own users, not for ours."""
    loggers = [logging.getLogger(n) for n in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            warnings.filterwarnings("ignore", module="lightning_fabric")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
