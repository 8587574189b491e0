"""The ledger: what was sent to which backend, and what came back, in one SQLite file.

Whatever is needed to come back to a run is in it: the prepared run, the jobs, the raw results.
Several processes may use it at once. It is kept on the machine's own disk: SQLite's write-ahead log
does not work on network file systems.

Schema (``PRAGMA user_version`` 1):

* ``runs``: a row per run. ``run`` its name, 12 hexadecimal digits, with ``-2`` and so on when
  the same request is measured again; ``request`` what was asked for, as SHA-256; ``hash`` of the
  prepared run; ``prepared`` the run itself, as `PreparedRun.to_bytes` wrote it; ``session`` the
  batch or session that its jobs are in; ``directory`` the run directory that its model is from.
* ``chunks``: a row per job that a run needs. ``state`` is one of `STATES`; ``attempt`` counts
  deliberate resubmissions; ``holder`` and ``held_until`` say who is at work on it.
* ``jobs``: every job of a chunk that is known, and whether it is the one that counts.
* ``results``: a chunk's raw result (`raw_to_bytes`), written once.
* ``events``: what happened, in order.

Times are UTC, in ISO 8601.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

from qmtl.errors import InvalidInputError, LedgerError, unknown_name
from qmtl.hardware.prepared import PreparedRun
from qmtl.hardware.records import ChunkRecord, RunRecord

__all__ = ["Ledger", "ledger_path", "note", "now"]

VERSION = 1
TIMEOUT = 60.0  # seconds that a process waits for the others

SCHEMA = """
CREATE TABLE runs (
    run TEXT PRIMARY KEY, request TEXT NOT NULL, hash TEXT NOT NULL, backend TEXT NOT NULL,
    primitive TEXT NOT NULL, mode TEXT NOT NULL, samples INTEGER NOT NULL,
    shots INTEGER NOT NULL, execution TEXT NOT NULL, prepared BLOB NOT NULL, session TEXT,
    directory TEXT, created TEXT NOT NULL
);
CREATE INDEX runs_of_request ON runs (request);
CREATE TABLE chunks (
    run TEXT NOT NULL REFERENCES runs, idx INTEGER NOT NULL, hash TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 1, state TEXT NOT NULL DEFAULT 'planned', sent_at TEXT,
    job TEXT, error TEXT, holder TEXT, held_until TEXT, PRIMARY KEY (run, idx)
);
CREATE TABLE jobs (
    job TEXT PRIMARY KEY, run TEXT NOT NULL, idx INTEGER NOT NULL, attempt INTEGER NOT NULL,
    counts INTEGER NOT NULL, noted TEXT NOT NULL, FOREIGN KEY (run, idx) REFERENCES chunks
);
CREATE TABLE results (
    run TEXT NOT NULL, idx INTEGER NOT NULL, job TEXT NOT NULL, raw BLOB NOT NULL,
    stored TEXT NOT NULL, PRIMARY KEY (run, idx), FOREIGN KEY (run, idx) REFERENCES chunks
);
CREATE TABLE events (
    id INTEGER PRIMARY KEY, run TEXT NOT NULL, idx INTEGER, at TEXT NOT NULL, event TEXT NOT NULL
);
"""


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
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Models and inputs are nobody else's business.
            self.path.touch(mode=0o600)
        except OSError as error:
            raise LedgerError(f"the ledger {self.path} cannot be made: {error}") from None
        with self._connection() as connection:
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0 and tables:
                raise LedgerError(f"{self.path} is a database of something else, not a ledger")
            _write_ahead(connection)
        with self.transaction() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={VERSION}")
            elif version != VERSION:
                raise LedgerError(
                    f"the ledger {self.path} has version {version}; this qmtl reads {VERSION}"
                )

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            opened = sqlite3.connect(self.path, timeout=TIMEOUT, isolation_level=None)
            with closing(opened):
                opened.row_factory = sqlite3.Row
                opened.execute("PRAGMA foreign_keys=ON")
                yield opened
        except sqlite3.Error as error:
            raise LedgerError(f"the ledger {self.path} cannot be used: {error}") from None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other process writes beside."""
        with self._connection() as connection:
            # What was said to be written stays written, even if the power fails.
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

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
        with self._connection() as connection:
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
        with self._connection() as connection:
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
        with self._connection() as connection:
            rows = connection.execute(
                f"SELECT {_columns(ChunkRecord)} FROM chunks WHERE run = ? ORDER BY idx", (run,)
            )
            found = [ChunkRecord(**row) for row in rows]
        if not found:
            raise LedgerError(f"the ledger {self.path} is damaged: run {run} has no chunks")
        return found

    def jobs(self, run: str) -> list[str]:
        """All jobs that are known of a run, those included that did not count."""
        with self._connection() as connection:
            rows = connection.execute("SELECT job FROM jobs WHERE run = ? ORDER BY rowid", (run,))
            return [row["job"] for row in rows]

    def results(self, run: str) -> dict[int, bytes]:
        """Raw results by chunk, of those that are here."""
        with self._connection() as connection:
            rows = connection.execute("SELECT idx, raw FROM results WHERE run = ?", (run,))
            return {row["idx"]: row["raw"] for row in rows}

    def events(self, run: str) -> list[str]:
        """What happened to a run, a line each."""
        with self._connection() as connection:
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


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Turn the write-ahead log on, which stays on in the file.

    Whoever turns it on has to be alone, and SQLite does not wait for that, whatever its timeout:
    of several processes that make a ledger at once, the later ones have to try again.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

    def is_busy(error: BaseException) -> bool:
        code = getattr(error, "sqlite_errorcode", 0)
        return code & 0xFF == sqlite3.SQLITE_BUSY

    retrying = Retrying(
        retry=retry_if_exception(is_busy),
        stop=stop_after_delay(TIMEOUT),
        wait=wait_random(0.001, 0.02),
        reraise=True,
    )
    retrying(connection.execute, "PRAGMA journal_mode=WAL")


def _columns(record: type) -> str:
    return ", ".join(field.name for field in fields(record))


def _run(connection: sqlite3.Connection, name: str) -> RunRecord:
    row = connection.execute(
        f"SELECT {_columns(RunRecord)} FROM runs WHERE run = ?", (name,)
    ).fetchone()
    return RunRecord(**row)
