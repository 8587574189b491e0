"""run, and wait, fetch, status and cancel for runs that were submitted before."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from qmtl._html import MOST_ROWS, panel, table
from qmtl.errors import (
    HardwareBusyError,
    HardwareConnectionError,
    HardwareJobError,
    HardwareResultError,
    InvalidInputError,
    LedgerError,
)
from qmtl.hardware._backends import open_backend
from qmtl.hardware._claim import Claim, claimed
from qmtl.hardware._client import Client, JobState
from qmtl.hardware._decode import PubData, raw_from_result, raw_to_bytes
from qmtl.hardware._ledger import ChunkRecord, Ledger, RunRecord
from qmtl.hardware._payload import HeadRun, head_run, request_hash
from qmtl.hardware._prepare import prepare_head
from qmtl.hardware._prepared_run import PreparedRun
from qmtl.hardware._result import HardwareResult, read_result
from qmtl.hardware._settings import HardwareSettings
from qmtl.hardware._submit import Progress, drop_duplicates, end, raise_if_ended, settle, submit


@dataclass(frozen=True)
class ChunkStatus:
    """A chunk's state in the ledger, and at the service (None if it was not asked)."""

    chunk: ChunkRecord
    service: JobState | None
    is_local: bool

    def __str__(self) -> str:
        """The state, and the reason of a failure."""
        if self.chunk.error:
            return f"{self.chunk.state}: {self.chunk.error}"
        if self.service is not None:
            return self.service.status
        if self.is_local:
            return "stored" if self.chunk.state == "stored" else "not executed"
        names = {"planned": "not sent", "sending": "perhaps sent"}
        return names.get(self.chunk.state, self.chunk.state)


@dataclass(frozen=True)
class RunStatus:
    """The known state of a run.

    Attributes:
        run, chunks: the records of the run and its chunks in the ledger.
        command: the command that continues the run.
    """

    run: RunRecord
    chunks: tuple[ChunkStatus, ...]
    command: str

    @property
    def is_complete(self) -> bool:
        """Whether all results are stored."""
        return all(status.chunk.state == "stored" for status in self.chunks)

    def _repr_html_(self) -> str:
        rows: list[dict[str, object]] = [
            {
                "job": one.chunk.job or "–",
                "state": str(one),
                "attempt": one.chunk.attempt,
                "sent at": one.chunk.sent_at or "–",
            }
            for one in self.chunks
        ]
        return panel(str(self), table(rows[:MOST_ROWS], len(rows)))

    def __str__(self) -> str:
        """One line: the number of jobs in each state."""
        counts = Counter(str(status).split(":")[0] for status in self.chunks)
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        again = f" (`{self.command}` continues)" if "not executed" in counts else ""
        return f"run {self.run.run} on {self.run.backend}: {states}{again}"


def status(
    run: str, ledger: Ledger | str | Path | None = None, *, service: Any = None, ask: bool = True
) -> RunStatus:
    """Return the known state of a run's jobs, without sending, fetching or changing anything.

    Args:
        run, ledger, service: as for `wait`.
        ask: whether to ask the service; otherwise use only the ledger.
    """
    ledger, client = Ledger.existing(ledger), Client.of(service)
    record = ledger.run(run)

    def known(chunk: ChunkRecord) -> ChunkStatus:
        is_sent = chunk.state == "sent" and not record.is_local
        state = client.state(str(chunk.job)) if ask and is_sent else None
        return ChunkStatus(chunk, state, record.is_local)

    chunks = tuple(map(known, ledger.chunks(record.run)))
    return RunStatus(record, chunks, ledger.command("submit", record.run))


