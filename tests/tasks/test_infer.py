"""The kind of task that a column of labels stands for."""

import datetime

import numpy as np
import pandas as pd
import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.tasks import Task, infer_task

NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "kind", "n_outputs"),
    [
        ([0, 1, None], "binary", 1),
        ([True, False], "binary", 1),
        ([[0.0], [1.0]], "binary", 1),
        ([2, 0, 1, -100], "multiclass", 3),
        ([2.0, 0.0, 1.0, NAN], "multiclass", 3),
        ([0.5, 1.5, 2.5, NAN], "regression", 1),
        (["b", "a", "c", None], "multiclass", 3),
        (np.array(["b", "a"]), "binary", 1),
        ([[0, 1], [1, NAN]], "multilabel", 2),
        (np.random.default_rng(0).normal(size=(5, 3)), "regression", 3),
        (torch.tensor([0, 1]), "binary", 1),
        (["0", "1.0", "1", "N/A"], "binary", 1),
        (["0.5", "1.5", "2.25"], "regression", 1),
        (np.ma.masked_array([0, 1, 7], mask=[False, False, True]), "binary", 1),
        (pd.Series([0, 1, None], dtype="Int8"), "binary", 1),
        (pd.Series(["a", "b", None], dtype="category"), "binary", 1),
    ],
)
def test_kinds(values, kind, n_outputs):
    task = infer_task("a", values)
    assert (task.kind, task.n_outputs) == (kind, n_outputs)


@pytest.mark.parametrize("values", [[-1, 1], ["-1", "1.0"], np.array([1.0, -1.0, NAN])])
def test_two_whole_numbers_are_binary(values):
    task = infer_task("y", values)
    assert task == Task.binary("y", class_names=("-1", "1"))
    assert task.to_targets(values)[0] == (float(values[0]) > 0)


@pytest.mark.parametrize(
    ("values", "kind", "names"),
    [
        (["1", "2.0", "1.0", "3"], "multiclass", ("1", "2", "3")),
        ([2, 1, 3], "multiclass", ("1", "2", "3")),
        ([0, 1, 2], "multiclass", None),
        (["0", "1"], "binary", None),
        ([5, 7.5], "binary", ("5", "7.5")),
        (["1", "2", "2a"], "multiclass", ("1", "2", "2a")),
    ],
)
def test_given_kinds(values, kind, names):
    task = infer_task("y", values, kind)
    assert (task.kind, task.class_names) == (kind, names)
    n_classes = task.n_outputs if kind == "multiclass" else 2
    assert set(task.to_targets(values).tolist()) == set(range(n_classes))


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([18, 44, 90], None, "cannot tell the kind of task from 3 different values (18, 44, 90); "
         "pass a Task, for example Task.regression('a')"),
        ([0.0, 0.5, 1.0], None, "cannot tell"),
        (range(30), None, "cannot tell the kind of task from 30 different values"),
        ([None, NAN, "null"], None, "all are missing"),
        (["x", "x "], None, "only one class, 'x'"),
        (["x", 3], None, "texts need one column without numbers among them, got 'x' beside 3"),
        (["0", "1", "unknown"], None, "got 'unknown' beside 0"),
        ([[0], [1, 2]], None, "different lengths"),
        (np.zeros((2, 2, 2)), None, "expected shape (N,) or (N, labels)"),
        ([1, 2, 3], "binary", "as binary: expected 2 classes, got 3 (1, 2, 3)"),
        (["a"], "multiclass", "as multiclass: expected at least 2 classes, got 1 (a)"),
        ([0, 1], "binry", "unknown kind of target 'a': 'binry'; did you mean 'binary'"),
        (["2020-01-01", "2020-02-01"], None, "are dates, such as '2020-01-01'"),
        (["1/2/2020", "3/2/2020", None], "multiclass", "which are not classes"),
        ([datetime.date(2020, 1, 1)] * 3, None, "are dates"),
        (pd.date_range("2020", periods=3), None, "a date or a time"),
        ([f"user{i}@example.org" for i in range(30)], None, "look like ids or free text"),
        (pd.Series([[1], {2: 3}, None]), None, "a list or another container in place of a label"),
        (np.array([2**53 + 1, 2**53, 5]), "multiclass", "from 2^53 on cannot be told apart"),
        (["9007199254740993", "9007199254740992"], "binary", "cannot be told apart"),
        ([10**18 + i for i in range(30)], None, "if they are amounts, the kind is 'regression'"),
    ],
)  # fmt: skip
def test_errors(values, kind, message):
    with pytest.raises(InvalidInputError) as caught:
        infer_task("a", values, kind)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [None, "binary"])
def test_truth_words_in_any_case_are_two_classes(kind):
    values = ["True", "FALSE", "true ", "false", "TRUE", "False", None]
    task = infer_task("a", values, kind)
    assert (task.kind, task.class_names) == ("binary", ("FALSE", "TRUE"))
    assert task.to_targets(values)[:6].tolist() == [1, 0, 1, 0, 1, 0]
    # Other words keep their case.
    assert infer_task("a", ["Yes", "yes", "no"]).class_names == ("Yes", "no", "yes")


@pytest.mark.parametrize(
    ("values", "kind", "names"),
    [
        ([5, 7, 5, 9], "multiclass", ("5", "7", "9")),
        ([1.5, 2.5, 1.5], "binary", ("1.5", "2.5")),
        ([0, 1, 1], "binary", None),
        (["low", "high", None, "mid"], "multiclass", ("high", "low", "mid")),
    ],
)
def test_what_pandas_has_as_categorical_is_classes(values, kind, names):
    column = pd.Series(pd.Categorical(values), name="a")
    task = infer_task("a", column)
    assert (task.kind, task.class_names) == (kind, names)
    table = pd.DataFrame({"x": range(10 * len(values)), "a": pd.concat([column] * 10).to_numpy()})
    table["a"] = table["a"].astype("category")
    assert qmtl.data.from_frame(table, targets=["a"]).task("a") == task
