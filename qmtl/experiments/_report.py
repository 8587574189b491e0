"""The report of one or several runs: one HTML file that fetches nothing and runs no script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from qmtl._html import facts, hardware_facts, number, table
from qmtl._io import __version__, write_text
from qmtl.circuit import circuit_drawing, circuit_facts, task_rows
from qmtl.experiments._report_content import (
    LOWER_IS_BETTER,
    RunContent,
    environment_rows,
    hardware_metrics,
    metric_table,
    overview,
    read_runs,
    recipe_rows,
    summary_rows,
)
from qmtl.experiments._report_figures import (
    curve_figures,
    hardware_figure,
    noise_figures,
    prediction_figures,
)
from qmtl.experiments._robustness import NONE, UnderNoise
from qmtl.heads import QuantumHead
from qmtl.simulators import Explanation
from qmtl.tasks import Task

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["render_report", "write_report"]

# With figures of more tasks, browsers scroll the page slowly.
MOST_TASKS = 24
MOST_HARDWARE_ROWS = 60


def write_report(paths: Sequence[str | Path], out: str | Path) -> Path:
    """Write the report of finished runs as one HTML file, atomically.

    Args:
        paths: run directories, shown side by side in this order.
        out: the file; one of that name is replaced.

    Returns:
        The file.

    Raises:
        InvalidInputError: for an empty list, or a run that is given twice.
        RunDirectoryError: for a folder that is not a finished run, or a file in it that is damaged.
    """
    text = render_report(read_runs(paths))
    write_text(Path(out), text)
    return Path(out)


def render_report(runs: Sequence[RunContent]) -> str:
    """The report as text."""
    tasks = {task.name: task for content in runs for task in content.model.tasks}
    template = _environment().get_template("report.html.j2")
    return template.render(
        css=Markup((resources.files("qmtl.experiments") / "templates" / "report.css").read_text()),
        version=__version__,
        runs=runs,
        summary=summary_rows(runs),
        metrics={split: metric_table(runs, split) for split in ("test", "validation", "train")},
        overviews=[(content.label, _overview(content)) for content in runs],
        lower_is_better=LOWER_IS_BETTER,
        curves=curve_figures(runs),
        predictions=_predictions(runs, list(tasks.values())[:MOST_TASKS]),
        hidden_tasks=max(0, len(tasks) - MOST_TASKS),
        circuits=[_circuit(content, runs) for content in _distinct(runs)],
        plans=_plans(runs),
        noises=[_noise(content) for content in runs if content.noise is not None],
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
    """Title of the task to run to figures."""
    found = {
        f"{task.name} ({task.kind})": {
            content.label: list(prediction_figures(content.predictions[task.name], content.label))
            for content in runs
            if task.name in content.predictions
        }
        for task in tasks
    }
    return {title: own for title, own in found.items() if any(own.values())}


def _quantum(content: RunContent) -> bool:
    return isinstance(content.model.head, QuantumHead)


def _distinct(runs: Sequence[RunContent]) -> list[RunContent]:
    """The first run with each circuit."""
    first: dict[Any, RunContent] = {}
    for content in runs:
        if _quantum(content):
            first.setdefault(content.model.head.circuit, content)
    return list(first.values())


def _circuit(content: RunContent, runs: Sequence[RunContent]) -> Part:
    circuit = content.model.head.circuit
    users = [c.label for c in runs if _quantum(c) and c.model.head.circuit == circuit]
    title = f"Circuit of {', '.join(users)}" if len(runs) > 1 else ""
    per_task = table(task_rows(circuit), len(circuit.tasks))
    return Part(title, (circuit_drawing(circuit), facts(circuit_facts(circuit)), per_task))


def _plans(runs: Sequence[RunContent]) -> list[Part]:
    users: dict[Explanation, list[str]] = {}
    for content in runs:
        if _quantum(content):
            plan = content.model.head.explain(content.run.recipe.training.batch_size)
            users.setdefault(plan, []).append(content.label)
    return [Part(", ".join(labels), plan.html_parts()) for plan, labels in users.items()]


def _noise(content: RunContent) -> Part:
    record = content.noise
    assert record is not None
    tasks = content.model.tasks
    how = {key: _words(value) for key, value in record.how.items() if value is not None}
    rows: list[dict[str, object]] = [
        {"task": task.name, "metric": task.main_metric}
        | {
            _column(one): one.metrics.get(task.name, {}).get(task.main_metric)
            for one in record.found
        }
        for task in tasks
    ]
    figures = noise_figures(tasks[:MOST_TASKS], record)
    return Part(content.label, (facts(how), table(rows)), tuple(figures))


def _column(one: UnderNoise) -> str:
    return f"×{one.scale:g}" if one.method == NONE else f"{one.method} extrapolation"


def _hardware(label: str, record: Mapping[str, Any]) -> Part:
    rows = [
        {str(key).replace("_", " "): value for key, value in row.items()}
        for row in record.get("table", [])
        if isinstance(row, dict)
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


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("qmtl.experiments", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"table": table, "number": number}
    return environment
