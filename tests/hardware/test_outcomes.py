"""Outcome probabilities agree with Aer's density matrices under Aer's own noise model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("qiskit")
pytest.importorskip("qiskit_aer")

from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.quantum_info import Statevector

from qmtl.circuit import HeadCircuit
from qmtl.errors import CircuitTooLargeError, InvalidInputError
from qmtl.hardware import _local as local
from qmtl.hardware import open_backend, prepare, to_qiskit
from qmtl.hardware._transpile import scheduled, transpiled
from qmtl.heads import QuantumHead
from qmtl.noise import DeviceNoise
from qmtl.tasks import Task
from tests.noise.backends import cut

GATES = ["id", "rz", "sx", "x", "cx", "rzz", "h", "y", "t", "tdg", "p", "swap", "delay"]


def probabilities(circuit, values, backend, noise):
    """Of all classical bits, the first one most significant."""
    asked = {"all": circuit.clbits}
    return local._distributions(circuit, values, asked, backend, noise)["all"]


def unread(noise):
    return replace(noise, readout=(0.0, 0.0), readouts={})


@pytest.mark.parametrize("name", ["fake_fez", "fake_boston", "fake_sherbrooke"])
def test_agrees_with_aers_density_matrices(name):
    """CZ, ECR, scheduled delays: gates and noise are those of Aer's NoiseModel.from_backend."""
    from qiskit_aer import AerSimulator
    from qiskit_aer.noise import NoiseModel

    backend = open_backend(name)
    head = QuantumHead(HeadCircuit([Task.binary("a"), Task.binary("b")]), seed=0)
    own = to_qiskit(head.circuit, head.weights())
    circuit = transpiled(own.circuit, backend, range(4)).circuit
    values = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).double().numpy()
    ours = probabilities(circuit, values, backend, unread(backend.noise))

    timed = scheduled(circuit, backend.target)
    assert "delay" in timed.count_ops()
    measured = [
        timed.find_bit(i.qubits[0]).index for i in timed.data if i.operation.name == "measure"
    ]
    qubits = sorted({timed.find_bit(q).index for i in circuit.data for q in i.qubits
                     if i.operation.name != "barrier"})  # fmt: skip
    small = QuantumCircuit(len(qubits))
    for instruction in timed.data:
        on = [timed.find_bit(qubit).index for qubit in instruction.qubits]
        if instruction.operation.name not in ("barrier", "measure") and set(on) <= set(qubits):
            small.append(instruction.operation, [qubits.index(q) for q in on])
    small.save_probabilities([qubits.index(q) for q in reversed(measured)])
    model = NoiseModel.from_backend(cut(backend.target, qubits))
    simulator = AerSimulator(method="density_matrix", noise_model=model)
    result = simulator.run([small.assign_parameters(row) for row in values]).result()
    aers = np.array([result.data(i)["probabilities"] for i in range(len(values))])
    np.testing.assert_allclose(ours, aers, rtol=0, atol=2e-6)
    ideal = probabilities(circuit, values, backend, DeviceNoise())
    assert np.abs(ours - ideal).max() > 1e-3  # there is noise to see


def random_circuit(n_wires, n_gates, seed):
    random = np.random.default_rng(seed)
    circuit = QuantumCircuit(n_wires)
    x = Parameter("x")
    for _ in range(n_gates):
        a, b = map(int, random.choice(n_wires, 2, replace=False))
        kind = random.choice(["rz", "sx", "rzz", "cx", "h", "y", "t", "tdg", "p", "swap"])
        if kind in ("rz", "p"):
            getattr(circuit, kind)(random.normal() * x, a)
        elif kind == "rzz":
            circuit.rzz(random.normal(), a, b)
        else:
            getattr(circuit, kind)(*([a, b] if kind in ("cx", "swap") else [a]))
    circuit.rz(x, 0)
    return circuit


