"""Sending chunks: each is carried by exactly one job, whatever happens on the way.

What is about to be sent is written to the ledger first, and jobs are tagged with the run and with
the hash of what they carry. After any error, and after a restart, jobs are looked up by these tags
before anything is sent; of several the oldest stays and the others are cancelled. A job that
failed, or that someone cancelled, is sent anew only if that is asked for.
"""

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from qmtl.errors import HardwareBudgetError, HardwareBusyError, HardwareConnectionError
from qmtl.hardware._claim import Claim, claimed
from qmtl.hardware._client import Client
from qmtl.hardware._ledger import Ledger
from qmtl.hardware._prepared import PreparedRun
from qmtl.hardware._records import ChunkRecord, RunRecord
from qmtl.hardware._states import JobState

__all__ = ["Patience", "Sender", "drop_duplicates", "settle"]


@dataclass(frozen=True)
class Patience:
    """How long to go on when the service does not answer as it should; times in seconds.

    Attributes:
        sends: attempts to send a chunk before giving up for now.
        lookups: looks for a job that may have been created, before it is sent again.
        first_wait: before the second attempt or look; it doubles each time.
        longest_wait: the most between attempts or looks.
        settled: after it a job that was created is visible to a look for sure.
        outage: how long waiting for results survives a service that is away.
        first_poll: between the first looks at jobs that are waited for; it grows by half.
        longest_poll: the most between looks.
    """

    sends: int = 4
    lookups: int = 5
    first_wait: float = 1.0
    longest_wait: float = 30.0
    settled: float = 120.0
    outage: float = 1800.0
    first_poll: float = 1.0
    longest_poll: float = 60.0


@dataclass(frozen=True)
class Sender:
    """What sending the chunks of one run takes; the service is opened when it is needed.

    Attributes:
        ledger: where the run is.
        run: the run.
        service: an open `QiskitRuntimeService`, or a `Client`; None for that of the account.
        patience: with a service that does not answer.
        budget_seconds: QPU seconds that may be spent on what is still to be sent; None for no
            limit but the account's own.
    """

    ledger: Ledger
    run: RunRecord
    service: Any
    patience: Patience
    budget_seconds: float | None

    @cached_property
    def client(self) -> Client:
        """The service."""
        return Client.of(self.service)

    @cached_property
    def prepared(self) -> PreparedRun:
        """The run as it was prepared."""
        return self.ledger.prepared(self.run.run)

    @cached_property
    def mode(self) -> Any:
        """The backend, batch or session; written to the ledger, so that a restart goes on in it."""
        self._check_budget()
        known = self.ledger.run(self.run.run).session
        mode = self.client.open_mode(self.prepared, known)
        if self.prepared.mode != "job" and mode.session_id != known:
            self.ledger.set_session(self.run.run, mode.session_id)
        return mode

    def close(self) -> None:
        """Tell the service that nothing more is sent to the batch or session, if one is open."""
        if "mode" in vars(self) and self.prepared.mode != "job":
            self.client.close_mode(self.mode)

    def _check_budget(self) -> None:
        chunks = self.ledger.chunks(self.run.run)
        executions = [chunk.executions for chunk in self.prepared.chunks]
        waiting = sum(executions[c.idx] for c in chunks if c.state in ("planned", "sending"))
        needed = self.prepared.estimate.qpu_seconds * waiting / sum(executions)
        if self.budget_seconds is not None and needed > self.budget_seconds:
            raise HardwareBudgetError(
                f"run {self.run.run} needs about {needed:.0f} s on {self.run.backend}, more than "
                f"the budget of {self.budget_seconds:g} s; nothing was sent"
            )
        left = self.client.seconds_left()
        if left is not None and needed > left:
            raise HardwareBudgetError(
                f"run {self.run.run} needs about {needed:.0f} s on {self.run.backend}, and the "
                f"account has {left:.0f} s left; nothing was sent; take fewer samples or shots"
            )

    def send(self, idx: int) -> None:
        """See to it that one job carries a chunk."""
        while self.ledger.chunks(self.run.run)[idx].state in ("planned", "sending"):
            with claimed(self.ledger, self.run.run, idx) as claim:
                if claim is not None:
                    self._send(claim)
                    return
            # Another process is at it, and will soon have done it.
            time.sleep(min(0.2, self.patience.first_wait))

    def _send(self, claim: Claim) -> None:
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

        retrying = Retrying(
            retry=retry_if_exception_type((HardwareConnectionError, HardwareBusyError)),
            stop=stop_after_attempt(self.patience.sends),
            wait=_waits(self.patience),
            reraise=True,
        )
        retrying(self._send_once, claim)

    def _send_once(self, claim: Claim) -> None:
        if settle(self.client, claim, self.run.backend, self.patience):
            return
        mode = self.mode
        claim.intend()
        chunk = claim.record
        claim.note_job(self.client.send(self.prepared, claim.idx, mode, chunk.tags))
        settle(self.client, claim, self.run.backend, self.patience)


def settle(client: Client, claim: Claim, backend: str, patience: Patience) -> bool:
    """Look up a chunk's jobs, keep the oldest, cancel the others.

    Returns:
        Whether the chunk's fate is known: False if it has no job.
    """
    chunk = claim.record
    if chunk.state not in ("planned", "sending"):
        return True
    found = _look_up(client, chunk, backend, patience)
    if chunk.job is not None and chunk.job not in [state.job for state in found]:
        found.append(client.state(chunk.job))
    if not found:
        return False
    alive = [state for state in found if state.is_alive]
    if not alive:
        claim.note_job(found[0].job)
        claim.end(*_end_of(found[0]))
        return True
    claim.note_job(alive[0].job)
    _cancel(client, claim, alive[1:])
    claim.confirm()
    return True


def drop_duplicates(client: Client, claim: Claim, backend: str) -> None:
    """Cancel jobs that carry a chunk beside its own, and that came to light late."""
    chunk = claim.record
    found = client.find(backend, chunk.tags)
    known = claim.ledger.jobs(claim.run)
    _cancel(client, claim, [s for s in found if s.is_alive and s.job not in known])


def _cancel(client: Client, claim: Claim, extra: list[JobState]) -> None:
    for state in extra:
        client.cancel(state.job)
        claim.note_duplicate(state.job)


def _end_of(state: JobState) -> tuple[str, str]:
    if state.status == "failed":
        return "failed", f"job {state.job} failed: {state.reason}"
    return "cancelled", f"job {state.job} was cancelled, not by qmtl"


def _look_up(
    client: Client, chunk: ChunkRecord, backend: str, patience: Patience
) -> list[JobState]:
    """A chunk's jobs, oldest first; looked for repeatedly if one may just have been created."""
    from tenacity import Retrying, retry_if_result, stop_after_attempt

    looks = patience.lookups if chunk.seconds_since_sent < patience.settled else 1
    retrying = Retrying(
        retry=retry_if_result(lambda found: not found and chunk.job is None),
        stop=stop_after_attempt(looks),
        wait=_waits(patience),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else [],
    )
    found: list[JobState] = retrying(client.find, backend, chunk.tags)
    return found


def _waits(patience: Patience) -> Any:
    from tenacity import wait_exponential

    return wait_exponential(multiplier=patience.first_wait, max=patience.longest_wait)
