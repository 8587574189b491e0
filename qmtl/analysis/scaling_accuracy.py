"""Accuracy against the number of tasks, for heads on one kind of encoder with one search budget."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch

from qmtl.analysis.scaling import DESIGN
from qmtl.analysis.scaling_data import scaling_data
from qmtl.analysis.statistics import Estimate, estimate
from qmtl.circuit import HeadCircuit
from qmtl.data import MultiTaskData
from qmtl.encoders import MLP
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.heads import HEAD_TYPES, HeadOptions, HeadType, build_head
from qmtl.model import MultiTaskModel

__all__ = ["AccuracyCell", "AccuracyPoint", "AccuracySettings", "run_cells", "summarise"]


@dataclass(frozen=True)
class AccuracySettings:
    """What is trained, and with which budget: the same for every head.

    Attributes:
        heads: of `qmtl.heads.HEAD_TYPES`, but single-task, which is no multi-task model.
        seeds: how many, from 0; a seed sets splits, task order, initial weights and batches.
        head_learning_rates: tried for every head; one is chosen per head and number of tasks by
            the mean of the metric on the validation split.
        learning_rate: of the encoder.
        max_epochs: the epoch of the best validation loss is kept.
        batch_size: rows per step.
        hidden: width of the encoder's one hidden layer. Its output is as wide as the circuit's
            features, for every head but those of a fixed width.
    """

    heads: tuple[HeadType, ...] = ("quantum", "linear", "local-cone")
    seeds: int = 3
    head_learning_rates: tuple[float, ...] = (0.01, 0.1)
    learning_rate: float = 0.003
    max_epochs: int = 20
    batch_size: int = 64
    hidden: int = 64
    most_tasks: int = 32

    def __post_init__(self) -> None:
        known = [name for name in HEAD_TYPES if name != "single-task"]
        for head in self.heads:
            if head not in known:
                raise unknown_name("head:", head, known)
        for name in ("heads", "seeds", "head_learning_rates"):
            if not getattr(self, name):
                raise InvalidInputError(f"{name}: expected at least one, got {getattr(self, name)}")


@dataclass(frozen=True)
class AccuracyCell:
    """One training run.

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
class AccuracyPoint:
    """A head at a number of tasks, over seeds, at its chosen learning rate."""

    data: str
    head: str
    tasks: int
    head_learning_rate: float
    metric: str
    test: Estimate
    test_first: Estimate
    ahead_of_linear: Estimate
    baseline: float
    head_parameters: int

    def as_row(self) -> dict[str, Any]:
        """Flat fields, for a table; intervals are 95% half widths."""
        row = {
            "data": self.data,
            "head": self.head,
            "tasks": self.tasks,
            "head_learning_rate": self.head_learning_rate,
            "metric": self.metric,
        }
        for name in ("test", "test_first", "ahead_of_linear"):
            found = getattr(self, name)
            row |= {name: found.mean, f"{name}_interval": found.half_width}
        return row | {
            "baseline": self.baseline,
            "head_parameters": self.head_parameters,
            "seeds": self.test.n,
        }


def run_cells(
    settings: AccuracySettings,
    tasks: Sequence[int],
    folder: str | None = None,
    *,
    jobs: int = 1,
) -> list[AccuracyCell]:
    """Train every head at every number of tasks, seed and learning rate, one thread each.

    Args:
        settings: what is trained.
        tasks: numbers of tasks; those beyond what the data have, or `most_tasks`, count as that.
        folder: see `scaling_data`.
        jobs: processes.

    Raises:
        InvalidInputError: the folder does not fit.
    """
    from joblib import Parallel, delayed

    # A rare finding may be missing from one seed's train split.
    most = min(len(scaling_data(folder, seed).tasks) for seed in range(settings.seeds))
    most = min(most, settings.most_tasks)
    # All tasks of small data, whatever numbers were asked for beyond them.
    sizes = sorted({min(n, most) for n in tasks})
    grid = [
        delayed(_run_cell)(settings, head, n, sizes[0], seed, rate, folder)
        # The longest first, so that no process ends alone.
        for n in reversed(sizes)
        for head in settings.heads
        for rate in settings.head_learning_rates
        for seed in range(settings.seeds)
    ]
    found: list[AccuracyCell] = Parallel(jobs)(grid)
    return found


