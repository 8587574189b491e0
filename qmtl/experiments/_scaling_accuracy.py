"""Accuracy against the number of tasks, for growing sets of many binary tasks."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from qmtl._sections import Count, Section
from qmtl.data import MultiTaskData, Split, chestxray, digits
from qmtl.errors import check_rows
from qmtl.experiments._build import head_look
from qmtl.experiments._recipe import recipe_from
from qmtl.experiments._rivals import train_rival
from qmtl.experiments._scaling_parameters import DESIGN, by_head, tasks_axis
from qmtl.experiments._statistics import Estimate, estimate
from qmtl.experiments._sweep import (
    Cell,
    CellStore,
    Report,
    Workers,
    fingerprint,
    results_of,
    run_cells,
)
from qmtl.heads import HeadType
from qmtl.plotting import axes_or_new
from qmtl.tasks import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMAGE_SIDE = 16


class AccuracySettings(Section):
    """The training of the accuracy part, with the same budget for every head.

    Attributes:
        heads: types of heads, from `qmtl.heads.HEAD_TYPES`.
        seeds: number of seeds, from 0; a seed sets splits, task order, initial weights and batches.
        head_learning_rates: learning rates to try; one is chosen per head and number of tasks, by
            the mean of the metric on the validation split.
        learning_rate: learning rate of the encoder.
        max_epochs: largest number of epochs; the epoch with the best validation loss is kept.
        batch_size: number of rows per step.
        hidden: width of the encoder's one hidden layer. The encoder's output is as wide as the
            circuit's features, except for heads of a fixed width.
        most_tasks: largest number of tasks; it replaces larger numbers.
    """

    heads: tuple[HeadType, ...] = Field(("quantum", "linear", "local-cone"), min_length=1)
    seeds: Count = 3
    head_learning_rates: tuple[float, ...] = Field((0.01, 0.05), min_length=1)
    learning_rate: float = 0.01
    max_epochs: Count = 40
    batch_size: Count = 64
    hidden: Count = 64
    most_tasks: Count = 32


@dataclass(frozen=True)
class AccuracyResult:
    """The result of one training run: scores in a metric, as means over the tasks.

    Only the chosen learning rate's `test` is used. `test_first` is the score on the tasks of the
    smallest set, which every larger set contains. `baseline` is the score of the best constant
    prediction. The last layer of the encoder grows with T for every head.
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


@dataclass(frozen=True)
class AccuracyCell(Cell):
    """One training run.

    `first` is the number of tasks in the smallest set, and `data` the data's fingerprint for this
    seed. The data's `folder` is not part of the key.
    """

    head: HeadType
    tasks: int
    first: int
    seed: int
    head_learning_rate: float
    settings: AccuracySettings
    data: str
    folder: str | None = None
    finds: ClassVar[type] = AccuracyResult

    def depends_on(self) -> Any:
        s = self.settings
        budget = [s.learning_rate, s.max_epochs, s.batch_size, s.hidden]
        run = [self.head, self.tasks, self.first, self.seed, self.head_learning_rate]
        return [*run, *budget, self.data]

    @property
    def label(self) -> str:
        return (
            f"T = {self.tasks}, {self.head}, seed {self.seed}, head learning rate "
            f"{self.head_learning_rate}"
        )

    def run(self) -> AccuracyResult:
        whole, settings = scaling_data(self.folder, self.seed), self.settings
        names = [task.name for task in whole.tasks[: self.tasks]]
        content = {
            "data": {"source": "digits"},  # not loaded: the data are given
            "seed": self.seed,
            "encoder": {"hidden": [settings.hidden]},
            "circuit": {"design": DESIGN},
            "training": {
                "max_epochs": settings.max_epochs,
                "batch_size": settings.batch_size,
                "learning_rate": settings.learning_rate,
                "head_learning_rate": self.head_learning_rate,
                "schedule": "cosine",
                "accelerator": "cpu",
            },
        }
        trained = train_rival(recipe_from(content), whole.subset(names), self.head)
        metric = whole.tasks[0].main_metric

        def mean(metrics: dict[str, dict[str, float]], tasks: Sequence[str]) -> float:
            # A task without a positive row in a small split has no AUROC there.
            return estimate([metrics[name][metric] for name in tasks]).mean

        return AccuracyResult(
            whole.name,
            self.head,
            self.tasks,
            self.seed,
            self.head_learning_rate,
            metric,
            mean(trained.metrics["validation"], names),
            mean(trained.metrics["test"], names),
            mean(trained.metrics["test"], names[: self.first]),
            mean(trained.baselines["test"], names),
            trained.head_parameters,
            trained.total_parameters - trained.head_parameters,
        )


