"""Fetching results: each is checked, stored once in the ledger, and decoded from there."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from qmtl._html import in_notebook
from qmtl.errors import (
    HardwareBusyError,
    HardwareConnectionError,
    HardwareJobError,
    HardwareResultError,
    InvalidInputError,
)
from qmtl.hardware._claim import Claim, claimed
from qmtl.hardware._client import Client
from qmtl.hardware._ledger import Ledger
from qmtl.hardware._prepared import PreparedRun
from qmtl.hardware._raw import PubData, raw_from_bytes, raw_from_result, raw_to_bytes
from qmtl.hardware._sending import Patience, drop_duplicates, settle
from qmtl.hardware._status import RunStatus, open_ledger, status
from qmtl.hardware._submit import complain

__all__ = ["Progress", "collect", "raw_results", "wait"]


@dataclass
class Progress:
    """A line on standard error, or in a notebook's cell, that says what a run is waiting for.

    On a terminal it is written over; elsewhere it is written when it changes.

    Attributes:
        write: where text goes.
        is_terminal: whether a line can be written over.
    """

    write: Callable[[str], Any] = field(default_factory=lambda: _stream().write)
    is_terminal: bool = field(default_factory=lambda: _stream().isatty())
    _started: float = field(default_factory=time.monotonic)
    _last: str = ""

    def show(self, text: str) -> None:
        """Show a state."""
        if self.is_terminal:
            seconds = int(time.monotonic() - self._started)
            line = f"{text} ({seconds // 60}:{seconds % 60:02d})"
            self.write(f"\r{line:<{len(self._last)}}")
            self._last = line
        elif text != self._last:
            self.write(f"{text}\n")
            self._last = text

    def end(self) -> None:
        """Leave the line as it is."""
        if self.is_terminal and self._last:
            self.write("\n")


def _stream() -> TextIO:
    # Notebooks show standard error as if something had gone wrong.
    return sys.stdout if in_notebook() else sys.stderr


def collect(
    run: str,
    ledger: Ledger | str | Path | None = None,
    *,
    service: Any = None,
    patience: Patience | None = None,
) -> RunStatus:
    """Store the results of a run's jobs that are done; look once, and do not wait.

    Args:
        run: its name.
        ledger: the ledger or its file; None for `ledger_path`.
        service: an open `QiskitRuntimeService`; None for that of the account.
        patience: with a service that does not answer.

    Raises:
        HardwareResultError: if a result arrives damaged, again and again; nothing of it is stored.
        HardwareError: of the service.
    """
    ledger, patience, client = open_ledger(ledger), patience or Patience(), Client.of(service)
    record = ledger.run(run)
    pending = [c for c in ledger.chunks(record.run) if c.state in ("sending", "sent")]
    if pending and not record.is_local:
        prepared = ledger.prepared(record.run)
        damaged: HardwareResultError | None = None
        for chunk in pending:
            with claimed(ledger, record.run, chunk.idx) as claim:
                if claim is None or not settle(client, claim, record.backend, patience):
                    continue
                try:
                    _collect(client, claim, prepared, patience)
                except HardwareResultError as error:
                    damaged = damaged or error  # the others may be whole
        if damaged is not None:
            raise damaged
    return status(record.run, ledger, service=client)


def _collect(client: Client, claim: Claim, prepared: PreparedRun, patience: Patience) -> None:
    chunk = claim.record
    if chunk.state != "sent" or chunk.job is None:
        return
    state = client.state(chunk.job)
    if state.status == "done" or chunk.seconds_since_sent < patience.settled:
        drop_duplicates(client, claim, prepared.backend)
    if state.status == "failed":
        claim.end("failed", f"job {chunk.job} failed: {state.reason}")
    elif state.status == "cancelled":
        claim.end("cancelled", f"job {chunk.job} was cancelled, not by qmtl")
    elif state.status == "done":
        claim.store(raw_to_bytes(_result(client, claim, prepared, patience)), chunk.job)


def _result(
    client: Client, claim: Claim, prepared: PreparedRun, patience: Patience
) -> tuple[PubData, ...]:
    """A job's result, asked for again if it arrives damaged."""
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

    job = str(claim.record.job)

    def ask() -> tuple[PubData, ...]:
        try:
            return raw_from_result(prepared, claim.idx, client.result(job))
        except InvalidInputError as error:
            raise HardwareResultError(
                f"the result of job {job} is not complete: {error}; nothing of it was stored, and "
                "the service still has it: run the same command again"
            ) from None

    retrying = Retrying(
        retry=retry_if_exception_type((HardwareResultError, HardwareConnectionError)),
        stop=stop_after_attempt(patience.sends),
        wait=wait_exponential(multiplier=patience.first_wait, max=patience.longest_wait),
        reraise=True,
    )
    return retrying(ask)


def wait(
    run: str,
    ledger: Ledger | str | Path | None = None,
    *,
    service: Any = None,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> RunStatus:
    """Wait until a run has all its results, or can get no more of them, and store them.

    Interrupted, jobs go on, and the same call waits for them again.

    Raises:
        HardwareJobError: if jobs failed or were cancelled, or a chunk was never sent.
        HardwareConnectionError: if the service stays away for longer than ``patience.outage``.
        KeyboardInterrupt: with a message that says how to come back.
    """
    ledger, patience = open_ledger(ledger), patience or Patience()
    progress = progress or Progress()
    name = ledger.run(run).run
    try:
        found = _poll(name, ledger, service, patience, progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"run {name} goes on; `qmtl ibm fetch {name} --wait` comes back to it"
        ) from None
    finally:
        progress.end()
    complain(ledger, name)
    unsent = [s for s in found.chunks if s.chunk.state in ("planned", "sending")]
    if unsent:
        raise HardwareJobError(
            f"{len(unsent)} of run {name}'s jobs were not sent: `qmtl ibm submit {name}` sends them"
        )
    return found


def _poll(
    run: str, ledger: Ledger, service: Any, patience: Patience, progress: Progress
) -> RunStatus:
    client = Client.of(service)
    pause, away_since = patience.first_poll, None
    while True:
        try:
            found = collect(run, ledger, service=client, patience=patience)
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


def raw_results(run: str, ledger: Ledger) -> tuple[tuple[PubData, ...], ...]:
    """A run's raw results, a tuple per chunk, from the ledger.

    Raises:
        HardwareJobError: if some are not there yet.
    """
    stored = ledger.results(run)
    missing = [chunk.idx for chunk in ledger.chunks(run) if chunk.idx not in stored]
    if missing:
        raise HardwareJobError(
            f"run {run} has {len(stored)} of {len(stored) + len(missing)} results so far; "
            f"`qmtl ibm fetch {run} --wait` waits for the others"
        )
    return tuple(raw_from_bytes(stored[idx]) for idx in sorted(stored))
