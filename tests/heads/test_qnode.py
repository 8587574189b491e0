"""The head as a PennyLane QNode, and inside torch's own containers."""

import numpy as np
import pytest
import torch
from torch import nn

import qmtl
from qmtl.circuit import HeadCircuit, PauliStrings
from qmtl.errors import InvalidInputError
from qmtl.heads import QuantumHead
from tests.heads.quantum_samples import CIRCUIT, TASKS, features

qml = pytest.importorskip("pennylane")


def outputs(measured, task):
    """What is measured as the head's own outputs."""
    values = measured[task.name]
    if isinstance(values, list):
        return torch.stack(values, dim=-1)
    return values[..., : task.n_outputs]


@pytest.mark.parametrize("device", ["default.qubit", "lightning.qubit"])
def test_it_measures_what_the_head_does(device):
    head = QuantumHead(CIRCUIT, seed=0).double()
    angles = head.angles(features(dtype=torch.float64, batch=3))
    measured = head.to_qnode(device)(angles)
    for task in TASKS:
        expected = head.expectation_values(angles, [task.name])[task.name]
        # Lightning's numbers become tensors of torch's default type.
        found = outputs(measured, task).double()
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_gradients_reach_the_heads_parameters():
    head = QuantumHead(CIRCUIT, seed=0).double()
    angles = head.angles(features(dtype=torch.float64, batch=1))[0]
    head.to_qnode()(angles)["cola"][0].backward()
    found = head.encoding.grad.clone(), head.blocks.parameter.grad.clone()
    head.zero_grad()
    head.expectation_values(angles[None], ["cola"])["cola"].sum().backward()
    torch.testing.assert_close(found[0], head.encoding.grad)
    torch.testing.assert_close(found[1], head.blocks.parameter.grad)


@pytest.mark.parametrize(
    ("device", "options"),
    [
        ("default.qubit", {}),
        ("lightning.qubit", {}),
        ("lightning.qubit", {"tasks": ["cola"], "diff_method": "adjoint"}),
        ("default.qubit", {"diff_method": "parameter-shift"}),
    ],
)
def test_gradients_of_a_batch(device, options):
    head = QuantumHead(CIRCUIT, seed=0).double()
    angles = head.angles(features(dtype=torch.float64, batch=2)).detach().requires_grad_()
    head.to_qnode(device, **options)(angles)["cola"][0].sum().backward()
    found = angles.grad.clone(), head.encoding.grad.clone()
    angles.grad = None
    head.zero_grad()
    head.expectation_values(angles, ["cola"])["cola"].sum().backward()
    torch.testing.assert_close(found[0], angles.grad, atol=1e-6, rtol=0)
    torch.testing.assert_close(found[1], head.encoding.grad, atol=1e-6, rtol=0)


def test_numbers_and_arrays_as_angles():
    qnode = QuantumHead(CIRCUIT, seed=0).to_qnode()
    expected = qnode(torch.zeros(CIRCUIT.n_features))["cola"][0]
    for angles in ([0.0] * CIRCUIT.n_features, np.zeros(CIRCUIT.n_features)):
        torch.testing.assert_close(qnode(angles)["cola"][0], expected, atol=1e-6, rtol=0)
    for angles in (0.0, torch.zeros(2, CIRCUIT.n_features + 1)):
        with pytest.raises(InvalidInputError, match=f"expected {CIRCUIT.n_features} per sample"):
            qnode(angles)


def test_other_weights_and_some_tasks():
    head = QuantumHead(CIRCUIT, seed=0)
    angles = torch.zeros(CIRCUIT.n_features)
    weights = {name: torch.zeros_like(value) for name, value in head.weights().items()}
    measured = head.to_qnode(tasks=["cola"])(angles, weights)
    assert list(measured) == ["cola"]
    assert float(measured["cola"][0]) == pytest.approx(1)


def test_pennylanes_own_tools_take_it():
    head = QuantumHead(HeadCircuit([qmtl.Task.binary("a")]), seed=0)
    qnode = head.to_qnode(qml.device("default.qubit", wires=5), diff_method="parameter-shift")
    angles = torch.zeros(2)
    assert "<Z>" in qml.draw(qnode)(angles)
    assert qml.specs(qnode)(angles)["resources"].gate_types["CZ"] == 3


def test_strings_and_the_shared_layout():
    tasks = [qmtl.Task.multilabel("a", 2), qmtl.Task.binary("b")]
    circuit = HeadCircuit(
        tasks, layout="shared", readouts={"a": PauliStrings(("ZI", "ZZ"))}, n_wires=2
    )
    head = QuantumHead(circuit, seed=0).double()
    angles = torch.randn(3, 2, dtype=torch.float64)
    for task in tasks:
        measured = head.to_qnode(tasks=[task.name])(angles)
        expected = head.expectation_values(angles, [task.name])[task.name]
        torch.testing.assert_close(outputs(measured, task), expected)
    with pytest.raises(InvalidInputError, match="a circuit per task"):
        head.to_qnode()


def test_what_does_not_fit():
    head = QuantumHead(CIRCUIT, seed=0)
    with pytest.raises(InvalidInputError, match=r"'defalt\.qubit'; did you mean 'default\.qubit'"):
        head.to_qnode("defalt.qubit")
    with pytest.raises(InvalidInputError, match="did you mean 'cola'"):
        head.to_qnode(tasks=["colla"])
    with pytest.raises(InvalidInputError, match="wires 0 to"):
        head.to_qnode(qml.device("default.qubit", wires=2))
    with pytest.raises(InvalidInputError, match="a name or a PennyLane device"):
        head.to_qnode(3)
    for tasks in ([], "cola"):
        with pytest.raises(InvalidInputError, match="tasks must be a list"):
            head.to_qnode(tasks=tasks)
    with pytest.raises(InvalidInputError, match="diff_method 'bakprop'"):
        head.to_qnode(diff_method="bakprop")
    with pytest.raises(InvalidInputError, match=r"default\.qubit.*wire_count"):
        head.to_qnode(wire_count=3)


def test_the_head_is_a_module_like_any_other():
    head = QuantumHead(CIRCUIT, seed=0)
    model = nn.Sequential(nn.Linear(7, 16), nn.Tanh(), nn.Linear(16, head.n_features), head)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    inputs, labels = torch.randn(16, 7), torch.arange(16) % 3
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(inputs)["emotion"], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    twin = nn.Sequential(
        nn.Linear(7, 16), nn.Tanh(), nn.Linear(16, head.n_features), QuantumHead(CIRCUIT, seed=1)
    )
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(inputs)["cola"], model(inputs)["cola"])
