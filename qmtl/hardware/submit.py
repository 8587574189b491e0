"""Submitting, looking at and cancelling runs."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qmtl.errors import HardwareJobError, LedgerError
from qmtl.hardware.claim import Claim, claimed
from qmtl.hardware.client import Client, JobState
from qmtl.hardware.ledger import ChunkRecord, Ledger, RunRecord
from qmtl.hardware.prepared import PreparedRun
from qmtl.hardware.raw import raw_to_bytes
from qmtl.hardware.sending import Patience, Sender, settle

__all__ = [
    "ChunkStatus",
    "RunStatus",
    "cancel",
    "complain",
    "is_local",
    "open_ledger",
    "status",
    "submit",
]


def is_local(backend: str) -> bool:
    """Whether a backend of that name is simulated here, so that there is no service and no queue.

    Example:
        >>> is_local("fake_fez"), is_local("aer"), is_local("ibm_fez")
        (True, True, False)
    """
    return backend == "aer" or backend.startswith("fake_")


def open_ledger(ledger: Ledger | str | Path | None) -> Ledger:
    """The ledger, that in the file, or that of `ledger_path`."""
    return ledger if isinstance(ledger, Ledger) else Ledger(ledger)


def submit(
    prepared: PreparedRun | str,
    ledger: Ledger | str | Path | None = None,
    *,
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

    Example:
        >>> run = submit(prepared)  # doctest: +SKIP
    """
    ledger = open_ledger(ledger)
    if isinstance(prepared, str):
        run = ledger.run(prepared)
    else:
        run = ledger.add_run(prepared, request, directory=directory, again=again)
    if resubmit:
        _reopen(ledger, run.run)
    if is_local(run.backend):
        _execute(ledger, run.run)
    else:
        _send(Sender(ledger, run, service, patience or Patience(), budget_seconds))
    return run.run


def _send(sender: Sender) -> None:
    ledger, run = sender.ledger, sender.run.run
    for chunk in ledger.chunks(run):
        sender.send(chunk.idx)
    sender.close()
    complain(ledger, run)


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


def _execute(ledger: Ledger, run: str) -> None:
    """Execute a run's chunks here, each once; of several processes one does, the others wait."""
    prepared: PreparedRun | None = None
    for chunk in ledger.chunks(run):
        while ledger.chunks(run)[chunk.idx].state != "stored":
            with claimed(ledger, run, chunk.idx) as claim:
                if claim is not None:
                    prepared = prepared or ledger.prepared(run)
                    _execute_chunk(prepared, claim)
                    continue
            time.sleep(0.2)


def _execute_chunk(prepared: PreparedRun, claim: Claim) -> None:
    from qmtl.hardware.local import execute

    if claim.record.state == "stored":
        return
    claim.intend()
    job = f"local-{claim.run}-{claim.idx}-{claim.record.attempt}"
    claim.note_job(job)
    claim.store(raw_to_bytes(execute(prepared, claim.idx)), job)


@dataclass(frozen=True)
class ChunkStatus:
    """What is known of a chunk.

    Attributes:
        chunk: as the ledger has it.
        service: what the service says of its job; None if it was not asked, or there is no job.
    """

    chunk: ChunkRecord
    service: JobState | None = None

    def __str__(self) -> str:
        """One word, or a failure with its reason."""
        if self.chunk.error:
            return f"{self.chunk.state}: {self.chunk.error}"
        if self.service is not None:
            return self.service.status
        return {"planned": "not sent", "sending": "perhaps sent"}.get(
            self.chunk.state, self.chunk.state
        )


@dataclass(frozen=True)
class RunStatus:
    """What is known of a run.

    Attributes:
        run: as the ledger has it.
        chunks: its chunks.
    """

    run: RunRecord
    chunks: tuple[ChunkStatus, ...]

    @property
    def is_complete(self) -> bool:
        """Whether all results are stored."""
        return all(status.chunk.state == "stored" for status in self.chunks)

    def __str__(self) -> str:
        """One line: how many jobs are in which state."""
        counts = Counter(str(status).split(":")[0] for status in self.chunks)
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        return f"run {self.run.run} on {self.run.backend}: {states}"


def status(
    run: str, ledger: Ledger | str | Path | None = None, *, service: Any = None, ask: bool = True
) -> RunStatus:
    """What is known of a run's jobs. Nothing is sent, fetched or changed.

    Args:
        run: its name.
        ledger: the ledger or its file; None for `ledger_path`.
        service: an open `QiskitRuntimeService`; None for that of the account.
        ask: whether to ask the service, or only the ledger.

    Raises:
        InvalidInputError: for a run that the ledger does not know.
        HardwareError: if the service cannot be asked.
    """
    ledger = open_ledger(ledger)
    record = ledger.run(run)
    chunks = ledger.chunks(record.run)
    at_service = [c for c in chunks if c.state == "sent" and ask and not is_local(record.backend)]
    client = Client.of(service)
    states = {chunk.idx: client.state(str(chunk.job)) for chunk in at_service}
    return RunStatus(record, tuple(ChunkStatus(c, states.get(c.idx)) for c in chunks))


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
            if not is_local(record.backend) and claim.record.state in ("sending", "sent"):
                settle(client, claim, record.backend, patience or Patience())
                if claim.record.state == "sent":
                    client.cancel(str(claim.record.job))
            if claim.record.state in ("planned", "sending", "sent"):
                claim.end("cancelled", "cancelled by qmtl")
    return status(record.run, ledger, ask=False)
