"""Make run directories of new models, and gradient affinities, from finished runs."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qmtl._io import write_json, write_text
from qmtl.errors import InvalidInputError, check_integer
from qmtl.experiments._build import build_model
from qmtl.experiments._run_folder import Run, count_parameters, machine, write_recipe
from qmtl.model import MultiTaskModel

if TYPE_CHECKING:
    from qmtl.methods import Affinity

KINDS = (".csv", ".png", ".svg", ".pdf")


def write_derived(
    folder: Path, runs: Sequence[Run], model: MultiTaskModel, about: Mapping[str, Any]
) -> Run:
    """Write a model made from `runs` as a run directory that every command can read.

    Recipe and curves come from the first run. Each task's metrics come from the first run with the
    task. `about` holds further keys for ``results.json``, which say how the model was made.
    """
    first = runs[0]
    for name in ("metrics.csv", "inputs.json"):
        if (first.path / name).is_file():
            shutil.copyfile(first.path / name, folder / name)
    write_recipe(folder, first.recipe)
    write_json(folder / "environment.json", machine() | {"made_of": [str(r.path) for r in runs]})
    model.save(folder / "model")
    # These results are of the first run's encoder and rivals, and not of the new model.
    results = {k: v for k, v in first.results.items() if k not in ("utilisation", "collapse")}
    results |= {"parameters": count_parameters(model), "rivals": {}}
    for key in ("metrics", "baselines"):
        results[key] = {split: dict(tasks) for split, tasks in first.results[key].items()}
        for split, tasks in results[key].items():
            for run in runs[1:]:
                tasks |= {k: v for k, v in run.results[key][split].items() if k not in tasks}
    write_json(folder / "results.json", results | dict(about))
    return Run.read(folder)


def run_affinity(
    run: Run,
    split: str = "validation",
    *,
    of: Literal["labels", "losses"] = "labels",
    by: Literal["parameters", "features"] = "parameters",
    epochs: int | None = None,
) -> "Affinity":
    """Call `qmtl.methods.affinity` for a run's model and a split of its data.

    With `epochs`, a new model is first trained by the run's recipe for this many epochs.

    Raises:
        InvalidInputError: for an unknown split, or less than one epoch.
    """
    from qmtl.methods import affinity

    data = run.load_data(split)
    if epochs is None:
        model = run.load_model()
    else:
        from qmtl.training import fit

        epochs = check_integer("epochs", epochs)
        model = build_model(run.recipe, data)
        changes = {"max_epochs": epochs, "patience": None, "restore_best": False}
        fit(model, data, run.recipe.training.model_copy(update=changes), progress=False)
    return affinity(model, data, split=split, of=of, by=by)


def write_affinity(found: "Affinity", path: Path) -> None:
    """Write the pairs as .csv, or the heat map as .png, .svg or .pdf; refuse other kinds."""
    check_kind(path)
    if path.suffix.lower() == ".csv":
        write_text(path, found.pairs.to_csv(index=False, lineterminator="\n"))
        return
    from matplotlib.figure import Figure

    from qmtl.plotting import save_figure, style

    with style():
        side = 3.2 + 0.45 * len(found.names)
        figure = Figure(figsize=(side + 1, side), layout="constrained")
        found.plot(figure.subplots())
    save_figure(figure, path)


def check_kind(path: Path) -> None:
    """Raise `InvalidInputError` if affinities cannot be written to a file of this kind."""
    if path.suffix.lower() not in KINDS:
        raise InvalidInputError(f"affinities are written as {', '.join(KINDS)}, got {path}")
