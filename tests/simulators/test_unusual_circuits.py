"""Circuits that only encodings and blocks of a user's own make, against PennyLane."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qmtl import AngleEncoding, HeadCircuit, QuantumHead, Task
from qmtl.circuit import Angle, Gate
from qmtl.noise import DeviceNoise
from qmtl.simulators import LightConeSimulator, NoisySimulator, PennyLaneSimulator
from tests.laws import assert_same_values_and_gradients
from tests.strategies import Case, ansatze, binary_tasks

REFERENCE = PennyLaneSimulator("default.qubit")
SIMULATORS = {
    "compiled": LightConeSimulator(),
    "eager": LightConeSimulator(engine="eager"),
    "noisy": NoisySimulator(DeviceNoise()),
}


@dataclass(frozen=True)
class SomeWires:
    """RY on some wires, and nothing on the others."""

    loaded: tuple[int, ...]

    def n_features(self, n_wires):
        return len(self.loaded)

    def n_weights(self, n_wires):
        return 0

    def gates(self, n_wires):
        return [Gate("RY", (wire,), Angle(features=(i,))) for i, wire in enumerate(self.loaded)]


@dataclass(frozen=True)
class AlongX:
    """A block of fixed gates only."""

    def n_weights(self, n_wires, read):
        return 0

    def gates(self, n_wires, read):
        return [Gate("Hadamard", (wire,)) for wire in read]


@pytest.mark.parametrize("simulator", SIMULATORS.values(), ids=SIMULATORS)
@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 5), min_size=1), ansatze, st.integers(0, 10**6))
def test_wires_that_nothing_is_loaded_on(simulator, loaded, ansatz, seed):
    tasks = [*binary_tasks(1), Task.multiclass("m", 3), Task.regression("r")]
    circuit = HeadCircuit(tasks, SomeWires(tuple(sorted(loaded))), ansatz, wires_per_task=2)
    assert_same_values_and_gradients(simulator, REFERENCE, Case(circuit, 2, seed))


@pytest.mark.parametrize("layout", ["shared", "partitioned"])
@pytest.mark.parametrize("simulator", SIMULATORS.values(), ids=SIMULATORS)
def test_blocks_of_fixed_gates(simulator, layout):
    n_wires = {"n_wires": 3} if layout == "shared" else {}
    circuit = HeadCircuit(binary_tasks(2), ansatz=AlongX(), layout=layout, **n_wires)
    case = Case(circuit, 4, 0)
    assert_same_values_and_gradients(simulator, REFERENCE, case)

    weights = case.weights()

    def values(angles):
        found = simulator.expectation_values(circuit, angles, weights)
        return torch.cat(list(found.values()), dim=1)

    jacobian = torch.func.jacrev(values)(case.angles())
    (row,) = torch.autograd.grad(values(angles := case.angles(grad=True))[1, 1], angles)
    torch.testing.assert_close(jacobian[1, 1], row, atol=1e-10, rtol=0)


def test_a_transform_leaves_nothing_behind():
    # Layers that no other test has: what is kept of them is made inside the transforms.
    circuit = HeadCircuit(binary_tasks(3), AngleEncoding(3, axes="XY", entangler="cz_line"))
    head = QuantumHead(circuit, seed=0).double()
    x = torch.linspace(-1, 1, head.n_features, dtype=torch.float64)[None]

    def total(x):
        return torch.cat(list(head(x).values()), dim=1).sum()

    first = torch.func.hessian(total)(x)
    torch.testing.assert_close(torch.func.hessian(total)(x), first)
    (expected,) = torch.autograd.grad(total(leaf := x.clone().requires_grad_()), leaf)
    torch.testing.assert_close(torch.func.grad(total)(x), expected)


@pytest.mark.parametrize("entangler", ["cz_ring", "all_to_all"])
def test_first_used_under_another_default_device(entangler):
    circuit = HeadCircuit(binary_tasks(6), AngleEncoding(entangler=entangler))
    head = QuantumHead(circuit, seed=0)
    x = torch.ones(3, head.n_features, requires_grad=True)
    with torch.device("meta"):
        assert "6 tasks" in str(head.explain())
        sum(value.sum() for value in head(x).values()).backward()
        assert isinstance(QuantumHead(circuit).circuit, HeadCircuit)
    again = QuantumHead(circuit, seed=0)
    for name, value in again(x).items():
        torch.testing.assert_close(head(x)[name], value)
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("entangler", ["cz_ring", "cnot_ring", "all_to_all"])
def test_no_samples_fit_into_any_memory(entangler):
    circuit = HeadCircuit(binary_tasks(7), AngleEncoding(entangler=entangler))
    weights = Case(circuit, 0, 0).weights()
    none = torch.zeros(0, circuit.n_features, dtype=torch.float64)
    found = LightConeSimulator(max_memory=1).expectation_values(circuit, none, weights)
    assert {tuple(values.shape) for values in found.values()} == {(0, 1)}
