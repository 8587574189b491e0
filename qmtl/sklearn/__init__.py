"""scikit-learn estimators: every output column is a task with a register of its own.

`QuantumMultiTaskClassifier` and `QuantumMultiTaskRegressor` take one or several columns of one
kind, `MultiTaskEstimator` columns of both kinds, with labels missing. They clone, pickle, and work
in pipelines and searches.
"""

from qmtl.sklearn._estimators import (
    MultiTaskEstimator,
    QuantumMultiTaskClassifier,
    QuantumMultiTaskRegressor,
)

__all__ = ["MultiTaskEstimator", "QuantumMultiTaskClassifier", "QuantumMultiTaskRegressor"]
