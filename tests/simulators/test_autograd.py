"""Tensors of unusual kinds, and torch recording what is computed: right, or refused."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from qmtl import HeadCircuit, Task
from qmtl.errors import QmtlError
from qmtl.simulators import LightConeSimulator
from tests.strategies import random_angles, random_weights

CIRCUITS = {
    "Pauli strings": HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)]),
    "state vectors": HeadCircuit([Task.binary("a"), Task.binary("b")], wires_per_task=4),
}


@pytest.fixture(params=CIRCUITS.values(), ids=CIRCUITS)
def circuit(request):
    return request.param


def gradients(
    circuit, angles, weights, loss=lambda values: values.square().sum(), engine="compiled"
):
    angles = angles.detach().requires_grad_()
    weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    values = LightConeSimulator(engine=engine).joined_values(circuit, angles, weights)
    return values, torch.autograd.grad(loss(values), (angles, *weights.values()))


def lazily_negative(tensor):
    """The same numbers, of which memory holds the negatives."""
    found = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    assert found.is_neg()
    return found


def test_lazy_signs(circuit):
    angles, weights = random_angles(circuit, 3), random_weights(circuit)
    simulator = LightConeSimulator()
    expected = simulator.joined_values(circuit, angles, weights)
    lazy = {name: lazily_negative(weight) for name, weight in weights.items()}
    found = simulator.joined_values(circuit, lazily_negative(angles), lazy)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_lazy_signs_of_gradients(circuit):
    def loss(values):
        return torch.complex(torch.zeros_like(values), values).conj().imag.square().sum()

    # Batches of one are not turned round, and so not copied.
    angles, weights = random_angles(circuit, 1), random_weights(circuit)
    _, expected = gradients(circuit, angles, weights, engine="eager")
    _, found = gradients(circuit, angles, weights, loss)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_saved_tensors_of_other_strides(circuit):
    angles, weights = random_angles(circuit, 3), random_weights(circuit)
    _, expected = gradients(circuit, angles, weights, engine="eager")

    def unpacked(tensor):
        return tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.detach(), unpacked):
        _, found = gradients(circuit, angles, weights)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", ["all", "states"])
def test_saved_tensors_of_another_type(circuit, kind):
    """Kernels would read past their ends."""
    angles, weights = random_angles(circuit, 300), random_weights(circuit)

    def packed(tensor):
        return tensor.detach().float() if kind == "all" or tensor.numel() > 1000 else tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(packed, lambda tensor: tensor)
    with hooks, pytest.raises(QmtlError, match=r"of type torch\.float64, got torch\.float32"):
        gradients(circuit, angles, weights)


def test_dispatch_modes_see_all_operations(circuit):
    angles, weights = random_angles(circuit, 3), random_weights(circuit)
    seen = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, kinds, arguments=(), options=None):
            seen.append(str(function))
            return function(*arguments, **(options or {}))

    expected = LightConeSimulator().joined_values(circuit, angles, weights)
    with Recorder():
        found = LightConeSimulator().joined_values(circuit, angles, weights)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert any("cos" in name for name in seen)


def test_traced_values_are_no_constants(circuit):
    angles, weights = random_angles(circuit, 3), random_weights(circuit)
    simulator = LightConeSimulator()
    traced = make_fx(lambda x: simulator.joined_values(circuit, x, weights))(angles)
    other = random_angles(circuit, 3) + 1
    expected = simulator.joined_values(circuit, other, weights)
    torch.testing.assert_close(traced(other), expected, atol=1e-10, rtol=0)


class Elsewhere(torch.Tensor):
    """A tensor whose numbers are those of another one."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), dtype=inner.dtype
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, kinds, arguments=(), options=None):
        given = tree_map_only(cls, lambda tensor: tensor.inner, (arguments, options or {}))
        return tree_map_only(torch.Tensor, cls, function(*given[0], **given[1]))


def test_tensors_without_memory(circuit):
    angles, weights = random_angles(circuit, 3), random_weights(circuit)
    simulator = LightConeSimulator()
    expected = simulator.joined_values(circuit, angles, weights)
    found = simulator.joined_values(circuit, Elsewhere(angles), weights)
    torch.testing.assert_close(found.inner, expected, atol=1e-12, rtol=0)
    elsewhere = {name: Elsewhere(weight) for name, weight in weights.items()}
    elsewhere["encoding"] = weights["encoding"]
    with pytest.raises((QmtlError, RuntimeError)):
        simulator.joined_values(circuit, angles, elsewhere)
