"""The files of MUStARD, Extended MUStARD and MUStARD++: labels, and the splits of the authors."""

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from qmtl.data._csv import read_table
from qmtl.data._files import check_files, read_text
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import Task

__all__ = ["LABELS", "Utterances", "authors_folds", "mustard_utterances", "speaker_independent"]

LABELS = ("sarcasm", "extended", "plus_plus")
"""Which labels: of MUStARD, of Extended MUStARD, of MUStARD++."""

_JSON = ("sarcasm_data.json", "data/sarcasm_data.json")
_EXTENDED = ("se_mustard_utterances.csv", "data/se_mustard_utterances.csv")
_PLUS_PLUS = ("mustard_pp.csv", "mustard++_text.csv")
_WHERE = {
    "sarcasm": "the MUStARD repository (soujanyaporia/MUStARD on GitHub, folder data)",
    "extended": "the MUStARD repository (soujanyaporia/MUStARD on GitHub, folder data) and, for "
    "se_mustard_utterances.csv, the label sheet of ACL2020-SE-MUStARD-for-Multimodal-Sarcasm-"
    "Detection (GussailRaat on GitHub), saved as CSV with the columns id, sarcasm, "
    "sentiment_implicit, sentiment_explicit, emotion_implicit, emotion_explicit",
    "plus_plus": "the MUStARD++ repository (cfiltnlp/MUStARD_Plus_Plus on GitHub)",
}
_SENTIMENTS = ("negative", "neutral", "positive")
# Numbers 1..9 of the sheet. The sheet does not name them: this is the order of the paper.
_EMOTIONS = ("anger", "excited", "fear", "sad", "surprised", "frustrated", "happy", "neutral",
             "disgust")  # fmt: skip
_PP_EMOTIONS = ("Anger", "Disgust", "Excitement", "Fear", "Frustration", "Happiness", "Neutral",
                "Sadness", "Surprise")  # fmt: skip
_F1 = ("weighted_f1", "macro_f1", "accuracy")
_SARCASM = Task.binary("sarcasm", class_names=("not sarcastic", "sarcastic"), metrics=_F1)


def _classes(name: str, names: Sequence[str]) -> Task:
    return Task.multiclass(name, len(names), class_names=names, metrics=_F1)


_TASKS: dict[str, tuple[Task, ...]] = {
    "sarcasm": (_SARCASM,),
    "extended": (
        _SARCASM,
        _classes("sentiment_implicit", _SENTIMENTS),
        _classes("sentiment_explicit", _SENTIMENTS),
        _classes("emotion_implicit", _EMOTIONS),
        _classes("emotion_explicit", _EMOTIONS),
    ),
    "plus_plus": (
        _SARCASM,
        _classes("sarcasm_type", ("NONE", "PRO", "ILL", "EMB", "LIK")),
        _classes("emotion_implicit", (*_PP_EMOTIONS, "Ridicule")),
        _classes("emotion_explicit", _PP_EMOTIONS),
        Task.regression("valence", metrics=("pearson", "mae", "r2")),
        Task.regression("arousal", metrics=("pearson", "mae", "r2")),
    ),
}
_PP_COLUMNS = {"sarcasm": "Sarcasm", "sarcasm_type": "Sarcasm_Type",
               "emotion_implicit": "Implicit_Emotion", "emotion_explicit": "Explicit_Emotion",
               "valence": "Valence", "arousal": "Arousal"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Utterances:
    """The labelled utterances, in the order of the file.

    Attributes:
        ids: of the scenes, which feature files use as keys.
        texts: what is said.
        contexts: the lines before it, each as ``speaker: text``.
        shows: the show of each.
        tasks: what is labelled.
        labels: task name → labels, see `Task.to_targets`.
        index: row numbers in the file, from 0: of the entry (JSON), or of the record (CSV).
    """

    ids: list[str]
    texts: list[str]
    contexts: list[list[str]]
    shows: list[str]
    tasks: tuple[Task, ...]
    labels: dict[str, list[Any]]
    index: list[int]

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self.ids)

    def __repr__(self) -> str:
        """Number of utterances, and the tasks."""
        return f"Utterances({len(self)}, tasks: {', '.join(task.name for task in self.tasks)})"


