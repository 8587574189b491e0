"""Read files of downloaded data sets: texts, and vectors by id; embed texts."""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qmtl.errors import InvalidInputError, as_path, near_paths
from qmtl.tasks import as_numpy


def check_files(
    path: str | PathLike[str], needed: Iterable[str | Sequence[str]], *, what: str, where: str
) -> list[Path]:
    """Find a file for each name or list of alternative names; one error lists all missing files."""
    root = as_path(path)
    if not root.is_dir():
        problem = "is a file, not a folder" if root.is_file() else None
        said = f"{root} {problem}" if problem else f"there is no folder {root}{near_paths(root)}"
        raise InvalidInputError(f"{what}: {said}; get the data from {where}")
    found, missing = [], []
    for entry in needed:
        names = [entry] if isinstance(entry, str) else list(entry)
        there = [root / name for name in names if (root / name).is_file()]
        if there:
            found.append(there[0])
        else:
            missing.append(" or ".join(names))
    if missing:
        raise InvalidInputError(
            f"{what}: {root} lacks {len(missing)} of {len(missing) + len(found)} files: "
            f"{', '.join(missing)}; get them from {where}"
        )
    return found


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of reading a text file in UTF-8 into `InvalidInputError`."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: expected UTF-8 text, got other bytes") from error
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read: {error.strerror}") from error


def read_text(path: Path) -> str:
    """Read a whole text file in UTF-8, with or without a byte order mark."""
    with reading(path):
        return path.read_text(encoding="utf-8-sig")


def features_by_id(
    path: str | PathLike[str], ids: Sequence[str], name: str
) -> tuple[np.ndarray, int]:
    """Return vectors by id, float32 (ids, d), NaN for a missing id, and the number of missing ids.

    The file is a .npz (id → array), a .json (id → list), or a .pt (a dict of id → tensor, read
    without running code). Arrays (frames, d) are averaged over frames.
    """
    file = as_path(path, name)
    if not file.is_file():
        raise InvalidInputError(f"{name}: there is no file {file}{near_paths(file)}")
    stored = _read(file, name)
    vectors = {i: _vector(file, i, stored[i]) for i in ids if i in stored}
    if not vectors:
        raise InvalidInputError(
            f"{name}: {file} has none of the {len(ids)} ids, such as {ids[0]!r}; it has "
            f"{', '.join(map(repr, list(stored)[:3])) or 'none at all'}"
        )
    widths = {len(vector) for vector in vectors.values()}
    if len(widths) > 1:
        raise InvalidInputError(f"{name}: {file}: vectors of different widths: {sorted(widths)}")
    absent = np.full(widths.pop(), np.nan, dtype=np.float32)
    rows = np.stack([vectors.get(i, absent) for i in ids])
    return rows, len([i for i in ids if i not in vectors])


def _read(file: Path, name: str) -> Mapping[str, Any]:
    if file.suffix not in (".npz", ".json", ".pt"):
        raise InvalidInputError(
            f"{name}: expected a .npz, .json or .pt file of id → vector, got {file.name}; pickles "
            f"can run code when they are opened, so convert them with numpy.savez(path, **features)"
        )
    try:
        if file.suffix == ".json":
            stored: Any = json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix == ".pt":
            stored = torch.load(file, map_location="cpu", weights_only=True)
        elif zipfile.is_zipfile(file):
            with np.load(file, allow_pickle=False) as arrays:
                stored = dict(arrays)
        else:
            raise ValueError("it is no .npz file")
    except Exception as error:
        raise InvalidInputError(f"{name}: {file} cannot be read: {error}") from error
    if not isinstance(stored, Mapping):
        raise InvalidInputError(
            f"{name}: {file}: expected id → vector, got {type(stored).__name__}"
        )
    return stored


