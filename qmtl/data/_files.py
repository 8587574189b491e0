"""Checks and readers for downloaded files: missing files, texts, and files of vectors by id."""

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from qmtl.errors import InvalidInputError


def check_files(
    path: str | PathLike[str], needed: Iterable[str | Sequence[str]], *, what: str, where: str
) -> list[Path]:
    """Find the files of a data set, or raise one error that lists all missing ones.

    Args:
        path: the folder.
        needed: names relative to it; a sequence of names lists alternatives.
        what: name of the data set, for the message.
        where: where to get it, in words.

    Returns:
        One existing file per entry of `needed`.

    Raises:
        InvalidInputError: the folder or a file is missing.
    """
    root = Path(path)
    if not root.is_dir():
        problem = "is a file, not a folder" if root.is_file() else None
        said = f"{root} {problem}" if problem else f"there is no folder {root}"
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


def read_text(path: Path) -> str:
    """A whole text file in UTF-8, with or without a byte order mark.

    Raises:
        InvalidInputError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: expected UTF-8 text, got other bytes") from error
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read: {error.strerror}") from error


def features_by_id(
    path: str | PathLike[str], ids: Sequence[str], name: str
) -> tuple[np.ndarray, int]:
    """The vectors of some ids; ids that are not in the file get NaN.

    Args:
        path: a .npz (id → array), a .json (id → list), or a .pt (a dict of id → tensor, read
            without running code). Arrays have shape (d,), or (frames, d), of which the mean over
            frames is taken.
        ids: ids of the rows wanted.
        name: name of the modality, for messages.

    Returns:
        float32 (len(ids), d), and the number of missing ids.

    Raises:
        InvalidInputError: the file is missing, of another kind or damaged; vectors have different
            widths or are not finite; or none of the ids is in the file.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "audio.json"
        >>> _ = file.write_text('{"a": [1, 2], "b": [[0, 0], [4, 8]]}')
        >>> features_by_id(file, ["b", "c"], "audio")
        (array([[ 2.,  4.],
               [nan, nan]], dtype=float32), 1)
    """
    file = Path(path)
    if not file.is_file():
        raise InvalidInputError(f"{name}: there is no file {file}")
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
    readers = {".npz": _npz, ".json": _json, ".pt": _pt}
    if file.suffix not in readers:
        raise InvalidInputError(
            f"{name}: expected a .npz, .json or .pt file of id → vector, got {file.name}; pickles "
            f"can run code when they are opened, so convert them with numpy.savez(path, **features)"
        )
    try:
        stored = readers[file.suffix](file)
    except Exception as error:
        raise InvalidInputError(f"{name}: {file} cannot be read: {error}") from error
    if not isinstance(stored, Mapping):
        raise InvalidInputError(
            f"{name}: {file}: expected id → vector, got {type(stored).__name__}"
        )
    return stored


def _npz(file: Path) -> Any:
    if not zipfile.is_zipfile(file):
        raise ValueError("it is no .npz file")
    with np.load(file, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _pt(file: Path) -> Any:
    import torch

    return torch.load(file, map_location="cpu", weights_only=True)


def _vector(file: Path, key: str, values: Any) -> np.ndarray:
    try:
        vector = np.asarray(values, dtype=np.float32)
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
