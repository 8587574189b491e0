"""Choose how each column of a table becomes inputs: as numbers, dates, categories, or not."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qmtl._html import counted
from qmtl.data._cells import (
    FEW,
    column_dates,
    column_numbers,
    column_texts,
    is_number_type,
    text_numbers,
    text_values,
    typing_errors,
)
from qmtl.data._columns import CYCLES, TableColumns
from qmtl.data._csv import is_nameless
from qmtl.errors import InvalidInputError
from qmtl.tasks import is_date, rounding, truth_word

if TYPE_CHECKING:
    import pandas as pd

# These are no cells of a table.
CONTAINERS = (list, tuple, dict, set, np.ndarray, complex, np.complexfloating)
FIRST = 100  # number of texts that suggest the type of a column
_DATES = ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y",
          "%m-%d-%Y", "%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%b %d, %Y", "%B %d, %Y")  # fmt: skip
_TIMES = ("", " %H:%M", " %H:%M:%S", "T%H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
# A number between signs: 12%, -€ 1,234.50, (7), and numbers with a typographic minus.
_WITH_SIGNS = re.compile(r"\W{0,4}\d+([ ,.'’]\d{3})*([.,]\d+)?\W{0,4}")
_UNIT = re.compile(r"[%‰°$€£¥₹₽₩]")
_ID = re.compile(
    r"(.*[_\W])?(?i:ids?|idx|index|uuid|guid|row|rownames|row[_\W]?(no|number)|s?no|nr)\.?"
    r"|.*[a-z](Id|ID)|#", re.DOTALL
)  # fmt: skip


class _Found(NamedTuple):
    """A column's type, "number", "date" or "category"; a str instead says why it is left out."""

    kind: str
    date_format: str = ""
    dates: "pd.Series | None" = None  # the dates of all rows, if the column holds texts
    categories: tuple[str, ...] = ()
    doubt: str = ""  # why this may not be what the user wants


def learn_columns(
    table: "pd.DataFrame",
    names: Sequence[str],
    train: np.ndarray,
    *,
    chosen: bool,
    max_categories: int,
    decimal: str | None = None,
    weights: np.ndarray | None = None,
) -> "tuple[TableColumns, list[str], pd.DataFrame]":
    """Learn the input columns of a table; the type of each column is inferred from all rows.

    Scales and categories are computed from the rows `train`. If the columns were `chosen`, none is
    left out; otherwise columns of texts with more than `max_categories` are.

    Returns:
        The columns; notes for the user about columns that were left out, or may be misread; and
        the table with its texts converted to dates, which is slow and thus done once.
    """
    plain = _plain_numbers(table, names, chosen)
    found: dict[str, _Found] = {}
    reasons: dict[str, str] = {}
    for name in names:
        what = plain.get(name) or _what(table[name], train, max_categories, decimal)
        if isinstance(what, str):
            reasons[name] = what
        else:
            found[name] = what
    if chosen and reasons:
        name, reason = next(iter(reasons.items()))
        raise InvalidInputError(f"inputs: column '{name}' {reason}; take it out of inputs")
    if len(reasons) == len(names):
        said = "; ".join(f"'{name}' {reason}" for name, reason in reasons.items())
        raise InvalidInputError(f"inputs: no column is left for them{': ' if said else ''}{said}")
    numbers = [name for name, what in found.items() if what.kind == "number"]
    numeric: list[tuple[str, float, float]] = []
    if numbers:
        values = column_numbers(table, numbers, decimal, truths=True).T
        own = None if weights is None else weights[train]
        scales = (scale_of(column[train], own) for column in values)
        numeric = [(name, *scale) for name, scale in zip(numbers, scales, strict=True)]
    read = {name: what.dates for name, what in found.items() if what.dates is not None}
    table = table.assign(**read) if read else table
    dates = [
        _learn_dates(table[name], what.date_format, train, weights)
        for name, what in found.items()
        if what.kind == "date"
    ]
    categorical = [(n, what.categories) for n, what in found.items() if what.kind == "category"]
    columns = TableColumns(tuple(numeric), tuple(categorical), dates=tuple(dates), decimal=decimal)
    doubts = {name: what.doubt for name, what in found.items() if what.doubt and not chosen}
    notes = [_note("columns left out of the inputs", reasons), _note("doubtful columns", doubts)]
    return columns, list(filter(None, notes)), table


