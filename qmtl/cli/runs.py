"""``qmtl runs``: the run directories in a folder, with their state."""

import csv
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from qmtl.cli._options import expanded
from qmtl.cli._output import print_table
from qmtl.errors import RunDirectoryError

__all__ = ["runs"]


def runs(
    folder: Annotated[
        Path, typer.Argument(callback=expanded, help="The folder that the runs are in.")
    ] = Path("runs"),
) -> None:
    """List runs with their state, recipe, head, epochs and test score, the newest last.

    The score is the mean of the tasks' main metrics on the test split.

    Examples of use:

    qmtl runs

    qmtl runs ~/experiments/runs
    """
    if not folder.is_dir():
        raise RunDirectoryError(f"there is no folder {folder}; qmtl train RECIPE makes runs")
    found = [path.parent for path in folder.glob("*/recipe.toml")]
    if (folder / "recipe.toml").is_file():
        found.append(folder)
    found.sort(key=lambda path: ((path / "recipe.toml").stat().st_mtime, path.name))
    if not found:
        print(f"no runs in {folder}")
        return
    columns = ("run", "state", "recipe", "head", "tasks", "epochs", "test", "metric")
    print_table(columns, (_row(path) for path in found))


def _row(path: Path) -> tuple[object, ...]:
    try:
        recipe = tomllib.loads((path / "recipe.toml").read_text(encoding="utf-8-sig"))
        head = recipe.get("head", {}).get("type", "quantum")
        about = [recipe.get("name", "run"), head]
    except (OSError, ValueError, AttributeError):
        return path, "damaged", "–", "–", "–", "–", "–", "recipe.toml cannot be read"
    try:
        results = json.loads((path / "results.json").read_text(encoding="utf-8"))
        test = results["metrics"]["test"]
        # The main metric of each task is the first; JSON keeps their order.
        mains = [next((k, v) for k, v in own.items() if k != "loss") for own in test.values()]
        values = [value for _, value in mains if value is not None]
        score = f"{sum(values) / len(values):.4f}" if values else "–"
        names = {name for name, _ in mains}
        metric = names.pop() if len(names) == 1 else "mean of main metrics"
        return path, "finished", *about, len(test), results["epochs"], score, metric
    except FileNotFoundError:
        return path, "unfinished", *about, "–", _epochs(path), "–", _how_to_go_on(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return path, "damaged", *about, "–", "–", "–", "results.json cannot be read"


def _epochs(path: Path) -> Any:
    """Epochs that an unfinished run has completed."""
    try:
        with (path / "metrics.csv").open(encoding="utf-8", newline="") as file:
            return len({row["epoch"] for row in csv.DictReader(file)})
    except (OSError, KeyError, ValueError, csv.Error):
        return 0


def _how_to_go_on(path: Path) -> str:
    return f"qmtl train --resume {path}"
