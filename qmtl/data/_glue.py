"""`glue`: the nine tasks of GLUE on sentence embeddings, from a folder that the user downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from qmtl._sections import NameOrPath, RecipePath
from qmtl.data._dataset import DataSection, MultiTaskData, Split
from qmtl.data._files import (
    Embed,
    check_files,
    embed_texts,
    gives_tokens,
    pair_features,
    pair_tokens,
    reading,
    text_model,
)
from qmtl.data._splits import check_count, check_seed, stratified_sample, validation_cut
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import Task, chosen_tasks, number_in

_WHERE = (
    "the GLUE benchmark's site (gluebenchmark.com, Tasks; one folder per task) or its download "
    "script"
)
# Stray line ends break a few rows of the full QQP file; more broken rows mean another layout.
_BROKEN_SHARE = 1 / 1000


@dataclass(frozen=True)
class GlueLayout:
    """The columns of a task's texts and labels in its files.

    `header` names the columns of files without a header line. `words` are the labels in the file,
    in the order of the task's classes; None for scores.
    """

    task: Task
    texts: tuple[str, ...]
    label: str = "label"
    dev: str = "dev.tsv"
    header: tuple[str, ...] | None = None
    words: tuple[str, ...] | None = ("0", "1")

    def file(self, split: str) -> str:
        return f"{self.task.name}/{'train.tsv' if split == 'train' else self.dev}"


def _classes(name: str, classes: tuple[str, ...], *metrics: str) -> Task:
    return Task.binary(name, class_names=classes, metrics=metrics or ("accuracy",))


_ENTAILMENT = ("not_entailment", "entailment")
_NLI = ("entailment", "neutral", "contradiction")
_PAIR = ("sentence1", "sentence2")
_LAYOUTS = [
    GlueLayout(_classes("CoLA", ("unacceptable", "acceptable"), "matthews", "accuracy"),
               ("sentence",), header=("source", "label", "mark", "sentence")),
    GlueLayout(_classes("SST-2", ("negative", "positive")), ("sentence",)),
    GlueLayout(_classes("MRPC", ("not_equivalent", "equivalent"), "f1", "accuracy"),
               ("#1 String", "#2 String"), "Quality"),
    GlueLayout(Task.regression("STS-B", metrics=("spearman", "pearson")), _PAIR, "score",
               words=None),
    GlueLayout(_classes("QQP", ("not_duplicate", "duplicate"), "f1", "accuracy"),
               ("question1", "question2"), "is_duplicate"),
    GlueLayout(Task.multiclass("MNLI", 3, class_names=_NLI, metrics=("accuracy",)), _PAIR,
               "gold_label", words=_NLI, dev="dev_matched.tsv"),
    GlueLayout(_classes("QNLI", _ENTAILMENT), ("question", "sentence"), words=_ENTAILMENT),
    GlueLayout(_classes("RTE", _ENTAILMENT), _PAIR, words=_ENTAILMENT),
    GlueLayout(_classes("WNLI", _ENTAILMENT), _PAIR),
]  # fmt: skip
GLUE_TASKS = {layout.task.name: layout for layout in _LAYOUTS}
"""Task name → layout, in the benchmark's order."""


@dataclass(frozen=True, eq=False)
class GlueRows:
    """The rows of one GLUE file.

    Attributes:
        texts: one list of N texts for single sentences, two for pairs.
        labels: class numbers of the task, or scores: float64 (N,).
        index: row numbers in the file, from 0, without the header: int64 (N,).
        skipped: numbers of the broken rows, which were skipped.
    """

    texts: tuple[list[str], ...]
    labels: np.ndarray
    index: np.ndarray
    skipped: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"GlueRows({len(self)} {'pairs' if len(self.texts) == 2 else 'sentences'})"

    def take(self, rows: np.ndarray) -> "GlueRows":
        """Return the given rows, by position."""
        texts = tuple([part[row] for row in rows] for part in self.texts)
        return GlueRows(texts, self.labels[rows], self.index[rows], self.skipped)


