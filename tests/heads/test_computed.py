"""Heads whose parameters torch's pruning or parametrisations compute from others."""

import pytest
import torch
from torch.nn.utils import parametrize, prune

import qmtl


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
        optimizer = torch.optim.SGD(head.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            before = head(x)["a"]
            before.sum().backward()
            optimizer.step()
            assert not torch.equal(before, head(x)["a"])
        assert head.double()(x.double())["a"].dtype is torch.float64

    def test_a_head_and_its_twin_may_be_changed_by_themselves(self, how):
        head, x = new_head(), torch.linspace(-1, 1, 4)[None]
        twin, expected = head.with_simulator("default.qubit"), head(x)
        if how == "pruned":
            prune.random_unstructured(head, "encoding", amount=0.5)
        else:
            parametrize.register_parametrization(head, "encoding", torch.nn.Tanh())
        torch.testing.assert_close(twin(x), expected, atol=1e-5, rtol=0)
        assert not torch.equal(head(x)["a"], expected["a"])


def test_pruning_ends_in_either_of_two_twins():
    head, x = changed_head("pruned"), torch.linspace(-1, 1, 4)[None]
    twin, expected = head.with_simulator("default.qubit"), head(x)
    prune.remove(head, "encoding")
    for each in (head, twin):
        torch.testing.assert_close(each(x), expected, atol=1e-5, rtol=0)


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
