"""Task: labels, losses against torch, metrics against scikit-learn, messages of errors."""

import json
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as skm
from torch.nn import functional as nnf

from qmtl.errors import InvalidInputError
from qmtl.tasks import MISSING, Task, check_tasks

NAN = math.nan

BINARY = Task.binary("b")
MULTICLASS = Task.multiclass("m", 4)
MULTILABEL = Task.multilabel("l", 3)
REGRESSION = Task.regression("r")
SEVERAL = Task.regression("s", 2)
ALL = [BINARY, MULTICLASS, MULTILABEL, REGRESSION, SEVERAL]


def random_labels(task: Task, n: int, *, seed: int = 0, missing: float = 0.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    if task.kind == "multiclass":
        labels = rng.integers(0, task.n_outputs, n).astype(float)
    elif task.kind == "regression":
        labels = rng.normal(size=n if task.n_outputs == 1 else (n, task.n_outputs))
    else:
        labels = rng.integers(0, 2, n if task.kind == "binary" else (n, task.n_outputs))
        labels = labels.astype(float)
    labels[rng.random(labels.shape) < missing] = NAN
    return task.to_targets(labels)


def random_logits(task: Task, n: int, *, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, task.n_outputs, generator=generator, requires_grad=True)


class TestConstruction:
    def test_defaults(self):
        assert BINARY.metric_names is None
        assert [task.main_metric for task in ALL] == ["accuracy"] * 3 + ["r2"] * 2
        assert [task.is_classification for task in ALL] == [True] * 3 + [False] * 2

    def test_lists_become_tuples_and_hash(self):
        task = Task.binary("a", class_names=["n", "y"], class_weights=[1, 2], metrics=["f1"])
        assert task.class_names == ("n", "y")
        assert task.class_weights == (1.0, 2.0)
        assert isinstance(hash(task), int)

    @pytest.mark.parametrize("name", ["", " ", "a.b", "encoding", 3, None])
    def test_bad_name(self, name):
        with pytest.raises(InvalidInputError, match="name of a task: expected a non-empty text"):
            Task.binary(name)

    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (lambda: Task("a", "binry", 1), "unknown kind of task 'a': 'binry'; did you mean 'bin"),
            (lambda: Task("a", "binary", 2), "n_outputs of binary task 'a': expected 1, got 2"),
            (lambda: Task.multiclass("a", 1), "expected a whole number of at least 2, got 1"),
            (lambda: Task.multilabel("a", 0), "expected a whole number of at least 1, got 0"),
            (lambda: Task.regression("a", 1.5), "expected a whole number of at least 1, got 1.5"),
            (lambda: Task.multiclass("a", True), "got True"),
            (lambda: Task.binary("a", class_names=("x",)), "expected 2 different non-empty texts"),
            (lambda: Task.binary("a", class_names=("x", "x")), "expected 2 different"),
            (lambda: Task.binary("a", class_names="xy"), "expected a sequence, got 'xy'"),
            (lambda: Task.multiclass("a", 3, class_names=("x", "y")), "expected 3 different"),
            (lambda: Task.multiclass("a", 2, class_weights=(1, 0)), "expected 2 positive numbers"),
            (lambda: Task.multilabel("a", 2, class_weights=(1,)), "expected 2 positive numbers"),
            (lambda: Task.binary("a", class_weights=("x", 1)), "expected 2 positive numbers"),
            (lambda: Task("a", "regression", 1, None, (1.0,)), "expected None, got"),
            (lambda: Task.binary("a", metrics=("acuracy",)), "did you mean 'accuracy'"),
            (lambda: Task.binary("a", metrics=("r2",)), "'r2' does not fit a binary task; choose"),
            (lambda: Task.binary("a", metrics=()), "expected one or more different names"),
            (lambda: Task.binary("a", metrics=("f1", "f1")), "expected one or more different"),
        ],
    )
    def test_errors_on_one_line(self, build, message):
        with pytest.raises(InvalidInputError) as caught:
            build()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_round_trip_through_json(self):
        task = Task.multiclass(
            "a", 2, class_names=("x", "y"), class_weights=(1, 2.5), metrics=["f1"]
        )
        for one in [*ALL, task]:
            assert Task.from_dict(json.loads(json.dumps(one.to_dict()))) == one
            assert pickle.loads(pickle.dumps(one)) == one

    def test_from_dict_refuses(self):
        with pytest.raises(InvalidInputError, match="unknown task key 'nme'; did you mean 'name'"):
            Task.from_dict({"nme": "a"})
        with pytest.raises(InvalidInputError, match="the key 'kind' is missing"):
            Task.from_dict({"name": "a"})
        with pytest.raises(InvalidInputError, match="expected a dict"):
            Task.from_dict([1])

    def test_check_tasks(self):
        assert check_tasks(iter(ALL)) == tuple(ALL)
        with pytest.raises(InvalidInputError, match="'b' is used twice, at positions 0 and 2"):
            check_tasks([BINARY, REGRESSION, BINARY])
        with pytest.raises(InvalidInputError, match="at least one"):
            check_tasks([])
        with pytest.raises(InvalidInputError, match="at position 1, got 'b'"):
            check_tasks([BINARY, "b"])
        with pytest.raises(InvalidInputError, match="expected a sequence of Task"):
            check_tasks(BINARY)


