"""Many tasks at once against the tasks one by one."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qmtl.errors import InvalidInputError
from qmtl.tasks import Task
from qmtl.tasks.stacked import labelled_rows, stacked_loss_terms, stacks_by_shape
from tests.tasks.task_samples import BINARY, NAN, random_labels, random_logits

SHAPES = [("binary", 1, 2), ("multiclass", 3, 3), ("multiclass", 4, 4), ("multilabel", 2, 2),
          ("multilabel", 1, 1), ("regression", 1, 0), ("regression", 2, 0)]  # fmt: skip


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[list[Task], dict[str, int], float]:
    """Tasks of all kinds in any order, some weighted, each with its number of rows."""
    weight = st.floats(0.1, 5.0)
    tasks = []
    for i, (kind, n, n_weights) in enumerate(draw(st.lists(st.sampled_from(SHAPES), min_size=1))):
        weights = st.none() | st.tuples(*[weight] * n_weights) if n_weights else st.none()
        tasks.append(Task(f"t{i}", kind, n, class_weights=draw(weights)))
    sizes = st.sampled_from([0, 1, 5]) if draw(st.booleans()) else st.just(6)
    return tasks, {task.name: draw(sizes) for task in tasks}, draw(st.sampled_from([0, 0.4, 1]))


def _samples(tasks, sizes, missing):
    logits, targets = {}, {}
    for i, task in enumerate(tasks):
        n = sizes[task.name]
        targets[task.name] = random_labels(task, n, seed=i, missing=missing)
        values = random_logits(task, n, seed=i).detach().double()
        if not task.n_outputs > 1 or task.kind == "multiclass":
            values[~task.labelled(targets[task.name])] = NAN
        logits[task.name] = values.requires_grad_()
    return logits, targets


@given(mixtures())
def test_losses_and_gradients_are_those_of_each_task(mixture):
    tasks = mixture[0]
    logits, targets = _samples(*mixture)
    terms = stacked_loss_terms(tasks, logits, targets)
    expected = torch.stack(
        [torch.stack(task.loss_terms(logits[task.name], targets[task.name])) for task in tasks]
    )
    torch.testing.assert_close(terms, expected, rtol=1e-12, atol=1e-12)
    factors = torch.arange(1.0, 1 + len(tasks)).double()
    ours = torch.autograd.grad(terms[:, 0] @ factors, list(logits.values()))
    theirs = torch.autograd.grad(expected[:, 0] @ factors, list(logits.values()))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert all(bool(gradient.isfinite().all()) for gradient in ours)


@given(mixtures())
def test_labelled_rows(mixture):
    tasks = mixture[0]
    _, targets = _samples(tasks, {task.name: 6 for task in tasks}, mixture[2])
    expected = torch.stack([task.labelled(targets[task.name]) for task in tasks])
    assert torch.equal(labelled_rows(tasks, targets), expected)


def test_types_of_logits_may_be_narrower_than_those_of_targets():
    tasks = [Task.regression("a"), BINARY]
    logits = {task.name: torch.zeros(2, 1) for task in tasks}
    targets = {"a": torch.tensor([2.0, math.nan]).double(), "b": torch.tensor([1.0, 0.0])}
    terms = stacked_loss_terms(tasks, logits, targets)
    assert terms.dtype == torch.float32
    torch.testing.assert_close(terms, torch.tensor([[4.0, 1.0], [2 * math.log(2), 2.0]]))


def test_wrong_shapes_name_the_task():
    tasks = [Task.binary(name) for name in "abc"]
    logits = {name: torch.zeros(3, 1) for name in "abc"}
    targets = {"a": torch.zeros(3), "b": torch.zeros(2), "c": torch.zeros(3)}
    with pytest.raises(InvalidInputError, match=r"'b': logits \(3, 1\) .*got \(2,\)"):
        stacked_loss_terms(tasks, logits, targets)
    with pytest.raises(InvalidInputError, match=r"'c': logits have shape \(3, 2\)"):
        stacked_loss_terms(tasks[2:], {"c": torch.zeros(3, 2)}, targets)


def test_stacks_keep_types_apart():
    tensors = [torch.zeros(2), torch.zeros(2).double(), torch.ones(2)]
    stacks = stacks_by_shape(tensors)
    assert [places for places, _ in stacks] == [[0, 2], [1]]
    assert [stack.dtype for _, stack in stacks] == [torch.float32, torch.float64]
    assert stacks_by_shape([]) == []
