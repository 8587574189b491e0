"""Influences against gradients taken row by row, and what is kept of rows that are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.methods import influences, select
from tests.methods.related import model_for, planted
from tests.training.samples import disjoint_data, with_missing


def row_by_row(model, data):
    """Inner products of each row's gradient with each task's, by plain torch."""
    model.eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    dtype = parameters[0].dtype

    def targets(split, task, rows):
        values = split.targets[task.name][rows]
        if task.kind != "regression":
            return values
        known = data.train.targets[task.name].double()
        mean = known.nanmean()
        return (values - mean) / (known - mean).square().nanmean().sqrt()

    def gradient(loss):
        parts = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])

    by_task = []
    for task in data.tasks:
        rows = task.labelled(data.validation.targets[task.name])
        logits = model(data.validation.inputs[rows].to(dtype))[task.name]
        by_task.append(gradient(task.loss(logits, targets(data.validation, task, rows))))
    found = []
    for row in range(len(data.train)):
        rows = torch.tensor([row])
        logits = model(data.train.inputs[rows].to(dtype))
        loss = sum(
            task.loss_terms(logits[task.name], targets(data.train, task, rows))[0]
            for task in data.tasks
        )
        own = gradient(loss)
        found.append([float(own @ other) for other in by_task])
    return np.array(found)


@pytest.mark.parametrize("head", ["quantum", "linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_influences_are_those_of_single_rows(head, dtype):
    """Of all kinds of tasks, with labels missing at random, in several batches."""
    data = with_missing(0.4)
    model = model_for(data, head, hidden=5, dtype=dtype)
    expected = row_by_row(model, data)
    found = influences(model, data, batch_size=16)
    assert list(found) == ["a", "b", "c", "d"]
    tolerance = 1e-4 if dtype is torch.float32 else 1e-9
    assert found.to_numpy() == pytest.approx(expected, abs=tolerance, rel=1e-3)


def test_a_validation_row_of_weight_two_counts_like_two_rows():
    data = with_missing(0.4)
    model, rows = model_for(data, "linear", dtype=torch.float64), data.validation
    twice = torch.arange(len(rows)).repeat_interleave(torch.arange(len(rows)) % 2 + 1)
    weights = (torch.arange(len(rows)) % 2 + 1).double()
    repeated = influences(model, replace(data, validation=rows.take(twice)))
    weighted = influences(model, replace(data, validation=replace(rows, sample_weight=weights)))
    assert weighted.to_numpy() == pytest.approx(repeated.to_numpy(), rel=1e-9)


def test_disjoint_tasks_have_influence_by_the_encoder():
    data = disjoint_data({"a": 12, "b": 8})
    model = model_for(data, hidden=4)
    found = influences(model, data)
    assert found.to_numpy() == pytest.approx(row_by_row(model, data), abs=1e-4, rel=1e-3)
    assert (found["b"][:12] != 0).any()


def test_keeps_the_rows_with_most_votes():
    data = planted(n=200)
    model = model_for(data)
    chosen = select(model, data, keep=0.3)
    n = len(data.train)
    assert len(chosen.rows) == round(0.3 * n) == len(chosen.data.train)
    best = chosen.influences.apply(lambda c: c >= c.nlargest(round(0.3 * n)).min())
    assert (chosen.votes == best.sum(axis=1)).all()
    kept = np.zeros(n, bool)
    kept[chosen.rows.numpy()] = True
    assert chosen.votes[kept].min() >= chosen.votes[~kept].max()
    assert torch.equal(chosen.data.train.index, data.train.index[chosen.rows])
    assert torch.equal(chosen.data.test.inputs, data.test.inputs)


def test_wrong_labels_are_left_out():
    """Of a trained model, rows whose labels were turned around hurt every task."""
    data = planted(n=1000)
    wrong = torch.zeros(len(data.train), dtype=torch.bool)
    wrong[::5] = True
    targets = {n: torch.where(wrong, 1 - v, v) for n, v in data.train.targets.items()}
    noisy = replace(data, train=replace(data.train, targets=targets))
    model = model_for(noisy)
    qmtl.fit(model, noisy, max_epochs=5, progress=False, seed=0)
    chosen = select(model, noisy, keep=0.6)
    assert wrong[chosen.rows].float().mean() < 0.1


def test_everything_and_one_task():
    data = planted(n=60).subset(["t0"])
    chosen = select(model_for(data), data, keep=1.0)
    assert torch.equal(chosen.rows, torch.arange(len(data.train)))
    assert (chosen.votes == 1).all()


def test_leaves_the_model_alone():
    data = planted(n=60)
    model = model_for(data).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    select(model, data)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_bad_arguments():
    data = planted(n=60)
    model = model_for(data)
    for keep in (0, 1.2, float("nan"), "half", True):
        with pytest.raises(InvalidInputError, match=r"keep must be in \(0, 1\]"):
            select(model, data, keep=keep)
    unknown = dict(
        data.validation.targets, t1=torch.full_like(data.validation.targets["t1"], torch.nan)
    )
    silent = replace(data, validation=replace(data.validation, targets=unknown))
    with pytest.raises(InvalidInputError, match="task 't1' has no validation label"):
        influences(model, silent)
    model.requires_grad_(False)
    with pytest.raises(InvalidInputError, match="no trainable parameter"):
        influences(model, data)
