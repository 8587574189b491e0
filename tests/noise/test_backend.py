"""Noise from a backend's calibration is Aer's, gate by gate."""

from math import inf

import numpy as np
import pytest

pytest.importorskip("qiskit_aer")

from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.quantum_info import PTM
from qiskit.transpiler import InstructionProperties, QubitProperties, Target
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel

from qmtl.circuit import Angle, Gate
from qmtl.errors import InvalidInputError
from qmtl.noise import DeviceNoise, tiled
from tests.noise.backends import cut, ring


def transfer(channels, wires) -> np.ndarray:
    """The Pauli transfer matrix (Schrödinger picture, first wire first)."""
    whole = np.eye(4 ** len(wires))
    for channel, on in channels:
        heisenberg = np.diag(channel.factors)
        heisenberg[0, -1] = channel.shift
        if channel.n_wires < len(wires):
            pair = [np.eye(4), np.eye(4)]
            pair[wires.index(on[0])] = heisenberg
            heisenberg = np.kron(*pair)
        whole = heisenberg.T @ whole
    return whole


def expected(model: NoiseModel, name: str, qubits: tuple[int, ...]) -> np.ndarray:
    """Aer's, with its first qubit first."""
    errors = model._local_quantum_errors.get(name, {})
    if qubits not in errors:
        return np.eye(4 ** len(qubits))
    n = len(qubits)
    found = PTM(errors[qubits]).data.real.reshape((4,) * (2 * n))
    return found.transpose(*range(n)[::-1], *range(n, 2 * n)[::-1]).reshape(4**n, 4**n)


@pytest.fixture(scope="module")
def fez():
    from qiskit_ibm_runtime.fake_provider import FakeFez

    return FakeFez()


def check_gates(backend) -> int:
    model, noise = NoiseModel.from_backend(backend), DeviceNoise.from_backend(backend.target)
    checked = 0
    for name in ("sx", "x", "id", "rz", "cz", "cx", "ecr"):
        for qubits in backend.target[name] if name in backend.target.operation_names else ():
            ours = transfer(noise.channels(name, qubits), qubits)
            np.testing.assert_allclose(ours, expected(model, name, qubits), atol=1e-10)
            checked += 1
    return checked


def test_gates_have_aers_errors_on_a_chip(fez):
    # Qubit 87 has a T2 above 2·T1; (31, 32) is a dead gate, with error 1.
    assert check_gates(cut(fez.target, [86, 87, 88, 30, 31, 32])) > 20


@pytest.mark.parametrize("gates", [["cx", "id", "rz", "sx", "x"], ["ecr", "id", "rz", "sx", "x"]])
def test_gates_have_aers_errors(gates):
    backend = GenericBackendV2(4, gates, coupling_map=[(0, 1), (2, 1), (2, 3)], seed=3)
    assert check_gates(backend) > 10


def test_readout_errors_are_symmetric_in_a_target_and_asymmetric_in_properties(fez):
    a = DeviceNoise.from_backend(fez).readouts[0]
    b = DeviceNoise.from_backend(fez.target).readouts[0]
    assert a == (0.00537109375, 0.017578125)
    assert b == (0.011474609375, 0.011474609375)
    assert sum(a) == sum(b)


def test_wires_are_on_the_qubits_named(fez):
    whole = DeviceNoise.from_backend(fez)
    noise = DeviceNoise.from_backend(fez, {0: 5, 1: 4})
    assert noise.channels("cz", (0, 1))[0][0] == whole.channels("cz", (5, 4))[0][0]
    assert noise.readouts == {0: whole.readouts[5], 1: whole.readouts[4]}
    assert noise.timing.relaxation[1] == whole.timing.relaxation[4]
    assert noise.channels("cz", (0, 2)) == [(noise.two_wire, (0, 2))]


