"""Commands on finished runs: list, evaluate, compare tasks, predict, report, export."""

import csv
import json
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from qmtl._io import print_table
from qmtl.cli._options import (
    Decimal,
    Delimiter,
    RunDirectory,
    Split,
    path_argument,
    path_option,
    read_inputs,
    read_label_table,
    targets_in,
)
from qmtl.cli._output import check_out, make_folder, show_metrics, write_out
from qmtl.errors import InvalidInputError, RunDirectoryError, near_paths


def runs(folder: Annotated[Path, path_argument("The folder of the runs.")] = Path("runs")) -> None:
    """List runs with their state, recipe, head, epochs and test score, the newest last.

    A run is finished, running (shown with its process), or stopped (shown with the command that
    continues it). The score is the mean of the tasks' main metrics on the test split. If it leaves
    out tasks (without a metric, or with an error among scores), it says how many tasks count.

    Examples of use:

    qmtl runs

    qmtl runs ~/experiments/runs
    """
    if not folder.is_dir():
        hint = near_paths(folder) or "; qmtl train RECIPE makes runs"
        raise RunDirectoryError(f"there is no folder {folder}{hint}")
    found = [path.parent for path in folder.glob("*/recipe.toml")]
    if (folder / "recipe.toml").is_file():
        found.append(folder)
    found.sort(key=lambda path: ((path / "recipe.toml").stat().st_mtime, path.name))
    if not found:
        print(f"no runs in {folder}")
        return
    columns = ("run", "state", "recipe", "head", "tasks", "epochs", "test", "metric")
    print_table(columns, (_run_row(path) for path in found))


def _run_row(path: Path) -> tuple[object, ...]:
    from qmtl.experiments import resume_command, training_process
    from qmtl.training import LOWER_IS_BETTER

    try:
        recipe = tomllib.loads((path / "recipe.toml").read_text(encoding="utf-8-sig"))
        head = recipe.get("head", {}).get("type", "quantum")
        about = [recipe.get("name", "run"), head]
    except (OSError, ValueError, AttributeError):
        return path, "damaged", "–", "–", "–", "–", "–", "recipe.toml cannot be read"
    try:
        results = json.loads((path / "results.json").read_text(encoding="utf-8"))
        test = results["metrics"]["test"]
        # The main metric of each task comes first; JSON keeps the order.
        mains = [next((k, v) for k, v in own.items() if k != "loss") for own in test.values()]
        names = {name for name, _ in mains}
        # An error depends on the labels' units, so do not average it with scores.
        counted = names if len(names) == 1 else names - set(LOWER_IS_BETTER)
        values = [value for name, value in mains if name in counted and value is not None]
        score = f"{sum(values) / len(values):.4f}" if values else "–"
        metric = names.pop() if len(names) == 1 else "mean of main metrics"
        if len(values) < len(mains):
            # For example, R² is undefined if all labels on the test split are equal.
            metric += f", {len(values)} of {len(mains)} tasks"
        return path, "finished", *about, len(test), results["epochs"], score, metric
    except FileNotFoundError:
        process = training_process(path)
        state = "stopped" if process is None else "running"
        note = process or resume_command(path)
        return path, state, *about, "–", _epochs(path), "–", note
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return path, "damaged", *about, "–", "–", "–", "results.json cannot be read"


def _epochs(path: Path) -> int:
    """Return the number of epochs that a run without results has completed."""
    try:
        with (path / "metrics.csv").open(encoding="utf-8", newline="") as file:
            return len({row["epoch"] for row in csv.DictReader(file)})
    except (OSError, KeyError, ValueError, csv.Error):
        return 0