def measure_accuracy(
    settings: AccuracySettings,
    tasks: Sequence[int],
    folder: str | None = None,
    *,
    jobs: int = 1,
    store: str | Path | None = None,
    report: Report | None = None,
) -> list[AccuracyResult]:
    """Train every head at every number of tasks, seed and learning rate.

    Numbers of tasks are at most `most_tasks`, and at most the number in the data. The data are
    chest X-rays of a `folder` in CheXpert's layout, or digits. Results in the folder `store` are
    not computed again. For `jobs` and `report` see `Workers` and `run_cells`.

    Raises:
        InvalidInputError: if the folder does not fit.
        QmtlError: if a run failed.
    """
    whole = [scaling_data(folder, seed) for seed in range(settings.seeds)]
    # A rare finding may have no label in some seed's train split.
    most = min(*(len(data.tasks) for data in whole), settings.most_tasks)
    sizes = sorted({min(n, most) for n in tasks})
    prints = [fingerprint(data) for data in whole]
    # The longest runs start first, so that all processes end at about the same time.
    cells = [
        AccuracyCell(head, n, sizes[0], seed, rate, settings, prints[seed], folder)
        for n in reversed(sizes)
        for head in settings.heads
        for rate in settings.head_learning_rates
        for seed in range(settings.seeds)
    ]
    kept = None if store is None else CellStore(store)
    return results_of(cells, run_cells(cells, kept, Workers(jobs), report))


@dataclass(frozen=True)
class AccuracyPoint:
    """The scores of a head at a number of tasks, over seeds, at its chosen learning rate."""

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
        """Return flat fields for a table; intervals are 95% half widths."""
        row: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Estimate):
                row |= {name: value.mean, f"{name}_interval": value.half_width}
            else:
                row[name] = value
        return row | {"seeds": self.test.n}


def summarise(found: Sequence[AccuracyResult]) -> list[AccuracyPoint]:
    """Choose each head's learning rate on validation, per number of tasks; average over seeds.

    Differences from the dense linear head are computed seed by seed; they are NaN without it.
    """
    points = []
    for n in sorted({one.tasks for one in found}):
        heads = by_head([one for one in found if one.tasks == n])
        chosen = {head: _at_best_rate(own) for head, own in heads.items()}
        linear = {one.seed: one.test for one in chosen.get("linear", [])}
        for head, own in chosen.items():
            first = own[0]
            ahead = [one.test - linear[one.seed] for one in own if one.seed in linear]
            point = AccuracyPoint(
                first.data,
                head,
                n,
                first.head_learning_rate,
                first.metric,
                estimate([one.test for one in own]),
                estimate([one.test_first for one in own]),
                estimate(ahead),
                fmean(one.baseline for one in own),
                first.head_parameters,
            )
            points.append(point)
    return points


def _at_best_rate(found: Sequence[AccuracyResult]) -> list[AccuracyResult]:
    by_rate: dict[float, list[AccuracyResult]] = {}
    for one in found:
        by_rate.setdefault(one.head_learning_rate, []).append(one)
    return max(by_rate.values(), key=lambda own: fmean(one.validation for one in own))


def scaling_data(folder: str | Path | None, seed: int) -> MultiTaskData:
    """Load binary tasks on common inputs; the seed determines the split and the order of tasks.

    The tasks are findings of chest X-rays in a folder, at 16×16 pixels, or `digit_dichotomies`.
    """
    if folder is None:
        data = digit_dichotomies(seed=seed)
    else:
        data = chestxray(folder, image_size=IMAGE_SIDE, flat=True, seed=seed)
    # "No Finding" only says that all other findings are absent.
    names = [task.name for task in data.tasks if task.name != "No Finding"]
    # The order decides which tasks share light cones.
    random.Random(seed).shuffle(names)
    return data.subset(names)


