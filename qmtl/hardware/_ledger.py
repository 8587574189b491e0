"""The ledger: a record of runs, jobs and results in one SQLite file."""

import os
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from qmtl.errors import InvalidInputError, LedgerError, as_path, near_paths, unknown_name
from qmtl.hardware._prepared_run import PreparedRun

VERSION = 1
TIMEOUT = 60.0  # seconds to wait for other processes

# Times are UTC, in ISO 8601.
# runs: `run` is 12 hexadecimal digits, followed by -2 and so on if a request is measured again;
#   `request` and `hash` are the SHA-256 of the request and of the prepared run; `session` is the
#   batch or session of the run's jobs, `directory` the run directory of the model.
# chunks: one row per chunk of a run. `attempt` counts deliberate resubmissions; `holder` and
#   `held_until` say who is working on the chunk. `state` is
#     planned: never sent; sending: possibly sent, so look up its jobs before sending;
#     sent: one job carries the chunk; stored: its result is in the ledger;
#     failed, cancelled: there will be no result.
# jobs: every known job of a chunk; `counts` is 0 for cancelled duplicates.
STATES = ("planned", "sending", "sent", "stored", "failed", "cancelled")
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


@dataclass(frozen=True)
class RunRecord:
    """A run in the ledger; the attributes are the columns of ``runs``."""

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
        """Whether the run is executed on this machine, without a service or a queue."""
        return self.execution != "device"


@dataclass(frozen=True)
class ChunkRecord:
    """A chunk in the ledger; the attributes are the columns of ``chunks``."""

    run: str
    idx: int
    hash: str
    attempt: int
    state: str
    sent_at: str | None
    job: str | None
    error: str | None

    @property
    def is_unsent(self) -> bool:
        """Whether no job is known to carry the chunk."""
        return self.state in ("planned", "sending")

    @property
    def tags(self) -> list[str]:
        """The tags by which the service finds the chunk's jobs."""
        tags = [f"qmtl:{self.run}", f"qmtl:{self.hash}"]
        return tags if self.attempt == 1 else [*tags, f"qmtl:attempt-{self.attempt}"]

    @property
    def seconds_since_sent(self) -> float:
        """Seconds since `Claim.intend` marked the chunk as about to be sent; infinite before."""
        if self.sent_at is None:
            return float("inf")
        return (datetime.now(UTC) - datetime.fromisoformat(self.sent_at)).total_seconds()


def ledger_path() -> Path:
    """Return the path in ``QMTL_LEDGER``, or ``qmtl/ledger.sqlite`` in the user's data folder."""
    from platformdirs import user_data_path

    chosen = os.environ.get("QMTL_LEDGER")
    return Path(chosen) if chosen else user_data_path("qmtl") / "ledger.sqlite"