def mustard_utterances(path: str | PathLike[str], labels: str = "extended") -> Utterances:
    """The texts and labels of a folder, without embedding them.

    Args:
        path: the folder of the data set.
        labels: "sarcasm" (sarcasm_data.json), "extended" (with se_mustard_utterances.csv too), or
            "plus_plus" (mustard++_text.csv or mustard_pp.csv).

    Raises:
        InvalidInputError: files are missing (all are listed), or a file does not fit.
    """
    if labels not in LABELS:
        raise unknown_name("labels of MUStARD", labels, LABELS)
    needed = {"sarcasm": [_JSON], "extended": [_JSON, _EXTENDED], "plus_plus": [_PLUS_PLUS]}
    files = check_files(path, needed[labels], what="MUStARD", where=_WHERE[labels])
    if labels == "plus_plus":
        return _plus_plus(files[0])
    entries = _entries(files[0])
    ids = list(entries)
    given = {"sarcasm": [entry["sarcasm"] for entry in entries.values()]}
    if labels == "extended":
        given = _extended(files[1], ids, given["sarcasm"])
    return Utterances(
        ids,
        [entry["utterance"] for entry in entries.values()],
        [_lines(entry["context_speakers"], entry["context"]) for entry in entries.values()],
        [entry["show"] for entry in entries.values()],
        _TASKS[labels],
        given,
        list(range(len(ids))),
    )


def _lines(speakers: Sequence[str], texts: Sequence[str]) -> list[str]:
    return [f"{speaker}: {text}" for speaker, text in zip(speakers, texts, strict=True)]


def _entries(file: Path) -> dict[str, dict[str, Any]]:
    text = read_text(file)
    try:
        entries: dict[str, dict[str, Any]] = json.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"{file}: expected JSON: {error}") from error
    kinds = {"utterance": str, "show": str, "sarcasm": bool, "context": list,
             "context_speakers": list}  # fmt: skip
    if not isinstance(entries, dict) or not entries:
        raise InvalidInputError(f"{file}: expected a dict of id → utterance")
    for key, entry in entries.items():
        for field, kind in kinds.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(field), kind):
                raise InvalidInputError(f"{file}: entry {key!r}: expected {kind.__name__} {field}")
        if len(entry["context"]) != len(entry["context_speakers"]):
            raise InvalidInputError(f"{file}: entry {key!r}: a speaker per context line is needed")
    return entries


def _extended(file: Path, ids: Sequence[str], sarcasm: Sequence[bool]) -> dict[str, list[Any]]:
    table = read_table(file, ",", texts=None)
    header, rows = list(table), table.to_dict("records")
    for column in ("id", *(task.name for task in _TASKS["extended"])):
        if column not in header:
            raise InvalidInputError(f"{file}: {unknown_name('column', column, header)}")
    by_id = {row["id"]: (number, row) for number, row in zip(table.index, rows, strict=True)}
    odd = sorted(set(ids) ^ set(by_id))
    if odd or len(rows) != len(ids):
        raise InvalidInputError(
            f"{file}: its ids are not those of sarcasm_data.json; {len(odd)} differ: "
            f"{', '.join(odd[:3]) or 'one is there twice'}"
        )
    labels: dict[str, list[Any]] = {}
    for task in _TASKS["extended"]:
        first = {"sarcasm": 0, "sentiment": -1, "emotion": 1}[task.name.split("_")[0]]
        n_classes = max(2, task.n_outputs)
        allowed = {str(first + code): code for code in range(n_classes)}
        labels[task.name] = [_code(file, *by_id[i], task.name, allowed) for i in ids]
    wrong = [i for i, a, b in zip(ids, labels["sarcasm"], sarcasm, strict=True) if a != b]
    if wrong:
        raise InvalidInputError(
            f"{file}: sarcasm is not that of sarcasm_data.json for {len(wrong)} ids, such as "
            f"{wrong[0]!r}"
        )
    return labels


