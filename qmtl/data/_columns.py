"""`TableColumns`: how the cells of a table become the numbers that an encoder sees."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qmtl.errors import InvalidInputError, unknown_name

__all__ = ["TableColumns", "is_blank", "parse_number"]


def is_blank(cell: str) -> bool:
    """Whether a cell stands for a missing value: empty, NA or nan.

    Example:
        >>> [is_blank(cell) for cell in ("", " ", "NaN", "NA", "0")]
        [True, True, True, True, False]
    """
    text = cell.strip()
    return text in ("", "NA") or text.lower() == "nan"


def parse_number(cell: str) -> float | None:
    """The number in a cell (infinite ones too), or None for any other text.

    Example:
        >>> parse_number(" 1e3"), parse_number("1_000"), parse_number("-inf")
        (1000.0, None, -inf)
    """
    if "_" in cell:  # Python's own digit separator; in a file it is a name, like 1_000
        return None
    try:
        return float(cell)
    except ValueError:
        return None


@dataclass(frozen=True)
class TableColumns:
    """The input columns of a table and their scale, learned from training rows.

    Args:
        numeric: (name, mean, std) of each numeric column, in the column's own unit.
        categorical: (name, categories) of each column that becomes one 0/1 input per category.
        scale: "standard": numbers become (value - mean) / std.

    Raises:
        InvalidInputError: a column twice, a std that is not positive, an unknown scale.

    Example:
        >>> columns = TableColumns((("age", 40.0, 10.0),), (("smoker", ("no", "yes")),))
        >>> columns.n_inputs, columns.encode([{"age": "50", "smoker": "yes"}])
        (3, tensor([[1., 0., 1.]]))
    """

    numeric: tuple[tuple[str, float, float], ...] = ()
    categorical: tuple[tuple[str, tuple[str, ...]], ...] = ()
    scale: str = "standard"

    def __post_init__(self) -> None:
        if self.scale != "standard":
            raise unknown_name("scale of table columns", self.scale, ["standard"])
        try:
            # A std of 0 (a constant column) becomes 1: the column is then 0 everywhere.
            numeric = tuple((str(n), float(m), float(s) or 1.0) for n, m, s in self.numeric)
            categorical = tuple((str(n), tuple(map(str, c))) for n, c in self.categorical)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"table columns: expected (name, mean, std) and (name, categories) entries, "
                f"got {self.numeric!r} and {self.categorical!r}"
            ) from error
        object.__setattr__(self, "numeric", numeric)
        object.__setattr__(self, "categorical", categorical)
        for name, mean, std in numeric:
            if not (math.isfinite(mean) and 0 < std < math.inf):
                raise InvalidInputError(
                    f"table columns: column '{name}' needs a finite mean and a positive std, "
                    f"got {mean} and {std}"
                )
        for name in self.names:
            if self.names.count(name) > 1:
                raise InvalidInputError(f"table columns: the column '{name}' appears twice")

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that `encode` reads: numeric ones, then categorical ones.

        Example:
            >>> TableColumns((("age", 40.0, 10.0),), (("smoker", ("no", "yes")),)).names
            ('age', 'smoker')
        """
        numeric = tuple(name for name, _, _ in self.numeric)
        return numeric + tuple(name for name, _ in self.categorical)

    @property
    def n_inputs(self) -> int:
        """Number of inputs: one per numeric column and one per category.

        Example:
            >>> TableColumns((), (("smoker", ("no", "yes")),)).n_inputs
            2
        """
        return len(self.numeric) + sum(len(categories) for _, categories in self.categorical)

    def encode(self, rows: Sequence[dict[str, str]], *, first_row: int = 2) -> Tensor:
        """The inputs of table rows.

        Args:
            rows: column name → cell text, as from `read_table`; other columns are ignored.
            first_row: number of the first row in error messages; 2 is the row under the header.

        Returns:
            float32 (N, n_inputs): standardised numbers, then one 0/1 value per category. A blank
            number is 0, the mean; a blank or unseen category is all zeros.

        Raises:
            InvalidInputError: a column is missing, or a cell is no finite number (its row,
                column and text are named).

        Example:
            >>> TableColumns((("age", 40.0, 10.0),)).encode([{"age": "30"}, {"age": ""}]).tolist()
            [[-1.0], [0.0]]
        """
        for number, row in enumerate(rows, start=first_row):
            for name in self.names:
                if name not in row:
                    raise unknown_column(name, number, row)
        encoded = np.zeros((len(rows), self.n_inputs), dtype=np.float64)
        for place, (name, mean, std) in enumerate(self.numeric):
            cells = [row[name] for row in rows]
            encoded[:, place] = np.nan_to_num((read_numbers(name, cells, first_row) - mean) / std)
        place = len(self.numeric)
        for name, categories in self.categorical:
            codes = {category: place + code for code, category in enumerate(categories)}
            for index, row in enumerate(rows):
                if row[name].strip() in codes:
                    encoded[index, codes[row[name].strip()]] = 1.0
            place += len(categories)
        return torch.from_numpy(encoded).float()

    def unseen(self, rows: Sequence[dict[str, str]]) -> dict[str, list[str]]:
        """Categories of table rows that have no input, by column; columns without any are left out.

        Example:
            >>> town = TableColumns((), (("town", ("north", "south")),))
            >>> town.unseen([{"town": "Bern"}, {"town": "north"}, {"town": ""}])
            {'town': ['Bern']}
        """
        found = {}
        for name, categories in self.categorical:
            cells = {row[name].strip() for row in rows}
            found[name] = sorted(cells - {"", *categories})
        return {name: unseen for name, unseen in found.items() if unseen}

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold; `from_dict` reads it.

        Example:
            >>> TableColumns((("age", 40.0, 10.0),)).to_dict()
            {'scale': 'standard', 'numeric': [['age', 40.0, 10.0]], 'categorical': []}
        """
        return {
            "scale": self.scale,
            "numeric": [list(entry) for entry in self.numeric],
            "categorical": [[name, list(categories)] for name, categories in self.categorical],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "TableColumns":
        """Columns from `to_dict`.

        Raises:
            InvalidInputError: an unknown key, or a value that does not fit.

        Example:
            >>> columns = TableColumns((("age", 40.0, 10.0),), (("smoker", ("no", "yes")),))
            >>> TableColumns.from_dict(columns.to_dict()) == columns
            True
        """
        known = ["scale", "numeric", "categorical"]
        if not isinstance(data, dict):
            raise InvalidInputError(f"table columns: expected a dict with {known}, got {data!r}")
        for key in data:
            if key not in known:
                raise unknown_name("table columns key", key, known)
        return cls(**data)


def unknown_column(name: str, number: int, row: dict[str, str]) -> InvalidInputError:
    """The error for a row without a column that is needed.

    Example:
        >>> str(unknown_column("age", 2, {"Age": "3"}))
        "row 2 has no column 'age'; did you mean 'Age'? Known: Age"
    """
    suggestion = str(unknown_name("column", name, row)).removeprefix(f"unknown column {name!r}")
    return InvalidInputError(f"row {number} has no column {name!r}{suggestion}")


def read_numbers(name: str, cells: Sequence[str], first_row: int) -> np.ndarray:
    """The cells of a numeric column as float64 (N,), NaN where blank.

    Raises:
        InvalidInputError: a cell is no finite number; its row, column and text are named.

    Example:
        >>> read_numbers("age", ["3", "NA"], 2)
        array([ 3., nan])
    """
    numbers = np.full(len(cells), np.nan)
    for index, cell in enumerate(cells):
        if is_blank(cell):
            continue
        number = parse_number(cell)
        if number is None or not math.isfinite(number):
            raise InvalidInputError(
                f"row {index + first_row}, column '{name}': expected a finite number, got {cell!r}"
            )
        numbers[index] = number
    return numbers
