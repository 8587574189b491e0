"""The columns of a target: each a classification or a regression, and its predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from qmtl.errors import InvalidInputError
from qmtl.tasks import Task, as_numpy, is_date, number_in, plain_text, shown, truth_word


@dataclass(frozen=True)
class Layout:
    """The form of a target: 1-D (``flat``), 2-D (``table``) or a DataFrame (``frame``).

    Names are those of the tasks: the DataFrame's columns, or ``y0``, ``y1``, …; labels are the
    DataFrame's original column labels, or the Series's. `categorical` are the names of columns with
    pandas' categorical type.
    """

    form: str
    names: tuple[str, ...]
    labels: tuple[Any, ...] = ()
    categorical: frozenset[str] = frozenset()

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the columns in messages; a Series has its own name there.

        The task of a Series is ``y0``, as for an array.
        """
        return tuple(map(str, self.labels)) or self.names

    def assemble(self, columns: Sequence[np.ndarray], index: Any = None) -> Any:
        if self.form == "flat":
            return columns[0]
        if self.form == "frame":
            import pandas as pd

            # By position, since a DataFrame's labels may repeat.
            frame = pd.DataFrame(dict(enumerate(columns)), index=index)
            return frame.set_axis(list(self.labels), axis=1)
        kinds = {column.dtype.kind for column in columns}
        if kinds <= set("biuf") or len(kinds) == 1:
            return np.stack(columns, axis=1)
        return np.stack([column.astype(object) for column in columns], axis=1)


@dataclass(frozen=True, eq=False)
class ClassColumn:
    """A classification column: its classes in sorted order, and their weights in the loss."""

    name: str
    classes: np.ndarray
    weights: tuple[float, ...] | None = None

    @property
    def task(self) -> Task:
        count = len(self.classes)
        words = [str(value) for value in self.classes]
        # A task takes some texts for the same label, and no empty text; scikit-learn does not.
        labels = {truth_word(word) or plain_text(word) for word in words}
        names = words if len(labels) == count and "" not in labels else None
        if count == 2:
            return Task.binary(self.name, class_names=names, class_weights=self.weights)
        return Task.multiclass(self.name, count, class_names=names, class_weights=self.weights)

    def targets(self, values: np.ndarray) -> Tensor:
        """Return the labels as the task's canonical targets; None and NaN are missing."""
        codes = np.full(len(values), np.nan)
        known = ~missing(values)
        codes[known] = np.searchsorted(self.classes, values[known].astype(self.classes.dtype))
        return self.task.to_targets(torch.from_numpy(codes))

    def probabilities(self, predicted: np.ndarray) -> np.ndarray:
        if predicted.ndim == 1:
            return np.stack([1 - predicted, predicted], axis=1)
        return predicted

    def decide(self, predicted: np.ndarray) -> np.ndarray:
        chosen: np.ndarray = self.classes[self.probabilities(predicted).argmax(axis=1)]
        return chosen


@dataclass(frozen=True)
class NumberColumn:
    """A regression column of numbers; messages call it by `called`."""

    name: str
    called: str = ""

    @property
    def task(self) -> Task:
        return Task.regression(self.name)

    def targets(self, values: np.ndarray) -> Tensor:
        """Return the numbers as the task's canonical targets, NaN where missing."""
        numbers = np.full(len(values), np.nan)
        known, called = np.flatnonzero(~missing(values)), self.called or self.name
        for row in known if values.dtype.kind not in "biuf" else ():
            # NumPy would convert texts to numbers.
            if not isinstance(values[row], Real):
                raise InvalidInputError(
                    f"y: column {called!r} is a regression and must hold numbers, row {row} has "
                    f"{shown(values[row])}"
                )
        numbers[known] = values[known].astype(np.float64)
        if np.isinf(numbers).any():
            first = int(np.isinf(numbers).argmax())
            raise InvalidInputError(
                f"y: column {called!r} must hold finite numbers, row {first} has {values[first]}"
            )
        return self.task.to_targets(numbers)

    def decide(self, predicted: np.ndarray) -> np.ndarray:
        return predicted


