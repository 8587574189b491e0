"""Labels: the conversion of labels of any type to class numbers or values."""

import math
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qmtl.errors import InvalidInputError
from qmtl.tasks._definition import MISSING, is_flat
from qmtl.tasks._metrics import as_numpy, row_weights
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

if TYPE_CHECKING:
    from qmtl.tasks._task import Task

TOO_LARGE = (
    "whole numbers from 2^53 on cannot be told apart; if they are classes, pass them as texts and "
    "a Task with these texts as class_names"
)


def as_labels(name: str, values: Any) -> np.ndarray:
    """Return labels as an array of numbers or of objects, without checks or conversion."""
    if isinstance(values, Tensor):
        kept = values.detach().cpu()
        values = kept if kept.is_complex() else kept.to(torch.float64)
    elif isinstance(values, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(values)
        values = values.data.astype(object)
        values[mask] = None
    try:
        values = as_numpy(values)
        array = np.asarray(values)
        if array.dtype.kind in "UST":
            array = np.asarray(values, dtype=object)  # otherwise None and NaN become texts
    except (ValueError, TypeError) as error:
        raise InvalidInputError(
            f"labels of task '{name}': expected an array of labels, got rows of different "
            f"lengths or types"
        ) from error
    if array.dtype.kind in "Mm":
        value = array.ravel()[0] if array.size else array.dtype
        raise InvalidInputError(
            f"labels of task '{name}': {str(value)!r} is a date or a time, which is not a label; "
            f"turn it into a number or a class first"
        )
    if array.dtype.kind not in "biufO":
        raise InvalidInputError(
            f"labels of task '{name}': expected numbers or texts, got {array.dtype}"
        )
    return array


def present(targets: Tensor) -> Tensor:
    """Return which entries of canonical targets are labelled."""
    return ~targets.isnan() if targets.is_floating_point() else targets != MISSING


def check_varied(
    task: "Task", targets: Tensor, *, name: str | None = None, stacklevel: int = 2
) -> None:
    """Raise for canonical targets of a single class; warn if regression targets are all equal.

    A multilabel task raises only if each of its labels has a single class. Missing labels are
    ignored; so are targets without any label. Messages use `name`, if given, as the task's name.
    With a `stacklevel` of 2 the warning points to the caller of the caller, as in `warnings.warn`.

    Raises:
        InvalidInputError: all labels have one class; the error names the task.

    Example:
        >>> from qmtl.tasks import Task
        >>> task = Task.binary("a", class_names=("n", "y"))
        >>> check_varied(task, torch.tensor([1.0, float("nan"), 1.0]))
        Traceback (most recent call last):
        qmtl.errors.InvalidInputError: labels of 'a': only one class, 'y'; a task needs at least two
    """
    name = task.name if name is None else name
    columns = targets.reshape(len(targets), -1).unbind(dim=1)
    known = [column[present(column)] for column in columns]
    same = [len(values) > 0 and bool((values == values[0]).all()) for values in known]
    if task.kind == "regression":
        outputs = task.class_names or [f"output {place}" for place in range(len(same))]
        for place in np.flatnonzero(same).tolist():
            whose = f"'{name}'" + (f" ({outputs[place]})" if len(same) > 1 else "")
            warnings.warn(
                f"target {whose} is {known[place][0].item():g} in every labelled row: there is "
                f"nothing to learn, and its R² is not defined",
                UserWarning,
                stacklevel=stacklevel + 1,
            )
    elif all(same):
        code = int(known[0][0])
        names = task.class_names if task.kind != "multilabel" else None
        raise InvalidInputError(
            f"labels of '{name}': only one class, {names[code] if names else str(code)!r}; "
            f"a task needs at least two"
        )


def to_targets(task: "Task", values: Any, rows: Sequence[Any] | None) -> Tensor:
    """Convert labels to canonical targets; see `qmtl.Task.to_targets`."""
    array = torch.from_numpy(read_labels(task, values, rows))
    device = values.device if isinstance(values, Tensor) else torch.device("cpu")
    if task.kind == "multiclass":
        return array.nan_to_num(nan=MISSING).long().to(device)
    # In float64, large values such as timestamps keep their digits until they are standardised.
    exact = task.kind == "regression" and device.type != "mps"  # MPS has no float64
    return (array if exact else array.float()).to(device)


def read_labels(task: "Task", values: Any, rows: Sequence[Any] | None = None) -> np.ndarray:
    """Check labels; return float64 (N,) or (N, n_outputs), with NaN for missing ones."""
    labels = as_labels(task.name, values)
    array = _as_codes(task, labels, rows, canonical=isinstance(values, Tensor))
    flat = is_flat(task)
    if flat and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if not flat and task.n_outputs == 1 and array.ndim == 1:
        array = array[:, None]
    if array.ndim != (1 if flat else 2) or (not flat and array.shape[1] != task.n_outputs):
        expected = "(N,)" if flat else f"(N, {task.n_outputs})"
        raise InvalidInputError(
            f"labels of {task.kind} task '{task.name}': expected shape {expected}, "
            f"got {array.shape}"
        )
    if task.kind == "regression":
        # Losses and models use float32, where larger labels would silently become infinite.
        bad, allowed = np.abs(array) > np.finfo(np.float32).max, "finite numbers, NaN if missing"
    else:
        n_classes = task.n_outputs if task.kind == "multiclass" else 2
        bad = ~np.isnan(array) & ~np.isin(array, np.arange(n_classes))
        allowed = f"whole numbers 0..{n_classes - 1}, {MISSING} or NaN if missing"
    if bad.any():
        position = tuple(np.argwhere(bad)[0])
        raise InvalidInputError(
            f"labels of {task.kind} task '{task.name}': row {_row(rows, position)} has "
            f"{array[position]:g}; allowed are {allowed}"
        )
    return array


def _row(rows: Sequence[Any] | None, position: Sequence[int]) -> Any:
    number = int(position[0]) if len(position) else 0
    return number if rows is None else rows[number]


class _Names(NamedTuple):
    """Class numbers by class names, and by the numbers that these spell, -1 if that is unclear."""

    texts: Mapping[str, int]
    numbers: Mapping[float, int]

    @classmethod
    def of(cls, task: "Task") -> "_Names":
        if task.kind not in ("binary", "multiclass"):
            return cls({}, {})
        texts = {plain_text(text): code for code, text in enumerate(task.class_names or ())}
        numbers: dict[float, int] = {}
        spelled = Counter(map(number_in, texts))
        for text, code in texts.items():
            number = number_in(text)
            # Of the names 1 and 01, the number 1 means the first; of 01 and 1.0 it means neither.
            if number is not None and (spelled[number] == 1 or text == number_text(number)):
                numbers[number] = code
            elif number is not None:
                numbers.setdefault(number, -1)
        return cls(texts, numbers)


def _as_codes(
    task: "Task", labels: np.ndarray, rows: Sequence[Any] | None, *, canonical: bool
) -> np.ndarray:
    """Return class numbers or values as float64, NaN where missing, in the labels' shape."""
    names = _Names({}, {}) if canonical else _Names.of(task)
    if labels.dtype.kind != "O":
        array = labels.astype(np.float64)
        if not names.numbers and not (names.texts and labels.dtype.kind == "b"):
            return array if task.kind == "regression" else np.where(array == MISSING, np.nan, array)
        distinct, places = np.unique(labels.ravel(), return_inverse=True)
        values = distinct.tolist()
    else:
        # Convert each distinct label only once.
        first: dict[Any, int] = {}
        try:
            places = np.array(
                [first.setdefault(value, len(first)) for value in labels.ravel().tolist()],
                dtype=np.int64,
            )
        except TypeError:
            raise InvalidInputError(
                f"labels of task '{task.name}': expected numbers or texts, got a list or another "
                f"container in place of a label"
            ) from None
        values = list(first)
    codes = np.empty(len(values))
    for place, value in enumerate(values):
        try:
            codes[place] = _as_code(task, value, names)
        except InvalidInputError as error:
            position = np.argwhere((places == place).reshape(labels.shape))[0]
            raise InvalidInputError(
                f"labels of {task.kind} task '{task.name}': row {_row(rows, position)} has {error}"
            ) from None
    return codes[places.ravel()].reshape(labels.shape)


def _as_code(task: "Task", value: Any, names: _Names) -> float:
    """Return the class number or the regression value of one label, or raise."""
    if isinstance(value, str) and plain_text(value) in names.texts:
        return names.texts[plain_text(value)]
    if is_missing(value):
        return math.nan
    word = truth_word(value)
    if word:
        spelled = [code for text, code in names.texts.items() if truth_word(text) == word]
        if spelled:
            return spelled[0]
        if not names.texts and task.kind in ("binary", "multilabel"):
            return float(word == "true")
    number: float | None
    if isinstance(value, str):
        number = number_in(value)
    else:
        if is_date(value):
            raise InvalidInputError(f"{str(value)!r}, a date or a time, which is not a label")
        try:
            number = as_float(value)
        except (TypeError, ValueError, OverflowError):
            raise InvalidInputError(f"{shown(value)}; expected a number") from None
    if number is None:
        raise InvalidInputError(f"the text {shown(value)}; allowed are {_allowed(task, names)}")
    if names.numbers:
        if abs(number) >= EXACT:
            raise InvalidInputError(f"{shown(value)}; {TOO_LARGE}")
        if names.numbers.get(number, -1) >= 0:
            return names.numbers[number]
        if number != MISSING:
            hint = (
                "; a tensor would hold class numbers" if number in range(len(names.texts)) else ""
            )
            raise InvalidInputError(f"{shown(value)}; allowed are {_allowed(task, names)}{hint}")
    return math.nan if number == MISSING and task.kind != "regression" else number


def _allowed(task: "Task", names: _Names) -> str:
    if task.kind in ("multilabel", "regression"):
        return "numbers"
    return ", ".join(repr(text) for text in names.texts) or "numbers (no class_names)"


def best_constant(task: "Task", train_targets: Any, sample_weight: Any = None) -> Tensor:
    """Return the best constant prediction, as one row; see `Task.baseline`."""
    labels = torch.from_numpy(read_labels(task, train_targets))
    weights = row_weights(sample_weight, len(labels))
    rows = torch.ones(len(labels), 1) if weights is None else weights.unsqueeze(1)
    columns = labels.reshape(len(labels), 1 if is_flat(task) else task.n_outputs)
    own = rows.double() * ~columns.isnan()  # the weight of each label
    empty = own.sum(dim=0) == 0
    if empty.all() or (task.kind == "regression" and empty.any()):
        raise InvalidInputError(
            f"task '{task.name}': the baseline needs at least one training label of every "
            f"target, but target {int(empty.long().argmax())} has none"
        )
    if task.kind == "multiclass":
        classes = columns[:, 0].nan_to_num().long()
        counts = torch.bincount(classes, own[:, 0], minlength=task.n_outputs).float()
        return counts / counts.sum()
    means = ((columns.nan_to_num() * own).sum(dim=0) / own.sum(dim=0)).nan_to_num(nan=0.5)
    if task.kind != "regression":
        means = means.float()
    return means[0] if is_flat(task) else means


def rounding(rows: int) -> float:
    """Return the standard deviation, relative to the mean, up to which numbers count as constant.

    This is the possible rounding error of a sum of that many float64 numbers.

    Example:
        >>> rounding(100) < 1e-13
        True
    """
    return min(1e-12, rows * sys.float_info.epsilon)
