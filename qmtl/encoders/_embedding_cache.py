"""`EmbeddingCache`: vectors on disk, by the content that they were made from."""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qmtl.errors import InvalidInputError

FORMAT = "qmtl-embeddings-1"
WAIT = 120.0  # seconds for another process to finish writing a batch
KEYS_PER_QUERY = 500  # SQLite's own limit is 999 in old versions

Vectors = npt.NDArray[np.float32]


def user_cache_folder() -> Path:
    """Where embeddings are kept by default: ``$XDG_CACHE_HOME/qmtl/embeddings``, else ``~/.cache``.

    Example:
        >>> user_cache_folder().parts[-2:]
        ('qmtl', 'embeddings')
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "qmtl" / "embeddings"


def files_digest(folder: Path) -> str:
    """SHA-256 of a folder's files, names and contents; hidden ones are left out.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "config.json").write_text("{}")
        ...     files_digest(Path(folder))[:8]
        'fc1b8428'
    """
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in name.parts):
            continue
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{name.as_posix()}\n{content}\n".encode())
    return whole.hexdigest()


class EmbeddingCache:
    """Texts' vectors in one SQLite file per model and settings.

    A batch is written in one transaction, so that a crash leaves whole batches only, and several
    processes may read and write at once. Where two make the vector of the same text, the first one
    written stays. The file holds hashes of the texts, not the texts.

    Args:
        folder: where the files are; made if it is not there.
        space: what the vectors depend on besides the text (model, settings), JSON-able.

    Raises:
        InvalidInputError: if the folder cannot be made, or the file cannot be read or written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = EmbeddingCache(Path(folder), {"model": "toy"})
        ...     cache.write({"a text": np.ones(2, np.float32)})
        ...     cache.read(["a text", "another"])
        {'a text': array([1., 1.], dtype=float32)}
    """

    def __init__(self, folder: Path, space: Mapping[str, object]) -> None:
        self.space = json.dumps({"format": FORMAT, **space}, sort_keys=True)
        digest = hashlib.sha256(self.space.encode()).hexdigest()
        self.path = folder / f"{digest[:32]}.sqlite3"

    def read(self, texts: Sequence[str]) -> dict[str, Vectors]:
        """The vectors of those texts that are there."""
        if not self.path.exists():
            return {}
        by_key = {_key(text): text for text in texts}
        keys = list(by_key)
        found: dict[str, Vectors] = {}
        with self._connection() as connection:
            for start in range(0, len(keys), KEYS_PER_QUERY):
                part = keys[start : start + KEYS_PER_QUERY]
                places = ",".join("?" * len(part))
                query = f"SELECT key, vector FROM embeddings WHERE key IN ({places})"
                for key, vector in connection.execute(query, part):
                    found[by_key[key]] = np.frombuffer(vector, dtype="<f4").astype(np.float32)
        return found

    def write(self, vectors: Mapping[str, Vectors]) -> None:
        """Keep these vectors; those of texts that are there already are left as they are."""
        rows = [(_key(text), vector.astype("<f4").tobytes()) for text, vector in vectors.items()]
        with self._connection() as connection, connection:
            connection.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", rows)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection of this call alone, so that the object may cross processes and threads."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=WAIT)) as connection:
                self._create(connection)
                yield connection
        except (OSError, sqlite3.Error) as error:
            raise InvalidInputError(
                f"the embedding cache {self.path} cannot be used: {error}; check that the folder "
                f"can be written, delete the file if it is damaged, or give another folder"
            ) from None

    def _create(self, connection: sqlite3.Connection) -> None:
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables:
            return
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            connection.execute("CREATE TABLE IF NOT EXISTS about (space TEXT PRIMARY KEY)")
            connection.execute("INSERT OR IGNORE INTO about VALUES (?)", (self.space,))
            connection.execute(
                "CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB NOT NULL)"
            )


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
