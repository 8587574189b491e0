"""Circuits that only encodings and blocks of a user's own make, against PennyLane."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qmtl import AngleEncoding, HeadCircuit, Task
from qmtl.circuit import Angle, Gate
from qmtl.noise import DeviceNoise
from qmtl.simulators import LightConeSimulator, NoisySimulator
from tests.laws import assert_same_values_and_gradients
from tests.simulators.engine_samples import COMPILED, EAGER, REFERENCE
from tests.strategies import Case, ansatze, binary_tasks, gate_lists, readouts_and_tasks

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


@dataclass(frozen=True)
class AnyGates:
    """An encoding, or a block, of gates in no pattern at all."""

    given: tuple[Gate, ...]
    features: int = 3
    weights: int = 3

    def n_features(self, n_wires):
        return self.features

    def n_weights(self, n_wires, read=()):
        return self.weights

    def gates(self, n_wires, read=()):
        return list(self.given)


@st.composite
def circuits_of_any_gates(draw):
    """Angles are constants, features, weights, or products of them; equal ones are frequent."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))

    def gates(n_wires, may_load, most):
        found = []
        for gate in draw(gate_lists(n_wires, most)):
            loaded = draw(st.lists(st.integers(0, 2), max_size=2)) if may_load else []
            weight = draw(st.none() | st.integers(0, 2))
            constant = draw(st.sampled_from([1.0, 1.0, 0.7]))
            angle = gate.angle and Angle(tuple(loaded), weight, constant)
            found.append(Gate(gate.name, gate.wires, angle))
        return tuple(found)

    tasks, blocks, readouts = [], {}, {}
    for i, size in enumerate(sizes):
        task, readouts[f"t{i}"] = draw(readouts_and_tasks(f"t{i}", size))
        tasks.append(task)
        blocks[f"t{i}"] = AnyGates(gates(size, draw(st.integers(0, 3)) == 3, 6))
    return HeadCircuit(
        tasks,
        AnyGates(gates(sum(sizes), True, 14)),
        blocks,
        readouts=readouts,
        wires_per_task={f"t{i}": size for i, size in enumerate(sizes)},
    )


@pytest.mark.parametrize("name", ["chosen", "paulis", "amplitudes", "joint", "eager"])
@given(circuits_of_any_gates(), st.integers(0, 10**6))
def test_gates_in_no_pattern(name, circuit, seed):
    simulator = {**COMPILED, "chosen": LightConeSimulator(), "eager": EAGER}[name]
    assert_same_values_and_gradients(simulator, REFERENCE, Case(circuit, 2, seed))


@pytest.mark.parametrize("entangler", ["cz_ring", "cnot_ring", "all_to_all"])
def test_no_samples_fit_into_any_memory(entangler):
    circuit = HeadCircuit(binary_tasks(7), AngleEncoding(entangler=entangler))
    weights = Case(circuit, 0, 0).weights()
    none = torch.zeros(0, circuit.n_features, dtype=torch.float64)
    found = LightConeSimulator(max_memory=1).expectation_values(circuit, none, weights)
    assert {tuple(values.shape) for values in found.values()} == {(0, 1)}