@pytest.mark.parametrize("seed", range(8))
def test_random_circuits_any_subset_measured_in_any_order(seed):
    random = np.random.default_rng(seed)
    backend = open_backend(GenericBackendV2(5, GATES, seed=0))
    circuit = random_circuit(5, 25, seed)
    measured = [int(w) for w in random.permutation(5)[: random.integers(1, 6)]]
    values = np.array([[0.3], [1.1]])
    expected = [
        Statevector(circuit.assign_parameters(row)).probabilities(list(reversed(measured)))
        for row in values
    ]
    read = circuit.copy()
    from qiskit import ClassicalRegister

    read.add_register(register := ClassicalRegister(len(measured), "c"))
    read.measure(measured, register)
    found = probabilities(read, values, backend, DeviceNoise())
    np.testing.assert_allclose(found, expected, atol=1e-6)


def two_wires():
    circuit = QuantumCircuit(2, 2)
    circuit.x(0)
    circuit.cx(0, 1)
    circuit.measure([0, 1], [0, 1])
    return circuit


def test_readout_errors_and_depolarisation():
    backend = open_backend(GenericBackendV2(2, GATES, seed=0))
    nothing = np.empty((1, 0))
    even = probabilities(two_wires(), nothing, backend, DeviceNoise.uniform(two_qubit=15 / 16))
    np.testing.assert_allclose(even, np.full((1, 4), 0.25), atol=1e-7)
    noise = DeviceNoise(readouts={0: (0.1, 0.2), 1: (0.05, 0.3)})
    read = probabilities(two_wires(), nothing, backend, noise)
    np.testing.assert_allclose(read[0], [0.2 * 0.3, 0.2 * 0.7, 0.8 * 0.3, 0.8 * 0.7], atol=1e-7)


def test_blocks_of_samples_change_nothing(monkeypatch):
    circuit = QuantumCircuit(2, 1)
    circuit.rzz(Parameter("a"), 0, 1)
    circuit.h(0)
    circuit.p(Parameter("b"), 0)
    circuit.h(0)
    circuit.measure(0, 0)
    backend = open_backend(GenericBackendV2(2, GATES, seed=0))
    values = np.linspace(0, 1, 14).reshape(7, 2)
    whole = probabilities(circuit, values, backend, DeviceNoise())
    monkeypatch.setattr(local, "BLOCK", 1)
    np.testing.assert_array_equal(probabilities(circuit, values, backend, DeviceNoise()), whole)
    assert np.ptp(whole[:, 1]) > 0.1


def test_what_is_too_large_or_not_known_is_told(monkeypatch):
    backend = open_backend(GenericBackendV2(3, GATES, seed=0))
    circuit = QuantumCircuit(3, 1)
    circuit.ccx(0, 1, 2)
    circuit.measure(0, 0)
    with pytest.raises(InvalidInputError, match="ccx is not among the native gates"):
        probabilities(circuit, np.empty((1, 0)), replace(backend, device=untimed()), DeviceNoise())
    monkeypatch.setattr(local, "MOST_NUMBERS", 0)
    with pytest.raises(CircuitTooLargeError, match=r"vector of .* numbers: use fewer layers"):
        probabilities(two_wires(), np.empty((1, 0)), backend, DeviceNoise())


def untimed():
    """A device whose gates' durations are not known."""
    from qiskit.circuit.library import CCXGate, Measure
    from qiskit.transpiler import Target

    target = Target(num_qubits=3)
    target.add_instruction(CCXGate(), {(0, 1, 2): None})
    target.add_instruction(Measure(), {(0,): None})
    return type("Device", (), {"target": target})()


def test_a_whole_circuit_of_twelve_bits_is_executed_as_a_whole():
    head = QuantumHead(HeadCircuit([Task.binary(f"t{i}") for i in range(6)]), seed=0)
    run = prepare(head, torch.zeros(1, 12), "fake_fez", shots=10, predict=False)
    assert run.execution == "whole circuit"