def test_gates_of_head_circuits_cost_native_ones():
    backend = GenericBackendV2(2, ["cz", "id", "rz", "sx", "x"], seed=3)
    noise = DeviceNoise.from_backend(backend)
    sx = transfer(noise.channels("sx", (0,)), (0,))
    cz = transfer(noise.channels("cz", (0, 1)), (0, 1))
    flip = np.kron(np.eye(4), transfer(noise.channels("sx", (1,)), (1,)))
    angle = Angle(constant=0.1)
    products = {
        Gate("RZ", (0,), angle): np.eye(4),
        Gate("Hadamard", (0,)): sx,
        Gate("RY", (0,), angle): sx @ sx,
        Gate("RX", (0,), angle): sx @ sx,
        Gate("CZ", (0, 1)): cz,
        Gate("CNOT", (0, 1)): flip @ flip @ cz,
    }
    for gate, product in products.items():
        np.testing.assert_allclose(transfer(noise.after(gate), gate.wires), product, atol=1e-12)
    seconds = noise.timing.duration
    assert seconds("RY", (0,)) == 2 * seconds("sx", (0,)) > 0
    assert seconds("CNOT", (1, 0)) == seconds("cz", (1, 0)) + 2 * seconds("sx", (0,))


def test_without_relaxation_gates_only_depolarise(fez):
    noise = DeviceNoise.from_backend(fez, [0, 1], relaxation=False)
    ((channel, at),) = noise.channels("cz", (0, 1))
    assert at == (0, 1)
    assert noise.timing is None
    # The error is one minus the average gate fidelity: 4/5 of the chance of a Pauli error.
    error = fez.target["cz"][0, 1].error
    assert 1 - (4 * sum(channel.factors) / 16 + 1) / 5 == pytest.approx(error)


def test_what_a_target_does_not_know_is_no_noise():
    from qiskit.circuit.library import SXGate

    target = Target(num_qubits=2, qubit_properties=[QubitProperties(t1=1e-4), QubitProperties()])
    target.add_instruction(
        SXGate(), {(0,): InstructionProperties(duration=1e-7), (1,): InstructionProperties()}
    )
    noise = DeviceNoise.from_backend(target)
    assert noise.timing.relaxation[0].t2 == 2e-4
    assert 1 not in noise.timing.relaxation
    assert len(noise.channels("sx", (0,))) == 1
    assert noise.channels("sx", (1,)) == []
    assert noise.readouts == {}
    assert noise.two_wire is None
    other = Target(num_qubits=1, qubit_properties=[QubitProperties(t2=1e-4)])
    assert DeviceNoise.from_backend(other).timing.relaxation[0].t1 == inf


def test_bad_input():
    backend = GenericBackendV2(2, seed=1)
    with pytest.raises(InvalidInputError, match="Qiskit backend or Target, got 'fake_fez'"):
        DeviceNoise.from_backend("fake_fez")
    with pytest.raises(InvalidInputError, match=r"qubits 0 to 1, got \[2\]"):
        DeviceNoise.from_backend(backend, [0, 2])
    with pytest.raises(InvalidInputError, match="distinct qubits"):
        DeviceNoise.from_backend(backend, [1, 1])
    with pytest.raises(InvalidInputError, match="order"):
        DeviceNoise.from_backend(backend, order="soon")
    # Its read-out errors, and what the caller adds, are in the model only.
    with pytest.raises(InvalidInputError, match=r"generic_backend_2q\) has an Aer noise model"):
        DeviceNoise.from_backend(AerSimulator.from_backend(backend))


def test_tiles(fez):
    path = ring(fez.target.build_coupling_map().get_edges(), 12)
    noise = DeviceNoise.from_backend(fez, path)
    many = tiled(noise, 12, 36)
    for a, b, like in ((0, 1, (0, 1)), (13, 14, (1, 2)), (11, 12, (11, 0)), (35, 0, (11, 0))):
        assert [c for c, _ in many.channels("CZ", (a, b))] == [
            c for c, _ in noise.channels("CZ", like)
        ]
    assert many.readouts[35] == noise.readouts[11]
    assert many.timing.relaxation[24] == noise.timing.relaxation[0]
    assert many.timing.duration("CZ", (23, 24)) == noise.timing.duration("CZ", (11, 0))
    cut_short = tiled(noise, 12, 30)
    assert cut_short.channels("CZ", (29, 0)) == [(noise.two_wire, (29, 0))]
    assert max(max(wires) for _, wires in cut_short.gates) == 29
    line = tiled(DeviceNoise.from_backend(fez, path[:11]), 11, 22)
    assert line.channels("CZ", (10, 11)) == [(line.two_wire, (10, 11))]
    assert DeviceNoise.from_dict(many.to_dict()) == many
    with pytest.raises(InvalidInputError, match="at least 3 wires, got 2"):
        tiled(noise, 2, 8)
