"""`TableColumns`: how the columns of a table become an encoder's inputs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import MISSING_WORDS, is_missing, number_in, number_text, truth_word

if TYPE_CHECKING:
    import pandas as pd

# Numbers with groups of three digits and a decimal mark: 1,234.5 or 1.234,5; groups may also be
# separated by apostrophes and kinds of spaces.
_POINT = re.compile(r"[+-]?[1-9]\d{0,2}(?:([,'\u2019\u00a0\u202f ])\d{3})(?:\1\d{3})*(?:\.\d*)?")
_COMMA = re.compile(
    r"[+-]?(?:\d+|[1-9]\d{0,2}(?:([.'\u2019\u00a0\u202f ])\d{3})(?:\1\d{3})*)?(?:,\d*)?"
    r"(?:[eE][+-]?\d+)?"
)
# Every number fits this, and few other texts do.
_MAYBE_NUMBER = re.compile(r"[\s\d+\-.,'\u2019eE]*|\s*[+-]?(inf|infinity)\s*", re.IGNORECASE)

DAY = 86400.0
CYCLES = {"year": 365.2425, "week": 7.0, "day": 1.0}
"""Periods in days: a date is also where in each of them it lies."""


@dataclass(frozen=True)
class TableColumns:
    """The input columns of a table and their scale, learned from training rows.

    Args:
        numeric: (name, mean, std) of each column of numbers, in the column's own unit.
        categorical: (name, categories) of each column that becomes one 0/1 input per category.
        scale: "standard": numbers become (value - mean) / std.
        dates: (name, format, mean, std, cycles) of each column of dates: the format with which
            `pandas.to_datetime` reads texts, mean and standard deviation in days, and which of
            "year", "week" and "day" become two inputs each, cosine and sine.
        decimal: decimal mark of the training file, for texts that two marks fit; None if unknown.

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
    # Two models are equal even if their tables write numbers in different ways.
    decimal: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.scale != "standard":
            raise unknown_name("scale of table columns", self.scale, ["standard"])
        if self.decimal not in (None, ".", ","):
            raise InvalidInputError(f"decimal: expected '.' or ',', got {self.decimal!r}")
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
        scales = [*numeric, *((n, m, s) for n, _, m, s, _ in dates)]
        for name, mean, std in scales:
            if not (np.isfinite(mean) and np.isfinite(std) and std > 0):
                raise InvalidInputError(
                    f"column '{name}': expected a finite mean and a positive std, got {mean}, {std}"
                )
        for cycle in (cycle for entry in dates for cycle in entry[4]):
            if cycle not in CYCLES:
                raise unknown_name("cycle of dates", cycle, CYCLES)
        seen: set[str] = set()
        for name in self.names:
            if name in seen:
                raise InvalidInputError(f"table columns: the column '{name}' appears twice")
            seen.add(name)

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
        """Return whether other columns give the same inputs, but for rounding errors in the scales.

        Example:
            >>> columns = TableColumns((("age", 40.0, 10.0),))
            >>> [columns.is_close(TableColumns((("age", 40.0, std),))) for std in (10.0 + 1e-9, 11)]
            [True, False]
        """
        scales, words = [], []
        for one in (self, other):
            pairs = [(m, s) for _, m, s in one.numeric] + [(m, s) for _, _, m, s, _ in one.dates]
            scales.append(np.array(pairs).reshape(-1, 2))
            words.append((one.names, one.categorical, [(f, c) for _, f, _, _, c in one.dates]))
        # Means are compared in standard deviations.
        (mean, std), (other_mean, other_std) = scales[0].T, scales[-1].T
        return words[0] == words[1] and bool(
            np.all(np.abs(mean - other_mean) <= 1e-5 * std)
            and np.all(np.abs(std - other_std) <= 1e-5 * std)
        )

    def fits(self, inputs: Any) -> bool:
        """Return whether inputs are a table with named columns, not an array.

        A data frame without texts as names is an array, unless it has a column of this name.

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
        """Encode a table's rows; the order of its columns does not matter, nor do further columns.

        Args:
            table: numbers, dates and categories, in any pandas type; texts that spell numbers or
                dates are converted.

        Returns:
            float32 (N, n_inputs): standardised numbers, then the inputs of dates, then one 0/1
            value per category. A missing value is 0, the mean; a category that is missing or did
            not occur in training is all zeros.

        Raises:
            InvalidInputError: a column is missing, or a cell is not a finite number or not a date
                (the error gives its row, column and text).

        Example:
            >>> import pandas as pd
            >>> columns = TableColumns((("age", 40.0, 10.0),))
            >>> columns.encode(pd.DataFrame({"age": ["30", "N/A"]})).tolist()
            [[-1.0], [0.0]]
        """
        table = self._chosen(table)
        encoded = np.zeros((len(table), self.n_inputs), dtype=np.float32)
        start = len(self.numeric)
        if self.numeric:
            names = [name for name, *_ in self.numeric]
            block = column_numbers(table, names, self.decimal, truths=True)
            mean, std = np.array([entry[1:] for entry in self.numeric]).T
            block -= mean
            block /= std
            encoded[:, :start] = np.nan_to_num(block, copy=False)
        for name, text_format, date_mean, date_std, cycles in self.dates:
            days = column_dates(table[name], text_format)
            phases = [2 * np.pi * days / CYCLES[cycle] for cycle in cycles]
            parts = [
                (days - date_mean) / date_std,
                *(f(p) for p in phases for f in (np.cos, np.sin)),
            ]
            for part in parts:
                encoded[:, start] = np.nan_to_num(part)
                start += 1
        first_cells = np.arange(len(table)) * self.n_inputs
        for name, categories in self.categorical:
            texts, codes = column_texts(table[name])
            find = _category_finder(categories)
            found = [find(text) for text in texts]
            places = np.array([*(-1 if place is None else place for place in found), -1])[codes]
            cells, known = first_cells + (start + places), places >= 0
            encoded.reshape(-1)[cells if known.all() else cells[known]] = 1.0
            start += len(categories)
        return torch.from_numpy(encoded)

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
            texts, codes = column_texts(table[name])
            place = _category_finder(categories)
            present = {int(code) for code in np.unique(codes)} - {-1}
            found[name] = sorted(texts[code] for code in present if place(texts[code]) is None)
        return {name: unseen for name, unseen in found.items() if unseen}

    def _chosen(self, table: "pd.DataFrame") -> "pd.DataFrame":
        """Return the required columns, with their names as texts."""
        if not hasattr(table, "iloc") or not hasattr(table, "columns"):
            raise InvalidInputError(
                f"table: expected a pandas DataFrame, got {type(table).__name__}"
            )
        found = [str(name).strip() for name in table.columns]
        places = {name: place for place, name in enumerate(found)}
        for name in self.names if len(places) < len(found) else ():
            if found.count(name) > 1:
                raise InvalidInputError(
                    f"the table has the column {name!r} {found.count(name)} times"
                )
        for name in self.names:
            if name not in places:
                hint = str(unknown_name("column", name, places)).removeprefix(
                    f"unknown column {name!r}"
                )
                raise InvalidInputError(f"the table has no column {name!r}{hint}")
        return table.iloc[:, [places[name] for name in self.names]].set_axis(self.names, axis=1)

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
        known = ["scale", "numeric", "dates", "categorical", "decimal"]
        if not isinstance(data, dict):
            raise InvalidInputError(f"table columns: expected a dict with {known}, got {data!r}")
        for key in data:
            if key not in known:
                raise unknown_name("table columns key", key, known)
        return cls(**data)


def column_differences(one: TableColumns | None, two: TableColumns | None) -> tuple[str, str]:
    """Describe the differences between two ways to read a table, each in words.

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
    first, second = (f"{name} {', '.join(map(str, rest))}" for name, *rest in differing)
    return first, second


