"""Circuits at fixed weights: the same values by a few real matrices, or an error in time."""

import time

import pytest
import torch
from hypothesis import given

from qmtl.circuit import AngleEncoding, HeadCircuit, RotationAnsatz, list_designs, load_design
from qmtl.errors import CircuitTooLargeError
from qmtl.simulators import FixedCircuit, LightConeSimulator, joined_weights
from qmtl.tasks import Task
from tests.strategies import binary_tasks, cases, random_angles, random_weights

TASKS = [Task.binary("a"), Task.multiclass("b", 3), Task.regression("c"), Task.multilabel("d", 3)]


def assert_same_values(circuit, angles, weights):
    flat = joined_weights(circuit, weights, list(circuit.registers), angles)
    found = FixedCircuit(circuit, flat)(angles)
    expected = LightConeSimulator().values(circuit, angles, flat)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("design", list_designs())
def test_designs_of_the_catalogue(design):
    circuit = load_design(design).circuit(TASKS)
    assert_same_values(circuit, random_angles(circuit), random_weights(circuit))


@given(cases(max_wires=8))
def test_any_circuit(case):
    assert_same_values(case.circuit, case.angles(), case.weights())


@pytest.mark.parametrize("n_wires", [1, 2])
def test_angles_common_to_all_tasks_beside_a_tasks_own(n_wires):
    """The encoding's last rotation and the block's first one are both about Z."""
    encoding = AngleEncoding(n_layers=2, axes="X", trainable="YZ", reupload=False)
    tasks = binary_tasks(3)
    circuit = HeadCircuit(tasks, encoding, RotationAnsatz(), layout="shared", n_wires=n_wires)
    assert_same_values(circuit, random_angles(circuit), random_weights(circuit))


def test_single_precision_gives_single_precision():
    circuit = HeadCircuit(TASKS)
    weights = joined_weights(
        circuit, random_weights(circuit), list(circuit.registers), random_angles(circuit)
    )
    angles = random_angles(circuit)
    found = FixedCircuit(circuit, weights.float())(angles.float())
    assert found.dtype == torch.float32
    expected = LightConeSimulator().values(circuit, angles, weights)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("circuit", "words"),
    [
        (HeadCircuit(binary_tasks(2000)), ["6 of 4000 wires", "33,554,432"]),
        (HeadCircuit(binary_tasks(16), AngleEncoding(n_layers=12)), ["t0", "wires", "layers"]),
        (HeadCircuit(binary_tasks(5), AngleEncoding(n_layers=2, entangler="cnot_ring")), ["chain"]),
        (HeadCircuit(binary_tasks(8), AngleEncoding(entangler="all_to_all")), ["'all_to_all'"]),
    ],
)
def test_too_large_is_refused_at_once(circuit, words):
    start = time.monotonic()
    with pytest.raises(CircuitTooLargeError) as caught:
        FixedCircuit(circuit, torch.zeros(circuit.n_circuit_weights))
    assert time.monotonic() - start < 5
    assert all(word in str(caught.value) for word in words), str(caught.value)
