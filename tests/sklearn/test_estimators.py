"""The estimators on real tables: scikit-learn's wine, linnerud and diabetes."""

import inspect
import pickle
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_linnerud, load_wine
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer

import qmtl
from qmtl.encoders import MLPSection
from qmtl.errors import InvalidInputError
from qmtl.heads import HeadOptions, HeadSection, QuantumHead
from qmtl.sklearn import (
    MultiTaskEstimator,
    QuantumMultiTaskClassifier,
    QuantumMultiTaskRegressor,
)
from qmtl.training import TrainingSettings
from tests.sklearn.quick import QUICK

LONGER = QUICK | {"max_epochs": 20}
CULTIVARS = np.array(["barolo", "grignolino", "barbera"])


@pytest.fixture(scope="module")
def wine():
    """Inputs and a class by name, a count, and a number, of which some are missing."""
    table = load_wine(as_frame=True)
    order = np.random.default_rng(0).permutation(len(table.target))
    table.data, table.target = table.data.iloc[order], table.target.iloc[order]
    X = table.data.drop(columns=["proline", "hue"])
    y = pd.DataFrame(
        {
            "cultivar": CULTIVARS[table.target],
            "proline": table.data["proline"].astype(int),
            "hue": table.data["hue"],
        }
    )
    return X, y


def test_wine_by_name_in_a_pipeline(wine):
    X, y = wine[0], wine[1]["cultivar"]
    train, test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)
    classifier = QuantumMultiTaskClassifier(**LONGER)
    pipeline = make_pipeline(QuantileTransformer(n_quantiles=50), classifier).fit(train, y_train)
    assert pipeline.score(test, y_test) > 0.9
    assert classifier.classes_.tolist() == sorted(CULTIVARS)
    assert classifier.tasks_[0].class_names == tuple(sorted(CULTIVARS))
    assert set(pipeline.predict(test)) <= set(CULTIVARS)
    assert pipeline.predict_proba(test).shape == (len(test), 3)


def test_a_mapping_of_columns_is_a_table():
    X = np.random.default_rng(0).normal(size=(30, 3))
    columns = {"kind": (X[:, 0] > 0).astype(int), "size": X[:, 1]}
    estimator = MultiTaskEstimator(max_epochs=1, random_state=0)
    found = estimator.fit(X, columns).predict(X)
    pd.testing.assert_frame_equal(found, estimator.fit(X, pd.DataFrame(columns)).predict(X))
    assert estimator.score(X, columns) == estimator.score(X, pd.DataFrame(columns))
    with pytest.raises(ValueError, match=r"y: the columns do not fit together: .*same length"):
        estimator.fit(X, columns | {"size": X[:5, 1]})


def test_several_classifications(wine):
    X = wine[0].to_numpy()
    cultivar = np.unique(wine[1]["cultivar"], return_inverse=True)[1]
    y = np.stack([cultivar, X[:, 0] > 13, X[:, 1] > 2], axis=1).astype(int)
    classifier = QuantumMultiTaskClassifier(**LONGER).fit(X, y)
    assert classifier.predict(X).shape == y.shape
    assert [len(classes) for classes in classifier.classes_] == [3, 2, 2]
    assert [p.shape[1] for p in classifier.predict_proba(X)] == [3, 2, 2]
    assert [task.name for task in classifier.tasks_] == ["y0", "y1", "y2"]
    scores = classifier.task_scores(X, y)
    assert list(scores) == ["y0", "y1", "y2"]
    assert scores["y0"] > 0.9
    whole = classifier.score(X, y)
    assert whole == np.mean(np.all(classifier.predict(X) == y, axis=1))
    assert whole <= min(scores.values())


