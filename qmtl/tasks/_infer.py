"""Infer the task from a column of labels; raise if the labels are ambiguous."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from qmtl.errors import InvalidInputError, UnclearKindError, unknown_name
from qmtl.tasks._definition import MISSING, Kind
from qmtl.tasks._labels import TOO_LARGE, as_labels
from qmtl.tasks._task import Task
from qmtl.tasks._texts import (
    EXACT,
    as_float,
    is_date,
    is_missing,
    number_in,
    number_text,
    plain_text,
    shown,
    truth_word,
)


def may_be_classes(n_different: int, n_rows: int) -> bool:
    """Return whether labels can be classes: at most ten, or one for two rows; or they are ids.

    Example:
        >>> may_be_classes(10, 12), may_be_classes(30, 60), may_be_classes(31, 60)
        (True, True, False)
    """
    return n_different <= max(10, n_rows // 2)


def infer_task(name: str, values: Any, kind: str | None = None) -> Task:
    """Infer the task that fits the labels; for equality of labels see `Task.to_targets`.

    If `kind` is None, the labels decide. Two different texts or whole numbers make a binary task.
    More texts (as classes in sorted order), or the whole numbers 0..C-1, make a multiclass task.
    More than two different numbers with fractions make a regression task. A categorical column of
    pandas holds classes. A 2-D array is multilabel if it only holds 0 and 1, and a regression task
    if it holds fractions.

    Args:
        name: name of the task.
        values: labels of shape (N,), (N, 1) or (N, columns), see `Task.to_targets`.
        kind: "binary", "multiclass" or "regression", for one column; None to infer the kind.

    Raises:
        UnclearKindError: the labels fit several kinds, or look like ids or free text; the message
            names arguments that decide.
        InvalidInputError: there is no label, labels do not fit the given kind, or are dates.

    Example:
        >>> infer_task("a", ["cat", "dog", None, "cat"]).class_names
        ('cat', 'dog')
        >>> infer_task("b", [0.5, 1.25, 2.75]).kind
        'regression'
        >>> infer_task("c", ["1", "2.0", 3, "2"], "multiclass").class_names
        ('1', '2', '3')
    """
    if kind is not None and kind not in get_args(Kind):
        raise unknown_name(f"kind of target '{name}':", kind, get_args(Kind))
    if kind == "regression":
        return Task.regression(name)
    if kind == "multilabel":
        raise InvalidInputError(
            f"targets: '{name}': 'multilabel' does not say which columns; pass "
            f"Task.multilabel('{name}', n, class_names=columns)"
        )
    array = as_labels(name, values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2):
        raise InvalidInputError(
            f"labels of '{name}': expected shape (N,) or (N, labels), got {array.shape}"
        )
    if array.dtype.kind == "f":
        found = np.unique(array, return_counts=True)
        pairs = list(zip(*(part.tolist() for part in found), strict=True))
    else:
        try:
            pairs = list(Counter(array.ravel().tolist()).items())
        except TypeError:
            raise InvalidInputError(
                f"labels of '{name}': expected numbers or texts, got a list or another container "
                f"in place of a label"
            ) from None
    counts = {value: n for value, n in pairs if not is_missing(value)}
    if not counts:
        raise InvalidInputError(f"labels of '{name}': all are missing, so no task can be inferred")
    distinct, n = list(counts), sum(counts.values())
    if all(is_date(value) for value in distinct):
        raise InvalidInputError(
            f"labels of '{name}' are dates, such as {str(distinct[0])!r}, which are not classes; "
            f"turn them into numbers or classes first"
        )
    numbers, texts = _split(name, distinct)
    large = [number for number in numbers if abs(number) >= EXACT and number.is_integer()]
    if large and (kind or texts or all(map(float.is_integer, numbers))):
        also = "" if kind or texts else "; if they are amounts, the kind is 'regression'"
        raise InvalidInputError(f"labels of '{name}': {large[0]:.0f}: {TOO_LARGE}{also}")
    if texts:
        return _from_texts(name, array, numbers, texts, kind, n)
    classes = {number for number in numbers if number != MISSING}
    if kind is None and getattr(getattr(values, "dtype", None), "name", "") == "category":
        # Categories are classes, even if they are numbers.
        kind = "binary" if len(classes) == 2 else "multiclass"
    if kind is not None:
        return _with_kind(name, kind, classes)
    return _from_numbers(name, array, set(numbers), classes, n)


def _split(name: str, distinct: Sequence[Any]) -> tuple[list[float], list[str]]:
    numbers, texts = [], []
    for value in distinct:
        number = number_in(value) if isinstance(value, str) else value
        if number is None:
            texts.append(plain_text(value))
            continue
        try:
            numbers.append(as_float(number))
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidInputError(
                f"labels of '{name}': expected numbers or texts, got {shown(value)}"
            ) from error
    return numbers, texts


def _from_texts(
    name: str, array: np.ndarray, numbers: list[float], texts: list[str], kind: str | None, n: int
) -> Task:
    if array.ndim != 1 or (numbers and kind is None):
        beside = f", got {texts[0]!r} beside {number_text(numbers[0])}" if numbers else ""
        raise UnclearKindError(
            f"labels of '{name}': texts need one column without numbers among them{beside}",
            ("multiclass",),
            "pass a Task with class_names, or say that it is 'multiclass'",
        )
    names = sorted({*texts, *map(number_text, numbers)})
    # True, TRUE and true are one class, as in `Task.to_targets`.
    names = sorted({truth_word(text) or text: text for text in reversed(names)}.values())
    _check_count(name, names, kind)
    if kind is None and not may_be_classes(len(names), n):
        raise UnclearKindError(
            f"labels of '{name}': {len(names)} different texts in {n} rows look like ids or free "
            f"text, not like classes",
            ("multiclass",),
            "pass a Task with class_names if they are classes",
        )
    if len(names) == 2:
        return Task.binary(name, class_names=names)
    return Task.multiclass(name, len(names), class_names=names)


def _with_kind(name: str, kind: str, classes: set[float]) -> Task:
    """Make a task whose classes are numbers; numbers other than 0..C-1 become class names."""
    if kind == "binary" and classes <= {0.0, 1.0}:
        return Task.binary(name)
    if kind == "multiclass" and len(classes) > 1 and classes == set(range(len(classes))):
        return Task.multiclass(name, len(classes))
    names = [number_text(number) for number in sorted(classes)]
    _check_count(name, names, kind)
    if kind == "binary":
        return Task.binary(name, class_names=names)
    return Task.multiclass(name, len(names), class_names=names)


def _check_count(name: str, names: Sequence[str], kind: str | None) -> None:
    if len(names) < 2 and kind is None:
        raise InvalidInputError(
            f"labels of '{name}': only one class, {names[0]!r}; a task needs at least two"
        )
    if len(names) < 2 or (kind == "binary" and len(names) != 2):
        raise InvalidInputError(
            f"targets: column '{name}' as {kind}: expected "
            f"{'2' if kind == 'binary' else 'at least 2'} classes, got {len(names)} "
            f"({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
        )


def _from_numbers(
    name: str, array: np.ndarray, numbers: set[float], classes: set[float], n: int
) -> Task:
    columns = 1 if array.ndim == 1 else array.shape[1]
    fractional = {number for number in numbers if not number.is_integer()}
    if not fractional and classes:
        if classes <= {0.0, 1.0}:
            return Task.binary(name) if array.ndim == 1 else Task.multilabel(name, columns)
        if array.ndim == 1 and len(classes) == 2:
            return Task.binary(name, class_names=[number_text(c) for c in sorted(classes)])
        few = may_be_classes(len(classes), n)
        if array.ndim == 1 and few and classes == set(range(len(classes))):
            return Task.multiclass(name, len(classes))
    if len(fractional) > 2:
        return Task.regression(name, columns)
    shown = ", ".join(f"{number:g}" for number in sorted(numbers)[:4])
    values = "value" if len(numbers) == 1 else "different values"
    raise UnclearKindError(
        f"labels of '{name}': cannot tell the kind of task from {len(numbers)} {values} "
        f"({shown}{', ...' if len(numbers) > 4 else ''})",
        ("regression",) if len(numbers) == 1 else ("regression", "multiclass"),
        f"pass a Task, for example Task.regression({name!r}), or name the kind of the column in a "
        f"table: 'multiclass', 'regression'",
    )
