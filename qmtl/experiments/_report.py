"""The report of runs: one HTML file without scripts, which loads nothing from elsewhere."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from qmtl._html import facts, hardware_facts, rendered, table
from qmtl._io import __version__, write_text
from qmtl.circuit import HeadCircuit, circuit_parts
from qmtl.errors import InvalidInputError, as_path
from qmtl.experiments._prediction_plots import (
    plot_calibration,
    plot_confusion,
    plot_measured,
    plot_regression,
    plot_roc,
)
from qmtl.experiments._report_content import (
    RunContent,
    environment_rows,
    hardware_metrics,
    metric_table,
    overview,
    read_runs,
    recipe_rows,
    summary_rows,
)
from qmtl.experiments._robustness import NONE, UnderNoise, plot_under_noise
from qmtl.heads import QuantumHead
from qmtl.plotting import inline_svg, panels
from qmtl.simulators import Explanation
from qmtl.tasks import Task
from qmtl.training import LOWER_IS_BETTER, TaskPredictions, plot_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# With figures of more tasks, browsers scroll the page slowly.
MOST_TASKS = 24
MOST_HARDWARE_ROWS = 60
MOST_TARGETS = 6
# In inches: two or three figures fit side by side on a screen, and one on a telephone. A tall
# figure has space for a long legend below the axes.
WIDE, SQUARE, TALL = (4.6, 3.4), (3.3, 3.1), (3.3, 4.6)


def write_report(paths: Sequence[str | Path], out: str | Path) -> Path:
    """Write the report of finished runs, side by side, as one HTML file; return the file's path.

    An existing file is replaced.

    Raises:
        InvalidInputError: for an empty list, or a run that is given twice.
        RunDirectoryError: for a folder that is not a finished run, or a file in it that is damaged.
    """
    target = as_path(out, "out")
    write_text(target, render_report(read_runs(paths)))
    return target


def render_report(runs: Sequence[RunContent]) -> str:
    """Return the report as text."""
    tasks = {task.name: task for content in runs for task in content.model.tasks}
    return rendered(
        "report.html.j2",
        css=Markup((resources.files("qmtl.experiments") / "templates" / "report.css").read_text()),
        version=__version__,
        runs=runs,
        summary=summary_rows(runs),
        metrics={split: metric_table(runs, split) for split in ("test", "validation", "train")},
        overviews=[(content.label, _overview(content)) for content in runs],
        lower_is_better=LOWER_IS_BETTER,
        curves=curve_figures(runs),
        predictions=_predictions(runs, list(tasks.values())[:MOST_TASKS]),
        weighted=any(getattr(content.run.recipe.data, "weights", None) for content in runs),
        hidden_tasks=max(0, len(tasks) - MOST_TASKS),
        circuits=_circuits(runs),
        plans=_plans(runs),
        experts=[_experts(content) for content in runs if "utilisation" in content.run.results],
        noises=[_noise(content) for content in runs if content.noise],
        hardware=[_hardware(c.label, record) for c in runs for record in c.hardware],
        differences=recipe_rows(runs) if len(runs) > 1 else [],
        environment=environment_rows(runs),
    )


def _overview(content: RunContent) -> list[dict[str, object]]:
    results = content.run.results
    others = {name: metrics["test"] for name, metrics in results["rivals"].items()}
    others["constant"] = results["baselines"]["test"]
    return overview(results["metrics"]["test"], others)


@dataclass(frozen=True)
class Part:
    """A heading with tables, drawings and figures below it."""

    title: str
    parts: tuple[Markup, ...] = ()
    figures: tuple[Markup, ...] = ()


def _predictions(
    runs: Sequence[RunContent], tasks: Sequence[Task]
) -> dict[str, dict[str, list[Markup]]]:
    """Return figures by the task's title and the run's label."""
    found = {
        f"{task.name} ({task.kind})": {
            content.label: list(prediction_figures(content.predictions[task.name], content.label))
            for content in runs
            if task.name in content.predictions
        }
        for task in tasks
    }
    return {title: own for title, own in found.items() if any(own.values())}


def _circuits(runs: Sequence[RunContent]) -> list[Part]:
    users: dict[HeadCircuit, list[str]] = {}
    for content in runs:
        if isinstance(content.model.head, QuantumHead):
            users.setdefault(content.model.head.circuit, []).append(content.label)
    return [
        Part(f"Circuit of {', '.join(labels)}" if len(runs) > 1 else "", circuit_parts(circuit))
        for circuit, labels in users.items()
    ]


def _plans(runs: Sequence[RunContent]) -> list[Part]:
    users: dict[Explanation, list[str]] = {}
    for content in runs:
        if isinstance(content.model.head, QuantumHead):
            plan = content.model.head.explain(content.run.recipe.training.batch_for(0))
            users.setdefault(plan, []).append(content.label)
    return [Part(", ".join(labels), plan.html_parts()) for plan, labels in users.items()]


def _experts(content: RunContent) -> Part:
    """Show how tasks use experts, with a warning for each collapsed expert."""
    results = content.run.results
    rows: list[dict[str, object]] = [
        {"task": task} | {name: f"{share:.1%}" for name, share in own.items()}
        for task, own in results["utilisation"].items()
    ]
    warnings = Markup().join(
        Markup('<p class="warning">Warning: {}.</p>').format(text)
        for text in results.get("collapse", [])
    )
    return Part(content.label, (warnings, table(rows)))


def _noise(content: RunContent) -> Part:
    tasks = content.model.tasks
    how = {key: _words(value) for key, value in content.noise_how.items() if value is not None}
    rows: list[dict[str, object]] = []
    for task in tasks:
        row: dict[str, object] = {"task": task.name, "metric": task.main_metric}
        for one in content.noise:
            plain = f"×{one.scale:g}" if one.method == NONE else f"{one.method} extrapolation"
            row[plain] = one.metrics.get(task.name, {}).get(task.main_metric)
        rows.append(row)
    figures = noise_figures(tasks[:MOST_TASKS], content.noise)
    return Part(content.label, (facts(how), table(rows)), tuple(figures))


def _hardware(label: str, record: Mapping[str, Any]) -> Part:
    rows = [
        {str(key).replace("_", " "): value for key, value in row.items()}
        for row in record.get("table", [])
    ]
    figure = hardware_figure(record)
    tables = (
        facts(hardware_facts(record)),
        table(hardware_metrics(record)),
        table(rows[:MOST_HARDWARE_ROWS], len(rows)),
    )
    title = f"{label}: {record.get('backend', 'backend')}, {record['name']}"
    return Part(title, tables, () if figure is None else (figure,))


def _words(value: object) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {part}" for key, part in value.items()) or "–"
    return value


def curve_figures(runs: Sequence[RunContent]) -> list[list[tuple[str, Markup]]]:
    """Return one figure per run for each loss and main metric, on one scale for all runs."""
    panels: dict[tuple[str, str], list[tuple[RunContent, list[str]]]] = {}
    for content in runs:
        for split, metric, tasks in _wanted(content):
            panels.setdefault((split, metric), []).append((content, tasks))
    return [_on_one_scale(split, metric, drawn) for (split, metric), drawn in panels.items()]


def _wanted(content: RunContent) -> Iterator[tuple[str, str, list[str]]]:
    """Return split, metric and tasks of each panel for which the history has rows."""
    names = [task.name for task in content.model.tasks]
    mains: dict[str, list[str]] = {}
    for task in content.model.tasks:
        mains.setdefault(task.main_metric, []).append(task.name)
    asked = [("train", "loss", names), ("validation", "loss", names)]
    asked += [("validation", metric, tasks) for metric, tasks in mains.items()]
    has = {(row["split"], row["metric"]) for row in content.history}
    yield from (one for one in asked if one[:2] in has)


def _on_one_scale(
    split: str, metric: str, drawn: Sequence[tuple[RunContent, list[str]]]
) -> list[tuple[str, Markup]]:
    figures = {}
    for content, tasks in drawn:
        kept = int(content.run.results["best_epoch"])
        draw = partial(plot_curves, content.history, metric=metric, split=split)
        figures[content.label] = panels([partial(draw, tasks=tasks, kept=kept)], 1, WIDE)
    axes = [ax for figure in figures.values() for ax in figure.axes]
    limits = [ax.get_ylim() for ax in axes]
    for ax in axes:
        ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    what = f"{metric} on the {split} split"
    return [(label, inline_svg(one, f"{label}: {what}")) for label, one in figures.items()]


def prediction_figures(found: TaskPredictions, label: str) -> Iterator[Markup]:
    """Yield the plots that suit a task's kind and labels; `label` is the run's."""
    task, targets = found.task, found.targets
    if targets is None:
        return
    plots: dict[str, list[Callable[..., Axes]]] = {
        "binary": [plot_roc, plot_confusion, plot_calibration],
        "multiclass": [plot_confusion, plot_calibration],
        "multilabel": [plot_roc],
        "regression": [
            partial(plot_regression, target=target)
            for target in range(min(task.n_outputs, MOST_TARGETS))
        ],
    }
    for plot in plots[task.kind]:
        what = getattr(plot, "func", plot).__name__.removeprefix("plot_")
        draw = partial(plot, task, found.predictions, targets)
        try:
            figure = panels([draw], 1, TALL if task.kind == "multilabel" else SQUARE)
            yield inline_svg(figure, f"{label}: {what} of {task.name}")
        except InvalidInputError:
            # Without labels, or with labels of a single class, a plot raises this error.
            continue


def noise_figures(tasks: Sequence[Task], found: Sequence[UnderNoise]) -> list[Markup]:
    """Plot each task's main metric against the strength of the noise."""
    figures = []
    for task in tasks:
        metric = task.main_metric
        if all(metric in one.metrics.get(task.name, {}) for one in found):
            figure = panels([partial(plot_under_noise, found, task.name, metric)], 1, SQUARE)
            figures.append(inline_svg(figure, f"{metric} of {task.name} under noise"))
    return figures


def hardware_figure(record: Mapping[str, Any]) -> Markup | None:
    """Plot measured against predicted values; return None if the record has none."""
    rows = [
        row
        for row in record.get("table", [])
        if all(isinstance(row.get(key), int | float) for key in ("measured", "predicted"))
    ]
    if not rows:
        return None
    size = TALL if len({row.get("task") for row in rows}) > 4 else SQUARE
    figure = panels([partial(plot_measured, rows)], 1, size)
    return inline_svg(figure, f"{record['name']}: measured against predicted")
