"""`glue`: the nine tasks of GLUE on sentence embeddings, from a folder of the user."""

from collections.abc import Sequence
from os import PathLike
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from qmtl._sections import NameOrPath, RecipePath
from qmtl.data._dataset import DataSection, MultiTaskData, Split
from qmtl.data._glue_files import (
    GLUE_TASKS,
    GlueRows,
    check_glue_folder,
    glue_rows,
)
from qmtl.data._sentences import Embed, embed_texts, pair_features, text_model
from qmtl.data._splits import check_count, check_seed, stratified_sample, validation_cut
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import MISSING, Task

__all__ = ["GlueSection", "glue"]


class GlueSection(DataSection):
    """``source = "glue"``.

    Attributes:
        path: the folder of the data set.
        validation: share of the training rows; None for `glue`'s own.
        max_rows: at most so many training rows per task.
        max_test_rows: at most so many test rows per task.
        text_model: a folder with a sentence-transformers model, or its name on the hub; None for
            the default of `qmtl.encoders.TextEmbedding`.
    """

    source: Literal["glue"] = "glue"
    path: RecipePath
    validation: float | None = Field(None, gt=0, lt=1)
    max_rows: int | None = Field(None, ge=2)
    max_test_rows: int | None = Field(None, ge=1)
    text_model: NameOrPath | None = None

    def load(self) -> MultiTaskData:
        """The tasks of GLUE, split."""
        options = self.given("validation", "max_rows", "max_test_rows")
        return glue(self.path, self.tasks, text_model(self.text_model), seed=self.seed, **options)


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
    r"""GLUE (arXiv:1804.07461) as disjoint multi-task data: every row belongs to one task.

    The official development sets are the test split (GLUE's test labels are not public); the
    validation split is cut from each task's training file, stratified by its labels. WNLI's
    development set is adversarial to its training set: below 0.5 is usual there.

    Inputs are `pair_features` of `embed_texts`: [u, v, |u − v|, u ⊙ v] for pairs, [u, 0, 0, 0] for
    single sentences. Metrics are the benchmark's own, the main one first.

    Args:
        path: the folder with one folder per task, as the benchmark's download makes it.
        tasks: some of CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE, WNLI, in the order that
            circuits use; None for all nine.
        embed: list of texts → array (N, d); None for `qmtl.encoders.TextEmbedding()`.
        validation: share of each training file.
        seed: of the validation split and of `max_rows`.
        max_rows: at most so many rows of each training file (validation included), stratified.
        max_test_rows: at most so many rows of each development set, stratified; the same ones for
            every seed.

    Returns:
        Inputs float32 (N, 4 d): 6 kB a row for d = 384, so that the full benchmark, 950,000 rows,
        wants `max_rows`. `Split.index` is the row in the task's own file, from 0 without
        the header: train.tsv for the train and validation splits, dev.tsv for the test split.

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
    chosen = _check_tasks(tasks)
    check_seed(seed)
    check_count("max_rows", max_rows, 2)
    check_count("max_test_rows", max_test_rows, 1)
    check_glue_folder(path, chosen)
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
        _split(definitions, files, inputs[part]) for part, files in parts.items()
    )
    return MultiTaskData(
        "glue",
        definitions,
        train,
        held_out,
        test,
        split_seed=int(seed),
        notes=_notes(chosen, parts),
    )


def _check_tasks(tasks: Sequence[str] | None) -> list[str]:
    if tasks is None:
        return list(GLUE_TASKS)
    if isinstance(tasks, str):
        raise InvalidInputError(f"tasks: expected a sequence of names, got the text {tasks!r}")
    for name in tasks:
        if name not in GLUE_TASKS:
            raise unknown_name("GLUE task", name, GLUE_TASKS)
    if not tasks or len(set(tasks)) != len(tasks):
        raise InvalidInputError(f"tasks: expected one or more different names, got {list(tasks)}")
    return list(tasks)


def _strata(rows: GlueRows) -> np.ndarray:
    """Classes; scores are stratified by the whole number nearest to them."""
    return np.asarray(np.rint(rows.labels), dtype=np.int64)


def _sample(rows: GlueRows, most: int | None, seed: int) -> GlueRows:
    if most is None or len(rows) <= most:
        return rows
    return rows.take(stratified_sample(_strata(rows), most, seed))


def _inputs(parts: dict[str, list[GlueRows]], embed: Embed | None) -> dict[str, torch.Tensor]:
    """One call of `embed` for all texts, so that a model is loaded once and batches are full."""
    texts = [
        text for files in parts.values() for rows in files for side in rows.texts for text in side
    ]
    vectors = embed_texts(texts, embed)
    inputs, start = {}, 0
    for part, files in parts.items():
        blocks = []
        for rows in files:
            sides = []
            for side in rows.texts:
                sides.append(vectors[start : start + len(side)])
                start += len(side)
            blocks.append(pair_features(*sides))
        inputs[part] = torch.from_numpy(np.concatenate(blocks))
    return inputs


def _split(tasks: Sequence[Task], files: Sequence[GlueRows], inputs: torch.Tensor) -> Split:
    targets, start = {}, 0
    for task, rows in zip(tasks, files, strict=True):
        missing = MISSING if task.kind == "multiclass" else np.nan
        labels = np.full(len(inputs), missing, dtype=np.float64)
        labels[start : start + len(rows)] = rows.labels
        targets[task.name] = task.to_targets(labels)
        start += len(rows)
    index = torch.from_numpy(np.concatenate([rows.index for rows in files]))
    return Split(inputs, targets, index)


def _notes(tasks: Sequence[str], parts: dict[str, list[GlueRows]]) -> tuple[str, ...]:
    notes = []
    for part, file in (("train", "train"), ("test", "dev")):
        for name, rows in zip(tasks, parts[part], strict=True):
            if rows.skipped:
                notes.append(
                    f"{GLUE_TASKS[name].file(file)}: {len(rows.skipped)} broken rows left out, "
                    f"the first is row {rows.skipped[0]}"
                )
    return tuple(notes)
