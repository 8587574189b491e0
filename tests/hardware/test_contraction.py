"""Outcome probabilities agree with Aer's density matrices under Aer's own noise model."""

import numpy as np
import pytest
import torch

qiskit = pytest.importorskip("qiskit")
pytest.importorskip("qiskit_aer")

from qiskit import QuantumCircuit  # noqa: E402
from qiskit.providers import BackendV2, Options  # noqa: E402
from qiskit.quantum_info import Statevector  # noqa: E402

from qmtl.circuit import HeadCircuit  # noqa: E402
from qmtl.errors import InvalidInputError  # noqa: E402
from qmtl.hardware import open_backend, to_qiskit  # noqa: E402
from qmtl.hardware._contraction import (  # noqa: E402
    best_plan,
    causal_cone,
    outcome_probabilities,
)
from qmtl.hardware._cut import active_qubits, cut_circuit, cut_target, scheduled  # noqa: E402
from qmtl.hardware._transfer import operations  # noqa: E402
from qmtl.hardware._transpiled import transpiled  # noqa: E402
from qmtl.noise import DeviceNoise, Relaxation, Timing  # noqa: E402
from qmtl.tasks import Task  # noqa: E402


class CutBackend(BackendV2):
    """A target as a backend, for Aer's reader of calibrations."""

    def __init__(self, target):
        super().__init__(name="cut")
        self._target = target

    target = property(lambda self: self._target)
    max_circuits = None

    @classmethod
    def _default_options(cls):
        return Options()

    def run(self, *args, **kwargs):
        raise NotImplementedError


def head_on(backend, tasks, seed=0):
    circuit = HeadCircuit(tasks)
    random = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(size, generator=random) for name, size in circuit.weight_sizes.items()
    }
    head = to_qiskit(circuit, weights)
    found = transpiled(head.circuit, backend, range(circuit.n_wires))
    angles = torch.randn(2, circuit.n_features, generator=random)
    columns = {parameter: i for i, parameter in enumerate(head.circuit.parameters)}
    values = head.parameter_values(angles)
    return found.circuit, values[:, [columns[p] for p in found.circuit.parameters]]


@pytest.mark.parametrize("name", ["fake_fez", "fake_boston", "fake_sherbrooke"])
def test_agrees_with_aers_density_matrices(name):
    """CZ, ECR, scheduled delays: gates and noise are those of Aer's NoiseModel.from_backend."""
    from qiskit_aer import AerSimulator
    from qiskit_aer.noise import NoiseModel

    backend = open_backend(name)
    circuit, values = head_on(backend, [Task.binary("a"), Task.binary("b")])
    timed = scheduled(circuit, backend.target)
    assert "delay" in timed.count_ops()
    qubits = active_qubits(timed)
    cut = cut_circuit(timed, qubits)
    made = operations(cut, values, backend.noise, backend.target.dt, qubits)
    measured = [cut.find_bit(i.qubits[0]).index for i in cut.data if i.operation.name == "measure"]
    ours = outcome_probabilities(made, measured, {}, len(values))

    bare = cut.remove_final_measurements(inplace=False)
    bare.save_probabilities(list(reversed(measured)))
    noise = NoiseModel.from_backend(CutBackend(cut_target(backend.target, qubits)))
    simulator = AerSimulator(method="density_matrix", noise_model=noise)
    result = simulator.run([bare.assign_parameters(row) for row in values]).result()
    aers = np.array([result.data(i)["probabilities"] for i in range(len(values))])
    np.testing.assert_allclose(ours, aers, rtol=0, atol=2e-6)
    assert np.abs(ours - ideal(bare, values, measured)).max() > 1e-3  # there is noise to see


def ideal(circuit, values, measured):
    circuit = circuit.copy()
    aside = ("delay", "save_probabilities")
    circuit.data = [i for i in circuit.data if i.operation.name not in aside]
    states = [Statevector(circuit.assign_parameters(row)) for row in values]
    return np.array([state.probabilities(list(reversed(measured))) for state in states])


