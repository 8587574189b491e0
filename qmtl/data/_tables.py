"""Data sets from tables: `from_frame` from a data frame, `from_csv` from a file."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from qmtl._sections import Fractions, RecipePath, explain
from qmtl.data._cells import cell_error, with_plain_rows
from qmtl.data._csv import TextTable, column_names, is_nameless, local_path
from qmtl.data._dataset import DataSection, MultiTaskData, Split
from qmtl.data._learn import learn_columns
from qmtl.data._splits import SPLITS, among_kept, check_count, choose_rows, label_codes
from qmtl.data._table_labels import Targets, Wanted, read_labels, read_weights, wanted_columns
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import Task, check_tasks, check_varied

if TYPE_CHECKING:
    import pandas as pd

FIRST_ROW = 2  # the first row under the header, counted as in an editor

_SPLIT_WORDS = {"train": "train", "training": "train", "validation": "validation",
                "val": "validation", "valid": "validation", "dev": "validation",
                "test": "test"}  # fmt: skip


class Classes(BaseModel):
    """A target of a recipe whose classes are named: ``{ kind = "multiclass", class_names = [] }``.

    A word such as NA is then a class, and not a missing label.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["binary", "multiclass"]
    class_names: tuple[str, ...]

    def task(self, name: str) -> Task:
        """Return the task of the column with this name."""
        if self.kind == "binary":
            return Task.binary(name, class_names=self.class_names)
        return Task.multiclass(name, len(self.class_names), class_names=self.class_names)


def _classes(name: str, kind: Any) -> Any:
    try:
        return Classes.model_validate(kind) if isinstance(kind, dict) else kind
    except ValidationError as error:
        # Otherwise pydantic would tell about every member of the union.
        raise ValueError(f"{name}: {explain(error, Classes)}") from None


def _check_targets(value: Any) -> Any:
    listed = isinstance(value, list) and all(isinstance(name, str) for name in value)
    kinds = isinstance(value, dict) and all(
        isinstance(kind, str | dict | Classes) for kind in value.values()
    )
    if kinds:
        return {name: _classes(name, kind) for name, kind in value.items()}
    if value is None or listed:
        return value
    raise ValueError(
        "expected a list of columns, or a table of column = kind or of column = { kind = ..., "
        "class_names = [...] }"
    )


_Values = str | float | list[str | float]
MissingValues = _Values | dict[str, _Values]


class CsvSection(DataSection):
    """Section ``[data]`` with ``source = "csv"``; `from_csv` explains the values.

    Targets may also be the names in `tasks`.
    """

    defaults_of_0_1: ClassVar[Mapping[str, Any]] = {"delimiter": ","}

    source: Literal["csv"] = "csv"
    path: RecipePath
    targets: Annotated[
        dict[str, str | Classes] | list[str] | None, BeforeValidator(_check_targets)
    ] = None
    inputs: list[str] | None = None
    ignore: list[str] = Field(default_factory=list)
    delimiter: str | None = None
    decimal: Literal[".", ","] | None = None
    encoding: str | None = None
    na_values: MissingValues | None = None
    split_column: str | None = None
    group_column: str | None = None
    max_categories: int = Field(50, ge=1)
    weights: str | None = None
    splits: Fractions | None = None

    @model_validator(mode="after")
    def _has_targets(self) -> "CsvSection":
        if not (self.targets or self.tasks):
            raise ValueError("source 'csv' needs targets (or tasks)")
        return self

    def load(self) -> MultiTaskData:
        targets: Any = self.targets or self.tasks
        if isinstance(targets, dict):
            pairs = targets.items()
            targets = {k: v.task(k) if isinstance(v, Classes) else v for k, v in pairs}
        options = self.given() | {"targets": targets}
        data = from_csv(self.path, seed=self.seed, **options)
        return data if self.tasks is None else data.subset(self.tasks)


