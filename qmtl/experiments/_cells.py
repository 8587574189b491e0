"""Results of cells and the folder that keeps them: a finished cell is never run again."""

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from qmtl._io import write_json
from qmtl.experiments._grid import Cell

__all__ = ["CellResult", "CellStore", "Failure"]

Metrics = dict[str, dict[str, float]]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    key: str
    head: str
    seed: int
    setting: dict[str, Any]


class CellResult(_Record):
    """What a finished cell found.

    Attributes:
        validation: task → metric → value on the validation split.
        test: the same on the test split; read for the chosen setting only.
        baseline: the same for the best constant prediction, on the test split.
        main_metrics: task → its main metric.
        head_parameters: trainable parameters of the head (of all heads, if there are several).
        total_parameters: those of encoder and head.
        best_epoch: the kept epoch, counted from 1, the mean if several models were trained; NaN
            for the probe.
        seconds: of training.
        step_seconds: median time of a training step: forward, backward and update; of single-task
            models on mixed batches, of a step of each of them.
        rows: labelled rows of the training split by task.
        environment: versions, threads and machine.
    """

    status: Literal["finished"] = "finished"
    validation: Metrics
    test: Metrics
    baseline: Metrics
    main_metrics: dict[str, str]
    head_parameters: int
    total_parameters: int
    best_epoch: float
    seconds: float
    step_seconds: float
    rows: dict[str, int]
    environment: dict[str, Any]

    @field_validator("validation", "test", "baseline", mode="before")
    @classmethod
    def _undefined(cls, value: Any) -> Any:
        # JSON has no NaN: an undefined metric is null there.
        if not isinstance(value, dict) or not all(isinstance(v, dict) for v in value.values()):
            return value
        return {
            task: {name: math.nan if v is None else v for name, v in metrics.items()}
            for task, metrics in value.items()
        }

    @field_validator("best_epoch", "step_seconds", mode="before")
    @classmethod
    def _unknown(cls, value: Any) -> Any:
        return math.nan if value is None else value

    def main(self, split: Literal["validation", "test", "baseline"]) -> dict[str, float]:
        """Task → value of its main metric on a split."""
        metrics: Metrics = getattr(self, split)
        return {task: metrics[task][name] for task, name in self.main_metrics.items()}


class Failure(_Record):
    """A cell that ended in an error; it is tried again by the next run."""

    status: Literal["failed"] = "failed"
    error: str
    traceback: str


class CellStore:
    """A folder with one JSON file per cell, written as a whole or not at all.

    Several processes may write to it at once.

    Args:
        folder: made when it is first written to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, cell: Cell) -> Path:
        """The file of a cell."""
        return self.folder / f"{cell.name}.json"

    def read(self, cell: Cell) -> CellResult | Failure | None:
        """The result of a cell; None if there is none, or none that can be read."""
        try:
            text = self.path(cell).read_text(encoding="utf-8")
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        for kind in (CellResult, Failure):
            try:
                record = kind.model_validate_json(text)
            except ValidationError:
                continue
            return record if record.key == cell.key else None
        return None

    def write(self, cell: Cell, record: CellResult | Failure) -> None:
        """Keep the result of a cell; a failure never replaces a result."""
        if isinstance(record, Failure) and isinstance(self.read(cell), CellResult):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.path(cell), record.model_dump(mode="python"))
