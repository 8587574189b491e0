"""HardwareSimulator: trained heads on backends, and gradients refused or by parameter shift."""

import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("qiskit")
pytest.importorskip("qiskit_ibm_runtime")

from qmtl.circuit import AngleEncoding, HeadCircuit, IQPEncoding, RotationAnsatz
from qmtl.encoders import MLP
from qmtl.errors import HardwareBudgetError, InvalidInputError
from qmtl.hardware import HardwareSimulator, to_qiskit
from qmtl.heads import QuantumHead
from qmtl.model import MultiTaskModel
from qmtl.simulators import weights_by_name
from qmtl.tasks import Task
from tests.hardware.samples import binary_head, features, small_head


@pytest.mark.parametrize("layout", ["partitioned", "shared"])
def test_a_trained_head_on_a_backend_in_one_line(layout):
    head = small_head(layout)
    x = features(head, 4)
    shots = 4096
    on_aer = head.with_simulator(HardwareSimulator("aer", shots=shots, seed=0))
    with torch.no_grad():
        exact = head.expectation_values(head.angles(x))
        values = on_aer.expectation_values(on_aer.angles(x))
    for name, expected in exact.items():
        width = 5 / np.sqrt(shots) if name == "my task" else 2.5 / np.sqrt(shots)
        assert values[name].dtype == torch.float32
        assert (values[name] - expected).abs().max() < width
    assert list(on_aer(x, tasks=["b"])) == ["b"]
    assert on_aer(x[:0])["b"].shape == (0, 3)


def test_a_models_predictions_on_a_fake_device():
    head = small_head()
    model = MultiTaskModel(MLP(5, 8, out_features=4, seed=0), head)
    x = torch.randn(4, 5)
    model.head = head.with_simulator(HardwareSimulator("fake_fez", seed=0))
    measured = model.predict(x)
    model.head = head
    for name, expected in model.predict(x).items():
        assert (measured[name] - expected).abs().max() < 0.4


def test_gradients_are_refused_with_what_they_would_take():
    head = binary_head(1)
    simulator = HardwareSimulator("aer", shots=100)
    measured = head.with_simulator(simulator)
    out = measured(features(head, 2))
    with pytest.raises(InvalidInputError, match=r"4,800 executions.*parameter-shift"):
        out["t0"].sum().backward()
    # 12 rotations, 2 shifts, 2 samples, 100 shots; and the forward pass.
    assert simulator.executions(head.circuit, 2) == 4800 + 200
    assert simulator.executions(head.circuit, 2, gradient=False) == 200
    with torch.no_grad():
        assert not measured(features(head, 2))["t0"].requires_grad


CIRCUITS = {
    "ring": HeadCircuit([Task.binary("a"), Task.binary("b")]),
    "shared": HeadCircuit([Task.binary("a"), Task.binary("b")], layout="shared"),
    "products of features": HeadCircuit(
        [Task.binary("a"), Task.binary("b")], IQPEncoding(n_layers=1)
    ),
    "cnot": HeadCircuit(
        [Task.regression("a", 2)],
        AngleEncoding(axes="ZXY", entangler="cnot_line"),
        RotationAnsatz(n_layers=1),
    ),
}


@pytest.mark.parametrize("name", CIRCUITS)
def test_parameter_shift_from_exact_values_is_the_gradient(name, monkeypatch):
    """With Qiskit's exact values in place of shots: equal to backpropagation."""
    from qiskit.quantum_info import Statevector

    circuit = CIRCUITS[name]

    def exact(self, circuit, tasks, weights, angles):
        own = to_qiskit(circuit, weights_by_name(circuit, weights), tasks)
        bare = own.circuit.remove_final_measurements(inplace=False)
        states = [Statevector(bare.assign_parameters(row)) for row in own.parameter_values(angles)]
        values = []
        for task in tasks:
            register = circuit.register(task)
            matrix = np.array(register.readout.matrix(len(register.wires)))
            wires = list(reversed(register.wires))
            values.append(np.array([matrix @ state.probabilities(wires) for state in states]))
        return torch.from_numpy(np.concatenate(values, axis=1))

    monkeypatch.setattr(HardwareSimulator, "_outputs", exact)
    head = QuantumHead(circuit, seed=0).double()
    x = features(head, 2).double().requires_grad_()

    def gradients(of):
        loss = sum((out**2).sum() for out in of(x).values())
        sources = [x, *(p for p in (of.encoding, of.blocks.parameter) if p.requires_grad)]
        return torch.autograd.grad(loss, sources, allow_unused=True)

    simulator = HardwareSimulator("aer", gradient="parameter-shift")
    pairs = zip(gradients(head.with_simulator(simulator)), gradients(head), strict=True)
    for ours, theirs in pairs:
        if theirs is None:
            assert ours is None or not ours.any()
        else:
            torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


def test_parameter_shift_from_shots():
    head = binary_head(2)
    x = features(head, 1)

    def gradient(of):
        of.zero_grad()
        sum(out.sum() for out in of(x).values()).backward()
        return torch.cat([p.grad.ravel() for p in (of.encoding, of.blocks.parameter)])

    shots = 4000
    simulator = HardwareSimulator("aer", shots=shots, seed=1, gradient="parameter-shift")
    exact = gradient(head).clone()
    measured = gradient(head.with_simulator(simulator))
    # Each entry sums shifts of standard error below 5/√(2·shots).
    assert (measured - exact).abs().max() < 4.5 * 5 / np.sqrt(2 * shots)
    limited = HardwareSimulator("aer", shots=shots, gradient="parameter-shift", max_shots=3 * shots)
    with pytest.raises(HardwareBudgetError, match="max_shots"):
        gradient(head.with_simulator(limited))


def test_only_rotations_within_reach_are_shifted():
    circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(8)])
    simulator = HardwareSimulator("aer", shots=1)
    one, all_tasks = (simulator.executions(circuit, 1, tasks) for tasks in (["t0"], None))
    rotations = sum(gate.angle is not None for gate in circuit.gates())
    assert one < all_tasks / 2
    assert all_tasks == 1 + 2 * rotations


def test_simulators_survive_pickling_and_show_themselves():
    simulator = HardwareSimulator("aer", shots=10, seed=0)
    head = binary_head(1)
    x = features(head, 1)
    again = pickle.loads(pickle.dumps(simulator))
    with torch.no_grad():
        one, other = (head.with_simulator(s)(x)["t0"] for s in (simulator, again))
    assert torch.equal(one, other)
    assert repr(simulator) == "HardwareSimulator('aer', shots=10)"
    with pytest.raises(InvalidInputError, match="cannot be saved"):
        head.with_simulator(simulator).to_dict()


def test_errors():
    for call, expected in [
        (lambda: HardwareSimulator("aer", shot=3), "did you mean 'shots'"),
        (lambda: HardwareSimulator("aer", gradient="backprop"), "unknown gradient"),
        (lambda: HardwareSimulator("fake_fes"), "did you mean 'fake_fez'"),
    ]:
        with pytest.raises(InvalidInputError, match=expected):
            call()


def test_backends_by_their_name_alone():
    head = binary_head(1)
    for name in ("aer", "fake_fez"):
        twin = head.with_simulator(name)
        assert isinstance(twin.simulator, HardwareSimulator)
        assert twin.simulator.backend == name
    assert repr(head.with_simulator("ibm_fez").simulator).startswith("HardwareSimulator('ibm_fez'")
    with pytest.raises(InvalidInputError, match="did you mean 'fake_fez'"):
        head.with_simulator("fake_fes")
    with pytest.raises(InvalidInputError, match="unknown simulator 'aerr'"):
        head.with_simulator("aerr")