def glue_rows(path: str | PathLike[str], task: str, split: str = "train") -> GlueRows:
    r"""Read the texts and labels of one of GLUE's files, without embedding them.

    The files are tab-separated and never quoted: a quotation mark is an ordinary character.

    Args:
        path: the folder that holds one folder per task.
        task: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE or WNLI.
        split: "train", or "dev" (for MNLI the matched one). The public test files have no labels.

    Raises:
        InvalidInputError: a name or label is unknown, a file or column is missing, or more than one
            row in 1,000 has a wrong number of cells. (Fewer such rows, as in the full QQP file,
            are skipped and listed in `skipped`.)

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> (folder / "SST-2").mkdir()
        >>> text = 'sentence\tlabel\na "fine" film \t1\nno\t0'
        >>> _ = (folder / "SST-2" / "train.tsv").write_text(text)
        >>> rows = glue_rows(folder, "SST-2")
        >>> rows, rows.texts[0], rows.labels
        (GlueRows(2 sentences), ['a "fine" film', 'no'], array([1., 0.]))
    """
    if task not in GLUE_TASKS:
        raise unknown_name("GLUE task", task, GLUE_TASKS)
    layout = GLUE_TASKS[task]
    if split not in ("train", "dev"):
        raise unknown_name("split of GLUE:", split, ["train", "dev"])
    (file,) = check_files(path, [layout.file(split)], what="GLUE", where=_WHERE)
    with reading(file):
        return _read(file, layout)


def _read(file: Path, layout: GlueLayout) -> GlueRows:
    texts: tuple[list[str], ...] = tuple([] for _ in layout.texts)
    labels: list[float] = []
    index: list[int] = []
    skipped: list[int] = []
    codes = {word: float(code) for code, word in enumerate(layout.words or ())}
    parse = _score if layout.words is None else codes.get
    # newline: a lone carriage return belongs to a sentence; -sig: MRPC has a byte order mark.
    with file.open(encoding="utf-8-sig", newline="\n") as lines:
        header = layout.header or _cells(next(lines, ""))
        for name in (*layout.texts, layout.label):
            if name not in header:
                raise InvalidInputError(f"{file}: {unknown_name('column', name, header)}")
        *places, label = map(header.index, (*layout.texts, layout.label))
        for number, line in enumerate(lines):
            cells = _cells(line)
            if not any(map(str.strip, cells)):
                continue  # an empty line, which editors leave at the end
            if len(cells) != len(header):
                skipped.append(number)
                continue
            value = parse(cells[label])
            if value is None:
                allowed = " or ".join(layout.words or ["a number from 0 to 5"])
                raise InvalidInputError(
                    f"{file}: row {number}, label '{layout.label}': expected {allowed}, got "
                    f"{cells[label]!r}"
                )
            for part, place in zip(texts, places, strict=True):
                part.append(cells[place].strip())
            labels.append(value)
            index.append(number)
    total = len(labels) + len(skipped)
    if not total:
        raise InvalidInputError(f"{file}: there is no row")
    if len(skipped) > _BROKEN_SHARE * total:
        raise InvalidInputError(
            f"{file}: {len(skipped)} of {total} rows do not have {len(header)} cells between tabs; "
            f"the first is row {skipped[0]}"
        )
    return GlueRows(texts, np.array(labels), np.array(index, dtype=np.int64), tuple(skipped))


def _cells(line: str) -> list[str]:
    return line.rstrip("\r\n").split("\t")


def _score(cell: str) -> float | None:
    number = number_in(cell)
    return number if number is not None and 0 <= number <= 5 else None


class GlueSection(DataSection):
    """Section ``[data]`` with ``source = "glue"``; its keys are the arguments of `glue`.

    With ``max_tokens``, inputs are tokens for `AdaptedText`.
    """

    source: Literal["glue"] = "glue"
    path: RecipePath
    validation: float | None = Field(None, gt=0, lt=1)
    max_rows: int | None = Field(None, ge=2)
    max_test_rows: int | None = Field(None, ge=1)
    text_model: NameOrPath | None = None
    max_tokens: int | None = Field(None, ge=3)

    def load(self) -> MultiTaskData:
        options = self.given("validation", "max_rows", "max_test_rows")
        embed = text_model(self.text_model, self.max_tokens)
        return glue(self.path, self.tasks, embed, seed=self.seed, **options)


