"""`TableColumns`: how the columns of a table become an encoder's inputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qmtl._html import listed
from qmtl.data._cells import (
    Cells,
    category_places,
    cell_dates,
    cell_numbers,
    check_decimal,
    plain_numbers,
    with_plain_rows,
)
from qmtl.errors import InvalidInputError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

CYCLES = {"year": 365.2425, "week": 7.0, "day": 1.0}
"""Periods in days; the position of a date in each period can be an input."""


@dataclass(frozen=True)
class TableColumns:
    """The input columns of a table and their scale, learned from training rows.

    Args:
        numeric: (name, mean, std) of each column of numbers, in the column's own unit.
        categorical: (name, categories) of each column that becomes one 0/1 input per category.
        scale: "standard": numbers become (value - mean) / std.
        dates: (name, format, mean, std, cycles) of each column of dates: the format with which
            `pandas.to_datetime` reads texts, mean and standard deviation in days, and the cycles
            ("year", "week", "day") that become two inputs each, cosine and sine.
        decimal: decimal mark of the training file; it decides how to read texts such as 1,234.
            None if unknown.

    Raises:
        InvalidInputError: for a repeated column, a std that is not positive, or an unknown scale.

    Example:
        >>> import pandas as pd
        >>> columns = TableColumns((("age", 40.0, 10.0),), (("smoker", ("no", "yes")),))
        >>> columns.encode(pd.DataFrame({"smoker": ["yes", None], "age": [50, 20]}))
        tensor([[ 1.,  0.,  1.],
                [-2.,  0.,  0.]])
    """

    numeric: tuple[tuple[str, float, float], ...] = ()
    categorical: tuple[tuple[str, tuple[str, ...]], ...] = ()
    scale: str = "standard"
    dates: tuple[tuple[str, str, float, float, tuple[str, ...]], ...] = ()
    # Not compared, since the way in which tables write numbers does not change the inputs.
    decimal: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.scale != "standard":
            raise unknown_name("scale of table columns", self.scale, ["standard"])
        check_decimal(self.decimal)
        try:
            # A std of 0 (a constant column) becomes 1: the column is then 0 everywhere.
            numeric = tuple((str(n), float(m), float(s) or 1.0) for n, m, s in self.numeric)
            categorical = tuple((str(n), tuple(map(str, c))) for n, c in self.categorical)
            dates = tuple(
                (str(n), str(f), float(m), float(s) or 1.0, tuple(map(str, c)))
                for n, f, m, s, c in self.dates
            )
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"table columns: expected (name, mean, std), (name, categories) and (name, format, "
                f"mean, std, cycles), got {self.numeric!r}, {self.categorical!r} and {self.dates!r}"
            ) from error
        object.__setattr__(self, "numeric", numeric)
        object.__setattr__(self, "categorical", categorical)
        object.__setattr__(self, "dates", dates)
        for name, mean, std in (*numeric, *((n, m, s) for n, _, m, s, _ in dates)):
            if not (np.isfinite(mean) and np.isfinite(std) and std > 0):
                raise InvalidInputError(
                    f"column '{name}': expected a finite mean and a positive std, got {mean}, {std}"
                )
        for cycle in (cycle for entry in dates for cycle in entry[4]):
            if cycle not in CYCLES:
                raise unknown_name("cycle of dates", cycle, CYCLES)
        if len(set(self.names)) < len(self.names):
            name = next(name for name in self.names if self.names.count(name) > 1)
            raise InvalidInputError(f"table columns: the column '{name}' appears twice")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that a table must have.

        Example:
            >>> TableColumns((("age", 40.0, 10.0),), (("smoker", ("no", "yes")),)).names
            ('age', 'smoker')
        """
        columns: tuple[Any, ...] = (*self.numeric, *self.dates, *self.categorical)
        return tuple(entry[0] for entry in columns)

    @property
    def n_inputs(self) -> int:
        """Number of inputs: one per number, one per category, one plus two per cycle for a date.

        Example:
            >>> TableColumns((), (("smoker", ("no", "yes")),)).n_inputs
            2
        """
        n_dates = sum(1 + 2 * len(entry[4]) for entry in self.dates)
        n_categories = sum(len(categories) for _, categories in self.categorical)
        return len(self.numeric) + n_dates + n_categories

    def is_close(self, other: "TableColumns") -> bool:
        """Return whether other columns give the same inputs, up to rounding of the scales.

        Example:
            >>> columns = TableColumns((("age", 40.0, 10.0),))
            >>> [columns.is_close(TableColumns((("age", 40.0, std),))) for std in (10.0 + 1e-9, 11)]
            [True, False]
        """
        if not self.has_inputs_of(other):
            return False
        scales = []
        for one in (self, other):
            pairs = [(m, s) for _, m, s in one.numeric] + [(m, s) for _, _, m, s, _ in one.dates]
            scales.append(np.array(pairs).reshape(-1, 2))
        # Means are compared in standard deviations.
        (mean, std), (other_mean, other_std) = scales[0].T, scales[-1].T
        return bool(
            np.all(np.abs(mean - other_mean) <= 1e-5 * std)
            and np.all(np.abs(std - other_std) <= 1e-5 * std)
        )

    def has_inputs_of(self, other: "TableColumns") -> bool:
        """Return whether other columns give inputs of the same meaning, whatever their scales.

        Example:
            >>> age = TableColumns((("age", 40.0, 10.0),))
            >>> [age.has_inputs_of(TableColumns(((name, 5.0, 1.0),))) for name in ("age", "size")]
            [True, False]
        """
        one, two = (
            (c.names, c.categorical, [(f, cycles) for _, f, _, _, cycles in c.dates])
            for c in (self, other)
        )
        return one == two

    def fits(self, inputs: Any) -> bool:
        """Return whether inputs are a table with named columns, not an array.

        A data frame counts as a table if some column name is a text, or is one of `names`.

        Example:
            >>> import pandas as pd
            >>> columns = TableColumns((("age", 40.0, 10.0),))
            >>> columns.fits(pd.DataFrame({"age": [1]})), columns.fits(pd.DataFrame([[1.0]]))
            (True, False)
        """
        names = getattr(inputs, "columns", ())
        return hasattr(inputs, "iloc") and any(
            isinstance(name, str) or str(name) in self.names for name in names
        )

    def encode(self, table: "pd.DataFrame") -> Tensor:
        """Encode a table's rows; the order of columns and additional columns do not matter.

        Texts that spell numbers or dates are converted, whatever pandas type the columns have.

        Returns:
            float32 (N, n_inputs): standardised numbers, then the inputs of dates, then one 0/1
            value per category. A missing value is 0, the mean; a category that is missing or did
            not occur in training is all zeros.

        Raises:
            InvalidInputError: a column is missing, or the named cell is not a number or date.

        Example:
            >>> import pandas as pd
            >>> columns = TableColumns((("age", 40.0, 10.0),))
            >>> columns.encode(pd.DataFrame({"age": ["30", "N/A"]})).tolist()
            [[-1.0], [0.0]]
        """
        table = self._chosen(table)
        cells: dict[str, Any] = plain_numbers(table.iloc[:, : len(self.numeric)])
        others = [name for name, *_ in self.numeric if name not in cells]
        cells |= {
            **{n: cell_numbers(table[n], self.decimal, truths=True) for n in others},
            **{n: cell_dates(table[n], text_format) for n, text_format, *_ in self.dates},
            **{n: Cells.of(table[n]) for n, _ in self.categorical},
        }
        return encode_cells(self, cells, len(table))

    def unseen(self, table: "pd.DataFrame") -> dict[str, list[str]]:
        """Return, by column, the categories in a table that have no input.

        Example:
            >>> import pandas as pd
            >>> town = TableColumns((), (("town", ("north", "south")),))
            >>> town.unseen(pd.DataFrame({"town": ["Bern", "north", None]}))
            {'town': ['Bern']}
        """
        table, found = self._chosen(table), {}
        for name, categories in self.categorical:
            texts = Cells.of(table[name]).texts
            places = category_places(texts, categories)
            found[name] = sorted(texts[i] for i in np.flatnonzero(places < 0))
        return {name: unseen for name, unseen in found.items() if unseen}

    def unseen_notes(self, table: "pd.DataFrame") -> list[str]:
        """Return what to tell the user about `unseen` categories, a text for each column.

        Example:
            >>> import pandas as pd
            >>> town = TableColumns((), (("town", ("north", "south")),))
            >>> town.unseen_notes(pd.DataFrame({"town": ["Bern", "north", None]}))
            ["column 'town' has 'Bern', which training has not seen and which counts as missing"]
        """
        return [
            f"column {name!r} has {listed(map(repr, unseen))}, which training has not seen and "
            f"which counts as missing"
            for name, unseen in self.unseen(table).items()
        ]

    def _chosen(self, table: "pd.DataFrame") -> "pd.DataFrame":
        """Return the required columns, with their names as texts."""
        if not hasattr(table, "iloc") or not hasattr(table, "columns"):
            raise InvalidInputError(
                f"table: expected a pandas DataFrame, got {type(table).__name__}"
            )
        found = [str(name).strip() for name in table.columns]
        places = {name: place for place, name in enumerate(found)}
        for name in self.names:
            if name not in places:
                unknown = str(unknown_name("column", name, places))
                hint = unknown.removeprefix(f"unknown column {name!r}")
                raise InvalidInputError(f"the table has no column {name!r}{hint}")
            if len(places) < len(found) and found.count(name) > 1:
                raise InvalidInputError(
                    f"the table has the column {name!r} {found.count(name)} times"
                )
        table = table.iloc[:, [places[name] for name in self.names]].set_axis(self.names, axis=1)
        return with_plain_rows(table)

    def to_dict(self) -> dict[str, Any]:
        """Return the columns as data that JSON can hold; `from_dict` reads it.

        Example:
            >>> TableColumns((("age", 40.0, 10.0),)).to_dict()["numeric"]
            [['age', 40.0, 10.0]]
        """
        return {
            "scale": self.scale,
            "numeric": [list(entry) for entry in self.numeric],
            "dates": [[*entry[:4], list(entry[4])] for entry in self.dates],
            "categorical": [[name, list(categories)] for name, categories in self.categorical],
            "decimal": self.decimal,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "TableColumns":
        """Return the columns that `to_dict` described.

        Raises:
            InvalidInputError: for an unknown key, or a value that does not fit.

        Example:
            >>> columns = TableColumns((("age", 40.0, 10.0),), (("smoker", ("no", "yes")),))
            >>> TableColumns.from_dict(columns.to_dict()) == columns
            True
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(data, dict):
            raise InvalidInputError(f"table columns: expected a dict with {known}, got {data!r}")
        for key in data:
            if key not in known:
                raise unknown_name("table columns key", key, known)
        return cls(**data)


def encode_cells(columns: TableColumns, cells: Mapping[str, Any], n_rows: int) -> Tensor:
    """Encode columns whose cells are read: numbers, dates in days, or `Cells` of categories."""
    encoded = np.zeros((n_rows, columns.n_inputs), dtype=np.float32)
    place = 0
    for name, mean, std in columns.numeric:
        encoded[:, place] = (cells[name] - mean) / std
        place += 1
    for name, _, mean, std, cycles in columns.dates:
        encoded[:, place] = (cells[name] - mean) / std
        place += 1
        for cycle in cycles:
            phase = 2 * np.pi * cells[name] / CYCLES[cycle]
            encoded[:, place], encoded[:, place + 1] = np.cos(phase), np.sin(phase)
            place += 2
    np.copyto(encoded, 0.0, where=np.isnan(encoded))
    for name, categories in columns.categorical:
        found = np.append(category_places(cells[name].texts, categories), -1)[cells[name].codes]
        rows = np.flatnonzero(found >= 0)
        encoded[rows, place + found[rows]] = 1
        place += len(categories)
    return torch.from_numpy(encoded)


def column_differences(one: TableColumns | None, two: TableColumns | None) -> tuple[str, str]:
    """Describe in words how two `TableColumns` differ: a text for each of them.

    Example:
        >>> column_differences(TableColumns((("age", 40.0, 10.0),)), None)
        ('age', 'no columns')
        >>> kinds = [TableColumns((), (("smoker", c),)) for c in (("no", "yes"), ("0", "1"))]
        >>> column_differences(*kinds)
        ("smoker ('no', 'yes')", "smoker ('0', '1')")
    """
    if one is None or two is None or one.names != two.names:
        return _listed(one), _listed(two)
    entries = [(*c.numeric, *c.dates, *c.categorical) for c in (one, two)]
    differing: Any = next((p for p in zip(*entries, strict=True) if p[0] != p[1]), entries)
    first, second = (f"{name} {', '.join(map(_text, rest))}" for name, *rest in differing)
    return first, second


def _text(value: Any) -> str:
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def _listed(columns: TableColumns | None) -> str:
    return "no columns" if columns is None else listed(columns.names)
