"""submit: send a run so that exactly one job carries each chunk, even after interruptions."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TextIO

from qmtl._html import in_notebook
from qmtl.errors import (
    HardwareBudgetError,
    HardwareBusyError,
    HardwareConnectionError,
    HardwareError,
    HardwareJobError,
    InvalidInputError,
)
from qmtl.hardware._claim import Claim, claimed
from qmtl.hardware._client import Client, JobState
from qmtl.hardware._decode import raw_to_bytes
from qmtl.hardware._ledger import ChunkRecord, Ledger, RunRecord
from qmtl.hardware._local import execute
from qmtl.hardware._prepared_run import PreparedRun


@dataclass
class Progress:
    """A line on standard error, or in a notebook's cell, that shows the state of a run.

    Attributes:
        write: function that writes text.
        is_terminal: whether `show` overwrites the line; otherwise each change is a new line.
    """

    write: Callable[[str], Any] = field(default_factory=lambda: _stream().write)
    is_terminal: bool = field(default_factory=lambda: _stream().isatty())
    _started: float = field(default_factory=time.monotonic)
    _last: str = ""

    def show(self, text: str) -> None:
        """Show the state of the run."""
        if self.is_terminal:
            seconds = int(time.monotonic() - self._started)
            line = f"{text} ({seconds // 60}:{seconds % 60:02d})"
            self.write(f"\r{line:<{len(self._last)}}")
            self._last = line
        elif text != self._last:
            self.write(f"{text}\n")
            self._last = text

    def end(self) -> None:
        """End the line."""
        if self.is_terminal and self._last:
            self.write("\n")


def _stream() -> TextIO:
    # Notebooks show standard error like an error.
    return sys.stdout if in_notebook() else sys.stderr


def submit(
    prepared: PreparedRun | str,
    ledger: Ledger | str | Path | None = None,
    *,
    backend: Any = None,
    service: Any = None,
    again: bool = False,
    resubmit: bool = False,
    budget_seconds: float | None = None,
    progress: Progress | None = None,
) -> str:
    """Send the unsent chunks of a run; repeat the same call after an interruption.

    A run for a fake backend or Aer is executed immediately, through the same ledger.

    Args:
        prepared: the run, or the name of a run in the ledger. If the ledger already has the same
            request, the ledger's run continues, and `prepared` is not used.
        ledger: the ledger or its file; None for the user's.
        backend: the run's Qiskit backend; only needed for a backend of your own if the run comes
            from the ledger.
        service: an open `QiskitRuntimeService`; None for the account's.
        again: whether to measure a request again that is already in the ledger.
        resubmit: whether to send chunks again whose jobs failed or were cancelled.
        budget_seconds: largest estimated time on the device of the unsent chunks.
        progress: shows the chunks that are executed here; None for a line on standard error.

    Returns:
        The run's name, for `wait`, `fetch`, `status` and `cancel`.

    Raises:
        HardwareBudgetError: if the run needs more than the budget or than the account has left.
        HardwareJobError: if jobs of the run failed or were cancelled, and `resubmit` is False.
        HardwareError: if the service fails; the same call continues where this one ended.

    Example:
        >>> import tempfile, torch
        >>> from qmtl import HeadCircuit, QuantumHead, Task
        >>> from qmtl.hardware import prepare, status
        >>> head = QuantumHead(HeadCircuit([Task.binary("a")]), seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ledger = Ledger(f"{folder}/ledger.sqlite")
        ...     name = submit(prepare(head, torch.zeros(1, 2), "aer", shots=10), ledger)
        ...     status(name, ledger).is_complete
        True
    """
    if not isinstance(prepared, str | PreparedRun):
        raise InvalidInputError(
            f"prepared must be a PreparedRun or a run's name, got {type(prepared).__name__}"
        )
    if isinstance(prepared, str):
        ledger = Ledger.existing(ledger)
        run = ledger.run(prepared)
    else:
        ledger = Ledger.of(ledger)
        run = ledger.add_run(prepared, again=again)
        backend = prepared.device if backend is None else backend
    if resubmit:
        for chunk in ledger.chunks(run.run):
            with claimed(ledger, run.run, chunk.idx) as claim:
                if claim is not None and claim.record.state in ("failed", "cancelled"):
                    claim.reopen()
    try:
        if run.is_local:
            _execute(ledger, run, backend, progress or Progress())
        else:
            _Sender(ledger, run, Client.of(service), budget_seconds).send()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"run {run.run} is in the ledger; `{ledger.command('submit', run.run)}` continues it"
        ) from None
    raise_if_ended(ledger, run.run)
    return run.run


def raise_if_ended(ledger: Ledger, run: str) -> None:
    """Raise `HardwareJobError` if some chunks of a run failed or were cancelled."""
    ended = [chunk for chunk in ledger.chunks(run) if chunk.state in ("failed", "cancelled")]
    if ended:
        repeat = "execute" if ledger.run(run).is_local else "send"
        raise HardwareJobError(
            f"{len(ended)} of run {run}'s jobs gave no result: {ended[0].error}; to {repeat} them "
            f"again, run: {ledger.command('submit', run, '--resubmit')}"
        )


def _work_on(
    ledger: Ledger, chunk: ChunkRecord, pause: float, work: Callable[[Claim], Any]
) -> None:
    """Work on an unsent chunk, or wait until another process has done this work."""
    while ledger.chunks(chunk.run)[chunk.idx].is_unsent:
        with claimed(ledger, chunk.run, chunk.idx) as claim:
            if claim is None:
                time.sleep(pause)
            elif claim.record.is_unsent:
                work(claim)


def _execute(ledger: Ledger, run: RunRecord, backend: Any, progress: Progress) -> None:
    chunks = ledger.chunks(run.run)
    unsent = [chunk for chunk in chunks if chunk.is_unsent]
    if not unsent:
        return
    prepared = ledger.prepared(run.run)

    def work(claim: Claim) -> None:
        claim.intend()
        job = f"local-{claim.run}-{claim.idx}-{claim.record.attempt}"
        claim.note_job(job)
        claim.store(raw_to_bytes(execute(prepared, claim.idx, backend=backend)), job)

    try:
        for chunk in unsent:
            progress.show(
                f"run {run.run} on {run.backend}, {run.samples} samples: job {chunk.idx + 1} of "
                f"{len(chunks)} is executed here"
            )
            _work_on(ledger, chunk, 0.2, work)
    finally:
        progress.end()


@dataclass(frozen=True)
class _Sender:
    """Sends the chunks of one run."""

    ledger: Ledger
    run: RunRecord
    client: Client
    budget_seconds: float | None

    @cached_property
    def prepared(self) -> PreparedRun:
        return self.ledger.prepared(self.run.run)

    @cached_property
    def mode(self) -> Any:
        """The backend, or the batch or session, which the ledger records for restarts."""
        self._check_budget()
        known = self.ledger.run(self.run.run).session
        mode = self.client.open_mode(self.prepared, known)
        if self.prepared.mode != "job" and mode.session_id != known:
            self.ledger.set_session(self.run.run, mode.session_id)
        return mode

    def _check_budget(self) -> None:
        chunks = self.ledger.chunks(self.run.run)
        executions = [chunk.executions for chunk in self.prepared.chunks]
        waiting = sum(executions[c.idx] for c in chunks if c.is_unsent)
        needed = self.prepared.estimate.qpu_seconds * waiting / sum(executions)
        need = f"run {self.run.run} needs about {needed:.0f} s on {self.run.backend}"
        if self.budget_seconds is not None and needed > self.budget_seconds:
            raise HardwareBudgetError(
                f"{need}, more than the budget of {self.budget_seconds:g} s; nothing was sent"
            )
        left = self.client.seconds_left()
        if left is not None and needed > left:
            raise HardwareBudgetError(
                f"{need}, and the account has {left:.0f} s left; nothing was sent; take fewer "
                f"samples or shots"
            )

    def send(self) -> None:
        """Make sure that exactly one job carries each chunk."""
        patience = self.client.patience
        retrying = patience.retrying(HardwareConnectionError, HardwareBusyError)
        pause = min(0.2, patience.first_wait)
        try:
            for chunk in self.ledger.chunks(self.run.run):
                _work_on(self.ledger, chunk, pause, partial(retrying, self._send_once))
        except BaseException:
            # An open session costs money by the minute. An open batch does not, and a restart
            # continues in it.
            if self.run.mode == "session":
                with suppress(HardwareError):
                    self._close()
            raise
        self._close()

    def _close(self) -> None:
        if "mode" in vars(self) and self.prepared.mode != "job":
            self.client.close_mode(self.mode)

    def _send_once(self, claim: Claim) -> None:
        if settle(self.client, claim, self.run.backend):
            return
        mode = self.mode
        claim.intend()
        chunk = claim.record
        claim.note_job(self.client.send(self.prepared, claim.idx, mode, chunk.tags))
        settle(self.client, claim, self.run.backend)


def settle(client: Client, claim: Claim, backend: str) -> bool:
    """Look up a chunk's jobs, keep the oldest and cancel the others; return False if none."""
    chunk = claim.record
    if not chunk.is_unsent:
        return True
    found = _look_up(client, claim, backend)
    if chunk.job is not None and chunk.job not in [state.job for state in found]:
        found.append(client.state(chunk.job))
    if not found:
        return False
    alive = [state for state in found if state.is_alive]
    if not alive:
        claim.note_job(found[0].job)
        end(claim, found[0])
        return True
    claim.note_job(alive[0].job)
    _cancel_duplicates(client, claim, alive[1:])
    claim.confirm()
    return True


def drop_duplicates(client: Client, claim: Claim, backend: str) -> None:
    """Cancel duplicate jobs of a chunk that earlier look-ups did not find."""
    found = client.find(backend, claim.record.tags)
    known = claim.ledger.jobs(claim.run)
    _cancel_duplicates(client, claim, [s for s in found if s.is_alive and s.job not in known])


def _cancel_duplicates(client: Client, claim: Claim, extra: list[JobState]) -> None:
    for state in extra:
        client.cancel(state.job)
        claim.note_duplicate(state.job)


def end(claim: Claim, state: JobState) -> None:
    """Record that a chunk's job failed or was cancelled."""
    if state.status == "failed":
        claim.end("failed", f"job {state.job} failed: {state.reason}")
    else:
        claim.end("cancelled", f"job {state.job} was cancelled, not by qmtl")


def _look_up(client: Client, claim: Claim, backend: str) -> list[JobState]:
    """Return a chunk's jobs, oldest first; look again if the service may not list a new job yet."""
    from tenacity import retry_if_result, stop_after_attempt

    chunk, patience = claim.record, client.patience
    looks = patience.lookups if chunk.seconds_since_sent < patience.settled else 1
    retrying = patience.retrying(
        retry=retry_if_result(lambda found: not found and chunk.job is None),
        stop=stop_after_attempt(looks),
        retry_error_callback=lambda _: [],
    )
    found: list[JobState] = retrying(client.find, backend, chunk.tags)
    return found
