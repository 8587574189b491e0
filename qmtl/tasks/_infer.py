"""Guess the task that a column of labels stands for; refuse to guess when it is not clear."""

import math
from typing import Any

import numpy as np
from torch import Tensor

from qmtl.errors import InvalidInputError
from qmtl.tasks._definition import MISSING
from qmtl.tasks._task import Task

__all__ = ["infer_task"]


def infer_task(name: str, values: Any) -> Task:
    """The task that fits the labels.

    Texts: binary for two different ones, else multiclass (sorted class names). 0 and 1: binary.
    Whole numbers 0..C-1: multiclass. More than two different fractional numbers: regression.
    A 2-D array: multilabel if it holds 0 and 1 only, regression if it holds fractions.

    Args:
        name: of the task.
        values: labels (N,), (N, 1) or (N, columns); None, NaN and -100 are missing.

    Raises:
        InvalidInputError: no label, or labels that fit several kinds; the message says what to
            pass instead.

    Example:
        >>> infer_task("a", ["cat", "dog", None, "cat"]).class_names
        ('cat', 'dog')
        >>> infer_task("b", [0.5, 1.25, 2.75]).kind
        'regression'
    """
    array = _as_array(name, values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2):
        raise InvalidInputError(
            f"labels of '{name}': expected shape (N,) or (N, labels), got {array.shape}"
        )
    given = [value for value in array.ravel().tolist() if not _is_missing(value)]
    if not given:
        raise InvalidInputError(f"labels of '{name}': all are missing, so no task can be inferred")
    if any(isinstance(value, str) for value in given):
        return _from_texts(name, array.ndim, given)
    try:
        numbers = {float(value) for value in given}
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"labels of '{name}': expected numbers or texts, got {given[0]!r}"
        ) from error
    return _from_numbers(name, array, numbers)


def _as_array(name: str, values: Any) -> np.ndarray:
    array: Any = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    try:
        array = np.asarray(array)
        # None and NaN beside texts must not become texts themselves.
        return np.asarray(values, dtype=object) if array.dtype.kind in "US" else array
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"labels of '{name}': expected an array of labels, got rows of different lengths"
        ) from error


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and math.isnan(value)


def _from_texts(name: str, ndim: int, given: list[Any]) -> Task:
    if ndim != 1 or not all(isinstance(value, str) for value in given):
        raise InvalidInputError(
            f"labels of '{name}': texts need one column without numbers among them"
        )
    names = sorted(set(given))
    if len(names) < 2:
        raise InvalidInputError(
            f"labels of '{name}': only one class, {names[0]!r}; a task needs at least two"
        )
    if len(names) == 2:
        return Task.binary(name, class_names=names)
    return Task.multiclass(name, len(names), class_names=names)


def _from_numbers(name: str, array: np.ndarray, numbers: set[float]) -> Task:
    columns = 1 if array.ndim == 1 else array.shape[1]
    fractional = {number for number in numbers if not number.is_integer()}
    classes = numbers - {MISSING}
    if not fractional and classes:
        if classes <= {0.0, 1.0}:
            return Task.binary(name) if array.ndim == 1 else Task.multilabel(name, columns)
        if array.ndim == 1 and classes == set(range(len(classes))):
            return Task.multiclass(name, len(classes))
    if len(fractional) > 2:
        return Task.regression(name, columns)
    shown = ", ".join(f"{number:g}" for number in sorted(numbers)[:4])
    raise InvalidInputError(
        f"labels of '{name}': cannot tell the kind of task from {len(numbers)} different values "
        f"({shown}{', ...' if len(numbers) > 4 else ''}); "
        f"pass a Task, for example Task.regression({name!r})"
    )