class Ledger:
    """A record of runs, their jobs and their results in an SQLite file; creates a missing file.

    Several processes may use the file at once. It must be on a local disk, because SQLite's
    write-ahead log does not work on network file systems.

    Args:
        path: the file; ``~`` is the home folder; None for `ledger_path`.

    Raises:
        LedgerError: if the file is not a ledger that this version reads.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Ledger(Path(folder) / "ledger.sqlite").runs()
        []
    """

    def __init__(self, path: str | Path | None = None) -> None:
        try:
            self.path = as_path(ledger_path() if path is None else path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Models and inputs are private to the user.
            self.path.touch(mode=0o600)
        except (OSError, RuntimeError) as error:
            raise LedgerError(
                f"the ledger {path or ledger_path()} cannot be made: {error}"
            ) from None
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

    @classmethod
    def of(cls, ledger: "Ledger | str | Path | None") -> "Ledger":
        """Return a ledger unchanged, or open the ledger in a file; None for the user's."""
        return ledger if isinstance(ledger, Ledger) else cls(ledger)

    @classmethod
    def existing(cls, ledger: "Ledger | str | Path | None") -> "Ledger":
        """Do the same as `of`; raise `InvalidInputError` if a named file does not exist."""
        if isinstance(ledger, str | Path) and not Path(ledger).expanduser().exists():
            raise InvalidInputError(f"there is no ledger {ledger}{near_paths(Path(ledger))}")
        return cls.of(ledger)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Open a connection for reading."""
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
        """Open a transaction during which no other process can write."""
        with self._connection() as connection:
            # A commit must survive a power failure.
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._connection() as connection:
            return connection.execute(query, values).fetchall()

    def add_run(self, prepared: PreparedRun, *, again: bool = False) -> RunRecord:
        """Add a run, or return the run of the same request if there is one and `again` is False.

        ``prepared.context["directory"]`` is the run directory of the model.
        """
        request = prepared.request or prepared.hash
        directory = prepared.context.get("directory")
        row = {
            "request": request,
            "hash": prepared.hash,
            "backend": prepared.backend,
            "primitive": prepared.primitive,
            "mode": prepared.mode,
            "samples": prepared.decoding.n_samples,
            "shots": prepared.chunks[0].pubs[0].shots,
            "execution": prepared.execution,
            "prepared": prepared.to_bytes(),
            "directory": directory and str(Path(directory).resolve()),
            "created": now(),
        }
        with self.transaction() as connection:
            query = "SELECT run FROM runs WHERE request = ? ORDER BY rowid"
            names = [name for (name,) in connection.execute(query, (request,))]
            if names and not again:
                return self.run(names[-1])
            row["run"] = name = f"{request[:12]}-{len(names) + 1}" if names else request[:12]
            marks = ", ".join(f":{column}" for column in row)
            connection.execute(f"INSERT INTO runs ({', '.join(row)}) VALUES ({marks})", row)
            connection.executemany(
                "INSERT INTO chunks (run, idx, hash) VALUES (?,?,?)",
                [(name, chunk.index, chunk.hash) for chunk in prepared.chunks],
            )
            note(connection, name, None, f"entered for {prepared.backend}")
        return self.run(name)

    def runs(self) -> list[RunRecord]:
        """Return all runs, oldest first."""
        rows = self._rows(f"SELECT {_columns(RunRecord)} FROM runs ORDER BY rowid")
        return [RunRecord(**row) for row in rows]

    def run(self, name: str) -> RunRecord:
        """Return the run with this name, or the only run whose name starts with it.

        Raises:
            InvalidInputError: if there is no such run, or several.
        """
        if not isinstance(name, str):
            raise InvalidInputError(f"run must be a run's name, got {name!r}")
        runs = {run.run: run for run in self.runs()}
        found = [run for run in runs if run.startswith(name)]
        if name in runs or (name and len(found) == 1):
            return runs[name if name in runs else found[0]]
        if not runs:
            raise InvalidInputError(f"unknown run {name!r}: the ledger {self.path} has none")
        raise unknown_name("run", name, found or runs)

    def knows(self, name: str) -> bool:
        """Return whether the name of some run starts with this text."""
        return any(run.run.startswith(name) for run in self.runs())

    def find_request(self, request: str) -> RunRecord | None:
        """Return the latest run of a request; None if there is none."""
        found = [run for run in self.runs() if run.request == request]
        return found[-1] if found else None

    def prepared(self, run: str) -> PreparedRun:
        """Return the prepared run of a run."""
        ((content,),) = self._rows("SELECT prepared FROM runs WHERE run = ?", run)
        return PreparedRun.from_bytes(content)

    def command(self, action: str, run: str, *options: str) -> str:
        """Return the command line ``qmtl ibm ACTION RUN``, with ``--ledger`` if needed."""
        named = () if self.path == ledger_path() else ("--ledger", str(self.path))
        return shlex.join(("qmtl", "ibm", action, run, *options, *named))

    def set_session(self, run: str, session: str) -> None:
        """Record the batch or session of the run's jobs."""
        with self.transaction() as connection:
            connection.execute("UPDATE runs SET session = ? WHERE run = ?", (session, run))
            note(connection, run, None, f"opened {session}")

    def chunks(self, run: str) -> list[ChunkRecord]:
        """Return the run's chunks, in order."""
        query = f"SELECT {_columns(ChunkRecord)} FROM chunks WHERE run = ? ORDER BY idx"
        found = [ChunkRecord(**row) for row in self._rows(query, run)]
        damaged = f"the ledger {self.path} is damaged: run {run}"
        if not found or [chunk.idx for chunk in found] != list(range(len(found))):
            raise LedgerError(f"{damaged} lacks chunks")
        with_result = {
            row["idx"] for row in self._rows("SELECT idx FROM results WHERE run = ?", run)
        }
        for chunk in found:
            if chunk.state not in STATES:
                raise LedgerError(f"{damaged} has a chunk in the unknown state {chunk.state!r}")
            if chunk.state == "stored" and chunk.idx not in with_result:
                raise LedgerError(f"{damaged} lacks the result of chunk {chunk.idx}")
        return found

    def jobs(self, run: str) -> list[str]:
        """Return all known jobs of a run, including cancelled duplicates."""
        rows = self._rows("SELECT job FROM jobs WHERE run = ? ORDER BY rowid", run)
        return [row["job"] for row in rows]

    def results(self, run: str) -> dict[int, bytes]:
        """Return a run's stored raw results, by chunk."""
        rows = self._rows("SELECT idx, raw FROM results WHERE run = ?", run)
        return {row["idx"]: row["raw"] for row in rows}

    def events(self, run: str) -> list[str]:
        """Return the events of a run, one line each."""
        rows = self._rows("SELECT at, idx, event FROM events WHERE run = ? ORDER BY id", run)
        return [
            f"{at} {event}" if idx is None else f"{at} chunk {idx}: {event}"
            for at, idx, event in rows
        ]


def now() -> str:
    """Return the current time in the ledger's format."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def note(connection: sqlite3.Connection, run: str, idx: int | None, event: str) -> None:
    """Add an event of a run, or of one of its chunks."""
    connection.execute(
        "INSERT INTO events (run, idx, at, event) VALUES (?,?,?,?)", (run, idx, now(), event)
    )


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Turn on the write-ahead log; the setting is stored in the file."""
    from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

    def is_busy(error: BaseException) -> bool:
        code = getattr(error, "sqlite_errorcode", 0)
        return code & 0xFF == sqlite3.SQLITE_BUSY

    # This needs exclusive access, and SQLite's timeout does not apply to it. If several processes
    # create a ledger at once, all but one have to try again.
    retrying = Retrying(
        retry=retry_if_exception(is_busy),
        stop=stop_after_delay(TIMEOUT),
        wait=wait_random(0.001, 0.02),
        reraise=True,
    )
    retrying(connection.execute, "PRAGMA journal_mode=WAL")


def _columns(record: type) -> str:
    return ", ".join(field.name for field in fields(record))
