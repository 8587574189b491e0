"""The splits of MUStARD's authors: five folds, and training and test shows."""

import json
import pickle
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from qmtl.data._files import check_files, read_text
from qmtl.errors import InvalidInputError

_FOLDS_JSON = ("split_indices.json", "data/split_indices.json")
_FOLDS_PICKLE = ("split_indices.p", "data/split_indices.p")

Rows = tuple[np.ndarray, np.ndarray]


def authors_folds(path: str | PathLike[str], n: int) -> list[Rows]:
    """Return the authors' five folds: training and test rows of each.

    They are in ``split_indices.json`` (speaker_dependent_folds: a list of train and test), or in
    the authors' ``split_indices.p``, which is read without running code.
    """
    (file,) = check_files(
        path,
        [(*_FOLDS_JSON, *_FOLDS_PICKLE)],
        what="MUStARD's folds",
        where="the MUStARD repository (soujanyaporia/MUStARD on GitHub, folder data)",
    )
    pairs = _from_json(file) if file.suffix == ".json" else _from_pickle(file)
    try:
        folds = [(_rows(train), _rows(test)) for train, test in pairs]
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{file}: expected pairs of row numbers: {error}") from error
    everything = np.arange(n)
    for train, test in folds:
        if not np.array_equal(np.sort(np.concatenate([train, test])), everything):
            raise InvalidInputError(f"{file}: a fold is not a partition of the {n} utterances")
    tests = np.concatenate([test for _, test in folds]) if folds else everything[:0]
    if not np.array_equal(np.sort(tests), everything):
        raise InvalidInputError(
            f"{file}: the test parts of its {len(folds)} folds are not a partition of the {n} "
            f"utterances"
        )
    return folds


def speaker_independent(shows: list[str]) -> Rows:
    """Split by the authors' rule: test on the show FRIENDS, train on the others."""
    is_test = np.array([show == "FRIENDS" for show in shows])
    if is_test.all() or not is_test.any():
        raise InvalidInputError(
            "split 'speaker-independent': expected utterances of the show FRIENDS and of others"
        )
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def _rows(values: Any) -> np.ndarray:
    rows = np.asarray(values)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ValueError(f"got {rows.dtype} of shape {rows.shape}")
    return rows.astype(np.int64)


def _from_json(file: Path) -> list[tuple[Any, Any]]:
    text = read_text(file)
    try:
        folds = json.loads(text)["speaker_dependent_folds"]
        return [(fold["train"], fold["test"]) for fold in folds]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"{file}: expected speaker_dependent_folds, a list of {{train, test}}: {error!r}"
        ) from error


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that only calls functions that make arrays; a pickle could name any function."""

    _ALLOWED = frozenset({
        ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
    })  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, not only arrays")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _from_pickle(file: Path) -> list[Any]:
    try:
        with file.open("rb") as stream:
            return list(_ArraysOnly(stream, encoding="latin1").load())
    except Exception as error:  # a damaged pickle may raise any exception
        raise InvalidInputError(f"{file}: cannot be read as pairs of arrays: {error}") from error
