"""The row per head that comes before the metrics of many tasks."""

import math

import pytest

from qmtl.experiments import overview

MODEL = {
    "a": {"loss": 1.0, "accuracy": 0.8, "f1": 0.1},
    "b": {"accuracy": 0.6},
    "c": {"mae": 2.0},
    "d": {"auroc": math.nan},
}


def test_counts_follow_the_direction_of_each_main_metric():
    other = {"a": {"accuracy": 0.7}, "b": {"accuracy": 0.6}, "c": {"mae": 1.0}, "d": {"auroc": 1.0}}
    model, row = overview(MODEL, {"linear": other})
    # Errors are no part of the mean, nor is what is not defined.
    assert model == {
        "": "model",
        "mean of 2": "0.7000",
        "model better on": "",
        "model worse on": "",
    }
    assert row[""] == "linear"
    assert row["mean of 2"] == "0.7667 (of 3)", "another number of tasks is not under that title"
    assert row["model better on"] == "1: a"
    assert row["model worse on"] == "1: c"


@pytest.mark.parametrize("other", [{}, {"a": {"f1": 1.0}}, {"a": {"accuracy": None}}])
def test_what_the_other_lacks_counts_for_neither(other):
    row = overview(MODEL, {"other": other})[1]
    assert row["model better on"] == row["model worse on"] == "none"


def test_a_single_task_needs_no_such_row():
    assert overview({"a": {"accuracy": 1.0}}, {}) == []
