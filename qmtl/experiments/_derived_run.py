"""Run directories of models that were made from trained models, not trained by a recipe."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qmtl._io import write_json, write_text
from qmtl.experiments._recipe import Recipe
from qmtl.experiments._run import Run, default_folder, machine, new_run_folder
from qmtl.model import MultiTaskModel


def new_folder(recipe: Recipe, path: Path | None) -> Path:
    """Make a run directory; None makes ``runs/<name>-<time>``.

    Raises:
        RunDirectoryError: if it exists, or cannot be made.
    """
    return default_folder(recipe) if path is None else new_run_folder(path)


def write_derived(
    folder: Path, runs: Sequence[Run], model: MultiTaskModel, about: Mapping[str, Any]
) -> Run:
    """Write a model made from runs as a run directory that every command can read.

    The recipe and the curves are those of the first run. The metrics are those of all runs, task by
    task; if several runs have a task, those of the first.

    Args:
        folder: the new run directory.
        runs: the runs that the model was made from.
        model: the model.
        about: further keys for ``results.json``, which say how the model was made.
    """
    first = runs[0]
    for name in ("metrics.csv", "inputs.json"):
        if (first.path / name).is_file():
            shutil.copyfile(first.path / name, folder / name)
    write_text(folder / "recipe.toml", first.recipe.as_toml())
    made_of = [str(run.path) for run in runs]
    write_json(folder / "environment.json", machine() | {"made_of": made_of})
    model.save(folder / "model")
    results = dict(first.results)
    for key in ("metrics", "baselines"):
        results[key] = {split: dict(first.results[key][split]) for split in first.results[key]}
        for split, tasks in results[key].items():
            for run in runs[1:]:
                for task, values in run.results[key][split].items():
                    tasks.setdefault(task, values)
    results["parameters"] = {
        "encoder": sum(p.numel() for p in model.encoder.parameters()),
        "head": sum(p.numel() for p in model.head.parameters()),
    }
    results["rivals"] = {}
    # Of the first run's encoder.
    results.pop("utilisation", None)
    results.pop("collapse", None)
    write_json(folder / "results.json", results | dict(about))
    return Run.read(folder)
