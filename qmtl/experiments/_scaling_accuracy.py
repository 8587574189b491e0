"""Accuracy against the number of tasks, for heads on one kind of encoder with one search budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from qmtl.errors import InvalidInputError, unknown_name
from qmtl.experiments._grid import fingerprint
from qmtl.experiments._scaling_cell import AccuracyCell, AccuracyRun, read_cell, train_cell
from qmtl.experiments._scaling_data import scaling_data
from qmtl.experiments._statistics import Estimate, estimate
from qmtl.experiments._sweep import Workers
from qmtl.heads import HEAD_TYPES, HeadType

__all__ = ["AccuracyCell", "AccuracyPoint", "AccuracySettings", "run_cells", "summarise"]

Report = Callable[[AccuracyCell, int, int], None]


@dataclass(frozen=True)
class AccuracySettings:
    """What is trained, and with which budget: the same for every head.

    Attributes:
        heads: of `qmtl.heads.HEAD_TYPES`.
        seeds: how many, from 0; a seed sets splits, task order, initial weights and batches.
        head_learning_rates: tried for every head; one is chosen per head and number of tasks by
            the mean of the metric on the validation split.
        learning_rate: of the encoder.
        max_epochs: the epoch of the best validation loss is kept.
        batch_size: rows per step.
        hidden: width of the encoder's one hidden layer. Its output is as wide as the circuit's
            features, for every head but those of a fixed width.
        most_tasks: larger numbers of tasks are not trained.
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
        for head in self.heads:
            if head not in HEAD_TYPES:
                raise unknown_name("head:", head, HEAD_TYPES)
        for name in ("heads", "seeds", "head_learning_rates"):
            if not getattr(self, name):
                raise InvalidInputError(f"{name}: expected at least one, got {getattr(self, name)}")


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
    store: Path | None = None,
    report: Report | None = None,
) -> list[AccuracyCell]:
    """Train every head at every number of tasks, seed and learning rate, one thread each.

    Args:
        settings: what is trained.
        tasks: numbers of tasks; those beyond what the data have, or `most_tasks`, count as that.
        folder: see `scaling_data`.
        jobs: processes.
        store: a folder for the results; what lies there is not trained again. None keeps nothing.
        report: called with every cell that has been trained, how many are done, and how many
            there are.

    Raises:
        InvalidInputError: the folder does not fit.
    """
    runs = _runs(settings, tasks, folder)
    if store is not None:
        store.mkdir(parents=True, exist_ok=True)
    found = {run.key: None if store is None else read_cell(run, store) for run in runs}
    missing = [run for run in runs if found[run.key] is None]
    done = len(runs) - len(missing)
    arguments = [(run, folder, store) for run in missing]
    for key, cell in Workers(jobs).map(_keyed, arguments) if arguments else ():
        found[key] = cell
        done += 1
        if report is not None:
            report(cell, done, len(runs))
    return [cell for run in runs if (cell := found[run.key]) is not None]


def _keyed(run: AccuracyRun, *where: Any) -> tuple[str, AccuracyCell]:
    # Results come in the order in which they are ready.
    return run.key, train_cell(run, *where)


def _runs(
    settings: AccuracySettings, tasks: Sequence[int], folder: str | None
) -> list[AccuracyRun]:
    """The grid, the longest runs first, so that no process ends alone."""
    whole = [scaling_data(folder, seed) for seed in range(settings.seeds)]
    # A rare finding may be missing from one seed's train split.
    most = min(*(len(data.tasks) for data in whole), settings.most_tasks)
    # All tasks of small data, whatever numbers were asked for beyond them.
    sizes = sorted({min(n, most) for n in tasks})
    prints = [fingerprint(data) for data in whole]
    return [
        AccuracyRun(
            head,
            n,
            sizes[0],
            seed,
            rate,
            settings.learning_rate,
            settings.max_epochs,
            settings.batch_size,
            settings.hidden,
            prints[seed],
        )
        for n in reversed(sizes)
        for head in settings.heads
        for rate in settings.head_learning_rates
        for seed in range(settings.seeds)
    ]


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
