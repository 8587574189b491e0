"""MAXL: its gradients by plain torch, look-ahead step included; what equals plain training."""

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from torch.nn import functional as nnf

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.methods import masked_softmax
from qmtl.simulators import LightConeSimulator
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


class Steps(Callback):
    """What the method has before each step, and the gradients that it gets."""

    def __init__(self):
        self.before, self.gradients = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        (method,) = pl_module.methods
        self.before.append({n: p.detach().clone() for n, p in method.named_parameters()})

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        (method,) = pl_module.methods
        self.gradients.append({n: p.grad.clone() for n, p in method.named_parameters()})


def _model(data, head, simulator="lightcone"):
    circuit = qmtl.HeadCircuit(data.tasks)
    encoder = qmtl.encoders.MLP(3, 5, out_features=circuit.n_features, seed=0)
    if head == "quantum":
        built = qmtl.QuantumHead(circuit, simulator, seed=0)
    else:
        built = qmtl.heads.LinearHead(data.tasks, circuit.n_features, seed=0)
    return qmtl.MultiTaskModel(encoder, built).double()


def _own_losses(logits, targets):
    """Mean over tasks a, b of their mean losses over labelled rows."""
    a, b = (targets[name] for name in "ab")
    there = ~a.isnan()
    first = nnf.binary_cross_entropy_with_logits(logits["a"][there, 0], a[there].double())
    return (first + nnf.cross_entropy(logits["b"], b, ignore_index=-100)) / 2


def _auxiliary(features, scores, layer, targets, n_sub):
    """Cross-entropy with the sub-classes' distributions, and minus the entropy of their means."""
    own = features @ layer["weight"].T + layer["bias"]
    start, losses, entropies = 0, [], []
    for name, n_classes in (("a", 2), ("b", 3)):
        labels = targets[name].nan_to_num(nan=-100).long()
        columns = slice(start, start + n_classes * n_sub)
        start += n_classes * n_sub
        soft, kept = [], []
        for row, label in enumerate(labels.tolist()):
            if label >= 0:
                inner = scores[row, columns][label * n_sub : (label + 1) * n_sub].softmax(0)
                whole = torch.zeros(n_classes * n_sub, dtype=inner.dtype)
                soft.append(
                    torch.cat([whole[: label * n_sub], inner, whole[(label + 1) * n_sub :]])
                )
                kept.append(row)
        soft = torch.stack(soft)
        losses.append(-(soft * own[kept][:, columns].log_softmax(1)).sum(1).mean())
        mean = soft.mean(0)
        entropies.append((mean * mean.clamp(min=1e-12).log()).sum())
    return sum(losses) / 2, sum(entropies) / 2


@pytest.mark.parametrize("head", ["linear", "quantum"])
def test_the_gradients_of_a_step_by_plain_torch(head):
    data = with_missing(0.3).subset(["a", "b"])
    spy, steps = Spy(), Steps()
    options = {"subclasses": 2, "weight": 0.7, "entropy": 0.3, "look_ahead": 0.5, "hidden": 4}
    qmtl.fit(
        _model(data, head), data, max_epochs=1, auxiliary=options, callbacks=[spy, steps], **QUIET
    )
    batch, phi = spy.steps[0]["batch"], steps.before[0]
    targets = {"a": batch.targets[:, 0], "b": batch.targets[:, 1].nan_to_num(nan=-100).long()}
    # The eager engine has second derivatives.
    model = _model(data, head, LightConeSimulator(engine="eager"))
    theta = dict(model.named_parameters())
    inputs = batch.inputs.double()

    phi = {name: value.requires_grad_() for name, value in phi.items()}
    layer = {name: phi[f"layer.{name}"] for name in ("weight", "bias")}
    features = model.encoder(inputs)
    hidden = (features.detach() @ phi["generator.0.weight"].T + phi["generator.0.bias"]).relu()
    scores = hidden @ phi["generator.2.weight"].T + phi["generator.2.bias"]
    auxiliary, entropy = _auxiliary(features, scores, layer, targets, 2)
    objective = _own_losses(model(inputs), targets) + 0.7 * auxiliary
    slopes = torch.autograd.grad(objective, list(theta.values()), create_graph=True)
    moved = {n: p - 0.5 * g for (n, p), g in zip(theta.items(), slopes, strict=True)}
    logits = torch.func.functional_call(model, moved, (inputs,))
    meta = _own_losses(logits, targets) + 0.3 * entropy
    generator = [name for name in phi if name.startswith("generator")]
    expected = torch.autograd.grad(meta, [phi[n] for n in generator], retain_graph=True)
    for name, gradient in zip(generator, expected, strict=True):
        torch.testing.assert_close(steps.gradients[0][name], gradient, atol=1e-7, rtol=1e-5)
        assert float(gradient.abs().max()) > 1e-5
    of_layer = torch.autograd.grad(objective, list(layer.values()), retain_graph=True)
    for name, gradient in zip(layer, of_layer, strict=True):
        torch.testing.assert_close(
            steps.gradients[0][f"layer.{name}"], gradient, atol=1e-7, rtol=1e-5
        )
    for (name, _), gradient in zip(theta.items(), slopes, strict=True):
        torch.testing.assert_close(
            spy.steps[0]["gradients"][name], gradient.detach(), atol=1e-7, rtol=1e-5
        )


