"""Commands that make a model: train a recipe; from finished runs add a task, or merge models."""

from pathlib import Path
from typing import Annotated

from typer import Option

from qmtl._io import print_table
from qmtl.cli._options import (
    Decimal,
    Delimiter,
    Overrides,
    RunDirectory,
    SeedOption,
    complete_head,
    complete_recipe,
    label_task,
    path_argument,
    path_option,
    read_inputs,
    read_label_table,
    targets_in,
    with_seed,
)
from qmtl.cli._output import show_metrics, show_run
from qmtl.errors import InvalidInputError, unknown_name


def adapt(
    run: RunDirectory,
    table: Annotated[Path, path_argument("CSV with the run's input columns and the target.")],
    target: Annotated[str, Option(metavar="NAME[=KIND]", help="Column of the new task's labels.")],
    out: Annotated[Path | None, path_option("Run directory to make. [runs/<name>-<time>]")] = None,
    method: Annotated[
        list[str] | None, Option(help="ridge, logistic, smart, block or vector; repeatable. [all]")
    ] = None,
    seed: Annotated[int, Option(min=0, help="Seed of folds and initial weights.")] = 0,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
) -> None:
    """Add a task to a trained model, in a new run directory, without changing other tasks.

    Example: qmtl adapt runs/seed1 labels.csv --target sold=binary --out runs/with-sold
    """
    from qmtl.adaptation import METHODS
    from qmtl.experiments import Run, new_folder, write_derived

    opened = Run.read(run)
    name, _, kind = target.partition("=")
    if not name:
        raise InvalidInputError(f"--target: expected NAME or NAME=KIND, got {target!r}")
    labels = read_label_table(opened, table, delimiter, decimal)
    inputs, _ = read_inputs(opened, table, delimiter, [name], decimal, labels.rows)
    task = label_task(labels, table, name, kind or None)
    model = opened.load_model()
    rows = inputs, targets_in(labels, table, [task])[name]
    larger = model.adapt(
        task, rows, sample_weight=labels.row_weights, methods=method or METHODS, seed=seed
    )
    note = larger.head.notes[name]
    folder = new_folder(opened.recipe, out)
    write_derived(folder, [opened], larger, {"adapted": larger.head.notes})
    losses = sorted(note["losses"].items(), key=lambda pair: pair[1])
    print(f"{name}: {task.kind}, {note['rows']} labels; loss on held-out rows:")
    print_table(("method", "loss"), ((key, f"{value:.4f}") for key, value in losses))
    scores = ", ".join(f"{key} {value:.4f}" for key, value in note["scores"].items())
    unit = ", labels standardised" if task.kind == "regression" else ""
    chosen = f"{note['method']}, {note['parameters']} parameters"
    print(f"chosen: {chosen}; on held-out rows{unit}: {scores}")
    print(f"the outputs of the other tasks did not change ({note['seconds']:.1f} s)")
    print(f"run directory: {folder}")


