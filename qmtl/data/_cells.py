"""Convert the cells of a table's columns to numbers, texts, dates or categories."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from qmtl.errors import InvalidInputError
from qmtl.tasks import MISSING_WORDS, is_missing, number_in, number_text, plain_text, truth_word

if TYPE_CHECKING:
    import pandas as pd

# Numbers with groups of three digits and a decimal mark: 1,234.5 or 1.234,5; groups may also be
# separated by apostrophes and kinds of spaces.
_POINT = re.compile(r"[+-]?[1-9]\d{0,2}(?:([,'\u2019\u00a0\u202f ])\d{3})(?:\1\d{3})*(?:\.\d*)?")
_COMMA = re.compile(
    r"[+-]?(?:\d+|[1-9]\d{0,2}(?:([.'\u2019\u00a0\u202f ])\d{3})(?:\1\d{3})*)?(?:,\d*)?"
    r"(?:[eE][+-]?\d+)?"
)
# A fast filter: it matches all numbers and few other texts.
_MAYBE_NUMBER = re.compile(r"[\s\d+\-.,'\u2019eE]*|\s*[+-]?(inf|infinity)\s*", re.IGNORECASE)

# A duration as pandas and Python write it: 17 days, 1 days 02:03:04.5, -1 day, 2:03:04, 26:03:04;
# and a time of day: 10:30, 10:30 pm.
_DAYS = r"([+-]?\d+) days?"
_CLOCK = r"([+-]?)(\d+):([0-5]\d)(?::([0-5]\d(?:\.\d+)?))?(?:\s?([ap])\.?m\.?)?"
_DURATION = re.compile(rf"(?:{_DAYS}|(?:{_DAYS},?\s*)?{_CLOCK})", re.IGNORECASE)
# A duration in ISO 8601: P1DT12H, PT90M, P2W. Years and months have no fixed length.
_PARTS = (7.0, 1.0, 1 / 24, 1 / 1440, 1 / 86400)
_ISO = re.compile(
    r"([+-]?)P(?=[\dT])(?:{0}W)?(?:{0}D)?(?:T(?=\d)(?:{0}H)?(?:{0}M)?(?:{0}S)?)?".format(
        r"(\d+(?:\.\d+)?)"
    )
)

DAY = 86400.0
LARGEST = float(np.finfo(np.float32).max)  # larger numbers would be infinite in a model
MISSING_HINT = "if it means a missing value, list it in na_values (of from_csv or pandas.read_csv)"
FEW = 10  # a column of numbers has at least this many, or no words


def with_plain_rows(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return the table with texts as row labels if its index has several levels, for messages."""
    if table.index.nlevels == 1:
        return table
    return table.set_axis([", ".join(map(str, label)) for label in table.index])


def check_decimal(decimal: str | None) -> None:
    """Raise `InvalidInputError` for a decimal mark other than a point or a comma."""
    if decimal not in (None, ".", ","):
        raise InvalidInputError(f"decimal: expected '.' or ',', got {decimal!r}")


def typing_errors(texts: Sequence[str], numbers: Mapping[str, float]) -> list[str]:
    """Return the texts that are words, if they are few among many different numbers.

    If such a column were one of categories, every number would silently become a category.
    """
    words = [text for text in texts if text not in numbers]
    return words if len(numbers) >= max(FEW, 9 * len(words)) else []


def is_number_type(dtype: Any) -> bool:
    """Return whether a column of this type holds numbers, truth values or durations."""
    from pandas.api import types

    if types.is_complex_dtype(dtype):
        return False
    return bool(types.is_numeric_dtype(dtype) or dtype.kind in "bm")


@dataclass(frozen=True)
class Cells:
    """A column's distinct values as texts, and each row's index into them, -1 if missing.

    Numbers are written as class names write them: 1.0 becomes "1".
    """

    texts: list[str]
    codes: np.ndarray

    @classmethod
    def of(cls, column: "pd.Series") -> "Cells":
        """Read the cells of a column."""
        import pandas as pd

        try:
            codes, distinct = pd.factorize(column)
        except TypeError:  # cells that cannot be compared, such as lists
            codes, distinct = pd.factorize(column.map(str))
        values = np.asarray(distinct, dtype=object).tolist()
        if set(map(type, values)) <= {str}:
            texts = list(map(plain_text, values))
            if MISSING_WORDS.isdisjoint(texts) and len(set(texts)) == len(texts):
                return cls(texts, codes)
        found: dict[str, int] = {}
        places = np.empty(len(values) + 1, dtype=np.int64)
        places[-1] = -1  # pandas' code for missing values is -1
        for place, value in enumerate(values):
            if is_missing(value):
                places[place] = -1
                continue
            # Whole numbers of Python may be too large for a float, and fractions are numbers, too.
            is_number = isinstance(value, Real) and not isinstance(value, int)
            text = number_text(float(value)) if is_number else plain_text(str(value))
            places[place] = found.setdefault(text, len(found))
        return cls(list(found), places[codes])

    def row_of(self, text: str) -> int:
        """Return the position of the first row with this text."""
        return int((self.codes == self.texts.index(text)).argmax())

    def spread(self, numbers: Mapping[str, float]) -> np.ndarray:
        """Return each row's number, float64 (N,): NaN if missing, infinity if there is none."""
        values = np.array([*(numbers.get(text, np.inf) for text in self.texts), np.nan])
        every: np.ndarray = values[self.codes]
        return every


