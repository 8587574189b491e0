"""`mustard`: sarcasm with sentiment and emotion, from text and, if given, audio and video."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from qmtl._sections import Fractions, NameOrPath, RecipePath
from qmtl.data._arrays import join_modalities
from qmtl.data._csv import read_table
from qmtl.data._dataset import DataSection, MultiTaskData, Split, take_splits
from qmtl.data._files import Embed, check_files, embed_texts, features_by_id, read_text, text_model
from qmtl.data._learn import scale_of
from qmtl.data._mustard_folds import Rows, authors_folds, speaker_independent
from qmtl.data._splits import Indices, check_seed, split_sizes, stratified_sample, validation_cut
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import Task, chosen_tasks

LABELS = ("sarcasm", "extended", "plus_plus")
"""The sets of labels: those of MUStARD, Extended MUStARD and MUStARD++."""

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
# The sheet numbers the emotions 1 to 9 without names; this is the order in the paper.
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

    `ids` name the scenes, also in feature files. `contexts` are the lines before each utterance,
    each as ``speaker: text``. `index` numbers the entries (JSON) or records (CSV) from 0.
    """

    ids: list[str]
    texts: list[str]
    contexts: list[list[str]]
    shows: list[str]
    tasks: tuple[Task, ...]
    labels: dict[str, list[Any]]
    index: list[int]

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Utterances({len(self)}, tasks: {', '.join(task.name for task in self.tasks)})"


