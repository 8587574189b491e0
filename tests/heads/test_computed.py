"""Heads whose parameters torch's pruning or parametrisations compute from others."""

import pytest
import torch
from torch.nn.utils import parametrize, prune

import qmtl


def changed_head(how):
    """A head of two tasks of which the encoding and one block are pruned or parametrised."""
    head = qmtl.QuantumHead(
        qmtl.HeadCircuit([qmtl.Task.binary("a"), qmtl.Task.binary("b")]), seed=0
    )
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


def test_hooks_of_a_head_are_not_its_twins():
    head, calls = changed_head("pruned"), []
    head.register_forward_pre_hook(lambda *_: calls.append(1))
    twin = head.with_simulator("default.qubit")
    twin(torch.ones(1, 4))
    assert calls == []
    head(torch.ones(1, 4))
    assert calls == [1]
