"""Tables of a report: summary, metrics beside baselines and rivals, recipes, versions."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qmtl._html import listed, number
from qmtl.experiments._report_run import RunContent

__all__ = [
    "LOWER_IS_BETTER",
    "Cell",
    "MetricTable",
    "environment_rows",
    "hardware_metrics",
    "metric_table",
    "recipe_rows",
    "summary_rows",
]

LOWER_IS_BETTER = ("loss", "mse", "mae", "ece")
Row = dict[str, object]


@dataclass(frozen=True)
class Cell:
    """A number of the metrics' table; `best` if no head of any run does better."""

    text: str
    best: bool


@dataclass(frozen=True)
class MetricTable:
    """Metrics on a split: a row per task and metric, columns grouped by run.

    Attributes:
        groups: runs, each with the names of its columns.
        rows: task, metric, and the cells of all groups in order.
    """

    groups: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]


def summary_rows(runs: Sequence[RunContent]) -> list[Row]:
    """A row per fact, a column per run."""
    facts = [_summary(content) for content in runs]
    return [
        {"": name} | {c.label: own[name] for c, own in zip(runs, facts, strict=True)}
        for name in facts[0]
    ]


def _summary(content: RunContent) -> Row:
    recipe, results = content.run.recipe, content.run.results
    training = recipe.training
    combined = training.aggregator or training.scalarizer
    counts = results["parameters"]
    return {
        "data": recipe.data.source,
        "tasks": f"{len(content.model.tasks):,}: "
        + listed((task.name for task in content.model.tasks), 6),
        "head": recipe.head.type,
        "circuit": recipe.circuit.design,
        "encoder": recipe.encoder.type,
        "head parameters": number(counts["head"]),
        "encoder parameters": number(counts["encoder"]),
        "losses combined by": combined or "sum",
        "seed of training": str(training.seed),
        "epochs": f"{results['epochs']:,} in {results['seconds']:.1f} s",
        "kept": f"epoch {results['best_epoch'] + 1:,}",
    }


def metric_table(runs: Sequence[RunContent], split: str) -> MetricTable:
    """Models, rivals and constant predictions on a split."""
    columns: list[tuple[str, dict[str, Any]]] = []
    groups = []
    for content in runs:
        results = content.run.results
        own = {"model": results["metrics"][split]}
        own |= {name: metrics[split] for name, metrics in results["rivals"].items()}
        own["constant"] = results["baselines"][split]
        groups.append((content.label, tuple(own)))
        columns += own.items()
    wanted = dict.fromkeys(
        (task, metric)
        for _, metrics in columns
        for task, values in metrics.items()
        for metric in values
        if metric != "loss"
    )
    rows = [
        (task, metric, _cells(metric, [(name, m.get(task, {}).get(metric)) for name, m in columns]))
        for task, metric in sorted(wanted, key=lambda key: list(_tasks(columns)).index(key[0]))
    ]
    return MetricTable(tuple(groups), tuple(rows))


def _tasks(columns: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, None]:
    return dict.fromkeys(task for _, metrics in columns for task in metrics)


def _cells(metric: str, values: Sequence[tuple[str, float | None]]) -> tuple[Cell, ...]:
    sign = -1 if metric in LOWER_IS_BETTER else 1
    rivals = [sign * v for name, v in values if name != "constant" and _defined(v)]  # type: ignore[operator]
    best = max(rivals, default=math.inf)
    alone = len(rivals) < 2
    return tuple(
        Cell(
            number(value),
            not alone and name != "constant" and _defined(value) and sign * (value or 0) == best,
        )
        for name, value in values
    )


def _defined(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def recipe_rows(runs: Sequence[RunContent]) -> list[dict[str, str]]:
    """Keys of the recipes in which the runs differ, a column per run."""
    flat = [dict(_flat(c.run.recipe.model_dump(mode="json", exclude_none=True))) for c in runs]
    keys = dict.fromkeys(key for recipe in flat for key in recipe)
    return [
        {"key": key} | {c.label: r.get(key, "–") for c, r in zip(runs, flat, strict=True)}
        for key in keys
        if len({recipe.get(key) for recipe in flat}) > 1
    ]


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def environment_rows(runs: Sequence[RunContent]) -> list[dict[str, str]]:
    """Versions, machine and seeds, a column per run."""
    flat = [dict(_flat(content.environment)) for content in runs]
    keys = dict.fromkeys(key for one in flat for key in one if key != "data_notes")
    return [
        {"": key.removeprefix("packages.")}
        | {c.label: one.get(key, "–") for c, one in zip(runs, flat, strict=True)}
        for key in keys
    ]


def hardware_metrics(record: Mapping[str, Any]) -> list[Row]:
    """Metrics of the samples that a backend measured, beside those of the simulator."""
    columns = record.get("metrics", {})
    wanted = dict.fromkeys(
        (task, metric)
        for metrics in columns.values()
        for task, values in metrics.items()
        for metric in values
        if metric != "loss"
    )
    return [
        {"task": task, "metric": metric}
        | {name: metrics.get(task, {}).get(metric) for name, metrics in columns.items()}
        for task, metric in wanted
    ]