def from_frame(
    table: "pd.DataFrame",
    *,
    targets: Targets,
    inputs: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    splits: Sequence[float] | Mapping[str, Any] = (0.7, 0.15, 0.15),
    seed: int = 0,
    split_column: str | None = None,
    group_column: str | None = None,
    max_categories: int = 50,
    name: str = "table",
    weights: str | None = None,
) -> MultiTaskData:
    """Make a data set from a pandas DataFrame.

    Args:
        table: one row per sample.
        targets: columns to predict. Names, or patterns such as ``"tox_*"``, whose kinds
            `qmtl.tasks.infer_task` infers from the labels; or tasks with the names of their columns
            (for a task with several outputs, its class names are the columns); or a dict of name or
            pattern → kind ("binary", "multiclass", "regression"), task, or None to infer it.
        inputs: input columns; None for all columns without another role. Numbers are standardised,
            dates become a few numbers, texts one 0/1 input per category, all fitted on the train
            split. Columns that look like ids, e-mail addresses or free text are left out with a
            warning, or refused if they are named here.
        ignore: columns to leave out; "" for those without a name.
        splits: three fractions or a dict of row numbers (from 0).
        seed: seed of the split.
        split_column: column that says train, validation or test, instead of `splits`.
        group_column: column whose equal values stay in one split.
        max_categories: largest number of categories; columns of texts with more are left out.
        name: name of the data set.
        weights: column with the weight of each row in losses, metrics and scales: a row of weight 2
            counts like two rows; a row of weight 0 is left out. The column is not an input.

    Returns:
        The data; `MultiTaskData.columns` turns other tables into the same inputs, and
        `MultiTaskModel.predict` takes data frames like this one.

    Raises:
        InvalidInputError: a column or a cell does not fit, or a classification has one class; the
            error names the column, and the row by its label in the table's index.

    Warns:
        UserWarning: columns are left out, or a regression target has one value.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"size": range(20), "colour": ["red", "blue"] * 10,
        ...                       "sold": ["yes", "no", "no", None] * 5})
        >>> data = from_frame(table, targets=["sold"])
        >>> data.n_inputs, data.task("sold").class_names, data.columns.names
        (3, ('no', 'yes'), ('size', 'colour'))
    """
    options = _Options(
        inputs, ignore, splits, seed, split_column, group_column, max_categories, name, weights
    )
    table = _named(table)
    wanted = wanted_columns(list(table.columns), targets, options.roles)
    return _data(table, wanted, np.arange(len(table)), None, options)


def from_csv(
    path: str | PathLike[str],
    *,
    targets: Targets,
    inputs: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    splits: Sequence[float] | Mapping[str, Any] = (0.7, 0.15, 0.15),
    seed: int = 0,
    split_column: str | None = None,
    delimiter: str | None = None,
    group_column: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    max_categories: int = 50,
    weights: str | None = None,
    na_values: Any = (),
) -> MultiTaskData:
    r"""Make a data set from a table in a file: `read_table`, then `from_frame`.

    Args:
        path: the file.
        targets: see `from_frame`, which also explains the arguments that are not listed here.
        splits: three fractions or a dict of row numbers (from 0, without the header; `Split.index`
            counts in the same way).
        delimiter: character between cells; None detects it.
        decimal: decimal mark; None detects it.
        encoding: see `read_table`.
        na_values: more words or numbers for missing values, in all columns; or a dict from column
            to these, see `read_table`.

    Raises:
        InvalidInputError: as in `from_frame`, or the file cannot be read. Errors count the rows as
            a spreadsheet does: the header is row 1.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
        >>> rows = ["1,5;red;yes", "2;blue;no"] * 10
        >>> _ = path.write_text("\n".join(["size;colour;sold", *rows]))
        >>> data = from_csv(path, targets=["sold"])
        >>> data.n_inputs, data.task("sold").class_names, data.columns.names
        (3, ('no', 'yes'), ('size', 'colour'))
    """
    try:
        name = local_path(path).stem
        options = _Options(
            inputs, ignore, splits, seed, split_column, group_column, max_categories, name, weights
        )
        file = TextTable(path, delimiter, decimal, encoding, na_values=na_values)
        for column in na_values if isinstance(na_values, Mapping) else ():
            if column not in file.header:
                raise unknown_name("column in na_values:", column, file.header)
        wanted = wanted_columns(file.header, targets, options.roles)
        texts = {column for columns, _ in wanted for column in columns}
        texts |= {name for name in (split_column, group_column) if name is not None}
        table = file.frame(texts)
        numbers = set(file.header if options.inputs is None else options.inputs)
        numbers -= texts | set(options.ignore)
        for columns, task in wanted:
            if (task.kind if isinstance(task, Task) else task) in (None, "regression"):
                numbers.update(columns)
        file.check_numbers(table, numbers | {options.weights or ""})
        return _data(table, wanted, table.index.to_numpy() - FIRST_ROW, file.decimal, options)
    except InvalidInputError as error:
        if str(error).startswith(str(path)):
            raise
        raise InvalidInputError(f"{path}: {error}") from error


@dataclass(frozen=True)
class _Options:
    """The arguments that `from_frame` and `from_csv` share, checked."""

    inputs: Sequence[str] | None
    ignore: Sequence[str]
    splits: Sequence[float] | Mapping[str, Any]
    seed: int
    split_column: str | None
    group_column: str | None
    max_categories: int
    name: str
    weights: str | None

    def __post_init__(self) -> None:
        check_count("max_categories", self.max_categories, 1)
        for argument in ("inputs", "ignore"):
            given = getattr(self, argument)
            if given is not None and (isinstance(given, str) or not isinstance(given, Iterable)):
                raise InvalidInputError(
                    f"{argument}: expected a sequence of columns, got {given!r}"
                )
            # pandas' Index, which has no truth value, is common here; so are numbers as names.
            object.__setattr__(self, argument, None if given is None else list(map(str, given)))
        object.__setattr__(self, "ignore", self.ignore or [])
        for argument, name in self.special.items():
            given = type(name).__name__
            if given != "tuple" and np.ndim(name):  # a column of values
                raise InvalidInputError(f"{argument}: expected the name of a column, got {given}")
            object.__setattr__(self, argument, str(name))

    @property
    def roles(self) -> set[str]:
        """The columns that a pattern of targets must not match."""
        return {*self.special.values(), *self.ignore}

    @property
    def special(self) -> dict[str, str]:
        """The columns with a role of their own, keyed by the argument that names them."""
        names = ("split_column", "group_column", "weights")
        return {n: getattr(self, n) for n in names if getattr(self, n) is not None}


