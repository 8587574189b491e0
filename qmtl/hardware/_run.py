"""run and fetch: from a trained model to logits measured on a backend, and back to them later."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from qmtl.errors import HardwareJobError, InvalidInputError, unknown_name
from qmtl.hardware._backends import open_backend
from qmtl.hardware._fetch import Progress, collect, wait
from qmtl.hardware._ledger import Ledger
from qmtl.hardware._prepare import HeadRun, head_run, prepare_head
from qmtl.hardware._records import RunRecord
from qmtl.hardware._result import HardwareResult, read_result
from qmtl.hardware._sending import Patience
from qmtl.hardware._settings import HardwareSettings
from qmtl.hardware._submit import open_ledger, submit

__all__ = ["fetch", "request_hash", "run", "send"]

# Settings that say what a run may cost or how it is computed, and not what is measured.
NOT_MEASURED = ("predict", "cache", "max_qpu_seconds", "max_shots")


def request_hash(head: HeadRun, backend: str, settings: HardwareSettings) -> str:
    """SHA-256 of what is asked for: circuit, weights, angles, tasks, backend and settings.

    Unlike a prepared run's hash it does not depend on the backend's calibration of the day, so that
    the same call tomorrow comes back to the run of today.

    Raises:
        InvalidInputError: for a task that the circuit does not have.
    """
    circuit = head.circuit
    for task in head.tasks:
        if task not in circuit.registers:
            raise unknown_name("task", task, circuit.registers)
    described = [
        backend,
        list(head.tasks),
        [head.scales[task] for task in head.tasks],
        {key: value for key, value in settings.to_dict().items() if key not in NOT_MEASURED},
        repr(circuit.encoding_gates),
        [repr((circuit.block_gates(task), circuit.register(task))) for task in head.tasks],
    ]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    arrays = [head.angles, head.weights["encoding"], *(head.weights[t] for t in head.tasks)]
    for tensor in arrays:
        digest.update(np.ascontiguousarray(tensor.detach().cpu().double().numpy()).tobytes())
    return digest.hexdigest()


def run(
    model: nn.Module,
    inputs: Any,
    backend: Any = "fake_fez",
    *,
    tasks: Sequence[str] | None = None,
    settings: HardwareSettings | None = None,
    service: Any = None,
    ledger: Ledger | str | Path | None = None,
    again: bool | None = None,
    resubmit: bool = False,
    patience: Patience | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> HardwareResult:
    """Measure a trained model's logits on a backend, and wait for them.

    The run is in the ledger from the start. Interrupted, by Ctrl-C or a kernel that dies, jobs go
    on; the same call, today or another day, goes on where this one ended, and sends nothing twice.

    Args:
        model: a `MultiTaskModel` with a quantum head, or a `QuantumHead`.
        inputs: the model's inputs, or the head's features; samples in the first dimension.
        backend: ``"ibm_fez"``, ``"fake_fez"``, ``"aer"``, or a backend; see `open_backend`.
        tasks: the tasks to measure; None for all.
        settings: `HardwareSettings`; None for the defaults.
        service: an open `QiskitRuntimeService`; None for that of the account.
        ledger: the ledger or its file; None for `ledger_path`.
        again: whether to measure anew what was measured before; None: only here, not on a device.
        resubmit: whether to send jobs anew that failed or were cancelled.
        patience: with a service that does not answer.
        progress: where the line goes that says what is waited for; None for standard error.
        **options: fields of `HardwareSettings` instead, such as ``shots=4096``.

    Raises:
        InvalidInputError: for a model, inputs or settings that do not fit.
        HardwareBudgetError: if the run costs more than its budget or than the account has left.
        HardwareError: of the service, in one line that says what to do.
        KeyboardInterrupt: with a message that says how to come back.

    Example:
        >>> import tempfile, torch
        >>> from qmtl import HeadCircuit, QuantumHead, Task
        >>> head = QuantumHead(HeadCircuit([Task.binary("a")]), seed=0)
        >>> quiet = Progress(write=len)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = f"{folder}/ledger.sqlite"
        ...     result = run(head, torch.zeros(3, 2), "aer", shots=100, ledger=file, progress=quiet)
        >>> result.logits["a"].shape, result.execution
        (torch.Size([3, 1]), 'whole circuit on the cut')
    """
    ledger = open_ledger(ledger)
    name = send(
        model,
        inputs,
        backend,
        tasks=tasks,
        settings=settings,
        service=service,
        ledger=ledger,
        again=again,
        resubmit=resubmit,
        patience=patience,
        **options,
    )
    wait(name, ledger, service=service, patience=patience, progress=progress)
    return read_result(ledger, name)


def send(
    model: nn.Module,
    inputs: Any,
    backend: Any = "fake_fez",
    *,
    tasks: Sequence[str] | None = None,
    settings: HardwareSettings | None = None,
    service: Any = None,
    ledger: Ledger | str | Path | None = None,
    directory: Path | None = None,
    notes: Mapping[str, Any] | None = None,
    again: bool | None = None,
    resubmit: bool = False,
    patience: Patience | None = None,
    **options: Any,
) -> str:
    """`run` without waiting: prepare and submit, unless that was done; the run's name.

    Args:
        directory: the run directory that the model is from, for the ledger.
        notes: JSON-able, for the prepared run's context.
        model, inputs, ...: as in `run`.

    Raises:
        HardwareError: and others, as `run`.
    """
    if settings is not None and options:
        raise InvalidInputError(f"pass settings or {sorted(options)}, not both")
    settings = HardwareSettings.of(options) if settings is None else settings
    if not isinstance(settings, HardwareSettings):
        raise InvalidInputError(f"settings must be HardwareSettings, got {settings!r}")
    ledger = open_ledger(ledger)
    head = head_run(model, inputs, tasks)
    request = request_hash(head, str(getattr(backend, "name", backend)), settings)
    known = ledger.find_request(request)
    again = _is_over(ledger, known) if again is None else again
    rest: dict[str, Any] = {
        "service": service,
        "resubmit": resubmit,
        "budget_seconds": settings.max_qpu_seconds,
        "patience": patience,
    }
    if known is not None and not again:
        opened = open_backend(backend) if known.is_local else None
        return submit(known.run, ledger, backend=opened, **rest)
    opened = open_backend(backend, service=service)
    prepared = prepare_head(head, opened, settings).with_context(**(notes or {}))
    return submit(
        prepared, ledger, backend=opened, request=request, directory=directory, again=again, **rest
    )


def _is_over(ledger: Ledger, known: RunRecord | None) -> bool:
    """Whether a request was measured here to its end, so that asking again means other shots."""
    if known is None or not known.is_local:
        return False
    return all(chunk.state == "stored" for chunk in ledger.chunks(known.run))


def fetch(
    run: str,
    ledger: Ledger | str | Path | None = None,
    *,
    wait_for_all: bool = True,
    service: Any = None,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> HardwareResult:
    """The result of a run that was submitted, in this process or another one, today or before.

    Args:
        run: its name.
        ledger: the ledger or its file; None for `ledger_path`.
        wait_for_all: whether to wait for jobs that are not done; else their samples are NaN.
        service: an open `QiskitRuntimeService`; None for that of the account.
        patience: with a service that does not answer.
        progress: where the line goes that says what is waited for; None for standard error.

    Raises:
        HardwareJobError: if jobs failed or were cancelled, or, without waiting, none is done.
        HardwareError: of the service.
        InvalidInputError: for a run that the ledger does not know.
    """
    ledger = open_ledger(ledger)
    name = ledger.run(run).run
    if wait_for_all:
        wait(name, ledger, service=service, patience=patience, progress=progress)
        return read_result(ledger, name)
    found = collect(name, ledger, service=service, patience=patience)
    if not ledger.results(name):
        raise HardwareJobError(f"{found}: nothing to fetch yet; `qmtl ibm fetch {name} --wait`")
    return read_result(ledger, name)
