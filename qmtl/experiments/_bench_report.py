"""The tables of a benchmark: for the terminal, as Markdown and as CSV."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from qmtl._html import listed, rendered
from qmtl._io import as_csv, write_text
from qmtl.errors import check_type, unknown_name
from qmtl.experiments._bench_summary import REFERENCE, UNSCALED, BenchSummary, HeadScores
from qmtl.experiments._build import head_look
from qmtl.experiments._recipe import SINGLE_TASK, Recipe
from qmtl.experiments._statistics import estimate, holm
from qmtl.plotting import axes_or_new, count_axis, panels, plain, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BASELINE = "majority or mean"
SCORES, FOREST = "score_against_parameters.png", "forest.png"
# A difference with a smaller p-value is reported as better or worse.
LEVEL = 0.05
# Columns of the table of heads that the terminal does not show.
HIDDEN = ("total parameters", "p (Holm)", "kept epoch", "setting")
Row = dict[str, Any]


def write_bench(summary: BenchSummary, recipe: Recipe, folder: Path) -> None:
    """Write the tables as Markdown and CSV, the plots and the resolved recipe into a folder.

    This function first removes tables and plots of an earlier benchmark from the folder.
    """
    for name in ("summary.csv", "metrics.csv", "seeds.csv", SCORES, FOREST):
        (folder / name).unlink(missing_ok=True)
    write_text(folder / "table.md", as_markdown(summary, recipe))
    if summary.heads:
        write_text(folder / "summary.csv", summary_csv(summary))
        write_text(folder / "metrics.csv", metrics_csv(summary))
        write_text(folder / "seeds.csv", seeds_csv(summary))
    write_text(folder / "recipe.toml", recipe.as_toml())
    write_plots(summary, folder)


def show_bench(summary: BenchSummary, console: Console) -> None:
    """Print a table of the heads, the failures, and the verdict."""
    from rich.table import Table

    if summary.heads:
        title = f"{summary.name}: test scores × 100, mean ± 95% interval over seeds"
        table = Table(title=title, title_justify="left")
        rows = [{k: row[k] for k in row if k not in HIDDEN} for row in _head_rows(summary)]
        for key in rows[0]:
            justify: Any = "left" if key == "head" else "right"
            table.add_column(key.removeprefix("head "), justify=justify, overflow="fold")
        for row in rows:
            table.add_row(*row.values())
        console.print(table)
    for failure in summary.failures:
        console.print(f"failed: {failure.label}: {failure.error}")
    for line in verdict(summary):
        console.print(line)


def verdict(summary: BenchSummary) -> list[str]:
    """Return one sentence per head that compares it with the reference; empty without it."""
    n = len(summary.tasks)
    scored = sum(summary.has_score(task) for task in summary.tasks)
    over = "" if n == 1 else f", mean over {n if scored == n else f'{scored} of {n}'} tasks"
    lines = []
    for head, comparison in summary.compare().items():
        test, p = comparison.test, comparison.corrected
        line = f"{head} against {REFERENCE}: {test.difference:+.1f} points{over}"
        if math.isnan(p):
            lines.append(f"{line}; one seed does not say whether this is chance")
            continue
        word = "no difference shown" if p >= LEVEL else _side(test.difference.mean)
        line += f": {word} (p {_p(p) if p < 0.001 else f'= {_p(p)}'} after Holm's correction)"
        if n > 1:
            each = {task: summary.compare_task(task)[head] for task in summary.tasks}
            corrected = holm({task: test.t_test for task, test in each.items()})
            clear = [task for task, value in corrected.items() if value < LEVEL]
            for side in ("better", "worse"):
                names = [task for task in clear if _side(each[task].difference.mean) == side]
                if names:
                    line += f"; {side} on {listed(names, 6)} (Holm's correction over the tasks)"
        lines.append(line)
    return lines


def _side(difference: float) -> str:
    return "better" if difference > 0 else "worse"


def as_markdown(summary: BenchSummary, recipe: Recipe) -> str:
    """Return the report: heads, tasks, further metrics, failures, and the method."""
    tables: dict[str, Any] = {}
    if summary.heads:
        tables = {
            "heads": _head_rows(summary),
            "tasks": _task_rows(summary),
            "metrics": _metric_rows(summary),
            "missed": _below_the_floor(summary),
            "some": summary.heads[0].some,
        }
    return rendered(
        "bench.md.j2",
        summary=summary,
        recipe=recipe,
        verdict=verdict(summary),
        reference=REFERENCE,
        single_task=SINGLE_TASK,
        first=summary.first_seed,
        **tables,
    )


def _head_rows(summary: BenchSummary) -> list[Row]:
    comparisons, transfer = summary.compare(), summary.transfer()
    rows = []
    for scores in summary.heads:
        row: Row = {
            "head": scores.head,
            "head parameters": f"{scores.some.head_parameters:,}",
            "total parameters": f"{scores.some.total_parameters:,}",
            "mean over tasks": f"{estimate(scores.means()):.1f}",
        }
        if comparisons:
            found = comparisons.get(scores.head)
            row[f"against {REFERENCE}"] = f"{found.test.difference:+.1f}" if found else "–"
            row["p (Holm)"] = _p(found.corrected) if found else "–"
        if transfer:
            change = transfer.get(scores.head)
            row["Δm (%)"] = f"{change:+.1f}" if change else "–"
        row["ECE"] = f"{estimate(scores.calibration()):.1f}"
        row["step (ms)"] = f"{1000 * scores.step_seconds:.1f}"
        row["kept epoch"] = f"{scores.best_epoch:.0f}"
        values = scores.setting.values()
        texts = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
        row["setting"] = ", ".join(texts) or "–"
        rows.append(row)
    return rows


def _task_rows(summary: BenchSummary) -> list[Row]:
    titles = {task: f"{task} ({metric})" for task, metric in summary.tasks.items()}

    def row(name: str, scores_on: Callable[[str], list[float]]) -> Row:
        values = {title: f"{estimate(scores_on(task)):.1f}" for task, title in titles.items()}
        return {"head": name} | values

    rows = [row(scores.head, scores.scores) for scores in summary.columns]
    return [*rows, row(BASELINE, summary.heads[0].baseline)]


def _below_the_floor(summary: BenchSummary) -> list[str]:
    """Return tasks on which a head does not beat the constant prediction, but the probe does."""
    probe, found = summary.probe, []
    if probe is None:
        return []

    def misses(scores: HeadScores, task: str) -> bool:
        floor = estimate(scores.baseline(task)).mean
        return estimate(scores.scores(task)).mean <= floor < estimate(probe.scores(task)).mean

    for scores in summary.heads:
        tasks = [task for task in summary.tasks if misses(scores, task)]
        if tasks:
            found.append(f"`{scores.head}`: {', '.join(tasks)}")
    return found


def _metric_rows(summary: BenchSummary) -> list[Row]:
    rows = []
    for task in summary.tasks:
        for metric in summary.heads[0].metrics[task]:
            row: Row = {"task": task, "metric": metric}
            for scores in summary.columns:
                mean = estimate(scores.scores(task, metric)).mean
                digits = ".3g" if metric in UNSCALED else ".1f"
                row[scores.head] = "–" if math.isnan(mean) else format(mean, digits)
            rows.append(row)
    return rows


def _p(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def summary_csv(summary: BenchSummary) -> str:
    """Return one row per head, in full precision."""
    comparisons, transfer = summary.compare(), summary.transfer()
    rows = []
    for scores in summary.heads:
        mean, ece = estimate(scores.means()), estimate(scores.calibration())
        found, change = comparisons.get(scores.head), transfer.get(scores.head)
        rows.append(
            {
                "head": scores.head,
                "head_parameters": scores.some.head_parameters,
                "total_parameters": scores.some.total_parameters,
                "mean": mean.mean,
                "mean_interval": mean.half_width,
                "difference": found.test.difference.mean if found else "",
                "difference_interval": found.test.difference.half_width if found else "",
                "t_test_p": found.test.t_test if found else "",
                "t_test_p_holm": found.corrected if found else "",
                "wilcoxon_p": found.test.wilcoxon if found else "",
                "delta_m_percent": change.mean if change else "",
                "delta_m_interval": change.half_width if change else "",
                "ece": ece.mean,
                "ece_interval": ece.half_width,
                "step_seconds": scores.step_seconds,
                "best_epoch": scores.best_epoch,
                "seeds": mean.n,
                "setting": "; ".join(f"{key}={value}" for key, value in scores.setting.items()),
            }
        )
    return as_csv(rows)


def metrics_csv(summary: BenchSummary) -> str:
    """Return one row per head, task and metric: mean and interval of the test scores."""
    return as_csv(
        {
            "head": scores.head,
            "task": task,
            "metric": metric,
            "main": metric == summary.tasks[task],
            "mean": (found := estimate(scores.scores(task, metric))).mean,
            "interval": found.half_width,
            "seeds": found.n,
        }
        for scores in summary.columns
        for task in summary.tasks
        for metric in scores.metrics[task]
    )


def seeds_csv(summary: BenchSummary) -> str:
    """Return one row per head, task, metric and seed, for further statistics."""
    return as_csv(
        {"head": scores.head, "task": task, "metric": metric, "seed": seed, "test": value}
        for scores in summary.columns
        for task in summary.tasks
        for metric in scores.metrics[task]
        for seed, value in enumerate(scores.scores(task, metric), summary.first_seed)
    )


def plot_score_against_parameters(summary: BenchSummary, ax: "Axes | None" = None) -> "Axes":
    """Plot mean test scores against trained head parameters, with 95% intervals.

    Heads with the same number of parameters are drawn side by side.
    """
    check_type("summary", summary, BenchSummary)
    ax = axes_or_new(ax)
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
    count_axis(ax, "x")
    ax.set_xlabel("head parameters (trained); equal numbers are drawn side by side")
    ax.set_ylabel("mean over tasks of the main test metric × 100")
    ax.set_title(f"{summary.name}: score against head parameters")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def plot_forest(summary: BenchSummary, task: str | None, ax: "Axes | None" = None) -> "Axes":
    """Plot each head's difference from the reference, with 95% intervals, paired by seed.

    With `task` None, the differences are those of the mean over tasks.
    """
    check_type("summary", summary, BenchSummary)
    tasks = summary.heads[0].some.main_metrics
    if task not in (None, *tasks):
        raise unknown_name("task", str(task), tasks)
    ax = axes_or_new(ax)
    if task is None:
        tests = {head: comparison.test for head, comparison in summary.compare().items()}
    else:
        tests = summary.compare_task(task)
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
    """Write the plots as PNG files; without the reference, there is no forest plot."""
    figures = {}
    if summary.heads:
        scores = partial(plot_score_against_parameters, summary)
        figures[folder / SCORES] = panels([scores], 1, (8, 4.5))
    if summary.compare():
        forests = [partial(plot_forest, summary, task) for task in (None, *summary.tasks)]
        height = 1.4 + 0.24 * len(summary.compare())
        figure = panels(forests, min(3, len(forests)), (3.6, height), sharey=True)
        for ax in figure.axes:
            ax.set_xlabel("")
        figure.supxlabel(f"difference from {REFERENCE}, points (95% interval over paired seeds)")
        figure.suptitle(f"{summary.name}: heads against {REFERENCE}")
        figures[folder / FOREST] = figure
    for path, figure in figures.items():
        save_figure(figure, path)
    return list(figures)
