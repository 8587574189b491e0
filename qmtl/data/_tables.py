"""Tables in files: `read_table` reads the cells, `from_csv` makes a data set of them."""

import csv
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from qmtl._sections import Fractions, RecipePath
from qmtl.data._arrays import choose_rows, scale_of
from qmtl.data._columns import TableColumns, is_blank, parse_number, read_numbers
from qmtl.data._dataset import DataSection, MultiTaskData, Split, take_splits
from qmtl.data._splits import SPLITS, label_codes
from qmtl.data._table_labels import label_columns, read_labels, table_tasks
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import Task

__all__ = ["CsvSection", "from_csv", "read_table"]

Rows = list[dict[str, str]]

_SPLIT_WORDS = {"train": "train", "training": "train", "validation": "validation",
                "val": "validation", "valid": "validation", "dev": "validation",
                "test": "test"}  # fmt: skip


class CsvSection(DataSection):
    """``source = "csv"``; `from_csv` says what the values mean.

    Attributes:
        path: the file.
        targets: column to kind, or None with a list of `tasks` to infer the kinds.
        inputs: input columns; None for all others.
        ignore: columns to leave out.
        delimiter: between cells.
        split_column: column with train, validation or test.
        group_column: column whose equal values stay in one split.
        splits: fractions of train, validation and test; None for `from_csv`'s own.
    """

    source: Literal["csv"] = "csv"
    path: RecipePath
    targets: dict[str, str] | None = None
    inputs: list[str] | None = None
    ignore: list[str] = Field(default_factory=list)
    delimiter: str = ","
    split_column: str | None = None
    group_column: str | None = None
    splits: Fractions | None = None

    @model_validator(mode="after")
    def _has_targets(self) -> "CsvSection":
        if not (self.targets or self.tasks):
            raise ValueError("source 'csv' needs targets (or tasks)")
        return self

    def load(self) -> MultiTaskData:
        """The table, split."""
        options = self.model_dump(exclude={"source", "path", "targets", "tasks"}, exclude_none=True)
        data = from_csv(self.path, targets=self.targets or self.tasks or (), **options)
        return data if self.tasks is None else data.subset(self.tasks)


def read_table(path: str | PathLike[str], delimiter: str = ",") -> tuple[list[str], Rows]:
    r"""The header and the rows of a text table, as texts without surrounding blanks.

    Args:
        path: file in UTF-8, with a header; trailing empty lines are ignored.
        delimiter: one character.

    Returns:
        The column names, and for each row a dict of column name → cell.

    Raises:
        InvalidInputError: the file is missing, empty, header only or not readable; a column name
            appears twice; a row has another number of cells than the header. Rows count from 1,
            the header.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
        >>> _ = path.write_text("x,y\n1, 2\n")
        >>> read_table(path)
        (['x', 'y'], [{'x': '1', 'y': '2'}])
    """
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '\r\n"':
        raise InvalidInputError(f"delimiter: expected one character, got {delimiter!r}")
    records = _records(Path(path), delimiter)
    while records and not records[-1]:
        records.pop()
    if not records:
        raise InvalidInputError(f"{path}: the file is empty; expected a header and rows")
    header = [name.strip() for name in records[0]]
    for name in header:
        if header.count(name) > 1:
            raise InvalidInputError(f"{path}: the column name {name!r} appears twice in the header")
    if len(records) == 1:
        raise InvalidInputError(f"{path}: there is a header but no row under it")
    rows = []
    for number, record in enumerate(records[1:], start=2):
        if len(record) != len(header):
            raise InvalidInputError(
                f"{path}: row {number} has {len(record)} cells, but the header has {len(header)}"
            )
        rows.append(dict(zip(header, (cell.strip() for cell in record), strict=True)))
    return header, rows


def _records(path: Path, delimiter: str) -> list[list[str]]:
    if not path.is_file():
        what = "is a directory, not a file" if path.is_dir() else "there is no such file"
        raise InvalidInputError(f"{path}: {what}")
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True))
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: expected UTF-8 text, got other bytes") from error
    except (csv.Error, OSError) as error:
        raise InvalidInputError(f"{path}: cannot be read as a table: {error}") from error


