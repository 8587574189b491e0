"""Claims: one process at a time works on a chunk, and records each action before taking it.

On the same machine, a claim holds as long as its process is alive: a slow upload does not expire,
and no process waits for one that was killed. The claim of a process on another machine (a container
on the same disk) expires after some time.
"""

import os
import socket
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from qmtl._io import process_start
from qmtl.errors import LedgerError
from qmtl.hardware._ledger import ChunkRecord, Ledger, note, now

# Lifetime of a claim from another machine; longer than an upload with all the client's retries.
HOLD = timedelta(hours=2)


@dataclass(frozen=True)
class Holder:
    """The holder of a chunk: a thread of a process.

    Attributes:
        host: name of the machine.
        pid: number of the process.
        started: when the process started, in seconds since the machine did; distinguishes it from
            a later process with the same number.
        mark: the thread, and a random part.

    Example:
        >>> holder = Holder.of_this_thread()
        >>> Holder.parse(str(holder)) == holder
        True
    """

    host: str
    pid: int
    started: str
    mark: str

    @classmethod
    def of_this_thread(cls) -> "Holder":
        """Return a new holder for this thread."""
        pid, mark = os.getpid(), f"{threading.get_native_id()}-{uuid.uuid4().hex[:12]}"
        return cls(socket.gethostname(), pid, str(process_start(pid)), mark)

    @classmethod
    def parse(cls, text: str) -> "Holder":
        """Return the holder that a text describes (the inverse of ``str``).

        Raises:
            LedgerError: if the text does not describe a holder.
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
        """Whether the holder is on this machine."""
        return self.host == socket.gethostname()

    def is_gone(self) -> bool:
        """Return whether the holder has certainly ended; False for one on another machine.

        A thread that asks for a chunk is not working on one. If it holds a chunk, an earlier call
        was interrupted (Ctrl-C) before it could release it.
        """
        if not self.is_local:
            return False
        if str(process_start(self.pid)) != self.started:
            return True
        if self.pid != os.getpid():
            return False
        others = {t.native_id for t in threading.enumerate()} - {threading.get_native_id()}
        return self.mark.partition("-")[0] not in map(str, others)


@contextmanager
def claimed(ledger: Ledger, run: str, idx: int) -> Iterator["Claim | None"]:
    """Hold a chunk; give None if another process or thread holds it."""
    holder = Holder.of_this_thread()
    if not _take(ledger, run, idx, holder):
        yield None
        return
    try:
        yield Claim(ledger, run, idx, str(holder))
    finally:
        with ledger.transaction() as connection:
            connection.execute(
                "UPDATE chunks SET holder = NULL, held_until = NULL "
                "WHERE run = ? AND idx = ? AND holder = ?",
                (run, idx, str(holder)),
            )


def _take(ledger: Ledger, run: str, idx: int, holder: Holder) -> bool:
    with ledger.transaction() as connection:
        row = connection.execute(
            "SELECT holder, held_until FROM chunks WHERE run = ? AND idx = ?", (run, idx)
        ).fetchone()
        if row["holder"] is not None:
            other = Holder.parse(row["holder"])
            is_over = not other.is_local and row["held_until"] < now()
            if not is_over and not other.is_gone():
                return False
            note(connection, run, idx, f"passed over {other.host}, process {other.pid}")
        until = (datetime.now(UTC) + HOLD).isoformat(timespec="milliseconds")
        connection.execute(
            "UPDATE chunks SET holder = ?, held_until = ? WHERE run = ? AND idx = ?",
            (str(holder), until, run, idx),
        )
        return True


@dataclass(frozen=True)
class Claim:
    """A chunk that this process holds. Every change fails if the hold was lost meanwhile.

    Attributes:
        ledger: the ledger with the chunk.
        run: name of its run.
        idx: index of the chunk in the run.
        holder: the holder, as text.
    """

    ledger: Ledger
    run: str
    idx: int
    holder: str

    @property
    def record(self) -> ChunkRecord:
        """The present record of the chunk."""
        return self.ledger.chunks(self.run)[self.idx]

    def intend(self) -> None:
        """Record that the chunk is about to be sent; from now on its jobs are looked up first."""
        with self._change("about to be sent", state="sending", sent_at=now()):
            pass

    def note_job(self, job: str) -> None:
        """Record the job that carries the chunk."""
        with self._change(f"job {job}", job=job) as connection:
            self._enter_job(connection, job, counts=True)

    def note_duplicate(self, job: str) -> None:
        """Record that a job is a duplicate."""
        with self._change(f"job {job} is one too many and was cancelled") as connection:
            self._enter_job(connection, job, counts=False)

    def confirm(self) -> None:
        """Record that exactly one job carries the chunk."""
        with self._change("one job carries it", state="sent", error=None):
            pass

    def store(self, raw: bytes, job: str) -> None:
        """Store the result, once."""
        with self._change("result stored", state="stored", error=None) as connection:
            connection.execute(
                "INSERT OR IGNORE INTO results VALUES (?,?,?,?,?)",
                (self.run, self.idx, job, raw, now()),
            )

    def end(self, state: str, reason: str) -> None:
        """Record that there will be no result: ``"failed"`` or ``"cancelled"``."""
        with self._change(f"{state}: {reason}", state=state, error=reason):
            pass

    def reopen(self) -> None:
        """Allow a failed or cancelled chunk to be sent again, under new tags."""
        with self._change("to be sent anew", state="planned", job=None, error=None) as connection:
            connection.execute(
                "UPDATE chunks SET attempt = attempt + 1, sent_at = NULL WHERE run = ? AND idx = ?",
                (self.run, self.idx),
            )

    @contextmanager
    def _change(self, event: str, **columns: str | None) -> Iterator[sqlite3.Connection]:
        with self.ledger.transaction() as connection:
            assignments = "".join(f", {column} = ?" for column in columns)
            changed = connection.execute(
                f"UPDATE chunks SET holder = holder{assignments} "
                "WHERE run = ? AND idx = ? AND holder = ?",
                (*columns.values(), self.run, self.idx, self.holder),
            )
            if changed.rowcount != 1:
                raise LedgerError(
                    f"another process took over chunk {self.idx} of run {self.run}; run the same "
                    "command again"
                )
            note(connection, self.run, self.idx, event)
            yield connection

    def _enter_job(self, connection: sqlite3.Connection, job: str, *, counts: bool) -> None:
        connection.execute(
            "INSERT INTO jobs SELECT ?, run, idx, attempt, ?, ? FROM chunks "
            "WHERE run = ? AND idx = ? ON CONFLICT (job) DO UPDATE SET counts = excluded.counts",
            (job, int(counts), now(), self.run, self.idx),
        )