def summarise(cells: Sequence[AccuracyCell]) -> list[AccuracyPoint]:
    """Choose each head's learning rate on validation, per number of tasks, and average over seeds.

    Test scores of rates that were not chosen are not looked at. `ahead_of_linear` is the mean of
    the differences from the linear head, seed by seed; NaN if that was not trained.
    """
    sizes = sorted({cell.tasks for cell in cells})
    heads = list(dict.fromkeys(cell.head for cell in cells))
    points = []
    for n in sizes:
        chosen = {
            head: _chosen([c for c in cells if (c.head, c.tasks) == (head, n)]) for head in heads
        }
        linear = {cell.seed: cell.test for cell in chosen.get("linear", [])}
        points += [_point(chosen[head], linear) for head in heads]
    return points


def _chosen(cells: Sequence[AccuracyCell]) -> list[AccuracyCell]:
    by_rate: dict[float, list[AccuracyCell]] = {}
    for cell in cells:
        by_rate.setdefault(cell.head_learning_rate, []).append(cell)
    best = max(by_rate.values(), key=lambda own: fmean(c.validation for c in own))
    return sorted(best, key=lambda cell: cell.seed)


def _point(cells: Sequence[AccuracyCell], linear: dict[int, float]) -> AccuracyPoint:
    one = cells[0]
    return AccuracyPoint(
        one.data,
        one.head,
        one.tasks,
        one.head_learning_rate,
        one.metric,
        estimate([cell.test for cell in cells]),
        estimate([cell.test_first for cell in cells]),
        estimate([cell.test - linear[cell.seed] for cell in cells if cell.seed in linear]),
        fmean(cell.baseline for cell in cells),
        one.head_parameters,
    )


def _run_cell(
    settings: AccuracySettings,
    head: HeadType,
    n_tasks: int,
    n_first: int,
    seed: int,
    rate: float,
    folder: str | None,
) -> AccuracyCell:
    from qmtl.training import fit

    torch.set_num_threads(1)
    whole = scaling_data(folder, seed)
    names = [task.name for task in whole.tasks[:n_tasks]]
    data = whole.subset(names)
    metric = data.tasks[0].main_metric
    model = _model(settings, head, data, seed)
    result = fit(
        model,
        data,
        max_epochs=settings.max_epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        head_learning_rate=rate,
        schedule="cosine",
        seed=seed,
        accelerator="cpu",
        progress=False,
    )

    def mean(metrics: dict[str, dict[str, float]], tasks: Sequence[str]) -> float:
        # A task without a positive row in a small split has no AUROC there.
        return estimate([metrics[name][metric] for name in tasks]).mean

    return AccuracyCell(
        data.name,
        head,
        n_tasks,
        seed,
        rate,
        metric,
        mean(result.metrics["validation"], names),
        mean(result.metrics["test"], names),
        mean(result.metrics["test"], names[:n_first]),
        mean(result.baselines["test"], names),
        sum(p.numel() for p in model.head.parameters() if p.requires_grad),
        sum(p.numel() for p in model.encoder.parameters()),
    )


def _model(
    settings: AccuracySettings, head: HeadType, data: MultiTaskData, seed: int
) -> MultiTaskModel:
    circuit = HeadCircuit.load(DESIGN, data.tasks)
    n_inputs = data.n_inputs
    if not isinstance(n_inputs, int):
        raise InvalidInputError(f"data: expected flat inputs, got shape {n_inputs}")
    built = build_head(head, circuit, HeadOptions(seed=seed))
    encoder = MLP(n_inputs, settings.hidden, out_features=built.n_features, seed=seed)
    return MultiTaskModel(encoder, built)
