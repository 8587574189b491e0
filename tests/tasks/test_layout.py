"""All tasks at once, in joined tensors, against the tasks one by one."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qmtl.tasks import Task, labelled_rows, task_layout
from qmtl.tasks._scores import evaluate_joined
from tests.tasks.task_samples import BINARY, NAN, random_labels, random_logits

SHAPES = [("binary", 1, 2), ("multiclass", 3, 3), ("multiclass", 4, 4), ("multilabel", 2, 2),
          ("multilabel", 1, 1), ("regression", 1, 0), ("regression", 2, 0)]  # fmt: skip


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[list[Task], int, float]:
    """Tasks of all kinds in any order, some weighted; a number of rows; a share of gaps."""
    weight = st.floats(0.1, 5.0)
    tasks = []
    for i, (kind, n, n_weights) in enumerate(draw(st.lists(st.sampled_from(SHAPES), min_size=1))):
        weights = st.none() | st.tuples(*[weight] * n_weights) if n_weights else st.none()
        tasks.append(Task(f"t{i}", kind, n, class_weights=draw(weights)))
    return tasks, draw(st.sampled_from([0, 1, 6])), draw(st.sampled_from([0, 0.4, 1]))


def _samples(tasks, n, missing):
    logits, targets = {}, {}
    for i, task in enumerate(tasks):
        targets[task.name] = random_labels(task, n, seed=i, missing=missing)
        values = random_logits(task, n, seed=i).detach().double()
        if not task.n_outputs > 1 or task.kind == "multiclass":
            values[~task.labelled(targets[task.name])] = NAN
        logits[task.name] = values.requires_grad_()
    return logits, targets


@given(mixtures())
def test_losses_and_gradients_are_those_of_each_task(mixture):
    tasks, _, missing = mixture
    logits, targets = _samples(*mixture)
    layout = task_layout(tuple(tasks))
    joined = layout.join_targets(targets)
    sums, counts = layout.loss_terms(torch.cat(list(logits.values()), dim=1), joined)
    each = [task.loss_terms(logits[task.name], targets[task.name]) for task in tasks]
    expected = torch.stack([total for total, _ in each])
    torch.testing.assert_close(sums, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(counts, torch.stack([count for _, count in each]))
    factors = torch.arange(1.0, 1 + len(tasks)).double()
    ours = torch.autograd.grad(sums @ factors, list(logits.values()))
    theirs = torch.autograd.grad(expected @ factors, list(logits.values()))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert all(bool(gradient.isfinite().all()) for gradient in ours)
    if not missing:
        whole = layout.loss_terms(torch.cat(list(logits.values()), dim=1), joined, complete=True)
        torch.testing.assert_close(whole, (sums, counts), rtol=1e-12, atol=1e-12)


@given(mixtures())
def test_labelled_rows(mixture):
    tasks = mixture[0]
    _, targets = _samples(tasks, 6, mixture[2])
    expected = torch.stack([task.labelled(targets[task.name]) for task in tasks])
    assert torch.equal(labelled_rows(tasks, targets), expected)


@given(mixtures())
def test_predictions_and_metrics_are_those_of_each_task(mixture):
    tasks = mixture[0]
    logits, targets = _samples(*mixture)
    layout = task_layout(tuple(tasks))
    predictions = layout.activation(torch.cat(list(logits.values()), dim=1).detach().nan_to_num())
    for task in tasks:
        expected = task.activation(logits[task.name].detach().nan_to_num())
        own = predictions[:, layout.output_slices[task.name]]
        torch.testing.assert_close(own.reshape(expected.shape), expected)
    found = evaluate_joined(layout, predictions, layout.join_targets(targets))
    for task in tasks:
        own = predictions[:, layout.output_slices[task.name]]
        own = own[:, 0] if task.n_outputs == 1 and task.kind != "multilabel" else own
        assert found[task.name] == pytest.approx(
            task.evaluate(own, targets[task.name]), nan_ok=True
        )


def test_types_of_logits_may_be_narrower_than_those_of_targets():
    layout = task_layout((Task.regression("a"), BINARY))
    targets = {"a": torch.tensor([2.0, math.nan]).double(), BINARY.name: torch.tensor([1.0, 0.0])}
    sums, counts = layout.loss_terms(torch.zeros(2, 2), layout.join_targets(targets))
    assert sums.dtype == torch.float32
    torch.testing.assert_close(sums, torch.tensor([4.0, 2 * math.log(2)]))
    assert counts.tolist() == [1, 2]


def test_tensors_without_values_leave_no_trace():
    """Layouts are kept for the process, so that a first use on a meta device could spoil others."""
    tasks = (Task.multilabel("meta b", 2), Task.binary("meta a"), Task.multilabel("meta c", 2))
    with torch.device("meta"):
        layout = task_layout(tasks)
    targets = {"meta a": torch.tensor([1.0, 0.0])}
    targets |= {name: torch.tensor([[1.0, 0.0], [0.0, 1.0]]) for name in ("meta b", "meta c")}
    logits = torch.zeros(2, layout.n_outputs)
    for device in ("meta", "cpu"):
        moved = layout.join_targets({name: t.to(device) for name, t in targets.items()})
        assert layout.labelled(moved).shape == (2, 3)
        sums, counts = layout.loss_terms(logits.to(device), moved)
    torch.testing.assert_close(sums / counts, torch.full((3,), math.log(2)))