def _listed(columns: TableColumns | None) -> str:
    if columns is None:
        return "no columns"
    names = columns.names
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def is_number_type(dtype: Any) -> bool:
    """Return whether a column of this type holds numbers, truth values or durations, but no texts.

    Example:
        >>> import pandas as pd
        >>> [is_number_type(pd.Series(values).dtype) for values in ([1], [True], ["1"])]
        [True, True, False]
    """
    from pandas.api import types

    if types.is_complex_dtype(dtype):
        return False
    return bool(types.is_numeric_dtype(dtype) or dtype.kind in "bm")


def column_numbers(
    table: "pd.DataFrame",
    names: Sequence[str],
    decimal: str | None = None,
    *,
    truths: bool = False,
) -> np.ndarray:
    """Return columns as float64 (N, columns), NaN where missing; durations are in days.

    Args:
        table: the rows.
        names: columns of numbers, or of texts that spell numbers.
        decimal: decimal mark of texts; None finds the one that fits.
        truths: whether the texts true and false are 1 and 0 in a column without numbers, as truth
            values are.

    Raises:
        InvalidInputError: a cell is not a finite number; the error gives its row, column and text.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"a": ["1.5", "NA"], "b": [True, False]})
        >>> column_numbers(table, ["a", "b"]).tolist()
        [[1.5, 1.0], [nan, 0.0]]
    """
    dtypes = table.dtypes
    plain = [place for place, name in enumerate(names) if dtypes[name].kind in "biuf"]
    # All columns at once: a table may have many thousands.
    numbers = table[[names[place] for place in plain]]
    block: np.ndarray = numbers.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    if len(plain) < len(names):
        every = np.empty((len(table), len(names)))
        every[:, plain] = block
        block = every
    for place in sorted(set(range(len(names))) - set(plain)):
        block[:, place] = _numbers(table[names[place]], decimal, truths=truths)
    bad = np.isinf(block)
    if bad.any():
        row, place = map(int, np.argwhere(bad)[0])
        raise InvalidInputError(
            f"row {table.index[row]}, column '{names[place]}': expected a finite number, got "
            f"{str(table[names[place]].iloc[row])!r}"
        )
    return block


