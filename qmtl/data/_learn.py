"""Choose how each column of a table becomes inputs: as numbers, dates, categories, or not."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from qmtl._html import counted
from qmtl.data._cells import (
    FEW,
    MISSING_HINT,
    Cells,
    cell_dates,
    cell_error,
    cell_numbers,
    checked_numbers,
    is_number_type,
    spells_number,
    text_values,
    truth_numbers,
    typing_errors,
)
from qmtl.data._columns import CYCLES, TableColumns, encode_cells
from qmtl.data._csv import is_nameless
from qmtl.errors import InvalidInputError
from qmtl.tasks import is_date, rounding

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
    """A column's type, "number", "date" or "category", and its cells, see `encode_cells`."""

    kind: str
    cells: Any
    date_format: str = ""
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
) -> tuple[TableColumns, list[str], Tensor]:
    """Learn the input columns of a table; the type of each column is inferred from all rows.

    Scales and categories are computed from the rows `train`. If the columns were `chosen`, none is
    left out; otherwise columns of texts with more than `max_categories` are.

    Returns:
        The columns; notes for the user about columns that were left out, or may be misread; and
        the encoded rows.
    """
    found: dict[str, _Found] = {}
    reasons: dict[str, str] = {}
    for name in names:
        what = _what(table[name], train, max_categories, decimal, chosen)
        if isinstance(what, str):
            reasons[name] = what
        else:
            found[name] = what
    if chosen and reasons:
        name, reason = next(iter(reasons.items()))
        raise InvalidInputError(f"inputs: column '{name}' {reason}; take it out of inputs")
    if not found:
        said = "; ".join(f"'{name}' {reason}" for name, reason in reasons.items())
        raise InvalidInputError(f"inputs: no column is left for them{': ' if said else ''}{said}")
    own = None if weights is None else weights[train]
    numeric, dates, categorical = [], [], []
    for name, what in found.items():
        if what.kind == "category":
            categorical.append((name, what.categories))
            continue
        rows = what.cells[train]
        if what.kind == "number":
            numeric.append((name, *scale_of(rows, own)))
        else:
            dates.append((name, what.date_format, *scale_of(rows, own), _cycles(rows)))
    columns = TableColumns(tuple(numeric), tuple(categorical), dates=tuple(dates), decimal=decimal)
    cells = {name: what.cells for name, what in found.items()}
    doubts = {name: what.doubt for name, what in found.items() if what.doubt and not chosen}
    notes = [_note("columns left out of the inputs", reasons), _note("doubtful columns", doubts)]
    return columns, list(filter(None, notes)), encode_cells(columns, cells, len(table))


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


def _what(
    column: "pd.Series", train: np.ndarray, max_categories: int, decimal: str | None, chosen: bool
) -> _Found | str:
    """Return what a column is, or a text that says why it is left out."""
    import pandas as pd

    name, dtype = str(column.name), column.dtype
    if is_number_type(dtype):
        values = cell_numbers(column, decimal)
        if np.isnan(values).all():
            return "is empty"
        is_id = not chosen and _is_id(name, column)
        return "looks like an id: it numbers the rows" if is_id else _Found("number", values)
    if isinstance(dtype, pd.PeriodDtype) or pd.api.types.is_datetime64_any_dtype(dtype):
        days = cell_dates(column, "ISO8601")
        return "is empty" if np.isnan(days).all() else _Found("date", days, "ISO8601")
    known = column.dropna()
    if len(known) and isinstance(known.iloc[0], CONTAINERS):
        return f"holds values of the type {type(known.iloc[0]).__name__}: write one number a column"
    first = Cells.of(known.iloc[:FIRST]).texts or Cells.of(known).texts
    if not first:
        return "is empty"
    # If the first text is not a number, test for dates first: a column of dates has many different
    # texts, and finding these is slow.
    dates = None if spells_number(first[0]) else _what_dates(column, first[:20])
    if dates:
        return dates
    cells = Cells.of(column)
    # True and False with blanks between them are no longer of pandas' type for truth values.
    numbers = truth_numbers(cells.texts)
    if len(numbers) < len(cells.texts):
        numbers = text_values(name, cells.texts, decimal)
    words = [text for text in cells.texts if text not in numbers]
    if not words:
        return _Found("number", checked_numbers(column, cells.spread(numbers)))
    row = cells.row_of(words[0])
    if typing_errors(cells.texts, numbers):
        error = cell_error(column, row, "a number as in the other rows")
        raise InvalidInputError(
            f"{error}; {MISSING_HINT}; if the column holds codes, convert it to texts in pandas, "
            f"or list the column in ignore"
        )
    dates = _what_dates(column, first[:20]) if spells_number(first[0]) else None
    what = dates or _what_texts(cells, train, max_categories)
    if dates or len(numbers) < max(3, 2 * len(words)):
        return what
    mixed = f"{len(numbers)} different numbers and {counted(len(words), 'other text')}"
    if isinstance(what, str):
        return f"holds {mixed}, the first in row {column.index[row]}"
    doubt = f"({words[0]!r} in row {column.index[row]}), and each becomes a category"
    return what._replace(doubt=f"holds {mixed} {doubt}")


