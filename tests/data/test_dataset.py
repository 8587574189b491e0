"""MultiTaskData, from_arrays and digits."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.utils.class_weight import compute_class_weight

from qmtl.data import MultiTaskData, Split, digits, from_arrays
from qmtl.errors import InvalidInputError
from qmtl.tasks import Task

NAN = float("nan")
A, B = Task.binary("a"), Task.regression("b")


def rows(n=4, **targets):
    return Split(torch.zeros(n, 2), {"a": torch.ones(n), **targets})


def disjoint(n=40):
    X = np.random.default_rng(0).normal(size=(n, 3))
    a = [i % 2 if i < n // 2 else None for i in range(n)]
    m = [None if i < n // 2 else i % 3 for i in range(n)]
    return from_arrays(X, {"a": a, "m": m}, tasks=[A, Task.multiclass("m", 3)])


class TestMultiTaskData:
    def test_facts(self):
        data = digits()
        assert data.n_inputs == 64
        assert not data.is_disjoint
        assert list(data.splits) == ["train", "validation", "test"]
        assert "train=1079" in repr(data)
        assert repr(data.train).startswith("Split(inputs=(1079, 64)")
        assert not digits(tasks=["parity"]).is_disjoint

    def test_images_keep_their_shape(self):
        data = from_arrays(np.zeros((20, 1, 4, 4)), {"a": [0, 1] * 10})
        assert data.n_inputs == (1, 4, 4)

    def test_disjoint_and_subset(self):
        data = disjoint()
        assert data.is_disjoint
        part = data.subset(["m"])
        assert [len(split) for split in part.splits.values()] == [14, 3, 3]
        assert all((split.index >= 20).all() for split in part.splits.values())
        assert (part.train.targets["m"] >= 0).all()
        both = data.subset(["m", "a"])
        assert [task.name for task in both.tasks] == ["m", "a"]
        assert len(both.train) == len(data.train)
        with pytest.raises(InvalidInputError, match="unknown task 'mm'; did you mean 'm'"):
            data.subset(["mm"])
        with pytest.raises(InvalidInputError, match="at least one Task"):
            data.subset([])

    def test_class_weights(self):
        y = {"m": [0, 1, 1, 2, 2, 2] * 10, "b": [0.5, 1.5, 2.5] * 20, "a": [0, 1, None] * 20}
        data = from_arrays(np.zeros((60, 2)), y)
        balanced = data.with_class_weights("balanced")
        for name in ("m", "a"):
            labels = data.train.targets[name]
            labels = labels[data.task(name).labelled(labels)].numpy()
            expected = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
            assert balanced.task(name).class_weights == pytest.approx(expected)
        assert balanced.task("b").class_weights is None
        some = data.with_class_weights({"a": (1, 2), "m": "balanced"})
        assert some.task("a").class_weights == (1, 2)
        assert some.task("m") == balanced.task("m")
        weighted = replace(data.train, sample_weight=torch.arange(len(data.train)) % 3.0 + 1)
        found = replace(data, train=weighted).with_class_weights({"m": "balanced"}).task("m")
        times = weighted.sample_weight.long()
        labels = data.train.targets["m"].repeat_interleave(times).numpy()
        expected = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
        assert found.class_weights == pytest.approx(expected)
        for weights, message in (
            ("equal", "expected 'balanced' or a dict from task to weights, got 'equal'"),
            ({"mm": "balanced"}, "task in class_weights: 'mm'; did you mean 'm'"),
            ({"b": "balanced"}, "task 'b' is regression and has no classes"),
            ({"a": "equal"}, "class_weights of task 'a': expected a sequence, got 'equal'"),
        ):
            with pytest.raises(InvalidInputError, match=message):
                data.with_class_weights(weights)

    @pytest.mark.parametrize(
        ("train", "message"),
        [
            (rows(0), "the train split is empty"),
            (rows(4, a=torch.full((4,), NAN)), "task 'a' has no label in the train split"),
            (rows(4, a=torch.ones(3)), "train has 4 rows of inputs but 3 targets of task 'a'"),
            (rows(4, aa=torch.ones(4)), "unknown target in the train split: 'aa'; did you mean"),
            (Split(torch.zeros(4, 2), {}), "the train split has no target for task 'a'"),
            (rows(4, a=torch.ones(4).long()), "must come from Task.to_targets: expected torch.flo"),
            (rows(4, a=torch.full((4,), 2.0)), "row 0 has 2"),
            (Split(torch.zeros(4), {"a": torch.ones(4)}), "must be float32 of shape (N, ...)"),
            (Split(torch.zeros(4, 2).double(), {"a": torch.ones(4)}), "got torch.float64 (4, 2)"),
            (Split(torch.zeros(4, 3), {"a": torch.ones(4)}), "different input shapes"),
            (Split(torch.zeros(4, 2), {"a": torch.ones(4)}, torch.arange(3)), "3 row numbers"),
            (
                Split(torch.tensor([[0.0], [NAN], [torch.inf]]), {"a": torch.ones(3)},
                      torch.tensor([4, 17, 2])),
                "train inputs must be finite, but 2 of 3 rows hold NaN or infinity; the first is "
                "row 17",
            ),
        ],
    )  # fmt: skip
    def test_errors(self, train, message):
        with pytest.raises(InvalidInputError) as caught:
            MultiTaskData("d", (A,), train, rows(), rows())
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_an_empty_test_split_is_named(self):
        with pytest.raises(InvalidInputError, match="the test split is empty"):
            MultiTaskData("d", (A,), rows(), rows(), rows(0))


class TestFromArrays:
    def test_kinds_of_arrays(self):
        X = np.arange(40.0).reshape(20, 2)
        y = [0, 1] * 10
        first = from_arrays(X, {"a": y})
        for same in (X.tolist(), torch.from_numpy(X), pd.DataFrame(X), X.astype(np.int64),
                     X.astype(np.longdouble)):  # fmt: skip
            data = from_arrays(same, {"a": y})
            assert torch.equal(data.train.inputs, first.train.inputs)
            assert data.train.inputs.dtype == torch.float32
        assert first.split_seed == 0
        assert torch.equal(first.test.inputs[:, 0], 2.0 * first.test.index)

    def test_bfloat16_tensors_and_those_with_gradients(self):
        X = torch.arange(40.0).reshape(20, 2)
        y, weights = torch.arange(20) % 2, torch.arange(1, 21) / 32
        first = from_arrays(X, {"a": y}, sample_weight=weights)
        for change in (torch.Tensor.bfloat16, lambda t: t.float().requires_grad_()):
            whole = [change(values.clone()) for values in (X, y, weights)]
            for x, labels, w in (whole, map(list, whole)):
                same = from_arrays(x, {"a": labels}, sample_weight=w)
                assert torch.equal(same.train.inputs, first.train.inputs)
                assert torch.equal(same.train.targets["a"], first.train.targets["a"])
                assert torch.equal(same.train.sample_weight, first.train.sample_weight)

    def test_standardise_with_the_train_split_only(self):
        X = np.random.default_rng(0).normal(3, 5, (100, 3))
        X[:, 2] = 0.1
        data = from_arrays(X, {"a": [0, 1] * 50}, standardise=True)
        train = X[data.train.index]
        assert data.columns.names == ("x0", "x1", "x2")
        np.testing.assert_allclose(
            data.columns.numeric[0][1:], (train[:, 0].mean(), train[:, 0].std())
        )
        assert data.train.inputs[:, 0].std(unbiased=False) == pytest.approx(1, abs=1e-5)
        assert data.test.inputs[:, 2].abs().max() < 1e-6
        raw = pd.DataFrame(X[data.test.index], columns=["x0", "x1", "x2"]).astype(str)
        torch.testing.assert_close(data.columns.encode(raw), data.test.inputs)

    def test_given_splits_groups_and_texts(self):
        X = np.zeros((6, 1))
        splits = {"train": [5, 0], "validation": [1, 2], "test": [3, 4]}
        data = from_arrays(X, {"a": ["n", "y"] * 3}, splits=splits)
        assert data.train.index.tolist() == [5, 0]
        assert data.split_seed is None
        assert data.task("a").class_names == ("n", "y")
        grouped = from_arrays(np.zeros((30, 1)), {"a": [0, 1] * 15}, groups=np.arange(30) // 3)
        sides = [set((s.index // 3).tolist()) for s in grouped.splits.values()]
        assert sum(len(side) for side in sides) == 10

    @pytest.mark.parametrize(
        ("X", "targets", "options", "message"),
        [
            ([1.0, 2.0], {"a": [0, 1]}, {}, "at least 2 dimensions (rows, inputs), got shape (2,)"),
            ([["x"]], {"a": [0]}, {}, "X must be an array of numbers"),
            (pd.DataFrame({"d": pd.date_range("2020", periods=9), "x": 1.0}), {"a": [0] * 9}, {},
             "qmtl.data.from_frame makes inputs of columns with texts and dates"),
            (torch.eye(9).to_sparse(), {"a": [0] * 9}, {}, "dense tensor, got torch.sparse_coo"),
            ([[1], [2, 3]], {"a": [0, 1]}, {}, "X must be an array of numbers"),
            (np.zeros((0, 2)), {"a": []}, {}, "expected rows and inputs, got shape (0, 2)"),
            ([[1.0]] * 9, {}, {}, "targets: expected a dict"),
            ([[1.0]] * 9, [0] * 9, {}, "targets: expected a dict of task name → labels, got list"),
            ([[1.0]] * 9, {"aa": [0] * 9}, {"tasks": [A]}, "'aa'; did you mean 'a'"),
            ([[1.0]] * 9, {"a": [0] * 9}, {"tasks": [A, B]}, "no labels for task 'b'"),
            ([[1.0]] * 9, {"a": [0] * 8}, {"tasks": [A]}, "task 'a' has 8 labels for 9 rows"),
            (np.zeros((9, 2, 2)), {"a": [0, 1, 0] * 3},
             {"standardise": True, "splits": (0.4, 0.3, 0.3)}, "standardise: expected inputs"),
            ([[1.0]] * 9, {"a": [0, 1, 0] * 3},
             {"splits": {"train": [0]}, "groups": [0] * 9}, "groups: expected None"),
            ([[NAN]] * 9, {"a": [0, 1, 0] * 3},
             {"standardise": True, "splits": (0.4, 0.3, 0.3)}, "inputs must be finite"),
        ],
    )  # fmt: skip
    def test_errors(self, X, targets, options, message):
        with pytest.raises(InvalidInputError) as caught:
            from_arrays(X, targets, **options)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


class TestDigits:
    def test_the_rows_are_those_of_scikit_learn(self):
        pixels, labels = load_digits(return_X_y=True)
        for split in digits().splits.values():
            rows = split.index.numpy()
            assert np.array_equal(split.inputs.numpy() * 16, pixels[rows])
            assert np.array_equal(split.targets["digit"].numpy(), labels[rows])

    def test_labels(self):
        data = digits()
        assert [t.name for t in data.tasks] == [
            "digit",
            "parity",
            "five_or_more",
            "has_loop",
            "ink",
        ]
        for split in data.splits.values():
            digit = split.targets["digit"]
            assert torch.equal(split.targets["parity"], (digit % 2).float())
            assert torch.equal(split.targets["five_or_more"], (digit > 4).float())
            loops = torch.tensor([d in (0, 6, 8, 9) for d in digit.tolist()]).float()
            assert torch.equal(split.targets["has_loop"], loops)
            torch.testing.assert_close(split.targets["ink"].float(), split.inputs.mean(dim=1))
            assert (torch.bincount(digit) / len(digit) - 0.1).abs().max() < 0.01

    def test_splits_do_not_depend_on_the_tasks(self):
        one, all_ = digits(seed=3, tasks=["ink", "digit"]), digits(seed=3)
        assert torch.equal(one.test.index, all_.test.index)
        assert not torch.equal(one.test.index, digits(seed=4).test.index)
        assert [task.name for task in one.tasks] == ["ink", "digit"]

    def test_columns_read_raw_pixels(self):
        data = digits()
        pixels = (data.test.inputs[:1] * 16).int().numpy()
        table = pd.DataFrame(pixels, columns=[f"pixel_{i}" for i in range(64)])
        assert torch.equal(data.columns.encode(table), data.test.inputs[:1])

    def test_errors(self):
        with pytest.raises(InvalidInputError, match="unknown digits task 'digt'; did you mean"):
            digits(tasks=["digt"])
        with pytest.raises(InvalidInputError, match="got the string 'digit'"):
            digits(tasks="digit")
        with pytest.raises(InvalidInputError, match="at least one Task"):
            digits(tasks=[])


def test_differences_that_float32_loses_are_told():
    X = np.random.default_rng(0).normal(size=(40, 2))
    X[:, 1] = 1.7e9 + np.arange(40)
    y = {"a": (X[:, 0] > 0).astype(int)}
    with pytest.warns(UserWarning, match="X: column number 1 differs .* give standardise=True"):
        from_arrays(X, y)
    with pytest.warns(UserWarning, match="X: column time differs"):
        from_arrays(pd.DataFrame(X, columns=["size", "time"]), y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(from_arrays(X, y, standardise=True).train.inputs[:, 1].unique()) == 28
        from_arrays(np.where([False, True], 5e9, X), y)


def test_rows_without_a_group_are_one_group():
    X = np.random.default_rng(0).normal(size=(40, 2))
    groups = np.where(np.arange(40) < 4, np.nan, np.arange(40) // 2)
    data = from_arrays(X, {"a": (X[:, 0] > 0).astype(int)}, groups=groups)
    assert sum(bool((split.index < 4).any()) for split in data.splits.values()) == 1


def test_a_masked_weight_is_missing():
    X = np.random.default_rng(0).normal(size=(40, 2))
    weights = np.ma.masked_array(np.ones(40), mask=np.arange(40) == 3)
    with pytest.raises(InvalidInputError, match=r"sample_weight: .* row 3 has nan"):
        from_arrays(X, {"a": (X[:, 0] > 0).astype(int)}, sample_weight=weights)