def test_regressions():
    X, y = load_diabetes(return_X_y=True)
    regressor = QuantumMultiTaskRegressor(**LONGER).fit(X, y)
    assert regressor.score(X, y) > 0.45
    X, y = load_linnerud(return_X_y=True, as_frame=True)
    regressor = QuantumMultiTaskRegressor(**QUICK).fit(X, y)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        from_lists = regressor.predict(X.to_numpy().tolist())
    assert from_lists.equals(regressor.predict(X))
    predicted = regressor.predict(X[5:])
    assert predicted.columns.tolist() == ["Weight", "Waist", "Pulse"]
    assert predicted.index.tolist() == X.index[5:].tolist()
    assert list(regressor.task_scores(X, y)) == ["Weight", "Waist", "Pulse"]
    assert regressor.score(X, y) == pytest.approx(np.mean([*regressor.task_scores(X, y).values()]))
    assert regressor.feature_names_in_.tolist() == X.columns.tolist()
    assert regressor.n_outputs_ == 3


@pytest.mark.slow
def test_grid_search_over_register_size_and_layers():
    X, y = load_wine(return_X_y=True)
    grid = {"wires_per_task": np.arange(2, 4), "encoding_layers": [1, 2], "block_layers": [1, 2]}
    search = GridSearchCV(QuantumMultiTaskClassifier(**QUICK), grid, cv=2, error_score="raise")
    search.fit(X, y)
    assert search.best_score_ > 0.9
    assert len(search.cv_results_["params"]) == 8
    circuit = search.best_estimator_.model_.head.circuit
    assert circuit.n_wires == search.best_params_["wires_per_task"]
    assert circuit.encoding.n_layers == search.best_params_["encoding_layers"]
    assert circuit.ansatz("y0").n_layers == search.best_params_["block_layers"]


def test_a_search_of_mixed_kinds(wine):
    X, y = wine
    estimator = MultiTaskEstimator({"proline": "regression"}, **LONGER)
    search = GridSearchCV(estimator, {"head": ["quantum", "linear"]}, cv=2, error_score="raise")
    search.fit(X, y)
    assert search.best_score_ > 0.4
    assert isinstance(search.predict(X), pd.DataFrame)


def test_mixed_kinds_with_labels_missing(wine):
    X, y = wine[0].copy(), wine[1].copy()
    y.index = X.index = [f"row {i}" for i in range(len(X))]
    y.loc[y.index[::3], "hue"] = np.nan
    y.loc[y.index[1::3], "cultivar"] = None
    whole = wine[1].set_axis(X.index)
    estimator = MultiTaskEstimator({"proline": "regression"}, **QUICK | {"max_epochs": 50})
    estimator.fit(X, y)
    expected = {"cultivar": "classification", "proline": "regression", "hue": "regression"}
    assert estimator.kinds_ == expected
    assert [task.name for task in estimator.tasks_] == list(expected)
    predicted = estimator.predict(X)
    assert predicted.columns.tolist() == list(expected)
    assert predicted.index.tolist() == X.index.tolist()
    assert predicted["cultivar"].isin(CULTIVARS).all()
    assert predicted["hue"].dtype == np.float64
    probabilities = estimator.predict_proba(X)
    assert {name: p.shape for name, p in probabilities.items()} == {"cultivar": (len(X), 3)}
    assert estimator.classes_["cultivar"].tolist() == sorted(CULTIVARS)
    scores = estimator.task_scores(X, y)
    assert estimator.score(X, y) == pytest.approx(np.mean(list(scores.values())))
    hidden = estimator.task_scores(X[1::3], whole[1::3])
    assert hidden["cultivar"] > 0.85
    assert hidden["proline"] > 0.4


def test_mixed_kinds_in_an_array(wine):
    X, y = wine[0].to_numpy(), wine[1]
    estimator = MultiTaskEstimator(**QUICK)
    estimator.fit(X, y[["cultivar", "hue"]].to_numpy())
    assert list(estimator.kinds_.values()) == ["classification", "regression"]
    predicted = estimator.predict(X[:2])
    assert predicted.dtype == object
    assert isinstance(predicted[0, 1], float)
    numbers = np.stack([y["cultivar"] == "barolo", y["hue"]], axis=1).astype(float)
    assert estimator.fit(X, numbers).predict(X[:2]).dtype == np.float64
    assert estimator.kinds_ == {"y0": "classification", "y1": "regression"}