Column = ClassColumn | NumberColumn


def missing(values: np.ndarray) -> np.ndarray:
    """Return which values of a column are None, NaN, or pandas' missing values."""
    if values.dtype.kind in "fc":
        found: np.ndarray = np.isnan(values)
        return found
    if values.dtype.kind != "O":
        return np.zeros(len(values), dtype=bool)
    # Only NaN differs from itself; comparing pandas' NA gives neither True nor False.
    names = ("NAType", "NaTType")
    empty = [v is None or type(v).__name__ in names or bool(v != v) for v in values]
    return np.array(empty, dtype=bool)


def class_column(
    name: str,
    values: np.ndarray,
    weights: Any = None,
    sample_weight: np.ndarray | None = None,
    called: str | None = None,
) -> ClassColumn:
    """Return a classification column with the classes that occur in `values`.

    `weights` are those of the classes, as in scikit-learn; with ``"balanced"``, rows count by
    `sample_weight`.
    """
    called = name if called is None else called
    present = ~missing(values)
    known = _plain(values[present])
    if not len(known):
        raise InvalidInputError(f"y: column {called!r} has no label")
    try:
        classes = np.unique(known)
    except TypeError:
        types = sorted({type(value).__name__ for value in known})
        raise InvalidInputError(
            f"y: the labels of column {called!r} must have one type, got {' and '.join(types)}"
        ) from None
    if len(classes) < 2:
        raise InvalidInputError(
            f"y: column {called!r} has only one class, {classes.tolist()[0]!r}; a classification "
            f"needs at least two classes"
        )
    if weights is None:
        return ClassColumn(name, classes)
    try:
        rows = None if sample_weight is None else sample_weight[present]
        found = compute_class_weight(weights, classes=classes, y=known, sample_weight=rows)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(
            f"class_weight of column {called!r} must map its classes {classes[:10].tolist()} to "
            f"weights, or be 'balanced' or None, got {weights!r}: {error}"
        ) from None
    return ClassColumn(name, classes, tuple(float(weight) for weight in found))


