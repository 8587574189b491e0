"""Loggers by name, progress bars and lines, and times of steps."""

import math
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from markupsafe import Markup
from pytorch_lightning.callbacks import Callback, Checkpoint, ProgressBar, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm

from qmtl._html import in_notebook
from qmtl._io import as_csv, write_text
from qmtl.errors import InvalidInputError, missing_extra, unknown_name
from qmtl.training._settings import LOGGERS
from qmtl.training._trainer import quiet_libraries

if TYPE_CHECKING:
    from qmtl.training._result import Result


class _EpochRows(Checkpoint):
    """Writes the rows that every epoch adds to the module's history.

    It is a `Checkpoint`, because Lightning calls other callbacks before the module has its training
    losses. A resumed run writes all its epochs again.
    """

    _write_rows: Any
    _trained, _done = False, 0  # whether training began; number of written rows

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._trained, self._done = True, 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        rows = pl_module.history_from(self._done)
        if trainer.is_global_zero:
            self._write_rows(rows)
        self._done += len(rows)


class MetricsFile(_EpochRows):
    """Writes the module's history as a CSV file after every epoch."""

    def __init__(self, path: Path) -> None:
        self.path, self._text = path, ""

    def _write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        header, new = as_csv(rows).split("\n", 1)
        self._text = (self._text if self._done else f"{header}\n") + new
        write_text(self.path, self._text)


class HistoryLog(_EpochRows):
    """Writes losses and metrics to loggers, as ``split/task/metric``; the step is the epoch."""

    def __init__(self, loggers: Sequence[Any]) -> None:
        self.loggers = tuple(loggers)

    def write_result(self, result: "Result") -> None:
        """Write the test metrics; also all epochs, if `fit` did not train a finished run again."""
        if not self._trained:
            self._write_rows(result.history)
        tests = result.metrics["test"].items()
        values = {f"test/{t}/{metric}": v for t, row in tests for metric, v in row.items()}
        self._write(values, result.best_epoch)

    def _write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        epochs: dict[int, dict[str, float]] = {}
        for row in rows:
            name = f"{row['split']}/{row['task']}/{row['metric']}"
            epochs.setdefault(row["epoch"], {})[name] = row["value"]
        for epoch, values in epochs.items():
            self._write(values, epoch)

    def _write(self, values: Mapping[str, float], epoch: int) -> None:
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for logger in self.loggers:
            logger.log_metrics(finite, step=epoch)
            logger.save()


def check_loggers(names: Iterable[str]) -> None:
    """Check that loggers exist and are installed.

    Raises:
        InvalidInputError: for an unknown name; the error suggests the nearest.
        MissingDependencyError: if one is not installed; the error names the extra.

    Example:
        >>> check_loggers(["csv"])
    """
    for name in names:
        if name not in LOGGERS:
            raise unknown_name("logger", name, LOGGERS)
        if name != "csv" and find_spec(name) is None:
            raise missing_extra(f"logger {name!r} is not installed", name)


@contextmanager
def log_to(
    *names: str,
    folder: str | Path = "logs",
    run_name: str = "run",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    params: Mapping[str, Any] | None = None,
) -> Iterator[HistoryLog]:
    """Open loggers by name, as a callback for `qmtl.fit`; close them at the end of the block.

    Args:
        names: one or more of ``csv``, ``tensorboard``, ``mlflow`` and ``wandb``.
        folder: folder of the loggers' files, with a numbered folder for each run: the first run
            of ``csv`` writes ``csv/version_0/metrics.csv``.
        run_name: name of the run in MLflow and W&B.
        options: a dictionary from logger to arguments of Lightning's class.
        params: settings to show with the metrics.

    Raises:
        InvalidInputError: for an unknown name, or options that do not fit.
        MissingDependencyError: if a logger is not installed; the error names the extra.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, log_to("csv", folder=folder) as log:
        ...     len(log.loggers)  # qmtl.fit(model, data, callbacks=[log])
        1
    """
    check_loggers(names)
    given = dict(options or {})
    for name in given:
        if name not in names:
            raise unknown_name("logger in options:", name, names)
    with quiet_libraries():
        loggers = [_make(name, Path(folder), run_name, given.get(name, {})) for name in names]
        for logger in loggers:
            logger.log_hyperparams(dict(params or {}))
    status = "failed"
    try:
        yield HistoryLog(loggers)
        status = "success"
    finally:
        for logger in loggers:
            logger.finalize(status)
            if type(logger).__name__ == "WandbLogger":
                # W&B has one run per process: without this line, the next logger would continue it.
                logger.experiment.finish(exit_code=int(status != "success"))


