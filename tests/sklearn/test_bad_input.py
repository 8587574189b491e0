"""What does not fit is refused with a ValueError or TypeError that names it."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.exceptions import NotFittedError
from torchjd.aggregation import UPGrad
from torchjd.scalarization import UW

from qmtl.errors import InvalidInputError
from qmtl.sklearn import (
    MultiTaskEstimator,
    QuantumMultiTaskClassifier,
    QuantumMultiTaskRegressor,
)
from tests.sklearn.quick import QUICK

X = np.random.default_rng(0).normal(size=(12, 3))
HALF = np.arange(12) % 2
NUMBERS = X[:, 0]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"head": "lineer"}, ["head 'lineer'", "'linear'"]),
        ({"head": "single-task"}, ["'single-task'"]),
        ({"circuit": "cz-rign"}, ["'cz-rign'", "'cz-ring'"]),
        ({"simulator": "lightcne"}, ["'lightcne'", "'lightcone'"]),
        ({"aggregator": "upgard"}, ["'upgard'", "'UPGrad'"]),
        ({"scalarizer": "uww"}, ["'uww'", "'UW'"]),
        ({"aggregator": UPGrad()}, ["aggregator: write its name, 'UPGrad',", "in options"]),
        ({"scalarizer": UW}, ["scalarizer: write its name, 'UW',"]),
        ({"aggregator": "mgda", "scalarizer": "uw"}, ["not both"]),
        ({"max_epochs": 0}, ["max_epochs", "0"]),
        ({"batch_size": "big"}, ["batch_size", "'big'"]),
        ({"learning_rate": -1}, ["learning_rate", "-1"]),
        ({"accelerator": "tpu"}, ["accelerator", "'tpu'"]),
        ({"hidden": "wide"}, ["hidden", "'wide'"]),
        ({"hidden": (8, 0)}, ["widths", "0"]),
        ({"hidden": (8.5,)}, ["hidden", "8.5"]),
        ({"scale_inputs": "no"}, ["scale_inputs", "'no'"]),
        ({"wires_per_task": 0}, ["'y0'", "0"]),
        ({"wires_per_task": {"y1": 3}}, ["'y1'", "y0"]),
        ({"block_layers": 0}, ["layers", "0"]),
        ({"encoding_layers": "2"}, ["layers", "'2'"]),
        ({"validation_fraction": 1.5}, ["validation_fraction", "1.5"]),
        ({"patience": 3}, ["patience", "validation"]),
        ({"random_state": "x"}, ["'x'"]),
        ({"angle_map": "wide"}, ["'wide'", "narrow"]),
        ({"initial": "equater"}, ["'equater'", "'equator'"]),
        ({"schedule": "linear"}, ["schedule", "'linear'"]),
        ({"weight_decay": -1}, ["weight_decay", "-1"]),
        ({"class_weight": {"y": 2.0}}, ["class_weight", "'y0'"]),
        ({"class_weight": "balance"}, ["class_weight", "'balance'"]),
    ],
)
def test_parameters(params, words):
    estimator = QuantumMultiTaskClassifier(**QUICK | params)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        estimator.fit(X, HALF)
    assert all(word in str(caught.value) for word in words), caught.value
    with pytest.raises(NotFittedError):
        estimator.predict(X)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y"),
        (np.ones(12), "column 'y0' has only one class, 1.0; a classification needs at least two"),
        (pd.Series(["no"] * 12, name="sold"), "column 'sold' has only one class, 'no'"),
        (np.c_[HALF, np.zeros(12, int)], "column 'y1' has only one class, 0"),
        (pd.Series([*HALF[:11], None], name="sold"), "column 'sold' contains NaN"),
        (HALF[:5], "inconsistent numbers of samples"),
        (HALF[:, None, None], r"1 or 2 dimensions, got ndarray of shape \(12, 1, 1\)"),
        (np.empty((12, 0)), "at least one column"),
        (NUMBERS, "Unknown label type: continuous"),
        ([*HALF[:11], np.nan], "'y0' contains NaN"),
        (["a"] * 11 + [None], "'y0' contains NaN"),
        (["a"] * 6 + [1] * 6, "one type, got int and str"),
        ([[0, 1], [1]] * 6, "rows of different lengths"),
        (pd.DataFrame([HALF, HALF]).T.set_axis(["a", "a"], axis=1), "different names"),
        (pd.DataFrame({"encoding": HALF}), "'encoding'"),
    ],
)
def test_labels(y, message):
    with pytest.raises((ValueError, TypeError), match=message):
        QuantumMultiTaskClassifier(**QUICK).fit(X, y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([*NUMBERS[:11], np.nan], "'y0' contains NaN"),
        ([*NUMBERS[:11], np.inf], "row 11 has inf"),
        (pd.Series([*NUMBERS[:11], np.nan], name="price"), "column 'price' contains NaN"),
        (pd.Series([*NUMBERS[:11], np.nan]), "'y0' contains NaN"),
        (pd.Series([*NUMBERS[:11], "x"], name="price"), "column 'price' is a regression"),
        (pd.Series([*NUMBERS[:11], -np.inf], name="price"), "column 'price' .* row 11 has -inf"),
        ([*NUMBERS[:11], "1.5"], "row 11 has '1.5'"),
        (np.array(["1.5"] * 12), "row 0 has '1.5'"),
        (np.array(["2020-01-01"] * 12, dtype="datetime64[D]"), "holds dates"),
    ],
)
def test_targets(y, message):
    with pytest.raises(ValueError, match=message):
        QuantumMultiTaskRegressor(**QUICK).fit(X, y)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (sparse.csr_array(X), TypeError, "[Ss]parse data was passed"),
        (np.where(X > 2, np.nan, X) * np.nan, ValueError, "contains NaN"),
        (X[:1], ValueError, "minimum of 2 is required"),
        (X[:, 0], ValueError, "Expected 2D array, got 1D"),
        (X[:, :0], ValueError, r"0 feature\(s\)"),
        ([["a", "b"]] * 12, ValueError, "X: column 0 has the text 'a', but inputs are numbers"),
        (np.array([["1.5", "b"]] * 12), ValueError, "X: column 1 has the text 'b'"),
    ],
)
def test_inputs(inputs, error, message):
    for estimator in (MultiTaskEstimator(**QUICK), QuantumMultiTaskRegressor(**QUICK)):
        with pytest.raises(error, match=message):
            estimator.fit(inputs, HALF[: np.shape(inputs)[0]])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["Bern", "Basel"] * 6, "X: column 'town' has the text 'Bern', .* ColumnTransformer, or .*"
         "from_frame"),
        (pd.Series(["Bern", None] * 6, dtype="category"), "column 'town' has the text 'Bern'"),
        (["1.5", "about 2"] * 6, "column 'town' has the text 'about 2'"),
        (pd.date_range("2020-01-01", periods=12), "column 'town' holds dates"),
        ([1.0, None] * 6, "column 'town' contains NaN, .* SimpleImputer in a Pipeline"),
    ],
)  # fmt: skip
def test_columns_of_inputs_are_named(column, message):
    frame = pd.DataFrame(X, columns=["size", "rooms", "age"])
    with_column = frame.assign(age=column).rename(columns={"age": "town"})
    good = frame.rename(columns={"age": "town"})
    for estimator in (MultiTaskEstimator(**QUICK), QuantumMultiTaskRegressor(**QUICK)):
        with pytest.raises(InvalidInputError, match=message):
            estimator.fit(with_column, NUMBERS)
        with pytest.raises(InvalidInputError, match=message):
            estimator.fit(good, NUMBERS).predict(with_column)


def test_a_series_is_fitted_as_an_array_is():
    for name in ("sold", "encoding", None, 3):
        y = pd.Series(HALF, name=name)
        classifier = QuantumMultiTaskClassifier(**QUICK).fit(X, y)
        assert [task.name for task in classifier.tasks_] == ["y0"]
        plain = QuantumMultiTaskClassifier(**QUICK).fit(X, HALF)
        assert np.array_equal(plain.predict_proba(X), classifier.predict_proba(X))
        assert list(classifier.task_scores(X, y)) == ["y0"]
    with pytest.warns(UserWarning, match="target 'flat' is 5 in every"):
        QuantumMultiTaskRegressor(**QUICK).fit(X, pd.Series([5] * 12, name="flat"))
    with pytest.raises(InvalidInputError, match="column 'sold' has no label"):
        MultiTaskEstimator(**QUICK).fit(X, pd.Series([None] * 12, name="sold"))


def test_what_is_the_same_in_every_row():
    y = pd.DataFrame({"price": NUMBERS, "strong": "yes"})
    with pytest.raises(InvalidInputError, match="column 'strong' has only one class, 'yes'"):
        MultiTaskEstimator(**QUICK).fit(X, y)
    told = "target 'flat' is 5 in every labelled row"
    for estimator, other in ((MultiTaskEstimator, HALF), (QuantumMultiTaskRegressor, NUMBERS)):
        kinds = {"flat": "regression"} if estimator is MultiTaskEstimator else None
        made = estimator(**QUICK) if kinds is None else estimator(kinds, **QUICK)
        with pytest.warns(UserWarning, match=told) as caught:
            made.fit(X, pd.DataFrame({"other": other, "flat": 5}))
        assert [one.filename for one in caught] == [__file__]
        assert made.predict(X)["flat"].to_numpy() == pytest.approx(5, abs=0.5)
    # Rows of weight zero do not count.
    with pytest.raises(InvalidInputError, match="only one class, 0"):
        QuantumMultiTaskClassifier(**QUICK).fit(X, HALF, sample_weight=1 - HALF)


def test_whole_numbers_of_which_most_differ_need_a_kind():
    prices = np.arange(12) * 1000
    for many in (prices, [int(price) for price in prices], prices.astype(float)):
        with pytest.raises(InvalidInputError, match=r"12 different whole .*'y0': 'regression'"):
            MultiTaskEstimator(**QUICK).fit(X, many)
    for kind in ("regression", "classification"):
        assert MultiTaskEstimator({"y0": kind}, **QUICK).fit(X, prices).kinds_ == {"y0": kind}
    assert MultiTaskEstimator(**QUICK).fit(X, prices % 10_000).kinds_ == {"y0": "classification"}
    ids = [f"id{number}" for number in range(12)]
    assert MultiTaskEstimator(**QUICK).fit(X, ids).kinds_ == {"y0": "classification"}


def test_numbers_in_a_categorical_column_are_classes():
    prices = np.arange(12) * 1000
    for typed in (pd.Series(prices, dtype="category"), pd.Categorical(prices)):
        found = MultiTaskEstimator(**QUICK).fit(X, typed)
        assert found.kinds_ == {"y0": "classification"}
        assert found.classes_["y0"].tolist() == prices.tolist()
    frame = pd.DataFrame({"zip": typed, "size": prices})
    kinds = {"zip": "classification", "size": "regression"}
    assert MultiTaskEstimator({"size": "regression"}, **QUICK).fit(X, frame).kinds_ == kinds
    kinds["zip"] = "regression"
    assert MultiTaskEstimator(kinds, **QUICK).fit(X, frame).kinds_ == kinds


def test_kinds():
    y = pd.DataFrame({"price": NUMBERS, "sold": HALF})
    for kinds, message in (
        ({"prize": "regression"}, "'prize'; did you mean 'price'"),
        ({"price": "regresion"}, "'regresion'; did you mean 'regression'"),
        ({"price": "classification"}, None),
    ):
        estimator = MultiTaskEstimator(kinds, **QUICK)
        if message is None:
            assert len(estimator.fit(X, y).classes_["price"]) == 12
            continue
        with pytest.raises(InvalidInputError, match=message):
            estimator.fit(X, y)
    for kinds in ("regression", ["regression"]):
        with pytest.raises(InvalidInputError, match=r"kinds must map .*'regression'"):
            MultiTaskEstimator(kinds, **QUICK).fit(X, y)
    y["sold"] = np.nan
    with pytest.raises(InvalidInputError, match="'sold' has no label"):
        MultiTaskEstimator(**QUICK).fit(X, y)


def test_predictions_of_what_was_fitted():
    regressor = QuantumMultiTaskRegressor(**QUICK).fit(X, X[:, :2])
    with pytest.raises(ValueError, match="expecting 3 features"):
        regressor.predict(X[:, :2])
    with pytest.raises(InvalidInputError, match="expected 2 columns, got 1"):
        regressor.task_scores(X, NUMBERS)
    numbers_only = MultiTaskEstimator(**QUICK).fit(X, NUMBERS)
    with pytest.raises(InvalidInputError, match="no column of y is a classification"):
        numbers_only.predict_proba(X)
    y = pd.DataFrame({"sold": HALF})
    mixed = MultiTaskEstimator(**QUICK).fit(X, y)
    with pytest.raises(InvalidInputError, match="'sold' has no label to score"):
        mixed.score(X, pd.DataFrame({"sold": [None] * 12}))
    framed = QuantumMultiTaskRegressor(**QUICK).fit(X, pd.DataFrame(X[:, :2], columns=["a", "b"]))
    with pytest.raises(InvalidInputError, match=r"expected the columns \['a', 'b'\] in this order"):
        framed.task_scores(X, pd.DataFrame(X[:, :2], columns=["b", "a"]))
    named = QuantumMultiTaskClassifier(**QUICK).fit(pd.DataFrame(X, columns=list("abc")), HALF)
    with pytest.raises(ValueError, match="feature names should match"):
        named.predict(pd.DataFrame(X, columns=list("abd")))


def test_one_feature_and_two_rows():
    classifier = QuantumMultiTaskClassifier(**QUICK).fit([[0.0], [1.0]], ["no", "yes"])
    assert set(classifier.predict([[0.5], [2.0]])) <= {"no", "yes"}


@pytest.mark.parametrize(
    "dates",
    [
        pd.date_range("2020-01-01", periods=12),
        pd.date_range("2020-01-01", periods=12).strftime("%d.%m.%Y"),
        [pd.Timestamp(2020, 1, 1).date()] * 11 + [None],
    ],
)
@pytest.mark.parametrize("estimator", [MultiTaskEstimator, QuantumMultiTaskRegressor])
def test_dates_are_no_labels(estimator, dates):
    y = pd.DataFrame({"sold": HALF, "day": dates})
    with pytest.raises(InvalidInputError, match="column 'day' holds dates, which are neither"):
        estimator(**QUICK).fit(X, y[["day"]] if estimator is QuantumMultiTaskRegressor else y)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([True, "no", "yes"], "column 'sold' must be .* of one type, got bool and str$"),
        ([1, "no", None], "of one type, got int and str$"),
        (pd.cut([1, 2, 3], 2), "must be texts, truth values or numbers, of one type, got Interval"),
    ],
)
def test_labels_of_unclear_types(labels, message):
    y = pd.DataFrame({"sold": pd.Series(list(labels) * 4, dtype=object)})
    with pytest.raises(InvalidInputError, match=message):
        MultiTaskEstimator(**QUICK).fit(X, y)
