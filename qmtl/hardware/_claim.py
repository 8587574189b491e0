"""Claims: one process at a time works on a chunk, and records each action before taking it."""

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

# A claim holds as long as its process is alive. For a process on another machine (a container on
# the same disk) we cannot know this, so its claim ends after this time. An upload with all retries
# is shorter.
HOLD = timedelta(hours=2)


@dataclass(frozen=True)
class Holder:
    """The holder of a chunk: a thread of a process."""

    host: str
    pid: int
    # When the process started, because a later process may have the same number.
    started: str
    # The thread's number, and a random part.
    mark: str

    @classmethod
    def of_this_thread(cls) -> "Holder":
        pid, mark = os.getpid(), f"{threading.get_native_id()}-{uuid.uuid4().hex[:12]}"
        return cls(socket.gethostname(), pid, str(process_start(pid)), mark)

    @classmethod
    def parse(cls, text: str) -> "Holder":
        """Return the holder that a text describes (the inverse of ``str``)."""
        try:
            host, pid, started, mark = text.rsplit(" ", 3)
            return cls(host, int(pid), started, mark)
        except ValueError:
            raise LedgerError(f"the ledger is damaged: {text!r} holds a chunk") from None

    def __str__(self) -> str:
        return f"{self.host} {self.pid} {self.started} {self.mark}"

    @property
    def is_local(self) -> bool:
        return self.host == socket.gethostname()

    def is_gone(self) -> bool:
        """Return whether the holder has certainly ended; False if it is on another machine."""
        if not self.is_local:
            return False
        if str(process_start(self.pid)) != self.started:
            return True
        if self.pid != os.getpid():
            return False
        # This thread asks for a chunk, so it works on none. If this thread is the holder, Ctrl-C
        # interrupted an earlier call before its release.
        others = {t.native_id for t in threading.enumerate()} - {threading.get_native_id()}
        return self.mark.partition("-")[0] not in map(str, others)


@contextmanager
def claimed(ledger: Ledger, run: str, idx: int) -> Iterator["Claim | None"]:
    """Hold a chunk within the context; yield None if another process or thread holds the chunk."""
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
            note(connection, run, idx, f"took over from {other.host}, process {other.pid}")
        until = (datetime.now(UTC) + HOLD).isoformat(timespec="milliseconds")
        connection.execute(
            "UPDATE chunks SET holder = ?, held_until = ? WHERE run = ? AND idx = ?",
            (str(holder), until, run, idx),
        )
        return True


@dataclass(frozen=True)
class Claim:
    """A chunk that this process holds. Every change raises an error if it has lost the chunk."""

    ledger: Ledger
    run: str
    idx: int
    holder: str

    @property
    def record(self) -> ChunkRecord:
        """The chunk's current record."""
        return self.ledger.chunks(self.run)[self.idx]

    def intend(self) -> None:
        """Record that the chunk is about to be sent, so that its jobs will be looked up first."""
        self._change("about to be sent", state="sending", sent_at=now())

    def note_job(self, job: str) -> None:
        """Record the job that carries the chunk."""
        with self._changing(f"job {job}", job=job) as connection:
            self._enter_job(connection, job, counts=True)

    def note_duplicate(self, job: str) -> None:
        """Record that a job is a duplicate."""
        with self._changing(f"job {job} is a duplicate and was cancelled") as connection:
            self._enter_job(connection, job, counts=False)

    def confirm(self) -> None:
        """Record that exactly one job carries the chunk."""
        self._change("one job carries it", state="sent", error=None)

    def store(self, raw: bytes, job: str) -> None:
        """Store the result, unless one is stored already."""
        with self._changing("result stored", state="stored", error=None) as connection:
            connection.execute(
                "INSERT OR IGNORE INTO results VALUES (?,?,?,?,?)",
                (self.run, self.idx, job, raw, now()),
            )

    def end(self, state: str, reason: str) -> None:
        """Record that there will be no result; `state` is ``"failed"`` or ``"cancelled"``."""
        self._change(f"{state}: {reason}", state=state, error=reason)

    def reopen(self) -> None:
        """Allow a failed or cancelled chunk to be sent again, under new tags."""
        attempt = self.record.attempt + 1
        columns = {"job": None, "error": None, "attempt": attempt, "sent_at": None}
        self._change("to be sent anew", state="planned", **columns)

    def _change(self, event: str, **columns: object) -> None:
        with self._changing(event, **columns):
            pass

    @contextmanager
    def _changing(self, event: str, **columns: object) -> Iterator[sqlite3.Connection]:
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
