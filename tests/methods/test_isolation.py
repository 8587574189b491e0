"""Gradients that end at other tasks' features, against features that were cut by hand."""

import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.experiments import read_recipe
from qmtl.methods import Isolation
from tests.methods.samples import assert_alike, assert_resumes, first_step, flat, task_losses
from tests.training.samples import QUIET, disjoint_data, tiny_data, tiny_model, with_missing


def entangled_model(data):
    """One in which tasks see much of their neighbours' features from the start."""
    circuit = qmtl.HeadCircuit(data.tasks)
    encoder = qmtl.encoders.MLP(3, 5, out_features=circuit.n_features, seed=0)
    head = qmtl.QuantumHead(circuit, seed=0, initial="normal", angle_map="tanh")
    return qmtl.MultiTaskModel(encoder, head)


def gradients_of_tasks(model, batch):
    """Rows of gradients, one for each task, where each task only trains its two features."""
    rows = []
    for place, task in enumerate(model.tasks):
        features = model.encoder(batch.inputs.to(next(model.parameters()).dtype))
        own = torch.zeros(features.shape[1], dtype=torch.bool)
        own[2 * place : 2 * place + 2] = True
        logits = model.head(features * own + features.detach() * ~own)
        losses = task_losses(model, batch, logits)
        if task.name in losses:
            parameters = list(model.parameters())
            found = torch.autograd.grad(
                losses[task.name], parameters, allow_unused=True, materialize_grads=True
            )
            rows.append(torch.nn.utils.parameters_to_vector(found))
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("options", [{"scalarizer": "mean"}, {"aggregator": "sum"}])
def test_gradients(dtype, missing, options):
    data = with_missing(0.8) if missing else tiny_data()
    model, start = (entangled_model(data).to(dtype) for _ in range(2))
    step = first_step(model, data, isolation=True, **options)
    start.scale = model.scale
    rows = gradients_of_tasks(start, step["batch"])
    expected = rows.mean(0) if "scalarizer" in options else rows.sum(0)
    found = flat(step["gradients"], start)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    plain = first_step(entangled_model(data).to(dtype), data, **options)
    difference = flat(plain["gradients"], start) - expected
    assert float(difference.norm()) > 1e-2 * float(expected.norm())


def test_an_aggregator_sees_isolated_rows():
    from torchjd.aggregation import UPGrad

    data = tiny_data()
    model, start = (entangled_model(data).double() for _ in range(2))
    step = first_step(model, data, isolation=True, aggregator="upgrad")
    start.scale = model.scale
    ids = {id(p) for p in start.shared_parameters()}
    parts = [torch.full((p.numel(),), id(p) in ids) for p in start.parameters()]
    shared = torch.cat(parts)
    expected = UPGrad()(gradients_of_tasks(start, step["batch"])[:, shared])
    found = flat(step["gradients"], start)[shared]
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-8)


def test_logits_are_the_models():
    tasks = [qmtl.Task.binary("a"), qmtl.Task.multiclass("b", 5), qmtl.Task.multilabel("c", 3)]
    tasks += [qmtl.Task.binary(f"t{i}") for i in range(9)]
    circuit = qmtl.HeadCircuit(tasks)
    model = qmtl.MultiTaskModel(
        qmtl.encoders.MLP(3, out_features=circuit.n_features, seed=0),
        qmtl.QuantumHead(circuit, seed=0),
    )
    features = torch.randn(4, circuit.n_features, generator=torch.Generator().manual_seed(0))
    step = type("Step", (), {"model": model})
    for names in (None, ["t3", "b", "a"]):
        chosen = tasks if names is None else [t for n in names for t in tasks if t.name == n]
        method = Isolation().build(model, chosen, 0)
        torch.testing.assert_close(method.logits(features, step), model.logits(features, names))
    # Cones of six wires at most: a few groups.
    assert len(Isolation().build(model, tasks, 0).groups) <= 4


@pytest.mark.parametrize("options", [{}, {"aggregator": "upgrad"}])
def test_one_task_is_plain_training(options):
    data = with_missing().subset(["b"])
    models = [tiny_model(data).double() for _ in range(2)]
    for model, own in zip(models, ({"isolation": True}, {"isolation": False}), strict=True):
        qmtl.fit(model, data, max_epochs=2, **own, **options, **QUIET)
    assert_alike(*models)


@pytest.mark.parametrize(
    "data", [with_missing(), disjoint_data({"a": 8, "b": 24})], ids=["missing", "disjoint"]
)
@pytest.mark.parametrize("options", [{}, {"loss": "unified", "flatness": 0.1}])
def test_resumes_bit_for_bit(tmp_path, data, options):
    assert_resumes(tmp_path, lambda: tiny_model(data), data, isolation=True, **options)


def test_heads_without_registers_are_refused():
    data = tiny_data()
    encoder = qmtl.encoders.MLP(3, out_features=4, seed=0)
    shared = qmtl.HeadCircuit(data.tasks, layout="shared", n_wires=4)
    for head, said in (
        (qmtl.LinearHead(data.tasks, 4, seed=0), "got LinearHead"),
        (qmtl.QuantumHead(shared, seed=0), "got the layout 'shared'"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            qmtl.fit(qmtl.MultiTaskModel(encoder, head), data, isolation=True, **QUIET)


def test_a_recipe_holds_it(tmp_path):
    recipe = read_recipe("digits", ["training.isolation=true"])
    assert "isolation = true\n" in recipe.as_toml()
    (tmp_path / "again.toml").write_text(recipe.as_toml())
    assert read_recipe(tmp_path / "again.toml").training.isolation == Isolation()
