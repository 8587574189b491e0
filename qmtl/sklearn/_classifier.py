"""QuantumMultiTaskClassifier: one or several classifications, a register each."""

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import check_classification_targets

from qmtl.errors import InvalidInputError
from qmtl.sklearn._columns import ClassColumn, class_column, missing
from qmtl.sklearn._estimator import ColumnsEstimator
from qmtl.sklearn._parameters import with_parameters

__all__ = ["QuantumMultiTaskClassifier"]


@with_parameters
class QuantumMultiTaskClassifier(ClassifierMixin, ColumnsEstimator):
    """A classifier of one or several columns: a small network, then a quantum head.

    Every column of `y` is a task with its own classes, register and light cone.

    Parameters:
        {parameters}

    Attributes:
        classes_: the classes, sorted; for a 2-D `y` a list with one array per column.
        model_: the trained `qmtl.MultiTaskModel`, in double precision.
        tasks_: its tasks.
        loss_curve_: mean training loss per epoch.
        input_mean_, input_std_: the scale of the inputs.
        n_features_in_, feature_names_in_, n_outputs_: as in scikit-learn.

    There is no ``sample_weight``: losses are means over labels.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> X, y = load_wine(return_X_y=True)
        >>> classifier = QuantumMultiTaskClassifier(max_epochs=10, random_state=0)
        >>> classifier.fit(X, y).score(X, y) > 0.9
        True
    """

    def __sklearn_tags__(self) -> Any:
        """Binary, multiclass, multilabel, and several columns of them."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Any, y: Any) -> "QuantumMultiTaskClassifier":
        """Train.

        Args:
            X: inputs (n, features), finite numbers.
            y: labels (n,), or (n, columns) with a classification per column; of any type that
                sorts. A column with a single class is predicted as that class.

        Raises:
            ValueError: for other inputs or labels, or a parameter that does not fit.
        """
        inputs, layout, values = self._read(X, y)
        columns = []
        for name, column in zip(layout.names, values, strict=True):
            if missing(column).any() or _infinite(column):
                raise InvalidInputError(
                    f"y: column {name!r} contains NaN or infinity; for missing labels use "
                    f"MultiTaskEstimator"
                )
            columns.append(class_column(name, column))
            check_classification_targets(column)
        self._train(inputs, layout, columns, values)
        classes = [column.classes for column in columns]
        self.classes_ = classes[0] if layout.form == "flat" else classes
        return self

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the classes, in the order of `classes_`.

        Returns:
            (n, classes); for a 2-D `y` a list with one such array per column.
        """
        predictions, n = self._predictions(X)
        found = [
            column.probabilities(predictions.get(column.name), n)
            for column in self._columns
            if isinstance(column, ClassColumn)
        ]
        return found[0] if self._layout.form == "flat" else found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of rows with all columns right (of one column: accuracy).

        `task_scores` gives the accuracy of each column.
        """
        right = [truth == found for _, truth, found in self._true_and_predicted(X, y)]
        return float(np.average(np.all(right, axis=0), weights=sample_weight))

    def task_scores(self, X: Any, y: Any) -> dict[str, float]:
        """Accuracy of each column, by name."""
        return {n: float(accuracy_score(t, p)) for n, t, p in self._true_and_predicted(X, y)}


def _infinite(column: np.ndarray) -> bool:
    return column.dtype.kind == "f" and not np.isfinite(column).all()