def run(
    model: nn.Module,
    inputs: Any,
    backend: Any = "fake_fez",
    *,
    tasks: str | Sequence[str] | None = None,
    settings: HardwareSettings | None = None,
    service: Any = None,
    ledger: Ledger | str | Path | None = None,
    again: bool = False,
    resubmit: bool = False,
    wait: bool = True,
    progress: Progress | None = None,
    notes: Mapping[str, Any] | None = None,
    **options: Any,
) -> HardwareResult:
    """Measure a trained model's logits on a backend: prepare, submit, wait, decode.

    The ledger holds the run before any job is sent. If this call is interrupted (Ctrl-C, a dead
    kernel), its jobs continue. Repeat the same call, on any day, to continue the run; no job is
    sent twice.

    Args:
        model, inputs, backend, tasks, settings, service, **options: as for `prepare`.
        ledger, resubmit: as for `submit`.
        again: whether to repeat an earlier measurement; otherwise return its result.
        wait: whether to wait for jobs that are not done; otherwise their samples are NaN.
        progress: shows the state of the run; None for a line on standard error.
        notes: further context of the run, as data that JSON can hold; ``directory`` is the run
            directory of the model.

    Raises:
        HardwareBudgetError: if the run needs more than its budget or than the account has left.
        HardwareError: if the service fails; the message gives advice.

    Example:
        >>> import tempfile, torch
        >>> from qmtl import HeadCircuit, QuantumHead, Task
        >>> head = QuantumHead(HeadCircuit([Task.binary("a")]), seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = f"{folder}/ledger.sqlite"
        ...     result = run(head, torch.zeros(3, 2), "aer", shots=100, ledger=file)
        >>> result.logits["a"].shape, result.execution
        (torch.Size([3, 1]), 'whole circuit')
    """
    settings = HardwareSettings.of(options, settings)
    ledger, client = Ledger.of(ledger), Client.of(service)
    head = head_run(model, inputs, tasks)
    name = submit_head(
        head, backend, settings, ledger, client, again=again, resubmit=resubmit, notes=notes,
        progress=progress,
    )  # fmt: skip
    if wait:
        _wait(name, ledger, client, progress)
    return read_result(name, ledger)


