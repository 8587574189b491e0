"""What is known of runs, from the ledger and from the service, and the line that shows it."""

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from qmtl._html import in_notebook, panel, table
from qmtl.hardware._client import Client, JobState
from qmtl.hardware._ledger import ChunkRecord, Ledger, RunRecord

MOST_ROWS = 40  # that are shown


@dataclass
class Progress:
    """A line on standard error, or in a notebook's cell, that says what a run is waiting for.

    On a terminal it is overwritten; elsewhere a new line is written when it changes.

    Attributes:
        write: where text goes.
        is_terminal: whether a line can be overwritten.
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
        names = {"planned": "not sent", "sending": "perhaps sent"}
        return names.get(self.chunk.state, self.chunk.state)


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

    def _repr_html_(self) -> str:
        return _status_html(self)

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
        ledger: the ledger or its file; None for the user's.
        service: an open `QiskitRuntimeService`; None for the account's.
        ask: whether to ask the service, or only the ledger.

    Raises:
        InvalidInputError: for a run that the ledger does not know.
        HardwareError: if the service cannot be asked.
    """
    ledger = Ledger.of(ledger)
    record = ledger.run(run)
    chunks = ledger.chunks(record.run)
    at_service = [c for c in chunks if c.state == "sent" and ask and not record.is_local]
    client = Client.of(service)
    states = {chunk.idx: client.state(str(chunk.job)) for chunk in at_service}
    return RunStatus(record, tuple(ChunkStatus(c, states.get(c.idx)) for c in chunks))


def _status_html(status: RunStatus) -> str:
    rows: list[dict[str, object]] = [
        {
            "job": one.chunk.job or "–",
            "state": str(one),
            "attempt": one.chunk.attempt,
            "sent at": one.chunk.sent_at or "–",
        }
        for one in status.chunks
    ]
    return panel(str(status), table(rows[:MOST_ROWS], len(rows)))
