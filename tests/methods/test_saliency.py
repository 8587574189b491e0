"""Saliency terms against numpy, and their second-order gradients against finite differences."""

import copy

import numpy as np
import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.experiments import read_recipe
from qmtl.methods import Saliency
from tests.methods.samples import assert_alike, assert_resumes, first_step, flat, task_losses
from tests.training.samples import (
    QUIET,
    SIMULATOR,
    disjoint_data,
    tiny_data,
    tiny_model,
    with_missing,
)

OPTIONS = {"entropy": 0.7, "alignment": 0.4, "temperature": 0.3}


def saliency_by_hand(model, batch):
    """Each task's gradient by features, (tasks, rows, features), and where labels are."""
    features = model.encoder(batch.inputs.double()).detach().requires_grad_()
    losses = task_losses(model, batch, model.head(features))
    rows = [torch.autograd.grad(loss, features, retain_graph=True)[0] for loss in losses.values()]
    targets = batch.targets[:, :4].T.numpy()
    present = [t.name in losses for t in model.tasks]
    return torch.stack(rows).numpy(), ~np.isnan(targets)[present]


def terms_by_hand(saliency, labelled):
    """Both terms with their weights, in loops."""
    n_tasks, n_rows, n_features = saliency.shape
    entropies = []
    for feature in range(n_features):
        sizes = np.abs(saliency[:, :, feature]).mean(1)
        if sizes.sum():
            shares = sizes[sizes > 0] / sizes.sum()
            entropies.append(-(shares * np.log(shares)).sum())
    terms = []
    units = [
        [s / np.linalg.norm(s) if known else None for s, known in zip(*pair, strict=True)]
        for pair in zip(saliency, labelled, strict=True)
    ]
    for task in range(n_tasks):
        others = []
        for row in range(n_rows):
            rest = [units[t][row] for t in range(n_tasks) if t != task and labelled[t][row]]
            mean = sum(rest) if rest and labelled[task][row] else None
            others.append(None if mean is None else mean / np.linalg.norm(mean))
        for row in range(n_rows):
            if others[row] is not None:
                scores = [
                    units[task][row] @ o / OPTIONS["temperature"] for o in others if o is not None
                ]
                own = units[task][row] @ others[row] / OPTIONS["temperature"]
                terms.append(np.log(np.exp(scores).sum()) - own)
    aligned = np.mean(terms) if terms else 0.0
    return OPTIONS["entropy"] * np.mean(entropies) + OPTIONS["alignment"] * aligned


def entangled_model(data):
    circuit = qmtl.HeadCircuit(data.tasks)
    encoder = qmtl.encoders.MLP(3, 5, out_features=circuit.n_features, seed=0, activation="tanh")
    head = qmtl.QuantumHead(circuit, SIMULATOR, seed=0, initial="normal", angle_map="tanh")
    return qmtl.MultiTaskModel(encoder, head).double()


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("options", [{"scalarizer": "mean"}, {"aggregator": "upgrad"}])
def test_the_gradient_of_the_terms(missing, options):
    data = (with_missing(0.4) if missing else tiny_data()).subset(["a", "b", "c"])
    models = [entangled_model(data) for _ in range(3)]
    steps = [
        first_step(model, data, **own, **options)
        for model, own in zip(models[:2], ({"saliency": OPTIONS}, {}), strict=True)
    ]
    difference = flat(steps[0]["gradients"], models[0]) - flat(steps[1]["gradients"], models[0])
    start, batch = models[2], steps[0]["batch"]
    start.scale = models[0].scale
    point = torch.nn.utils.parameters_to_vector(start.parameters()).detach()

    def value(vector):
        moved = copy.deepcopy(start)
        torch.nn.utils.vector_to_parameters(vector, moved.parameters())
        return terms_by_hand(*saliency_by_hand(moved, batch))

    rng = np.random.default_rng(0)
    for _ in range(4):
        direction = torch.from_numpy(rng.normal(size=len(point)))
        slope = (value(point + 1e-6 * direction) - value(point - 1e-6 * direction)) / 2e-6
        assert float(difference @ direction) == pytest.approx(slope, rel=1e-4, abs=1e-6)
        assert abs(slope) > 1e-4