def agreement(name: str, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return in which rows the label equals the predicted class, bool (n,)."""
    # As objects, since NumPy would cut texts to the length of the predicted ones.
    left, right = _plain(truth).astype(object), predicted.astype(object)
    texts = [{isinstance(value, str) for value in values} for values in (left, right)]
    if texts[0] != texts[1] and len(left):
        raise InvalidInputError(
            f"y: the labels of column {name!r} must be of the type of its classes, such as "
            f"{shown(right[0])}, got {shown(left[0])}"
        )
    equal: np.ndarray = left == right
    return equal.astype(bool)


def read_target(y: Any) -> tuple[Layout, list[np.ndarray]]:
    """Return the form and the columns of a target.

    A target is an array, a list, a Series, a DataFrame, or a mapping from names to columns.
    """
    if isinstance(y, Mapping):
        import pandas as pd

        try:
            y = pd.DataFrame(dict(y))
        except ValueError as error:
            raise InvalidInputError(f"y: the columns do not fit together: {error}") from None
    if hasattr(y, "iloc") and getattr(y, "ndim", 0) == 2:
        labels = tuple(y.columns)
        names = tuple(str(label) for label in labels)
        if len(set(names)) < len(names):
            raise InvalidInputError(f"y: the columns must have different names, got {list(names)}")
        typed = frozenset(
            n for n, dtype in zip(names, y.dtypes, strict=True) if dtype == "category"
        )
        layout = Layout("frame", names, labels, typed)
        columns = [_plain(y.iloc[:, i].to_numpy()) for i in range(len(names))]
    else:
        array = _as_array(y)
        if array.ndim not in (1, 2):
            raise InvalidInputError(
                f"y: expected 1 or 2 dimensions, got {type(y).__name__} of shape {array.shape}"
            )
        columns = [array] if array.ndim == 1 else [_plain(column) for column in array.T]
        names = tuple(f"y{i}" for i in range(len(columns)))
        label = getattr(y, "name", None) if hasattr(y, "iloc") else None
        form = "flat" if array.ndim == 1 else "table"
        typed = frozenset(names if str(getattr(y, "dtype", "")) == "category" else ())
        layout = Layout(form, names, () if label is None else (label,), typed)
    if not columns:
        raise InvalidInputError("y: expected at least one column, got none")
    for name, column in zip(layout.called, columns, strict=True):
        known = column[~missing(column)]
        if len(known) and all(is_date(value) for value in known):
            raise InvalidInputError(
                f"y: column {name!r} holds dates, which are neither classes nor numbers; turn them "
                f"into one of these first"
            )
    return layout, columns


def input_problem(X: Any) -> str | None:
    """Describe a text, date or NaN in the inputs, and name its column; None if there is none."""
    if hasattr(X, "iloc") and getattr(X, "ndim", 0) == 2:
        columns = [(repr(str(n)), X.iloc[:, i].to_numpy()) for i, n in enumerate(X.columns)]
    elif isinstance(X, list | tuple) or getattr(X, "dtype", np.dtype(float)).kind in "OUS":
        try:
            cells = np.asarray(X, dtype=object)
        except ValueError:
            return None
        columns = [(str(i), column) for i, column in enumerate(cells.T)] if cells.ndim == 2 else []
    else:
        return None
    for name, column in columns:
        for value in column if column.dtype.kind in "OUS" else ():
            if isinstance(value, str) and number_in(value) is None:
                return (
                    f"X: column {name} has the text {value[:40]!r}, but inputs are numbers; encode "
                    f"texts by scikit-learn's OneHotEncoder in a ColumnTransformer, or train on "
                    f"qmtl.data.from_frame, which does that"
                )
        if column.dtype.kind == "M" or any(map(is_date, column[:1])):
            return (
                f"X: column {name} holds dates, but inputs are numbers; compute numbers from them, "
                f"or train on qmtl.data.from_frame, which does that"
            )
    for name, column in columns:
        if hasattr(X, "iloc") and missing(column).any():
            return (
                f"X: column {name} contains NaN, but inputs are numbers without missing values; "
                f"fill them in by scikit-learn's SimpleImputer in a Pipeline"
            )
    return None


def _as_array(y: Any) -> np.ndarray:
    y = as_numpy(y)
    if isinstance(y, np.ma.MaskedArray):
        y, mask = y.data.astype(object), np.ma.getmaskarray(y)
        y[mask] = None
    try:
        array = np.asarray(y)
        # NumPy converts numbers beside texts, and None, to texts.
        if array.dtype.kind == "T" or (array.dtype.kind in "US" and not hasattr(y, "dtype")):
            array = np.asarray(y, dtype=object)
    except (TypeError, ValueError):
        raise InvalidInputError(
            f"y: expected an array of labels, got {type(y).__name__} with rows of different lengths"
        ) from None
    return array if array.ndim == 2 else _plain(array)


def _plain(column: np.ndarray) -> np.ndarray:
    """Convert a column of number objects to an array of numbers; leave other columns unchanged."""
    if column.dtype.kind != "O" or column.ndim != 1:
        return column
    if any(isinstance(value, Decimal) for value in column):
        numbers = [float(value) if isinstance(value, Decimal) else value for value in column]
        column = np.array([*numbers, None], dtype=object)[:-1]
    if any(isinstance(value, str) for value in column) or missing(column).any():
        return column
    try:
        values = np.array(column.tolist())
    except ValueError:
        return column
    return values if values.dtype.kind in "biuf" and values.ndim == 1 else column
