"""`chestxray`: findings on chest X-rays in CheXpert's layout, split by patient."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from qmtl._sections import Fractions, RecipePath
from qmtl.data._chestxray_files import LabelTable, load_images, read_chestxray_labels
from qmtl.data._dataset import DataSection, MultiTaskData, Split, take_splits
from qmtl.data._splits import Indices, check_count, check_seed, patient_split
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import Task

__all__ = ["ChestXraySection", "chestxray"]

_METRICS = ("auroc", "average_precision")


class ChestXraySection(DataSection):
    """``source = "chestxray"``; `chestxray` says what the values mean.

    Attributes:
        path: the folder of the data set.
        labels: label files in the folder; None for those of train.csv, valid.csv and test.csv that
            are there.
        images: a folder or a .npz; None to look in `path`.
        image_size: side in pixels.
        uncertain: what -1 means, or a table of finding to policy.
        blank: what a blank means.
        views: all, frontal or lateral.
        kind: binary, a task per finding; or multilabel, one task.
        flat: inputs as one vector, for encoders that take no images.
        max_patients: at most so many patients.
        splits: shares of the patients: train, validation, test; None for `chestxray`'s own.
    """

    source: Literal["chestxray"] = "chestxray"
    path: RecipePath
    labels: list[str] | None = None
    images: RecipePath | None = None
    image_size: int | None = Field(None, ge=1)
    uncertain: str | dict[str, str] = "ignore"
    blank: str = "ignore"
    views: str = "all"
    kind: str = "binary"
    flat: bool = False
    max_patients: int | None = Field(None, ge=3)
    splits: Fractions | None = None

    def load(self) -> MultiTaskData:
        """The images and findings, split by patient."""
        return chestxray(self.path, tasks=self.tasks, seed=self.seed, **self.given())


def chestxray(
    path: str | PathLike[str],
    labels: str | Sequence[str] | None = None,
    *,
    tasks: Sequence[str] | None = None,
    uncertain: str | Mapping[str, str] = "ignore",
    blank: str = "ignore",
    views: str = "all",
    images: str | PathLike[str] | None = None,
    image_size: int | None = None,
    kind: str = "binary",
    flat: bool = False,
    splits: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    max_patients: int | None = None,
) -> MultiTaskData:
    r"""Chest X-rays with CheXpert's label columns (arXiv:1901.07031), split by patient.

    All label files are joined and split anew, so that no patient is on two sides, whatever the
    folders say; rare findings are spread over the sides, see `patient_split`.

    Args:
        path: the folder with the label files.
        labels: their names in it; None for those of train.csv, valid.csv, test.csv that are there.
        tasks: the finding columns, in the order that circuits use. None for all that have a
            positive and a negative label in the train split; `MultiTaskData.notes` names the rest.
        uncertain: what -1 means: "ignore" (no label), "zeros" or "ones"; or a dict of finding →
            policy, "ignore" for the others.
        blank: what a blank means: "ignore" (no label), or "zeros" (not mentioned is absent, as is
            usual with CheXpert's own files, where "No Finding" is either 1 or blank).
        views: "all", "frontal" or "lateral".
        images: a folder or a .npz, see `load_images`.
        image_size: side in pixels, see `load_images`.
        kind: "binary", one task per finding; or "multilabel", one task named "findings".
        flat: inputs (N, H·W) and not (N, 1, H, W).
        splits: shares of the patients: train, validation, test.
        seed: of the split.
        max_patients: at most so many patients, drawn at random, the same ones for every seed.

    Returns:
        Inputs float32 (N, 1, H, W) in [0, 1]. `Split.index` is the row over all label files, in
        their order, from 0. Rows without any label are left out.

    Raises:
        InvalidInputError: files, columns or images are missing, a label or an argument does not
            fit, or a finding of `tasks` has no positive or no negative in the train split.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> paths = [f"patient{i // 2}/study1/view{i % 2}.png" for i in range(20)]
        >>> rows = "".join(f"{p},,,Frontal,AP,{i % 3 - 1}\n" for i, p in enumerate(paths))
        >>> header = "Path,Sex,Age,Frontal/Lateral,AP/PA,Edema\n"
        >>> _ = (folder / "train.csv").write_text(header + rows)
        >>> np.savez(folder / "images.npz", images=np.zeros((20, 8, 8), np.uint8), paths=paths)
        >>> chestxray(folder, uncertain="ones", splits=(0.6, 0.2, 0.2))
        MultiTaskData('chestxray', inputs=(1, 8, 8), train=12, validation=4, test=4,
        tasks: Edema (binary))
    """
    if kind not in ("binary", "multilabel"):
        raise unknown_name("kind", kind, ["binary", "multilabel"])
    check_seed(seed)
    check_count("image_size", image_size, 1)
    check_count("max_patients", max_patients, 3)
    table = read_chestxray_labels(
        path, labels, tasks=tasks, uncertain=uncertain, blank=blank, views=views
    )
    table = _some_patients(table, max_patients)
    notes = []
    labelled = ~np.isnan(table.values).all(axis=1)
    if not labelled.all():
        notes.append(f"{int((~labelled).sum())} of {len(table)} images left out: no label")
        table = table.take(np.flatnonzero(labelled))
    if not len(table):
        raise InvalidInputError(f"chest X-rays: no image in {path} has a label")
    classes = np.concatenate([table.values == 1, table.values == 0], axis=1)
    indices = patient_split(table.patients, classes, splits, seed)
    kept, left_out = _learnable(table, indices[0].numpy(), tasks is not None)
    notes += left_out
    indices = _labelled_rows(table.values[:, kept], indices)
    pixels = torch.from_numpy(load_images(path, table.paths, images=images, image_size=image_size))
    definitions, targets = _targets(table, kept, kind)
    rows = Split(pixels.flatten(1) if flat else pixels, targets, torch.from_numpy(table.index))
    parts = take_splits(rows, indices)
    return MultiTaskData(
        "chestxray", definitions, **parts, split_seed=int(seed), notes=tuple(notes)
    )


def _some_patients(table: LabelTable, most: int | None) -> LabelTable:
    patients = np.unique(table.patients)
    if most is None or len(patients) <= most:
        return table
    chosen = np.random.default_rng(0).choice(patients, most, replace=False)
    return table.take(np.flatnonzero(np.isin(table.patients, chosen)))


def _learnable(table: LabelTable, train: np.ndarray, asked: bool) -> tuple[list[int], list[str]]:
    """The columns with both classes in the train split, and what to say about the others."""
    kept, bad = [], []
    for column, name in enumerate(table.findings):
        values = table.values[train, column]
        if (values == 1).any() and (values == 0).any():
            kept.append(column)
        else:
            bad.append(f"'{name}' ({int((values == 1).sum())} positive, "
                       f"{int((values == 0).sum())} negative)")  # fmt: skip
    if bad and (asked or not kept):
        raise InvalidInputError(
            f"findings without a positive or a negative label in the train split cannot be "
            f"learned: {', '.join(bad)}; leave them out of tasks, or set uncertain or blank"
        )
    notes = [f"finding left out, one class only in the train split: {entry}" for entry in bad]
    return kept, notes


def _labelled_rows(values: np.ndarray, indices: Indices) -> Indices:
    """Without the rows whose only labels were of findings that are left out."""
    labelled = torch.from_numpy(~np.isnan(values).all(axis=1))
    train, validation, test = (part[labelled[part]] for part in indices)
    return train, validation, test


def _targets(
    table: LabelTable, columns: Sequence[int], kind: str
) -> tuple[tuple[Task, ...], dict[str, torch.Tensor]]:
    names = [table.findings[column] for column in columns]
    if kind == "multilabel":
        task = Task.multilabel("findings", len(names), class_names=names, metrics=_METRICS)
        return (task,), {"findings": task.to_targets(table.values[:, columns])}
    tasks = tuple(Task.binary(name, metrics=_METRICS) for name in names)
    values = (table.values[:, column] for column in columns)
    return tasks, {t.name: t.to_targets(v) for t, v in zip(tasks, values, strict=True)}
