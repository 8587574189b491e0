"""The files of GLUE (arXiv:1804.07461): nine tasks, each with a layout of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from qmtl.data._files import check_files
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import Task

__all__ = ["GLUE_TASKS", "GlueLayout", "GlueRows", "check_glue_folder", "glue_rows"]

_WHERE = (
    "the GLUE benchmark's site (gluebenchmark.com, Tasks; one folder per task) or its download "
    "script"
)
# The full QQP file has a few rows that are broken by stray line ends; more is another layout.
_BROKEN_SHARE = 1 / 1000


@dataclass(frozen=True)
class GlueLayout:
    """Where a task's texts and labels are in its files.

    Attributes:
        task: what is predicted, with the benchmark's own metrics.
        texts: the columns of the sentence, or of the two sentences.
        label: the column of the label.
        dev: the file of the development set.
        header: column names of a file that has no header; None where the file has one.
        words: the label's words in the file, in the order of the task's classes; None for a score.
    """

    task: Task
    texts: tuple[str, ...]
    label: str
    dev: str = "dev.tsv"
    header: tuple[str, ...] | None = None
    words: tuple[str, ...] | None = ("0", "1")

    def file(self, split: str) -> str:
        """The file of a split, relative to the folder of GLUE."""
        return f"{self.task.name}/{'train.tsv' if split == 'train' else self.dev}"


def _layout(
    name: str,
    texts: Sequence[str],
    label: str,
    classes: Sequence[str],
    metrics: Sequence[str] = ("accuracy",),
    words: Sequence[str] | None = ("0", "1"),
    dev: str = "dev.tsv",
    header: tuple[str, ...] | None = None,
) -> tuple[str, GlueLayout]:
    if not classes:
        task = Task.regression(name, metrics=metrics)
    elif len(classes) == 2:
        task = Task.binary(name, class_names=classes, metrics=metrics)
    else:
        task = Task.multiclass(name, len(classes), class_names=classes, metrics=metrics)
    return name, GlueLayout(
        task, tuple(texts), label, dev, header, None if words is None else tuple(words)
    )


_ENTAILMENT = ("not_entailment", "entailment")
_NLI = ("entailment", "neutral", "contradiction")
_COLA = ("source", "label", "mark", "sentence")
_SENTENCES = ("sentence1", "sentence2")

GLUE_TASKS: dict[str, GlueLayout] = dict(
    [
        _layout("CoLA", ["sentence"], "label", ["unacceptable", "acceptable"],
                ["matthews", "accuracy"], header=_COLA),
        _layout("SST-2", ["sentence"], "label", ["negative", "positive"]),
        _layout("MRPC", ["#1 String", "#2 String"], "Quality", ["not_equivalent", "equivalent"],
                ["f1", "accuracy"]),
        _layout("STS-B", _SENTENCES, "score", [], ["spearman", "pearson"], words=None),
        _layout("QQP", ["question1", "question2"], "is_duplicate", ["not_duplicate", "duplicate"],
                ["f1", "accuracy"]),
        _layout("MNLI", _SENTENCES, "gold_label", _NLI, words=_NLI, dev="dev_matched.tsv"),
        _layout("QNLI", ["question", "sentence"], "label", _ENTAILMENT, words=_ENTAILMENT),
        _layout("RTE", _SENTENCES, "label", _ENTAILMENT, words=_ENTAILMENT),
        _layout("WNLI", _SENTENCES, "label", _ENTAILMENT),
    ]
)  # fmt: skip
"""Task name → layout, in the benchmark's order."""


@dataclass(frozen=True, eq=False)
class GlueRows:
    """The rows of one file.

    Attributes:
        texts: one list of N texts for single sentences, two for pairs.
        labels: class numbers of the task, or scores: float64 (N,).
        index: row numbers in the file, from 0, without the header: int64 (N,).
        skipped: row numbers that are not there because the row is broken.
    """

    texts: tuple[list[str], ...]
    labels: np.ndarray
    index: np.ndarray
    skipped: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.labels)

    def __repr__(self) -> str:
        """Number of rows, and whether they are pairs."""
        return f"GlueRows({len(self)} {'pairs' if len(self.texts) == 2 else 'sentences'})"

    def take(self, rows: np.ndarray) -> "GlueRows":
        """The given rows, by position."""
        texts = tuple([part[row] for row in rows] for part in self.texts)
        return GlueRows(texts, self.labels[rows], self.index[rows], self.skipped)


