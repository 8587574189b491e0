"""TrainingSettings: the settings of training."""

import math
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from qmtl._sections import Section, Seed
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.methods import MethodOptions

# Chosen on validation rows of thirty tables: see `scripts/bench_tables`.
HEAD_PACE = 3.0
STEPS = 7.0
DECAY = 150.0

LOWER_IS_BETTER = ("loss", "mse", "mae", "ece")
"""The loss, and the metrics for which smaller is better."""

LoggerName = Literal["csv", "tensorboard", "mlflow", "wandb"]
LOGGERS: tuple[LoggerName, ...] = get_args(LoggerName)


class LoggingSection(Section):
    """Loggers that receive metrics in addition to the run directory's own files.

    Attributes:
        loggers: one or more of ``csv``, ``tensorboard``, ``mlflow`` and ``wandb``; all but the
            first need the extra with their name. They write into the run's folder ``logs``.
        options: a table from logger to arguments of Lightning's class, such as ``{ wandb = {
            offline = true }, mlflow = { tracking_uri = "http://…" } }``.
    """

    loggers: list[LoggerName] = Field(default_factory=list)
    options: dict[LoggerName, dict[str, Any]] = Field(default_factory=dict)


def _as_name(value: Any) -> Any:
    kind = value if isinstance(value, type) else type(value)
    if kind.__module__.startswith("torchjd"):
        raise ValueError(f"write its name, {kind.__name__!r}, and its arguments in options")
    return value


_Combiner = Annotated[str | None, BeforeValidator(_as_name)]


