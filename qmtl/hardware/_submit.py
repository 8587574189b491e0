"""Submitting and cancelling runs."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from qmtl.errors import HardwareError, HardwareJobError, InvalidInputError, LedgerError
from qmtl.hardware._backends import Backend
from qmtl.hardware._claim import Claim, claimed
from qmtl.hardware._client import Client
from qmtl.hardware._ledger import Ledger
from qmtl.hardware._local import execute
from qmtl.hardware._prepared import PreparedRun
from qmtl.hardware._raw import raw_to_bytes
from qmtl.hardware._sending import Patience, Sender, settle
from qmtl.hardware._status import RunStatus, open_ledger, status

__all__ = ["cancel", "complain", "open_ledger", "submit"]


def submit(
    prepared: PreparedRun | str,
    ledger: Ledger | str | Path | None = None,
    *,
    backend: Backend | None = None,
    service: Any = None,
    request: str | None = None,
    directory: Path | None = None,
    again: bool = False,
    resubmit: bool = False,
    budget_seconds: float | None = None,
    patience: Patience | None = None,
) -> str:
    """Send a run, or what of it is not sent yet. The same call goes on after any interruption.

    On a fake backend and on Aer the run is executed here and now, through the same ledger.

    Args:
        prepared: the run, or the name of one that is in the ledger.
        ledger: the ledger or its file; None for `ledger_path`.
        backend: the run's, where its name does not tell: one of your own that is simulated here.
        service: an open `QiskitRuntimeService`; None for that of the account.
        request: what was asked for, as SHA-256 or the like: a run of the same request that is in
            the ledger is gone on with, and `prepared` is not used. None for the run's own hash.
        directory: the run directory that the model is from.
        again: whether to measure a request anew that is in the ledger.
        resubmit: whether to send chunks anew whose jobs failed or were cancelled.
        budget_seconds: QPU seconds that may be spent on what is still to be sent.
        patience: with a service that does not answer.

    Returns:
        The run's name, for `status`, `fetch` and `cancel`.

    Raises:
        HardwareBudgetError: if the run needs more than the budget or than the account has left.
        HardwareJobError: if jobs of the run failed or were cancelled, and `resubmit` is False.
        HardwareError: of the service; the same call goes on from where this one ended.
        InvalidInputError: for a run that the ledger does not know.
        KeyboardInterrupt: with a message that says how to go on.

    Example:
        >>> run = submit(prepared)  # doctest: +SKIP
    """
    if not isinstance(prepared, str | PreparedRun):
        raise InvalidInputError(
            f"prepared must be a PreparedRun or a run's name, got {type(prepared).__name__}"
        )
    ledger = open_ledger(ledger)
    if isinstance(prepared, str):
        run = ledger.run(prepared)
    else:
        run = ledger.add_run(prepared, request, directory=directory, again=again)
    if resubmit:
        _reopen(ledger, run.run)
    try:
        if run.is_local:
            _execute(ledger, run.run, backend)
        else:
            _send(Sender(ledger, run, service, patience or Patience(), budget_seconds))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"run {run.run} is in the ledger; `qmtl ibm submit {run.run}` goes on with it"
        ) from None
    complain(ledger, run.run)
    return run.run


def _send(sender: Sender) -> None:
    ledger, run = sender.ledger, sender.run.run
    try:
        for chunk in ledger.chunks(run):
            sender.send(chunk.idx)
    except BaseException:
        # An open session is paid for by the minute; an open batch is not, and is gone on with.
        if sender.run.mode == "session":
            with suppress(HardwareError):
                sender.close()
        raise
    sender.close()


def complain(ledger: Ledger, run: str) -> None:
    """Raise if chunks of a run have no result and will get none.

    Raises:
        HardwareJobError: naming the first of them, why, and what to do.
    """
    ended = [chunk for chunk in ledger.chunks(run) if chunk.state in ("failed", "cancelled")]
    if ended:
        raise HardwareJobError(
            f"{len(ended)} of run {run}'s jobs gave no result: {ended[0].error}; nothing is sent "
            f"anew unasked: `qmtl ibm submit {run} --resubmit` does it"
        )


def _reopen(ledger: Ledger, run: str) -> None:
    for chunk in ledger.chunks(run):
        with claimed(ledger, run, chunk.idx) as claim:
            if claim is not None and claim.record.state in ("failed", "cancelled"):
                claim.reopen()


def _execute(ledger: Ledger, run: str, backend: Backend | None) -> None:
    """Execute a run's chunks here, each once; of several processes one does, the others wait."""
    prepared: PreparedRun | None = None
    for chunk in ledger.chunks(run):
        while ledger.chunks(run)[chunk.idx].state in ("planned", "sending"):
            with claimed(ledger, run, chunk.idx) as claim:
                if claim is not None:
                    prepared = prepared or ledger.prepared(run)
                    _execute_chunk(prepared, claim, backend)
                    continue
            time.sleep(0.2)


def _execute_chunk(prepared: PreparedRun, claim: Claim, backend: Backend | None) -> None:
    if claim.record.state not in ("planned", "sending"):
        return
    claim.intend()
    job = f"local-{claim.run}-{claim.idx}-{claim.record.attempt}"
    claim.note_job(job)
    claim.store(raw_to_bytes(execute(prepared, claim.idx, backend=backend)), job)


def cancel(
    run: str,
    ledger: Ledger | str | Path | None = None,
    *,
    service: Any = None,
    patience: Patience | None = None,
) -> RunStatus:
    """Cancel a run's jobs that have no result yet, those included that were sent unnoticed.

    Raises:
        InvalidInputError: for a run that the ledger does not know.
        HardwareError: of the service; the same call goes on from where this one ended.
        LedgerError: if another process is at work on the run.
    """
    ledger = open_ledger(ledger)
    record = ledger.run(run)
    client = Client.of(service)
    for chunk in ledger.chunks(record.run):
        with claimed(ledger, record.run, chunk.idx) as claim:
            if claim is None:
                raise LedgerError(f"another process is at work on run {record.run}; end it first")
            if not record.is_local and claim.record.state in ("sending", "sent"):
                settle(client, claim, record.backend, patience or Patience())
                if claim.record.state == "sent":
                    client.cancel(str(claim.record.job))
                    if client.state(str(claim.record.job)).status == "done":
                        continue  # its result is paid for, and can be fetched
            if claim.record.state in ("planned", "sending", "sent"):
                claim.end("cancelled", "cancelled by qmtl")
    return status(record.run, ledger, ask=False)