def test_columns_that_are_numbers_and_a_series_have_their_names():
    X = np.random.default_rng(0).normal(size=(20, 2))
    y = pd.DataFrame(np.c_[np.arange(20) % 2, np.arange(20) % 3])
    estimator = MultiTaskEstimator({1: "regression"}, class_weight={0: {0: 1, 1: 3}}, **QUICK)
    assert estimator.fit(X, y).kinds_ == {"0": "classification", "1": "regression"}
    assert estimator.tasks_[0].class_weights == (1, 3)
    for name in ("rooms", "y0"):
        one = MultiTaskEstimator({name: "regression"}, **QUICK).fit(X, y[1].rename("rooms"))
        assert one.kinds_ == {"y0": "regression"}


def test_pandas_own_types():
    X = pd.DataFrame({"a": range(20), "b": pd.array([1.5] * 20, dtype="Float64")})
    y = pd.DataFrame(
        {
            "flag": pd.array([True, False, None, True] * 5, dtype="boolean"),
            "count": pd.array([1, 2, None, 3] * 5, dtype="Int64"),
            "kind": pd.Categorical(["x", "y", None, "x"] * 5),
        }
    )
    estimator = MultiTaskEstimator({"count": "regression"}, **QUICK).fit(X, y)
    assert {n: c.tolist() for n, c in estimator.classes_.items()} == {
        "flag": [False, True],
        "kind": ["x", "y"],
    }
    assert estimator.predict(X)["flag"].dtype == bool
    assert estimator.task_scores(X, y).keys() == {"flag", "count", "kind"}


def test_masked_labels_are_missing():
    X = np.random.default_rng(0).normal(size=(20, 2))
    numbers = np.c_[np.arange(20) % 3, X[:, 0]]
    masked = np.ma.masked_equal(numbers, 2)
    plain = MultiTaskEstimator(**QUICK).fit(X, masked.filled(np.nan))
    estimator = MultiTaskEstimator(**QUICK).fit(X, masked)
    assert estimator.classes_["y0"].tolist() == [0, 1]
    assert np.array_equal(estimator.predict(X), plain.predict(X))
    assert estimator.task_scores(X, masked) == plain.task_scores(X, masked.filled(np.nan))
    one = masked[:, 0].astype(int)
    assert MultiTaskEstimator(**QUICK).fit(X, one).classes_["y0"].tolist() == [0, 1]
    with pytest.raises(InvalidInputError, match="'y0' contains NaN"):
        QuantumMultiTaskClassifier(**QUICK).fit(X, one)
    whole = np.ma.masked_array(numbers[:, 0].astype(int))  # nothing is masked
    assert QuantumMultiTaskClassifier(**QUICK).fit(X, whole).classes_.tolist() == [0, 1, 2]


def test_decimals_of_a_data_base_are_numbers():
    X, y = load_linnerud(return_X_y=True)
    exact = [[Decimal(str(value)) / 8 for value in row] for row in y[:, :2]]
    for form in (pd.DataFrame, np.array):
        plain = QuantumMultiTaskRegressor(**QUICK).fit(X, form(y[:, :2] / 8))
        regressor = QuantumMultiTaskRegressor(**QUICK).fit(X, form(exact))
        assert np.array_equal(regressor.predict(X), plain.predict(X))
        assert regressor.score(X, form(exact)) == plain.score(X, form(y[:, :2] / 8))
    mixed = pd.DataFrame(exact, columns=["size", "few"])
    mixed["few"] = [Decimal(i % 2) for i in range(19)] + [None]
    estimator = MultiTaskEstimator(**QUICK).fit(X, mixed)
    assert estimator.kinds_ == {"size": "regression", "few": "classification"}
    assert estimator.classes_["few"].tolist() == [0, 1]


def test_clones_and_pickles_predict_the_same(wine):
    X, y = wine
    kinds = {"proline": "regression"}
    estimator = MultiTaskEstimator(kinds, **QUICK).fit(X, y)
    again = pickle.loads(pickle.dumps(estimator))
    assert again.predict(X).equals(estimator.predict(X))
    assert again.loss_curve_ == estimator.loss_curve_
    twin = clone(estimator).fit(X, y)
    assert twin.predict(X).equals(estimator.predict(X))
    other = clone(estimator).set_params(random_state=1).fit(X, y)
    assert not np.array_equal(other.predict_proba(X)["cultivar"], estimator.predict_proba(X))


