"""One mean-squared error for all kinds of tasks, against numpy."""

import numpy as np
import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.experiments import read_recipe
from qmtl.methods import UnifiedLoss
from qmtl.tasks import task_layout
from tests.methods.samples import assert_alike, assert_resumes
from tests.training.samples import (
    QUIET,
    TASKS,
    Spy,
    disjoint_data,
    tiny_data,
    tiny_model,
    with_missing,
)


def by_hand(logits, targets, weights):
    """Each task's loss: of a, three classes b, the standardised c, and two labels d."""

    def mean(values, found, wanted):
        square = (found - wanted) ** 2
        there = ~np.isnan(values) * weights[:, None]
        return (there * np.nan_to_num(square)).sum() / (there.sum() or np.nan)

    sigmoid = 1 / (1 + np.exp(-logits))
    a = mean(targets[:, :1], 2 * sigmoid[:, :1] - 1, 2 * targets[:, :1] - 1)
    softmax = np.exp(logits[:, 1:4]) / np.exp(logits[:, 1:4]).sum(1, keepdims=True)
    one_hot = np.where(targets[:, 1:2] == np.arange(3), 1.0, -1.0)
    b = mean(np.repeat(targets[:, 1:2], 3, axis=1), 2 * softmax - 1, one_hot)
    c = mean(targets[:, 2:3], logits[:, 4:5], targets[:, 2:3])
    d = mean(targets[:, 3:], 2 * sigmoid[:, 5:] - 1, 2 * targets[:, 3:] - 1)
    return np.array([a, b, c, d])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_losses(dtype, missing, weighted):
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(9, 7))
    targets = np.stack([
        rng.integers(0, 2, 9), rng.integers(0, 3, 9), rng.normal(size=9),
        rng.integers(0, 2, 9), rng.integers(0, 2, 9),
    ], axis=1).astype(float)  # fmt: skip
    targets[rng.random(targets.shape) < missing] = np.nan
    weights = rng.uniform(0, 2, 9) if weighted else np.ones(9)
    method = UnifiedLoss().build(tiny_model(tiny_data()), TASKS, 0)
    sums, counts = method.loss_terms(
        torch.tensor(logits, dtype=dtype, requires_grad=True), torch.tensor(targets),
        task_layout(tuple(TASKS)), complete=not missing,
        sample_weight=torch.tensor(weights) if weighted else None,
    )  # fmt: skip
    found = (sums / counts).detach().numpy()
    assert found == pytest.approx(by_hand(logits, targets, weights), rel=1e-5)


def test_half_precision_counts_every_row():
    tasks = [qmtl.Task.binary("a"), qmtl.Task.multiclass("b", 3)]
    method = UnifiedLoss().build(tiny_model(tiny_data()), tasks, 0)
    logits = torch.zeros(401, 4, dtype=torch.bfloat16, requires_grad=True)
    layout = task_layout(tuple(tasks))
    sums, counts = method.loss_terms(logits, torch.ones(401, 2).double(), layout, complete=True)
    # bfloat16 would round 401 to 400 or 402.
    assert counts.tolist() == [401, 3 * 401]
    assert torch.allclose(sums / counts, torch.tensor([1.0, 8 / 9]), rtol=1e-2)
    sums.sum().backward()
    assert logits.grad.dtype == torch.bfloat16
    data = tiny_data()
    head = qmtl.LinearHead(data.tasks, data.n_inputs, seed=0)
    model = qmtl.MultiTaskModel(torch.nn.Identity(), head).bfloat16()
    result = qmtl.fit(model, data, loss="unified", max_epochs=1, **QUIET)
    assert result.metrics["train"]["a"]["loss"] < 2


@pytest.mark.parametrize("options", [{"scalarizer": "mean"}, {"aggregator": "upgrad"}])
def test_training_takes_these_losses(options):
    data, spy = with_missing(), Spy()
    model = tiny_model(data).double()
    result = qmtl.fit(
        model, data, loss="unified", max_epochs=1, callbacks=[spy], **QUIET | {"batch_size": 60},
        **options,
    )  # fmt: skip
    batch, start = spy.steps[0]["batch"], tiny_model(data).double()
    start.scale = model.scale
    mean, std = start.target_scale()
    logits = start(batch.inputs.double(), joined=True).detach().numpy()
    expected = by_hand(logits, ((batch.targets - mean) / std).numpy(), np.ones(len(logits)))
    found = [r["value"] for r in result.history if (r["split"], r["metric"]) == ("train", "loss")]
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("options", [{"scalarizer": "uw"}, {"aggregator": "upgrad"}])
def test_of_regressions_it_is_the_loss_that_they_have(options):
    data = with_missing().subset(["c"])
    models = [tiny_model(data).double() for _ in range(2)]
    for model, own in zip(models, ({"loss": "unified"}, {}), strict=True):
        qmtl.fit(model, data, max_epochs=2, **own, **options, **QUIET)
    assert_alike(*models)


@pytest.mark.parametrize(
    "data", [with_missing(), disjoint_data({"a": 8, "b": 24})], ids=["missing", "disjoint"]
)
@pytest.mark.parametrize("options", [{}, {"aggregator": "upgrad", "flatness": 0.1}])
def test_resumes_bit_for_bit(tmp_path, data, options):
    assert_resumes(tmp_path, lambda: tiny_model(data), data, loss="unified", **options)


def test_what_is_refused():
    data = tiny_data()
    with pytest.raises(InvalidInputError, match=r"value of loss\.kind: 'mse'\. Known: unified"):
        qmtl.fit(tiny_model(data), data, loss="mse", **QUIET)
    weighted = qmtl.Task.binary("a", class_weights=(1.0, 3.0))
    X = np.random.default_rng(0).normal(size=(9, 3)).astype("float32")
    data = qmtl.data.from_arrays(X, {"a": (X[:, 0] > 0).astype(float)}, tasks=[weighted])
    with pytest.raises(InvalidInputError, match=r"no class weights, but task 'a' has \(1\.0, 3"):
        qmtl.fit(tiny_model(data), data, loss="unified", **QUIET)


def test_a_recipe_holds_it(tmp_path):
    recipe = read_recipe("digits", ["training.loss=unified"])
    assert 'loss = "unified"\n' in recipe.as_toml()
    (tmp_path / "again.toml").write_text(recipe.as_toml())
    assert read_recipe(tmp_path / "again.toml").training.loss == UnifiedLoss()