def from_csv(
    path: str | PathLike[str],
    *,
    targets: Sequence[Task] | Mapping[str, str | Task] | Sequence[str],
    inputs: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    splits: Sequence[float] | Mapping[str, Any] = (0.7, 0.15, 0.15),
    seed: int = 0,
    split_column: str | None = None,
    delimiter: str = ",",
    group_column: str | None = None,
) -> MultiTaskData:
    r"""A data set from a table in a file. Blank, NA and nan cells are missing values.

    Args:
        path: see `read_table`.
        targets: tasks (the column has the task's name; a task with several outputs takes the
            columns in its class names), column names whose kind is inferred, or a dict of column
            name → kind or task.
        inputs: input columns; None for all that are nothing else. A column of numbers is
            standardised, any other becomes one 0/1 input per category, both as in the train split.
        ignore: columns to leave out.
        splits: three fractions or a dict of row numbers (from 0, without the header).
        seed: of the split.
        split_column: a column that says train, validation or test, instead of `splits`.
        delimiter: one character.
        group_column: rows with the same text here stay in one split.

    Raises:
        InvalidInputError: the file, a column or a cell does not fit; it is named, with its row.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
        >>> rows = ["1,red,yes", "2,blue,no"] * 10
        >>> _ = path.write_text("\n".join(["size,colour,sold", *rows]))
        >>> data = from_csv(path, targets=["sold"])
        >>> data.n_inputs, data.task("sold").class_names, data.columns.names
        (3, ('no', 'yes'), ('size', 'colour'))
    """
    header, rows = read_table(path, delimiter)
    try:
        tasks = table_tasks(targets, header, rows)
        columns_of = {task.name: label_columns(task, header) for task in tasks}
        taken = {column: f"the target '{n}'" for n, cs in columns_of.items() for column in cs}
        special = {"split_column": split_column, "group_column": group_column}
        names = _input_names(header, inputs, ignore, taken, special)
        labels = {task.name: read_labels(task, columns_of[task.name], rows) for task in tasks}
        groups = [row[group_column] for row in rows] if group_column is not None else None
        if split_column is not None:
            splits = _given_splits(split_column, rows)
        indices = choose_rows(len(rows), splits, seed, label_codes(tasks, labels), groups)
        columns = _learn_columns(names, rows, indices[0].tolist())
        everything = Split(columns.encode(rows), labels, torch.arange(len(rows)))
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from error
    return MultiTaskData(
        Path(path).stem,
        tasks,
        **take_splits(everything, indices),
        columns=columns,
        split_seed=None if isinstance(splits, Mapping) else int(seed),
    )


def _input_names(
    header: list[str],
    inputs: Sequence[str] | None,
    ignore: Sequence[str],
    taken: dict[str, str],
    special: dict[str, str | None],
) -> list[str]:
    for argument, name in special.items():
        if name is None:
            continue
        if name not in header:
            raise unknown_name(f"{argument}:", name, header)
        if name in taken:
            raise InvalidInputError(f"{argument}: '{name}' is {taken[name]} already")
        taken = {**taken, name: f"the {argument}"}
    for argument, given in (("inputs", inputs), ("ignore", ignore)):
        if isinstance(given, str):
            raise InvalidInputError(f"{argument}: expected a sequence of columns, got {given!r}")
        for name in given or ():
            if name not in header:
                raise unknown_name(f"column in {argument}:", name, header)
    for name in inputs or ():
        if name in taken or name in ignore:
            raise InvalidInputError(f"inputs: '{name}' is {taken.get(name, 'in ignore')} already")
    chosen = header if inputs is None else list(dict.fromkeys(inputs))
    chosen = [name for name in chosen if name not in taken and name not in ignore]
    if not chosen:
        raise InvalidInputError("inputs: no column is left for them")
    if "" in chosen:
        raise InvalidInputError(
            f"column {header.index('') + 1} has no name; name it, or pass ignore=['']"
        )
    return chosen


def _given_splits(column: str, rows: Rows) -> dict[str, list[int]]:
    parts: dict[str, list[int]] = {name: [] for name in SPLITS}
    for index, row in enumerate(rows):
        word = row[column].lower()
        if word not in _SPLIT_WORDS:
            raise InvalidInputError(
                f"row {index + 2}, column '{column}': expected train, validation or test, "
                f"got {row[column]!r}"
            )
        parts[_SPLIT_WORDS[word]].append(index)
    return parts


def _learn_columns(names: list[str], rows: Rows, train: list[int]) -> TableColumns:
    numeric, categorical = [], []
    for name in names:
        cells = [row[name] for row in rows]
        if _is_numeric(name, cells):
            numeric.append((name, *scale_of(read_numbers(name, cells, 2)[train])))
        else:
            seen = {cells[row] for row in train if not is_blank(cells[row])}
            if not seen:
                raise InvalidInputError(
                    f"column '{name}' is blank in every row of the train split, so that its "
                    f"categories cannot be learned; pass it in ignore"
                )
            categorical.append((name, tuple(sorted(seen))))
    return TableColumns(tuple(numeric), tuple(categorical))


def _is_numeric(name: str, cells: list[str]) -> bool:
    given = {cell: parse_number(cell) for cell in cells if not is_blank(cell)}
    if not given:
        raise InvalidInputError(f"column '{name}' is blank in every row; pass it in ignore")
    texts = [cell for cell, number in given.items() if number is None]
    n_numbers = len(given) - len(texts)
    # A few words among many different numbers are slips, and one input per number would be the
    # silent result.
    if texts and n_numbers >= 10 and n_numbers >= 9 * len(texts):
        raise InvalidInputError(
            f"row {cells.index(texts[0]) + 2}, column '{name}': expected a number as in the other "
            f"rows, got {texts[0]!r}"
        )
    return not texts