def submit_head(
    head: HeadRun,
    backend: Any,
    settings: HardwareSettings,
    ledger: Ledger,
    client: Client,
    *,
    again: bool = False,
    resubmit: bool = False,
    notes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> str:
    """Prepare and submit a run unless this was done before; return its name. See `run`."""
    # If the ledger has the request, do not open the device, which needs the network.
    own = backend if isinstance(backend, str) else open_backend(backend).identity
    request = request_hash(head, own, settings)
    known = ledger.find_request(request)
    progress = progress or Progress()
    sent: PreparedRun | str
    if known is not None and not again:
        device, sent = (open_backend(backend) if known.is_local else None), known.run
    else:
        device = open_backend(backend, service=client)
        # Predictions for noisy circuits of several layers take a while.
        progress.show(f"preparing {len(head.angles)} samples for {device.name}")
        try:
            sent = prepare_head(head, device, settings).with_context(**(notes or {}))
        finally:
            progress.end()
    budget = settings.max_qpu_seconds
    return submit(
        sent, ledger, backend=device, service=client, again=again, resubmit=resubmit,
        budget_seconds=budget, progress=progress,
    )  # fmt: skip


def fetch(
    run: str,
    ledger: Ledger | str | Path | None = None,
    *,
    service: Any = None,
    wait: bool = True,
    progress: Progress | None = None,
) -> HardwareResult:
    """Return the result of a run that any process has submitted.

    Args:
        run, ledger, service, progress: as for `wait`.
        wait: whether to wait for jobs that are not done; otherwise their samples are NaN.

    Raises:
        HardwareJobError: if jobs failed or were cancelled, or if `wait` is False and none is done.
    """
    ledger, client = Ledger.existing(ledger), Client.of(service)
    name = ledger.run(run).run
    found = _wait(name, ledger, client, progress) if wait else _look(name, ledger, client)
    if not ledger.results(name):
        again = ledger.command("fetch", name, "--wait")
        raise HardwareJobError(f"{found}: nothing to fetch yet; `{again}`")
    return read_result(name, ledger)


def wait(
    run: str,
    ledger: Ledger | str | Path | None = None,
    *,
    service: Any = None,
    progress: Progress | None = None,
    once: bool = False,
) -> RunStatus:
    """Wait until all jobs of a run have ended, and store their results.

    If this call is interrupted, the jobs continue, and the same call waits for them again.

    Args:
        run: name of the run.
        ledger: the ledger or its file; None for the user's.
        service: an open `QiskitRuntimeService`; None for the account's.
        progress: shows the state of the run; None for a line on standard error.
        once: whether to store only the results available now, without waiting for the others.

    Raises:
        HardwareJobError: if jobs failed or were cancelled, or a chunk was never sent.
        HardwareResultError: if a result arrives damaged on every attempt; it is then not stored.
        HardwareConnectionError: if the service is unreachable for longer than `Patience` allows.
    """
    ledger, client = Ledger.existing(ledger), Client.of(service)
    name = ledger.run(run).run
    if not once:
        return _wait(name, ledger, client, progress)
    found = _look(name, ledger, client)
    raise_if_ended(ledger, name)
    return found


def _wait(name: str, ledger: Ledger, client: Client, progress: Progress | None) -> RunStatus:
    progress = progress or Progress()
    if ledger.run(name).is_local:
        # An earlier call may have been killed before it had executed all chunks.
        submit(name, ledger, progress=progress)
    try:
        found = _poll(name, ledger, client, progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"run {name} continues; `{ledger.command('fetch', name, '--wait')}` waits for it"
        ) from None
    finally:
        progress.end()
    raise_if_ended(ledger, name)
    unsent = sum(one.chunk.is_unsent for one in found.chunks)
    if unsent:
        raise HardwareJobError(
            f"{unsent} of run {name}'s jobs were not sent: `{found.command}` sends them"
        )
    return found


def _poll(run: str, ledger: Ledger, client: Client, progress: Progress) -> RunStatus:
    patience = client.patience
    pause, away_since = patience.first_poll, None
    while True:
        try:
            found = _look(run, ledger, client)
            away_since = None
            if not any(s.chunk.state == "sent" for s in found.chunks):
                return found
            progress.show(str(found))
        except (HardwareConnectionError, HardwareBusyError) as error:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > patience.outage:
                raise
            progress.show(f"run {run}: {str(error).split(';')[0]}; trying again")
        time.sleep(pause)
        pause = min(pause * 1.5, patience.longest_poll)


def _look(run: str, ledger: Ledger, client: Client) -> RunStatus:
    """Store the results of a run's jobs that are done, and return the run's state."""
    record = ledger.run(run)
    pending = [c for c in ledger.chunks(run) if c.state in ("sending", "sent")]
    if pending and not record.is_local:
        prepared = ledger.prepared(run)
        damaged: HardwareResultError | None = None
        for chunk in pending:
            with claimed(ledger, run, chunk.idx) as claim:
                if claim is None or not settle(client, claim, record.backend):
                    continue
                try:
                    _collect(client, claim, prepared)
                except HardwareResultError as error:
                    damaged = damaged or error  # first store the other results
        if damaged is not None:
            raise damaged
    return status(run, ledger, service=client)


def _collect(client: Client, claim: Claim, prepared: PreparedRun) -> None:
    chunk = claim.record
    if chunk.state != "sent" or chunk.job is None:
        return
    state = client.state(chunk.job)
    if state.status == "done" or chunk.seconds_since_sent < client.patience.settled:
        drop_duplicates(client, claim, prepared.backend)
    if state.status in ("failed", "cancelled"):
        end(claim, state)
    elif state.status == "done":
        claim.store(raw_to_bytes(_result(client, claim, prepared)), chunk.job)


def _result(client: Client, claim: Claim, prepared: PreparedRun) -> tuple[PubData, ...]:
    """Fetch a job's result; try again if it arrives damaged or the connection fails."""
    job = str(claim.record.job)

    def ask() -> tuple[PubData, ...]:
        try:
            return raw_from_result(prepared, claim.idx, client.result(job))
        except InvalidInputError as error:
            raise HardwareResultError(
                f"the result of job {job} is not complete and was not stored: {error}; the service "
                "still has it: run the same command again"
            ) from None

    retrying = client.patience.retrying(HardwareResultError, HardwareConnectionError)
    found: tuple[PubData, ...] = retrying(ask)
    return found


def cancel(
    run: str, ledger: Ledger | str | Path | None = None, *, service: Any = None
) -> RunStatus:
    """Cancel a run's jobs without a result, including jobs that the ledger does not know yet.

    The arguments are those of `wait`.

    Raises:
        HardwareError: if the service fails; the same call continues where this one ended.
        LedgerError: if another process is working on the run.
    """
    ledger, client = Ledger.existing(ledger), Client.of(service)
    record = ledger.run(run)
    for chunk in ledger.chunks(record.run):
        with claimed(ledger, record.run, chunk.idx) as claim:
            if claim is None:
                raise LedgerError(f"another process is working on run {record.run}; end it first")
            if not record.is_local and claim.record.state in ("sending", "sent"):
                settle(client, claim, record.backend)
                if claim.record.state == "sent":
                    client.cancel(str(claim.record.job))
                    if client.state(str(claim.record.job)).status == "done":
                        continue  # the device time is spent, and the result can be fetched
            if claim.record.is_unsent or claim.record.state == "sent":
                claim.end("cancelled", "cancelled by qmtl")
    return status(record.run, ledger, ask=False)
