"""What is made from finished runs: run directories of other models, gradient affinities."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qmtl._io import write_json, write_text
from qmtl.errors import InvalidInputError, check_integer
from qmtl.experiments._build import build_model
from qmtl.experiments._recipe import Recipe
from qmtl.experiments._run import (
    Run,
    count_parameters,
    default_folder,
    machine,
    new_run_folder,
    write_recipe,
)
from qmtl.model import MultiTaskModel

if TYPE_CHECKING:
    from qmtl.methods import Affinity


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
    write_recipe(folder, first.recipe)
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
    results["parameters"] = count_parameters(model)
    results["rivals"] = {}
    # These describe the first run's encoder, not the new one.
    results.pop("utilisation", None)
    results.pop("collapse", None)
    write_json(folder / "results.json", results | dict(about))
    return Run.read(folder)


KINDS = (".csv", ".png", ".svg", ".pdf")


def run_affinity(
    run: Run,
    split: str = "validation",
    *,
    of: Literal["labels", "losses"] = "labels",
    by: Literal["parameters", "features"] = "parameters",
    epochs: int | None = None,
) -> "Affinity":
    """Call `qmtl.methods.affinity` for a run's model and data.

    Args:
        run: a finished run.
        split: the split whose rows to use.
        of: see `qmtl.methods.affinity`.
        by: see `qmtl.methods.affinity`.
        epochs: number of epochs for which to train the run's recipe anew before the gradients are
            compared; None for the run's model.

    Raises:
        InvalidInputError: for an unknown split, or less than one epoch.
    """
    from qmtl.methods import affinity

    data = run.load_data(split)
    if epochs is None:
        return affinity(run.load_model(), data, split=split, of=of, by=by)
    epochs = check_integer("epochs", epochs)
    from qmtl.training import fit

    model = build_model(run.recipe, data)
    changes = {"max_epochs": epochs, "patience": None, "restore_best": False}
    fit(model, data, run.recipe.training.model_copy(update=changes), progress=False)
    return affinity(model, data, split=split, of=of, by=by)


def write_affinity(found: "Affinity", path: Path) -> None:
    """Write the pairs as .csv, or the heat map as .png, .svg or .pdf.

    Raises:
        InvalidInputError: for another kind of file.
    """
    check_kind(path)
    if path.suffix.lower() == ".csv":
        write_text(path, found.pairs.to_csv(index=False, lineterminator="\n"))
        return
    from matplotlib.figure import Figure

    from qmtl.plotting import save_figure, style

    with style():
        side = 3.2 + 0.45 * len(found.names)
        ax = Figure(figsize=(side + 1, side), layout="constrained").subplots()
        figure = found.plot(ax).figure
    save_figure(figure, path)  # type: ignore[arg-type]


def check_kind(path: Path) -> None:
    """Raise if affinities cannot be written to a file of this kind.

    Raises:
        InvalidInputError: if so; the error names the possible kinds.
    """
    if path.suffix.lower() not in KINDS:
        raise InvalidInputError(f"affinities are written as {', '.join(KINDS)}, got {path}")