def _code(file: Path, number: int, row: dict[str, str], name: str, allowed: dict[str, int]) -> int:
    if row[name] not in allowed:
        raise InvalidInputError(
            f"{file}: row {number}, column '{name}': expected one of {', '.join(allowed)}, got "
            f"{row[name]!r}"
        )
    return allowed[row[name]]


def _plus_plus(file: Path) -> Utterances:
    table = read_table(file, ",", texts=None)
    header, rows = list(table), table.to_dict("records")
    for column in ("SCENE", "SENTENCE", "SPEAKER", "SHOW", *_PP_COLUMNS.values()):
        if column not in header:
            raise InvalidInputError(f"{file}: {unknown_name('column', column, header)}")
    # KEY is not used: one utterance of the official file has the emotion in that column.
    is_utterance = [bool(row["Sarcasm"]) for row in rows]
    contexts: dict[str, list[str]] = {}
    for row, labelled in zip(rows, is_utterance, strict=True):
        if not labelled:
            contexts.setdefault(row["SCENE"], []).append(f"{row['SPEAKER']}: {row['SENTENCE']}")
    index = [number for number, labelled in enumerate(is_utterance) if labelled]
    ids = [rows[i]["SCENE"] for i in index]
    if not index or len(set(ids)) != len(ids):
        raise InvalidInputError(f"{file}: expected one row with labels per SCENE")
    tasks = _TASKS["plus_plus"]
    return Utterances(
        ids,
        [rows[i]["SENTENCE"] for i in index],
        [contexts.get(i, []) for i in ids],
        [rows[i]["SHOW"] for i in index],
        tasks,
        {task.name: [_pp_label(file, i, rows[i], task) for i in index] for task in tasks},
        index,
    )


def _pp_label(file: Path, index: int, row: dict[str, str], task: Task) -> int | float:
    cell = row[_PP_COLUMNS[task.name]]
    # "NONE" is a class of Sarcasm_Type, not a missing value.
    words = ("0", "1") if task.kind == "binary" else task.class_names
    if task.kind == "regression" and cell in tuple("123456789"):
        return float(cell)
    if words is not None and cell in words:
        return words.index(cell)
    allowed = "a whole number from 1 to 9" if words is None else f"one of {', '.join(words)}"
    raise InvalidInputError(
        f"{file}: record {index + 2}, column '{_PP_COLUMNS[task.name]}': expected {allowed}, got "
        f"{cell!r}"
    )


_FOLDS_JSON = ("split_indices.json", "data/split_indices.json")
_FOLDS_PICKLE = ("split_indices.p", "data/split_indices.p")

Rows = tuple[np.ndarray, np.ndarray]


def authors_folds(path: str | PathLike[str], n: int) -> list[Rows]:
    """The authors' five folds: training and test rows of each.

    Args:
        path: the folder with ``split_indices.json`` (speaker_dependent_folds: a list of train and
            test), or the authors' own ``split_indices.p``, which is read without running code.
        n: number of utterances.

    Raises:
        InvalidInputError: the file is missing or damaged, or its folds are not a partition.
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
    """The authors' rule: the show FRIENDS is the test part, and the rest is to train on.

    Raises:
        InvalidInputError: a part would be empty.

    Example:
        >>> [part.tolist() for part in speaker_independent(["BBT", "FRIENDS", "BBT"])]
        [[0, 2], [1]]
    """
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
    """A pickle may name any function to call; this one may name those that make an array."""

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
    except Exception as error:  # a damaged pickle fails in any way
        raise InvalidInputError(f"{file}: cannot be read as pairs of arrays: {error}") from error