def test_masked_softmax():
    scores = torch.tensor([[1.0, 3.0, 9.0, 9.0], [7.0, 7.0, 2.0, 2.0]])
    found = masked_softmax(scores, torch.tensor([0, 1]), 2)
    e = 2.718281828459045
    expected = [[1 / (1 + e**2), e**2 / (1 + e**2), 0, 0], [0, 0, 0.5, 0.5]]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("options", [{}, {"aggregator": "upgrad"}])
def test_without_a_weight_it_is_plain_training(options):
    data = tiny_data()
    plain, other = tiny_model(data, dropout=0.3), tiny_model(data, dropout=0.3)
    qmtl.fit(plain, data, max_epochs=2, **QUIET, **options)
    qmtl.fit(other, data, max_epochs=2, auxiliary={"weight": 0}, **QUIET, **options)
    assert same_state(plain, other)


def test_one_sub_class_is_the_class_and_leaves_nothing_to_generate():
    data, steps = tiny_data(), Steps()
    auxiliary = {"subclasses": 1}
    qmtl.fit(tiny_model(data), data, max_epochs=1, auxiliary=auxiliary, callbacks=[steps], **QUIET)
    for gradients in steps.gradients:
        for name, gradient in gradients.items():
            assert bool(gradient.any()) == name.startswith("layer")


def test_the_entropy_term_keeps_sub_classes_in_use():
    data = tiny_data(n=60)

    def used(entropy):
        steps = Steps()
        options = {"subclasses": 3, "entropy": entropy, "tasks": ["b"]}
        qmtl.fit(
            tiny_model(data), data, max_epochs=6, auxiliary=options, callbacks=[steps],
            learning_rate=0.05, restore_best=False, **QUIET,
        )  # fmt: skip
        # The biases alone say how unequal the sub-classes have become.
        bias = steps.before[-1]["generator.2.bias"].view(3, 3)
        return float((bias.softmax(1) * bias.log_softmax(1)).sum(1).mean())

    assert used(5.0) < used(0.0)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("aligned", {"scalarizer": "uw"}),
        ("missing", {"aggregator": "upgrad"}),
        ("disjoint", {"scalarizer": "uw"}),
    ],
)
def test_resumes_bit_for_bit(tmp_path, kind, options):
    data = {
        "aligned": tiny_data, "missing": lambda: with_missing(0.5, n=40),
        "disjoint": lambda: disjoint_data({"a": 16, "b": 24}),
    }[kind]()  # fmt: skip
    make = lambda: tiny_model(data, dropout=0.3)  # noqa: E731
    assert_resumes(tmp_path, make, data, auxiliary=2, seed=2, **options)


def test_what_it_is_not_for():
    data = tiny_data()
    for tasks in (["c"], ["a", "d"]):
        with pytest.raises(InvalidInputError, match="auxiliary: sub-classes need tasks that are"):
            qmtl.fit(tiny_model(data), data, auxiliary={"tasks": tasks}, **QUIET)
    with pytest.raises(InvalidInputError, match="'e'"):
        qmtl.fit(tiny_model(data), data, auxiliary={"tasks": ["e"]}, **QUIET)
    with pytest.raises(ValueError, match="auxiliary needs devices = 1, got 2"):
        TrainingSettings(auxiliary=True, devices=2)
