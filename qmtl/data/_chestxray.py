"""`chestxray`: findings on chest X-rays in CheXpert's layout, split by patient."""

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from qmtl._sections import Fractions, RecipePath
from qmtl.data._csv import is_nameless, read_table
from qmtl.data._dataset import DataSection, MultiTaskData, Split, take_splits
from qmtl.data._files import check_files
from qmtl.data._splits import check_count, check_seed, patient_split
from qmtl.errors import InvalidInputError, as_path, unknown_name
from qmtl.tasks import Task, chosen_tasks, is_missing, number_in

_WHERE = (
    "Stanford's CheXpert page (Stanford AIMI; the download needs registration), or bring a table "
    "of the same columns"
)
_NOT_FINDINGS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
_DEFAULT_FILES = ("train.csv", "valid.csv", "test.csv")
_UNCERTAIN = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}
_BLANK = {"ignore": np.nan, "zeros": 0.0}
_VIEWS = ("all", "frontal", "lateral")


@dataclass(frozen=True, eq=False)
class FindingsTable:
    """The joined rows of one or more label files; `values` are 1, 0 or NaN, (N, findings).

    `patients` are texts from the paths: "7" for patient00007. `index` counts the rows of all files
    from 0.
    """

    paths: list[str]
    patients: np.ndarray
    findings: tuple[str, ...]
    values: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: np.ndarray) -> "FindingsTable":
        """Return the given rows, by position."""
        paths = [self.paths[row] for row in rows]
        return FindingsTable(
            paths, self.patients[rows], self.findings, self.values[rows], self.index[rows]
        )


def read_chestxray_labels(
    path: str | PathLike[str],
    labels: str | Sequence[str] | None = None,
    *,
    tasks: Sequence[str] | None = None,
    uncertain: str | Mapping[str, str] = "ignore",
    blank: str = "ignore",
    views: str = "all",
) -> FindingsTable:
    r"""Read and join the label files of a folder; arguments as in `chestxray`.

    Raises:
        InvalidInputError: a file or column is missing, an image is named twice, a path has no
            patient, or a cell is not 1, 0, -1 or blank (file and row are named).

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> text = "Path,Sex,Age,Frontal/Lateral,AP/PA,Edema\na/patient7/s/v.png,,,Frontal,AP,-1"
        >>> _ = (folder / "train.csv").write_text(text)
        >>> read_chestxray_labels(folder, uncertain="ones").values
        array([[1.]])
    """
    if blank not in _BLANK:
        raise unknown_name("blank policy", blank, _BLANK)
    if views not in _VIEWS:
        raise unknown_name("views", views, _VIEWS)
    files = _label_files(as_path(path), labels)
    tables = [read_table(file, ",", texts=None) for file in files]
    # Skip columns without a name, such as a saved index.
    tables = [table[[name for name in table if not is_nameless(name)]] for table in tables]
    header = list(tables[0])
    for file, table in zip(files, tables, strict=True):
        _check_header(file, list(table), header, files[0], views)
    known = [name for name in header if name not in _NOT_FINDINGS]
    findings = chosen_tasks(tasks, known, "finding", least=1)
    policies = _policies(uncertain, findings)
    paths: list[str] = []
    patients, values, kept = [], [], []
    rows = (
        (f"{file}: row {line}", row)
        for file, table in zip(files, tables, strict=True)
        for line, row in zip(table.index, table.to_dict("records"), strict=True)
    )
    for number, (where, row) in enumerate(rows):
        if views == "all" or row["Frontal/Lateral"].lower() == views:
            paths.append(row["Path"])
            patients.append(_patient(where, row["Path"]))
            cells = ((name, row[name], policies[name], _BLANK[blank]) for name in findings)
            values.append([_label(where, *cell) for cell in cells])
            kept.append(number)
    if not paths:
        raise InvalidInputError(f"views: {path} has no {views} image")
    if len(set(paths)) < len(paths):
        twice = next(name for name in paths if paths.count(name) > 1)
        raise InvalidInputError(f"the label files name the image {twice!r} twice")
    return FindingsTable(paths, np.array(patients), findings, np.array(values), np.array(kept))