def _numbers(column: "pd.Series", decimal: str | None, *, truths: bool) -> np.ndarray:
    if column.dtype.kind == "m":
        return np.asarray(column.dt.total_seconds(), dtype=np.float64) / DAY
    if is_number_type(column.dtype):
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
    texts, codes = column_texts(column)
    numbers = text_numbers(str(column.name), texts, decimal)
    if truths and not numbers:
        words = {text: truth_word(text) for text in texts}
        numbers = {text: float(word == "true") for text, word in words.items() if word}
    values = np.array([numbers.get(text, np.inf) for text in texts] + [np.nan])
    found: np.ndarray = values[codes]
    return found


def column_texts(column: "pd.Series") -> tuple[list[str], np.ndarray]:
    """Return a column's distinct values as texts, and each row's index into them, -1 if missing.

    Numbers are written in the form of class names: 1.0 is "1".

    Example:
        >>> import pandas as pd
        >>> column_texts(pd.Series(["a ", None, "a", "N/A", 1.0]))
        (['a', '1'], array([ 0, -1,  0, -1,  1]))
    """
    import pandas as pd

    try:
        codes, values = pd.factorize(column)
    except TypeError:  # cells that cannot be compared, such as lists
        codes, values = pd.factorize(column.map(str))
    values = np.asarray(values, dtype=object).tolist()
    if set(map(type, values)) <= {str}:
        texts = list(map(str.strip, values))
        if MISSING_WORDS.isdisjoint(texts) and len(set(texts)) == len(texts):
            return texts, codes
    found: dict[str, int] = {}
    places = np.empty(len(values) + 1, dtype=np.int64)
    places[-1] = -1  # pandas' code for missing values is -1
    for place, value in enumerate(values):
        if is_missing(value):
            places[place] = -1
            continue
        is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        text = number_text(float(value)) if is_number else str(value).strip()
        places[place] = found.setdefault(text, len(found))
    return list(found), places[codes]


