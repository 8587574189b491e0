"""MLTI: the loss of a mixed task by plain torch, and what equals plain training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as nnf

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.methods import draw_beta
from qmtl.training import TrainingSettings
from tests.methods.samples import assert_resumes
from tests.training.samples import QUIET, Spy, disjoint_data, same_state, tiny_data, tiny_model

PAIRS = {
    "binary": [qmtl.Task.binary("a"), qmtl.Task.binary("b", class_weights=(1.0, 3.0))],
    "multiclass": [qmtl.Task.multiclass("a", 3), qmtl.Task.multiclass("b", 3)],
    "regression": [qmtl.Task.regression("a"), qmtl.Task.regression("b")],
    "multilabel": [qmtl.Task.multilabel("a", 2), qmtl.Task.multilabel("b", 2)],
}


def _data(kind, share=0.3, n=40, further=()):
    """Two tasks of one kind, with labels missing."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3)).astype("float32")
    targets = {}
    for name in "ab":
        if kind == "multiclass":
            values = rng.integers(0, 3, n)
            values[rng.random(n) < share] = -100
        else:
            shape = (n, 2) if kind == "multilabel" else (n,)
            values = rng.normal(size=shape)
            values = values if kind == "regression" else (values > 0).astype(float)
            values[rng.random(shape) < share] = np.nan
        targets[name] = values
    targets |= {task.name: X[:, 0] > 0 for task in further}
    return qmtl.data.from_arrays(X, targets, tasks=[*PAIRS[kind], *further])


def _loss(task, logits, labels):
    """Mean loss over labelled entries; class weights divide as the package has it."""
    there = ~labels.isnan()
    if task.kind == "multiclass":
        return nnf.cross_entropy(logits[there[:, 0]], labels[there].long())
    z, y = logits[there], labels[there]
    if task.kind == "regression":
        return (z - y).square().mean()
    loss = nnf.binary_cross_entropy_with_logits(z, y, reduction="none")
    if task.class_weights is not None:
        loss = loss * torch.tensor(task.class_weights, dtype=loss.dtype)[y.long()]
    return loss.mean()


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_of_a_step_by_plain_torch(kind, dtype):
    data, spy = _data(kind), Spy()
    model = tiny_model(data).to(dtype)
    qmtl.fit(model, data, max_epochs=1, seed=3, interpolation=1.0, callbacks=[spy], **QUIET)
    batch, twin = spy.steps[0]["batch"], tiny_model(data).to(dtype)
    widths = 2 if kind == "multilabel" else 1
    known = batch.targets.double()
    if kind == "regression":
        for i, task in enumerate(data.tasks):
            values = data.train.targets[task.name]
            mean = values.nanmean()
            known[:, i] = (known[:, i] - mean) / (values - mean).square().nanmean().sqrt()
    labels = dict(zip("ab", known.to(dtype).split(widths, dim=1), strict=True))
    generator = torch.Generator().manual_seed(3 * 1_000_003)
    features = twin.encoder(batch.inputs.to(dtype))
    losses = []
    for first, second in ("ab", "ba"):
        torch.rand((), generator=generator)  # below the share of 1
        torch.randint(1, (), generator=generator)  # the only partner
        mix = float(torch.rand(3, dtype=torch.float64, generator=generator).sort().values[1])
        theirs = (~labels[second].isnan()).any(1).nonzero().flatten()
        rows = theirs[torch.randint(len(theirs), (len(features),), generator=generator)]
        mixed = mix * features + (1 - mix) * features[rows]
        logits = twin.head(mixed)
        between = mix * logits[first] + (1 - mix) * logits[second]
        kept = (~labels[first].isnan()).any(1)
        parts = [
            _loss(data.task(first), between[kept], labels[first][kept]),
            _loss(data.task(second), between[kept], labels[second][rows][kept]),
        ]
        losses.append(mix * parts[0] + (1 - mix) * parts[1])
    torch.stack(losses).mean().backward()
    for name, parameter in twin.named_parameters():
        found = spy.steps[0]["gradients"][name]
        torch.testing.assert_close(found, parameter.grad, atol=1e-5, rtol=1e-3)


