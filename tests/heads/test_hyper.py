"""Blocks from a network of places and tokens: the formula, its limits, growth, files, tools."""

import math

import numpy as np
import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.heads import HeadOptions, HyperHead, QuantumHead, build_head, head_parameters
from qmtl.tasks import Task
from tests.heads.rival_samples import features_for, mixed_tasks
from tests.heads.test_mixture import plain_with

TASKS = [Task.binary("a"), Task.multiclass("b", 3), Task.binary("c"), Task.regression("d")]
X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
AXIS = {"RX": 0, "RY": 1, "RZ": 2, "IsingZZ": 3}


def hyper(tasks=TASKS, **options):
    shape = {"layout": "shared", "n_wires": 4} if options.pop("shared", False) else {}
    ansatz = options.pop("ansatz", None)
    return HyperHead(qmtl.HeadCircuit(tasks, ansatz=ansatz, **shape), seed=0, **options)


def rotation_places(n_wires, read):
    """(layer, wire, axis) of a `RotationAnsatz` of two layers, from its definition."""
    layers = [range(n_wires), read]
    return [(n, w, AXIS[axis]) for n, ws in enumerate(layers) for axis in ("RZ", "RY") for w in ws]


def by_hand(head, name, places, start):
    """A task's block weights by the formula, number by number, from the numbers of a state."""
    state = {key: value.double().numpy() for key, value in head.state_dict().items()}
    token = state[f"blocks.vectors.task_{name}"]
    network, d, h = state["blocks.network"], head.token, head.hidden
    first = network[: h * (18 + d)].reshape(h, 18 + d)
    bias, out, offset = np.split(network[h * (18 + d) :], [h, 2 * h])
    weights = []
    for place, angle in zip(places, start, strict=True):
        phases = [x * math.pi / 2**k for x in place for k in (1, 2, 3)]
        inputs = [math.sin(p) for p in phases] + [math.cos(p) for p in phases] + list(token)
        hidden = [math.tanh(sum(w * x for w, x in zip(row, inputs, strict=True)) + c)
                  for row, c in zip(first, bias, strict=True)]  # fmt: skip
        weights.append(angle + sum(u * x for u, x in zip(out, hidden, strict=True)) + offset[0])
    return np.array(weights)


@pytest.mark.parametrize("initial", ["equator", "normal"])
@pytest.mark.parametrize("shared", [False, True])
def test_weights_are_the_formulas_and_the_circuit_is_the_quantum_heads(shared, initial):
    head = hyper(shared=shared, token=3, initial=initial).double()
    blocks = {}
    for name, register in head.circuit.registers.items():
        n_wires = len(register.wires)
        read = range(n_wires) if name == "b" else (0,)
        turned = math.pi / 2 if initial == "equator" else 0.0
        start = [0.0] * (2 * n_wires + len(read)) + [turned] * len(read)
        blocks[name] = by_hand(head, name, rotation_places(n_wires, read), start)
    plain = plain_with(head, blocks)
    x = features_for(head, dtype=torch.float64)
    for name, logits in plain(x).items():
        torch.testing.assert_close(head.weights()[name], plain.weights()[name])
        torch.testing.assert_close(head(x)[name], logits)
        torch.testing.assert_close(head(x, [name])[name], head(x)[name])
    gates = head.with_simulator("default.qubit")(x)
    torch.testing.assert_close(gates["b"], head(x)["b"], atol=1e-8, rtol=0)


def test_tasks_with_one_token_have_one_block_whatever_they_are():
    head = hyper()
    with torch.no_grad():
        head.blocks.vectors.parameter.fill_(0.3)
    weights = head.weights()
    torch.testing.assert_close(weights["a"], weights["c"])
    torch.testing.assert_close(weights["a"], weights["d"])


def test_every_weight_has_a_place_of_its_own():
    """Also where gates with two wires have weights, and one weight turns two gates."""
    from qmtl.circuit import Angle, Gate, GateSequence, elementary
    from qmtl.heads import place_features

    gates = [Gate("IsingZZ", (i, (i + 1) % 4), Angle(weight=i)) for i in range(4)]
    gates += [Gate("RX", (i,), Angle(weight=4 + i % 2)) for i in range(4)]
    made = place_features(tuple(gates), 6)
    assert len(made.unique(dim=0)) == 6
    deep = qmtl.RotationAnsatz(n_layers=8)
    made = place_features(tuple(elementary(deep.gates(16, range(16)))), 256)
    assert len(made.round(decimals=6).unique(dim=0)) == 256
    gates = [Gate("CRZ", (0, 1), Angle(weight=0)), Gate("RY", (0,), Angle(weight=1))]
    head = hyper([Task.binary("a")], ansatz=GateSequence.of(2, gates))
    assert head(torch.zeros(2, 2))["a"].shape == (2, 1)


