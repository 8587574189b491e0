"""Rows of the ledger."""

from dataclasses import dataclass
from datetime import UTC, datetime

__all__ = ["STATES", "ChunkRecord", "RunRecord"]

# planned: never sent. sending: it may have been sent; look it up before anything else. sent: one
# job carries it. stored: its result is here. failed and cancelled: there will be no result.
STATES = ("planned", "sending", "sent", "stored", "failed", "cancelled")


@dataclass(frozen=True)
class RunRecord:
    """A run as the ledger has it; the attributes are the columns of ``runs``."""

    run: str
    request: str
    hash: str
    backend: str
    primitive: str
    mode: str
    samples: int
    shots: int
    execution: str
    session: str | None
    directory: str | None
    created: str

    @property
    def is_local(self) -> bool:
        """Whether it is executed on this machine, so that there is no service and no queue."""
        return self.execution != "device"


@dataclass(frozen=True)
class ChunkRecord:
    """A chunk as the ledger has it; the attributes are the columns of ``chunks``."""

    run: str
    idx: int
    hash: str
    attempt: int
    state: str
    sent_at: str | None
    job: str | None
    error: str | None

    @property
    def tags(self) -> list[str]:
        """The tags of its jobs, by which they are found again."""
        tags = [f"qmtl:{self.run}", f"qmtl:{self.hash}"]
        return tags if self.attempt == 1 else [*tags, f"qmtl:attempt-{self.attempt}"]

    @property
    def seconds_since_sent(self) -> float:
        """Seconds since sending was intended; infinite if it never was."""
        if self.sent_at is None:
            return float("inf")
        return (datetime.now(UTC) - datetime.fromisoformat(self.sent_at)).total_seconds()