def without_blanks(column: "pd.Series", missing: Collection[str]) -> Any:
    """Return texts without blanks around them, and without words for missing values, as categories.

    A column with other cells, such as truth values, is returned as it is.
    """
    import pandas as pd

    codes, different = pd.factorize(column)
    given = different.tolist()
    if not set(map(type, given)) <= {str}:
        return column
    texts: list[str | None] = list(map(str.strip, given))
    if missing:
        words = set(map(plain_text, missing))
        texts = [None if plain_text(text) in words else text.strip() for text in given]
    if texts != given:
        places, different = pd.factorize(np.array(texts, dtype=object))
        codes = np.append(places, -1)[codes]
    return pd.Categorical.from_codes(codes, different)


def cell_error(column: "pd.Series", row: int, expected: str) -> InvalidInputError:
    """Return the error that names a cell, by its position, and what was expected there."""
    return InvalidInputError(
        f"row {column.index[row]}, column '{column.name}': expected {expected}, got "
        f"{str(column.iloc[row])!r}"
    )


def cell_numbers(column: "pd.Series", decimal: str | None, *, truths: bool = False) -> np.ndarray:
    """Return a column as float64 (N,), NaN where missing; durations are in days.

    `decimal` is the decimal mark of texts; None detects it. With `truths`, the texts true and false
    become 1 and 0 in a column without numbers. An error names the row, column and text of a cell
    that is not a finite number.
    """
    if column.dtype.kind == "m":
        return np.asarray(column.dt.total_seconds(), dtype=np.float64) / DAY
    if is_number_type(column.dtype):
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        cells = Cells.of(column)
        numbers = text_values(str(column.name), cells.texts, decimal)
        values = cells.spread(numbers or (truth_numbers(cells.texts) if truths else {}))
    return checked_numbers(column, values)


def plain_numbers(table: "pd.DataFrame") -> dict[Any, np.ndarray]:
    """Return, all at once, `cell_numbers` of columns that need no reading; a table may have many.

    If a number among them is not finite, none is returned, and `cell_numbers` names the cell.
    """
    plain = table.loc[:, [dtype.kind in "biuf" for dtype in table.dtypes]]
    values = plain.to_numpy(dtype=np.float64, na_value=np.nan)
    if (np.abs(values) > LARGEST).any():
        return {}
    return dict(zip(plain.columns, values.T, strict=True))


def checked_numbers(column: "pd.Series", values: np.ndarray) -> np.ndarray:
    """Return the numbers of a column; raise and name the cell if one is not finite."""
    bad = np.abs(values) > LARGEST
    if bad.any():
        error = cell_error(column, int(bad.argmax()), "a finite number")
        if is_number_type(column.dtype):
            raise error
        raise InvalidInputError(f"{error}; {MISSING_HINT}")
    return values


def truth_numbers(texts: Sequence[str]) -> dict[str, float]:
    """Return 1 and 0 for the texts that spell true and false."""
    return {text: float(truth_word(text) == "true") for text in texts if truth_word(text)}


def text_values(name: str, texts: Sequence[str], decimal: str | None = None) -> dict[str, float]:
    """Return the numbers of a column's texts, as `text_numbers`; else durations in days."""
    return text_numbers(name, texts, decimal) or text_durations(texts)


def text_durations(texts: Sequence[str]) -> dict[str, float]:
    """Return durations and times of day, in days, of the texts that write one.

    Example:
        >>> text_durations(["1 days 12:00:00", "-0:36:00", "2 days", "ten"])
        {'1 days 12:00:00': 1.5, '-0:36:00': -0.025, '2 days': 2.0}
        >>> text_durations(["18:00", "6:00 pm", "PT18H", "P1W"])
        {'18:00': 0.75, '6:00 pm': 0.75, 'PT18H': 0.75, 'P1W': 7.0}
    """
    days = ((text, _days(text.strip())) for text in texts)
    return {text: number for text, number in days if number is not None}


def _days(text: str) -> float | None:
    iso = _ISO.fullmatch(text)
    if iso:
        sign, *numbers = iso.groups(default="0")
        days = sum(float(n) * length for n, length in zip(numbers, _PARTS, strict=True))
        return -days if sign == "-" else days
    match = _DURATION.fullmatch(text)
    if not match:
        return None
    whole, before, sign, hour, minutes, seconds, half = match.groups(default="0")
    hours = float(hour)
    if half != "0":
        hours = hours % 12 + 12 * (half in "pP")
    clock = 3600 * hours + 60 * float(minutes) + float(seconds)
    return float(whole) + float(before) + (-clock if sign == "-" else clock) / DAY


