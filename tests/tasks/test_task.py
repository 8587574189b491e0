"""Task: construction, messages of errors, JSON."""

import json
import pickle

import numpy as np
import pytest

from qmtl.errors import InvalidInputError
from qmtl.tasks import Task, check_tasks, chosen_tasks
from tests.tasks.task_samples import ALL, BINARY, REGRESSION


class TestConstruction:
    def test_defaults(self):
        assert BINARY.metric_names is None
        assert [task.main_metric for task in ALL] == ["accuracy"] * 3 + ["r2"] * 2
        assert [task.is_classification for task in ALL] == [True] * 3 + [False] * 2

    def test_texts_of_numpy_become_plain(self):
        task = Task.binary(np.str_("a"), class_names=np.array(["no", "yes"]))
        assert task == Task.binary("a", class_names=("no", "yes"))
        assert "np." not in repr(task)

    def test_lists_become_tuples_and_hash(self):
        task = Task.binary("a", class_names=["n", "y"], class_weights=[1, 2], metrics=["f1"])
        assert task.class_names == ("n", "y")
        assert task.class_weights == (1.0, 2.0)
        assert isinstance(hash(task), int)

    @pytest.mark.parametrize("name", ["", " ", "encoding", 3, None])
    def test_bad_name(self, name):
        with pytest.raises(InvalidInputError, match="name of a task: expected a non-empty text"):
            Task.binary(name)

    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (lambda: Task("a", "binry", 1), "unknown kind of task 'a': 'binry'; did you mean 'bin"),
            (lambda: Task("a", "binary", 2), "n_outputs of binary task 'a': expected 1, got 2"),
            (lambda: Task.multiclass("a", 1), "expected a whole number of at least 2, got 1"),
            (lambda: Task.multiclass("a"), "expected a whole number of at least 2, got None"),
            (lambda: Task.multiclass("a", class_names=["x"]), "of at least 2, got 1"),
            (lambda: Task.multilabel("a", class_names="xyz"), "of at least 1, got None"),
            (lambda: Task.multilabel("a", 0), "expected a whole number of at least 1, got 0"),
            (lambda: Task.regression("a", 1.5), "expected a whole number of at least 1, got 1.5"),
            (lambda: Task.multiclass("a", True), "got True"),
            (lambda: Task.binary("a", class_names=("x",)), "expected 2 different non-empty texts"),
            (lambda: Task.binary("a", class_names=("x", "x")), "expected 2 different"),
            (lambda: Task.binary("a", class_names=("x", "x ")), "'x' and 'x ' are the same label"),
            (lambda: Task.binary("a", class_names=("true", "True")), "are the same label"),
            (
                lambda: Task.binary("a", class_names=("caf\u00e9", "cafe\u0301")),
                r"'caf\xe9' and 'cafe\u0301' are the same",
            ),
            (lambda: Task.binary("a", class_names=("x", " ")), "different non-empty texts"),
            (lambda: Task.binary("a", class_weights=(True, 2)), "expected 2 positive numbers"),
            (lambda: Task.binary("a", class_names="xy"), "expected a sequence, got 'xy'"),
            (
                lambda: Task.binary("a", class_weights="balanced"),
                "got 'balanced'; data.with_class_weights() balances classes",
            ),
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

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ("ab", "got the string 'ab'"),
            (3, "a sequence of names, got the int 3"),
            (["a", "c"], "unknown task 'c'"),
            ([["a", "b"]], r"unknown task \['a', 'b'\]"),
            (["b", "b"], "distinct"),
        ],
    )
    def test_choices_that_are_none(self, names, message):
        with pytest.raises(InvalidInputError, match=message):
            chosen_tasks(names, dict.fromkeys(["a", "b", "ab"]))

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