class TrainingSettings(MethodOptions):
    """Settings of training. Further fields are those of `qmtl.methods.MethodOptions`.

    Attributes:
        max_epochs: largest number of epochs; None for about 7·rows^¾ steps, see `for_rows`.
        batch_size: rows per step over all processes (disjoint data: per task and step); None for
            32, or more with many rows, see `batch_for`.
        learning_rate: learning rate of the encoder's and of a scalarizer's parameters.
        head_learning_rate: learning rate of the head's parameters; None for three times
            `learning_rate`.
        optimizer: ``adamw`` (decoupled weight decay), ``adam`` (weight decay in the gradient) or
            ``sgd``.
        weight_decay: weight decay of the encoder's parameters; circuit angles are periodic and have
            none. None means 150 / rows with ``adamw``, and 0 with the others.
        schedule: ``constant``, ``cosine`` (to zero over `max_epochs`) or ``plateau`` (halved
            after 5 epochs without a better `monitor`).
        scalarizer: TorchJD scalarizer of the task losses, or ``igb``; the default is their mean. A
            task without labels in a step adds no term to the loss, and its weight does not change.
            FAMO needs labels of all tasks in each step. DWA uses the last loss of a task that has
            no labels in a step.
        aggregator: TorchJD aggregator of the Jacobian; excludes `scalarizer`. With an aggregator
            that weighs rows, tensor hooks of features and parameters see the combined gradient,
            once. With others, or if tasks cannot be differentiated together, hooks see the rows of
            all tasks.
        options: arguments of the aggregator or scalarizer; a list holds one number per task.
        gradient_clip: largest norm of the gradient of all parameters.
        accumulate_grad_batches: number of batches whose mean gradient makes one optimiser step; the
            last batches of an epoch make a step even if they are fewer.
        monitor: the value that measures how good an epoch is: ``validation_loss``, the mean loss of
            all tasks on the validation split, or ``validation/TASK/METRIC``, such as
            ``validation/cola/matthews``.
        patience: stop after this many epochs without a better `monitor`; None never stops early.
        restore_best: keep the weights of the epoch with the best `monitor` (of the last epoch, if
            there is no validation label).
        temperature: disjoint data: tasks are drawn in proportion to ``size ** temperature``.
        tasks_per_step: disjoint data with an aggregator: number of tasks in each step; None for
            all.
        jacobian_chunk: number of rows of the Jacobian that are differentiated at once; None for
            all.
        seed: seed of the order of rows and of everything random in training.
        accelerator: Lightning's accelerator: ``cpu``, ``gpu`` or ``auto``.
        devices: number of processes or GPUs. With more than one, each process runs the script, so
            that the script's other work should be under ``if __name__ == "__main__"``.
        num_workers: number of processes that load data, at most 1,024; the data sets here are in
            memory.
        threads: torch's number of threads in each process during training, restored afterwards.
            None chooses by the size of a step: one thread for all but large models.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    max_epochs: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1)
    learning_rate: float = Field(0.01, gt=0)
    head_learning_rate: float | None = Field(None, gt=0)
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    weight_decay: float | None = Field(None, ge=0)
    schedule: Literal["constant", "cosine", "plateau"] = "cosine"
    scalarizer: _Combiner = None
    aggregator: _Combiner = None
    options: dict[str, Any] = Field(default_factory=dict)
    gradient_clip: float | None = Field(None, gt=0)
    accumulate_grad_batches: int = Field(1, ge=1)
    monitor: str = "validation_loss"
    patience: int | None = Field(None, ge=1)
    restore_best: bool = True
    temperature: float = Field(1.0, ge=0)
    tasks_per_step: int | None = Field(None, ge=1)
    jacobian_chunk: int | None = Field(None, ge=1)
    seed: Seed = 0
    accelerator: Literal["cpu", "gpu", "auto"] = "auto"
    devices: int = Field(1, ge=1)
    num_workers: int = Field(0, ge=0, le=1024)
    threads: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_combiner(self) -> "TrainingSettings":
        if self.scalarizer is not None and self.aggregator is not None:
            raise ValueError(
                f"give a scalarizer or an aggregator, not both: got {self.scalarizer!r} and "
                f"{self.aggregator!r}"
            )
        return self

    @property
    def n_epochs(self) -> int:
        """`max_epochs`, which must not be None; see `for_rows`."""
        if self.max_epochs is None:
            raise InvalidInputError(
                "max_epochs is None; only `qmtl.fit` chooses a number, so give one here"
            )
        return self.max_epochs

    def batch_for(self, n_rows: int) -> int:
        """Return the rows per step: `batch_size`, or for None a number that suits the rows.

        Example:
            >>> [TrainingSettings().batch_for(n) for n in (100, 10_000, 100_000, 10**7)]
            [32, 32, 256, 512]
        """
        if self.batch_size is not None:
            return self.batch_size
        # A step of a few hundred rows takes little longer than one of 32, and a table with that
        # many rows still has hundreds of steps in each epoch.
        return min(512, 1 << max(5, (n_rows // 256).bit_length() - 1))

    def for_rows(self, n_rows: int, steps_per_epoch: int) -> Self:
        """Return these settings, with None replaced by numbers that suit the number of rows.

        Args:
            n_rows: number of training rows with a label.
            steps_per_epoch: number of steps per epoch, with `batch_for` rows each.

        Example:
            >>> small, large = [TrainingSettings().for_rows(n, n // 25) for n in (50, 5000)]
            >>> [(s.max_epochs, round(s.weight_decay, 4)) for s in (small, large)]
            [(66, 3.0), (21, 0.03)]
        """
        rate = self.head_learning_rate or HEAD_PACE * self.learning_rate
        batch_size = self.batch_for(n_rows)
        changed: dict[str, Any] = {"head_learning_rate": rate, "batch_size": batch_size}
        if self.max_epochs is None:
            steps = STEPS * n_rows**0.75
            if self.batch_size is None:  # as many epochs as with 32 rows
                steps *= 32 / batch_size
            changed["max_epochs"] = max(1, math.ceil(steps / max(1, steps_per_epoch)))
        if self.weight_decay is None:
            decays = self.optimizer == "adamw" and n_rows > 0
            # A step must not shrink a weight by more than a tenth.
            decay = min(DECAY / n_rows, 0.1 / self.learning_rate) if decays else 0.0
            changed["weight_decay"] = decay
        return self.model_copy(update=changed)


def monitor_mode(monitor: str) -> str:
    """Return whether the best value of a `TrainingSettings.monitor` is its ``min`` or ``max``."""
    metric = monitor.rpartition("/")[2]
    return "min" if metric in ("validation_loss", *LOWER_IS_BETTER) else "max"


def settings_from(settings: TrainingSettings | None, options: dict[str, Any]) -> TrainingSettings:
    """Make settings from an object or from keyword arguments, with one-line errors."""
    if settings is not None and options:
        raise InvalidInputError(f"give settings or keyword arguments, not both: {sorted(options)}")
    for name in options:
        if name not in TrainingSettings.model_fields:
            raise unknown_name("training setting", name, TrainingSettings.model_fields)
    return settings or TrainingSettings(**options)