def _label_files(root: Path, labels: str | Sequence[str] | None) -> list[Path]:
    if labels is not None:
        needed = [labels] if isinstance(labels, str) else list(labels)
        if not needed or len(set(needed)) != len(needed):
            raise InvalidInputError(f"labels: expected different file names, got {labels!r}")
    else:
        needed = [name for name in _DEFAULT_FILES if (root / name).is_file()] or ["train.csv"]
    return check_files(root, needed, what="Chest X-rays", where=_WHERE)


def _check_header(
    file: Path, header: Sequence[str], first: Sequence[str], of: Path, views: str
) -> None:
    # The labels of CheXpert's test set come without sex, age and view.
    needed = ("Path",) if views == "all" else ("Path", "Frontal/Lateral")
    missing = [name for name in needed if name not in header]
    if missing:
        raise InvalidInputError(
            f"{file}: expected CheXpert's columns {', '.join(_NOT_FINDINGS)} and the findings; "
            f"missing: {', '.join(missing)}"
        )
    others = (set(header) ^ set(first)) - set(_NOT_FINDINGS)
    if others:
        odd = ", ".join(sorted(others))
        raise InvalidInputError(f"{file}: the columns are not those of {of.name}: {odd}")


def _policies(uncertain: str | Mapping[str, str], findings: Sequence[str]) -> dict[str, float]:
    given = uncertain if isinstance(uncertain, Mapping) else dict.fromkeys(findings, uncertain)
    for name, policy in given.items():
        if name not in findings:
            raise unknown_name("finding in uncertain:", name, findings)
        if policy not in _UNCERTAIN:
            raise unknown_name("uncertain policy", policy, _UNCERTAIN)
    return {name: _UNCERTAIN[given.get(name, "ignore")] for name in findings}


def _patient(where: str, path: str) -> str:
    found = re.search(r"(?:^|[/\\])patient(\w+)(?:[/\\]|$)", path)
    if found is None:
        raise InvalidInputError(
            f"{where}: expected a Path with a folder patientN, got {path!r}; without the patient, "
            f"rows of one patient could land in two splits"
        )
    return found[1].lstrip("0") or "0"


def _label(where: str, name: str, cell: str, uncertain: float, blank: float) -> float:
    if is_missing(cell) and cell != "?":  # "?" counts as an uncertain label
        return blank
    number = number_in(cell)
    if number == -1:
        return uncertain
    if number is None or number not in (0, 1):
        raise InvalidInputError(
            f"{where}, finding '{name}': expected 1, 0, -1 or blank, got {cell!r}"
        )
    return number


def load_images(
    path: str | PathLike[str],
    paths: Sequence[str],
    *,
    images: str | PathLike[str] | None = None,
    image_size: int | None = None,
) -> np.ndarray:
    """Load the images with these paths, as `chestxray` explains: float32 (N, 1, H, W) in [0, 1]."""
    folder = as_path(path)
    source = folder / "images.npz" if images is None else as_path(images, "images")
    if images is not None and not source.exists():
        raise InvalidInputError(f"images: there is no file or folder {source}")
    if source.is_file():
        grey = _from_npz(source, paths)
        if image_size is not None and grey.shape[1:] != (image_size, image_size):
            grey = np.stack([_resize_array(image, image_size) for image in grey])
    else:
        roots = [folder, folder.parent] if images is None else [source]
        files = _find_files(roots, paths)
        grey = np.stack([_read_file(file, image_size or 64) for file in files])
    return grey[:, None]


