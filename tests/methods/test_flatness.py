"""Sharpness-aware gradients by task, against plain torch on parameters that were moved by hand."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torchjd.aggregation import MGDA, UPGrad

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.experiments import read_recipe
from qmtl.training import MultiTaskDataModule, MultiTaskModule
from tests.methods.samples import assert_alike, assert_resumes, first_step, flat, task_losses
from tests.training.samples import QUIET, Spy, disjoint_data, tiny_data, tiny_model, with_missing

RHO = 0.3
AGGREGATORS = {"upgrad": UPGrad(), "mgda": MGDA()}


def vector(loss, model):
    parameters = list(model.parameters())
    found = torch.autograd.grad(
        loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return nn.utils.parameters_to_vector(found)


def by_hand(model, batch, combiner):
    """The gradient of all parameters."""
    plain, sharp = [], []
    for name, loss in task_losses(model, batch).items():
        plain.append(vector(loss, model))
        moved = copy.deepcopy(model)
        there = (
            nn.utils.parameters_to_vector(moved.parameters()) + RHO * plain[-1] / plain[-1].norm()
        )
        nn.utils.vector_to_parameters(there.detach(), moved.parameters())
        sharp.append(vector(task_losses(moved, batch)[name], moved))
    plain, sharp = torch.stack(plain), torch.stack(sharp)
    if combiner in AGGREGATORS:
        aggregate = AGGREGATORS[combiner]
        ids = {id(p) for p in model.shared_parameters()}
        shared = nn.utils.parameters_to_vector(
            [torch.full_like(p, float(id(p) in ids)) for p in model.parameters()]
        ).bool()
        result = sharp.sum(0)
        plain, sharp = plain[:, shared], sharp[:, shared]
        result[shared] = aggregate(plain) + aggregate(sharp - plain)
        return result
    return sharp.mean(0) if combiner == "mean" else sharp.sum(0)


@pytest.mark.parametrize("combiner", ["mean", "sum", *AGGREGATORS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("missing", [False, True])
def test_gradients(combiner, dtype, missing):
    data = with_missing(0.8) if missing else tiny_data()
    model, start = (tiny_model(data).to(dtype) for _ in range(2))
    kind = "aggregator" if combiner in AGGREGATORS else "scalarizer"
    step = first_step(model, data, flatness=RHO, **{kind: combiner})
    start.scale = model.scale
    expected = by_hand(start, step["batch"], combiner)
    tolerance = 1e-3 if dtype == torch.float32 else 1e-8
    found = flat(step["gradients"], start)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("options", [{"scalarizer": "uw"}, {"aggregator": "upgrad"}])
@pytest.mark.parametrize(
    "data",
    [tiny_data(), with_missing(), disjoint_data({"a": 8, "b": 16})],
    ids=["aligned", "missing", "disjoint"],
)
def test_a_radius_of_zero_is_plain_training(options, data):
    models = [tiny_model(data, dropout=0.3).double() for _ in range(2)]
    for model, own in zip(models, ({"flatness": 0.0}, {}), strict=True):
        qmtl.fit(model, data, max_epochs=2, **own, **options, **QUIET)
    assert_alike(*models)


def test_of_one_task_aggregators_and_scalarizers_make_the_same():
    data = tiny_data().subset(["a"])
    models = [tiny_model(data).double() for _ in range(2)]
    for model, own in zip(models, ({"scalarizer": "mean"}, {"aggregator": "sum"}), strict=True):
        qmtl.fit(model, data, max_epochs=2, flatness=RHO, **own, **QUIET)
    assert_alike(*models)


def test_units_are_dropped_alike_at_both_points():
    """With a vanishing radius the gradient is the plain one, whatever is dropped."""
    data = tiny_data()
    models = [tiny_model(data, dropout=0.5).double() for _ in range(2)]
    for model, rho in zip(models, (1e-9, 0.0), strict=True):
        qmtl.fit(model, data, max_epochs=2, flatness=rho, **QUIET)
    assert_alike(*models, tolerance=1e-5)


@pytest.mark.parametrize(
    "data", [with_missing(), disjoint_data({"a": 8, "b": 24})], ids=["missing", "disjoint"]
)
@pytest.mark.parametrize("options", [{"scalarizer": "igb"}, {"aggregator": "pcgrad"}])
def test_resumes_bit_for_bit(tmp_path, data, options):
    make = lambda: tiny_model(data, dropout=0.2)  # noqa: E731
    assert_resumes(tmp_path, make, data, flatness=0.1, **options)


def test_a_task_without_labels_stays_bit_for_bit():
    data = disjoint_data({"a": 8, "b": 24})
    model = tiny_model(data)
    step = first_step(model, data, flatness=0.1, optimizer="adamw")
    absent = step["batch"].targets.isnan().all(0).tolist().index(True)
    own = model.head.blocks.row_of == absent
    before, after = (step[when]["head.blocks.parameter"][0] for when in ("before", "after"))
    assert torch.equal(before[own], after[own])
    assert not torch.equal(before[~own], after[~own])


@pytest.mark.parametrize("options", [{}, {"aggregator": "upgrad"}])
def test_in_mixed_precision_gradients_are_near_those_of_single(options):
    found = []
    for precision in ("32-true", "bf16-mixed"):
        data, spy = tiny_data(), Spy()
        settings = qmtl.TrainingSettings(flatness=0.1, batch_size=8, optimizer="sgd", **options)
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", precision=precision, callbacks=[spy], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        model = tiny_model(data)
        trainer.fit(MultiTaskModule(model, settings), MultiTaskDataModule(data, settings))
        found.append(flat(spy.steps[0]["gradients"], model))
    torch.testing.assert_close(found[1], found[0], atol=0.05 * float(found[0].norm()), rtol=0.1)


def test_what_is_refused():
    data = tiny_data()
    for name in ("nashmtl", "gradvac"):
        with pytest.raises(InvalidInputError, match=f"flatness does not go .* '{name}', which"):
            qmtl.fit(tiny_model(data), data, flatness=0.1, aggregator=name, **QUIET)
    with pytest.raises(InvalidInputError, match=r"flatness\.rho: .*greater than or equal to 0"):
        qmtl.fit(tiny_model(data), data, flatness=-0.1, **QUIET)
    with pytest.raises(InvalidInputError, match=r"unknown key 'flatness\.radius'\. Known: rho"):
        qmtl.TrainingSettings(flatness={"radius": 1})


def test_a_recipe_holds_the_radius(tmp_path):
    assert "# flatness =\n" in read_recipe("digits").as_toml()
    recipe = read_recipe("digits", ["training.flatness=0.1"])
    assert "flatness = 0.1\n" in recipe.as_toml()
    (tmp_path / "again.toml").write_text(recipe.as_toml())
    assert read_recipe(tmp_path / "again.toml").training.flatness.rho == 0.1