def random_circuit(n_wires, n_gates, seed):
    random = np.random.default_rng(seed)
    circuit = QuantumCircuit(n_wires)
    for _ in range(n_gates):
        kind = random.integers(4)
        a, b = map(int, random.choice(n_wires, 2, replace=False))
        if kind == 0:
            circuit.rz(random.normal(), a)
        elif kind == 1:
            circuit.sx(a)
        elif kind == 2:
            circuit.rzz(random.normal(), a, b)
        else:
            circuit.cx(a, b)
    return circuit


@pytest.mark.parametrize("seed", range(8))
def test_random_circuits_any_subset_measured_in_any_order(seed):
    random = np.random.default_rng(seed)
    circuit = random_circuit(5, 25, seed)
    measured = [int(w) for w in random.permutation(5)[: random.integers(1, 6)]]
    made = operations(circuit, np.empty((1, 0)), DeviceNoise())
    found = outcome_probabilities(made, measured, {}, 1)
    expected = Statevector(circuit).probabilities(list(reversed(measured)))
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    cone = causal_cone(made, measured)
    np.testing.assert_allclose(outcome_probabilities(cone, measured, {}, 1)[0], expected, atol=1e-6)


def test_readout_errors_and_depolarisation():
    circuit = QuantumCircuit(2)
    circuit.x(0)
    circuit.cz(0, 1)
    made = operations(circuit, np.empty((1, 0)), DeviceNoise.uniform(two_qubit=15 / 16))
    even = outcome_probabilities(made, [0, 1], {}, 1)
    np.testing.assert_allclose(even, np.full((1, 4), 0.25), atol=1e-7)
    sure = operations(circuit, np.empty((1, 0)), DeviceNoise())
    read = outcome_probabilities(sure, [0, 1], {0: (0.1, 0.2), 1: (0.05, 0.3)}, 1)
    np.testing.assert_allclose(read[0], [0.2 * 0.95, 0.2 * 0.05, 0.8 * 0.95, 0.8 * 0.05], atol=1e-7)


def test_a_long_ring_needs_no_more_room_for_its_length():
    """Peak sizes grow by what is measured only: one bit for each further wire."""
    peaks = []
    for n in (12, 16):
        ring = QuantumCircuit(n)
        for _ in range(2):
            for i in (*range(0, n, 2), *range(1, n, 2)):
                ring.cz(i, (i + 1) % n)
        made = operations(ring, np.empty((1, 0)), DeviceNoise())
        peaks.append(best_plan(made, [0]).peak)
    assert peaks[0] == peaks[1]


def test_chunks_of_samples_change_nothing(monkeypatch):
    from qmtl.hardware import _contraction as contraction

    circuit = QuantumCircuit(2)
    angle = qiskit.circuit.Parameter("a")
    circuit.rx(angle, 0)
    circuit.cz(0, 1)
    values = np.linspace(0, 1, 7)[:, None]
    made = operations(circuit, values, DeviceNoise())
    whole = outcome_probabilities(made, [0], {}, 7)
    monkeypatch.setattr(contraction, "MEMORY", 1)
    np.testing.assert_array_equal(outcome_probabilities(made, [0], {}, 7), whole)
    np.testing.assert_allclose(whole[:, 1], np.sin(values[:, 0] / 2) ** 2, atol=1e-6)


def test_gates_that_are_not_known():
    circuit = QuantumCircuit(3)
    circuit.ccx(0, 1, 2)
    with pytest.raises(InvalidInputError, match="ccx is not among the native gates"):
        operations(circuit, np.empty((1, 0)), DeviceNoise())
    circuit = QuantumCircuit(1)
    circuit.delay(100, 0, unit="dt")
    noise = DeviceNoise(timing=Timing({}, others=Relaxation(1e-4, 1e-4)))
    with pytest.raises(InvalidInputError, match="time steps"):
        operations(circuit, np.empty((1, 0)), noise)