def glue(
    path: str | PathLike[str],
    tasks: Sequence[str] | None = None,
    embed: Embed | None = None,
    *,
    validation: float = 0.1,
    seed: int = 0,
    max_rows: int | None = None,
    max_test_rows: int | None = None,
) -> MultiTaskData:
    r"""Load GLUE (arXiv:1804.07461) as disjoint multi-task data: each row belongs to one task.

    The official development sets are the test split (GLUE's test labels are not public). The
    validation split is cut from each task's training file, stratified by its labels. WNLI's
    development set is adversarial to its training set: scores below 0.5 are usual.

    Inputs are `pair_features` of `embed_texts`: [u, v, |u − v|, u ⊙ v] for pairs, [u, 0, 0, 0] for
    single sentences. Metrics are the benchmark's own, the main one first.

    Args:
        path: the folder with one folder per task, as in the benchmark's download.
        tasks: some of CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE, WNLI, in the order that
            circuits use; None for all nine.
        embed: list of texts → array (N, d); None for `qmtl.encoders.TextEmbedding()`. With
            `qmtl.encoders.TextTokens` inputs are token numbers (N, 2, tokens).
        validation: share of each training file.
        seed: seed of the validation split and of `max_rows`.
        max_rows: largest number of rows from each training file (validation included), stratified.
        max_test_rows: largest number of rows from each development set, stratified; the same rows
            for every seed.

    Returns:
        Inputs float32 (N, 4 d). With d = 384 a row takes 6 kB, so that the full benchmark of
        950,000 rows calls for `max_rows`. `Split.index` is the row in the task's own file, from 0
        without the header: train.tsv for the train and validation splits, dev.tsv for the test
        split.

    Raises:
        InvalidInputError: files are missing (all are listed), a task is unknown, a file or an
            argument does not fit.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "CoLA"
        >>> folder.mkdir()
        >>> rows = "".join(f"x\t{i % 2}\t\tsentence {i}\n" for i in range(20))
        >>> _ = (folder / "train.tsv").write_text(rows), (folder / "dev.tsv").write_text(rows)
        >>> length = lambda texts: [[len(text), 1.0] for text in texts]
        >>> glue(folder.parent, ["CoLA"], length)
        MultiTaskData('glue', inputs=(8,), train=18, validation=2, test=20, tasks: CoLA (binary))
    """
    chosen = chosen_tasks(tasks, GLUE_TASKS, "GLUE task", least=1)
    check_seed(seed)
    check_count("max_rows", max_rows, 2)
    check_count("max_test_rows", max_test_rows, 1)
    needed = [GLUE_TASKS[name].file(split) for name in chosen for split in ("train", "dev")]
    check_files(path, needed, what="GLUE", where=_WHERE)
    parts: dict[str, list[GlueRows]] = {"train": [], "validation": [], "test": []}
    for name in chosen:
        rows = _sample(glue_rows(path, name, "train"), max_rows, seed)
        first, second = validation_cut(_strata(rows), validation, seed)
        parts["train"].append(rows.take(first))
        parts["validation"].append(rows.take(second))
        parts["test"].append(_sample(glue_rows(path, name, "dev"), max_test_rows, 0))
    inputs = _inputs(parts, embed)
    definitions = tuple(GLUE_TASKS[name].task for name in chosen)
    train, held_out, test = (
        _split(definitions, rows, inputs[part]) for part, rows in parts.items()
    )
    notes = _notes(chosen, parts)
    return MultiTaskData(
        "glue", definitions, train, held_out, test, split_seed=int(seed), notes=notes
    )


def _strata(rows: GlueRows) -> np.ndarray:
    """Return the classes by which to stratify; scores are rounded to whole numbers."""
    return np.asarray(np.rint(rows.labels), dtype=np.int64)


def _sample(rows: GlueRows, most: int | None, seed: int) -> GlueRows:
    if most is None or len(rows) <= most:
        return rows
    return rows.take(stratified_sample(_strata(rows), most, seed))


def _inputs(parts: dict[str, list[GlueRows]], embed: Embed | None) -> dict[str, torch.Tensor]:
    """Embed all texts in one call, so that a model is loaded once and batches are full."""
    texts = [
        text for files in parts.values() for rows in files for side in rows.texts for text in side
    ]
    tokens = embed is not None and gives_tokens(embed)
    vectors = embed(texts) if embed is not None and tokens else embed_texts(texts, embed)
    inputs, start = {}, 0
    for part, files in parts.items():
        blocks = []
        for rows in files:
            sides = []
            for side in rows.texts:
                sides.append(vectors[start : start + len(side)])
                start += len(side)
            blocks.append(pair_tokens(*sides) if tokens else pair_features(*sides))
        inputs[part] = torch.from_numpy(np.concatenate(blocks))
    return inputs


def _split(tasks: Sequence[Task], files: Sequence[GlueRows], inputs: torch.Tensor) -> Split:
    targets, start = {}, 0
    for task, rows in zip(tasks, files, strict=True):
        labels = np.full(len(inputs), np.nan)
        labels[start : start + len(rows)] = rows.labels
        targets[task.name] = task.to_targets(labels)
        start += len(rows)
    index = torch.from_numpy(np.concatenate([rows.index for rows in files]))
    return Split(inputs, targets, index)


def _notes(tasks: Sequence[str], parts: dict[str, list[GlueRows]]) -> tuple[str, ...]:
    return tuple(
        f"{GLUE_TASKS[name].file(file)}: {len(rows.skipped)} broken rows left out, the first is "
        f"row {rows.skipped[0]}"
        for part, file in (("train", "train"), ("test", "dev"))
        for name, rows in zip(tasks, parts[part], strict=True)
        if rows.skipped
    )