def evaluate(
    run: RunDirectory,
    table: Annotated[
        Path | None, path_argument("CSV with inputs and labels, in place of the run's own data.")
    ] = None,
    split: Annotated[str | None, Option(help="train, validation or test. [test]")] = None,
    attack: Annotated[str | None, Option(help="Also evaluate under attack: fgsm or pgd.")] = None,
    epsilon: Annotated[
        float | None, Option(help="Radius of the attack, in units of the inputs. [0.03]")
    ] = None,
    steps: Annotated[int | None, Option(help="Steps of pgd. [5]")] = None,
    norm: Annotated[str | None, Option(help="Norm of the attack: linf or l2. [linf]")] = None,
    low: Annotated[float | None, Option(help="Lower limit of attacked inputs.")] = None,
    high: Annotated[float | None, Option(help="Upper limit of attacked inputs.")] = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
) -> None:
    """Evaluate a run's model on a split of its data or on another table, also under an attack.

    A table needs labels of one task at least, and may lack some. Its rows count by the column that
    the recipe names as weights, or equally.

    Examples of use:

    qmtl evaluate runs/seed1 --split validation

    qmtl evaluate runs/seed1 new.csv

    qmtl evaluate runs/seed1 --attack pgd --epsilon 0.03 --low 0 --high 1
    """
    from qmtl.data import Split as Rows
    from qmtl.experiments import Run
    from qmtl.training import baseline_metrics
    from qmtl.training import evaluate as metrics_of

    given = {"epsilon": epsilon, "steps": steps, "norm": norm, "low": low, "high": high}
    chosen = _attack(attack, {k: v for k, v in given.items() if v is not None})
    if table is not None and split is not None:
        raise InvalidInputError("--split is one of the run's own data; leave it out with a table")
    for name, value in (("delimiter", delimiter), ("decimal", decimal)):
        if table is None and value is not None:
            raise InvalidInputError(f"--{name} needs a table")
    opened = Run.read(run)
    others: dict[str, Any]
    if table is None:
        split = split or "test"
        data = opened.load_data(split)
        rows = data.splits[split]
        others = {"baseline": baseline_metrics(data, rows)}
        inputs = rows.inputs
    else:
        labels = read_label_table(opened, table, delimiter, decimal)
        inputs, _ = read_inputs(opened, table, delimiter, decimal=decimal, kept=labels.rows)
        # The run may have no metrics of a task that was added to it.
        others = {"test split": defaultdict(dict, opened.results["metrics"]["test"])}
    # An attack evaluates the model many times, so loading compiled kernels saves time.
    model = opened.load_model(len(inputs) if chosen is None else None)
    if table is not None:
        rows = Rows(
            inputs, targets_in(labels, table, model.tasks), sample_weight=labels.row_weights
        )
    if chosen is not None:
        name = f"{chosen.attack} {chosen.epsilon:g}"
        others = {name: metrics_of(model, rows, attack=chosen), **others}
    title = f"{opened.path}: {table or split}, {len(rows)} rows"
    show_metrics(title, metrics_of(model, rows), others)


def affinity(
    run: RunDirectory,
    split: Split = "validation",
    of: Annotated[str, Option(help="Differentiate labels (times logits) or losses.")] = "labels",
    by: Annotated[
        str, Option(help="With respect to: shared parameters, or features.")
    ] = "parameters",
    epochs: Annotated[
        int | None,
        Option(min=1, help="Train the recipe again for this many epochs. [use the run's model]"),
    ] = None,
    out: Annotated[Path | None, path_option("Table (.csv) or plot (.png, .svg, .pdf).")] = None,
) -> None:
    """Show which tasks' gradients agree on the shared parameters, by their cosines.

    Cosines are computed on rows with labels of both tasks. With few such rows, the verdict is that
    there is no evidence. The loss gradients of a trained model have no clear direction, so combine
    --of losses with --epochs 1 or 2.

    Examples of use:

    qmtl affinity runs/seed1

    qmtl affinity runs/seed1 --of losses --epochs 2

    qmtl affinity runs/seed1 --split train --out affinity.svg
    """
    from qmtl.experiments import Run, check_kind, run_affinity, write_affinity

    check_out(out)
    if out is not None:
        check_kind(out)
    opened = Run.read(run)
    found = run_affinity(opened, split, of=of, by=by, epochs=epochs)  # type: ignore[arg-type]
    if found.pairs.empty:
        raise InvalidInputError(f"the run {run} has one task only; affinity compares two")
    columns = ("tasks", "shared rows", "overlap", "cosine", "95% interval", "verdict")
    rows = []
    for row in found.pairs.itertuples():
        interval = (f"{row.cosine:+z.2f}", f"{row.low:+z.2f} to {row.high:+z.2f}")
        cosine = ("–", "–") if row.cosine != row.cosine else interval
        names = f"{row.first}, {row.second}"
        rows.append((names, row.shared_rows, f"{row.overlap:.0%}", *cosine, row.verdict))
    print_table(columns, rows, title=f"{opened.path}: gradient affinity on {split} rows")
    if out is not None:
        write_affinity(found, out)
        print(f"wrote {out}")


