"""MultiTaskEstimator: classifications and regressions side by side, with labels missing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from qmtl.errors import InvalidInputError, unknown_name
from qmtl.simulators import Simulator
from qmtl.sklearn._columns import ClassColumn, Column, Layout, NumberColumn, class_column, missing
from qmtl.sklearn._estimator import ColumnsEstimator
from qmtl.sklearn._parameters import with_parameters

__all__ = ["MultiTaskEstimator"]

KINDS = ("classification", "regression")


@with_parameters
class MultiTaskEstimator(ColumnsEstimator):
    """Classifications and regressions of the same rows, each column a task with its own register.

    Labels may be missing (None, NaN): they reach no loss and no score.

    Parameters:
        kinds: column name to ``"classification"`` or ``"regression"``, for columns where the
            guess would be wrong, such as counts. Columns are guessed as scikit-learn does: texts,
            booleans and whole numbers are classes, fractions are a regression.
        {parameters}

    Attributes:
        kinds_: column name to kind.
        classes_: column name to its sorted classes, for the classifications.
        model_: the trained `qmtl.MultiTaskModel`, in double precision.
        tasks_: its tasks.
        loss_curve_: mean training loss per epoch.
        input_mean_, input_std_: the scale of the inputs.
        n_features_in_, feature_names_in_, n_outputs_: as in scikit-learn.

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

    def __init__(
        self,
        kinds: Mapping[str, str] | None = None,
        *,
        hidden: int | Sequence[int] = (32,),
        circuit: str = "cz-ring",
        wires_per_task: int | Mapping[str, int] | None = None,
        encoding_layers: int | None = None,
        block_layers: int | None = None,
        head: str = "quantum",
        simulator: str | Simulator = "lightcone",
        max_epochs: int = 50,
        batch_size: int = 32,
        learning_rate: float = 0.01,
        head_learning_rate: float | None = None,
        weight_decay: float = 0.0,
        scalarizer: str | None = None,
        aggregator: str | None = None,
        validation_fraction: float | None = None,
        patience: int | None = None,
        scale_inputs: bool = True,
        accelerator: str = "cpu",
        random_state: Any = None,
    ) -> None:
        super().__init__(
            hidden=hidden,
            circuit=circuit,
            wires_per_task=wires_per_task,
            encoding_layers=encoding_layers,
            block_layers=block_layers,
            head=head,
            simulator=simulator,
            max_epochs=max_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            head_learning_rate=head_learning_rate,
            weight_decay=weight_decay,
            scalarizer=scalarizer,
            aggregator=aggregator,
            validation_fraction=validation_fraction,
            patience=patience,
            scale_inputs=scale_inputs,
            accelerator=accelerator,
            random_state=random_state,
        )
        self.kinds = kinds

    def fit(self, X: Any, y: Any) -> "MultiTaskEstimator":
        """Train.

        Args:
            X: inputs (n, features), finite numbers.
            y: a DataFrame, whose column names name the tasks; or an array (n,) or (n, columns),
                whose tasks are ``y0``, ``y1``, …

        Raises:
            ValueError: for other inputs or labels, or a parameter that does not fit.
        """
        inputs, layout, values = self._read(X, y)
        kinds = self._kinds(layout, values)
        columns: list[Column] = [
            class_column(name, column) if kinds[name] == "classification" else NumberColumn(name)
            for name, column in zip(layout.names, values, strict=True)
        ]
        self._train(inputs, layout, columns, values)
        self.kinds_ = kinds
        self.classes_ = {c.name: c.classes for c in columns if isinstance(c, ClassColumn)}
        return self

    def _kinds(self, layout: Layout, values: Sequence[np.ndarray]) -> dict[str, str]:
        given = {} if self.kinds is None else self.kinds
        if not isinstance(given, Mapping):
            raise InvalidInputError(
                f"kinds must map names of columns to {' or '.join(KINDS)}, got {given!r}"
            )
        for name, kind in given.items():
            if name not in layout.names:
                raise unknown_name("column in kinds:", name, layout.names)
            if kind not in KINDS:
                raise unknown_name(f"kind of column {name!r}:", kind, KINDS)
        return {
            name: given.get(name) or _guess(name, column)
            for name, column in zip(layout.names, values, strict=True)
        }

    def predict_proba(self, X: Any) -> Any:
        """Class probabilities of the classifications.

        Returns:
            Column name to (n, classes), in the order of `classes_`; for a 1-D `y` the array alone.

        Raises:
            InvalidInputError: no column is a classification.
        """
        predictions, n = self._predictions(X)
        found = {
            column.name: column.probabilities(predictions.get(column.name), n)
            for column in self._columns
            if isinstance(column, ClassColumn)
        }
        if not found:
            raise InvalidInputError("predict_proba: no column of y is a classification")
        return next(iter(found.values())) if self._layout.form == "flat" else found

    def score(self, X: Any, y: Any) -> float:
        """The mean of `task_scores`."""
        return float(np.mean(list(self.task_scores(X, y).values())))

    def task_scores(self, X: Any, y: Any) -> dict[str, float]:
        """Accuracy of each classification and R² of each regression, on the rows with labels.

        Raises:
            InvalidInputError: a column has no label.
        """
        check_is_fitted(self, "_trained")
        scores = {}
        for name, truth, predicted in self._true_and_predicted(X, y):
            known = ~missing(truth)
            if not known.any():
                raise InvalidInputError(f"y: column {name!r} has no label to score")
            score = accuracy_score if self.kinds_[name] == "classification" else r2_score
            kind = predicted.dtype
            scores[name] = float(score(truth[known].astype(kind), predicted[known]))
        return scores


def _guess(name: str, column: np.ndarray) -> str:
    known = column[~missing(column)]
    if not len(known):
        raise InvalidInputError(f"y: column {name!r} has no label")
    if known.dtype.kind == "O" and not any(isinstance(value, str) for value in known):
        known = np.array(known.tolist())
    kind = type_of_target(known, input_name=f"y's column {name!r}", raise_unknown=True)
    return "regression" if kind == "continuous" else "classification"
