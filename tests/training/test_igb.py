"""Improvable gap balancing against its formula in numpy."""

import numpy as np
import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.training import make_scalarizer
from qmtl.training._combine import scalarize
from tests.training.samples import (
    QUIET,
    InterruptAt,
    InterruptionError,
    disjoint_data,
    same_state,
    tiny_data,
    tiny_model,
    with_missing,
)


def by_hand(losses, base):
    """The value and its gradient by the losses."""
    ratios = np.exp(losses / base)
    weights = len(losses) * ratios / ratios.sum()
    return (weights * np.log(losses)).sum(), weights / losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("base_epoch", [1, 2])
def test_the_formula(dtype, base_epoch):
    igb = make_scalarizer("igb", 3, {"base_epoch": base_epoch})
    epochs = np.random.default_rng(0).uniform(0.1, 2, (4, 5, 3))
    tolerance = {"rel": 1e-5 if dtype == torch.float32 else 1e-12}
    for epoch, steps in enumerate(epochs, start=1):
        for losses in steps:
            values = torch.tensor(losses, dtype=dtype, requires_grad=True)
            total = igb(values)
            total.backward()
            if epoch <= base_epoch:
                expected = np.log(losses).sum(), 1 / losses
            else:
                expected = by_hand(losses, epochs[base_epoch - 1].mean(0))
            assert float(total.detach()) == pytest.approx(expected[0], **tolerance)
            assert values.grad.numpy() == pytest.approx(expected[1], **tolerance)
        igb.step()


def test_tasks_without_labels_have_no_weight():
    igb = make_scalarizer("igb", 3)
    both = torch.tensor([0, 1])
    for losses in ([1.0, 4.0], [3.0, 2.0]):
        scalarize(igb, torch.tensor(losses), both, torch.ones(3))
    igb.step()
    # The third has no base yet, and weighs 1.
    values = np.array([1.0, 2.0, 0.5])
    known, _ = by_hand(values[:2], np.array([2.0, 3.0]))
    assert float(igb(torch.tensor(values))) == pytest.approx(known + np.log(0.5))
    igb.step()
    last, _ = by_hand(values[1:], np.array([3.0, 0.5]))
    found = scalarize(igb, torch.tensor(values[1:]), torch.tensor([1, 2]), torch.ones(3))
    assert float(found) == pytest.approx(last)


def test_equal_gaps_weigh_alike():
    igb = make_scalarizer("igb", 2)
    igb(torch.tensor([2.0, 6.0], dtype=torch.double))
    igb.step()
    losses = torch.tensor([1.0, 3.0], dtype=torch.double, requires_grad=True)
    igb(losses).backward()
    torch.testing.assert_close(losses.grad, 1 / losses.detach())


def test_one_task_is_the_logarithm():
    igb = make_scalarizer("igb", 1)
    for loss in (0.5, 2.0):
        assert float(igb(torch.tensor([loss]))) == pytest.approx(np.log(loss))
        igb.step()


def test_what_has_no_logarithm():
    igb = make_scalarizer("igb", 2)
    zero = torch.tensor([0.0, 1.0], requires_grad=True)
    igb(zero).backward()
    assert zero.grad.tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="at least 0, got -1"):
        igb(torch.tensor([-1.0, 1.0]))
    with pytest.raises(InvalidInputError, match="IGB: base_epoch must be at least 1, got 0"):
        make_scalarizer("igb", 2, {"base_epoch": 0})


@pytest.mark.parametrize(
    "data",
    [tiny_data(), with_missing(0.8), disjoint_data({"a": 8, "b": 24})],
    ids=["aligned", "missing", "disjoint"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_resumes_bit_for_bit(tmp_path, data, dtype):
    options = {"scalarizer": "igb", "options": {"base_epoch": 2}, "max_epochs": 4, **QUIET}

    def model():
        return tiny_model(data).to(dtype)

    unbroken = qmtl.fit(model(), data, **options)
    for epoch, resume in ((1, False), (3, True)):
        with pytest.raises(InterruptionError):
            qmtl.fit(
                model(), data, checkpoints=tmp_path, resume=resume,
                callbacks=[InterruptAt(epoch)], **options,
            )  # fmt: skip
    resumed = qmtl.fit(model(), data, checkpoints=tmp_path, resume=True, **options)
    assert resumed.history == unbroken.history
    assert same_state(resumed.model, unbroken.model)
