"""What a text or a value means as a label: a number, a truth value, a date, or nothing."""

import datetime
import math
import re
from typing import Any
from unicodedata import normalize

import numpy as np

MISSING_WORDS = frozenset({
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "?",
    "#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!",
})  # fmt: skip
"""Texts of a missing value: those of `pandas.read_csv`, a question mark, and Excel's errors."""

EXACT = 2.0**53  # from here on, different whole numbers can be the same float

_DATE = re.compile(
    r"(\d{4}([-/.])\d{1,2}\2\d{1,2}|\d{1,2}([-/.])\d{1,2}\3(\d{4}|\d{2}))([T ]\d{1,2}:\d{2}.*)?"
)


def is_missing(value: Any) -> bool:
    """Return whether a label is missing: None, NaN, NA, NaT, masked, or in `MISSING_WORDS`.

    Example:
        >>> [is_missing(value) for value in (None, float("nan"), " N/A ", 0, "no")]
        [True, True, True, False, False]
    """
    if value is None or value is np.ma.masked:
        return True
    if isinstance(value, str):
        return value.strip() in MISSING_WORDS
    # The type's name identifies pandas' missing values without importing pandas.
    if type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return isinstance(value, float | np.floating) and math.isnan(value)


def number_in(text: str) -> float | None:
    """Return the number that a text spells, which may be infinite, or None for any other text.

    Example:
        >>> number_in(" 1e3"), number_in("1_000"), number_in("-inf"), number_in("nan")
        (1000.0, None, -inf, None)
    """
    if "_" in text:  # Python reads 1_000 as a number, but in a file such a text is a name
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def as_float(value: Any) -> float:
    """Return a number as a float; raise TypeError, ValueError or OverflowError for other objects.

    Example:
        >>> as_float(True), as_float(np.int8(3))
        (1.0, 3.0)
    """
    if isinstance(value, complex | np.complexfloating):
        raise TypeError("complex")  # NumPy's would lose a part, with a warning
    return float(value)


def number_text(number: float) -> str:
    """Write a number as a class name.

    Example:
        >>> number_text(1.0), number_text(-1.5)
        ('1', '-1.5')
    """
    return str(int(number)) if float(number).is_integer() else repr(float(number))


def truth_word(value: Any) -> str:
    """Return "true" or "false" for a Boolean or its text in any case; "" for other values.

    Example:
        >>> truth_word(True), truth_word(" FALSE"), truth_word("yes")
        ('true', 'false', '')
    """
    is_truth = isinstance(value, str | bool | np.bool_)
    word = str(value).strip().lower() if is_truth else ""
    return word if word in ("true", "false") else ""


def is_date(value: Any) -> bool:
    """Return whether a label is a date or a time, or a text that looks like one.

    Example:
        >>> is_date("2020-01-31"), is_date("31.1.2020 14:00"), is_date("1.5"), is_date("10-B")
        (True, True, False, False)
    """
    if isinstance(value, str):
        return _DATE.fullmatch(value.strip()) is not None
    dates = datetime.date | datetime.time | datetime.timedelta | np.datetime64 | np.timedelta64
    return isinstance(value, dates) or type(value).__name__ == "Period"


def shown(value: Any) -> str:
    """Return a label as Python writes it, also if it is of NumPy's type.

    Example:
        >>> shown(np.str_("a")), shown(np.int64(3)), shown(0.5)
        ("'a'", '3', '0.5')
    """
    return repr(value.item() if isinstance(value, np.generic) else value)


def plain_text(text: str) -> str:
    """Return a text without the blanks around it, in Unicode's composed form (NFC).

    Example:
        >>> plain_text(" cafe\u0301 ") == "caf\u00e9"
        True
    """
    return normalize("NFC", text.strip())