def digit_dichotomies(*, seed: int = 0) -> MultiTaskData:
    """Load the digits with 126 binary tasks: every way to divide the ten digits in half.

    Task ``01234`` is whether the digit is 0, 1, 2, 3 or 4. All tasks are balanced and derive from
    the same label, so that more tasks are not harder tasks. Such tasks are known as output codes:
    Dietterich and Bakiri, arXiv:cs/9501101.
    """
    source = digits(seed=seed, tasks=["digit"])
    # A half and its complement are one task, named by the half with a zero.
    halves = [(0, *rest) for rest in combinations(range(1, 10), 4)]
    tasks = {"".join(map(str, half)): torch.tensor(half) for half in halves}

    def relabelled(split: Split) -> Split:
        digit = split.targets["digit"]
        labels = {name: torch.isin(digit, half).float() for name, half in tasks.items()}
        return replace(split, targets=labels)

    return MultiTaskData(
        "digit-dichotomies",
        tuple(Task.binary(name, metrics=("accuracy",)) for name in tasks),
        train=relabelled(source.train),
        validation=relabelled(source.validation),
        test=relabelled(source.test),
        split_seed=seed,
    )


def plot_accuracy(points: Sequence[AccuracyPoint], ax: "Axes | None" = None) -> "Axes":
    """Plot the mean test score over tasks against the number of tasks, with 95% intervals."""
    check_rows("points", points, AccuracyPoint)
    ax = axes_or_new(ax)
    _intervals(points, "test", ax)
    ax.set_ylabel(f"test {points[0].metric} × 100, mean over tasks")
    ax.set_title(f"{points[0].data}, {max(p.test.n for p in points)} seeds, 95% intervals")
    return ax


def plot_accuracy_difference(points: Sequence[AccuracyPoint], ax: "Axes | None" = None) -> "Axes":
    """Plot the difference from the dense linear head, seed by seed, with 95% intervals."""
    check_rows("points", points, AccuracyPoint)
    ax = axes_or_new(ax)
    _intervals([point for point in points if point.head != "linear"], "ahead_of_linear", ax)
    ax.axhline(0, color="0.4", linewidth=1)
    ax.set(ylabel=f"difference from linear ({points[0].metric} × 100)", title="paired by seed")
    return ax


def _intervals(points: Sequence[AccuracyPoint], value: str, ax: "Axes") -> None:
    """Draw a line per head, shifted sideways so that no interval hides another."""
    heads = by_head(points)
    for position, (head, own) in enumerate(heads.items()):
        shift = 1.03 ** (2 * position - len(heads) + 1)
        found: list[Estimate] = [getattr(point, value) for point in own]
        ax.errorbar(
            [point.tasks * shift for point in own],
            [100 * one.mean for one in found],
            yerr=[0.0 if math.isnan(one.half_width) else 100 * one.half_width for one in found],
            label=head,
            capsize=3,
            markersize=5,
            **head_look(head),
        )
    tasks_axis(ax, [point.tasks for point in points])


def tell_accuracy(
    points: Sequence[AccuracyPoint], settings: AccuracySettings, say: Callable[[str], None]
) -> None:
    """Report each head's accuracy against the number of tasks."""

    def percent(found: Estimate) -> Estimate:
        return Estimate(100 * found.mean, 100 * found.half_width, found.n)

    say(
        f"{points[0].data}: test {points[0].metric} × 100, mean over tasks ± 95% interval over "
        f"{settings.seeds} seed{'s' * (settings.seeds > 1)}; every head tried head learning rates "
        f"{', '.join(map(str, settings.head_learning_rates))}, chosen on validation"
    )
    for point in points:
        say(
            f"T = {point.tasks:3d} {point.head:12s} {percent(point.test):.1f}, from linear "
            f"{percent(point.ahead_of_linear):+.1f}, {point.head_parameters} head parameters"
        )