def test_few_rows_are_not_learnt_by_heart():
    """Neither where there is something to learn, nor where there is nothing."""
    rows = np.random.default_rng(0).normal(size=(50, 5))
    noise = np.random.default_rng(1).normal(size=50)
    for truth, least in ((rows[:, 0] - rows[:, 1] + 0.5 * noise, 0.6), (noise, -0.35)):
        folds = KFold(5, shuffle=True, random_state=0)
        predicted = cross_val_predict(
            QuantumMultiTaskRegressor(random_state=0), rows, truth, cv=folds
        )
        assert r2_score(truth, predicted) > least


def test_defaults_are_those_of_the_head_and_of_training():
    defaults = QuantumMultiTaskClassifier().get_params()
    head, training = HeadOptions(), TrainingSettings()
    for name in ("angle_map", "initial", "simulator"):
        assert defaults[name] == getattr(head, name), name
    for name in set(defaults) & set(TrainingSettings.model_fields) - {"accelerator"}:
        assert defaults[name] == getattr(training, name), name
    assert list(defaults["hidden"]) == MLPSection().hidden
    signature = inspect.signature(QuantumHead).parameters
    assert signature["angle_map"].default == HeadSection().angle_map == head.angle_map
    assert signature["initial"].default == HeadSection().initial == head.initial


def test_class_weights(wine):
    X = wine[0].to_numpy()
    y = np.where(X[:, 0] > 13.5, "rare", "common")
    recall = {}
    for weight in (None, "balanced", {"rare": 50.0, "common": 1.0}):
        classifier = QuantumMultiTaskClassifier(**QUICK | {"max_epochs": 3}, class_weight=weight)
        predicted = classifier.fit(X[:, 1:], y).predict(X[:, 1:])
        recall[str(weight)[:4]] = np.mean(predicted[y == "rare"] == "rare")
    assert recall["None"] <= recall["bala"] <= recall["{'ra"] == 1
    table = pd.DataFrame({"size": y, "hue": wine[1]["hue"].to_numpy()})
    mixed = MultiTaskEstimator(**QUICK, class_weight={"size": "balanced"}).fit(X, table)
    common, rare = mixed.tasks_[0].class_weights
    assert rare / common == pytest.approx(np.sum(y == "common") / np.sum(y == "rare"))


def test_no_label_counts_as_right_that_is_none_of_the_classes():
    X = np.arange(40.0)[:, None].repeat(2, axis=1)
    late = (np.arange(40) >= 20).astype(int)
    for make in (MultiTaskEstimator, QuantumMultiTaskClassifier):
        pets = make(**QUICK).fit(X, np.array(["cat", "dog"])[late])
        assert pets.score(X, np.array(["cattle", "doge"])[late]) == 0
        assert pets.score(X, np.array(["cat", "dog"], dtype=object)[late]) > 0.8
        with pytest.raises(InvalidInputError, match="such as 'cat', got 0"):
            pets.score(X, late)
        codes = make(**QUICK).fit(X, late)
        assert codes.score(X, late.astype(float)) == codes.score(X, late.astype(bool)) > 0.8


@pytest.mark.parametrize(
    "classes", [("True", "true"), (" a", "a"), ("", "a"), ("e\u0301", "\u00e9"), ("1", "1.0")]
)
def test_different_texts_are_different_classes(classes):
    X = np.arange(40.0)[:, None]
    labels = np.array(classes)[(X[:, 0] > 20).astype(int)]
    for estimator in (QuantumMultiTaskClassifier, MultiTaskEstimator):
        fitted = estimator(**QUICK | {"max_epochs": 1}).fit(X, labels)
        assert fitted.predict_proba(X).shape == (40, 2)
        assert set(fitted.predict(X)) <= set(classes)
        assert fitted.score(X, labels) == np.mean(fitted.predict(X) == labels)


def test_random_states(wine):
    X, y = wine[0].to_numpy(), wine[1]["cultivar"]
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    classifier = QuantumMultiTaskClassifier(**QUICK | {"max_epochs": 1})
    first = classifier.fit(X, y).predict_proba(X)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    classifier.set_params(random_state=np.random.RandomState(0))
    assert np.array_equal(classifier.fit(X, y).predict_proba(X), first)
    assert not np.array_equal(classifier.fit(X, y).predict_proba(X), first)


