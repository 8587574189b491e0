"""The content of a report: what run directories contain, and tables made from it."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qmtl._html import listed, number
from qmtl.errors import InvalidInputError, RunDirectoryError, as_path
from qmtl.experiments._recipe import flatten
from qmtl.experiments._robustness import UnderNoise
from qmtl.experiments._run_folder import Run
from qmtl.model import MultiTaskModel, load
from qmtl.training import LOWER_IS_BETTER, TaskPredictions, read_predictions

Row = dict[str, Any]


@dataclass(frozen=True)
class RunContent:
    """A finished run with all parts of its report; parts that the run lacks are empty.

    The `label` is the run's unique name in the report. The `history` has the rows of
    `Result.history`; `predictions` are for the test split. `noise` holds metrics under noise of
    each strength, and `noise_how` the noise's settings; `hardware` holds runs on a backend.
    """

    label: str
    run: Run
    model: MultiTaskModel
    history: tuple[Row, ...]
    environment: Mapping[str, Any]
    predictions: Mapping[str, TaskPredictions]
    noise: tuple[UnderNoise, ...]
    noise_how: Mapping[str, Any]
    hardware: tuple[Row, ...]


def read_runs(paths: Sequence[str | Path]) -> list[RunContent]:
    """Read run directories, in the order given; raise as `write_report` does."""
    if isinstance(paths, str | Path) or not isinstance(paths, Iterable):
        raise InvalidInputError(f"paths must be a list of run directories, got {paths!r}")
    folders = [as_path(path) for path in paths]
    if not folders:
        raise InvalidInputError("a report needs at least one run directory")
    places = [folder.resolve() for folder in folders]
    names = [place.name for place in places]
    found = []
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise InvalidInputError(f"the run {folder} is given twice")
        label = place.name if names.count(place.name) == 1 else str(folder)
        found.append(_read(label, folder))
    return found


def _read(label: str, folder: Path) -> RunContent:
    run = Run.read(folder)
    model = load(folder / "model")
    shown = folder / "predictions.csv"
    tests = sorted((folder / "hardware").glob("*.json"))
    return RunContent(
        label,
        run,
        model,
        _history(folder / "metrics.csv"),
        _environment(folder / "environment.json"),
        read_predictions(shown, model.tasks) if shown.is_file() else {},
        *_noise(folder / "noise"),
        tuple(_hardware(path) for path in tests),
    )


def _hardware(path: Path) -> Row:
    record = _json(path)
    rows, columns = record.get("table", []), record.get("metrics", {})
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RunDirectoryError(f"{path} is damaged: its table must be a list of rows")
    if not isinstance(columns, dict) or not all(
        isinstance(one, dict) and all(isinstance(values, dict) for values in one.values())
        for one in columns.values()
    ):
        raise RunDirectoryError(f"{path} is damaged: its metrics must be by source, task and name")
    return {"name": path.stem} | record


def _environment(path: Path) -> Row:
    content = _json(path)
    notes = content.get("data_notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise RunDirectoryError(f"{path} is damaged: data_notes must be a list of texts")
    return content


def _json(path: Path) -> Row:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise RunDirectoryError(f"{path} is damaged: it holds no table")
    return content


def _csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            header, rows = reader.fieldnames or (), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunDirectoryError(f"{path} cannot be read: {error}") from None
    short = any(row.get(column) is None for row in rows for column in columns)
    if short or not set(columns) <= set(header):
        raise RunDirectoryError(f"{path} is damaged: its columns must be {', '.join(columns)}")
    return rows


def _history(path: Path) -> tuple[Row, ...]:
    rows = _csv(path, ("epoch", "split", "task", "metric", "value"))
    try:
        # Version 0.1 counted from 0.
        first = min((int(row["epoch"]) for row in rows), default=1)
        return tuple(
            row | {"epoch": int(row["epoch"]) + 1 - first, "value": float(row["value"] or "nan")}
            for row in rows
        )
    except ValueError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from None


def _noise(folder: Path) -> tuple[tuple[UnderNoise, ...], Row]:
    path, how = folder / "noise.csv", folder / "noise.json"
    if not path.is_file():
        return (), {}
    metrics: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    try:
        for row in _csv(path, ("scale", "extrapolation", "task", "metric", "value")):
            under = metrics.setdefault((row["scale"], row["extrapolation"]), {})
            under.setdefault(row["task"], {})[row["metric"]] = float(row["value"] or "nan")
        found = [UnderNoise(float(scale), method, of) for (scale, method), of in metrics.items()]
    except ValueError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from None
    # Version 0.1 wrote no noise.json.
    return tuple(found), _json(how) if how.is_file() else {}


def _side_by_side(name: str, columns: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return one row per key: the key in the column `name`, and a column of values per run."""
    keys = dict.fromkeys(key for own in columns.values() for key in own)
    return [
        {name: key}
        | {label: "–" if own.get(key) is None else str(own[key]) for label, own in columns.items()}
        for key in keys
    ]


def summary_rows(runs: Sequence[RunContent]) -> list[dict[str, str]]:
    """Return one row per property, with a column per run."""
    return _side_by_side("", {content.label: _summary(content) for content in runs})


