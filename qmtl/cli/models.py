"""What makes a new model of finished runs: a task more, or several models in one."""

from pathlib import Path
from typing import Annotated

import typer

from qmtl._io import print_table
from qmtl.cli._options import Delimiter, RunDirectory, expanded
from qmtl.cli._tables import read_inputs
from qmtl.errors import InvalidInputError

__all__ = ["adapt"]


def adapt(
    run: RunDirectory,
    table: Annotated[
        Path,
        typer.Argument(callback=expanded, help="CSV with the run's input columns and the target."),
    ],
    target: Annotated[
        str, typer.Option(metavar="NAME[=KIND]", help="The column of the new task's labels.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(callback=expanded, help="Run directory to make. [runs/<name>-<time>]"),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="ridge, logistic, smart or block; repeatable. [all, to choose from]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of folds and initial weights.")] = 0,
    delimiter: Delimiter = None,
) -> None:
    """Add a task to a trained model, without touching the others: a run directory more.

    Example: qmtl adapt runs/seed1 labels.csv --target sold=binary --out runs/with-sold
    """
    from qmtl.adaptation import METHODS
    from qmtl.experiments import Run, new_folder, write_derived
    from qmtl.tasks import infer_task

    opened = Run.read(run)
    name, _, kind = target.partition("=")
    if not name:
        raise InvalidInputError(f"--target: expected NAME or NAME=KIND, got {target!r}")
    inputs, rows = read_inputs(opened, table, delimiter, labels=[name])
    labels = rows[name].tolist()
    task = infer_task(name, labels, kind or None)
    model = opened.load_model()
    larger = model.adapt(task, (inputs, labels), methods=method or METHODS, seed=seed)
    note = larger.head.notes[name]
    folder = new_folder(opened.recipe, out)
    write_derived(folder, [opened], larger, {"adapted": larger.head.notes})
    losses = sorted(note["losses"].items(), key=lambda pair: pair[1])
    print(f"{name}: {task.kind}, {note['rows']} labels; loss on rows left out:")
    print_table(("method", "loss"), ((key, f"{value:.4f}") for key, value in losses))
    scores = ", ".join(f"{key} {value:.4f}" for key, value in note["scores"].items())
    print(f"chosen: {note['method']}, {note['parameters']} parameters; on rows left out: {scores}")
    print(f"the outputs of the other tasks did not change ({note['seconds']:.1f} s)")
    print(f"run directory: {folder}")