def _vector(file: Path, key: str, values: Any) -> np.ndarray:
    try:
        vector = np.asarray(as_numpy(values), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{file}: {key!r}: expected numbers") from error
    if vector.ndim == 2 and len(vector):
        vector = vector.mean(axis=0)
    if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all():
        raise InvalidInputError(
            f"{file}: {key!r}: expected finite numbers (d,) or (frames, d), got shape "
            f"{np.shape(values)}"
        )
    return vector


Embed = Callable[[list[str]], Any]
"""Texts to vectors: N texts become an array (N, d)."""


def embed_texts(texts: Sequence[str], embed: Embed | None = None) -> np.ndarray:
    """Embed texts as vectors of length √d, float32 (N, d); each distinct text is embedded once.

    After scaling, the entries are of order one for every model, so that one encoder and one
    learning rate suit all models. Cosine similarities do not change. A zero vector stays zero.

    Args:
        texts: at least one text.
        embed: list of texts → array (N, d); None for `qmtl.encoders.TextEmbedding()`.

    Raises:
        InvalidInputError: `embed` is not callable, or does not return a finite array (N, d).

    Example:
        >>> lengths = lambda texts: np.array([[len(text), 0.0] for text in texts])
        >>> embed_texts(["a", "bc", "a"], lengths).round(3).tolist()
        [[1.4140000343322754, 0.0], [1.4140000343322754, 0.0], [1.4140000343322754, 0.0]]
    """
    if isinstance(texts, str):
        raise InvalidInputError("texts must be a list of strings, got one string")
    if embed is None:
        from qmtl.encoders import TextEmbedding

        embed = TextEmbedding()
    if not callable(embed):
        raise InvalidInputError(
            f"embed: expected a callable, list of texts → array (N, d), got {type(embed).__name__}"
        )
    places: dict[str, int] = {}
    rows = [places.setdefault(text, len(places)) for text in texts]
    vectors = _as_vectors(embed(list(places)), len(places))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scale = np.divide(np.sqrt(vectors.shape[1]), lengths, where=lengths > 0, out=lengths * 0)
    return np.asarray((vectors * scale)[rows])


def text_model(name: str | None, max_tokens: int | None = None) -> Embed:
    """Return a `TextTokens` if `max_tokens` is given, else a `TextEmbedding`."""
    from qmtl.encoders import TextEmbedding, TextTokens

    if max_tokens is None:
        return TextEmbedding() if name is None else TextEmbedding(name)
    return TextTokens(max_length=max_tokens) if name is None else TextTokens(name, max_tokens)


def gives_tokens(embed: Embed | None) -> bool:
    """Return whether texts become token numbers instead of embeddings."""
    from qmtl.encoders import TextTokens

    return isinstance(embed, TextTokens)


def pair_tokens(first: np.ndarray, second: np.ndarray | None = None) -> np.ndarray:
    """Stack the token numbers of one or two texts: (N, 2, tokens), -1 for no token."""
    second = np.full_like(first, -1) if second is None else second
    return np.stack([first, second], axis=1).astype(np.float32)


def pair_features(first: np.ndarray, second: np.ndarray | None = None) -> np.ndarray:
    """Return features of sentence pairs: [u, v, |u − v|, u ⊙ v] (InferSent, arXiv:1705.02364).

    A single sentence becomes [u, 0, 0, 0], of the same width. The weights that multiply the zeros
    get no gradient from this row, so that only tasks on pairs train them. (A sentence as a pair
    with itself, [u, u, 0, u²], would look like a perfect paraphrase.)

    Args:
        first: embeddings u (N, d).
        second: embeddings v (N, d), or None for single sentences.

    Returns:
        float32 (N, 4 d).

    Example:
        >>> pair_features(np.array([[1.0, 2.0]]), np.array([[3.0, 1.0]])).tolist()
        [[1.0, 2.0, 3.0, 1.0, 2.0, 1.0, 3.0, 2.0]]
        >>> pair_features(np.array([[1.0, 2.0]])).tolist()
        [[1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    if second is None:
        absent = np.zeros_like(first)
        return np.concatenate([first, absent, absent, absent], axis=1, dtype=np.float32)
    if first.shape != second.shape:
        raise InvalidInputError(
            f"pair_features: expected two arrays of one shape, got {first.shape} and {second.shape}"
        )
    both = [first, second, np.abs(first - second), first * second]
    return np.concatenate(both, axis=1, dtype=np.float32)


def _as_vectors(values: Any, n: int) -> np.ndarray:
    try:
        vectors = np.asarray(as_numpy(values), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"embed: expected an array of numbers (N, d), got {type(values).__name__}"
        ) from error
    if vectors.ndim != 2 or len(vectors) != n or not vectors.shape[1]:
        raise InvalidInputError(
            f"embed: expected shape ({n}, d) for {n} texts, got {vectors.shape}"
        )
    if not np.isfinite(vectors).all():
        raise InvalidInputError("embed: the embeddings hold NaN or infinity")
    return vectors