def _summary(content: RunContent) -> dict[str, object]:
    recipe, results = content.run.recipe, content.run.results
    training, counts, tasks = recipe.training, results["parameters"], content.model.tasks
    path = getattr(recipe.data, "path", None)
    return {
        "data": f"{recipe.data.source}: {Path(path).name}" if path else recipe.data.source,
        "tasks": f"{len(tasks):,}: {listed((task.name for task in tasks), 6)}",
        "head": recipe.head.type,
        "circuit": recipe.circuit.design,
        "encoder": recipe.encoder.type,
        "head parameters": number(counts["head"]),
        "encoder parameters": number(counts["encoder"]),
        "losses combined by": training.aggregator or training.scalarizer or "mean",
        "seed of training": str(training.seed),
        "epochs": f"{results['epochs']:,} in {results['seconds']:.1f} s",
        "kept": f"epoch {results['best_epoch']:,}",
    }


def overview(
    metrics: Mapping[str, Mapping[str, float | None]],
    others: Mapping[str, Mapping[str, Mapping[str, float | None]]],
) -> list[dict[str, object]]:
    """Return a row per head: the mean of main metrics, and where the model is better or worse.

    The mean is over tasks with a defined main metric for which larger is better. A row gives their
    number if it differs from the model's. A single task gives no rows.

    `metrics` holds the model's metrics by task and name; the first that is not ``loss`` is the main
    one. `others` holds metrics of other heads, or of the constant prediction, by head.

    Example:
        >>> rows = overview({"a": {"f1": 0.8}, "b": {"f1": 0.5}}, {"linear": {"a": {"f1": 0.7}}})
        >>> rows[1]["model better on"]
        '1: a'
    """
    mains = {task: next(m for m in values if m != "loss") for task, values in metrics.items()}
    if len(mains) < 2:
        return []
    rows: list[dict[str, object]] = []
    of = 0
    for name, own in {"model": metrics, **others}.items():
        values = {task: own.get(task, {}).get(main) for task, main in mains.items()}
        up = [v for t, v in values.items() if mains[t] not in LOWER_IS_BETTER and _defined(v)]
        mean = math.fsum(up) / len(up) if up else math.nan  # type: ignore[arg-type]
        of = len(up) if name == "model" else of
        text = number(mean) + (f" (of {len(up)})" if len(up) != of else "")
        row: dict[str, object] = {"": name, f"mean of {of}": text}
        better: dict[str, list[str]] = {"better": [], "worse": []}
        for task, other in values.items():
            value = metrics[task][mains[task]]
            if _defined(value) and _defined(other) and value != other:
                more = (value or 0) > (other or 0)
                better["better" if more != (mains[task] in LOWER_IS_BETTER) else "worse"] += [task]
        for word, tasks in better.items():
            text = f"{len(tasks)}: {listed(tasks, 6)}" if tasks else "none"
            row[f"model {word} on"] = "" if name == "model" else text
        rows.append(row)
    return rows


def metric_table(
    runs: Sequence[RunContent], split: str
) -> tuple[list[tuple[str, list[str]]], list[tuple[str, str, list[tuple[str, bool]]]]]:
    """Return metrics of models, rivals and constant predictions on a split.

    The first list has each run's label with the names of its columns. The second has a row per task
    and metric: for each column, the cell's text, and whether it has the best value of all heads.
    """
    columns: list[tuple[str, dict[str, Any]]] = []
    groups = []
    for content in runs:
        results = content.run.results
        own = {"model": results["metrics"][split]}
        own |= {name: metrics[split] for name, metrics in results["rivals"].items()}
        own["constant"] = results["baselines"][split]
        groups.append((content.label, list(own)))
        columns += own.items()
    wanted = _wanted(metrics for _, metrics in columns)
    order = list(dict.fromkeys(task for task, _ in wanted))
    rows = [
        (task, metric, _cells(metric, [(name, m.get(task, {}).get(metric)) for name, m in columns]))
        for task, metric in sorted(wanted, key=lambda key: order.index(key[0]))
    ]
    return groups, rows


def _wanted(columns: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], None]:
    """Return all pairs of task and metric of the columns, in order of first occurrence."""
    return dict.fromkeys(
        (task, metric)
        for metrics in columns
        for task, values in metrics.items()
        for metric in values
        if metric != "loss"
    )


def _cells(metric: str, values: Sequence[tuple[str, float | None]]) -> list[tuple[str, bool]]:
    sign = -1 if metric in LOWER_IS_BETTER else 1
    rivals = [sign * v for name, v in values if name != "constant" and _defined(v)]  # type: ignore[operator]
    best = max(rivals) if len(rivals) > 1 else math.inf
    return [
        (number(v), name != "constant" and _defined(v) and sign * (v or 0) == best)
        for name, v in values
    ]


def _defined(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def recipe_rows(runs: Sequence[RunContent]) -> list[dict[str, str]]:
    """Return the recipe keys in which the runs differ, with a column per run."""
    rows = _side_by_side("key", {content.label: content.run.recipe.flat() for content in runs})
    return [row for row in rows if len({row[content.label] for content in runs}) > 1]


def environment_rows(runs: Sequence[RunContent]) -> list[dict[str, str]]:
    """Return versions, machine and seeds, with a column per run."""
    rows = _side_by_side("", {one.label: dict(flatten(one.environment)) for one in runs})
    kept = [row for row in rows if row[""] not in ("data_notes", "labels_sha256")]
    return [row | {"": row[""].removeprefix("packages.")} for row in kept]


def hardware_metrics(record: Mapping[str, Any]) -> list[dict[str, object]]:
    """Return metrics on the samples that a backend measured: the backend's and the simulator's."""
    columns = record.get("metrics", {})
    return [
        {"task": task, "metric": metric}
        | {name: metrics.get(task, {}).get(metric) for name, metrics in columns.items()}
        for task, metric in _wanted(columns.values())
    ]
