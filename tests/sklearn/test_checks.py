"""scikit-learn's own checks of estimators; no failure is expected."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from qmtl.sklearn import (
    MultiTaskEstimator,
    QuantumMultiTaskClassifier,
    QuantumMultiTaskRegressor,
)
from tests.sklearn.quick import QUICK

# All rows in one batch, and a decay that does not depend on their number: so that whole weights and
# repeated rows take the same steps, as scikit-learn checks.
ONE_BATCH = QUICK | {"weight_decay": 0.01}
# Only the check of a regressor's score needs ten epochs.
SHORT = ONE_BATCH | {"max_epochs": 5, "learning_rate": 0.1}


@pytest.mark.slow
@parametrize_with_checks(
    [
        QuantumMultiTaskClassifier(**SHORT),
        QuantumMultiTaskRegressor(**ONE_BATCH),
        MultiTaskEstimator(**SHORT),
    ],
    expected_failed_checks=lambda estimator: {},
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)
