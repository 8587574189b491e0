"""Metrics for TensorBoard, MLflow, W&B or CSV, by name, through Lightning's loggers."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from qmtl._io import as_csv, write_text
from qmtl.errors import InvalidInputError, missing_extra, unknown_name
from qmtl.training._settings import LOGGERS
from qmtl.training._trainer import quiet_libraries

if TYPE_CHECKING:
    from qmtl.training._result import Result

__all__ = ["HistoryLog", "MetricsFile", "check_loggers", "log_to"]


class MetricsFile(Checkpoint):
    """Writes the module's history as a CSV file after every epoch.

    It is a `Checkpoint`, because Lightning calls other callbacks before the module has its training
    losses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write all epochs so far."""
        if trainer.is_global_zero:
            write_text(self.path, as_csv(pl_module.history))


class HistoryLog(Checkpoint):
    """Writes every epoch's losses and metrics to loggers, as ``split/task/metric``.

    The step is the epoch. A resumed run logs all its epochs again. It is a `Checkpoint`, because
    Lightning calls other callbacks before the module has its training losses.
    """

    def __init__(self, loggers: Sequence[Any]) -> None:
        self.loggers = tuple(loggers)
        self._done = 0
        self._trained = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start a history."""
        self._done = 0
        self._trained = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write the epochs that are new."""
        rows = pl_module.history
        self._write_rows(rows[self._done :])
        self._done = len(rows)

    def write_result(self, result: "Result") -> None:
        """Write the test metrics, and the epochs if a finished run resumed without training."""
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
        >>> check_loggers(["tensorbord"])
        Traceback (most recent call last):
        ...
        qmtl.errors.InvalidInputError: unknown logger 'tensorbord'; did you mean 'tensorboard'? \
Known: csv, tensorboard, mlflow, wandb
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
    """Loggers by name, as a callback for `qmtl.fit`; they are closed at the end of the block.

    Args:
        names: one or more of ``csv``, ``tensorboard``, ``mlflow`` and ``wandb``.
        folder: folder of their files.
        run_name: name of the run in MLflow and W&B.
        options: a dictionary from logger to arguments of Lightning's class.
        params: settings to show with the metrics.

    Raises:
        InvalidInputError: for an unknown name, or options that do not fit.
        MissingDependencyError: if a logger is not installed; the error names the extra.

    Example:
        >>> import tempfile, qmtl
        >>> data = qmtl.data.digits(tasks=["parity"])
        >>> circuit = qmtl.HeadCircuit(data.tasks)
        >>> encoder = qmtl.encoders.MLP(64, out_features=circuit.n_features)
        >>> model = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit))
        >>> with tempfile.TemporaryDirectory() as folder, log_to("csv", folder=folder) as log:
        ...     result = qmtl.fit(model, data, max_epochs=1, progress=False, callbacks=[log])
        ...     (Path(folder) / "csv" / "metrics.csv").is_file()
        True
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
                # W&B has one run per process, which the next logger would continue.
                logger.experiment.finish(exit_code=int(status != "success"))


def _make(name: str, folder: Path, run_name: str, options: Mapping[str, Any]) -> Any:
    from pytorch_lightning import loggers

    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "csv": (loggers.CSVLogger, {"save_dir": folder, "name": "csv", "version": ""}),
        "tensorboard": (
            loggers.TensorBoardLogger,
            {"save_dir": folder, "name": "tensorboard", "version": "", "default_hp_metric": False},
        ),
        "mlflow": (
            loggers.MLFlowLogger,
            {
                "experiment_name": "qmtl",
                "run_name": run_name,
                "tracking_uri": f"sqlite:///{(folder / 'mlflow.sqlite').resolve()}",
            },
        ),
        "wandb": (
            loggers.WandbLogger,
            {"name": run_name, "project": "qmtl", "save_dir": folder},
        ),
    }
    logger, defaults = kinds[name]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return logger(**defaults | dict(options))
    except TypeError as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(f"logger {name!r} with options {dict(options)}: {reason}") from None