@pytest.mark.parametrize("how", ["weights of zero", "one task"])
@pytest.mark.parametrize("options", [{"scalarizer": "uw"}, {"aggregator": "upgrad"}])
def test_plain_training(how, options):
    data = with_missing() if how == "weights of zero" else with_missing().subset(["a"])
    saliency = {"entropy": 0, "alignment": 0} if how == "weights of zero" else True
    models = [tiny_model(data).double() for _ in range(2)]
    for model, own in zip(models, ({"saliency": saliency}, {}), strict=True):
        qmtl.fit(model, data, max_epochs=2, **own, **options, **QUIET)
    assert_alike(*models)


def test_identical_tasks_have_the_largest_entropy():
    from qmtl.methods._saliency import entropy_of_tasks

    same = torch.rand(1, 5, 4, dtype=torch.double).expand(3, 5, 4).clone().requires_grad_()
    entropy = entropy_of_tasks(same)
    (gradient,) = torch.autograd.grad(entropy, same)
    assert float(entropy.detach()) == pytest.approx(np.log(3))
    assert float(gradient.abs().max()) < 1e-12


def test_in_training_the_entropy_falls():
    from qmtl.methods._saliency import entropy_of_tasks

    data, entropies = tiny_data(), []
    for own in ({}, {"saliency": {"entropy": 2.0, "alignment": 0.0}}):
        model = entangled_model(data).float()
        qmtl.fit(model, data, max_epochs=15, restore_best=False, **own, **QUIET)
        model = model.double()
        batch = qmtl.methods.Batch(
            data.train.inputs, qmtl.tasks.task_layout(model.tasks).join_targets(data.train.targets)
        )
        entropies.append(float(entropy_of_tasks(torch.tensor(saliency_by_hand(model, batch)[0]))))
    assert entropies[1] < 0.9 * entropies[0]


@pytest.mark.parametrize(
    ("kind", "options", "dtype"),
    [
        ("missing", {}, torch.float32),
        ("missing", {"aggregator": "upgrad"}, torch.float64),
        ("disjoint", {}, torch.float64),
        ("disjoint", {"aggregator": "upgrad"}, torch.float32),
    ],
)
def test_resumes_bit_for_bit(tmp_path, kind, options, dtype):
    data = with_missing() if kind == "missing" else disjoint_data({"a": 8, "b": 24})
    make = lambda: tiny_model(data).to(dtype)  # noqa: E731
    assert_resumes(tmp_path, make, data, saliency=True, max_epochs=3, **options)


def test_other_heads():
    data = tiny_data()
    encoder = qmtl.encoders.MLP(3, out_features=4, seed=0)
    model = qmtl.MultiTaskModel(encoder, qmtl.LinearHead(data.tasks, 4, seed=0))
    assert qmtl.fit(model, data, saliency=True, max_epochs=1, **QUIET).epochs == 1
    shots = qmtl.simulators.ShotSimulator(qmtl.simulators.LightConeSimulator(), 9)
    sampled = qmtl.QuantumHead(qmtl.HeadCircuit(data.tasks), shots, seed=0)
    for head in (sampled, qmtl.heads.ExtendedHead(sampled, [qmtl.Task.binary("e")], seed=0)):
        encoder = qmtl.encoders.MLP(3, out_features=head.n_features, seed=0)
        with pytest.raises(InvalidInputError, match=r"saliency needs exact values, got .*ShotSim"):
            qmtl.fit(qmtl.MultiTaskModel(encoder, head), data, saliency=True, **QUIET)


def test_what_is_refused():
    for options, said in (
        ({"saliency": True, "devices": 2}, "saliency needs devices = 1, got 2: samples are"),
        ({"saliency": {"entropy": -1}}, "greater than or equal to 0"),
        ({"saliency": 0.1}, "saliency"),
        ({"saliency": True, "isolation": True}, "saliency does not go together with isolation"),
    ):
        with pytest.raises(ValueError, match=said):
            qmtl.TrainingSettings(**options)


def test_a_recipe_holds_it(tmp_path):
    recipe = read_recipe("digits", ["training.saliency.entropy=0.5"])
    (tmp_path / "again.toml").write_text(recipe.as_toml())
    assert read_recipe(tmp_path / "again.toml").training.saliency == Saliency(entropy=0.5)
