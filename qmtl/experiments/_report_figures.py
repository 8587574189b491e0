"""Figures of a report, as SVG within the page."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from qmtl.errors import InvalidInputError
from qmtl.experiments._prediction_plots import (
    plot_calibration,
    plot_confusion,
    plot_measured,
    plot_regression,
    plot_roc,
)
from qmtl.experiments._report_content import NoiseRecord, RunContent
from qmtl.experiments._robustness_run import plot_under_noise
from qmtl.plotting import inline_svg, style
from qmtl.tasks import Task
from qmtl.training import TaskPredictions, plot_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Shown", "curve_figures", "hardware_figure", "noise_figures", "prediction_figures"]

# Inches; two or three figures stand side by side on a screen, one on a telephone.
WIDE, SQUARE = (4.6, 3.4), (3.3, 3.1)
MOST_TARGETS = 6


@dataclass(frozen=True)
class Shown:
    """A figure and its run."""

    run: str
    svg: Markup


def curve_figures(runs: Sequence[RunContent]) -> list[list[Shown]]:
    """For each loss and main metric, a figure per run that has it; all runs share one scale."""
    panels: dict[tuple[str, str], dict[str, Callable[[Axes], Axes]]] = {}
    for content in runs:
        kept = int(content.run.results["best_epoch"])
        for split, metric, tasks in _wanted(content):
            draw = _curve(content, split, metric, tasks, kept)
            panels.setdefault((split, metric), {})[content.label] = draw
    return [
        _on_one_scale(drawn, f"{metric} on the {split} split")
        for (split, metric), drawn in panels.items()
    ]


def _wanted(content: RunContent) -> Iterator[tuple[str, str, list[str]]]:
    """Split, metric and tasks of each panel that the history has rows for."""
    names = [task.name for task in content.model.tasks]
    mains: dict[str, list[str]] = {}
    for task in content.model.tasks:
        mains.setdefault(task.main_metric, []).append(task.name)
    asked = [("train", "loss", names), ("validation", "loss", names)]
    asked += [("validation", metric, tasks) for metric, tasks in mains.items()]
    has = {(row["split"], row["metric"]) for row in content.history}
    yield from (one for one in asked if one[:2] in has)


def _curve(
    content: RunContent, split: str, metric: str, tasks: Sequence[str], kept: int
) -> "Callable[[Axes], Axes]":
    return lambda ax: plot_curves(
        content.history, ax, metric=metric, split=split, tasks=tasks, kept=kept
    )


def _on_one_scale(drawn: "Mapping[str, Callable[[Axes], Axes]]", what: str) -> list[Shown]:
    from matplotlib.figure import Figure

    with style():
        figures = {label: Figure(figsize=WIDE) for label in drawn}
        axes = [draw(figures[label].subplots()) for label, draw in drawn.items()]
        low, high = (pick(ax.get_ylim()[i] for ax in axes) for i, pick in ((0, min), (1, max)))
        for ax in axes:
            ax.set_ylim(low, high)
        return [Shown(label, inline_svg(f, f"{label}: {what}")) for label, f in figures.items()]


def prediction_figures(found: TaskPredictions, label: str) -> Iterator[Markup]:
    """Every plot of a task's predictions that fits its kind and its labels.

    Args:
        found: predictions and targets.
        label: of the run.
    """
    task, targets = found.task, found.targets
    if targets is None:
        return
    plots: dict[str, list[Callable[..., Axes]]] = {
        "binary": [plot_roc, plot_confusion, plot_calibration],
        "multiclass": [plot_confusion, plot_calibration],
        "multilabel": [plot_roc],
        "regression": [plot_regression],
    }
    for plot in plots[task.kind]:
        for number in range(_times(task)):
            more = {"target": number} if task.kind == "regression" else {}
            try:
                with style():
                    figure = _figure(legend=task.kind == "multilabel")
                    plot(task, found.predictions, targets, figure.subplots(), **more)
                    what = plot.__name__.removeprefix("plot_")
                    yield inline_svg(figure, f"{label}: {what} of {task.name}")
            except InvalidInputError:
                # Labels of one class, or none: there is nothing to draw.
                continue


def _times(task: Task) -> int:
    return min(task.n_outputs, MOST_TARGETS) if task.kind == "regression" else 1


def _figure(*, legend: bool = False) -> "Figure":
    """A small figure; it is higher where a long legend stands below the axes."""
    from matplotlib.figure import Figure

    return Figure(figsize=(SQUARE[0], 4.6) if legend else SQUARE)


def noise_figures(tasks: Sequence[Task], record: NoiseRecord) -> list[Markup]:
    """A figure per task: its main metric against the strength of the noise."""
    figures = []
    for task in tasks:
        if all(task.main_metric in one.metrics.get(task.name, {}) for one in record.found):
            with style():
                figure = _figure()
                plot_under_noise(record.found, task.name, task.main_metric, figure.subplots())
                figures.append(inline_svg(figure, f"{task.main_metric} of {task.name} under noise"))
    return figures


def hardware_figure(record: Mapping[str, Any]) -> Markup | None:
    """Measured against predicted values; None without such numbers."""
    rows = [
        row
        for row in record.get("table", [])
        if all(isinstance(row.get(key), int | float) for key in ("measured", "predicted"))
    ]
    if not rows:
        return None
    with style():
        figure = _figure(legend=len({row.get("task") for row in rows}) > 4)
        plot_measured(rows, figure.subplots())
        return inline_svg(figure, f"{record['name']}: measured against predicted")
