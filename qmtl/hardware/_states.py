"""What the service says of jobs and backends."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["STATUSES", "BackendState", "JobState"]

Status = Literal["queued", "running", "done", "failed", "cancelled"]
STATUSES: dict[str, Status] = {
    "INITIALIZING": "queued",
    "QUEUED": "queued",
    "RUNNING": "running",
    "DONE": "done",
    "ERROR": "failed",
    "CANCELLED": "cancelled",
}


@dataclass(frozen=True)
class JobState:
    """What the service says of a job.

    Attributes:
        job: its identifier.
        status: ``"queued"``, ``"running"``, ``"done"``, ``"failed"`` or ``"cancelled"``.
        reason: of a failure, else empty.
    """

    job: str
    status: Status
    reason: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether there is a result, or will be."""
        return self.status in ("queued", "running", "done")


@dataclass(frozen=True)
class BackendState:
    """A backend of the account.

    Attributes:
        name: its name.
        qubits: how many it has.
        pending: jobs in its queue.
        status: ``"active"``, or why it is not.
    """

    name: str
    qubits: int
    pending: int
    status: str
