"""One training run of the accuracy against the number of tasks, and the folder that keeps it."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from qmtl._io import write_json
from qmtl._version import __version__
from qmtl.circuit import HeadCircuit
from qmtl.data import MultiTaskData
from qmtl.encoders import MLP
from qmtl.errors import InvalidInputError
from qmtl.experiments._scaling import DESIGN
from qmtl.experiments._scaling_data import scaling_data
from qmtl.experiments._statistics import estimate
from qmtl.heads import HeadOptions, HeadType, build_head
from qmtl.model import MultiTaskModel

__all__ = ["AccuracyCell", "AccuracyRun", "read_cell", "train_cell"]


@dataclass(frozen=True)
class AccuracyCell:
    """What one training run found.

    Attributes:
        data: name of the data set.
        head: as in `AccuracySettings`.
        tasks: number of tasks learned together.
        seed: of everything.
        head_learning_rate: one of those tried.
        metric: the tasks' main metric, which the scores are.
        validation: mean over the tasks on the validation split.
        test: the same on the test split; only that of the chosen rate is read.
        test_first: mean over the tasks of the smallest subset, which every larger one contains.
        baseline: mean over the tasks for the best constant prediction on the test split.
        head_parameters: trained numbers of the head.
        encoder_parameters: those of the encoder; its last layer grows with T for every head.
    """

    data: str
    head: str
    tasks: int
    seed: int
    head_learning_rate: float
    metric: str
    validation: float
    test: float
    test_first: float
    baseline: float
    head_parameters: int
    encoder_parameters: int

    def as_row(self) -> dict[str, Any]:
        """The fields by name, for a table."""
        return asdict(self)


@dataclass(frozen=True)
class AccuracyRun:
    """One training run, by everything that its result depends on.

    Attributes:
        head: type of head.
        tasks: number of tasks.
        first: number of tasks in the smallest subset.
        seed: of everything.
        head_learning_rate: of the head.
        learning_rate: of the encoder.
        max_epochs: the epoch of the best validation loss is kept.
        batch_size: rows per step.
        hidden: width of the encoder's hidden layer.
        fingerprint: of the data with that seed.

    Example:
        >>> AccuracyRun("linear", 4, 2, 0, 0.1, 0.003, 20, 64, 64, "5f").name[:16]
        'linear-T4-seed0-'
    """

    head: HeadType
    tasks: int
    first: int
    seed: int
    head_learning_rate: float
    learning_rate: float
    max_epochs: int
    batch_size: int
    hidden: int
    fingerprint: str

    @property
    def key(self) -> str:
        """SHA-256 of the fields and of the version of qmtl."""
        text = json.dumps([__version__, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def name(self) -> str:
        """Short and unique."""
        return f"{self.head}-T{self.tasks}-seed{self.seed}-{self.key[:16]}"


def read_cell(run: AccuracyRun, store: Path) -> AccuracyCell | None:
    """The stored result of a run; None if there is none, or none that can be read."""
    try:
        content = json.loads((store / f"{run.name}.json").read_text(encoding="utf-8"))
        # JSON has no NaN: a score that is not defined is null there.
        fields: dict[str, Any] = {
            k: math.nan if v is None else v for k, v in content["cell"].items()
        }
        cell = AccuracyCell(**fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return cell if content.get("key") == run.key else None


def train_cell(run: AccuracyRun, folder: str | None, store: Path | None) -> AccuracyCell:
    """Train one head on one thread, and keep what was found.

    Args:
        run: what to train.
        folder: of the data, see `scaling_data`.
        store: an existing folder for the result; None keeps nothing.
    """
    from qmtl.training import fit

    torch.set_num_threads(1)
    whole = scaling_data(folder, run.seed)
    names = [task.name for task in whole.tasks[: run.tasks]]
    data = whole.subset(names)
    result = fit(
        _model(run, data),
        data,
        max_epochs=run.max_epochs,
        batch_size=run.batch_size,
        learning_rate=run.learning_rate,
        head_learning_rate=run.head_learning_rate,
        schedule="cosine",
        seed=run.seed,
        accelerator="cpu",
        progress=False,
    )
    cell = _cell(run, data, result)
    if store is not None:
        write_json(store / f"{run.name}.json", {"key": run.key, "cell": cell.as_row()})
    return cell


def _cell(run: AccuracyRun, data: MultiTaskData, result: Any) -> AccuracyCell:
    metric = data.tasks[0].main_metric
    names = [task.name for task in data.tasks]

    def mean(metrics: dict[str, dict[str, float]], tasks: list[str]) -> float:
        # A task without a positive row in a small split has no AUROC there.
        return estimate([metrics[name][metric] for name in tasks]).mean

    return AccuracyCell(
        data.name,
        run.head,
        run.tasks,
        run.seed,
        run.head_learning_rate,
        metric,
        mean(result.metrics["validation"], names),
        mean(result.metrics["test"], names),
        mean(result.metrics["test"], names[: run.first]),
        mean(result.baselines["test"], names),
        sum(p.numel() for p in result.model.head.parameters() if p.requires_grad),
        sum(p.numel() for p in result.model.encoder.parameters()),
    )


def _model(run: AccuracyRun, data: MultiTaskData) -> MultiTaskModel:
    circuit = HeadCircuit.load(DESIGN, data.tasks)
    n_inputs = data.n_inputs
    if not isinstance(n_inputs, int):
        raise InvalidInputError(f"data: expected flat inputs, got shape {n_inputs}")
    built = build_head(run.head, circuit, HeadOptions(seed=run.seed))
    encoder = MLP(n_inputs, run.hidden, out_features=built.n_features, seed=run.seed)
    return MultiTaskModel(encoder, built)
