"""Blocks mixed from an inventory: the formula, its limits, growth, files, and other tools."""

import numpy as np
import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.heads import HeadOptions, MixtureHead, QuantumHead, build_head, head_parameters
from qmtl.simulators import LightConeSimulator, ShotSimulator
from qmtl.tasks import Task
from tests.heads.rival_samples import features_for, mixed_tasks

TASKS = [Task.binary("a"), Task.multiclass("b", 3), Task.binary("c"), Task.regression("d")]
X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))


def mixture(tasks=TASKS, inventory=3, **options):
    shape = {"layout": "shared", "n_wires": 4} if options.pop("shared", False) else {}
    return MixtureHead(qmtl.HeadCircuit(tasks, **shape), inventory=inventory, seed=0, **options)


def plain_with(head, blocks):
    """An ordinary head with the mixture's encoding and scales, and these block weights."""
    plain = QuantumHead(head.circuit, angle_map=head.angle_map, seed=1).to(head.encoding.dtype)
    state = plain.state_dict() | {"encoding": head.encoding.detach()}
    state |= {f"blocks.task_{name}": torch.as_tensor(v) for name, v in blocks.items()}
    state |= {k: v for k, v in head.state_dict().items() if k.startswith("scales.")}
    plain.load_state_dict(state)
    return plain


def mixed_by_hand(head, groups, sizes):
    """Block weights by the formula, in numpy, from the numbers of a state."""
    state = {key: value.double().numpy() for key, value in head.state_dict().items()}
    blocks, start = {}, 0
    for names, size in zip(groups, sizes, strict=True):
        n = head.inventory * size
        own = state["blocks.inventory"][start : start + n].reshape(head.inventory, size)
        start += n
        for name in names:
            v = state[f"blocks.vectors.task_{name}"]
            a = [value - sum(v) / len(v) + 1 / len(v) for value in v]
            assert sum(a) == pytest.approx(1)
            blocks[name] = sum(a[s] * own[s] for s in range(head.inventory))
    assert start == len(state["blocks.inventory"])
    return {name: value.astype(np.float64) for name, value in blocks.items()}


@pytest.mark.parametrize("shared", [False, True])
def test_weights_are_the_formulas_and_the_circuit_is_the_quantum_heads(shared):
    head = mixture(shared=shared).double()
    sizes = [len(head.weights()[name]) for name in ("a", "b")]
    blocks = mixed_by_hand(head, [("a", "c", "d"), ("b",)], sizes)
    plain = plain_with(head, blocks)
    x = features_for(head, dtype=torch.float64)
    for name, logits in plain(x).items():
        torch.testing.assert_close(head(x)[name], logits)
        torch.testing.assert_close(head(x, [name])[name], logits)
        torch.testing.assert_close(head.weights()[name], plain.weights()[name])
    gates = head.with_simulator("default.qubit")(x)
    torch.testing.assert_close(gates["b"], plain(x)["b"], atol=1e-8, rtol=0)


def test_one_block_is_every_tasks_block():
    head = mixture(inventory=1)
    weights = head.weights()
    assert torch.equal(weights["a"], head.blocks.inventory[:6])
    assert all(torch.equal(weights[name], weights["a"]) for name in "cd")


def test_one_hot_coefficients_are_a_plain_head():
    head = mixture([Task.binary(n) for n in "abc"])
    with torch.no_grad():
        for place, name in enumerate("abc"):
            head.blocks.vectors[name].copy_(torch.eye(3)[place])
    own = head.blocks.inventory.detach().view(3, 6)
    plain = plain_with(head, dict(zip("abc", own, strict=True)))
    x = features_for(head)
    torch.testing.assert_close(head(x, joined=True), plain(x, joined=True))


def test_a_turn_that_all_blocks_have_is_in_every_mixture():
    """So a whole period is none."""
    head = mixture().double()
    before = head.weights()
    x = features_for(head, dtype=torch.float64)
    logits = head(x, joined=True)
    with torch.no_grad():
        head.blocks.inventory.add_(2 * torch.pi)
    for name in "abcd":
        torch.testing.assert_close(head.weights()[name], before[name] + 2 * torch.pi)
    torch.testing.assert_close(head(x, joined=True), logits)


@pytest.mark.parametrize("initial", ["equator", "normal"])
def test_blocks_start_as_those_of_the_quantum_head(initial):
    blocks = mixture(initial=initial, inventory=40).blocks.inventory.detach()[:240].view(40, 6)
    last = blocks[:, 5]
    assert abs(float(last.mean()) - (torch.pi / 2 if initial == "equator" else 0)) < 0.3
    assert float(last.std()) == pytest.approx(0.1 if initial == "equator" else 0.5, rel=0.4)


@pytest.mark.parametrize("inventory", [1, 2, 5])
@pytest.mark.parametrize("shared", [False, True])
def test_parameters_in_closed_form(inventory, shared):
    head = mixture(mixed_tasks(7), inventory, shared=shared)
    options = HeadOptions(inventory=inventory)
    assert head.count_parameters() == head_parameters("mixture", head.circuit, options)
    assert build_head("mixture", head.circuit, options).inventory == inventory


