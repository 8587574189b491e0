"""``qmtl ibm``: a trained run's model on IBM's devices, their fake versions, and Aer."""

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Context, Exit, Option, Typer

from qmtl._html import number
from qmtl._io import print_table
from qmtl.cli._options import RunDirectory, Split, path_argument, path_option
from qmtl.cli._output import show_metrics, terminal_width
from qmtl.errors import InvalidInputError, near_paths, nearest, unknown_name

if TYPE_CHECKING:
    from qmtl.data import Split as Rows
    from qmtl.hardware import Estimate, HardwareResult, Ledger
    from qmtl.model import MultiTaskModel

app = Typer(
    help="Measure a trained model on IBM Quantum, on fake backends and on Aer.",
    no_args_is_help=True,
)
# Options that are allowed for a run in the ledger.
GOING_ON = ("run", "max_qpu_seconds", "resubmit", "wait", "ledger")
Name = Annotated[str, Argument(metavar="NAME", help="A hardware run's name, see qmtl ibm list.")]
LedgerFile = Annotated[
    Path | None, path_option("[the user's; or QMTL_LEDGER]", "--ledger", metavar="FILE")
]
Backend = Annotated[str, Option(help="ibm_fez, fake_fez, aer, …; see qmtl ibm backends.")]
Samples = Annotated[int, Option(min=1, help="The first rows of the split.")]
Shots = Annotated[int, Option(min=1, help="Measurements of each sample.")]
Tasks = Annotated[str | None, Option(metavar="A,B,...", help="Only these tasks.")]
MaxSeconds = Annotated[
    float | None, Option("--max-qpu-seconds", min=0, help="Refuse a longer run.")
]
Set = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="KEY=VALUE",
        help="Further settings: primitive, mode, mitigation, resilience, twirl_gates, "
        "twirl_readout, decoupling, max_execution_time, max_shots, layout, seed; repeatable.",
    ),
]


@app.command()
def backends(
    local: Annotated[bool, Option("--local", help="Only backends without an account.")] = False,
) -> None:
    """List the account's devices with their queues, and the backends that need no account.

    Example: qmtl ibm backends
    """
    from qmtl.hardware import Client, backend_names

    try:
        for state in [] if local else Client.of(None).backends():
            queue = f"{state.pending} jobs wait, {state.status}"
            print(f"{state.name}: {state.qubits} qubits, {queue}")
    finally:  # also after an error of the account
        names = f"here, without an account: {', '.join(backend_names())}"
        print(fill(names, terminal_width() or len(names)))


@app.command()
def estimate(
    run: RunDirectory,
    backend: Backend = "fake_fez",
    split: Split = "test",
    samples: Samples = 16,
    shots: Shots = 4096,
    tasks: Tasks = None,
    max_qpu_seconds: MaxSeconds = None,
    set_: Set = None,
) -> None:
    """Estimate the resources to measure a run's model, without sending anything.

    Example: qmtl ibm estimate runs/seed1 --backend fake_fez --samples 16
    """
    from qmtl.hardware import prepare

    settings = settings_of(shots, set_ or [], max_qpu_seconds)
    model, rows = open_run(run, split, samples)
    prepared = prepare(model, rows.inputs, backend, tasks=_tasks(tasks), settings=settings)
    print(f"{'backend':<17}  {prepared.backend}\n{prepared.estimate}")
    _show_notes(prepared.estimate)


