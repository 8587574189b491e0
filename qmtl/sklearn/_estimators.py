"""The public estimators: for classes, for numbers, and for both kinds with missing labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted

from qmtl.errors import InvalidInputError, unknown_name
from qmtl.sklearn._base import ColumnsEstimator, checked_weights
from qmtl.sklearn._columns import (
    ClassColumn,
    Column,
    Layout,
    NumberColumn,
    agreement,
    class_column,
    missing,
)
from qmtl.tasks import may_be_classes

KINDS = ("classification", "regression")


@dataclass(kw_only=True, eq=False, repr=False)
class QuantumMultiTaskClassifier(ClassifierMixin, ColumnsEstimator):
    """A classifier of one or several columns: a small network, then a quantum head.

    Every column of `y` is a task with its own classes, register and light cone.

    Parameters:
        class_weight: weights of the classes in the loss: a mapping, ``"balanced"`` (inversely
            proportional to the class's frequency), or None; for a 2-D `y` a dictionary from column
            name (``y0``, ...) to such a value.
        {parameters}

    Attributes:
        classes_: the classes, sorted; for a 2-D `y` a list with one array per column.
        {attributes}

    Example:
        >>> from sklearn.datasets import load_wine
        >>> X, y = load_wine(return_X_y=True)
        >>> classifier = QuantumMultiTaskClassifier(max_epochs=10, random_state=0)
        >>> classifier.fit(X, y).score(X, y) > 0.9
        True
    """

    class_weight: Any = None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _make_columns(
        self, layout: Layout, values: Sequence[np.ndarray], weights: np.ndarray | None
    ) -> Sequence[Column]:
        columns = []
        for name, called, column in zip(layout.names, layout.called, values, strict=True):
            infinite = column.dtype.kind == "f" and not np.isfinite(column).all()
            if infinite or missing(column).any():
                raise InvalidInputError(
                    f"y: column {called!r} contains NaN or infinity; for missing labels use "
                    f"MultiTaskEstimator"
                )
            class_weights = class_weight_of(self.class_weight, name, layout)
            columns.append(class_column(name, column, class_weights, weights, called))
            check_classification_targets(column)
        classes = [column.classes for column in columns]
        self.classes_ = classes[0] if layout.form == "flat" else classes
        return columns

    def predict_proba(self, X: Any) -> Any:
        """Return the probabilities of the classes, in the order of `classes_`.

        Returns:
            An array (n, classes); for a 2-D `y` a list with one such array per column.
        """
        found = list(self._probabilities(X).values())
        return found[0] if self._layout.form == "flat" else found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the fraction of rows with all columns right (accuracy, for a single column).

        `task_scores` gives the accuracy of each column.
        """
        right = np.all([agreement(*column) for column in self._true_and_predicted(X, y)], axis=0)
        return float(np.average(right, weights=checked_weights(sample_weight, len(right))))

    def task_scores(self, X: Any, y: Any, sample_weight: Any = None) -> dict[str, float]:
        """Return the accuracy of each column, by name."""
        columns = self._true_and_predicted(X, y)
        rows = checked_weights(sample_weight, len(columns[0][1]))
        return {
            name: float(np.average(agreement(name, *labels), weights=rows))
            for name, *labels in columns
        }


def class_weight_of(class_weight: Any, name: str, layout: Layout) -> Any:
    """Return the class weights of one column of y."""
    if layout.form == "flat" or class_weight is None or isinstance(class_weight, str):
        return class_weight
    if not isinstance(class_weight, Mapping):
        raise InvalidInputError(
            f"class_weight must be None, 'balanced', or map the columns of y to weights of their "
            f"classes, got {class_weight!r}"
        )
    # A data frame's columns may be numbers, which texts name here.
    weights = {str(column): value for column, value in class_weight.items()}
    for column in weights:
        if column not in layout.names:
            raise unknown_name("column in class_weight:", column, layout.names)
    return weights.get(name)


class QuantumMultiTaskRegressor(RegressorMixin, ColumnsEstimator):
    """A regressor of one or several columns: a small network, then a quantum head.

    Every column of `y` is a task with its own register and light cone. Targets are standardised by
    the training rows. Since expectation values are bounded, a prediction at first stays within 5
    standard deviations of the targets' mean (the bound is trained).

    Parameters:
        {parameters}

    Attributes:
        {attributes}

    `score` is R²; for several columns it is their mean.

    Example:
        >>> from sklearn.datasets import load_linnerud
        >>> X, y = load_linnerud(return_X_y=True)
        >>> regressor = QuantumMultiTaskRegressor(max_epochs=5, random_state=0)
        >>> regressor.fit(X, y).predict(X).shape
        (20, 3)
    """

    def _make_columns(
        self, layout: Layout, values: Sequence[np.ndarray], weights: np.ndarray | None
    ) -> Sequence[Column]:
        columns = [NumberColumn(*pair) for pair in zip(layout.names, layout.called, strict=True)]
        for column, numbers in zip(columns, values, strict=True):
            if missing(numbers).any():
                raise InvalidInputError(
                    f"y: column {column.called!r} contains NaN; for missing labels use "
                    f"MultiTaskEstimator"
                )
        return columns

    def task_scores(self, X: Any, y: Any, sample_weight: Any = None) -> dict[str, float]:
        """Return the R² of each column, by name."""
        columns = self._true_and_predicted(X, y)
        rows = checked_weights(sample_weight, len(columns[0][1]))
        return {n: float(r2_score(t, p, sample_weight=rows)) for n, t, p in columns}


@dataclass(eq=False, repr=False)
class MultiTaskEstimator(ColumnsEstimator):
    """Classifications and regressions on the same rows; each column is a task with a register.

    Labels may be missing (None, NaN); they are ignored in losses and scores.

    Parameters:
        kinds: column name to ``"classification"`` or ``"regression"``, for columns whose inferred
            kind is wrong, such as counts. Kinds are inferred as in scikit-learn: texts, booleans
            and whole numbers are classes, fractions are a regression; a categorical column of
            pandas holds classes. For whole numbers of which most differ, in a fold of
            cross-validation too, the kind must be given.
        class_weight: weights of the classes in the loss: ``"balanced"`` (inversely
            proportional to the class's frequency), None, or a dictionary from column name to one
            of these or to a mapping of classes.
        {parameters}

    Attributes:
        kinds_: column name to kind.
        classes_: column name to its sorted classes, for the classifications.
        {attributes}

    Example:
        >>> import pandas as pd
        >>> X = [[float(i), float(i % 5)] for i in range(40)]
        >>> late, size = ["no"] * 20 + ["yes"] * 20, [i / 7 for i in range(40)]
        >>> y = pd.DataFrame({"late": late, "size": size})
        >>> estimator = MultiTaskEstimator(max_epochs=5, random_state=0).fit(X, y)
        >>> estimator.kinds_
        {'late': 'classification', 'size': 'regression'}
        >>> estimator.predict(X[:2]).shape, estimator.predict_proba(X[:2])["late"].shape
        ((2, 2), (2, 2))
    """

    kinds: Mapping[str, str] | None = None
    class_weight: Any = field(default=None, kw_only=True)

    def _make_columns(
        self, layout: Layout, values: Sequence[np.ndarray], weights: np.ndarray | None
    ) -> Sequence[Column]:
        self.kinds_ = self._kinds(layout, values)
        columns: list[Column] = []
        for name, called, column in zip(layout.names, layout.called, values, strict=True):
            if self.kinds_[name] == "classification":
                class_weights = class_weight_of(self.class_weight, name, layout)
                columns.append(class_column(name, column, class_weights, weights, called))
            else:
                columns.append(NumberColumn(name, called))
        self.classes_ = {c.name: c.classes for c in columns if isinstance(c, ClassColumn)}
        return columns

    def _kinds(self, layout: Layout, values: Sequence[np.ndarray]) -> dict[str, str]:
        given = {} if self.kinds is None else self.kinds
        if not isinstance(given, Mapping):
            raise InvalidInputError(
                f"kinds must map names of columns to {' or '.join(KINDS)}, got {given!r}"
            )
        # A Series has its own name for the one column.
        own = dict(zip(layout.called, layout.names, strict=True))
        given = {own.get(str(name), str(name)): kind for name, kind in given.items()}
        for name, kind in given.items():
            if name not in layout.names:
                raise unknown_name("column in kinds:", name, layout.names)
            if kind not in KINDS:
                raise unknown_name(f"kind of column {name!r}:", kind, KINDS)
        given = dict.fromkeys(layout.categorical, "classification") | given
        return {
            name: given.get(name) or _guess(called, column)
            for name, called, column in zip(layout.names, layout.called, values, strict=True)
        }

    def predict_proba(self, X: Any) -> Any:
        """Return the class probabilities of the classifications.

        For scikit-learn's `cross_val_predict`, which makes classes of all columns, numbers too, use
        this method of `QuantumMultiTaskClassifier`.

        Returns:
            Column name to (n, classes), in the order of `classes_`; for a 1-D `y` the array alone.

        Raises:
            InvalidInputError: no column is a classification.
        """
        found = self._probabilities(X)
        if not found:
            raise InvalidInputError("predict_proba: no column of y is a classification")
        return next(iter(found.values())) if self._layout.form == "flat" else found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the mean of `task_scores`."""
        return float(np.mean(list(self.task_scores(X, y, sample_weight).values())))

    def task_scores(self, X: Any, y: Any, sample_weight: Any = None) -> dict[str, float]:
        """Return each classification's accuracy and regression's R², on the rows with labels.

        Raises:
            InvalidInputError: a column has no label.
        """
        check_is_fitted(self, "model_")
        scores = {}
        columns = self._true_and_predicted(X, y)
        rows = checked_weights(sample_weight, len(columns[0][1]))
        for name, truth, predicted in columns:
            known = ~missing(truth) if rows is None else ~missing(truth) & (rows > 0)
            own = None if rows is None else rows[known]
            if not known.any():
                raise InvalidInputError(f"y: column {name!r} has no label to score")
            if self.kinds_[name] == "classification":
                right = agreement(name, truth[known], predicted[known])
                scores[name] = float(np.average(right, weights=own))
            else:
                numbers = NumberColumn(name).targets(truth).numpy()[known]
                scores[name] = float(r2_score(numbers, predicted[known], sample_weight=own))
        return scores


def _guess(name: str, column: np.ndarray) -> str:
    known = column[~missing(column)]
    if not len(known):
        raise InvalidInputError(f"y: column {name!r} has no label")
    if known.dtype.kind == "O" and not any(isinstance(value, str) for value in known):
        known = np.array(known.tolist())
    kind = type_of_target(known)
    if kind == "unknown":
        types = sorted({type(value).__name__ for value in known})
        raise InvalidInputError(
            f"y: the labels of column {name!r} must be texts, truth values or numbers, of one "
            f"type, got {' and '.join(types)}"
        )
    if kind == "continuous":
        return "regression"
    if known.dtype.kind in "iuf" and not may_be_classes(len(np.unique(known)), len(known)):
        raise InvalidInputError(
            f"y: column {name!r} has {len(np.unique(known))} different whole numbers in "
            f"{len(known)} rows; name its kind, kinds={{{name!r}: 'regression'}} or "
            f"'classification'"
        )
    return "classification"
