"""Metrics against scikit-learn and references."""

import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as skm

from qmtl.errors import InvalidInputError
from qmtl.tasks import Task
from tests.tasks.task_samples import ALL, BINARY, MULTICLASS, NAN, random_labels, random_logits


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

    def test_matthews_of_a_constant_is_zero(self):
        """As in GLUE's own script; torchmetrics gives 0.06 for 139 of 200 positives."""
        labels = [1] * 139 + [0] * 61
        assert Task.binary("b", metrics=("matthews",)).evaluate([0.7] * 200, labels) == {
            "matthews": 0.0
        }
        constant = [[0.2, 0.5, 0.3]] * 3
        three = Task.multiclass("c", 3, metrics=("matthews",))
        assert three.evaluate(constant, [0, 1, 2]) == {"matthews": 0.0}

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