class TestTargets:
    @pytest.mark.parametrize(
        "values",
        [
            [1, 0, None], [1.0, 0.0, NAN], [True, False, None], [[1], [0], [-100]],
            np.array([1, 0, -100], dtype=np.int8), torch.tensor([1, 0, -100]),
            torch.tensor([1.0, 0.0, NAN], dtype=torch.bfloat16),
        ],
    )  # fmt: skip
    def test_binary(self, values):
        targets = BINARY.to_targets(values)
        assert targets.dtype == torch.float32
        assert targets[:2].tolist() == [1.0, 0.0]
        assert targets[2].isnan()

    def test_multiclass(self):
        targets = MULTICLASS.to_targets([3, None, 0.0, NAN, -100])
        assert targets.dtype == torch.int64
        assert targets.tolist() == [3, MISSING, 0, MISSING, MISSING]

    def test_multilabel(self):
        targets = MULTILABEL.to_targets([[1, 0, None], [-100, NAN, True]])
        assert targets.nan_to_num(nan=9).tolist() == [[1, 0, 9], [9, 9, 1]]
        assert Task.multilabel("a", 1).to_targets([1, 0]).shape == (2, 1)
        assert MULTILABEL.labelled(targets).tolist() == [True, True]

    def test_regression(self):
        assert REGRESSION.to_targets([-100, 2.5, None])[:2].tolist() == [-100.0, 2.5]
        assert SEVERAL.to_targets(np.ones((4, 2))).shape == (4, 2)
        assert SEVERAL.labelled(SEVERAL.to_targets([[NAN, 1], [NAN, NAN]])).tolist() == [
            True,
            False,
        ]

    def test_texts(self):
        task = Task.multiclass("a", 3, class_names=("x", "y", "z"))
        assert task.to_targets(["z", None, "x", NAN]).tolist() == [2, MISSING, 0, MISSING]
        assert task.to_targets(np.array(["y", "x"])).tolist() == [1, 0]

    def test_pandas(self):
        pd = pytest.importorskip("pandas")
        series = pd.Series([1, None, 0], dtype="Int64")
        assert BINARY.to_targets(series).nan_to_num(nan=9).tolist() == [1, 9, 0]

    def test_canonical_is_a_fixed_point(self):
        for task in ALL:
            labels = random_labels(task, 30, missing=0.3)
            assert torch.equal(task.to_targets(labels).nan_to_num(7), labels.nan_to_num(7))

    @pytest.mark.parametrize(
        ("task", "values", "message"),
        [
            (BINARY, [0, 1, 2], "task 'b': row 2 has 2; allowed are whole numbers 0..1"),
            (BINARY, [0, 0.5], "row 1 has 0.5"),
            (BINARY, [-1], "row 0 has -1"),
            (BINARY, [math.inf], "row 0 has inf"),
            (BINARY, ["yes"], "row 0 has the text 'yes'; allowed are numbers (no class_names)"),
            (MULTICLASS, [0, 4, 5], "row 1 has 4; allowed are whole numbers 0..3"),
            (MULTICLASS, np.zeros((3, 4)), "expected shape (N,), got (3, 4)"),
            (MULTILABEL, [[0, 1, 0], [0, 3, 9]], "row 1 has 3"),
            (MULTILABEL, [0, 1], "expected shape (N, 3), got (2,)"),
            (REGRESSION, [1.0, math.inf], "row 1 has inf; allowed are finite numbers"),
            (REGRESSION, [1e300], "row 0 has 1e+300"),
            (REGRESSION, ["3"], "row 0 has the text '3'; allowed are numbers"),
            (REGRESSION, 3.0, "expected shape (N,), got ()"),
            (REGRESSION, [[1], [2, 3]], "different lengths"),
            (REGRESSION, [object()], "expected a number"),
            (REGRESSION, torch.ones(2, dtype=torch.complex64), "expected numbers or texts"),
            (Task.binary("b", class_names=("no", "yes")), ["maybe"], "allowed are 'no', 'yes'"),
        ],
    )
    def test_errors(self, task, values, message):
        with pytest.raises(InvalidInputError) as caught:
            task.to_targets(values)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_first_row(self):
        with pytest.raises(InvalidInputError, match="row 3 has 7"):
            BINARY.to_targets([0, 7], first_row=2)