def _note(title: str, said: Mapping[str, str]) -> str:
    """Name columns and what is said of them, of at most ten."""
    named = [f"'{column}' {what}" for column, what in said.items()
             if not (is_nameless(column) and what == "is empty")]  # fmt: skip
    more = f" and {len(named) - 10} more" if len(named) > 10 else ""
    return f"{title}: {'; '.join(named[:10])}{more}" if named else ""


def scale_of(values: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """Return mean and std (1 for a constant) of numbers (N,), ignoring NaN; (0, 1) if none."""
    known = ~np.isnan(values)
    if not known.all():  # to copy all values takes as long as the rest
        values = values[known]
    if not len(values):
        return 0.0, 1.0
    own = None if weights is None else weights[known]
    mean = float(np.average(values, weights=own))
    std = float(np.average((values - mean) ** 2, weights=own)) ** 0.5
    # The std of a constant such as 0.1 is a rounding error, and dividing by it would blow up.
    return mean, std if std > rounding(len(values)) * abs(mean) else 1.0


def _plain_numbers(
    table: "pd.DataFrame", names: Sequence[str], chosen: bool
) -> dict[str, _Found | str]:
    """Find the columns of numbers, in few operations: a table may have many thousands of them."""
    dtypes = table.dtypes
    plain = [name for name in names if is_number_type(dtypes[name])]
    empty = table[plain].isna().all()
    found: dict[str, _Found | str] = dict.fromkeys(plain, _Found("number"))
    for name in plain:
        if empty[name]:
            found[name] = "is empty"
        elif not chosen and (is_nameless(name) or _ID.fullmatch(name)):
            column = table[name]
            whole = dtypes[name].kind in "iu" and column.is_unique
            if whole and (len(column) > FEW or is_nameless(name)):
                found[name] = "looks like an id: it numbers the rows"
    return found


def _what(
    column: "pd.Series", train: np.ndarray, max_categories: int, decimal: str | None
) -> _Found | str:
    import pandas as pd

    name = str(column.name)
    if isinstance(column.dtype, pd.PeriodDtype) or pd.api.types.is_datetime64_any_dtype(
        column.dtype
    ):
        return "is empty" if column.isna().all() else _Found("date", "ISO8601")
    known = column.dropna()
    if len(known) and isinstance(known.iloc[0], CONTAINERS):
        return f"holds values of the type {type(known.iloc[0]).__name__}: write one number a column"
    first = column_texts(known.iloc[:FIRST])[0] or column_texts(column)[0]
    if not first:
        return "is empty"
    # If the first text is not a number, test for dates first: a column of dates has many different
    # texts, and finding these is slow.
    is_number = any(text_numbers(name, first[:1], mark) for mark in (".", ","))
    dates = None if is_number else _what_dates(column, first)
    if dates:
        return dates
    texts, codes = column_texts(column)
    numbers = text_values(name, texts, decimal)
    words = [text for text in texts if text not in numbers]
    # True and False with blanks between them are no longer of pandas' type for truth values.
    if not words or all(map(truth_word, texts)):
        return _Found("number")
    row = column.index[int(np.flatnonzero(codes == texts.index(words[0]))[0])]
    if typing_errors(texts, numbers):
        raise InvalidInputError(
            f"row {row}, column '{name}': expected a number as in the other rows, got {words[0]!r}"
        )
    dates = _what_dates(column, first) if is_number else None
    what = dates or _what_texts(texts, codes, train, max_categories)
    if dates or len(numbers) < max(3, 2 * len(words)):
        return what
    mixed = f"{len(numbers)} different numbers and {counted(len(words), 'other text')}"
    if isinstance(what, str):
        return f"holds {mixed}, the first in row {row}"
    doubt = f"holds {mixed} ({words[0]!r} in row {row}), and each becomes a category"
    return what._replace(doubt=doubt)


def _what_dates(column: "pd.Series", first: Sequence[str]) -> _Found | str | None:
    date_format, dates = _date_format(column, first[:20])
    if date_format == "ambiguous":
        return "has dates of which day and month cannot be told apart (write 2024-03-31)"
    return None if dates is None else _Found("date", date_format, dates)


def _what_texts(
    texts: Sequence[str], codes: np.ndarray, train: np.ndarray, max_categories: int
) -> _Found | str:
    n_rows = int((codes >= 0).sum())
    if sum("@" in text and bool(_EMAIL.fullmatch(text)) for text in texts) > len(texts) / 2:
        return "holds e-mail addresses"
    # If the column were one of categories, every number or date would silently become an input.
    many = max(FEW + 1, 0.9 * len(texts))
    if sum(map(is_date, texts)) >= many:
        return "holds dates that are not all of one known form (write 2024-03-31)"
    with_signs = list(filter(_WITH_SIGNS.fullmatch, texts))
    if len(with_signs) >= many or sum(map(bool, map(_UNIT.search, with_signs))) > len(texts) / 2:
        return "holds numbers with signs such as % or €: write numbers alone"
    if len(texts) > max(FEW, n_rows / 2):
        words = len(" ".join(texts).split()) / len(texts)
        what = "free text" if words >= 4 else "ids or names"
        return f"looks like {what}: nearly every row has its own"
    if len(texts) > max_categories:
        return f"has {len(texts)} categories, more than max_categories = {max_categories}"
    present = np.flatnonzero(np.bincount(codes[train] + 1, minlength=len(texts) + 1)[1:])
    categories = sorted(texts[code] for code in present.tolist())
    if not categories:
        return "is empty in the train split"
    return _Found("category", categories=tuple(categories))


def _date_format(column: "pd.Series", first: Sequence[str]) -> "tuple[str, pd.Series | None]":
    """Return a format that reads all texts as dates, and the dates; "" and None if none fits.

    The format is "ambiguous" if two formats give different dates. `first` are the first texts,
    which show which formats to try.
    """
    import pandas as pd

    if not all(text[:1].isalnum() and any(c.isdigit() for c in text) for text in first):
        return "", None
    sample = pd.Series(first, dtype=object)
    fitting: dict[str, pd.Series] = {}
    marks = {" " if mark.isspace() else mark for mark in first[0]}
    times = [time for time in _TIMES if time.count(":") == first[0].count(":")]
    formats = [day + time for day in _DATES if day[2] in marks for time in times]
    for date_format in (*formats, "ISO8601"):
        if fitting and date_format == "ISO8601":
            break
        if not _may_fit(first[0], date_format):
            continue
        if pd.to_datetime(sample, format=date_format, errors="coerce", utc=True).isna().any():
            continue
        read = _read_dates(column, date_format)
        if read is not None:
            fitting[date_format] = read
    kinds = list(fitting.values())
    if any(not kinds[0].equals(other) for other in kinds[1:]):
        return "ambiguous", None
    return next(iter(fitting.items()), ("", None))


def _may_fit(text: str, date_format: str) -> bool:
    """Return False if a text surely does not have a format; pandas takes much longer."""
    # Python reads fewer digits of a second than pandas, and does not know the name ISO8601.
    if "%f" in date_format or "%" not in date_format:
        return True
    try:
        datetime.strptime(text, date_format)
    except ValueError:
        return False
    return True


def _read_dates(column: "pd.Series", date_format: str) -> "pd.Series | None":
    """Read the column as dates; return None if some text is not a date of this format."""
    import pandas as pd

    how: dict[str, Any] = {"format": date_format, "errors": "coerce", "utc": True}
    read = pd.to_datetime(column.astype(object), **how)
    left = read.isna().to_numpy()
    # What is left are words for missing values, and dates with blanks around them.
    texts, codes = column_texts(column[left])
    again = pd.to_datetime(pd.Series(texts, dtype=object), **how)
    if again.isna().any():
        return None
    read.iloc[left] = again.array.take(codes, allow_fill=True)
    return read


def _learn_dates(
    column: "pd.Series", date_format: str, train: np.ndarray, weights: np.ndarray | None
) -> tuple[str, str, float, float, tuple[str, ...]]:
    days = column_dates(column, date_format)[train]
    mean, std = scale_of(days, None if weights is None else weights[train])
    known = days[~np.isnan(days)]
    span = float(known.max() - known.min()) if len(known) else 0.0
    # A cycle is useful if the dates span half of it, and are not all at one point of it.
    cycles = [
        cycle
        for cycle, period in CYCLES.items()
        if span >= period / 2 and np.ptp(np.round(known % period, 6)) > 0
    ]
    return str(column.name), date_format, mean, std, tuple(cycles)
