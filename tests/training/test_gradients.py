"""Gradients of a step against plain autograd, in float64."""

import copy

import pytest
import torch

import qmtl
from qmtl.tasks import task_layout
from tests.training.samples import QUIET, Spy, tiny_data, tiny_model, with_missing


def _steps(data, **options):
    """What each step of an epoch did, and the model before it."""
    spy = Spy()
    model = tiny_model(data).double()
    qmtl.fit(model, data, max_epochs=1, callbacks=[spy], optimizer="sgd", **QUIET, **options)
    for step in spy.steps:
        before = copy.deepcopy(model)
        for name, parameter in before.named_parameters():
            parameter.data = step["before"][name][0].clone()
        yield before, step


def _losses(model, batch):
    logits, layout = model(batch.inputs.double()), task_layout(model.tasks)
    losses = {}
    for task in model.tasks:
        targets = batch.targets[:, layout.column_slices[task.name]]
        targets = targets if task.kind == "multilabel" else targets[:, 0]
        if task.kind == "multiclass":
            targets = targets.nan_to_num(nan=-100).long()
        if task.labelled(targets).any():
            losses[task.name] = task.loss(logits[task.name], model.standardise(task, targets))
    return losses


def _own(model):
    owned = {id(rows.parameter) for rows in model.task_rows()}
    return {name: id(p) in owned for name, p in model.named_parameters()}


@pytest.mark.parametrize("data", [tiny_data(), with_missing()], ids=["full", "missing"])
def test_mean_scalarizer_is_plain_autograd_of_the_mean_loss(data):
    for model, step in _steps(data, scalarizer="mean"):
        losses = _losses(model, step["batch"])
        torch.stack(list(losses.values())).mean().backward()
        for name, parameter in model.named_parameters():
            got = step["gradients"][name]
            torch.testing.assert_close(got, parameter.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("data", [tiny_data(), with_missing()], ids=["full", "missing"])
def test_mean_aggregator_averages_shared_gradients_and_leaves_own_ones_whole(data):
    for model, step in _steps(data, aggregator="mean"):
        losses = _losses(model, step["batch"])
        torch.stack(list(losses.values())).sum().backward()
        own = _own(model)
        for name, parameter in model.named_parameters():
            # A task's own weights have the gradient of its loss alone, which is that of the sum.
            expected = parameter.grad if own[name] else parameter.grad / len(losses)
            torch.testing.assert_close(step["gradients"][name], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk", [None, 1])
def test_upgrad_is_torchjd_on_a_jacobian_of_separate_backward_passes(chunk):
    from torchjd.aggregation import UPGrad

    for model, step in _steps(tiny_data(), aggregator="upgrad", jacobian_chunk=chunk):
        losses = _losses(model, step["batch"])
        own = _own(model)
        shared = {n: p for n, p in model.named_parameters() if not own[n]}
        assert {id(p) for p in shared.values()} == {id(p) for p in model.shared_parameters()}
        rows = []
        for loss in losses.values():
            row = torch.autograd.grad(loss, list(shared.values()), retain_graph=True)
            rows.append(torch.cat([g.flatten() for g in row]))
        expected = UPGrad()(torch.stack(rows))
        got = torch.cat([step["gradients"][name].flatten() for name in shared])
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_frozen_parts_stay_as_they_are():
    data = tiny_data()
    for options in ({"scalarizer": "mean"}, {"aggregator": "upgrad"}):
        for part in ("encoder", "head"):
            model = tiny_model(data)
            getattr(model, part).requires_grad_(False)
            before = copy.deepcopy(getattr(model, part)).state_dict()
            qmtl.fit(model, data, max_epochs=1, **QUIET, **options)
            after = getattr(model, part).state_dict()
            assert all(torch.equal(before[key], after[key]) for key in before)
