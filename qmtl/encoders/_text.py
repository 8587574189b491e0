"""Texts for encoders: TextEmbedding caches their vectors on disk, TextTokens gives tokens."""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qmtl._io import cache_folder
from qmtl.errors import (
    InvalidInputError,
    MissingDependencyError,
    as_path,
    check_integer,
    missing_extra,
    near_paths,
)

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
FORMAT = "qmtl-embeddings-1"
WAIT = 120.0  # seconds to wait until another process has written a batch
KEYS_PER_QUERY = 500  # old versions of SQLite allow at most 999

Vectors = npt.NDArray[np.float32]


def files_digest(folder: Path) -> str:
    """Hash the names and contents of a folder's files (SHA-256); ignore hidden files."""
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
    """A cache of texts' vectors, in one SQLite file per model and settings.

    One transaction writes a batch, so that a crash never leaves half a batch. Several processes may
    read and write at once; the first vector of a text stays. The file holds hashes of the texts,
    not the texts. `space` names the model and the settings on which the vectors depend.
    """

    def __init__(self, folder: Path, space: Mapping[str, object]) -> None:
        self.space = json.dumps({"format": FORMAT, **space}, sort_keys=True)
        digest = hashlib.sha256(self.space.encode()).hexdigest()
        self.path = folder / f"{digest[:32]}.sqlite3"

    def read(self, texts: Sequence[str]) -> dict[str, Vectors]:
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
        """Store these vectors; vectors that are already in the cache do not change."""
        rows = [(_key(text), vector.astype("<f4").tobytes()) for text, vector in vectors.items()]
        with self._connection() as connection, connection:
            connection.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", rows)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Connect for one call, so that other processes and threads may use the cache."""
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


class TextEmbedding:
    """Converts texts to vectors by a frozen sentence-transformers model, and embeds each text once.

    Vectors are cached on disk by SHA-256 of the model, its settings and the text, batch by batch: a
    killed run continues where it stopped, and no model is loaded for known texts. A model in a
    folder is identified by the contents of its files, without asking a hub; a model on the hub by
    its name and `revision`.

    Vectors are returned as the model computes them; all-MiniLM-L6-v2 and most others normalise them
    to Euclidean length 1. Their last digits depend on the batch in which a text was embedded; a
    cached vector is always returned unchanged.

    Args:
        model: folder of a model, or its name on the Hugging Face hub.
        cache: True for the user's cache folder, a folder of your own, or None or False for none.
        batch_size: number of texts embedded (and written) at a time.
        max_length: largest number of tokens read from a text; None for the model's limit, which is
            256 for the default model.
        device: torch device; None lets sentence-transformers choose.
        revision: branch, tag or commit of a model on the hub; give a commit for reproducible
            vectors.
        progress: whether to show a progress bar, if standard error is a terminal.

    Raises:
        InvalidInputError: the folder does not exist or holds no model, or a number is not >= 1.

    Example:
        >>> embed = TextEmbedding("sentence-transformers/all-MiniLM-L6-v2", cache=None)
        >>> embed  # nothing is loaded before the first text
        TextEmbedding('sentence-transformers/all-MiniLM-L6-v2')

    References:
        Reimers and Gurevych, "Sentence-BERT", arXiv:1908.10084.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        cache: str | Path | bool | None = True,
        batch_size: int = 64,
        max_length: int | None = None,
        device: str | None = None,
        revision: str | None = None,
        progress: bool = True,
    ) -> None:
        self.folder = model_folder(model)
        if self.folder is not None and revision is not None:
            raise InvalidInputError(f"revision is for models of the hub, and {model} is a folder")
        check_integer("batch_size", batch_size)
        if max_length is not None:
            check_integer("max_length", max_length)
        self.model = str(model)
        self.cache_folder: Path | None = None
        if cache is not None and cache is not False:
            self.cache_folder = as_path(
                cache_folder("embeddings") if cache is True else cache, "cache"
            )
        self.batch_size, self.max_length = batch_size, max_length
        self.device, self.revision, self.progress = device, revision, progress
        self._cache: EmbeddingCache | None = None
        self._loaded: Any = None

    def __call__(self, texts: Iterable[str]) -> Vectors:
        """Return the texts' vectors, float32 (n, d); a repeated text is embedded once.

        Raises:
            InvalidInputError: there is no text, one is not a valid string, or the model cannot be
                loaded.
            MissingDependencyError: a vector is not in the cache, and sentence-transformers is not
                installed.
        """
        wanted = _check_texts(texts)
        unique = list(dict.fromkeys(wanted))
        cache = self._open_cache()
        found = {} if cache is None else cache.read(unique)
        missing = [text for text in unique if text not in found]
        for vectors in self._embedded(missing):
            if cache is not None:
                cache.write(vectors)
                # Another process may have written a vector first: return the cached one.
                vectors = cache.read(list(vectors))
            found |= vectors
        return np.stack([found[text] for text in wanted])

    def __repr__(self) -> str:
        return f"TextEmbedding({self.model!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Drop the loaded model when pickling; another process loads it if needed."""
        return self.__dict__ | {"_loaded": None}

    def _open_cache(self) -> EmbeddingCache | None:
        if self._cache is None and self.cache_folder is not None:
            if self.folder is not None:
                identity = {"files": files_digest(self.folder)}
            else:
                identity = {"name": self.model, "revision": self.revision or "main"}
            space = {"model": identity, "max_length": self.max_length}
            self._cache = EmbeddingCache(self.cache_folder, space)
        return self._cache

    def _embedded(self, texts: list[str]) -> Iterator[dict[str, Vectors]]:
        """Embed texts batch by batch; texts of similar length share a batch, to save padding."""
        if not texts:
            return
        if self._loaded is None:
            self._loaded = self._load()
        ordered = sorted(texts, key=len, reverse=True)
        starts = range(0, len(ordered), self.batch_size)
        for start in self._tracked(starts):
            batch = ordered[start : start + self.batch_size]
            vectors = self._loaded.encode(
                batch, batch_size=len(batch), convert_to_numpy=True, show_progress_bar=False
            )
            yield dict(zip(batch, np.asarray(vectors, dtype=np.float32), strict=True))

    def _tracked(self, starts: range) -> Iterable[int]:
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        hidden = not (self.progress and console.is_terminal)
        return track(starts, "Embedding", console=console, transient=True, disable=hidden)

    def _load(self) -> Any:
        model = load_sentence_encoder(self.model, revision=self.revision, device=self.device)
        if self.max_length is not None:
            limit = model.max_seq_length
            if limit is not None and self.max_length > limit:
                raise InvalidInputError(
                    f"max_length must be at most {limit} for {self.model!r}, got {self.max_length}"
                )
            model.max_seq_length = self.max_length
        return model


