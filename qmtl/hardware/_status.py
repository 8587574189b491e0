"""What is known of runs, from the ledger and from the service."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qmtl.hardware._client import Client
from qmtl.hardware._ledger import Ledger
from qmtl.hardware._records import ChunkRecord, RunRecord
from qmtl.hardware._states import JobState

__all__ = ["ChunkStatus", "RunStatus", "open_ledger", "status"]


def open_ledger(ledger: Ledger | str | Path | None) -> Ledger:
    """The ledger, that in the file, or that of `ledger_path`."""
    return ledger if isinstance(ledger, Ledger) else Ledger(ledger)


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

    def _repr_html_(self) -> str:
        from qmtl.hardware._display import status_html

        return status_html(self)

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
    at_service = [c for c in chunks if c.state == "sent" and ask and not record.is_local]
    client = Client.of(service)
    states = {chunk.idx: client.state(str(chunk.job)) for chunk in at_service}
    return RunStatus(record, tuple(ChunkStatus(c, states.get(c.idx)) for c in chunks))
