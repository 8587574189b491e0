"""Adam with a momentum that adapts, against numpy; and the cosine of update and gradient."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.experiments import read_recipe
from qmtl.methods import Agreement
from qmtl.training import RowAdam, RowAdamW
from tests.methods.samples import assert_alike, assert_resumes
from tests.training.samples import (
    QUIET,
    Spy,
    disjoint_data,
    tiny_data,
    tiny_model,
    with_missing,
)

RATE, LARGEST, SECOND = 0.1, 0.9, 0.999


def by_hand(gradients, start, minimum, *, decay=0.0, decoupled=True):
    """Adam in numpy; the first moment is unbiased by the product of its decays."""
    x, m, v, product = start.copy(), 0.0 * start, 0.0 * start, 1.0
    for t, raw in enumerate(gradients, start=1):
        g = raw if decoupled else raw + decay * x
        beta = LARGEST
        if t > 1:
            cosine = raw @ m / np.linalg.norm(raw) / np.linalg.norm(m)
            beta = minimum + (LARGEST - minimum) * (1 + cosine) / 2
        m = beta * m + (1 - beta) * g
        v = SECOND * v + (1 - SECOND) * g**2
        product *= beta
        x = x * (1 - RATE * decay) if decoupled else x
        x = x - RATE * (m / (1 - product)) / (np.sqrt(v / (1 - SECOND**t)) + 1e-8)
    return x


@pytest.mark.parametrize("make", [RowAdam, RowAdamW])
@pytest.mark.parametrize("minimum", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_formula(make, minimum, dtype):
    rng = np.random.default_rng(0)
    gradients, start = rng.normal(size=(8, 5)), rng.normal(size=5)
    first, second = (nn.Parameter(torch.tensor(part, dtype=dtype)) for part in np.split(start, [2]))
    optimizer = make([first, second], lr=RATE, weight_decay=0.01)
    model = SimpleNamespace(shared_parameters=lambda: [first, second])
    method = Agreement(minimum=minimum).build(model, (), 0).to(dtype)
    step = SimpleNamespace(shared=[first, second])
    for gradient in gradients:
        first.grad, second.grad = torch.tensor(gradient, dtype=dtype).split([2, 3])
        method.before_step(optimizer, step)
        optimizer.step()
    expected = by_hand(gradients, start, minimum, decay=0.01, decoupled=make is RowAdamW)
    found = torch.cat([first, second]).detach().numpy()
    assert found == pytest.approx(expected, rel=1e-3 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("options", [{"optimizer": "adam"}, {"aggregator": "upgrad"}])
@pytest.mark.parametrize("missing", [False, True])
def test_the_same_decay_everywhere_is_adam(options, missing):
    data = with_missing() if missing else tiny_data()
    models = [tiny_model(data).double() for _ in range(3)]
    for model, own in zip(models, ({}, {"agreement": True}, {"agreement": 0.9}), strict=True):
        qmtl.fit(model, data, max_epochs=3, **own, **options, **QUIET)
    assert_alike(models[0], models[1], tolerance=0)
    assert_alike(models[0], models[2])


def test_identical_gradients_are_adam():
    start, gradients = np.ones(3), np.tile([1.0, -2.0, 0.5], (6, 1))
    assert by_hand(gradients, start, 0.0) == pytest.approx(by_hand(gradients, start, LARGEST))
    weight = nn.Parameter(torch.tensor(start))
    optimizer = RowAdam([weight], lr=RATE)
    model = SimpleNamespace(shared_parameters=lambda: [weight])
    method = Agreement(minimum=0.0).build(model, (), 0).double()
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        method.before_step(optimizer, SimpleNamespace(shared=[weight]))
        optimizer.step()
    assert weight.detach().numpy() == pytest.approx(by_hand(gradients, start, LARGEST))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_metric_is_the_mean_cosine_of_an_epoch(optimizer):
    data, spy, model = tiny_data(), Spy(), tiny_model(tiny_data()).double()
    result = qmtl.fit(
        model, data, max_epochs=1, agreement=True, optimizer=optimizer, callbacks=[spy],
        learning_rate=0.01, head_learning_rate=0.01, **QUIET,
    )  # fmt: skip
    shared = {id(p) for p in model.shared_parameters()}
    names = [name for name, p in model.named_parameters() if id(p) in shared]
    cosines = []
    for step in spy.steps:
        moved = [step["before"][n][0] - step["after"][n][0] for n in names]
        ours = torch.cat([part.flatten() for part in moved]).numpy()
        theirs = torch.cat([step["gradients"][n].flatten() for n in names]).numpy()
        cosines.append(ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs))
    (row,) = [row for row in result.history if row["metric"] == "update_cosine"]
    assert (row["split"], row["task"]) == ("train", "all")
    assert row["value"] == pytest.approx(np.mean(cosines), rel=1e-6)
    if optimizer == "sgd":
        assert row["value"] == pytest.approx(1)


@pytest.mark.parametrize(
    "data", [with_missing(), disjoint_data({"a": 8, "b": 24})], ids=["missing", "disjoint"]
)
@pytest.mark.parametrize("options", [{}, {"aggregator": "upgrad", "optimizer": "adam"}])
def test_resumes_bit_for_bit(tmp_path, data, options):
    assert_resumes(tmp_path, lambda: tiny_model(data), data, agreement=0.2, **options)


def test_what_is_refused():
    data = tiny_data()
    with pytest.raises(InvalidInputError, match=r"agreement = 0\.5 adapts the momentum .* 'sgd'"):
        qmtl.fit(tiny_model(data), data, agreement=0.5, optimizer="sgd", **QUIET)
    with pytest.raises(InvalidInputError, match=r"agreement\.minimum: .* or equal to 0\.9"):
        qmtl.fit(tiny_model(data), data, agreement=1.0, **QUIET)


@pytest.mark.parametrize(("given", "minimum"), [("true", None), ("0.25", 0.25)])
def test_a_recipe_holds_it(tmp_path, given, minimum):
    recipe = read_recipe("digits", [f"training.agreement={given}"])
    assert f"agreement = {given}\n" in recipe.as_toml()
    (tmp_path / "again.toml").write_text(recipe.as_toml())
    assert read_recipe(tmp_path / "again.toml").training.agreement.minimum == minimum
