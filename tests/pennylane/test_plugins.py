"""Trained heads on other vendors' devices, by PennyLane's plugins."""

import pennylane as qml
import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.pennylane import PennyLaneSimulator

SHOTS = 4000


@pytest.fixture(params=["lightning.qubit", "qiskit.aer"])
def device(request):
    if request.param not in PennyLaneSimulator.names():
        pytest.skip(f"{request.param}: no plugin has it here; scripts/version_matrix --only qiskit")
    return request.param


@pytest.fixture
def trackers(monkeypatch):
    """Of the devices that PennyLane makes."""
    made, found = qml.device, []

    def tracked(*args, **options):
        device = made(*args, **options)
        found.append(qml.Tracker(device))
        found[-1].active = True
        return device

    monkeypatch.setattr(qml, "device", tracked)
    return found


TASKS = [qmtl.Task.binary("a"), qmtl.Task.multiclass("b", 3)]
LAYOUTS = {"partitioned": {}, "shared": {"layout": "shared", "n_wires": 4}}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_trained_head_runs_there(device, layout, trackers):
    head = qmtl.QuantumHead(qmtl.HeadCircuit(TASKS, **LAYOUTS[layout]), seed=0)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, head.n_features, generator=generator)
    optimizer = torch.optim.Adam(head.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (head(features)["a"].mean() + head(features)["b"][:, 0].mean()).backward()
        optimizer.step()
    there = head.with_simulator(PennyLaneSimulator(device, shots=SHOTS))
    with torch.no_grad():
        angles = head.angles(features)
        exact, measured = (h.expectation_values(angles) for h in (head, there))
    for name, values in exact.items():
        torch.testing.assert_close(measured[name], values, rtol=0, atol=5 / SHOTS**0.5)
        assert not torch.equal(measured[name], values)
    # One circuit for each sample measures all tasks; in the shared layout it is one for each task.
    circuits = sum(tracker.totals["executions"] for tracker in trackers)
    assert circuits == len(features) * (len(TASKS) if layout == "shared" else 1)
    assert sum(tracker.totals["shots"] for tracker in trackers) == circuits * SHOTS


def test_a_device_by_its_name(device):
    head = qmtl.QuantumHead(qmtl.HeadCircuit(TASKS[:1]), seed=0)
    with torch.no_grad():
        values = head.with_simulator(device)(torch.zeros(2, head.n_features))["a"]
    assert values.shape == (2, 1)


@pytest.mark.parametrize("shots", [0, -1, 1.5, "many"])
def test_wrong_shots(shots):
    head = qmtl.QuantumHead(qmtl.HeadCircuit(TASKS[:1]), seed=0)
    with pytest.raises(InvalidInputError, match="shots must be an integer > 0"):
        head.with_simulator(PennyLaneSimulator("default.qubit", shots=shots))(torch.zeros(1, 2))