def _make(name: str, folder: Path, run_name: str, options: Mapping[str, Any]) -> Any:
    from pytorch_lightning import loggers

    here: dict[str, Any] = {"save_dir": folder}
    local = here | {"name": name}  # Lightning numbers the runs in a folder: version_0, version_1
    database = f"sqlite:///{(folder / 'mlflow.sqlite').resolve()}"
    mlflow = {"experiment_name": "qmtl", "run_name": run_name, "tracking_uri": database}
    logger, defaults = {
        "csv": (loggers.CSVLogger, local),
        "tensorboard": (loggers.TensorBoardLogger, local | {"default_hp_metric": False}),
        "mlflow": (loggers.MLFlowLogger, mlflow),
        "wandb": (loggers.WandbLogger, here | {"name": run_name, "project": "qmtl"}),
    }[name]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return logger(**defaults | dict(options))
    except TypeError as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(f"logger {name!r} with options {dict(options)}: {reason}") from None


# Notebooks redraw a cell's whole output, which would flicker at shorter intervals.
REDRAW_SECONDS = 0.2
BAR = Markup(
    '<div>epoch {}/{} <progress value="{}" max="{}" style="width: 16em"></progress> '
    "{}{:.0f} s</div>"
)


class EpochLines(Callback):
    """Prints one line at the end of every epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            loss = float(trainer.callback_metrics["validation_loss"])
            epoch = f"{trainer.current_epoch + 1}/{trainer.max_epochs}"
            print(f"epoch {epoch}  validation loss {loss:.4f}", flush=True)


class EpochBar(TQDMProgressBar):
    """One bar over all steps of an epoch, without a separate one for validation."""

    def init_validation_tqdm(self) -> Any:
        return Tqdm(disable=True)

    def on_train_epoch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        super().on_train_epoch_start(trainer, *arguments)
        epoch = f"{trainer.current_epoch + 1}/{trainer.max_epochs}"
        self.train_progress_bar.set_description(f"epoch {epoch}")

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}


class NotebookBar(ProgressBar):
    """One HTML bar over all steps, without widgets; a saved notebook shows its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.output: Any = None
        self.started = self.drawn = 0.0

    def disable(self) -> None:
        """Do nothing: only the first process draws the bar."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.started = time.monotonic()
        self._draw(trainer, 0)

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if time.monotonic() - self.drawn > REDRAW_SECONDS:
            self._draw(trainer, int(arguments[-1]) + 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        self._draw(trainer, int(trainer.num_training_batches))

    def _draw(self, trainer: pl.Trainer, step: int) -> None:
        from IPython.display import HTML, display

        if not trainer.is_global_zero:
            return
        steps, epochs = int(trainer.num_training_batches), trainer.max_epochs or 0
        done = trainer.current_epoch * steps + step
        loss = trainer.callback_metrics.get("validation_loss")
        told = "" if loss is None else f"validation loss {float(loss):.4f}, "
        seconds = time.monotonic() - self.started
        epoch = min(trainer.current_epoch + 1, epochs)
        page = HTML(BAR.format(epoch, epochs, done, epochs * steps, told, seconds))
        if self.output is None:
            self.output = display(page, display_id=True)
        else:
            self.output.update(page)
        self.drawn = time.monotonic()


def progress_callback() -> Callback:
    """Return the progress callback that suits the output: terminal, notebook or log."""
    if in_notebook():
        return NotebookBar()
    return EpochBar(leave=False) if sys.stderr.isatty() else EpochLines()


class StepTimes(Callback):
    """A callback for `fit` that times every training step, without the loading of its batch.

    Example:
        >>> times = StepTimes()  # qmtl.fit(model, data, callbacks=[times])
        >>> times.seconds
        []
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        _finish(trainer)
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        _finish(trainer)
        self.seconds.append(time.perf_counter() - self._started)

    @property
    def median(self) -> float:
        """Median of `seconds`, which a slow first step hardly changes; NaN without any step."""
        return statistics.median(self.seconds) if self.seconds else math.nan


def _finish(trainer: pl.Trainer) -> None:
    # GPU work continues after the call that queued it has returned.
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize()
