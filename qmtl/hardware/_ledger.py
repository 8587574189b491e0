"""The ledger: what was sent to which backend, and what came back, in one SQLite file.

Whatever is needed to come back to a run is in it: the prepared run, the jobs, the raw results.
Several processes may use it at once. It is kept on the machine's own disk: SQLite's write-ahead log
does not work on network file systems.
"""

import os
import sqlite3
from contextlib import AbstractContextManager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

from qmtl.errors import InvalidInputError, LedgerError, unknown_name
from qmtl.hardware._ledger_file import LedgerFile
from qmtl.hardware._prepared import PreparedRun
from qmtl.hardware._records import ChunkRecord, RunRecord

__all__ = ["Ledger", "ledger_path", "note", "now"]


def ledger_path() -> Path:
    """``QMTL_LEDGER``, or ``qmtl/ledger.sqlite`` in the user's data folder."""
    from platformdirs import user_data_path

    chosen = os.environ.get("QMTL_LEDGER")
    return Path(chosen) if chosen else user_data_path("qmtl") / "ledger.sqlite"


class Ledger:
    """The ledger in a file, which is made when it is not there.

    Args:
        path: the file; None for `ledger_path`.

    Raises:
        LedgerError: if the file is something else, or of a version that cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Ledger(Path(folder) / "ledger.sqlite").runs()
        []
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = ledger_path() if path is None else Path(path)
        self._file = LedgerFile(self.path)

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """A transaction that no other process writes beside."""
        return self._file.transaction()

    def add_run(
        self,
        prepared: PreparedRun,
        request: str | None = None,
        *,
        directory: Path | None = None,
        again: bool = False,
    ) -> RunRecord:
        """Enter a run, unless the same request is there; what is there stays as it is.

        Args:
            prepared: the run.
            request: what was asked for, as SHA-256 or the like; None for the run's own hash.
            directory: the run directory that its model is from.
            again: whether to enter another run of the same request.
        """
        request = prepared.hash if request is None else request
        shots = max(pub.shots for chunk in prepared.chunks for pub in chunk.pubs)
        content = prepared.to_bytes()
        with self.transaction() as connection:
            names = [
                row["run"]
                for row in connection.execute(
                    "SELECT run FROM runs WHERE request = ? ORDER BY rowid", (request,)
                )
            ]
            if names and not again:
                return _run(connection, names[-1])
            name = request[:12] if not names else f"{request[:12]}-{len(names) + 1}"
            connection.execute(
                "INSERT INTO runs VALUES (?,?,?,?,?,?,?,?,?,?,NULL,?,?)",
                (
                    *(name, request, prepared.hash, prepared.backend, prepared.primitive),
                    *(prepared.mode, prepared.decoding.n_samples, shots, prepared.execution),
                    *(content, None if directory is None else str(directory.resolve()), now()),
                ),
            )
            connection.executemany(
                "INSERT INTO chunks (run, idx, hash) VALUES (?,?,?)",
                [(name, chunk.index, chunk.hash) for chunk in prepared.chunks],
            )
            note(connection, name, None, f"entered for {prepared.backend}")
            return _run(connection, name)

    def runs(self) -> list[RunRecord]:
        """All runs, oldest first."""
        with self._file.connection() as connection:
            rows = connection.execute(f"SELECT {_columns(RunRecord)} FROM runs ORDER BY rowid")
            return [RunRecord(**row) for row in rows]

    def run(self, name: str) -> RunRecord:
        """The run of that name, which may be cut short as long as it is clear.

        Raises:
            InvalidInputError: if there is none.
        """
        if not isinstance(name, str):
            raise InvalidInputError(f"run must be a run's name, got {name!r}")
        found = [run for run in self.runs() if run.run.startswith(name)]
        exact = [run for run in found if run.run == name]
        if exact or (name and len(found) == 1):
            return (exact or found)[0]
        known = found or self.runs()
        if not known:
            raise InvalidInputError(f"unknown run {name!r}: the ledger {self.path} has none")
        raise unknown_name("run", name, [run.run for run in known])

    def knows(self, name: str) -> bool:
        """Whether `run` finds a run of that name."""
        return any(run.run.startswith(name) for run in self.runs())

    def find_request(self, request: str) -> RunRecord | None:
        """The latest run of a request."""
        found = [run for run in self.runs() if run.request == request]
        return found[-1] if found else None

    def prepared(self, run: str) -> PreparedRun:
        """The prepared run."""
        with self._file.connection() as connection:
            (content,) = connection.execute(
                "SELECT prepared FROM runs WHERE run = ?", (run,)
            ).fetchone()
        return PreparedRun.from_bytes(content)

    def set_session(self, run: str, session: str) -> None:
        """Write which batch or session the run's jobs are sent to."""
        with self.transaction() as connection:
            connection.execute("UPDATE runs SET session = ? WHERE run = ?", (session, run))
            note(connection, run, None, f"opened {session}")

    def chunks(self, run: str) -> list[ChunkRecord]:
        """The run's chunks, in order."""
        with self._file.connection() as connection:
            rows = connection.execute(
                f"SELECT {_columns(ChunkRecord)} FROM chunks WHERE run = ? ORDER BY idx", (run,)
            )
            found = [ChunkRecord(**row) for row in rows]
        if not found:
            raise LedgerError(f"the ledger {self.path} is damaged: run {run} has no chunks")
        return found

    def jobs(self, run: str) -> list[str]:
        """All jobs that are known of a run, those included that did not count."""
        with self._file.connection() as connection:
            rows = connection.execute("SELECT job FROM jobs WHERE run = ? ORDER BY rowid", (run,))
            return [row["job"] for row in rows]

    def results(self, run: str) -> dict[int, bytes]:
        """Raw results by chunk, of those that are here."""
        with self._file.connection() as connection:
            rows = connection.execute("SELECT idx, raw FROM results WHERE run = ?", (run,))
            return {row["idx"]: row["raw"] for row in rows}

    def events(self, run: str) -> list[str]:
        """What happened to a run, a line each."""
        with self._file.connection() as connection:
            rows = connection.execute(
                "SELECT at, idx, event FROM events WHERE run = ? ORDER BY id", (run,)
            )
            return [
                f"{row['at']} {row['event']}"
                if row["idx"] is None
                else f"{row['at']} chunk {row['idx']}: {row['event']}"
                for row in rows
            ]


def now() -> str:
    """The time as the ledger writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def note(connection: sqlite3.Connection, run: str, idx: int | None, event: str) -> None:
    """Enter an event."""
    connection.execute(
        "INSERT INTO events (run, idx, at, event) VALUES (?,?,?,?)", (run, idx, now(), event)
    )


def _columns(record: type) -> str:
    return ", ".join(field.name for field in fields(record))


def _run(connection: sqlite3.Connection, name: str) -> RunRecord:
    row = connection.execute(
        f"SELECT {_columns(RunRecord)} FROM runs WHERE run = ?", (name,)
    ).fetchone()
    return RunRecord(**row)
