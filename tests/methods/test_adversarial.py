"""Adversarial training: a step by plain torch, and what equals plain training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.methods import with_auxiliary_tasks
from qmtl.training import TrainingSettings
from tests.methods.samples import assert_resumes
from tests.training.samples import (
    QUIET,
    Spy,
    disjoint_data,
    same_state,
    tiny_data,
    tiny_model,
    with_missing,
)


@pytest.mark.parametrize("options", [{"epsilon": 0.0}, {"share": 0.0}])
def test_an_attack_of_nothing_is_plain_training(options):
    data = tiny_data()
    plain, other = tiny_model(data, dropout=0.3), tiny_model(data, dropout=0.3)
    qmtl.fit(plain, data, max_epochs=2, **QUIET)
    qmtl.fit(other, data, max_epochs=2, adversarial=options, **QUIET)
    assert same_state(plain, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tasks", [None, ["a", "c"]])
def test_the_gradient_of_a_step_by_plain_torch(dtype, tasks):
    data, spy = with_missing(0.3), Spy()
    attack = {"attack": "fgsm", "epsilon": 0.2, "tasks": tasks}
    model = tiny_model(data).to(dtype)
    qmtl.fit(model, data, max_epochs=1, adversarial=attack, callbacks=[spy], **QUIET)
    batch, twin = spy.steps[0]["batch"], tiny_model(data).to(dtype)
    for task in data.tasks:
        if task.kind == "regression":
            values = data.train.targets[task.name]
            mean = values.nanmean()
            twin.set_target_scale(task.name, mean, (values - mean).square().nanmean().sqrt())

    def losses(x):
        logits, found = twin(x), {}
        start = 0
        for task in data.tasks:
            width = 2 if task.kind == "multilabel" else 1
            y = batch.targets[:, start : start + width]
            start += width
            there = ~y.isnan().all(1)
            z, y = logits[task.name][there], y[there]
            if task.kind == "multiclass":
                found[task.name] = torch.nn.functional.cross_entropy(z, y[:, 0].long())
            elif task.kind == "regression":
                found[task.name] = (z - twin.standardise(task, y).to(dtype)).square().mean()
            else:
                entropy = torch.nn.functional.binary_cross_entropy_with_logits
                found[task.name] = entropy(z, y.to(dtype))
        return found

    x = batch.inputs.to(dtype).requires_grad_()
    attacked = sum(losses(x)[name] for name in tasks or "abcd")
    (slope,) = torch.autograd.grad(attacked, x)
    torch.stack(list(losses((x + 0.2 * slope.sign()).detach()).values())).mean().backward()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(
            spy.steps[0]["gradients"][name], parameter.grad, atol=1e-5, rtol=1e-3
        )


def test_the_attack_leaves_no_trace_in_the_model():
    """Modes of modules, running statistics and drop-out masks are those of plain training."""
    data = tiny_data()

    class Encoder(torch.nn.Module):
        def __init__(self, width):
            super().__init__()
            self.norm, self.layer = torch.nn.BatchNorm1d(3), torch.nn.Linear(3, width)
            self.fixed = torch.nn.BatchNorm1d(3).eval()

        def forward(self, inputs):
            return self.layer(self.fixed(self.norm(inputs)))

    circuit = qmtl.HeadCircuit(data.tasks)
    model = qmtl.MultiTaskModel(Encoder(circuit.n_features), qmtl.QuantumHead(circuit, seed=0))
    spy = Spy()
    options = {"attack": "pgd", "epsilon": 0.1, "share": 0.5}
    qmtl.fit(
        model, data, max_epochs=1, adversarial=options, restore_best=False, callbacks=[spy], **QUIET
    )
    assert int(model.encoder.norm.num_batches_tracked) == len(spy.steps)
    assert int(model.encoder.fixed.num_batches_tracked) == 0


CASES = {
    "pgd": {"adversarial": {"epsilon": 0.2, "steps": 2, "share": 0.7}},
    "aggregator": {"adversarial": {"epsilon": 0.2, "attack": "fgsm"}, "aggregator": "upgrad"},
    "l2": {"adversarial": {"epsilon": 0.2, "norm": "l2"}, "scalarizer": "uw"},
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("pgd", "aligned"), ("pgd", "disjoint"), ("aggregator", "missing"), ("aggregator", "disjoint"),
     ("l2", "missing")],
)  # fmt: skip
def test_resumes_bit_for_bit(tmp_path, name, kind):
    data = {
        "aligned": tiny_data, "missing": with_missing,
        "disjoint": lambda: disjoint_data({"a": 16, "b": 24}),
    }[kind]()  # fmt: skip
    make = lambda: tiny_model(data, dropout=0.3)  # noqa: E731
    assert_resumes(tmp_path, make, data, seed=2, **CASES[name])


def test_it_helps_against_attacks_on_data_that_are_made_for_it():
    """A strong input that is small and a weak one that is large: the attack removes the first."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300).astype("float32")
    sign = 2 * y - 1
    X = np.stack([0.1 * sign, sign + rng.normal(size=300)], 1).astype("float32")
    data = qmtl.data.from_arrays(X, {"y": y}, tasks=[qmtl.Task.binary("y")])
    attack = qmtl.methods.Attack(epsilon=0.2)
    scores = {}
    for name, option in {"plain": None, "robust": {"epsilon": 0.2}}.items():
        head = qmtl.heads.LinearHead(data.tasks, 2, seed=0)
        model = qmtl.MultiTaskModel(qmtl.encoders.Identity(2), head)
        settings = {"max_epochs": 20, "learning_rate": 0.1, "weight_decay": 0.0}
        qmtl.fit(model, data, adversarial=option, progress=False, **settings)
        split = data.test
        scores[name] = [
            qmtl.training.evaluate(model, split, attack=a)["y"]["accuracy"] for a in (None, attack)
        ]
    assert scores["plain"][0] > scores["robust"][0]
    assert scores["plain"][1] < 0.6 < 0.7 < scores["robust"][1]