class TestLoss:
    def test_against_torch(self):
        for task, reference in [
            (BINARY, lambda x, y: nnf.binary_cross_entropy_with_logits(x[:, 0], y)),
            (MULTICLASS, nnf.cross_entropy),
            (MULTILABEL, nnf.binary_cross_entropy_with_logits),
            (REGRESSION, lambda x, y: nnf.mse_loss(x[:, 0], y)),
            (SEVERAL, nnf.mse_loss),
        ]:
            logits, targets = random_logits(task, 20), random_labels(task, 20)
            torch.testing.assert_close(task.loss(logits, targets), reference(logits, targets))

    def test_weighted(self):
        weights = (0.5, 1.0, 3.0, 2.0)
        task = Task.multiclass("m", 4, class_weights=weights)
        logits, targets = random_logits(task, 30), random_labels(task, 30, missing=0.3)
        torch.testing.assert_close(
            task.loss(logits, targets),
            nnf.cross_entropy(logits, targets, weight=torch.tensor(weights)),
        )
        task = Task.multilabel("l", 3, class_weights=weights[:3])
        logits, targets = random_logits(task, 30), random_labels(task, 30)
        torch.testing.assert_close(
            task.loss(logits, targets),
            nnf.binary_cross_entropy_with_logits(
                logits, targets, pos_weight=torch.tensor(weights[:3])
            ),
        )
        task = Task.binary("b", class_weights=(2.0, 3.0))
        logits, targets = random_logits(task, 30), random_labels(task, 30)
        weight = torch.where(targets == 1, 3.0, 2.0)
        torch.testing.assert_close(
            task.loss(logits, targets),
            nnf.binary_cross_entropy_with_logits(logits[:, 0], targets, weight=weight),
        )

    @pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
    def test_missing_entries_change_nothing(self, task):
        logits, targets = random_logits(task, 40), random_labels(task, 40, missing=0.5)
        with torch.no_grad():
            unlabelled = ~task.labelled(targets)
            logits[unlabelled] = NAN  # not even a broken logit may leak from a missing label
        total, count = task.loss_terms(logits, targets)
        total.backward()
        assert logits.grad.isfinite().all()
        assert (logits.grad[unlabelled] == 0).all()
        kept = ~unlabelled
        total_kept, count_kept = task.loss_terms(logits[kept], targets[kept])
        torch.testing.assert_close((total, count), (total_kept, count_kept))
        present = targets != MISSING if task.kind == "multiclass" else ~targets.isnan()
        assert count == present.sum()

    @pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
    def test_no_label(self, task):
        logits, targets = random_logits(task, 5), random_labels(task, 5, missing=1.0)
        total, count = task.loss_terms(logits, targets)
        total.backward()
        assert (total, count) == (0, 0)
        assert (logits.grad == 0).all()
        with pytest.raises(InvalidInputError, match="needs at least one label"):
            task.loss(logits, targets)
        empty = task.loss_terms(logits[:0], targets[:0])
        assert empty == (0, 0)

    def test_float64_follows_the_logits(self):
        total, count = BINARY.loss_terms(torch.zeros(2, 1).double(), torch.tensor([1.0, NAN]))
        assert total.dtype == count.dtype == torch.float64

    def test_shapes(self):
        with pytest.raises(InvalidInputError, match=r"\(3, 2\), expected \(batch, 1\)"):
            BINARY.loss(torch.zeros(3, 2), torch.zeros(3))
        with pytest.raises(InvalidInputError, match=r"logits \(3, 1\) .* shape \(3,\), got \(2,\)"):
            BINARY.loss(torch.zeros(3, 1), torch.zeros(2))
        with pytest.raises(InvalidInputError, match=r"got \(3,\) torch.float32"):
            MULTICLASS.loss(torch.zeros(3, 4), torch.zeros(3))