@app.command()
def submit(
    context: Context,
    run: Annotated[str, path_argument("A run directory, or the name of a hardware run.")],
    backend: Backend = "fake_fez",
    split: Split = "test",
    samples: Samples = 16,
    shots: Shots = 4096,
    tasks: Tasks = None,
    max_qpu_seconds: MaxSeconds = None,
    set_: Set = None,
    again: Annotated[bool, Option("--again/--not-again", help="Measure once more.")] = False,
    resubmit: Annotated[
        bool, Option("--resubmit", help="Send failed or cancelled jobs again.")
    ] = False,
    wait: Annotated[bool, Option("--wait", help="Wait for the results, and show them.")] = False,
    ledger: LedgerFile = None,
) -> None:
    """Send a run's model to a backend; repeat the command after an interruption.

    No job is sent twice: the ledger records all jobs, and the service finds them by their tags.

    Examples of use:

    qmtl ibm submit runs/seed1 --backend ibm_fez --samples 16 --max-qpu-seconds 60

    qmtl ibm submit runs/seed1 --backend fake_fez --wait
    """
    from qmtl.hardware import Ledger
    from qmtl.hardware import run as measure
    from qmtl.hardware import status as status_of
    from qmtl.hardware import submit as submit_again

    if ledger is not None and not ledger.exists() and not Path(run).exists():
        raise InvalidInputError(
            f"{run} is not a run directory{near_paths(Path(run))}, and there is no ledger "
            f"{ledger}{near_paths(ledger)}"
        )
    opened = Ledger(ledger)
    settings = settings_of(shots, set_ or [], max_qpu_seconds)
    names = [record.run for record in opened.runs()]
    over = {name for name in names if status_of(name, opened, ask=False).is_complete}
    known = opened.knows(run)
    if not Path(run).exists() and not known and nearest(run, names):
        raise unknown_name("run", run, names)
    if not Path(run).exists() and known:
        _refuse_options(context, run)
        name = submit_again(run, opened, resubmit=resubmit, budget_seconds=max_qpu_seconds)
    else:
        model, rows = open_run(Path(run), split, samples)
        notes = {"directory": run, "split": split, "samples": len(rows)}
        name = measure(
            model,
            rows.inputs,
            backend,
            tasks=_tasks(tasks),
            settings=settings,
            ledger=opened,
            notes=notes,
            again=again,
            resubmit=resubmit,
            wait=False,
        ).run
    if wait:
        _fetch(name, opened)
    else:
        record, more = opened.run(name), ""
        at = "was measured here" if record.is_local else f"is with {record.backend}"
        if name in over:
            at, more = "was measured before", "; --again measures it anew"
        print(f"run {name} {at}; `{opened.command('fetch', name)}` shows it{more}")


def _refuse_options(context: Context, run: str) -> None:
    """Raise an error for options without effect on a run that is in the ledger already."""
    for parameter in context.command.params:
        name = parameter.name or ""
        # Compare by name, because Typer may contain its own copy of click.
        source = getattr(context.get_parameter_source(name), "name", "")
        if source == "COMMANDLINE" and name not in GOING_ON:
            options = parameter.opts if context.params[name] else parameter.secondary_opts
            raise InvalidInputError(
                f"{(options or parameter.opts)[0]} is not for a run in the ledger: run {run} "
                f"continues unchanged; for other options give the run directory"
            )


@app.command()
def status(
    name: Name,
    offline: Annotated[bool, Option("--offline", help="Do not ask the service.")] = False,
    log: Annotated[bool, Option("--log", help="Also show the run's events.")] = False,
    ledger: LedgerFile = None,
) -> None:
    """Show a run's jobs.

    Example: qmtl ibm status 1a2b3c4d5e6f
    """
    from qmtl.hardware import Ledger
    from qmtl.hardware import status as status_of

    opened = Ledger.existing(ledger)
    found = status_of(name, opened, ask=not offline)
    prepared = opened.prepared(found.run.run)
    rows = []
    for state, chunk in zip(found.chunks, prepared.chunks, strict=True):
        first, end = chunk.pubs[0].samples
        rows.append((state.chunk.idx, f"{first}–{end - 1}", state.chunk.job or "–", state))
    print_table(("chunk", "samples", "job", "state"), rows)
    print(found)
    if log:
        print("\n".join(opened.events(found.run.run)))


@app.command()
def fetch(
    name: Name,
    wait: Annotated[bool, Option("--wait", help="Wait for jobs that are not done.")] = False,
    ledger: LedgerFile = None,
) -> None:
    """Fetch results, store them in the ledger, and show them beside the predictions.

    For the model of a run directory, this writes a record to RUN/hardware. The exit status is 1 if
    jobs are not done.

    Example: qmtl ibm fetch 1a2b3c4d5e6f --wait
    """
    from qmtl.hardware import Ledger
    from qmtl.hardware import wait as wait_for

    opened = Ledger.existing(ledger)
    run = opened.run(name).run
    if wait:
        _fetch(run, opened)
        return
    found = wait_for(run, opened, once=True)
    if opened.results(run):
        show_result(opened, run)
    if not found.is_complete:
        more = f"; `{opened.command('fetch', run, '--wait')}` waits"
        print(f"{found}{'' if found.run.is_local else more}")
        raise Exit(1)


