"""scikit-learn's own checks of estimators; no failure is expected."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from qmtl.sklearn import (
    MultiTaskEstimator,
    QuantumMultiTaskClassifier,
    QuantumMultiTaskRegressor,
)
from tests.sklearn.quick import QUICK


@pytest.mark.slow
@parametrize_with_checks(
    [
        QuantumMultiTaskClassifier(**QUICK),
        QuantumMultiTaskRegressor(**QUICK),
        MultiTaskEstimator(**QUICK),
    ],
    expected_failed_checks=lambda estimator: {},
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)