def text_numbers(name: str, texts: Sequence[str], decimal: str | None = None) -> dict[str, float]:
    """Return the numbers that texts of a column spell, in the style of 1,234.5 or of 1.234,5.

    `decimal` is the decimal mark; None chooses the style that reads most texts. It is an error if a
    comma could be a decimal mark or a separator of groups of digits.

    Example:
        >>> text_numbers("x", ["1,5", "1.234,0", "7"])
        {'1,5': 1.5, '1.234,0': 1234.0, '7': 7.0}
        >>> text_numbers("x", ["1,234.5", "n.b."])
        {'1,234.5': 1234.5}
    """
    given, texts = len(texts), list(filter(_MAYBE_NUMBER.fullmatch, texts))
    if decimal != "," and len(texts) == given:
        try:  # all at once, which works for most columns of numbers
            values = np.array(texts, dtype=object).astype(np.float64)
        except ValueError:
            values = np.array([np.nan])
        if not np.isnan(values).any():
            return dict(zip(texts, values.tolist(), strict=True))
    plain, point, comma = (
        {text: number for text in texts if (number := read(text)) is not None}
        for read in (number_in, _with_point, _with_comma)
    )
    if decimal == ".":
        return point
    if decimal == ",":
        return max(comma, plain, key=len)
    if len(point) == len(comma) > len(plain) and point != comma:
        text = next(text for text in texts if text not in plain and text in point)
        raise InvalidInputError(
            f"column '{name}': {text!r} may be {point[text]} or {comma.get(text)}; say which with "
            f"decimal='.' or decimal=','"
        )
    return max(point, comma, key=len)


def spells_number(text: str) -> bool:
    """Return whether a text is a number with a point or a comma as its decimal mark."""
    return _with_point(text) is not None or _with_comma(text) is not None


def number_with(decimal: str, text: str) -> float | None:
    """Return the number that a text writes with this decimal mark, or None.

    Example:
        >>> number_with(",", "1,5"), number_with(",", "1.5"), number_with(".", "1,000.5")
        (1.5, None, 1000.5)
    """
    return _with_comma(text) if decimal == "," else _with_point(text)


def _with_point(text: str) -> float | None:
    match = _POINT.fullmatch(text)
    return number_in(text.replace(match[1], "")) if match else number_in(text)


def _with_comma(text: str) -> float | None:
    match = _COMMA.fullmatch(text)
    if not match:
        return None
    return number_in((text.replace(match[1], "") if match[1] else text).replace(",", "."))


def cell_dates(column: "pd.Series", text_format: str) -> np.ndarray:
    """Return a column of dates in days since 1970, float64 (N,), NaN where missing."""
    import pandas as pd

    if isinstance(column.dtype, pd.PeriodDtype):
        column = column.dt.to_timestamp()
    stamps = column
    if not pd.api.types.is_datetime64_any_dtype(column.dtype):
        how: dict[str, Any] = {"format": text_format, "errors": "coerce", "utc": True}
        # All cells at once, since to find the distinct ones among many dates is slow.
        is_plain = pd.api.types.infer_dtype(column) in ("string", "datetime", "date")
        plain = pd.Series(column if is_plain else None, index=column.index, dtype=object)
        stamps = pd.to_datetime(plain, **how).dt.as_unit("us")
        left = np.flatnonzero(stamps.isna())
        # What is left are words for missing values, and dates with blanks around them.
        cells = Cells.of(column.iloc[left])
        again = pd.to_datetime(pd.Series(cells.texts, dtype=object), **how).dt.as_unit("us")
        if again.isna().any():
            row = left[cells.row_of(cells.texts[int(again.isna().argmax())])]
            raise cell_error(column, row, f"a date as in the training data ({text_format})")
        stamps.iloc[left] = again.array.take(cells.codes, allow_fill=True)
    # In microseconds, which reach far beyond the year 9999, unlike nanoseconds.
    utc = pd.to_datetime(stamps, utc=True).to_numpy("datetime64[us]")
    days: np.ndarray = (utc - np.datetime64(0, "us")) / np.timedelta64(1, "D")
    return days


def category_places(texts: Sequence[str], categories: Sequence[str]) -> np.ndarray:
    """Return the index of each text's category, or -1; 1 equals 1.0, and true equals True."""
    exact = {plain_text(text): place for place, text in enumerate(categories)}
    numbers = {number_in(text): place for text, place in exact.items()}
    truths = {truth_word(text): place for text, place in exact.items() if truth_word(text)}

    def place(text: str) -> int:
        if text in exact:
            return exact[text]
        number = number_in(text)
        return truths.get(truth_word(text), -1) if number is None else numbers.get(number, -1)

    return np.array(list(map(place, texts)), dtype=np.int64)