@app.command()
def cancel(name: Name, ledger: LedgerFile = None) -> None:
    """Cancel a run's jobs that have no result yet.

    Example: qmtl ibm cancel 1a2b3c4d5e6f
    """
    from qmtl.hardware import cancel as cancel_run

    print(cancel_run(name, ledger))


@app.command("list")
def list_(ledger: LedgerFile = None) -> None:
    """List the ledger's runs.

    Example: qmtl ibm list
    """
    from qmtl.hardware import Ledger
    from qmtl.hardware import status as status_of

    opened = Ledger.existing(ledger)
    runs = opened.runs()
    if not runs:
        print(f"no runs in {opened.path}")
    for run in runs:
        line = status_of(run.run, opened, ask=False)
        created = run.created[:16].replace("T", " ")
        print(f"{created}  {line}; {run.samples} samples, {run.shots} shots")


def _tasks(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _fetch(run: str, ledger: "Ledger") -> None:
    from qmtl.hardware import wait

    wait(run, ledger)
    show_result(ledger, run)


def open_run(path: Path, split: str, samples: int) -> "tuple[MultiTaskModel, Rows]":
    """Return the model of a run directory and the first rows of a split."""
    from qmtl.experiments import Run

    opened = Run.read(path)
    rows = opened.load_data(split).splits[split].take(slice(samples))
    if len(rows) < samples:
        print(f"note: the {split} split has {len(rows)} samples, not {samples}", file=sys.stderr)
    return opened.load_model(), rows


def settings_of(shots: int, pairs: Sequence[str], max_qpu_seconds: float | None) -> Any:
    """Return the `HardwareSettings` of the command line's options."""
    from qmtl.hardware import HardwareSettings

    options: dict[str, Any] = {"shots": shots, "max_qpu_seconds": max_qpu_seconds}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InvalidInputError(f"--set: expected KEY=VALUE, got {pair!r}")
        key = key.strip()
        if key in options:
            raise InvalidInputError(f"--set: {key} is given twice, or has a separate option")
        try:
            options[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            options[key] = text.strip()
    return HardwareSettings.of(options)


def _show_notes(estimate: "Estimate") -> None:
    for note in estimate.notes:
        print(fill(f"note: {note}", terminal_width() or len(note) + 6))


def show_result(ledger: "Ledger", run: str) -> None:
    """Print a result's table; for a run directory's model, also metrics, and write a record."""
    from qmtl.hardware import read_result, write_result

    result = read_result(run, ledger)
    cells = []
    for row in result.table():
        values = [row[key] for key in ("measured", "predicted", "exact", "standard_error")]
        off = row["deviation_in_standard_errors"]
        deviation = "–" if off is None else f"{off:+.1f}"
        cells.append((row["task"], row["output"], *map(number, values), deviation))
    columns = (
        "task", "output", "measured", "predicted with noise", "exact without noise",
        "standard error", "deviation",
    )  # fmt: skip
    print_table(columns, cells)
    print(result)
    _show_notes(result.estimate)
    directory = ledger.run(result.run).directory
    if directory is None or not (Path(directory) / "model").is_dir():
        return
    more: dict[str, Any] = {}
    context = ledger.prepared(result.run).context
    if not result.missing and "split" in context:
        split = context["split"]
        model, rows = open_run(Path(directory), split, context["samples"])
        more = {"split": split, "metrics": _metrics(model, rows, result, split)}
    print(f"wrote {write_result(result, Path(directory) / 'hardware', **more)}")


def _metrics(
    model: "MultiTaskModel", rows: "Rows", result: "HardwareResult", split: str
) -> dict[str, Any]:
    """Return and show metrics of the measured logits, and of the exact logits if known."""
    from qmtl.training import score

    # The model may have been trained further since, so use the exact logits of the run.
    columns = {"measured": result.logits, "simulated": result.exact_logits}
    found = {
        name: score(model, logits, rows.targets, rows.sample_weight)
        for name, logits in columns.items()
        if logits
    }
    title = f"{len(rows)} rows of {split}: on {result.backend}, and simulated"
    others = {name: metrics for name, metrics in found.items() if name == "simulated"}
    show_metrics(title, found["measured"], others, own="measured")
    return found
