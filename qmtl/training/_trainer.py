"""Lightning's trainer for `qmtl.fit`: built from settings, quiet, and stopped by Ctrl-C."""

import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, ProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from qmtl._calls import own_generator
from qmtl._io import silenced
from qmtl.data import MultiTaskData
from qmtl.errors import CircuitTooLargeError, InvalidInputError
from qmtl.heads import QuantumHead
from qmtl.model import MultiTaskModel
from qmtl.training._batches import MultiTaskDataModule
from qmtl.training._checkpoints import AtomicCheckpoints
from qmtl.training._module import MultiTaskModule
from qmtl.training._settings import TrainingSettings, monitor_mode

# A thread does this many floating-point operations in some tenths of a second.
OPERATIONS_PER_THREAD = 1e9


@contextmanager
def torch_threads(model: MultiTaskModel, settings: TrainingSettings) -> Iterator[None]:
    """Let torch use `settings.threads`; for None, as many of its threads as a step needs."""
    before = torch.get_num_threads()
    threads = settings.threads
    if threads is None:
        # 6 operations per row and parameter, and those of a quantum head's plan.
        batch_size = settings.batch_for(0)
        operations = 6.0 * batch_size * sum(p.numel() for p in model.parameters())
        if isinstance(model.head, QuantumHead):
            # Another simulator may run a circuit that light cones cannot.
            with suppress(CircuitTooLargeError):
                operations += model.head.explain(batch_size).operations
        threads = min(before, max(1, int(operations / OPERATIONS_PER_THREAD)))
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_trainer(
    settings: TrainingSettings,
    callbacks: list[Callback],
    folder: str | Path | None = None,
    *,
    validate: bool = True,
) -> pl.Trainer:
    """Make Lightning's trainer; only callbacks write files.

    Loggers of a `HistoryLog` among the callbacks become the trainer's loggers, too. The folder is
    for checkpoint callbacks that name none.

    Raises:
        InvalidInputError: for an accelerator that is not available, or several devices in a program
            that cannot be started again.
    """
    used = list(callbacks)
    if settings.patience is not None:
        # check_finite would stop at an undefined metric; for a loss, the step has its own check.
        options: dict[str, Any] = {"mode": monitor_mode(settings.monitor), "check_finite": False}
        # It comes before callbacks that save the state of the others.
        used.insert(0, EarlyStopping(settings.monitor, patience=settings.patience, **options))
    strategy: Any = "auto"
    # A single process ignores the environment variables of a cluster's scheduler.
    plugins: list[Any] = [AtomicCheckpoints(), LightningEnvironment()]
    if settings.devices > 1:
        _check_main(settings.devices)
        gloo = settings.accelerator == "cpu" or not torch.cuda.is_available()
        strategy = DDPStrategy(process_group_backend="gloo" if gloo else None)
        plugins = [AtomicCheckpoints()]
    try:
        return pl.Trainer(
            max_epochs=settings.max_epochs,
            accelerator=settings.accelerator,
            devices=settings.devices,
            strategy=strategy,
            callbacks=used,
            plugins=plugins,
            logger=[_PassedOn(one) for c in used for one in getattr(c, "loggers", ())] or False,
            enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in used),
            enable_progress_bar=any(isinstance(c, ProgressBar) for c in used),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=None if validate else 0,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
    except (MisconfigurationException, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(
            f"training.accelerator {settings.accelerator!r} with {settings.devices} devices: "
            f"{reason}"
        ) from None


def _check_main(devices: int) -> None:
    """Raise if Lightning cannot start this program again for each further device."""
    interactive = hasattr(sys, "ps1") or bool(sys.flags.interactive)
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if interactive or (spec is None and not Path(sys.argv[0]).is_file()):
        raise InvalidInputError(
            f"devices={devices} starts the program again in each further process, which a "
            f"notebook, an interactive session or a program from standard input cannot do; use "
            f"devices=1, or run the training from a file"
        )


class _PassedOn(Logger):
    """Passes a trainer's metrics on to a logger of `qmtl.training.log_to`.

    `log_to` itself writes the hyperparameters, and closes the logger after the last metrics.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    name = property(lambda self: self.inner.name)
    version = property(lambda self: self.inner.version)
    save_dir = property(lambda self: self.inner.save_dir)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.inner.log_metrics(metrics, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass


def run_trainer(
    module: MultiTaskModule,
    data: MultiTaskData,
    callbacks: list[Callback],
    folder: str | Path | None = None,
    *,
    checkpoint: Path | None = None,
    validate: bool = True,
) -> int:
    """Run Lightning's trainer; return how many epochs the module has been trained in all."""
    # In a model in training mode, the user may have chosen evaluation mode for some modules.
    if not module.model.training:
        module.model.train()
    # Training must not change the caller's random generators, including the GPUs'.
    gpus = 0 if module.settings.accelerator == "cpu" else torch.cuda.device_count()
    with own_generator(range(gpus)), quiet_libraries():
        trainer = make_trainer(module.settings, callbacks, folder, validate=validate)
        module.logs_epochs = False  # `log_to` writes them
        threads = torch_threads(module.model, module.settings)
        with _plain_interrupt(), _plain_errors(), threads:
            trainer.fit(
                module,
                datamodule=MultiTaskDataModule(data, module.settings),
                ckpt_path=None if checkpoint is None else str(checkpoint),
                weights_only=True,
            )
    return int(trainer.current_epoch)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Rewrite Lightning's errors about callbacks and loggers in terms of `qmtl.fit`."""
    try:
        yield
    except (AttributeError, MisconfigurationException, RuntimeError) as error:
        reason = " ".join(str(error).split())
        log = "`with qmtl.training.log_to('csv') as log: qmtl.fit(..., callbacks=[log, ...])`"
        hints = {
            "GradientAccumulationScheduler": "give accumulate_grad_batches to fit instead",
            "learning rate finder": "give learning_rate to fit instead",
            "Field batch_size": "give batch_size to fit instead",
            "no attribute 'backbone'": "derive a callback from BaseFinetuning that freezes "
            "pl_module.model.encoder",
            "no logger": f"give fit a logger, too: {log}",
            "logger=False": f"give fit a logger, too: {log}",
            "could not find the monitored key": "fit reports validation_loss, and train/TASK/loss "
            "and validation/TASK/METRIC for every task",
        }
        for words, hint in hints.items():
            if words in reason:
                raise InvalidInputError(f"{reason} ({hint})") from None
        if isinstance(error, MisconfigurationException):
            # The user gave a callback or logger that cannot work here.
            raise InvalidInputError(reason) from None
        raise


@contextmanager
def _plain_interrupt() -> Iterator[None]:
    """Turn Ctrl-C into a `KeyboardInterrupt`: Lightning would exit, and leave Ctrl-C ignored."""
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
    """Silence Lightning's notes on devices and workers, which do not concern qmtl's users."""
    names = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric")
    # One thread at a time, since levels and filters belong to all threads.
    with own_generator(), silenced(*names), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
        # cvxpy warns of the form in which TorchJD states Nash-MTL's problem, but solves it.
        not_dpp = ".*parameterized problem that is not DPP"
        warnings.filterwarnings("ignore", message=not_dpp, module="torchjd")
        yield
