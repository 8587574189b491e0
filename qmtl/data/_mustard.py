"""`mustard`: sarcasm with sentiment and emotion, from text and, if given, audio and video."""

from collections.abc import Sequence
from os import PathLike
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from qmtl._sections import Fractions, NameOrPath, RecipePath
from qmtl.data._dataset import DataSection, MultiTaskData, Split, take_splits
from qmtl.data._files import features_by_id
from qmtl.data._modalities import join_modalities
from qmtl.data._mustard_files import (
    Rows,
    Utterances,
    authors_folds,
    mustard_utterances,
    speaker_independent,
)
from qmtl.data._sentences import Embed, embed_texts, text_model
from qmtl.data._splits import (
    Indices,
    check_seed,
    split_sizes,
    stratified_sample,
    validation_cut,
)
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import Task

__all__ = ["MustardSection", "mustard"]

_NAMES = {"sarcasm": "mustard", "extended": "mustard-extended", "plus_plus": "mustard-plus-plus"}


class MustardSection(DataSection):
    """``source = "mustard"`` (sarcasm alone), ``"mustard-extended"`` or ``"mustard-plus-plus"``.

    Attributes:
        path: the folder of the data set.
        split: ``fold 0`` to ``fold 4``, or ``speaker-independent``.
        splits: fractions of train, validation and test, in place of `split`.
        context: the lines before the utterance are a modality, too.
        audio: a file of features by id.
        visual: a file of features by id.
        validation: share of the training rows; None for `mustard`'s own.
        text_model: a folder with a sentence-transformers model, or its name on the hub; None for
            the default of `qmtl.encoders.TextEmbedding`.
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
        """The utterances, split."""
        labels = {name: key for key, name in _NAMES.items()}[self.source]
        return mustard(
            self.path,
            labels,
            split=self.split or self.splits,
            tasks=self.tasks,
            embed=text_model(self.text_model),
            context=self.context,
            seed=self.seed,
            **self.given("audio", "visual", "validation"),
        )


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
    """MUStARD (arXiv:1906.01815), Extended MUStARD (ACL 2020, 2020.acl-main.401) or MUStARD++.

    Tasks of the extended labels: sarcasm, sentiment_implicit, sentiment_explicit (negative,
    neutral, positive), emotion_implicit, emotion_explicit (nine classes; the sheet only numbers
    them, and the names follow the order of the paper). Of MUStARD++: sarcasm, sarcasm_type (NONE is
    a class), emotion_implicit, emotion_explicit, valence and arousal (regression, 1 to 9).

    Text becomes `embed_texts`. With a second modality the inputs have the layout of
    `join_modalities`, and `MultiTaskData.modalities` holds the widths. Audio and visual features
    are standardised by the rows of the train split that have them; a row without is missing.

    Args:
        path: the folder with the label files (or the MUStARD repository itself).
        labels: "sarcasm", "extended" or "plus_plus".
        split: "fold 0" to "fold 4", the authors' folds; "speaker-independent" (the authors' rule:
            test on FRIENDS); or three fractions, stratified. None: "fold 0", and for MUStARD++,
            which has no folds, (0.7, 0.15, 0.15).
        tasks: some of the tasks, in the order that circuits use; None for all.
        embed: list of texts → array (N, d); None for `qmtl.encoders.TextEmbedding()`.
        context: the lines before the utterance, with their speakers, are a modality of their own.
        audio: a file of features by id, see `features_by_id`.
        visual: the same for video.
        validation: share of the authors' training part that is held out for validation.
        seed: of the validation split, and of fractions.

    Returns:
        Inputs float32 (N, d), or the layout of `join_modalities`. `Split.index` is the entry of
        sarcasm_data.json, or the record of MUStARD++'s file, from 0.

    Raises:
        InvalidInputError: files are missing (all are listed) or do not fit, or an argument does
            not.

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
    chosen = _choose(utterances, tasks)
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
        _NAMES[labels],
        chosen,
        **take_splits(rows, indices),
        split_seed=int(seed),
        modalities=widths if len(blocks) > 1 else None,
        notes=tuple(notes),
    )


def _choose(utterances: Utterances, tasks: Sequence[str] | None) -> tuple[Task, ...]:
    by_name = {task.name: task for task in utterances.tasks}
    if tasks is None:
        return utterances.tasks
    if isinstance(tasks, str) or not tasks or len(set(tasks)) != len(tasks):
        raise InvalidInputError(f"tasks: expected one or more different names, got {tasks!r}")
    for name in tasks:
        if name not in by_name:
            raise unknown_name("task of these labels", name, by_name)
    return tuple(by_name[name] for name in tasks)


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
    codes = _codes(utterances)
    if not isinstance(split, str):
        return _by_fractions(codes, split, seed)
    rest, test = _authors_rows(path, labels, utterances, split)
    train, held_out = validation_cut(codes[rest], validation, seed)
    return _tensors(rest[train], rest[held_out], test)


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
            f"split: MUStARD++ has no folds of its authors, so not {split!r}; give three "
            f"fractions, or 'speaker-independent'"
        )
    folds = authors_folds(path, len(utterances))
    return folds[known.index(split)]


def _by_fractions(codes: np.ndarray, fractions: Sequence[float], seed: int) -> Indices:
    _, n_validation, n_test = split_sizes(len(codes), fractions, "utterances")
    test = stratified_sample(codes, n_test, seed)
    rest = np.setdiff1d(np.arange(len(codes)), test)
    held_out = rest[stratified_sample(codes[rest], n_validation, seed)]
    return _tensors(np.setdiff1d(rest, held_out), held_out, test)


def _tensors(*parts: np.ndarray) -> Indices:
    train, validation, test = (torch.from_numpy(np.sort(part)) for part in parts)
    return train, validation, test


def _codes(utterances: Utterances) -> np.ndarray:
    """Labels as whole numbers (N, tasks), to stratify by; the first task weighs most."""
    columns = [np.asarray(utterances.labels[task.name]) for task in utterances.tasks]
    return np.stack(columns, axis=1).astype(np.int64)


def _texts(utterances: Utterances, embed: Embed | None, context: bool) -> dict[str, np.ndarray]:
    """Embeddings of the utterances and, if wanted, of the lines before; NaN where there are none.

    One call of `embed` for all, so that a model is loaded once.
    """
    if not context:
        return {"text": embed_texts(utterances.texts, embed)}
    before = ["\n".join(lines) for lines in utterances.contexts]
    vectors = embed_texts([*utterances.texts, *before], embed)
    text, lines = np.split(vectors, [len(utterances)])
    lines[[not line for line in before]] = np.nan
    return {"text": text, "context": lines}


def _standardise(name: str, values: np.ndarray, train: Tensor) -> np.ndarray:
    rows = values[train.numpy()].astype(np.float64)
    rows = rows[~np.isnan(rows).any(axis=1)]
    if not len(rows):
        raise InvalidInputError(f"{name}: no utterance of the train split has features")
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    # The std of a constant column is a rounding error, which would blow up in the quotient.
    std[std <= 1e-12 * np.abs(mean)] = 1.0
    return np.asarray((values - mean) / std, dtype=np.float32)