def text_numbers(name: str, texts: Sequence[str], decimal: str | None = None) -> dict[str, float]:
    """Read the texts that spell a number; the column decides between 1,234.5 and 1.234,5.

    Args:
        name: name of the column, for messages.
        texts: the distinct texts of the column.
        decimal: the decimal mark; None finds the one that fits all texts.

    Raises:
        InvalidInputError: if a comma could be a decimal mark or a separator of groups of digits.

    Example:
        >>> text_numbers("x", ["1,5", "1.234,0", "7"])
        {'1,5': 1.5, '1.234,0': 1234.0, '7': 7.0}
        >>> text_numbers("x", ["1,234.5", "n.b."])
        {'1,234.5': 1234.5}
    """
    given, texts = len(texts), list(filter(_MAYBE_NUMBER.fullmatch, texts))
    if decimal != "," and len(texts) == given:
        try:  # all at once, which works for most columns of numbers
            plain = np.array(texts, dtype=object).astype(np.float64)
        except ValueError:
            plain = np.array([np.nan])
        if not np.isnan(plain).any():
            return dict(zip(texts, plain.tolist(), strict=True))
    readers = {".": [number_in, _with_point], ",": [_with_comma, number_in]}
    ways = []
    for reader in readers[decimal] if decimal else (number_in, _with_point, _with_comma):
        pairs = ((text, reader(text)) for text in texts)
        ways.append({text: number for text, number in pairs if number is not None})
    best = max(ways, key=len)  # the first of several equally good ones
    if decimal is None and len(ways[1]) == len(ways[2]) == len(best) > len(ways[0]):
        text = next(text for text in texts if text not in ways[0] and text in best)
        if ways[1] != ways[2]:
            raise InvalidInputError(
                f"column '{name}': {text!r} may be {ways[1].get(text)} or {ways[2].get(text)}; say "
                f"which with decimal='.' or decimal=','"
            )
    return best


def _with_point(text: str) -> float | None:
    match = _POINT.fullmatch(text)
    return number_in(text.replace(match[1], "")) if match else number_in(text)


def _with_comma(text: str) -> float | None:
    match = _COMMA.fullmatch(text)
    if not match:
        return None
    return number_in((text.replace(match[1], "") if match[1] else text).replace(",", "."))


def column_dates(column: "pd.Series", text_format: str) -> np.ndarray:
    """Return a column of dates in days since 1970, float64 (N,), NaN where missing.

    Raises:
        InvalidInputError: a cell is not a date of this format; the error gives its row, column and
            text.

    Example:
        >>> import pandas as pd
        >>> column_dates(pd.Series(["02.01.1970", None]), "%d.%m.%Y")
        array([ 1., nan])
    """
    import pandas as pd

    if isinstance(column.dtype, pd.PeriodDtype):
        column = column.dt.to_timestamp()
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        stamps, codes = column, np.arange(len(column))
    else:
        texts, codes = column_texts(column)
        read = pd.to_datetime(pd.Series(texts, dtype=object), format=text_format, errors="coerce",
                              utc=True)  # fmt: skip
        bad = np.flatnonzero(read.isna().to_numpy())
        if len(bad):
            row = int(np.flatnonzero(codes == bad[0])[0])
            raise InvalidInputError(
                f"row {column.index[row]}, column '{column.name}': expected a date as in the "
                f"training data ({text_format}), got {texts[bad[0]]!r}"
            )
        stamps = read
    # In microseconds, which reach far beyond the year 9999, unlike nanoseconds.
    utc = pd.to_datetime(stamps, utc=True).to_numpy("datetime64[us]")
    days = (utc - np.datetime64(0, "us")) / np.timedelta64(1, "D")
    found: np.ndarray = np.append(days, np.nan)[codes]
    return found


def _category_finder(categories: Sequence[str]) -> Any:
    """Return a function from a text to its category; 1 and 1.0, true and True are equal."""
    texts = {text: place for place, text in enumerate(categories)}
    numbers = {number_in(text): place for text, place in texts.items()}
    truth = {text.lower(): place for text, place in texts.items()
             if text.lower() in ("true", "false")}  # fmt: skip

    def find(text: str) -> int | None:
        if text in texts:
            return texts[text]
        number = number_in(text)
        return truth.get(text.lower()) if number is None else numbers.get(number)

    return find
