"""``qmtl ibm``: a trained run's model on IBM's devices, on their fake twins, and on Aer."""

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["app"]

app = typer.Typer(
    help="Measure a trained model on IBM Quantum, on fake backends and on Aer.",
    no_args_is_help=True,
)
# What may be asked of a run that was sent.
GOING_ON = ("run", "max_qpu_seconds", "resubmit", "wait", "ledger")
RunDirectory = Annotated[Path, typer.Argument(help="A run directory.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A run's name, see qmtl ibm list.")]
LedgerFile = Annotated[
    Path | None, typer.Option("--ledger", metavar="FILE", help="[the user's; or QMTL_LEDGER]")
]
Backend = Annotated[str, typer.Option(help="ibm_fez, fake_fez, aer, …; see qmtl ibm backends.")]
Split = Annotated[str, typer.Option(help="train, validation or test.")]
Samples = Annotated[int, typer.Option(min=1, help="The first rows of the split.")]
Shots = Annotated[int, typer.Option(min=1, help="Measurements of each sample.")]
Tasks = Annotated[str | None, typer.Option(metavar="A,B,...", help="Only these tasks.")]
MaxSeconds = Annotated[
    float | None, typer.Option("--max-qpu-seconds", min=0, help="Refuse a run that needs more.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Another of the settings: primitive, mode, mitigation, resilience, twirl_gates, "
        "twirl_readout, decoupling, max_execution_time, max_shots, layout, seed; repeatable.",
    ),
]


@app.command()
def backends(
    local: Annotated[
        bool, typer.Option("--local", help="Only those that need no account.")
    ] = False,
) -> None:
    """List the account's devices with their queues, and the backends that need no account.

    Example: qmtl ibm backends
    """
    import sys

    from qmtl.errors import HardwareError
    from qmtl.hardware import Client, backend_names

    if not local:
        try:
            for state in Client.of(None).backends():
                queue = f"{state.pending} jobs wait, {state.status}"
                print(f"{state.name}: {state.qubits} qubits, {queue}")
        except HardwareError as error:
            print(f"qmtl: {error}", file=sys.stderr)
    print(f"here, without an account: {', '.join(backend_names())}")


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
    """Tell what measuring a run's model would take, and send nothing.

    Example: qmtl ibm estimate runs/seed1 --backend fake_fez --samples 16
    """
    from qmtl.cli.ibm_runs import open_run, settings_of, show_estimate
    from qmtl.hardware import prepare

    settings = settings_of(shots, set_ or [], max_qpu_seconds)
    rows = open_run(run, split, samples)
    prepared = prepare(rows.model, rows.inputs, backend, tasks=_tasks(tasks), settings=settings)
    show_estimate(prepared.backend, prepared.estimate)


@app.command()
def submit(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A run directory; or a run's name, to go on with it.")],
    backend: Backend = "fake_fez",
    split: Split = "test",
    samples: Samples = 16,
    shots: Shots = 4096,
    tasks: Tasks = None,
    max_qpu_seconds: MaxSeconds = None,
    set_: Set = None,
    again: Annotated[
        bool | None, typer.Option("--again/--not-again", help="Measure anew what was measured.")
    ] = None,
    resubmit: Annotated[
        bool, typer.Option("--resubmit", help="Send jobs anew that failed or were cancelled.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the results, and show them.")
    ] = False,
    ledger: LedgerFile = None,
) -> None:
    """Send a run's model to a backend. The same command goes on after any interruption.

    Nothing is sent twice: what was sent is in the ledger, and jobs are found by their tags.

    Examples of use:

    qmtl ibm submit runs/seed1 --backend ibm_fez --samples 16 --max-qpu-seconds 60

    qmtl ibm submit runs/seed1 --backend fake_fez --wait
    """
    from qmtl.cli.ibm_runs import open_run, settings_of
    from qmtl.hardware import Ledger, send
    from qmtl.hardware import submit as send_again

    opened = Ledger(ledger)
    settings = settings_of(shots, set_ or [], max_qpu_seconds)
    if not Path(run).exists() and opened.knows(run):
        _refuse_options(context, run)
        name = send_again(run, opened, resubmit=resubmit, budget_seconds=max_qpu_seconds)
    else:
        rows = open_run(Path(run), split, samples)
        name = send(
            rows.model,
            rows.inputs,
            backend,
            tasks=_tasks(tasks),
            settings=settings,
            ledger=opened,
            directory=Path(run),
            notes={"split": split, "samples": len(rows.inputs)},
            again=again,
            resubmit=resubmit,
        )
    if wait:
        _fetch(name, opened)
    else:
        print(f"run {name} is with {opened.run(name).backend}; `qmtl ibm fetch {name}` shows it")


def _refuse_options(context: typer.Context, run: str) -> None:
    """What was sent is gone on with as it is: whoever asks for something else is told so."""
    from qmtl.errors import InvalidInputError

    for parameter in context.command.params:
        name = parameter.name or ""
        # By name, since Typer may have a click of its own.
        source = getattr(context.get_parameter_source(name), "name", "")
        if source == "COMMANDLINE" and name not in GOING_ON:
            options = parameter.opts if context.params[name] else parameter.secondary_opts
            raise InvalidInputError(
                f"{(options or parameter.opts)[0]} is not for a run that was sent: run {run} goes "
                f"on as it is; for anything else give the run directory"
            )


@app.command()
def status(
    name: Name,
    offline: Annotated[bool, typer.Option("--offline", help="Only what the ledger knows.")] = False,
    log: Annotated[bool, typer.Option("--log", help="Also all that happened to the run.")] = False,
    ledger: LedgerFile = None,
) -> None:
    """Show a run's jobs.

    Example: qmtl ibm status 1a2b3c4d5e6f
    """
    from qmtl.cli.ibm_runs import show_status
    from qmtl.hardware import Ledger
    from qmtl.hardware import status as status_of

    opened = Ledger(ledger)
    found = status_of(name, opened, ask=not offline)
    show_status(found, opened)
    if log:
        print("\n".join(opened.events(found.run.run)))


@app.command()
def fetch(
    name: Name,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for jobs that are not done.")] = False,
    ledger: LedgerFile = None,
) -> None:
    """Fetch results, keep them in the ledger and show them, beside what they should be.

    Of a run directory's model a record goes into RUN/hardware. The exit status is 1 if jobs are
    not done.

    Example: qmtl ibm fetch 1a2b3c4d5e6f --wait
    """
    from qmtl.hardware import Ledger, collect, complain

    opened = Ledger(ledger)
    run = opened.run(name).run
    if wait:
        _fetch(run, opened)
        return
    found = collect(run, opened)
    complain(opened, run)
    if opened.results(run):
        _show(run, opened)
    if not found.is_complete:
        print(f"{found}; `qmtl ibm fetch {run} --wait` waits")
        raise typer.Exit(1)


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

    opened = Ledger(ledger)
    for run in opened.runs():
        line = status_of(run.run, opened, ask=False)
        created = run.created[:16].replace("T", " ")
        print(f"{created}  {line}; {run.samples} samples, {run.shots} shots")


def _tasks(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _fetch(run: str, ledger: Any) -> None:
    from qmtl.hardware import wait

    wait(run, ledger)
    _show(run, ledger)


def _show(run: str, ledger: Any) -> None:
    from qmtl.cli.ibm_runs import show_result
    from qmtl.hardware import read_result

    show_result(ledger, read_result(ledger, run))
