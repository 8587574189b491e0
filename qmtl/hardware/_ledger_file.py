"""The file of a ledger: its tables, made when they are not there, and transactions on them.

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

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from qmtl.errors import LedgerError

__all__ = ["LedgerFile"]

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


class LedgerFile:
    """A SQLite file with the ledger's tables.

    Args:
        path: the file, which is made when it is not there.

    Raises:
        LedgerError: if the file is something else, or of a version that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Models and inputs are nobody else's business.
            self.path.touch(mode=0o600)
        except OSError as error:
            raise LedgerError(f"the ledger {self.path} cannot be made: {error}") from None
        with self.connection() as connection:
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
    def connection(self) -> Iterator[sqlite3.Connection]:
        """A connection to read by."""
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
        with self.connection() as connection:
            # What was said to be written stays written, even if the power fails.
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()


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