def test_weights_of_rows_stay():
    data = tiny_data()
    weights = torch.arange(1.0, len(data.test) + 1).double()
    rows = replace(data.test, sample_weight=weights)
    model = tiny_model(data)
    nothing = qmtl.methods.Attack(epsilon=0.0)
    found = qmtl.training.evaluate(model, rows, attack=nothing)
    assert repr(found) == repr(qmtl.training.evaluate(model, rows))
    assert repr(found) != repr(qmtl.training.evaluate(model, data.test))
    data = qmtl.data.digits(tasks=["parity"])
    data = replace(data, train=replace(data.train, sample_weight=torch.ones(1079).double()))
    more = qmtl.methods.with_auxiliary_tasks(data, ["rotation", "intensity"], image=(8, 8))
    assert torch.equal(more.train.sample_weight, torch.ones(2 * 1079).double())
    assert more.test.sample_weight is None


def test_auxiliary_tasks():
    data = qmtl.data.digits(tasks=["parity", "ink"])
    domain = np.arange(1797) % 3
    domain[:5] = -1
    kinds = ["rotation", "intensity", "domain"]
    more = with_auxiliary_tasks(data, kinds, image=(8, 8), domain=domain)
    assert [task.name for task in more.tasks] == ["parity", "ink", *kinds]
    n = len(data.train)
    train = more.train
    assert len(train) == 2 * n
    assert torch.equal(train.inputs[:n], data.train.inputs)
    for row in range(n, n + 50):
        quarter = int(train.targets["rotation"][row])
        image = np.rot90(train.inputs[row - n].reshape(8, 8).numpy(), quarter)
        np.testing.assert_array_equal(train.inputs[row].reshape(8, 8), image)
    pixels = data.train.inputs.double().numpy()
    expected = np.stack([pixels.mean(1), pixels.std(1)], 1)
    np.testing.assert_allclose(train.targets["intensity"][:n], expected)
    there = train.index[:n] >= 5
    assert torch.equal(train.targets["domain"][:n][there], train.index[:n][there] % 3)
    assert bool((train.targets["domain"][:n][~there] == -100).all())
    for task in more.tasks[:2] + more.tasks[3:]:
        assert not task.labelled(train.targets[task.name][n:]).any()
    assert not more.task("rotation").labelled(train.targets["rotation"][:n]).any()
    # They are ordinary tasks: they train, and an attack may name the main ones alone.
    circuit = qmtl.HeadCircuit(more.tasks)
    encoder = qmtl.encoders.MLP(64, 16, out_features=circuit.n_features, seed=0)
    model = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
    attack = {"epsilon": 0.05, "attack": "fgsm", "tasks": ["parity"]}
    options = {"aggregator": "mgda", "max_epochs": 3, "progress": False, "batch_size": 64}
    result = qmtl.fit(model, more, adversarial=attack, **options)
    assert result.metrics["test"]["rotation"]["accuracy"] > 0.5
    assert result.metrics["test"]["domain"]["accuracy"] < 0.6


def test_auxiliary_tasks_that_cannot_be():
    data = qmtl.data.digits(tasks=["parity"])
    for options, said in (
        ({"kinds": ["rotatoin"]}, "'rotation'"),
        ({"kinds": "rotation"}, "height and width"),
        ({"kinds": "rotation", "image": (4, 16)}, "square"),
        ({"kinds": "rotation", "image": (5, 5)}, "square"),
        ({"kinds": "domain"}, "needs domain"),
        ({"kinds": "domain", "domain": [0, 1]}, "1797"),
        ({"kinds": "domain", "domain": np.zeros(1797)}, "two codes"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            with_auxiliary_tasks(data, **options)
    twice = with_auxiliary_tasks(data, "intensity")
    with pytest.raises(InvalidInputError, match="already have a task 'intensity'"):
        with_auxiliary_tasks(twice, "intensity")


def test_settings():
    assert TrainingSettings(adversarial=0.2).adversarial.epsilon == 0.2
    # Numbers that single precision cannot square.
    for key in ("epsilon", "step_size", "low", "high"):
        with pytest.raises(InvalidInputError, match=rf"adversarial\.{key}: .* 1000"):
            TrainingSettings(adversarial={key: 1e308})
    wrong = {"epsilon": -1, "norm": "l1", "attack": "cw", "steps": 0, "share": 2, "tasks": []}
    for key, value in wrong.items():
        with pytest.raises(InvalidInputError, match=rf"adversarial\.{key}"):
            qmtl.training.settings_from(None, {"adversarial": {key: value}})