def _is_id(name: str, column: "pd.Series") -> bool:
    """Return whether a column of numbers has the name of an id, and different whole numbers."""
    nameless = is_nameless(name)
    return (
        (nameless or _ID.fullmatch(name) is not None)
        and (nameless or len(column) > FEW)
        and column.dtype.kind in "iu"
        and bool(column.is_unique)
    )


def _what_texts(cells: Cells, train: np.ndarray, max_categories: int) -> _Found | str:
    texts = cells.texts
    n_rows = int((cells.codes >= 0).sum())
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
    present = np.flatnonzero(np.bincount(cells.codes[train] + 1, minlength=len(texts) + 1)[1:])
    categories = sorted(texts[code] for code in present.tolist())
    if not categories:
        return "is empty in the train split"
    return _Found("category", cells, categories=tuple(categories))


def _what_dates(column: "pd.Series", first: Sequence[str]) -> _Found | str | None:
    """Return the dates of a column whose texts all have one format; None if none fits.

    The first texts show which formats to try.
    """
    if not all(text[:1].isalnum() and any(c.isdigit() for c in text) for text in first):
        return None
    marks = {" " if mark.isspace() else mark for mark in first[0]}
    times = [time for time in _TIMES if time.count(":") == first[0].count(":")]
    formats = [day + time for day in _DATES if day[2] in marks for time in times]
    formats = [text_format for text_format in formats if _may_fit(first[0], text_format)]
    fitting = _read_dates(column, first, formats) or _read_dates(column, first, ["ISO8601"])
    if not fitting:
        return None
    (text_format, days), *others = fitting.items()
    if not all(np.array_equal(days, other, equal_nan=True) for _, other in others):
        return "has dates of which day and month cannot be told apart (write 2024-03-31)"
    return _Found("date", days, text_format)


def _read_dates(
    column: "pd.Series", first: Sequence[str], formats: Iterable[str]
) -> dict[str, np.ndarray]:
    """Read a column, and before it its first texts, in those of the formats that fit all texts."""
    import pandas as pd

    found = {}
    for text_format in formats:
        with suppress(InvalidInputError):
            cell_dates(pd.Series(first, dtype=object), text_format)
            found[text_format] = cell_dates(column, text_format)
    return found


def _may_fit(text: str, date_format: str) -> bool:
    """Return False if a text surely does not have a format; pandas takes much longer."""
    if "%f" in date_format:  # Python reads fewer digits of a second than pandas
        return True
    try:
        datetime.strptime(text, date_format)
    except ValueError:
        return False
    return True


def _cycles(days: np.ndarray) -> tuple[str, ...]:
    """Return the cycles that are useful: dates span half of one and are not at one point of it."""
    known = days[~np.isnan(days)]
    span = float(np.ptp(known)) if len(known) else 0.0
    return tuple(
        cycle
        for cycle, period in CYCLES.items()
        if span >= period / 2 and np.ptp(np.round(known % period, 6)) > 0
    )