class TestPredictions:
    def test_shapes(self):
        for task, predicted, decided in [
            (BINARY, (5,), (5,)),
            (MULTICLASS, (5, 4), (5,)),
            (MULTILABEL, (5, 3), (5, 3)),
            (REGRESSION, (5,), (5,)),
            (SEVERAL, (5, 2), (5, 2)),
        ]:
            predictions = task.activation(random_logits(task, 5))
            assert predictions.shape == predicted
            assert task.decision(predictions).shape == decided
        assert MULTICLASS.activation(torch.zeros(1, 4)).sum() == 1
        assert BINARY.decision(torch.tensor([0.5, 0.49])).tolist() == [1, 0]
        with pytest.raises(InvalidInputError, match="logits have shape"):
            BINARY.activation(torch.zeros(5))

    def test_baseline(self):
        assert BINARY.baseline([1, 0, 0, 0, None]) == 0.25
        assert MULTICLASS.baseline([3, 3, 0, 1, -100]).tolist() == [0.25, 0.25, 0, 0.5]
        rates = MULTILABEL.baseline([[1, 0, None], [0, 0, None]])
        assert rates.tolist() == [0.5, 0.0, 0.5]
        assert REGRESSION.baseline([1.0, 3.0, NAN]) == 2
        assert SEVERAL.baseline([[1.0, NAN], [3.0, 5.0]]).tolist() == [2, 5]
        with pytest.raises(InvalidInputError, match="target 1 has none"):
            SEVERAL.baseline([[1.0, NAN]])
        with pytest.raises(InvalidInputError, match="at least one training label"):
            BINARY.baseline([None])

    @pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
    def test_baseline_goes_through_evaluate(self, task):
        labels = random_labels(task, 40, missing=0.1)
        row = task.baseline(labels)
        scores = task.evaluate(row.expand(40, *row.shape), labels)
        if task.kind == "regression":
            assert scores["r2"] == pytest.approx(0, abs=1e-6)
        if task.kind == "binary":
            assert scores["accuracy"] == pytest.approx(max(float(row), 1 - float(row)))
            assert scores["auroc"] == 0.5