def check_glue_folder(path: str | PathLike[str], tasks: Sequence[str]) -> None:
    """Raise one error that lists all files that these tasks need and the folder lacks.

    Raises:
        InvalidInputError: a file is missing, or a name is not a task of GLUE.
    """
    layouts = [_find(task) for task in tasks]
    needed = [layout.file(split) for layout in layouts for split in ("train", "dev")]
    check_files(path, needed, what="GLUE", where=_WHERE)


def glue_rows(path: str | PathLike[str], task: str, split: str = "train") -> GlueRows:
    r"""The texts and labels of one of GLUE's files, without embedding them.

    Tab-separated, never quoted: a quotation mark is a character like any other. The file is read
    line by line, and only texts and labels are kept.

    Args:
        path: the folder that holds one folder per task.
        task: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE or WNLI.
        split: "train", or "dev" (for MNLI the matched one). The public test files have no labels.

    Raises:
        InvalidInputError: an unknown name, a missing file or column, a label that is none of the
            task's, or more than one row in 1,000 with a wrong number of cells (fewer are skipped
            and listed in `skipped`: the full QQP file has such rows).

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
    layout = _find(task)
    if split not in ("train", "dev"):
        raise unknown_name("split of GLUE:", split, ["train", "dev"])
    (file,) = check_files(path, [layout.file(split)], what="GLUE", where=_WHERE)
    try:
        return _read(file, layout)
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file}: expected UTF-8 text, got other bytes") from error
    except OSError as error:
        raise InvalidInputError(f"{file}: cannot be read: {error.strerror}") from error


def _find(task: str) -> GlueLayout:
    if task not in GLUE_TASKS:
        raise unknown_name("GLUE task", task, GLUE_TASKS)
    return GLUE_TASKS[task]


def _read(file: Path, layout: GlueLayout) -> GlueRows:
    texts: tuple[list[str], ...] = tuple([] for _ in layout.texts)
    labels: list[float] = []
    index: list[int] = []
    skipped: list[int] = []
    parse = _label_parser(layout)
    # newline: a lone carriage return belongs to its sentence; -sig: MRPC has a byte order mark.
    with file.open(encoding="utf-8-sig", newline="\n") as lines:
        header = layout.header or _cells(next(lines, ""))
        places = [_place(file, name, header) for name in layout.texts]
        label = _place(file, layout.label, header)
        for number, line in enumerate(lines):
            cells = _cells(line)
            if not any(cell.strip() for cell in cells):
                continue  # as an editor leaves one at the end
            if len(cells) != len(header):
                skipped.append(number)
                continue
            value = parse(cells[label])
            if value is None:
                raise _bad_label(file, layout, number, cells[label])
            for part, place in zip(texts, places, strict=True):
                part.append(cells[place].strip())
            labels.append(value)
            index.append(number)
    _check_skipped(file, skipped, len(labels), len(header))
    return GlueRows(texts, np.array(labels), np.array(index, dtype=np.int64), tuple(skipped))


def _cells(line: str) -> list[str]:
    return line.rstrip("\r\n").split("\t")


def _place(file: Path, name: str, header: Sequence[str]) -> int:
    if name not in header:
        raise InvalidInputError(f"{file}: {unknown_name('column', name, header)}")
    return list(header).index(name)


def _label_parser(layout: GlueLayout) -> Callable[[str], float | None]:
    if layout.words is not None:
        return {word: float(code) for code, word in enumerate(layout.words)}.get
    return _score


def _score(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if 0 <= value <= 5 else None


def _bad_label(file: Path, layout: GlueLayout, number: int, cell: str) -> InvalidInputError:
    allowed = "a number from 0 to 5" if layout.words is None else " or ".join(layout.words)
    return InvalidInputError(
        f"{file}: row {number}, label '{layout.label}': expected {allowed}, got {cell!r}"
    )


def _check_skipped(file: Path, skipped: list[int], n: int, width: int) -> None:
    if not n and not skipped:
        raise InvalidInputError(f"{file}: there is no row")
    if len(skipped) > _BROKEN_SHARE * (n + len(skipped)):
        raise InvalidInputError(
            f"{file}: {len(skipped)} of {n + len(skipped)} rows do not have {width} cells between "
            f"tabs; the first is row {skipped[0]}"
        )