def _attack(name: str | None, options: dict[str, Any]) -> Any:
    """Return the attack that the options describe; None without an attack."""
    if name is None:
        for option in options:
            raise InvalidInputError(f"--{option} needs --attack fgsm or --attack pgd")
        return None
    if name == "fgsm" and "steps" in options:
        raise InvalidInputError("--steps needs --attack pgd: fgsm takes one step")
    from qmtl.methods import Attack

    return Attack(**options | {"attack": name})


def predict(
    run: RunDirectory,
    table: Annotated[Path, path_argument("CSV with the run's input columns.")],
    out: Annotated[Path | None, path_option("CSV to write; standard output by default.")] = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
) -> None:
    """Predict every task for the rows of a CSV file.

    The column "row" of the predictions counts rows from 0, without the header. Errors count rows as
    a spreadsheet does, with the header as row 1.

    Example: qmtl predict runs/seed1 new.csv --out predictions.csv
    """
    from qmtl._io import as_csv
    from qmtl.experiments import Run
    from qmtl.training import prediction_rows

    check_out(out)
    opened = Run.read(run)
    inputs, rows = read_inputs(opened, table, delimiter, decimal=decimal)
    model = opened.load_model(len(rows))
    # Rows count from 0, without the header, as in the files that training writes.
    predictions = prediction_rows(model, inputs, (rows.index - 2).tolist())
    write_out(out, as_csv(predictions))


def report(
    runs: Annotated[list[Path], path_argument("Run directories to show side by side.")],
    out: Annotated[
        Path | None,
        path_option("File to write. [RUN/report.html; for several runs, report.html here]"),
    ] = None,
) -> None:
    """Write a report: metrics, curves, predictions, circuit, plan, noise, hardware, recipe.

    The report is one HTML file without external resources. It replaces a file of the same name.

    Examples of use:

    qmtl report runs/seed1

    qmtl report runs/quantum runs/linear --out comparison.html
    """
    from qmtl.experiments import write_report

    default = runs[0] / "report.html" if len(runs) == 1 else Path("report.html")
    check_out(out)
    print(f"wrote {write_report(runs, default if out is None else out)}")


def export(
    run: RunDirectory,
    task: Annotated[
        list[str] | None, Option(metavar="NAME", help="Only this task; repeatable. [all tasks]")
    ] = None,
    symbolic: Annotated[
        bool, Option("--symbolic", help="Write weights as inputs, not as their trained values.")
    ] = False,
    onnx: Annotated[
        Path | None,
        path_option(
            "Write the whole model for inference: a file .onnx, or .pt2 for torch.export.",
            metavar="FILE",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        path_option("File, or a folder if each task has its own circuit. [standard output]"),
    ] = None,
) -> None:
    """Export a run's trained head as OpenQASM 3, with bound weights and symbolic features.

    Features are the encoding angles, in radians, that the encoder and the head's angle map compute
    from an input. If tasks share one register, each task has a separate circuit.

    --onnx exports the whole model, from inputs to predictions, for use without qmtl. Its inputs are
    the encoder's inputs: for a table, standardised numbers and categories as 0 and 1. The file's
    metadata describe them.

    Examples of use:

    qmtl export runs/seed1 --out head.qasm

    qmtl export runs/seed1 --task parity --symbolic

    qmtl export runs/seed1 --onnx model.onnx
    """
    from qmtl.heads import QuantumHead
    from qmtl.model import load

    model = load(run / "model")
    if onnx is not None:
        if task or symbolic or out is not None:
            raise InvalidInputError("--onnx cannot be combined with --task, --symbolic or --out")
        model.export(onnx)
        return
    head = model.head
    if not isinstance(head, QuantumHead):
        raise InvalidInputError(
            f"the head of {run} is a {type(head).__name__}; OpenQASM holds the circuit of a "
            f"QuantumHead"
        )
    names = task or list(head.circuit.registers)
    if head.circuit.layout == "partitioned" or len(names) == 1:
        write_out(out, head.to_qasm(names, bound=not symbolic))
        return
    if out is None:
        raise InvalidInputError(
            f"the tasks share a register, so that each has a circuit: give --out FOLDER, or one "
            f"--task of {', '.join(names)}"
        )
    make_folder(out)
    for number, name in enumerate(names):
        # A task's name may contain characters that a file name must not have.
        plain = "".join(letter if letter.isalnum() else "_" for letter in name)
        write_out(out / f"{number}-{plain}.qasm", head.to_qasm([name], bound=not symbolic))