def test_gradients():
    head = mixture().double()
    x = features_for(head, batch=2, dtype=torch.float64)

    def logits(inventory, vectors):
        state = {"blocks.inventory": inventory, "blocks.vectors.parameter": vectors}
        return torch.func.functional_call(head, state, (x,), {"joined": True})

    values = head.blocks.inventory, head.blocks.vectors.parameter
    assert torch.autograd.gradcheck(logits, tuple(v.detach().requires_grad_() for v in values))
    # All tasks of a shape train the inventory; a task's vector is its own.
    head(x, ["a"], joined=True).sum().backward()
    assert head.blocks.inventory.grad[:18].all()
    assert not head.blocks.inventory.grad[18:].any()
    assert head.blocks.vectors.parameter.grad.view(4, 3).any(dim=1).tolist() == [True] + 3 * [False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_loaded_and_grown(dtype, tmp_path):
    head = mixture()
    encoder = qmtl.encoders.MLP(4, 8, out_features=head.n_features, seed=0)
    old = qmtl.MultiTaskModel(encoder, head).to(dtype)
    larger = old.with_task(Task.binary("new"), seed=1)
    assert isinstance(larger.head, MixtureHead)
    larger.save(tmp_path)
    again = qmtl.load(tmp_path)
    assert again.head.inventory == 3
    before = old.predict(X)
    for model in (larger, again):
        found = model.predict(X)
        assert all(torch.equal(found[name], values) for name, values in before.items())
        assert torch.equal(found["new"], larger.predict(X)["new"])
    # The inventory stays; what is new is a vector, a scale, and the register's encoding.
    assert torch.equal(larger.head.blocks.inventory, head.blocks.inventory)
    assert larger.head.count_parameters() - head.count_parameters() == 3 + 1 + 2


def test_a_new_task_trains_its_vector_only():
    encoder = qmtl.encoders.MLP(4, 8, out_features=4, seed=0)
    old = qmtl.MultiTaskModel(encoder, mixture(shared=True))
    larger = old.with_task(Task.binary("new"), seed=1)
    before = {key: value.clone() for key, value in larger.state_dict().items()}
    others = larger.predict(X)
    data = qmtl.data.from_arrays(X, {"new": X[:, 0] > 0}, tasks=[Task.binary("new")])
    qmtl.fit(larger, data, tasks=["new"], max_epochs=2, progress=False)
    moved = {k for k, value in larger.state_dict().items() if not torch.equal(value, before[k])}
    assert moved == {"head.blocks.vectors.task_new", "head.scales.task_new"}
    found = larger.predict(X)
    assert all(torch.equal(found[name], others[name]) for name in "abcd")


@pytest.mark.parametrize("options", [{"aggregator": "upgrad"}, {"scalarizer": "mean"}])
def test_all_of_it_is_trained(options):
    head = mixture()
    model = qmtl.MultiTaskModel(qmtl.encoders.MLP(4, 8, out_features=head.n_features), head)
    labels = {"a": X[:, 0] > 0, "b": (X[:, 1] > 0).long(), "c": X[:, 2] > 0, "d": X[:, 3]}
    data = qmtl.data.from_arrays(X, labels, tasks=TASKS)
    before = [p.detach().clone() for p in head.parameters()]
    qmtl.fit(model, data, max_epochs=1, progress=False, **options)
    for parameter, value in zip(head.parameters(), before, strict=True):
        assert (parameter != value).all()


def test_other_tools_take_it_as_a_quantum_head(tmp_path):
    from qmtl.hardware import prepare

    head = mixture()
    plain = head.with_own_weights()
    assert type(plain) is QuantumHead
    x = features_for(head)
    for name, logits in head(x).items():
        assert torch.equal(logits, plain(x)[name])
    assert head.to_qasm() == plain.to_qasm()
    ours, theirs = (prepare(each, x, "aer", shots=8, predict=False) for each in (head, plain))
    assert ours.request == theirs.request
    shots = head.with_simulator(ShotSimulator(LightConeSimulator(), shots=7, seed=0))
    assert isinstance(shots, MixtureHead)
    assert torch.equal(shots.blocks.inventory, head.blocks.inventory)
    head = mixture([TASKS[0], TASKS[2]])  # to export classes takes seconds
    model = qmtl.MultiTaskModel(qmtl.encoders.MLP(4, out_features=head.n_features), head)
    model.export(tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for name, values in model.predict(X).items():
        torch.testing.assert_close(program(X)[name], values, check_dtype=False, rtol=0, atol=1e-5)


def test_errors():
    with pytest.raises(InvalidInputError, match="inventory must be an integer >= 1, got 0"):
        mixture(inventory=0)
    model = qmtl.MultiTaskModel(qmtl.encoders.Identity(mixture().n_features), mixture())
    with pytest.raises(InvalidInputError, match=r"no blocks of the shape .* 'new'"):
        model.with_task(Task.multiclass("new", 9), encoder=qmtl.encoders.Identity(14))
    with pytest.raises(InvalidInputError, match=r"a MixtureHead; .* with_own_weights\(\)"):
        qmtl.merge([model, model])
