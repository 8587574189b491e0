"""Lightning's trainer as `qmtl.fit` uses it: made from settings, quiet, and open to Ctrl-C."""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ProgressBar
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from qmtl.data import MultiTaskData
from qmtl.errors import InvalidInputError
from qmtl.training._batches import MultiTaskDataModule
from qmtl.training._checkpoints import AtomicCheckpoints
from qmtl.training._module import MultiTaskModule
from qmtl.training._settings import TrainingSettings
from qmtl.training._threads import torch_threads

__all__ = ["make_trainer", "quiet_libraries", "run_trainer"]


def make_trainer(
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
            plugins=AtomicCheckpoints(),
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
        trainer = make_trainer(module.settings, callbacks, folder, validate=validate)
        with _plain_interrupt(), torch_threads(module.model, module.settings):
            trainer.fit(
                module,
                datamodule=MultiTaskDataModule(data, module.settings),
                ckpt_path=None if checkpoint is None else str(checkpoint),
                weights_only=True,
            )
    return int(trainer.current_epoch)


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
