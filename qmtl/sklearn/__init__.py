"""scikit-learn estimators: every output column is a task with its own register.

`QuantumMultiTaskClassifier` and `QuantumMultiTaskRegressor` take one or several columns of one
kind, `MultiTaskEstimator` columns of both kinds, with missing labels. They can be cloned and
pickled, and work in pipelines and searches.
"""

from qmtl.sklearn._estimators import (
    MultiTaskEstimator,
    QuantumMultiTaskClassifier,
    QuantumMultiTaskRegressor,
)

__all__ = ["MultiTaskEstimator", "QuantumMultiTaskClassifier", "QuantumMultiTaskRegressor"]
