"""Which circuits the light-cone simulator runs as matrix products."""

import pytest
import torch

from qmtl import AngleEncoding, HeadCircuit, Task
from qmtl.errors import CircuitTooLargeError
from qmtl.pennylane import PennyLaneSimulator
from qmtl.simulators._lightcone import LightConeSimulator
from tests.laws import assert_same_values_and_gradients
from tests.strategies import binary_tasks, random_angles, random_case, random_weights


def chain(n_tasks, entangler="cnot_ring"):
    return HeadCircuit(binary_tasks(n_tasks), AngleEncoding(entangler=entangler))


@pytest.mark.parametrize("entangler", ["cnot_ring", "cnot_line"])
def test_long_chains_agree_with_pennylane(entangler):
    circuit = chain(6, entangler)
    assert LightConeSimulator().plan(circuit).chain == tuple(circuit.registers)
    reference = PennyLaneSimulator("default.qubit")
    assert_same_values_and_gradients(LightConeSimulator(), reference, random_case(circuit, 2))


def test_tasks_of_a_chain_can_be_asked_for_one_by_one():
    circuit, simulator = chain(20), LightConeSimulator()
    angles, weights = random_angles(circuit, 2), random_weights(circuit)
    together = simulator.expectation_values(circuit, angles, weights)
    alone = simulator.expectation_values(circuit, angles, weights, ["t7", "t3"])
    assert list(alone) == ["t7", "t3"]
    for name, values in alone.items():
        torch.testing.assert_close(values, together[name], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "circuit",
    [chain(3), HeadCircuit(binary_tasks(40)), HeadCircuit([Task.binary("a")], layout="shared")],
)
def test_small_cones_stay_cones(circuit):
    assert LightConeSimulator().plan(circuit).chain == ()


def test_explanation_of_a_chain():
    text = str(LightConeSimulator().explain(chain(500), 8))
    assert "500 tasks (t0, t1, t2, …): one chain of 1000 wires, block 2" in text
    assert "run as matrix products with bonds of 16" in text


def test_a_chain_that_does_not_fit_names_the_cause():
    circuit = chain(100)
    with pytest.raises(CircuitTooLargeError, match=r"chain of up to 200 wires.*'cnot_ring'"):
        LightConeSimulator(max_memory=10**5).expectation_values(
            circuit, random_angles(circuit, 2), random_weights(circuit)
        )


def test_torch_alone_is_the_reference_and_takes_no_other_path():
    assert LightConeSimulator(engine="eager").plan(chain(6)).chain == ()


def test_chains_keep_to_the_memory():
    circuit, limit = chain(200), 30 * 10**6
    explanation = LightConeSimulator(max_memory=limit).explain(circuit, 64)
    assert explanation.fits
    assert explanation.bytes <= limit
    scarce, whole = LightConeSimulator(max_memory=limit), LightConeSimulator()
    assert_same_values_and_gradients(scarce, whole, random_case(chain(30), 64))