def test_lambda_is_beta():
    generator = torch.Generator().manual_seed(0)
    for concentration in (1, 2, 5):
        draws = [draw_beta(concentration, generator) for _ in range(500)]
        assert stats.kstest(draws, stats.beta(concentration, concentration).cdf).pvalue > 0.01


@pytest.mark.parametrize("options", [{}, {"aggregator": "upgrad"}])
def test_lambda_1_is_plain_training(monkeypatch, options):
    data = _data("binary")
    plain, other = tiny_model(data), tiny_model(data)
    qmtl.fit(plain, data, max_epochs=3, **QUIET, **options)
    monkeypatch.setattr("qmtl.methods._interpolation.draw_beta", lambda *_: 1.0)
    qmtl.fit(other, data, max_epochs=3, interpolation=1.0, **QUIET, **options)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, atol=2e-4, rtol=2e-3)


def test_nothing_to_mix_is_plain_training():
    for tasks, share in ((["a"], 1.0), (["a", "b"], 0.0)):
        data = _data("binary").subset(tasks)
        plain, other = tiny_model(data, dropout=0.3), tiny_model(data, dropout=0.3)
        qmtl.fit(plain, data, max_epochs=2, **QUIET)
        qmtl.fit(other, data, max_epochs=2, interpolation=share, **QUIET)
        assert same_state(plain, other)


def test_tasks_of_other_kinds_are_left_alone():
    """Their losses are those of plain training; with no two of one kind it is refused."""
    data, spy, plain = _data("regression", further=[qmtl.Task.binary("c")]), Spy(), Spy()
    options = {"max_epochs": 1, "batch_size": 8, "progress": False}
    qmtl.fit(tiny_model(data), data, interpolation=1.0, callbacks=[spy], **options)
    qmtl.fit(tiny_model(data), data, callbacks=[plain], **options)
    own = [s.steps[0]["gradients"]["head.scales.parameter"] for s in (spy, plain)]
    torch.testing.assert_close(own[0][2], own[1][2])
    assert abs(float(own[0][0] - own[1][0])) > 1e-4
    with pytest.raises(InvalidInputError, match="interpolation needs at least two tasks of"):
        qmtl.fit(tiny_model(tiny_data()), tiny_data(), interpolation=True, **QUIET)


def test_disjoint_data():
    data = disjoint_data({"a": 16, "b": 24})
    with pytest.raises(InvalidInputError, match="disjoint data need an aggregator"):
        qmtl.fit(tiny_model(data), data, interpolation=True, **QUIET)
    options = {"aggregator": "upgrad", "max_epochs": 20, "learning_rate": 0.05}
    result = qmtl.fit(tiny_model(data), data, interpolation=1.0, **options, **QUIET)
    assert result.metrics["train"]["a"]["accuracy"] > 0.8


@pytest.mark.parametrize("options", [{"scalarizer": "uw"}, {"aggregator": "upgrad"}])
def test_resumes_bit_for_bit(tmp_path, options):
    data = _data("binary")
    make = lambda: tiny_model(data, dropout=0.3)  # noqa: E731
    assert_resumes(tmp_path, make, data, interpolation=0.6, seed=2, **options)


@pytest.mark.parametrize(
    "others", [{"flatness": 0.1}, {"saliency": True}, {"scalarizer": "FAMO"}], ids=str
)
def test_what_would_see_other_losses_is_refused(others):
    data = _data("binary")
    with pytest.raises(InvalidInputError, match="interpolation does not go together with"):
        qmtl.fit(tiny_model(data), data, interpolation=1.0, **others, **QUIET)


def test_a_label_counts_as_its_row_does(monkeypatch):
    """With λ = 1 all is the first task's, so that weights are those of plain training."""
    monkeypatch.setattr("qmtl.methods._interpolation.draw_beta", lambda *_: 1.0)
    data, models = _data("binary"), []
    weights = torch.arange(1.0, len(data.train) + 1).double()
    data = replace(data, train=replace(data.train, sample_weight=weights))
    for options in ({}, {"interpolation": 1.0}):
        models.append(tiny_model(data).double())
        qmtl.fit(models[-1], data, max_epochs=1, **options, **QUIET)
    for ours, theirs in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-6)


def test_two_processes_are_refused():
    with pytest.raises(ValueError, match="interpolation needs devices = 1, got 2"):
        TrainingSettings(interpolation=True, devices=2)
