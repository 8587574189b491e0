"""Metrics of many tasks at once against the tasks one by one."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as skm

from qmtl.errors import InvalidInputError
from qmtl.tasks import Task
from qmtl.tasks import _scores as scores
from qmtl.tasks._definition import METRICS
from qmtl.tasks._scores import evaluate_all
from tests.tasks.task_samples import NAN, random_labels

SHAPES = [("binary", 1), ("multiclass", 3), ("multilabel", 2), ("regression", 1), ("regression", 2)]


def _predictions(task: Task, n: int, seed: int, broken: bool) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    # Few values, so that there are ties, some at 0.5.
    values = rng.integers(0, 11, n if task.n_outputs == 1 else (n, task.n_outputs)) / 10
    if broken and n:
        values[rng.integers(n)] = rng.choice([np.nan, np.inf])
    return torch.from_numpy(values)


@given(
    st.sampled_from(SHAPES),
    st.integers(0, 12),
    st.lists(st.tuples(st.sampled_from([0, 0.3, 1]), st.booleans()), min_size=2, max_size=4),
)
def test_every_metric_is_that_of_each_task(shape, n, cases):
    kind, n_outputs = shape
    tasks = [
        Task(f"t{i}", kind, n_outputs, metric_names=METRICS[kind]) for i, _ in enumerate(cases)
    ]
    targets, predictions = {}, {}
    for i, (task, (missing, broken)) in enumerate(zip(tasks, cases, strict=True)):
        targets[task.name] = random_labels(task, n, seed=i, missing=missing)
        predictions[task.name] = _predictions(task, n, i, broken)
    together = evaluate_all(tasks, predictions, targets)
    for task in tasks:
        alone = task.evaluate(predictions[task.name], targets[task.name])
        assert together[task.name] == pytest.approx(alone, rel=1e-12, abs=1e-12, nan_ok=True)


@given(st.integers(0, 2**32 - 1))
def test_areas_against_sklearn(seed):
    rng = np.random.default_rng(seed)
    p, y = rng.integers(0, 6, 30) / 5, rng.integers(0, 2, 30)
    y[:2] = 0, 1
    given = np.concatenate([p, [0.0, 1.0]])
    found = Task.binary("b").evaluate(given, [*y.tolist(), None, None])["auroc"]
    assert found == pytest.approx(skm.roc_auc_score(y, p), rel=1e-12)


def test_mixed_tasks_in_parts(monkeypatch):
    monkeypatch.setattr(scores, "CHUNK", 7)
    tasks = [Task.binary("a"), Task.multiclass("m", 3), Task.binary("b"), Task.binary("c"),
             Task.binary("d", metrics=("matthews",))]  # fmt: skip
    targets = {task.name: random_labels(task, 3, seed=i) for i, task in enumerate(tasks)}
    predictions = {task.name: _predictions(task, 3, 0, False) for task in tasks}
    found = evaluate_all(tasks, predictions, targets)
    assert list(found) == ["a", "m", "b", "c", "d"]
    for task in tasks:
        alone = task.evaluate(predictions[task.name], targets[task.name])
        assert found[task.name] == pytest.approx(alone, nan_ok=True)


@pytest.mark.parametrize("logit", [2.3, -1.2, 1.01])
@pytest.mark.parametrize(
    "task", [Task.binary("t"), Task.multiclass("t", 2), Task.multilabel("t", 2)]
)
def test_logits_are_refused(task, logit):
    shape = (2, task.n_outputs)[: 1 if task.kind == "binary" else 2]
    predictions = torch.full(shape, 0.5)
    predictions[-1] = logit
    labels = [[0, 1], [1, 0]] if task.kind == "multilabel" else [0, 1]
    with pytest.raises(InvalidInputError, match=rf"'t': predictions must be prob.* got {logit}"):
        task.evaluate(predictions, labels)
    assert task.evaluate(predictions.clamp(0, 1), labels)
    number = Task.regression("t").evaluate([2.3, -1.2], [2.3, -1.2])
    assert number["r2"] == 1


def test_what_does_not_fit_names_its_task():
    tasks = [Task.binary("a"), Task.binary("b")]
    values = {"a": torch.tensor([0.1, 0.9]), "b": torch.tensor([0.1, 0.9])}
    with pytest.raises(InvalidInputError, match="'b': row 1 has 7"):
        evaluate_all(tasks, values, {"a": torch.ones(2), "b": torch.tensor([NAN, 7.0])})
    with pytest.raises(InvalidInputError, match=r"'b': predictions have shape \(3,\)"):
        evaluate_all(tasks, values | {"b": torch.zeros(3)}, {n: torch.ones(2) for n in "ab"})
    with pytest.raises(InvalidInputError, match="'b' has 3 rows, and 'a' has 2"):
        evaluate_all(
            tasks, values | {"b": torch.zeros(3)}, {"a": torch.ones(2), "b": torch.zeros(3)}
        )
    assert evaluate_all([], {}, {}) == {}
    assert all(math.isnan(value) for value in Task.binary("a").evaluate([], []).values())
