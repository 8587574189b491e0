"""Who holds a chunk of a run: a process that is alive, or one that is gone and can be passed over.

On the same machine a holder is alive if its process is; nothing expires under a slow upload, and
nobody waits for a process that was killed. Of another machine (a container on the same disk)
nothing is known but the time: its hold ends by itself.
"""

import os
import socket
import uuid
from dataclasses import dataclass

from qmtl.errors import LedgerError

__all__ = ["Holder"]


@dataclass(frozen=True)
class Holder:
    """One taker of leases: a process, and a random mark that tells its calls apart.

    Attributes:
        host: name of the machine.
        pid: process.
        started: when the process started, in seconds since the epoch; tells a process from a later
            one of the same number.
        mark: random.

    Example:
        >>> holder = Holder.of_this_process()
        >>> Holder.parse(str(holder)) == holder, holder.is_gone()
        (True, False)
    """

    host: str
    pid: int
    started: str
    mark: str

    @classmethod
    def of_this_process(cls) -> "Holder":
        """A new holder."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _started(pid) or "", uuid.uuid4().hex[:12])

    @classmethod
    def parse(cls, text: str) -> "Holder":
        """The holder that ``str`` wrote.

        Raises:
            LedgerError: if it did not.
        """
        try:
            host, pid, started, mark = text.rsplit(" ", 3)
            return cls(host, int(pid), started, mark)
        except ValueError:
            raise LedgerError(f"the ledger is damaged: {text!r} holds a chunk") from None

    def __str__(self) -> str:
        return f"{self.host} {self.pid} {self.started} {self.mark}"

    @property
    def is_local(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname()

    def is_gone(self) -> bool:
        """Whether it is known to have ended; False for one of another machine."""
        return self.is_local and _started(self.pid) != self.started


def _started(pid: int) -> str | None:
    import psutil

    try:
        process = psutil.Process(pid)
        # A killed process that nobody has waited for yet does nothing any more.
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