def merge(
    runs: Annotated[list[Path], path_argument("Run directories of the models to merge.")],
    out: Annotated[Path | None, path_option("Run directory to make. [runs/<name>-<time>]")] = None,
    method: Annotated[
        str, Option(help="arithmetic, disjoint, projective, concrete or atm.")
    ] = "arithmetic",
    base: Annotated[
        Path | None, path_option("The model before training, or its run. [the mean of the models]")
    ] = None,
    scale: Annotated[float | None, Option(help="Factor of the changes' sum. [1 / models]")] = None,
    rounds: Annotated[int, Option(min=1, help="(atm) Rounds of tuning and merging.")] = 5,
    seed: Annotated[int, Option(min=0, help="Seed of batches and masks.")] = 0,
    keep_last: Annotated[
        bool, Option("--keep-last", help="Keep each model's last encoder layer and encoding.")
    ] = False,
) -> None:
    """Merge trained models of different tasks into one, in a new run directory.

    Encoders and encodings are merged; every task keeps its block. The methods concrete and atm load
    the data of the runs' recipes. Metrics are computed on each run's test split. If several runs
    have a task, the new run directory keeps the metrics of the first run.

    Example: qmtl merge runs/nih runs/covid --out runs/both --method atm
    """
    from qmtl.experiments import Run, new_folder, write_derived
    from qmtl.merging import METHODS, WITH_DATA
    from qmtl.merging import merge as merged_model
    from qmtl.model import load
    from qmtl.training import evaluate

    opened = [Run.read(run) for run in runs]
    if method not in METHODS:
        raise unknown_name("--method:", method, METHODS)
    models = [run.load_model() for run in opened]
    start = None
    if base is not None:
        start = load(base / "model" if (base / "model").is_dir() else base)
    sets = [run.load_data() for run in opened]
    model = merged_model(
        models,
        method,
        base=start,
        scale=scale,
        data=sets if method in WITH_DATA else None,
        rounds=rounds,
        seed=seed,
        keep_last=keep_last,
    )
    found = [{s: evaluate(model, rows) for s, rows in data.splits.items()} for data in sets]
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for own in found:
        for split, tasks in own.items():
            for name, values in tasks.items():
                metrics.setdefault(split, {}).setdefault(name, values)
    folder = new_folder(opened[0].recipe, out)
    about = {"merged": {"method": method, "runs": [str(run.path) for run in opened]}}
    write_derived(folder, opened, model, {"metrics": metrics} | about)
    for run, own in zip(opened, found, strict=True):
        before = {"before merging": run.results["metrics"]["test"]}
        show_metrics(f"{run.path}: test", own["test"], before)
    print(f"run directory: {folder}")


def train(
    recipe: Annotated[
        str | None,
        path_argument(
            "A built-in recipe (digits), or a path to a .toml file.", autocompletion=complete_recipe
        ),
    ] = None,
    out: Annotated[Path | None, path_option("New run directory. [runs/NAME-TIME]")] = None,
    set_: Overrides = None,
    seed: SeedOption = None,
    compare: Annotated[
        list[str] | None,
        Option(
            metavar="HEAD",
            help="Also train a head of this type, such as linear; repeatable.",
            autocompletion=complete_head,
        ),
    ] = None,
    resume: Annotated[
        Path | None, path_option("Continue a run, or train it longer.", metavar="DIR")
    ] = None,
    report: Annotated[bool, Option("--report", help="Also write RUN/report.html.")] = False,
) -> None:
    """Train a recipe and show the result per task.

    Examples of use:

    qmtl train digits

    qmtl train digits --seed 1 --compare linear --out runs/seed1

    qmtl train --resume runs/seed1 --set training.max_epochs=80
    """
    from qmtl.experiments import is_first_process, read_recipe, resume_run, start_run

    if (recipe is None) == (resume is None):
        raise InvalidInputError("give a recipe, or --resume DIR, and not both")
    if resume is not None:
        if compare or out or seed is not None:
            raise InvalidInputError(
                "--resume takes its recipe from the run, without --compare, --out and --seed; use "
                "--set for more epochs or another learning rate"
            )
        results = resume / "results.json"
        before = results.stat().st_mtime_ns if results.is_file() else None
        run = resume_run(resume, set_ or ())
        if before == results.stat().st_mtime_ns:
            done = run.results["epochs"]
            wanted = read_recipe(resume / "recipe.toml", set_ or ()).training.max_epochs
            if set_ and wanted is not None and wanted <= done:
                print(
                    f"the run {resume} has trained {done} epochs already, and max_epochs is "
                    f"{wanted}; nothing was trained"
                )
            else:
                print(f"the run {resume} had finished already; nothing was trained")
    else:
        assert recipe is not None
        overrides = with_seed(set_, seed)
        if compare:
            overrides.append(f"compare={compare!r}")
        run = start_run(read_recipe(recipe, overrides), out)
    if is_first_process():
        show_run(run)
        if report:
            from qmtl.experiments import write_report

            print(f"report: {write_report([run.path], run.path / 'report.html')}")
