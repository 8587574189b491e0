"""Weights of rows in the estimators, and scikit-learn's routing of them."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.datasets import load_diabetes, load_wine
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from qmtl.sklearn import (
    MultiTaskEstimator,
    QuantumMultiTaskClassifier,
    QuantumMultiTaskRegressor,
)
from tests.sklearn.quick import QUICK

ONE_BATCH = QUICK | {"batch_size": 1000, "weight_decay": 0.01, "max_epochs": 4}


def _rows(load, n=60):
    X, y = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))[:n]
    return X[order], y[order], np.random.default_rng(1).integers(0, 4, n)


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 1.0, 1: 2.0, 2: 3.0}])
def test_whole_weights_are_repeated_rows(class_weight):
    X, y, weights = _rows(load_wine)
    again = np.repeat(np.arange(len(X)), weights)
    estimator = QuantumMultiTaskClassifier(**ONE_BATCH, class_weight=class_weight)
    ours = estimator.fit(X, y, sample_weight=weights)
    probabilities = ours.predict_proba(X)
    score = ours.score(X, y, sample_weight=weights)
    assert score == pytest.approx(ours.score(X[again], y[again]))
    theirs = estimator.fit(X[again], y[again])
    np.testing.assert_allclose(probabilities, theirs.predict_proba(X), atol=1e-6)


def test_a_row_of_weight_zero_is_left_out():
    X, y, weights = _rows(load_diabetes)
    batches = QUICK | {"batch_size": 16, "max_epochs": 3}
    held = batches | {"validation_fraction": 0.2, "patience": 2}
    for params in (batches, held):
        ours = QuantumMultiTaskRegressor(**params).fit(X, y, sample_weight=weights)
        kept = weights > 0
        theirs = QuantumMultiTaskRegressor(**params).fit(X[kept], y[kept], weights[kept])
        np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


def test_scores_and_mixed_kinds():
    X, y, weights = _rows(load_wine)
    frame = pd.DataFrame({"cultivar": y, "alcohol": X[:, 0] + 0.01})
    frame.loc[3:9, "alcohol"] = np.nan
    estimator = MultiTaskEstimator(**ONE_BATCH).fit(X[:, 1:], frame, sample_weight=weights)
    scores = estimator.task_scores(X[:, 1:], frame, sample_weight=weights)
    predicted, known = estimator.predict(X[:, 1:]), frame["alcohol"].notna()
    expected = {
        "cultivar": accuracy_score(y, predicted["cultivar"], sample_weight=weights),
        "alcohol": r2_score(
            frame["alcohol"][known], predicted["alcohol"][known], sample_weight=weights[known]
        ),
    }
    assert scores == pytest.approx(expected)
    mean = estimator.score(X[:, 1:], frame, sample_weight=weights)
    assert mean == pytest.approx(np.mean([*expected.values()]))


def test_weights_count_in_a_search_with_metadata_routing():
    X, y, weights = _rows(load_wine)
    weights = weights + 1.0
    with sklearn.config_context(enable_metadata_routing=True):
        classifier = QuantumMultiTaskClassifier(**ONE_BATCH)
        classifier.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=True)
        found = cross_validate(
            make_pipeline(scaler, classifier), X, y, cv=2, params={"sample_weight": weights},
            return_estimator=True, return_indices=True, error_score="raise",
        )  # fmt: skip
    for one, score, rows in zip(
        found["estimator"], found["test_score"], found["indices"]["test"], strict=True
    ):
        expected = accuracy_score(y[rows], one.predict(X[rows]), sample_weight=weights[rows])
        assert score == pytest.approx(expected)
        mean = np.average(X[np.setdiff1d(range(len(X)), rows)], axis=0,
                          weights=weights[np.setdiff1d(range(len(X)), rows)])  # fmt: skip
        np.testing.assert_allclose(one[0].mean_, mean)


@pytest.mark.parametrize(
    ("weights", "words"),
    [([1.0], "shape"), (-np.ones(60), "negative"), (np.zeros(60), "zero"), ("balanced", "number")],
)
def test_weights_that_do_not_fit(weights, words):
    X, y, _ = _rows(load_wine)
    with pytest.raises(ValueError, match=words):
        QuantumMultiTaskClassifier(**QUICK).fit(X, y, sample_weight=weights)
    fitted = QuantumMultiTaskClassifier(**QUICK | {"max_epochs": 1}).fit(X, y)
    with pytest.raises(ValueError, match=words):
        fitted.score(X, y, sample_weight=weights)