def _data(
    table: "pd.DataFrame",
    wanted: Sequence[Wanted],
    numbers: np.ndarray,
    decimal: str | None,
    options: _Options,
) -> MultiTaskData:
    weights = None if options.weights is None else read_weights(table, options.weights, decimal)
    kept = np.ones(len(table), bool) if weights is None else weights > 0
    splits = among_kept(options.splits, numbers, kept)
    if weights is not None and not kept.all():
        table, numbers, weights = table[kept], numbers[kept], weights[kept]
    labels: dict[str, Tensor] = {}
    taken: dict[str, str] = {}
    read = [read_labels(table, own, task, decimal) for own, task in wanted]
    tasks = check_tasks(task for task, _ in read)
    for (own, _), (task, targets) in zip(wanted, read, strict=True):
        labels[task.name] = targets
        taken |= dict.fromkeys(own, f"the target '{task.name}'")
    names = _input_names(list(table.columns), options, taken)
    for task in tasks:
        check_varied(task, labels[task.name], stacklevel=3)
    if options.split_column is not None:
        splits = _given_splits(table[options.split_column])
    groups = options.group_column
    if groups is not None:
        groups = table[groups].astype(object).fillna("")
    codes = label_codes(tasks, labels)
    indices = choose_rows(len(table), splits, options.seed, codes, groups)
    columns, notes, encoded = learn_columns(
        table, names, indices[0].numpy(), chosen=options.inputs is not None,
        max_categories=options.max_categories, decimal=decimal, weights=weights,
    )  # fmt: skip
    for place, column in enumerate(table.columns):
        if options.inputs is None and is_nameless(column) and column in columns.names:
            raise InvalidInputError(f"column {place + 1} has no name; name it, or pass ignore=['']")
    for note in notes:
        warnings.warn(f"{note}; list columns in inputs or ignore", UserWarning, stacklevel=3)
    counts = None if weights is None else torch.tensor(weights)
    train, validation, test = (
        Split(
            # NumPy gathers rows in half the time of torch.
            torch.from_numpy(encoded.numpy()[rows.numpy()]),
            {task: targets[rows] for task, targets in labels.items()},
            torch.from_numpy(numbers)[rows],
            None if counts is None else counts[rows],
        )
        for rows in indices
    )
    return MultiTaskData(
        options.name,
        tasks,
        train,
        validation,
        test,
        columns=columns,
        split_seed=None if isinstance(splits, Mapping) else int(options.seed),
        notes=tuple(notes),
    )


def _named(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return the table with distinct texts as column names."""
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise InvalidInputError(f"table: expected a pandas DataFrame, got {type(table).__name__}")
    if table.columns.nlevels > 1:
        raise InvalidInputError("table: expected columns with one name each, got several levels")
    if not len(table):
        raise InvalidInputError("table: expected at least one row, got none")
    names = column_names(table.columns, "table")
    return with_plain_rows(table.set_axis(names, axis=1))


def _input_names(header: list[str], options: _Options, taken: dict[str, str]) -> list[str]:
    """Return the input columns; `taken` names the columns with a role and the role."""
    inputs = options.inputs
    for argument, name in options.special.items():
        if name not in header:
            raise unknown_name(f"{argument}:", name, header)
        if name in taken:
            raise InvalidInputError(f"{argument}: '{name}' is {taken[name]} already")
        taken = {**taken, name: f"the {argument}"}
    for argument, given in (("inputs", inputs or ()), ("ignore", options.ignore)):
        for name in given:
            if name not in header and not (name == "" and argument == "ignore"):
                raise unknown_name(f"column in {argument}:", name, header)
    left_out = {*options.ignore}
    if "" in left_out:
        left_out.update(filter(is_nameless, header))
    for name in inputs or ():
        if name in taken or name in left_out:
            raise InvalidInputError(f"inputs: '{name}' is {taken.get(name, 'in ignore')} already")
    chosen = header if inputs is None else list(dict.fromkeys(inputs))
    return [name for name in chosen if name not in taken and name not in left_out]


def _given_splits(column: "pd.Series") -> dict[str, np.ndarray]:
    words = [_SPLIT_WORDS.get(str(word).strip().lower()) for word in column]
    if None in words:
        raise cell_error(column, words.index(None), "train, validation or test")
    return {name: np.flatnonzero(np.array(words) == name) for name in SPLITS}
