"""Plots of benchmarks and of scaling."""

import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmtl.experiments._bench_summary import REFERENCE, BenchSummary
from qmtl.experiments._scaling import HeadCount, counted_head, crossover
from qmtl.experiments._scaling_accuracy import AccuracyPoint
from qmtl.experiments._scaling_cost import StepCost
from qmtl.experiments._statistics import Estimate, PairedTest, estimate
from qmtl.plotting import (
    COLOURS,
    count_axis,
    head_look,
    legend_below,
    number_axis,
    plain,
    save_figure,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "plot_accuracy",
    "plot_accuracy_difference",
    "plot_forest",
    "plot_memory",
    "plot_parameters",
    "plot_score_against_parameters",
    "plot_step_time",
    "write_plots",
]

TITLES = {
    "matched": "representation grows with T (2 T features)",
    "fixed": "representation of 8 features for any T",
}
# Smaller differences are noise of the operating system's paging.
LEAST_MB = 1.0


def plot_score_against_parameters(summary: BenchSummary, ax: "Axes") -> "Axes":
    """Mean test score over tasks against trained head parameters, with 95% intervals.

    Heads with the same number of parameters are drawn side by side.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    drawn: list[int] = []
    for scores in summary.heads:
        mean, count = estimate(scores.means()), scores.some.head_parameters
        aside = 1.05 ** drawn.count(count)
        drawn.append(count)
        ax.errorbar(
            count * aside,
            mean.mean,
            yerr=None if math.isnan(mean.half_width) else mean.half_width,
            linestyle="none",
            markersize=7,
            capsize=3,
            label=scores.head,
            **head_look(scores.head),
        )
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("head parameters (trained); equal numbers are drawn side by side")
    ax.set_ylabel("mean over tasks of the main test metric × 100")
    ax.set_title(f"{summary.name}: score against head parameters")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def plot_forest(summary: BenchSummary, task: str | None, ax: "Axes") -> "Axes":
    """Difference of every head from the reference, with 95% intervals, paired by seed.

    Args:
        summary: with the reference among its heads.
        task: one of its tasks; None for the mean over tasks.
        ax: where to draw.
    """
    tests = _tests(summary, task)
    for row, (head, test) in enumerate(tests.items()):
        width = test.difference.half_width
        ax.errorbar(
            test.difference.mean,
            row,
            xerr=None if math.isnan(width) else width,
            linestyle="none",
            markersize=5,
            capsize=3,
            **head_look(head),
        )
    ax.axvline(0, color="0.4", linewidth=1)
    ax.set_yticks(range(len(tests)), list(tests))
    ax.set_ylim(len(tests) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(f"difference from {REFERENCE} (points)")
    ax.set_title("mean over tasks" if task is None else plain(f"{task} ({summary.tasks[task]})"))
    return ax


def write_plots(summary: BenchSummary, folder: Path) -> list[Path]:
    """Write the plots as PNG files.

    Args:
        summary: what to show; without any head, nothing is written, and without the reference no
            forest plot.
        folder: where to write; it must exist.

    Returns:
        The files written.
    """
    from matplotlib.figure import Figure

    written: list[Path] = []
    with style():
        if summary.heads:
            figure = Figure(figsize=(8, 4.5))
            plot_score_against_parameters(summary, figure.subplots())
            written.append(folder / "score_against_parameters.png")
            save_figure(figure, written[-1])
        if summary.compare():
            written.append(folder / "forest.png")
            save_figure(_forests(summary), written[-1])
    return written


def _forests(summary: BenchSummary) -> "Figure":
    from matplotlib.figure import Figure

    panels = [None, *summary.tasks]
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    height = 0.9 + 0.24 * len(summary.compare())
    figure = Figure(figsize=(1.5 + 3.2 * columns, 0.7 + height * rows))
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for panel, ax in zip(panels, axes, strict=False):
        plot_forest(summary, panel, ax).set_xlabel("")
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    figure.supxlabel(f"difference from {REFERENCE}, points (95% interval over paired seeds)")
    figure.suptitle(f"{summary.name}: heads against {REFERENCE}")
    return figure


def _tests(summary: BenchSummary, task: str | None) -> dict[str, PairedTest]:
    if task is None:
        return {head: comparison.test for head, comparison in summary.compare().items()}
    return summary.compare_task(task)


def plot_parameters(counts: Sequence[HeadCount], rule: str, ax: "Axes") -> "Axes":
    """Head parameters against tasks, log-log, with the crossovers of the quantum head marked."""
    shown = [count for count in counts if count.rule == rule]
    largest = max(count.tasks for count in shown)
    for head in dict.fromkeys(count.head for count in shown):
        own = [count for count in shown if count.head == head]
        ax.plot(
            [count.tasks for count in own],
            [count.parameters for count in own],
            # Rivals with as many parameters as the quantum head lie under its line.
            label=f"{head}: {own[0].formula}",
            markersize=5,
            zorder=3 if head == "quantum" else 2,
            **_look(head),
        )
        if head != "quantum":
            _mark_crossover(ax, head, rule, largest)
    _tasks_axis(ax, [count.tasks for count in shown])
    count_axis(ax)
    ax.set_ylabel("trained head parameters")
    ax.set_title(TITLES[rule])
    legend_below(ax)
    return ax


def _mark_crossover(ax: "Axes", head: str, rule: str, largest: int) -> None:
    """An arrow to the number of tasks from which the order of two heads no longer changes."""
    found = crossover(counted_head(head, rule))
    if not 1 < found.tasks <= largest or found.smaller == "neither":
        return
    first, second = ("quantum", head) if found.smaller == "quantum" else (head, "quantum")
    ax.annotate(
        f"{first} smaller than {second}\nfrom T = {found.tasks}",
        (found.tasks, counted_head("quantum", rule).closed_form(found.tasks)),
        # In the corner above the lines, which rise.
        xytext=(0.04, 0.95),
        textcoords="axes fraction",
        va="top",
        fontsize=9,
        arrowprops={"arrowstyle": "->", "color": "0.3"},
    )


def plot_step_time(costs: Sequence[StepCost], ax: "Axes") -> "Axes":
    """Median step time against tasks, with the fastest and slowest step as bars."""
    for head, own in _by_head(costs).items():
        below = [c.step_ms - c.fastest_ms for c in own]
        above = [c.slowest_ms - c.step_ms for c in own]
        ax.errorbar(
            [c.tasks for c in own],
            [c.step_ms for c in own],
            yerr=[below, above],
            label=head,
            elinewidth=0.8,
            markersize=5,
            **_look(head),
        )
    _tasks_axis(ax, [c.tasks for c in costs])
    ax.set_yscale("log")
    ax.set_ylabel("training step (ms)")
    ax.set_title(f"batch {costs[0].batch_size}, {_threads(costs[0].threads)}")
    legend_below(ax)
    return ax


def plot_memory(costs: Sequence[StepCost], ax: "Axes") -> "Axes":
    """Peak memory above that before the head was built; points below 1 MB are left out."""
    for head, own in _by_head(costs).items():
        kept = [c for c in own if not math.isnan(c.peak_mb) and c.peak_mb >= LEAST_MB]
        ax.plot(
            [c.tasks for c in kept],
            [c.peak_mb for c in kept],
            label=head,
            markersize=5,
            **_look(head),
        )
    _tasks_axis(ax, [c.tasks for c in costs])
    ax.set_yscale("log")
    ax.set_ylabel("peak memory of head and step (MB)")
    ax.set_title("above the process before it")
    legend_below(ax)
    return ax


def plot_accuracy(points: Sequence[AccuracyPoint], ax: "Axes") -> "Axes":
    """Mean test score over tasks against tasks, with 95% intervals over seeds."""
    _intervals(dict.fromkeys(point.head for point in points), points, lambda point: point.test, ax)
    ax.set_ylabel(f"test {points[0].metric} × 100, mean over tasks")
    ax.set_title(f"{points[0].data}, {max(p.test.n for p in points)} seeds, 95% intervals")
    return ax


def plot_accuracy_difference(points: Sequence[AccuracyPoint], ax: "Axes") -> "Axes":
    """Difference from the dense linear head, seed by seed, with 95% intervals."""
    heads = dict.fromkeys(point.head for point in points if point.head != "linear")
    _intervals(heads, points, lambda point: point.ahead_of_linear, ax)
    ax.axhline(0, color="0.4", linewidth=1)
    ax.set_ylabel(f"difference from linear ({points[0].metric} × 100)")
    ax.set_title("paired by seed")
    return ax


def _intervals(
    heads: Collection[str],
    points: Sequence[AccuracyPoint],
    value: Callable[[AccuracyPoint], Estimate],
    ax: "Axes",
) -> None:
    """A line per head, side by side, so that no interval hides another."""
    for position, head in enumerate(heads):
        own = [point for point in points if point.head == head]
        shift = 1.03 ** (2 * position - len(heads) + 1)
        widths = [value(point).half_width for point in own]
        ax.errorbar(
            [point.tasks * shift for point in own],
            [100 * value(point).mean for point in own],
            yerr=[0.0 if math.isnan(width) else 100 * width for width in widths],
            label=head,
            capsize=3,
            markersize=5,
            **head_look(head),
        )
    _tasks_axis(ax, [point.tasks for point in points])
    legend_below(ax)


def _tasks_axis(ax: "Axes", tasks: Sequence[int]) -> None:
    number_axis(ax, tasks)
    ax.set_xlabel("tasks T")


def _by_head(costs: Sequence[StepCost]) -> dict[str, list[StepCost]]:
    grouped: dict[str, list[StepCost]] = {}
    for cost in costs:
        grouped.setdefault(cost.head, []).append(cost)
    return grouped


def _look(head: str) -> dict[str, Any]:
    """The look of a head; a fused head has its plain head's colour and a dashed line."""
    whole = head.removesuffix("-fused")
    found = head_look(whole) | {"linestyle": "-" if whole == head else "--"}
    # Its usual colour is the quantum head's, which is in the same plot.
    return found | ({"color": COLOURS[2]} if head == "shared-vqc" else {})


def _threads(n: int) -> str:
    return "1 thread" if n == 1 else f"{n} threads"
