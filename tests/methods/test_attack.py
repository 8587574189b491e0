"""Attacks on inputs: against numpy, on models whose gradient is known."""

import numpy as np
import pytest
import torch

import qmtl
from qmtl.data import Split
from qmtl.errors import InvalidInputError
from qmtl.methods import Attack, attacked_split
from qmtl.training import evaluate
from tests.training.samples import tiny_data, tiny_model, with_missing

TASKS = [qmtl.Task.binary("a"), qmtl.Task.regression("b")]


def _linear(dtype):
    head = qmtl.heads.LinearHead(TASKS, 4, seed=0)
    model = qmtl.MultiTaskModel(qmtl.encoders.Identity(4), head).to(dtype)
    model.set_target_scale("b", torch.tensor(1.0), torch.tensor(2.0))
    return model


def _rows(n=6):
    rng = np.random.default_rng(0)
    targets = {
        "a": torch.tensor([0.0, 1.0, torch.nan] * (n // 3)),
        "b": torch.full((n,), 3.0).double(),
    }
    return Split(torch.tensor(rng.normal(size=(n, 4)), dtype=torch.float32), targets)


def _gradient(model, inputs, split, tasks):
    """Of the losses' sum over rows and tasks, by calculus."""
    layers = {t.name: model.head(torch.eye(4, dtype=inputs.dtype))[t.name] for t in TASKS}
    bias = {t.name: model.head(torch.zeros(1, 4, dtype=inputs.dtype))[t.name] for t in TASKS}
    total = np.zeros(inputs.shape)
    for name in tasks:
        b = bias[name].item()
        w = layers[name].detach().numpy()[:, 0] - b
        z = inputs.numpy() @ w + b
        y = split.targets[name].numpy()
        slope = 1 / (1 + np.exp(-z)) - y if name == "a" else 2 * (z - (y - 1) / 2)
        total += np.nan_to_num(slope)[:, None] * w
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tasks", [None, ["a"]])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_by_calculus(dtype, tasks, norm):
    model, split = _linear(dtype), _rows()
    attack = Attack(attack="fgsm", epsilon=0.25, norm=norm, tasks=tasks)
    found = attacked_split(model, split, attack, batch_size=4)
    g = _gradient(model, split.inputs.to(dtype), split, tasks or ["a", "b"])
    lengths = np.maximum(np.linalg.norm(g, axis=1, keepdims=True), 1e-30)
    moved = 0.25 * (np.sign(g) if norm == "linf" else g / lengths)
    np.testing.assert_allclose(found.inputs, split.inputs.numpy() + moved, atol=1e-6)
    assert found.targets is split.targets
    if tasks == ["a"]:
        assert torch.equal(found.inputs[2], split.inputs[2])  # no label of the attacked task


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_steps_by_numpy(norm):
    """A loss with its maximum inside the ball: every step is seen, and repeated in numpy."""
    top, seen = np.array([[0.03, -0.5]]), []

    def gradient(x):
        seen.append(x.numpy().copy())
        return torch.tensor(top) - x

    attack = Attack(epsilon=0.1, steps=4, step_size=0.04, norm=norm)
    start = torch.zeros(1, 2, dtype=torch.float64)
    found = attack.changed(start, gradient)
    x = seen[0]
    assert x.any()  # a random start
    for later in [*seen[1:], found.numpy()]:
        g = top - x
        x = x + 0.04 * (np.sign(g) if norm == "linf" else g / np.linalg.norm(g))
        size = np.linalg.norm(x)
        x = np.clip(x, -0.1, 0.1) if norm == "linf" else x * min(1, 0.1 / size)
        np.testing.assert_allclose(later, x, atol=1e-12)
    assert len(seen) == 4
    again = attack.changed(start, lambda x: torch.tensor(top) - x)
    assert torch.equal(again, found)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_start_is_uniform_in_the_ball(norm):
    starts = []
    attack = Attack(epsilon=2.0, steps=1, norm=norm)
    inputs = torch.zeros(4000, 3)
    attack.changed(inputs, lambda x: starts.append(x.clone()) or x)
    sizes = starts[0].abs().amax(1) if norm == "linf" else starts[0].norm(dim=1)
    assert float(sizes.max()) <= 2.0 + 1e-6
    # The cube of the radius is uniform in three dimensions.
    assert float(((sizes / 2) ** 3).mean()) == pytest.approx(0.5, abs=0.02)


def test_limits_of_pixels():
    attack = Attack(attack="fgsm", epsilon=0.3, low=0, high=1)
    inputs = torch.tensor([[0.1, 0.9, 0.5]])
    moved = attack.changed(inputs, lambda x: torch.tensor([[-1.0, 1.0, 1.0]]))
    torch.testing.assert_close(moved, torch.tensor([[0.0, 1.0, 0.8]]))
    with pytest.raises(InvalidInputError, match=r"^low must be below high, got 1\.0 and 0\.0"):
        Attack(low=1, high=0)


def test_no_radius_is_no_attack_and_a_radius_hurts():
    data = with_missing(0.3, n=120)
    model = tiny_model(data)
    qmtl.fit(model, data, max_epochs=5, progress=False)
    plain = evaluate(model, data.train)
    assert evaluate(model, data.train, attack=Attack(epsilon=0)) == plain
    attack = Attack(epsilon=0.5, steps=3)
    robust = evaluate(model, data.train, attack=attack)
    assert all(robust[task]["loss"] > plain[task]["loss"] for task in plain)
    assert robust["a"]["auroc"] < plain["a"]["auroc"]
    assert robust == evaluate(model, attacked_split(model, data.train, attack))
    single = evaluate(model, data.train, attack=Attack(epsilon=0.5, steps=3, tasks=["a"]))
    assert single["a"]["loss"] > robust["a"]["loss"]


def test_what_cannot_be_attacked():
    data = tiny_data()
    with pytest.raises(InvalidInputError, match="'e'"):
        attacked_split(tiny_model(data), data.test, Attack(tasks=["e"]))

    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(9, 8)

        def forward(self, inputs):
            return self.table(inputs.long().clamp(0, 8)[:, 0])

    circuit = qmtl.HeadCircuit([qmtl.Task.binary(name) for name in "abcd"])
    model = qmtl.MultiTaskModel(Tokens(), qmtl.QuantumHead(circuit, seed=0))
    rows = Split(torch.zeros(2, 1), {name: torch.zeros(2) for name in "abcd"})
    with pytest.raises(InvalidInputError, match="does not depend on them smoothly"):
        attacked_split(model, rows, Attack())


def test_flags_of_modalities_cannot_be_attacked():
    rows = torch.cat([torch.ones(20, 2), torch.randn(20, 3)], dim=1)
    data = qmtl.data.from_arrays(rows, {"a": rows[:, 2] > 0})
    circuit = qmtl.HeadCircuit(data.tasks)
    encoder = qmtl.encoders.Fusion({"x": 2, "y": 1}, circuit.n_features, "gated", dim=4, seed=0)
    model = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
    with pytest.raises(InvalidInputError, match="flags that say which modalities are there"):
        qmtl.fit(model, data, adversarial=0.05, max_epochs=1, progress=False)
    with pytest.raises(InvalidInputError, match="flags that say which modalities are there"):
        evaluate(model, data.test, attack=Attack())


def test_evaluation_leaves_each_module_in_its_mode():
    """A frozen encoder in evaluation mode stays so while the model trains."""
    data = tiny_data()
    model = tiny_model(data).train()
    model.encoder.eval()
    for attack in (None, Attack(epsilon=0.1)):
        qmtl.training.evaluate(model, data.test, attack=attack)
        assert model.training
        assert not model.encoder.training


def test_a_data_set_is_no_split():
    data = qmtl.data.digits(tasks=["parity"])
    circuit = qmtl.HeadCircuit(data.tasks)
    encoder = qmtl.encoders.MLP(64, out_features=circuit.n_features, seed=0)
    model = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
    for call in (lambda: evaluate(model, data), lambda: attacked_split(model, data, Attack())):
        with pytest.raises(InvalidInputError, match="split must be a Split, got MultiTaskData"):
            call()
