"""QuantumMultiTaskRegressor: one or several regressions, a register each."""

from typing import Any

from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score

from qmtl.errors import InvalidInputError
from qmtl.sklearn._columns import NumberColumn, missing
from qmtl.sklearn._estimator import ColumnsEstimator
from qmtl.sklearn._parameters import with_parameters

__all__ = ["QuantumMultiTaskRegressor"]


@with_parameters
class QuantumMultiTaskRegressor(RegressorMixin, ColumnsEstimator):
    """A regressor of one or several columns: a small network, then a quantum head.

    Every column of `y` is a task with its own register and light cone. Targets are standardised
    by the training rows; a prediction stays within 5 of their standard deviations at first, since
    expectation values are bounded (the bound is trained).

    Parameters:
        {parameters}

    Attributes:
        model_: the trained `qmtl.MultiTaskModel`, in double precision.
        tasks_: its tasks.
        loss_curve_: mean training loss per epoch.
        input_mean_, input_std_: the scale of the inputs.
        n_features_in_, feature_names_in_, n_outputs_: as in scikit-learn.

    `score` is R², of several columns their mean. There is no ``sample_weight`` in `fit`: losses
    are means over labels.

    Example:
        >>> from sklearn.datasets import load_linnerud
        >>> X, y = load_linnerud(return_X_y=True)
        >>> regressor = QuantumMultiTaskRegressor(max_epochs=5, random_state=0)
        >>> regressor.fit(X, y).predict(X).shape
        (20, 3)
    """

    def fit(self, X: Any, y: Any) -> "QuantumMultiTaskRegressor":
        """Train.

        Args:
            X: inputs (n, features), finite numbers.
            y: numbers (n,), or (n, columns).

        Raises:
            ValueError: for other inputs or targets, or a parameter that does not fit.
        """
        inputs, layout, values = self._read(X, y)
        columns = [NumberColumn(name) for name in layout.names]
        for column, numbers in zip(columns, values, strict=True):
            if missing(numbers).any():
                raise InvalidInputError(
                    f"y: column {column.name!r} contains NaN; for missing labels use "
                    f"MultiTaskEstimator"
                )
        self._train(inputs, layout, columns, values)
        return self

    def task_scores(self, X: Any, y: Any) -> dict[str, float]:
        """R² of each column, by name."""
        return {n: float(r2_score(t, p)) for n, t, p in self._true_and_predicted(X, y)}