@pytest.mark.parametrize("token", [1, 4])
@pytest.mark.parametrize("shared", [False, True])
def test_parameters_in_closed_form(token, shared):
    head = hyper(mixed_tasks(7), token=token, shared=shared)
    options = HeadOptions(token=token)
    assert head.count_parameters() == head_parameters("hyper", head.circuit, options)
    assert build_head("hyper", head.circuit, options).token == token
    more = hyper(mixed_tasks(8), token=token, shared=shared)
    encoding = more.circuit.n_encoding_weights - head.circuit.n_encoding_weights
    assert more.count_parameters() - head.count_parameters() == token + 1 + encoding


def test_gradients():
    head = hyper().double()
    x = features_for(head, batch=2, dtype=torch.float64)

    def logits(network, tokens):
        state = {"blocks.network": network, "blocks.vectors.parameter": tokens}
        return torch.func.functional_call(head, state, (x,), {"joined": True})

    values = head.blocks.network, head.blocks.vectors.parameter
    assert torch.autograd.gradcheck(logits, tuple(v.detach().requires_grad_() for v in values))
    head(x, ["b"], joined=True).sum().backward()
    assert head.blocks.vectors.parameter.grad.view(4, 2).any(dim=1).tolist() == [
        False, True, False, False
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("task", [Task.binary("new"), Task.multiclass("new", 6)])
def test_saved_loaded_and_grown(dtype, task, tmp_path):
    head = hyper(token=3, hidden=5, initial="normal")
    encoder = qmtl.encoders.MLP(4, 8, out_features=head.n_features, seed=0)
    old = qmtl.MultiTaskModel(encoder, head).to(dtype)
    larger = old.with_task(task, seed=1)
    twice = larger.with_task(Task.regression("more"), seed=2)
    twice.save(tmp_path)
    again = qmtl.load(tmp_path)
    assert again.head.to_dict() == twice.head.to_dict()
    before = old.predict(X)
    for model in (larger, twice, again):
        found = model.predict(X)
        assert all(torch.equal(found[name], values) for name, values in before.items())
        assert torch.equal(found["new"], larger.predict(X)["new"])
    assert torch.equal(twice.head.blocks.network, head.blocks.network)


def test_a_new_task_trains_its_vector_only():
    encoder = qmtl.encoders.MLP(4, 8, out_features=4, seed=0)
    larger = qmtl.MultiTaskModel(encoder, hyper(shared=True)).with_task(Task.binary("new"), seed=1)
    before = {key: value.clone() for key, value in larger.state_dict().items()}
    data = qmtl.data.from_arrays(X, {"new": X[:, 0] > 0}, tasks=[Task.binary("new")])
    qmtl.fit(larger, data, tasks=["new"], max_epochs=2, progress=False)
    moved = {k for k, value in larger.state_dict().items() if not torch.equal(value, before[k])}
    assert moved == {"head.blocks.vectors.task_new", "head.scales.task_new"}


def test_other_tools_take_it_as_a_quantum_head(tmp_path):
    head = hyper()
    plain = head.with_own_weights()
    assert type(plain) is QuantumHead
    x = features_for(head)
    assert all(torch.equal(logits, plain(x)[name]) for name, logits in head(x).items())
    assert head.to_qasm() == plain.to_qasm()
    head = hyper([TASKS[0], TASKS[2]])  # to export classes takes seconds
    model = qmtl.MultiTaskModel(qmtl.encoders.MLP(4, out_features=head.n_features), head)
    model.export(tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for name, values in model.predict(X).items():
        torch.testing.assert_close(program(X)[name], values, check_dtype=False, rtol=0, atol=1e-5)


def test_errors():
    for name in ("token", "hidden"):
        with pytest.raises(InvalidInputError, match=f"{name} must be an integer >= 1, got 0"):
            hyper(**{name: 0})
    with pytest.raises(InvalidInputError, match="initial 'pole'"):
        hyper(initial="pole")
