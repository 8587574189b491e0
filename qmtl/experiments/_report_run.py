"""What a report reads of a run directory."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qmtl.errors import InvalidInputError, RunDirectoryError
from qmtl.experiments._robustness import UnderNoise
from qmtl.experiments._run import Run
from qmtl.model import MultiTaskModel, load
from qmtl.training import TaskPredictions, read_predictions

__all__ = ["NoiseRecord", "RunContent", "read_runs"]

Row = dict[str, Any]


@dataclass(frozen=True)
class NoiseRecord:
    """What ``qmtl noise RUN`` wrote: how, and the metrics under each strength."""

    how: Mapping[str, Any]
    found: tuple[UnderNoise, ...]


@dataclass(frozen=True)
class RunContent:
    """A finished run with everything that a report shows of it.

    Attributes:
        label: what the report calls it; no other run of the report has the same.
        run: directory, recipe and results.
        model: the trained model.
        history: metrics per epoch, as in `Result.history`.
        environment: versions, seeds and machine.
        predictions: on the test split, by task; empty if ``predictions.csv`` was taken away.
        noise: None unless the run was evaluated under noise.
        hardware: what ran on a backend, oldest name first.
    """

    label: str
    run: Run
    model: MultiTaskModel
    history: tuple[Row, ...]
    environment: Mapping[str, Any]
    predictions: Mapping[str, TaskPredictions]
    noise: NoiseRecord | None
    hardware: tuple[Row, ...]


def read_runs(paths: Sequence[str | Path]) -> list[RunContent]:
    """Read run directories, in the order given.

    Raises:
        InvalidInputError: for no run, or one that is given twice.
        RunDirectoryError: for a folder that is no finished run, or a file in it that is damaged.
    """
    folders = [Path(path) for path in paths]
    if not folders:
        raise InvalidInputError("a report needs at least one run directory")
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise InvalidInputError(f"the run {folder} is given twice")
    names = [place.name for place in places]
    labels = [
        name if names.count(name) == 1 else str(folder)
        for name, folder in zip(names, folders, strict=True)
    ]
    return [_read(label, folder) for label, folder in zip(labels, folders, strict=True)]


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
        _json(folder / "environment.json"),
        read_predictions(shown, model.tasks) if shown.is_file() else {},
        _noise(folder / "noise"),
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
        return tuple(
            row | {"epoch": int(row["epoch"]), "value": float(row["value"] or "nan")}
            for row in rows
        )
    except ValueError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from None


def _noise(folder: Path) -> NoiseRecord | None:
    path = folder / "noise.csv"
    if not path.is_file():
        return None
    metrics: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    try:
        for row in _csv(path, ("scale", "extrapolation", "task", "metric", "value")):
            under = metrics.setdefault((row["scale"], row["extrapolation"]), {})
            under.setdefault(row["task"], {})[row["metric"]] = float(row["value"] or "nan")
        found = tuple(
            UnderNoise(float(scale), method, values) for (scale, method), values in metrics.items()
        )
    except ValueError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from None
    # Folders written before noise.json was do not say how.
    how = _json(folder / "noise.json") if (folder / "noise.json").is_file() else {}
    return NoiseRecord(how, found)