class TextTokens:
    """Converts texts to token numbers, for encoders such as `AdaptedText`.

    Args:
        model: a folder with a model of sentence-transformers, or a name on the Hugging Face hub.
        max_length: largest number of tokens read from a text; the model's limit if that is less.
        revision: branch, tag or commit of a model on the hub.

    Raises:
        InvalidInputError: the folder does not exist or holds no model, or a number is not >= 1.

    Example:
        >>> TextTokens("sentence-transformers/all-MiniLM-L6-v2", max_length=32)
        TextTokens('sentence-transformers/all-MiniLM-L6-v2', max_length=32)
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        max_length: int = 64,
        *,
        revision: str | None = None,
    ) -> None:
        max_length = check_integer("max_length", max_length)
        model_folder(model)
        self.model, self.max_length, self.revision = str(model), max_length, revision
        self._tokenizer: Any = None

    def __call__(self, texts: Iterable[str]) -> npt.NDArray[np.float32]:
        """Return token numbers, float32 (n, max_length), with -1 after a text's end.

        Raises:
            InvalidInputError: there is no text, one is not a valid string, or the model cannot
                be loaded.
            MissingDependencyError: sentence-transformers is not installed.
        """
        wanted = _check_texts(texts)
        if self._tokenizer is None:
            loaded = load_sentence_encoder(self.model, revision=self.revision, device="cpu")
            self._tokenizer = loaded.tokenizer
            self.max_length = min(self.max_length, loaded.max_seq_length or self.max_length)
        options = {"truncation": True, "max_length": self.max_length}
        rows = self._tokenizer(wanted, **options)["input_ids"]
        tokens = np.full((len(rows), self.max_length), -1.0, dtype=np.float32)
        for place, row in enumerate(rows):
            tokens[place, : len(row)] = row
        return tokens

    def __repr__(self) -> str:
        return f"TextTokens({self.model!r}, max_length={self.max_length})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tokenizer": None}


def load_sentence_encoder(
    model: str, *, revision: str | None = None, device: str | None = None
) -> Any:
    """Load a model of sentence-transformers, from a folder or from the hub."""
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except (ImportError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "sentence_transformers":
            said = "embedding texts needs sentence-transformers"
            raise missing_extra(said, "text", error) from None
        raise MissingDependencyError(
            f"sentence-transformers is installed, but cannot be imported; a torchvision that does "
            f"not fit torch is a common cause ({' '.join(str(error).split())})"
        ) from None
    folder = model_folder(model)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return SentenceTransformer(
            model if folder is None else str(folder),
            device=device,
            revision=revision,
            local_files_only=folder is not None,
        )
    except Exception as error:  # the library and the model's files may raise any exception
        reason = " ".join(str(error).split())
        raise InvalidInputError(
            f"the sentence encoder {model!r} cannot be loaded: {reason} (without a network, give "
            f"the folder of a model)"
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()


def model_folder(model: str | Path) -> Path | None:
    """Return the model's folder, or None for a name on the hub."""
    folder = as_path(model, "model")
    if not folder.is_dir():
        # Names on the hub have the form NAME or OWNER/NAME.
        if isinstance(model, Path) or model[:1] in ("", ".", "/", "~") or model.count("/") > 1:
            raise InvalidInputError(f"model: there is no folder {str(model)!r}{near_paths(folder)}")
        return None
    if not any((folder / name).is_file() for name in ("modules.json", "config.json")):
        raise InvalidInputError(
            f"model: the folder {str(model)!r} holds no sentence encoder (neither modules.json nor "
            f"config.json is in it)"
        )
    return folder.resolve()


def _check_texts(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str | Mapping) or hasattr(texts, "columns"):
        kind = "one string" if isinstance(texts, str) else type(texts).__name__
        raise InvalidInputError(f"texts must be a list of strings, got {kind}")
    wanted = list(texts)
    if not wanted:
        raise InvalidInputError("texts must hold at least one text, got none")
    for i, text in enumerate(wanted):
        if not isinstance(text, str):
            raise InvalidInputError(f"texts must be strings, got {text!r} at position {i}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInputError(
                f"texts must be valid Unicode, but the one at position {i} is not: {error}"
            ) from None
    return wanted
