"""Plots of a benchmark: score against head parameters, and a forest plot per task."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from qmtl.experiments._plotting import look, save_figure, style
from qmtl.experiments._statistics import PairedTest, estimate
from qmtl.experiments._summary import REFERENCE, BenchSummary
from qmtl.plotting import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_forest", "plot_score_against_parameters", "write_plots"]


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
            **look(scores.head),
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
            **look(head),
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