class TestMetrics:
    def test_binary_against_sklearn(self):
        names = (
            "accuracy", "balanced_accuracy", "f1", "macro_f1", "weighted_f1", "auroc",
            "average_precision", "matthews", "ece",
        )  # fmt: skip
        task = Task.binary("b", metrics=names)
        rng = np.random.default_rng(0)
        y = rng.integers(0, 2, 200)
        p = np.round(np.clip(0.3 * y + rng.random(200) * 0.7, 0, 1), 2)  # with ties, and at 0.5
        p[:5] = 0.5
        hard = (p >= 0.5).astype(int)
        scores = task.evaluate(p, y)
        assert list(scores) == list(names)
        expected = {
            "accuracy": skm.accuracy_score(y, hard),
            "balanced_accuracy": skm.balanced_accuracy_score(y, hard),
            "f1": skm.f1_score(y, hard),
            "macro_f1": skm.f1_score(y, hard, average="macro"),
            "weighted_f1": skm.f1_score(y, hard, average="weighted"),
            "auroc": skm.roc_auc_score(y, p),
            "average_precision": skm.average_precision_score(y, p),
            "matthews": skm.matthews_corrcoef(y, hard),
        }
        for name, value in expected.items():
            assert scores[name] == pytest.approx(value, abs=1e-6), name
        assert 0 < scores["ece"] < 1
        missing = np.concatenate([y.astype(float), [NAN] * 20])
        again = task.evaluate(np.concatenate([p, rng.random(20)]), missing)
        assert again == pytest.approx(scores)
        collection = task.metrics()(torch.from_numpy(p), torch.from_numpy(y))
        assert {k: float(v) for k, v in collection.items()} == pytest.approx(scores, abs=1e-5)
        assert pickle.loads(pickle.dumps(task.metrics())).keys() == collection.keys()

    def test_multiclass_against_sklearn(self):
        names = (
            "accuracy", "balanced_accuracy", "f1", "weighted_f1", "auroc", "average_precision",
            "matthews", "ece",
        )  # fmt: skip
        task = Task.multiclass("m", 4, metrics=names)
        y = random_labels(task, 200).numpy()
        p = task.activation(random_logits(task, 200) + 2 * torch.eye(4)[y]).detach().numpy()
        hard = p.argmax(axis=1)
        scores = task.evaluate(p, y)
        one_hot = np.eye(4)[y]
        expected = {
            "accuracy": skm.accuracy_score(y, hard),
            "balanced_accuracy": skm.balanced_accuracy_score(y, hard),
            "f1": skm.f1_score(y, hard, average="macro"),
            "weighted_f1": skm.f1_score(y, hard, average="weighted"),
            "auroc": skm.roc_auc_score(y, p, multi_class="ovr"),
            "average_precision": skm.average_precision_score(one_hot, p),
            "matthews": skm.matthews_corrcoef(y, hard),
        }
        for name, value in expected.items():
            assert scores[name] == pytest.approx(value, abs=1e-5), name
        collection = task.metrics()(torch.from_numpy(p), torch.from_numpy(y))
        assert {k: float(v) for k, v in collection.items()} == pytest.approx(scores, abs=1e-5)

    def test_multiclass_with_absent_classes(self):
        task = Task.multiclass("m", 4, metrics=("balanced_accuracy", "auroc", "average_precision"))
        y = np.array([0, 1] * 20)
        p = task.activation(random_logits(task, 40)).detach().numpy()
        scores = task.evaluate(p, y)
        recalls = [(p[y == c].argmax(axis=1) == c).mean() for c in (0, 1)]
        areas = [skm.roc_auc_score(y == c, p[:, c]) for c in (0, 1)]
        assert scores["balanced_accuracy"] == pytest.approx(np.mean(recalls))
        assert scores["auroc"] == pytest.approx(np.mean(areas), abs=1e-6)

    def test_multilabel_with_missing_entries(self):
        names = ("accuracy", "f1", "macro_f1", "weighted_f1", "auroc", "average_precision")
        task = Task.multilabel("l", 3, metrics=names)
        y = random_labels(task, 60, missing=0.3).numpy()
        y[:, 2] = np.where(np.isnan(y[:, 2]), NAN, 1.0)  # one class only: no auroc
        p = task.activation(random_logits(task, 60)).detach().numpy()
        scores = task.evaluate(p, y)
        rows = [~np.isnan(y[:, label]) for label in range(3)]
        present = ~np.isnan(y)
        f1 = [skm.f1_score(y[r, i], p[r, i] >= 0.5) for i, r in enumerate(rows)]
        positives = [np.nansum(y[:, i]) for i in range(3)]
        areas = [skm.roc_auc_score(y[rows[i], i], p[rows[i], i]) for i in (0, 1)]
        assert scores["accuracy"] == pytest.approx((y == (p >= 0.5))[present].mean())
        assert scores["f1"] == scores["macro_f1"] == pytest.approx(np.mean(f1))
        assert scores["weighted_f1"] == pytest.approx(np.average(f1, weights=positives))
        assert scores["auroc"] == pytest.approx(np.mean(areas), abs=1e-6)
        y = random_labels(task, 60)
        collection = task.metrics()(torch.from_numpy(p), y.long())
        assert {k: float(v) for k, v in collection.items()} == pytest.approx(
            task.evaluate(p, y), abs=1e-5
        )

    def test_single_label(self):
        task = Task.multilabel("l", 1, metrics=("accuracy", "f1", "weighted_f1", "auroc"))
        p, y = torch.tensor([[0.9], [0.6], [0.1]]), torch.tensor([[1], [0], [0]])
        collection = {k: float(v) for k, v in task.metrics()(p, y).items()}
        assert collection == pytest.approx(task.evaluate(p, y))

    @pytest.mark.parametrize("offset", [0.0, 1e6])
    def test_regression_against_references(self, offset):
        task = Task.regression("r", metrics=("r2", "mse", "mae", "pearson", "spearman"))
        rng = np.random.default_rng(0)
        y = rng.normal(size=50)
        p = y + 0.5 * rng.normal(size=50)
        scores = task.evaluate(p + offset, y + offset)
        ranks = [np.argsort(np.argsort(values)) for values in (p, y)]
        expected = {
            "r2": skm.r2_score(y, p),
            "mse": skm.mean_squared_error(y, p),
            "mae": skm.mean_absolute_error(y, p),
            "pearson": np.corrcoef(p, y)[0, 1],
            "spearman": np.corrcoef(*ranks)[0, 1],
        }
        assert scores == pytest.approx(expected, abs=1e-6)
        several = Task.regression("s", 2).evaluate(
            np.stack([p, p], axis=1), np.stack([y, np.full(50, NAN)], axis=1)
        )
        assert several["r2"] == pytest.approx(expected["r2"])
        if not offset:
            collection = task.metrics()(torch.from_numpy(p), torch.from_numpy(y))
            assert {k: float(v) for k, v in collection.items()} == pytest.approx(scores, abs=1e-5)

    def test_undefined_is_nan_and_silent(self):
        binary = Task.binary("b", metrics=("accuracy", "auroc", "matthews", "average_precision"))
        correlated = Task.regression("r", metrics=("r2", "mse", "pearson", "spearman"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scores = binary.evaluate([0.2, 0.7], [0, 0])
            assert scores["accuracy"] == 0.5
            assert all(math.isnan(scores[k]) for k in ("auroc", "matthews", "average_precision"))
            scores = correlated.evaluate([1.0], [2.0])
            assert scores["mse"] == 1.0
            assert all(math.isnan(scores[k]) for k in ("r2", "pearson", "spearman"))
            scores = correlated.evaluate([1.0, 1.0], [2.0, 3.0])
            assert math.isnan(scores["pearson"])
            assert scores["r2"] < 0
            for task in ALL:
                labels = random_labels(task, 4, missing=1.0)
                predictions = task.activation(random_logits(task, 4))
                assert all(math.isnan(v) for v in task.evaluate(predictions, labels).values())
                task.metrics()
            broken = MULTICLASS.evaluate(torch.full((4, 4), NAN), [0, 1, 2, 3])
            assert all(math.isnan(value) for value in broken.values())

    def test_shapes(self):
        with pytest.raises(InvalidInputError, match=r"shape \(3,\), expected \(2,\)"):
            BINARY.evaluate([0.1, 0.2, 0.3], [0, 1])
        with pytest.raises(InvalidInputError, match=r"expected \(2, 4\)"):
            MULTICLASS.evaluate([0.1, 0.2], [0, 1])
