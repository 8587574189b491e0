"""Gradient affinity of a run's tasks: from its model, or from a short training of its recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qmtl._io import write_text
from qmtl.errors import InvalidInputError
from qmtl.experiments._build import build_model
from qmtl.experiments._run import Run

if TYPE_CHECKING:
    from qmtl.methods import Affinity

KINDS = (".csv", ".png", ".svg", ".pdf")


def run_affinity(
    run: Run,
    split: str = "validation",
    *,
    of: Literal["labels", "losses"] = "labels",
    by: Literal["parameters", "features"] = "parameters",
    epochs: int | None = None,
) -> "Affinity":
    """`qmtl.methods.affinity` for a run's model and data.

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
    if epochs < 1:
        raise InvalidInputError(f"epochs must be at least 1, got {epochs}")
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
