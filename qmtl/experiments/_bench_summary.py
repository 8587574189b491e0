"""Chosen settings, scores and comparisons of a benchmark, from the results of its cells."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from qmtl.experiments._recipe import SINGLE_TASK
from qmtl.experiments._rivals import Trained
from qmtl.experiments._statistics import Estimate, PairedTest, delta_m, estimate, holm, paired_test
from qmtl.experiments._sweep import Failure

REFERENCE = "linear"
"""The head that others are tested against: dense linear heads with hard parameter sharing."""
UNSCALED = ("mse", "mae")
"""Metrics in the units of the targets, which are not multiplied by 100."""
CORRELATIONS = ("pearson", "spearman")
"""Metrics that are undefined for a constant prediction."""
Setting = dict[str, Any]
"""One point of the grid: values by recipe key."""


@dataclass(frozen=True)
class CellResult(Trained):
    """The result of a benchmark cell."""

    main_metrics: dict[str, str]
    rows: dict[str, int]
    environment: dict[str, Any]

    def main(self, split: Literal["validation", "test"]) -> dict[str, float]:
        """Return each task's main metric on a split, to average over tasks.

        For a constant prediction, a correlation is undefined. It counts as 0: without it, a head
        that learned nothing on a task would have a higher mean.
        """
        found = {}
        for task, name in self.main_metrics.items():
            own = self.metrics[split][task]
            # With constant targets, R² is undefined, and so is every head's correlation.
            is_constant = name in CORRELATIONS and not math.isnan(own.get("r2", 0.0))
            found[task] = 0.0 if is_constant and math.isnan(own[name]) else own[name]
        return found


def mean_score(scores: Iterable[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    kept = [score for score in scores if not math.isnan(score)]
    return math.fsum(kept) / len(kept) if kept else math.nan


@dataclass(frozen=True)
class HeadScores:
    """The scores of a head at its chosen setting: test scores times 100, one per seed in order.

    A score is NaN if the seed's cell failed or the metric is undefined.
    """

    head: str
    setting: Setting
    results: tuple[CellResult | None, ...]

    @cached_property
    def some(self) -> CellResult:
        """The first result that exists, for values that are equal in all results."""
        return next(result for result in self.results if result is not None)

    @property
    def metrics(self) -> dict[str, list[str]]:
        """The metrics of each task, the main one first."""
        found = self.some.metrics["test"]
        return {task: [m for m in found[task] if m != "loss"] for task in self.some.main_metrics}

    def scores(self, task: str, metric: str | None = None) -> list[float]:
        """Return a metric of a task, by default the main one; times 100 except for `UNSCALED`."""
        name = metric or self.some.main_metrics[task]
        factor = 1 if name in UNSCALED else 100
        return self._each(lambda result: factor * result.metrics["test"][task][name])

    def means(self) -> list[float]:
        """Return each seed's mean main metric over the tasks for which it is defined."""
        return self._each(lambda result: 100 * mean_score(result.main("test").values()))

    def baseline(self, task: str) -> list[float]:
        """Return the main metric of the best constant prediction, for each seed."""
        name = self.some.main_metrics[task]
        return self._each(lambda result: 100 * result.baselines["test"][task][name])

    def calibration(self) -> list[float]:
        """Return each seed's mean expected calibration error over tasks with one, times 100."""

        def mean(result: CellResult) -> float:
            return 100 * mean_score(
                own.get("ece", math.nan) for own in result.metrics["test"].values()
            )

        return self._each(mean)

    @property
    def step_seconds(self) -> float:
        """The median over seeds of the median time of a training step."""
        return statistics.median(r.step_seconds for r in self.results if r is not None)

    @property
    def best_epoch(self) -> float:
        """The mean over seeds of the kept epoch, counted from 1."""
        return mean_score(r.best_epoch for r in self.results if r is not None)

    def _each(self, function: Callable[[CellResult], float]) -> list[float]:
        return [math.nan if result is None else function(result) for result in self.results]


@dataclass(frozen=True)
class Comparison:
    """A paired test over seeds, and the t-test's p-value after Holm's correction over the heads."""

    test: PairedTest
    corrected: float


@dataclass(frozen=True)
class BenchSummary:
    """All numbers that a benchmark's tables and plots show.

    Each head tried `n_settings` settings; the best one was chosen on the validation splits of the
    first `search_seeds` seeds. `failures` are cells that ended in an error.
    """

    name: str
    heads: tuple[HeadScores, ...]
    probe: HeadScores | None
    failures: tuple[Failure, ...]
    n_seeds: int
    n_settings: int
    search_seeds: int
    first_seed: int = 0

    @property
    def tasks(self) -> dict[str, str]:
        """The main metric of each task, sorted by name because seeds differ in the tasks' order."""
        return dict(sorted(self.heads[0].some.main_metrics.items())) if self.heads else {}

    @property
    def columns(self) -> list[HeadScores]:
        """The heads, and the probe if it was fitted."""
        return [*self.heads, *([self.probe] if self.probe else [])]

    def has_score(self, task: str) -> bool:
        """Return whether some head's main metric of a task is defined on some seed."""
        return any(not math.isnan(v) for scores in self.heads for v in scores.scores(task))

    def head(self, name: str) -> HeadScores | None:
        """Return the scores of the head with this name, or None."""
        return next((scores for scores in self.heads if scores.head == name), None)

    def compare(self) -> dict[str, Comparison]:
        """Compare every other head with the reference, if there is one, by the mean over tasks."""
        tests = self._tests(HeadScores.means)
        corrected = holm({head: test.t_test for head, test in tests.items()})
        return {head: Comparison(test, corrected[head]) for head, test in tests.items()}

    def compare_task(self, task: str) -> dict[str, PairedTest]:
        """Compare every other head with the reference on one task, without correction."""
        return self._tests(lambda scores: scores.scores(task))

    def _tests(self, values: Callable[[HeadScores], list[float]]) -> dict[str, PairedTest]:
        reference = self.head(REFERENCE)
        others = [one for one in self.heads if one is not reference]
        if reference is None:
            return {}
        return {one.head: paired_test(values(one), values(reference)) for one in others}

    def transfer(self) -> dict[str, Estimate]:
        """Return Δm of every head relative to single-task models, in percent; empty without them.

        The reference is the single-task models' mean over seeds, because a single seed's score may
        be close to zero.
        """
        single = self.head(SINGLE_TASK)
        if single is None:
            return {}
        reference = {task: mean_score(single.scores(task)) for task in self.tasks}
        return {
            scores.head: estimate(
                [
                    delta_m(dict(zip(self.tasks, seed, strict=True)), reference, ())
                    for seed in zip(*map(scores.scores, self.tasks), strict=True)
                ]
            )
            for scores in self.heads
            if scores is not single
        }


def choose_setting(results: Sequence[Sequence[CellResult | None]]) -> int | None:
    """Return the number of the setting with the best mean of the main validation metrics.

    The mean is over seeds and tasks. Among equally good settings, the first is chosen. A setting
    with a failed cell (None) is chosen only if it is the only setting.
    """
    if len(results) == 1:
        return 0
    best, chosen = -math.inf, None
    for number, found in enumerate(results):
        value = mean_score(mean_score(r.main("validation").values()) for r in found if r)
        if all(found) and value > best:
            best, chosen = value, number
    return chosen
