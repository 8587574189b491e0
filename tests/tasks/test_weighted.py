"""Weights of rows: whole numbers are repeated rows, in losses and in every metric."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qmtl.errors import InvalidInputError
from qmtl.tasks import METRICS, Task, evaluate_all, row_weights, task_layout
from tests.tasks.task_samples import random_labels, random_logits

TASKS = [
    Task.binary("b", class_weights=(1.0, 3.0)), Task.multiclass("m", 4),
    Task.multiclass("w", 3, class_weights=(1.0, 2.0, 5.0)),
    Task.multilabel("l", 3, class_weights=(1.0, 2.0, 3.0)), Task.regression("r"),
    Task.regression("s", 2),
]  # fmt: skip


def _all_metrics(task: Task) -> Task:
    return Task(task.name, task.kind, task.n_outputs, None, task.class_weights, METRICS[task.kind])


@st.composite
def rows(draw):
    """Labels, logits and whole weights of every kind of task, some missing."""
    n = draw(st.integers(1, 12))
    seed = draw(st.integers(0, 10**6))
    weights = torch.tensor(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    weights[draw(st.integers(0, n - 1))] = 2
    missing = draw(st.sampled_from([0.0, 0.3]))
    targets = {t.name: random_labels(t, n, seed=seed, missing=missing) for t in TASKS}
    logits = {t.name: random_logits(t, n, seed=seed).detach().double() for t in TASKS}
    return weights, targets, logits


@given(rows())
def test_a_loss_with_whole_weights_is_that_of_repeated_rows(sample):
    weights, targets, logits = sample
    again = torch.arange(len(weights)).repeat_interleave(weights)
    layout = task_layout(tuple(TASKS))
    joined, labels = (
        torch.cat([logits[task.name] for task in layout.tasks], dim=1),
        layout.join_targets(targets),
    )
    found = layout.loss_terms(joined, labels, sample_weight=weights)
    expected = layout.loss_terms(joined[again], labels[again])
    torch.testing.assert_close(found, expected)
    for task, total, count in zip(TASKS, *found, strict=True):
        own = task.loss_terms(logits[task.name], targets[task.name], weights)
        torch.testing.assert_close(own, (total, count))
    if not labels.isnan().any():
        whole = layout.loss_terms(joined, labels, complete=True, sample_weight=weights)
        torch.testing.assert_close(whole, found)


@settings(max_examples=6)  # each of all kinds of tasks, and of all their metrics
@given(rows())
def test_every_metric_with_whole_weights_is_that_of_repeated_rows(sample):
    weights, targets, logits = sample
    again = torch.arange(len(weights)).repeat_interleave(weights)
    tasks = [_all_metrics(task) for task in TASKS]
    predictions = {
        t.name: t.activation(logits[t.name]).mul(20).round().div(20) if t.kind != "multiclass"
        else t.activation(logits[t.name])
        for t in tasks
    }  # fmt: skip
    found = evaluate_all(tasks, predictions, targets, weights.double())
    for task in tasks:
        p, y = predictions[task.name], targets[task.name]
        expected = task.evaluate(p[again], y[again])
        assert task.evaluate(p, y, weights) == pytest.approx(expected, nan_ok=True, abs=1e-5)
        assert found[task.name] == pytest.approx(expected, nan_ok=True, abs=1e-5)


def test_the_metrics_of_equal_weights_are_those_without():
    rng = np.random.default_rng(0)
    for task in map(_all_metrics, TASKS):
        y = random_labels(task, 60, missing=0.2)
        p = task.activation(random_logits(task, 60).detach())
        expected = task.evaluate(p, y)
        assert task.evaluate(p, y, np.full(60, 0.25)) == pytest.approx(expected, abs=1e-6)
        weights = rng.random(60)
        assert task.evaluate(p, y, weights) == pytest.approx(task.evaluate(p, y, 7 * weights))
        assert task.evaluate(p, y, weights) != pytest.approx(expected, abs=1e-6)


def test_baselines():
    binary = Task.binary("b").baseline([0, 1, None, 1], [3, 1, 9, 0])
    assert float(binary) == 0.25
    frequencies = Task.multiclass("m", 3).baseline([0, 2, 2, None], [2, 1, 1, 5])
    assert frequencies.tolist() == [0.5, 0.0, 0.5]
    assert float(Task.regression("r").baseline([1.0, 5.0, np.nan], [3, 1, 4])) == 2.0
    with pytest.raises(InvalidInputError, match="at least one training label"):
        Task.binary("b").baseline([1, None], [0, 1])


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1, 2], r"shape \(3,\), got shape \(2,\)"),
        ([[1], [2], [3]], r"got shape \(3, 1\)"),
        ([1, -1, 2], "row 1 has -1"),
        ([1, np.nan, 2], "row 1 has nan"),
        ([1, np.inf, 2], "row 1 has inf"),
        ([0, 0, 0], "every weight is zero"),
        (["1", "2", "3"], "one number for each of the 3 rows, got list"),
        ("balanced", "got str"),
    ],
)
def test_weights_that_do_not_fit(weights, words):
    with pytest.raises(InvalidInputError, match=f"sample_weight: .*{words}"):
        Task.binary("b").evaluate([0.1, 0.2, 0.3], [0, 1, 1], weights)


def test_weights_of_every_type():
    import pandas as pd

    for given_weights in ([1, 2], (1.0, 2), np.array([1, 2], dtype=">i4"), torch.tensor([1, 2]),
                          pd.Series([1, 2]), pd.Series([1, 2], dtype="Int64")):  # fmt: skip
        found = row_weights(given_weights, 2)
        assert found is not None
        assert found.tolist() == [1, 2]
    found = row_weights(0.5, 2)
    assert found is not None
    assert found.tolist() == [0.5, 0.5]
    logits, targets = torch.zeros(2, 1), torch.ones(2)
    with pytest.raises(InvalidInputError, match=r"sample_weight must have shape \(2,\)"):
        Task.binary("b").loss(logits, targets, torch.ones(3))
    with pytest.raises(InvalidInputError, match="or of weight 0"):
        Task.binary("b").loss(logits, targets, torch.zeros(2))


def test_correlations_beside_a_dominant_weight():
    task = Task.regression("a", metrics=("pearson",))
    found = task.evaluate([1.0, 2.0, 4.0], [1.0, 2.0, 4.0], [1, 1e-17, 1e-17])["pearson"]
    assert found == pytest.approx(1)