def _from_npz(file: Path, paths: Sequence[str]) -> np.ndarray:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            stored = {name: arrays[name] for name in ("images", "paths") if name in arrays.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise InvalidInputError(f"{file}: cannot be read as .npz: {error}") from error
    if len(stored) != 2:
        raise InvalidInputError(f"{file}: expected the arrays 'images' and 'paths'")
    pixels, names = stored["images"], stored["paths"]
    if pixels.ndim != 3 or names.shape != (len(pixels),):
        raise InvalidInputError(
            f"{file}: expected images (N, H, W) and paths (N,), got {pixels.shape} and "
            f"{names.shape}"
        )
    place = {str(name): row for row, name in enumerate(names)}
    missing = [name for name in paths if name not in place]
    if missing:
        raise _missing(missing, len(paths), str(file))
    return _unit_interval(pixels[[place[name] for name in paths]], str(file))


def _unit_interval(pixels: np.ndarray, where: str) -> np.ndarray:
    if pixels.dtype in (np.uint8, np.uint16):
        return np.asarray(pixels, dtype=np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    if pixels.dtype.kind != "f" or not ((pixels >= 0) & (pixels <= 1)).all():
        raise InvalidInputError(
            f"{where}: expected pixels as uint8, uint16, or floats in [0, 1], got {pixels.dtype}"
        )
    return np.asarray(pixels, dtype=np.float32)


def _missing(missing: Sequence[str], n: int, where: str) -> InvalidInputError:
    shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    return InvalidInputError(f"{len(missing)} of {n} images are not in {where}: {shown}")


def _find_files(roots: Sequence[Path], paths: Sequence[str]) -> list[Path]:
    # CheXpert's paths start with the name of the folder itself (CheXpert-v1.0-small/train/...),
    # but those of its test labels do not (test/...).
    files = [_find_file(roots, PurePosixPath(name.replace("\\", "/")).parts) for name in paths]
    found = [file for file in files if file is not None]
    tried = " or ".join(map(str, roots))
    if not found:
        raise InvalidInputError(
            f"images: {paths[0]!r} is not under {tried}, and there is no images.npz; pass the "
            f"folder that the column Path starts from, or a .npz, as images"
        )
    if len(found) < len(paths):
        missing = [path for path, file in zip(paths, files, strict=True) if file is None]
        raise _missing(missing, len(paths), f"the folder {tried}")
    return found


def _find_file(roots: Sequence[Path], parts: Sequence[str]) -> Path | None:
    tries = (root.joinpath(*parts[n:]) for root in roots for n in range(len(parts)))
    return next((file for file in tries if file.is_file()), None)


def _read_file(file: Path, size: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(file) as image:
            # JPEG only: decode at a lower resolution that is still large enough.
            image.draft("L", (size, size))
            deep = image.mode.startswith("I")
            pixels = np.asarray(image if deep else image.convert("L"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidInputError(f"{file}: cannot be read as an image: {error}") from error
    return _resize_array(_unit_interval(pixels.astype(np.uint16) if deep else pixels, str(file)),
                         size)  # fmt: skip


def _resize_array(pixels: np.ndarray, size: int) -> np.ndarray:
    from PIL import Image, ImageOps

    image: Any = Image.fromarray(pixels)  # float32: one channel of 32 bits
    fitted = ImageOps.fit(image, (size, size), method=Image.Resampling.BOX)
    return np.asarray(fitted, dtype=np.float32)


_METRICS = ("auroc", "average_precision")


class ChestXraySection(DataSection):
    """Recipe section of `chestxray`."""

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
    r"""Load chest X-rays with CheXpert's labels (arXiv:1901.07031), split by patient.

    The loader joins all label files and splits the patients anew; it ignores the split that the
    folders make. It spreads rare findings over the splits, see `patient_split`.

    Args:
        path: the folder with the label files.
        labels: names of label files in this folder; None for those of train.csv, valid.csv and
            test.csv that exist. All have the column Path and the same findings.
        tasks: the finding columns, in the order that circuits use. None for all findings that have
            a positive and a negative label in the train split; `MultiTaskData.notes` names the
            others.
        uncertain: meaning of -1: "ignore" (no label), "zeros" or "ones"; or a dict of finding →
            policy, with "ignore" for the others.
        blank: meaning of a blank: "ignore" (no label), or "zeros" (a finding that is not mentioned
            is absent; this is usual with CheXpert's own files, where "No Finding" is either 1 or
            blank).
        views: "all", "frontal" or "lateral".
        images: a .npz with `images` (N, H, W) and `paths` (N,), or the folder to which the paths
            are relative. None: ``images.npz`` in `path` if there is one, else `path` or its parent;
            the first folders of the paths may be absent there.
        image_size: side in pixels; larger images are cropped to the central square and downsampled
            by averaging. None: 64 for image files, the stored size for a .npz.
        kind: "binary", one task per finding; or "multilabel", one task named "findings".
        flat: whether inputs have shape (N, H·W) instead of (N, 1, H, W).
        splits: shares of the patients: train, validation, test.
        seed: seed of the split.
        max_patients: largest number of patients; they are drawn at random, the same for every seed.

    Returns:
        Inputs float32 (N, 1, H, W) in [0, 1]. `Split.index` is the row number over all label files,
        in their order, from 0. Rows without any label are left out.

    Raises:
        InvalidInputError: files, columns or images are missing, a label or an argument does not
            fit, or a finding in `tasks` has no positive or no negative label in the train split.

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
    # Drop rows that have labels of left-out findings only.
    labelled = torch.from_numpy(~np.isnan(table.values[:, kept]).all(axis=1))
    train, validation, test = (part[labelled[part]] for part in indices)
    pixels = torch.from_numpy(load_images(path, table.paths, images=images, image_size=image_size))
    definitions, targets = _targets(table, kept, kind)
    rows = Split(pixels.flatten(1) if flat else pixels, targets, torch.from_numpy(table.index))
    parts = take_splits(rows, (train, validation, test))
    return MultiTaskData("chestxray", definitions, *parts, split_seed=int(seed), notes=tuple(notes))


def _some_patients(table: FindingsTable, most: int | None) -> FindingsTable:
    patients = np.unique(table.patients)
    if most is None or len(patients) <= most:
        return table
    chosen = np.random.default_rng(0).choice(patients, most, replace=False)
    return table.take(np.flatnonzero(np.isin(table.patients, chosen)))


def _learnable(table: FindingsTable, train: np.ndarray, asked: bool) -> tuple[list[int], list[str]]:
    """Return the columns with both classes in the train split, and a note on every other column."""
    kept, bad = [], []
    for column, name in enumerate(table.findings):
        negative, positive = (int((table.values[train, column] == v).sum()) for v in (0, 1))
        if positive and negative:
            kept.append(column)
        else:
            bad.append(f"'{name}' ({positive} positive, {negative} negative)")
    if bad and (asked or not kept):
        raise InvalidInputError(
            f"findings without a positive or a negative label in the train split cannot be "
            f"learned: {', '.join(bad)}; leave them out of tasks, or set uncertain or blank"
        )
    notes = [f"finding left out, one class only in the train split: {entry}" for entry in bad]
    return kept, notes


def _targets(
    table: FindingsTable, columns: Sequence[int], kind: str
) -> tuple[tuple[Task, ...], dict[str, torch.Tensor]]:
    names = [table.findings[column] for column in columns]
    if kind == "multilabel":
        task = Task.multilabel("findings", len(names), class_names=names, metrics=_METRICS)
        return (task,), {"findings": task.to_targets(table.values[:, columns])}
    tasks = tuple(Task.binary(name, metrics=_METRICS) for name in names)
    values = (table.values[:, column] for column in columns)
    return tasks, {t.name: t.to_targets(v) for t, v in zip(tasks, values, strict=True)}