def mustard_utterances(path: str | PathLike[str], labels: str = "extended") -> Utterances:
    """Read the texts and labels of a folder, without embedding them.

    Args:
        path: the folder of the data set.
        labels: "sarcasm" (sarcasm_data.json), "extended" (with se_mustard_utterances.csv too), or
            "plus_plus" (mustard++_text.csv or mustard_pp.csv).

    Raises:
        InvalidInputError: files are missing (all are listed), or do not fit.
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
    pairs = [zip(e["context_speakers"], e["context"], strict=True) for e in entries.values()]
    return Utterances(
        ids,
        [entry["utterance"] for entry in entries.values()],
        [[f"{speaker}: {line}" for speaker, line in own] for own in pairs],
        [entry["show"] for entry in entries.values()],
        _TASKS[labels],
        given,
        list(range(len(ids))),
    )


def _entries(file: Path) -> dict[str, dict[str, Any]]:
    text = read_text(file)
    try:
        entries: dict[str, dict[str, Any]] = json.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"{file}: expected JSON: {error}") from error
    kinds = {"utterance": str, "show": str, "sarcasm": bool}
    kinds |= {"context": list, "context_speakers": list}
    if not isinstance(entries, dict) or not entries:
        raise InvalidInputError(f"{file}: expected a dict of id → utterance")
    for key, entry in entries.items():
        for field, kind in kinds.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(field), kind):
                raise InvalidInputError(f"{file}: entry {key!r}: expected {kind.__name__} {field}")
        if len(entry["context"]) != len(entry["context_speakers"]):
            raise InvalidInputError(f"{file}: entry {key!r}: a speaker per context line is needed")
    return entries


def _table(file: Path, columns: Sequence[str]) -> Any:
    table = read_table(file, ",", texts=None)
    for column in columns:
        if column not in table:
            raise InvalidInputError(f"{file}: {unknown_name('column', column, list(table))}")
    return table


def _extended(file: Path, ids: Sequence[str], sarcasm: Sequence[bool]) -> dict[str, list[Any]]:
    table = _table(file, ["id", *(task.name for task in _TASKS["extended"])])
    rows = table.to_dict("records")
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
        codes = {str(first + code): code for code in range(max(2, task.n_outputs))}
        labels[task.name] = []
        for number, row in map(by_id.__getitem__, ids):
            if row[task.name] not in codes:
                raise InvalidInputError(
                    f"{file}: row {number}, column '{task.name}': expected one of "
                    f"{', '.join(codes)}, got {row[task.name]!r}"
                )
            labels[task.name].append(codes[row[task.name]])
    wrong = [i for i, a, b in zip(ids, labels["sarcasm"], sarcasm, strict=True) if a != b]
    if wrong:
        raise InvalidInputError(
            f"{file}: sarcasm is not that of sarcasm_data.json for {len(wrong)} ids, such as "
            f"{wrong[0]!r}"
        )
    return labels


def _plus_plus(file: Path) -> Utterances:
    columns = ["SCENE", "SENTENCE", "SPEAKER", "SHOW", *_PP_COLUMNS.values()]
    rows = _table(file, columns).to_dict("records")
    # KEY is not used: in the official file, one utterance has its emotion in that column.
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


_NAMES = {"sarcasm": "mustard", "extended": "mustard-extended", "plus_plus": "mustard-plus-plus"}


class MustardSection(DataSection):
    """Section ``[data]`` with ``source = "mustard"``, or with another of the three labels.

    Its keys are the arguments of `mustard`. The argument `split` is two keys here: ``split`` names
    a split of the authors, ``splits`` gives three fractions.
    """

    source: Literal["mustard", "mustard-extended", "mustard-plus-plus"]
    path: RecipePath
    split: str | None = None
    splits: Fractions | None = None
    context: bool = False
    audio: RecipePath | None = None
    visual: RecipePath | None = None
    validation: float | None = Field(None, gt=0, lt=1)
    text_model: NameOrPath | None = None

    @model_validator(mode="after")
    def _one_split(self) -> "MustardSection":
        if self.split is not None and self.splits is not None:
            raise ValueError("give split (of the authors) or splits (fractions), not both")
        return self

    def load(self) -> MultiTaskData:
        labels = {name: key for key, name in _NAMES.items()}[self.source]
        options = self.given("context", "audio", "visual", "validation")
        options |= {"split": self.split or self.splits, "embed": text_model(self.text_model)}
        return mustard(self.path, labels, tasks=self.tasks, seed=self.seed, **options)


def mustard(
    path: str | PathLike[str],
    labels: str = "extended",
    *,
    split: str | Sequence[float] | None = None,
    tasks: Sequence[str] | None = None,
    embed: Embed | None = None,
    context: bool = False,
    audio: str | PathLike[str] | None = None,
    visual: str | PathLike[str] | None = None,
    validation: float = 0.15,
    seed: int = 0,
) -> MultiTaskData:
    """Load MUStARD (arXiv:1906.01815), Extended MUStARD (2020.acl-main.401) or MUStARD++.

    Tasks of the extended labels: sarcasm, sentiment_implicit, sentiment_explicit (negative,
    neutral, positive), emotion_implicit, emotion_explicit (nine classes; the sheet only numbers
    them, and the names follow the order of the paper). Tasks of MUStARD++: sarcasm, sarcasm_type
    (NONE is a class), emotion_implicit, emotion_explicit, valence and arousal (regression, 1 to 9).

    Texts are embedded by `embed_texts`. With a second modality the inputs have the layout of
    `join_modalities`, and `MultiTaskData.modalities` holds the widths. Audio and visual features
    are standardised over the training rows that have them.

    Args:
        path: the folder with the label files (or the MUStARD repository itself).
        labels: "sarcasm", "extended" or "plus_plus".
        split: "fold 0" to "fold 4", the authors' folds; "speaker-independent" (the authors' rule:
            test on FRIENDS); or three fractions, stratified. None means "fold 0", or (0.7, 0.15,
            0.15) for MUStARD++, which has no folds.
        tasks: some of the tasks, in the order that circuits use; None for all.
        embed: list of texts → array (N, d); None for `qmtl.encoders.TextEmbedding()`.
        context: whether the lines before the utterance, with their speakers, are a separate
            modality.
        audio: file of audio features by id: a .npz or .json, or a .pt of ``torch.save``, with
            arrays (d,) or (frames, d); the latter are averaged over frames.
        visual: file of video features, in the same form.
        validation: share of the authors' training part that is held out for validation.
        seed: seed of the validation split, and of splits by fractions.

    Returns:
        A data set with inputs float32 (N, d), or in the layout of `join_modalities`. `Split.index`
        holds the place, from 0, of each row's entry in sarcasm_data.json or in MUStARD++'s file.

    Raises:
        InvalidInputError: files are missing (all are listed), or a file or an argument does not
            fit.

    Example:
        >>> import json, pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> line = {"show": "BBT", "context": [], "context_speakers": []}
        >>> entries = {f"1_{i}": {"utterance": f"line {i}", "sarcasm": i % 2 == 0, **line}
        ...            for i in range(20)}
        >>> _ = (folder / "sarcasm_data.json").write_text(json.dumps(entries))
        >>> length = lambda texts: [[len(text), 1.0] for text in texts]
        >>> mustard(folder, "sarcasm", split=(0.6, 0.2, 0.2), embed=length)
        MultiTaskData('mustard', inputs=(2,), train=12, validation=4, test=4,
        tasks: sarcasm (binary))
    """
    check_seed(seed)
    utterances = mustard_utterances(path, labels)
    by_name = {task.name: task for task in utterances.tasks}
    names = chosen_tasks(tasks, by_name, "task of these labels", least=1)
    chosen = tuple(by_name[name] for name in names)
    indices = _indices(path, labels, utterances, split, validation, seed)
    blocks = _texts(utterances, embed, context)
    notes = []
    for name, file in (("audio", audio), ("visual", visual)):
        if file is None:
            continue
        values, n_missing = features_by_id(file, utterances.ids, name)
        blocks[name] = _standardise(name, values, indices[0])
        if n_missing:
            notes.append(f"{name}: {n_missing} of {len(utterances)} utterances have no features")
    inputs, widths = join_modalities(blocks)
    if len(blocks) == 1:
        inputs = torch.from_numpy(blocks["text"])
    targets = {task.name: task.to_targets(utterances.labels[task.name]) for task in chosen}
    rows = Split(inputs, targets, torch.tensor(utterances.index))
    return MultiTaskData(
        _NAMES[labels], chosen, *take_splits(rows, indices), split_seed=int(seed),
        modalities=widths if len(blocks) > 1 else None, notes=tuple(notes),
    )  # fmt: skip


def _indices(
    path: str | PathLike[str],
    labels: str,
    utterances: Utterances,
    split: str | Sequence[float] | None,
    validation: float,
    seed: int,
) -> Indices:
    if split is None:
        split = (0.7, 0.15, 0.15) if labels == "plus_plus" else "fold 0"
    # Labels as integers (N, tasks) for stratification; the first task has priority.
    codes = np.stack([utterances.labels[task.name] for task in utterances.tasks], axis=1)
    codes = codes.astype(np.int64)
    if isinstance(split, str):
        rest, test = _authors_rows(path, labels, utterances, split)
        kept, held_out = validation_cut(codes[rest], validation, seed)
    else:
        _, n_validation, n_test = split_sizes(len(codes), split, "utterances")
        test = stratified_sample(codes, n_test, seed)
        rest = np.setdiff1d(np.arange(len(codes)), test)
        held_out = stratified_sample(codes[rest], n_validation, seed)
        kept = np.setdiff1d(np.arange(len(rest)), held_out)
    parts = (rest[kept], rest[held_out], test)
    train, val, last = (torch.from_numpy(np.sort(part)) for part in parts)
    return train, val, last


def _authors_rows(
    path: str | PathLike[str], labels: str, utterances: Utterances, split: str
) -> Rows:
    if split == "speaker-independent":
        return speaker_independent(utterances.shows)
    known = [f"fold {number}" for number in range(5)]
    if split not in known:
        raise unknown_name("split of MUStARD", split, [*known, "speaker-independent"])
    if labels == "plus_plus":
        raise InvalidInputError(
            f"split: MUStARD++ has no published folds, so {split!r} is not available; give three "
            f"fractions, or 'speaker-independent'"
        )
    return authors_folds(path, len(utterances))[known.index(split)]


def _texts(utterances: Utterances, embed: Embed | None, context: bool) -> dict[str, np.ndarray]:
    """Embed utterances and contexts (NaN if none) in one call, so that a model is loaded once."""
    if not context:
        return {"text": embed_texts(utterances.texts, embed)}
    before = ["\n".join(lines) for lines in utterances.contexts]
    vectors = embed_texts([*utterances.texts, *before], embed)
    text, lines = np.split(vectors, [len(utterances)])
    lines[[not line for line in before]] = np.nan
    return {"text": text, "context": lines}


def _standardise(name: str, values: np.ndarray, train: Tensor) -> np.ndarray:
    rows = values[train.numpy()].astype(np.float64)
    if np.isnan(rows).all():
        raise InvalidInputError(f"{name}: no utterance of the train split has features")
    mean, std = np.array([scale_of(column) for column in rows.T]).T
    return np.asarray((values - mean) / std, dtype=np.float32)