def test_rows_held_out(wine):
    X, y = wine[0], wine[1]["cultivar"]
    patient = {"validation_fraction": 0.2, "patience": 2, "max_epochs": 60}
    classifier = QuantumMultiTaskClassifier(**QUICK | patient).fit(X, y)
    assert len(classifier.loss_curve_) < 60
    assert classifier.score(X, y) > 0.8


def test_other_heads_simulators_and_circuits(wine):
    X, y = wine[0].to_numpy(), wine[1]["cultivar"].to_numpy()
    options = QUICK | {"max_epochs": 1, "batch_size": 178}
    exact = QuantumMultiTaskClassifier(**options).fit(X, y)
    reference = clone(exact).set_params(simulator="default.qubit").fit(X, y)
    np.testing.assert_allclose(reference.predict_proba(X), exact.predict_proba(X), atol=1e-6)
    low_rank = clone(exact).set_params(head="low-rank", hidden=8, aggregator="mgda").fit(X, y)
    assert type(low_rank.model_.head).__name__ == "LowRankLinearHead"
    shared = clone(exact).set_params(circuit="shared-register", wires_per_task=3).fit(X, y)
    assert shared.model_.head.circuit.n_wires == 3


def test_the_scale_of_inputs_does_not_matter(wine):
    X, y = wine[0].to_numpy(), wine[1]["hue"]
    regressor = QuantumMultiTaskRegressor(**QUICK)
    first = regressor.fit(X, y).predict(X)
    np.testing.assert_allclose(regressor.fit(X * 1e6 - 5, y).predict(X * 1e6 - 5), first, rtol=1e-3)
    unscaled = regressor.set_params(scale_inputs=False).fit(X, y)
    assert (unscaled.input_mean_ == 0).all()


def test_a_column_that_was_constant_in_training_is_ignored(wine):
    X, y = wine[0].to_numpy(), wine[1]["hue"]
    regressor = QuantumMultiTaskRegressor(**QUICK).fit(np.c_[X, np.zeros(len(X))], y)
    plain = regressor.predict(np.c_[X, np.zeros(len(X))])
    assert np.array_equal(regressor.predict(np.c_[X, np.full(len(X), 1e6)]), plain)


def test_nothing_is_written_or_printed(wine, tmp_path, monkeypatch, capfd, recwarn):
    monkeypatch.chdir(tmp_path)
    X, y = wine
    predictions = cross_val_predict(MultiTaskEstimator(**QUICK), X, y["hue"], cv=2)
    assert predictions.shape == (len(X),)
    assert not list(tmp_path.iterdir())
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert not [str(w.message) for w in recwarn]


@pytest.mark.parametrize(
    "estimator", [QuantumMultiTaskClassifier, QuantumMultiTaskRegressor, MultiTaskEstimator]
)
def test_every_parameter_is_described(estimator):
    for name in estimator().get_params():
        assert f"\n    {name}: " in estimator.__doc__, name
    assert "{parameters}" not in estimator.__doc__


def test_a_small_spread_around_a_large_mean_is_no_constant():
    """The rule is scikit-learn's StandardScaler's: what rounding cannot explain, varies."""
    spread = np.random.default_rng(0).normal(size=(90, 1))
    X, y = 1.7e15 + 1e3 * spread, spread[:, 0]
    scores = [QuantumMultiTaskRegressor(**QUICK).fit(x, y).score(x, y) for x in (X, spread)]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)
    assert scores[0] > 0.5
    frame = pd.DataFrame({"x": X[:, 0], "y": y})
    inputs = qmtl.data.from_frame(frame, targets=["y"]).train.inputs
    assert inputs.std() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tensors_of_every_float_type(dtype):
    X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = (X[:, 0] > 0).to(dtype)
    model = QuantumMultiTaskClassifier(**QUICK).fit(X, y)
    assert model.classes_.tolist() == [0, 1]
    assert model.predict(X).shape == y.shape
    assert np.array_equal(model.predict(X), model.predict(X.double().numpy()))
