"""Heads whose parameters torch's pruning or parametrisations compute from others."""

import pytest
import torch
from torch.nn.utils import parametrize, prune

import qmtl
from qmtl.errors import QmtlError


def new_head(simulator="lightcone"):
    circuit = qmtl.HeadCircuit([qmtl.Task.binary("a"), qmtl.Task.binary("b")])
    return qmtl.QuantumHead(circuit, simulator, seed=0)


def changed_head(how):
    """A head of two tasks of which the encoding and one block are pruned or parametrised."""
    head = new_head()
    for module, name in ((head, "encoding"), (head.blocks, head._keys["a"])):
        if how == "pruned":
            prune.random_unstructured(module, name, amount=0.5)
        else:
            parametrize.register_parametrization(module, name, torch.nn.Tanh())
    return head


def assert_every_step_counts(head, x):
    optimizer = torch.optim.SGD(head.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        before = head(x)["a"]
        before.sum().backward()
        optimizer.step()
        assert not torch.equal(before, head(x)["a"])


@pytest.mark.parametrize("how", ["pruned", "parametrised"])
class TestComputedParameters:
    def test_another_simulator_has_the_same_ones(self, how):
        head, x = changed_head(how), torch.linspace(-1, 1, 4)[None]
        twin = head.with_simulator("default.qubit")
        assert {id(p) for p in twin.parameters()} == {id(p) for p in head.parameters()}
        with torch.no_grad():
            for parameter in head.parameters():
                parameter *= 1.5
        torch.testing.assert_close(twin(x), head(x), atol=1e-5, rtol=0)

    def test_parameters_are_the_leaves(self, how):
        head = changed_head(how)
        parts = [head.shared_parameters(), *(head.task_parameters(t) for t in ("a", "b"))]
        assert [len(part) for part in parts] == [1, 2, 2]
        found = {id(p) for part in parts for p in part}
        assert found == {id(p) for p in head.parameters()}
        assert all(p.is_leaf for part in parts for p in part)

    def test_training_reaches_the_leaves(self, how):
        head, x = changed_head(how), torch.linspace(-1, 1, 4)[None]
        (head.with_simulator("default.qubit")(x)["a"] + head(x)["a"]).sum().backward()
        assert all(p.grad is not None for p in head.shared_parameters())
        assert all(p.grad is not None for p in head.task_parameters("a"))

    def test_parameters_are_computed_again_in_every_step(self, how):
        head, x = changed_head(how), torch.linspace(-1, 1, 4)[None]
        assert_every_step_counts(head, x)
        assert head.double()(x.double())["a"].dtype is torch.float64

    @pytest.mark.parametrize("which", ["head", "twin"])
    def test_changing_one_of_two_twins_later_is_an_error_of_the_other(self, how, which):
        head, x = new_head(), torch.linspace(-1, 1, 4)[None]
        twin = head.with_simulator("default.qubit")
        changed, other = (head, twin) if which == "head" else (twin, head)
        if how == "pruned":
            prune.random_unstructured(changed, "encoding", amount=0.5)
        else:
            parametrize.register_parametrization(changed, "encoding", torch.nn.Tanh())
        assert changed(x)["a"].isfinite().all()
        with pytest.raises(QmtlError, match="pruned or parametrised"):
            other(x)
        torch.testing.assert_close(changed.with_simulator("lightcone")(x), changed(x))


def test_pruning_ends_in_either_of_two_twins():
    head, x = changed_head("pruned"), torch.linspace(-1, 1, 4)[None]
    twin, expected = head.with_simulator("default.qubit"), head(x)
    prune.remove(head, "encoding")
    for each in (head, twin):
        torch.testing.assert_close(each(x), expected, atol=1e-5, rtol=0)


def test_a_parametrisation_ends_for_both_twins():
    head, x = new_head(), torch.linspace(-1, 1, 4)[None]
    parametrize.register_parametrization(head, "encoding", torch.nn.Tanh())
    twin, expected = head.with_simulator("default.qubit"), head(x)
    parametrize.remove_parametrizations(head, "encoding")
    for each in (head, twin):
        torch.testing.assert_close(each(x), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("loads", ["head", "twin"])
def test_parameters_that_are_replaced_are_so_for_both_twins(loads):
    head, x = new_head(), torch.linspace(-1, 1, 4)[None]
    twin = head.with_simulator("default.qubit")
    state = {name: value + 0.3 for name, value in head.state_dict().items()}
    (head if loads == "head" else twin).load_state_dict(state, assign=True)
    torch.testing.assert_close(twin(x), head(x), atol=1e-5, rtol=0)
    head.encoding = torch.nn.Parameter(head.encoding.detach() + 0.5)
    torch.testing.assert_close(twin(x), head(x), atol=1e-5, rtol=0)


def test_a_compiled_heads_twin_has_a_simulator_of_its_own(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda call: call)
    head, x = new_head(), torch.linspace(-1, 1, 4)[None]
    head.compile()
    twin = head.with_simulator(NoisySimulator(0.5))
    torch.testing.assert_close(twin(x)["a"], head(x)["a"] / 2)


class NoisySimulator(torch.nn.Module):
    """With a parameter of its own."""

    def __init__(self, strength):
        super().__init__()
        self.strength = torch.nn.Parameter(torch.tensor(strength))

    def expectation_values(self, circuit, angles, weights, tasks=None):
        exact = qmtl.simulators.LightConeSimulator()
        values = exact.expectation_values(circuit, angles, weights, tasks)
        return {task: value * self.strength for task, value in values.items()}


def test_simulators_that_are_modules_stay_with_their_head():
    x = torch.linspace(-1, 1, 4)[None]
    exact = new_head()
    twin = exact.with_simulator(NoisySimulator(0.5))
    torch.testing.assert_close(twin(x)["a"], exact(x)["a"] / 2)
    assert "simulator.strength" in twin.state_dict()
    assert "simulator.strength" not in exact.state_dict()
    other = twin.with_simulator(NoisySimulator(0.25))
    torch.testing.assert_close(twin(x)["a"], 2 * other(x)["a"])
    torch.testing.assert_close(twin.with_simulator("lightcone")(x), exact(x))


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_leaves_of_a_norm():
    head = new_head()
    torch.nn.utils.weight_norm(head, "encoding")
    assert {id(p) for p in head.shared_parameters()} == {id(head.encoding_g), id(head.encoding_v)}


def test_a_parametrisation_of_two_tasks_is_in_both_lists():
    head, scaled = new_head(), torch.nn.Linear(6, 6)
    for task in ("a", "b"):
        parametrize.register_parametrization(head.blocks, head._keys[task], scaled)
    for task in ("a", "b"):
        found = {id(p) for p in head.task_parameters(task)}
        assert found >= {id(scaled.weight), id(scaled.bias)}


def test_hooks_of_a_head_are_not_its_twins():
    head, calls = changed_head("pruned"), []
    head.register_forward_pre_hook(lambda *_: calls.append(1))
    twin = head.with_simulator("default.qubit")
    twin(torch.ones(1, 4))
    assert calls == []
    head(torch.ones(1, 4))
    assert calls == [1]


@pytest.mark.parametrize("kind", ["linear", "local"])
def test_pruned_layers_train(kind):
    circuit, x = new_head().circuit, torch.linspace(-1, 1, 4)[None]
    head = (
        qmtl.LinearHead(circuit.tasks, 4, seed=0)
        if kind == "linear"
        else qmtl.LocalLinearHead.on_registers(circuit, seed=0)
    )
    (layer, *_) = head.layers.values()
    prune.random_unstructured(layer, "weight", amount=0.5)
    assert_every_step_counts(head, x)
    assert layer.weight_orig.grad is not None
