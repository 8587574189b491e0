"""Predictions for transpiled circuits are Aer's density matrices, idle noise and readout included.

Aer drops Kraus operators of relaxation below its tolerance of 1e-8, so that only Pauli noise can
agree to 1e-10.
"""

from math import cos

import numpy as np
import pytest
import torch

pytest.importorskip("qiskit_aer")

from qiskit import QuantumCircuit, transpile
from qiskit.circuit import Parameter
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.quantum_info import Statevector
from qiskit.transpiler import PassManager
from qiskit.transpiler.passes import ALAPScheduleAnalysis, ASAPScheduleAnalysis, PadDelay
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel

from qmtl.circuit import AngleEncoding, HeadCircuit, IQPEncoding, Probabilities, RealAmplitudes
from qmtl.errors import InvalidInputError
from qmtl.hardware import QiskitHeadCircuit, predict_transpiled, to_qiskit
from qmtl.noise import CoherentError, DeviceNoise
from qmtl.simulators import LightConeSimulator
from qmtl.tasks import Task
from tests.noise.backends import cut, ring

NATIVE = ["id", "rz", "sx", "x"]


def backend_of(n: int, two_wire: str = "cz") -> GenericBackendV2:
    edges = [(i, (i + 1) % n) for i in range(n)]
    return GenericBackendV2(n, [two_wire, *NATIVE], coupling_map=edges, seed=5)


def head_of(sizes, **settings):
    """A head circuit that gives the probabilities of each register, weights and two samples."""
    tasks = [Task.multiclass(f"t{i}", 2**size) for i, size in enumerate(sizes)]
    readouts = {task.name: Probabilities(2**size) for task, size in zip(tasks, sizes, strict=True)}
    circuit = HeadCircuit(tasks, readouts=readouts, **settings)
    weights = {
        key: torch.randn(*shape, dtype=torch.float64) for key, shape in circuit.weight_sizes.items()
    }
    return circuit, weights, torch.randn(2, circuit.n_features, dtype=torch.float64)


def aer_probabilities(circuit: QuantumCircuit, model: NoiseModel) -> dict[str, np.ndarray]:
    """The probabilities of each classical register, first bit most significant."""
    where, bare = {}, circuit.copy_empty_like()
    for instruction in circuit.data:
        qubits = [circuit.find_bit(qubit).index for qubit in instruction.qubits]
        if instruction.operation.name == "measure":
            where[instruction.clbits[0]] = qubits[0]
        elif not set(qubits) & set(where.values()):
            bare.append(instruction)
    for register in circuit.cregs:
        bare.save_probabilities([where[bit] for bit in register], label=register.name)
    simulator = AerSimulator(method="density_matrix", noise_model=model)
    data = simulator.run(bare).result().data()
    found = {}
    for register in circuit.cregs:
        # Qiskit's first axis is the last bit.
        p = np.array(data[register.name]).reshape((2,) * len(register)).T
        for axis, bit in enumerate(register):
            errors = model._local_readout_errors.get((where[bit],))
            confusion = np.eye(2) if errors is None else np.array(errors.probabilities)
            p = np.moveaxis(np.tensordot(confusion, p, ([0], [axis])), 0, axis)
        found[register.name] = p.ravel()
    return found


def distance(circuit, head, predicted, reference, angles, noise, model, **options) -> float:
    """Largest difference between predictions of one circuit and Aer's run of another."""
    found = predict_transpiled(circuit, head, predicted, angles, noise, **options)
    worst = 0.0
    for row, values in enumerate(head.parameter_values(angles)):
        bound = reference.assign_parameters(dict(zip(head.circuit.parameters, values, strict=True)))
        for task, expected in aer_probabilities(bound, model).items():
            worst = max(worst, float(np.abs(found[task][row].numpy() - expected).max()))
    return worst


CIRCUITS = {
    "rings": ([2, 2, 2], {}),
    "one big register": ([3, 2], {"encoding": AngleEncoding(n_layers=1, entangler="cnot_ring")}),
    "products of features": ([2, 2], {"encoding": IQPEncoding(), "ansatz": RealAmplitudes()}),
    "eight wires": ([2, 2, 2, 2], {"encoding": AngleEncoding(n_layers=1)}),
}


# The density matrix of eight wires takes seconds: with one kind of gate only.
@pytest.mark.parametrize(
    ("name", "two_wire"),
    [
        (name, two_wire)
        for name in CIRCUITS
        for two_wire in ("cz", "ecr", "cx")
        if two_wire == "cz" or name != "eight wires"
    ],
)
def test_matches_aer(name, two_wire):
    sizes, settings = CIRCUITS[name]
    circuit, weights, angles = head_of(sizes, **settings)
    backend = backend_of(sum(sizes), two_wire)
    head = to_qiskit(circuit, weights)
    native = transpile(head.circuit, backend, optimization_level=2, seed_transpiler=1)
    model = NoiseModel.from_backend(backend, thermal_relaxation=False)
    noise = DeviceNoise.from_backend(backend.target, relaxation=False)
    assert distance(circuit, head, native, native, angles, noise, model) < 1e-10


@pytest.fixture(scope="module")
def fez():
    from qiskit_ibm_runtime.fake_provider import FakeFez

    target = FakeFez().target
    path = ring(target.build_coupling_map().get_edges(), 12)
    return cut(target, path[:6])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("analysis", "order"), [(ALAPScheduleAnalysis, "alap"), (ASAPScheduleAnalysis, "asap")]
)
def test_waiting_is_what_qiskit_pads_with_delays(fez, analysis, order):
    circuit, weights, angles = head_of([2, 2, 2])
    angles = angles[:1]
    head = to_qiskit(circuit, weights)
    native = transpile(head.circuit, fez, optimization_level=1, seed_transpiler=1)
    model = NoiseModel.from_backend(fez)
    noise = DeviceNoise.from_backend(fez, order=order)
    passes = PassManager([analysis(target=fez.target), PadDelay(target=fez.target)])
    padded = passes.run(native)
    assert padded.count_ops()["delay"] > 5
    assert distance(circuit, head, padded, padded, angles, noise, model, dt=fez.dt) < 1e-7
    assert distance(circuit, head, native, padded, angles, noise, model) < 1e-7
    # Waiting is worth a test: without it the two are apart.
    quiet = DeviceNoise.from_backend(fez, order=None)
    assert distance(circuit, head, native, padded, angles, quiet, model) > 1e-4


def test_without_noise_it_is_the_head_circuit(fez):
    circuit, weights, angles = head_of([2, 2, 2])
    head = to_qiskit(circuit, weights)
    native = transpile(head.circuit, fez, optimization_level=3, seed_transpiler=1)
    found = predict_transpiled(circuit, head, native, angles, DeviceNoise())
    expected = LightConeSimulator().expectation_values(circuit, angles, weights)
    for task, values in expected.items():
        torch.testing.assert_close(found[task], values, rtol=0, atol=1e-12)


def hand_made(build) -> tuple[HeadCircuit, QiskitHeadCircuit, QuantumCircuit, Parameter]:
    """A circuit written by hand, for a head circuit of two wires and two features."""
    circuit = HeadCircuit(
        [Task.multiclass("a", 4)], AngleEncoding(n_layers=1), readouts={"a": Probabilities(4)}
    )
    weights = {key: torch.zeros(*shape) for key, shape in circuit.weight_sizes.items()}
    head = to_qiskit(circuit, weights)
    written = head.circuit.copy_empty_like()
    build(written, *head.circuit.parameters)
    written.measure([0, 1], list(written.cregs[0]))
    return circuit, head, written


def every_gate(c, x, y):
    for gate in (c.h, c.s, c.sdg, c.sx, c.sxdg, c.x, c.z, c.id):
        gate(0)
        c.rx(0.3, 0)
        c.ry(y - 0.4 * x, 1)
        gate(1)
    c.ecr(0, 1)
    c.rx(x * y, 0)
    c.ecr(1, 0)
    c.rzz(0.2 * x + 1.5, 0, 1)
    c.ry(1.1, 0)
    c.cx(1, 0)
    c.rz(x + np.pi / 2, 0)
    c.rx(2 * y + np.pi, 0)
    c.rz(-np.pi / 2, 0)
    c.cz(0, 1)
    c.ry(0.7, 1)
    c.rz(3 * np.pi, 1)
    c.rx(0.6, 1)


def test_every_gate_is_qiskits():
    circuit, head, written = hand_made(every_gate)
    angles = torch.randn(3, 2, dtype=torch.float64)
    found = predict_transpiled(circuit, head, written, angles, DeviceNoise())["a"]
    bare = written.remove_final_measurements(inplace=False)
    for row, values in enumerate(head.parameter_values(angles)):
        bound = bare.assign_parameters(dict(zip(head.circuit.parameters, values, strict=True)))
        expected = Statevector(bound).probabilities().reshape(2, 2).T.ravel()
        np.testing.assert_allclose(found[row].numpy(), expected, atol=1e-12)


def test_coherent_errors_of_native_gates():
    def plain(c, x, y):
        c.sx(0)
        c.x(1)
        c.rx(x, 1)
        c.rz(y + np.pi, 0)
        c.cz(0, 1)
        c.sx(0)

    def wrong(c, x, y):
        c.rx(np.pi / 2 * 1.02, 0)
        c.rx(np.pi * 0.97, 1)
        c.rx(x * 1.1, 1)
        c.rz((y + np.pi) * 0.9, 0)
        c.cz(0, 1)
        c.rzz(0.05, 0, 1)
        c.rz(-0.03, 1)
        c.rx(np.pi / 2 * 1.02, 0)

    circuit, head, written = hand_made(plain)
    _, _, twisted = hand_made(wrong)
    noise = DeviceNoise(
        coherent={
            "sx": CoherentError(0.02),
            ("x", (1,)): CoherentError(-0.03),
            "rx": CoherentError(0.1),
            "rz": CoherentError(-0.1),
            "cz": CoherentError(rotations=(("IsingZZ", (0, 1), 0.05), ("RZ", (1,), -0.03))),
        }
    )
    angles = torch.randn(2, 2, dtype=torch.float64)
    found = predict_transpiled(circuit, head, written, angles, noise)["a"]
    names = {p.name: p for p in head.circuit.parameters}
    twisted = twisted.assign_parameters({p: names[p.name] for p in twisted.parameters})
    expected = predict_transpiled(circuit, head, twisted, angles, DeviceNoise())["a"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_angles_with_powers_of_features():
    """As of an encoding by ``x[0]·x[0]``, which simulators run as well."""
    angles = torch.tensor([[0.7, -1.3]], dtype=torch.float64)
    x, y = angles[0].tolist()

    def predict(angle):
        circuit, head, written = hand_made(lambda c, x, y: c.rx(angle(x, y), 0))
        return predict_transpiled(circuit, head, written, angles, DeviceNoise())["a"][0, 0]

    for angle in (
        lambda x, y: 3.1 - 0.5 * x * x,
        lambda x, y: 2 * x * y - y * y * y / 4 + 1,
        lambda x, y: (x + y) ** 2,
    ):
        assert abs(predict(angle) - cos(angle(x, y) / 2) ** 2) < 1e-12


def test_bad_input():
    angles = torch.zeros(1, 2)

    def predict(build, **options):
        circuit, head, written = hand_made(build)
        return predict_transpiled(circuit, head, written, angles, DeviceNoise(), **options)

    with pytest.raises(InvalidInputError, match="iswap is not among the native gates"):
        predict(lambda c, x, y: c.iswap(0, 1))
    with pytest.raises(InvalidInputError, match="sum of products of features"):
        predict(lambda c, x, y: c.rz(x.sin(), 0))
    with pytest.raises(InvalidInputError, match="sum of products of features"):
        predict(lambda c, x, y: c.rz(1 / (1 + x), 0))
    with pytest.raises(InvalidInputError, match="sum of products of features"):
        predict(lambda c, x, y: c.rz(1 / x, 0))
    with pytest.raises(InvalidInputError, match="bind the weights; got"):
        predict(lambda c, x, y: c.rz(Parameter("w"), 0))
    with pytest.raises(InvalidInputError, match=r"pass dt=backend\.dt"):
        predict(lambda c, x, y: c.delay(8, 0))
    assert predict(lambda c, x, y: c.delay(8, 0), dt=1e-9)["a"][0, 0] == 1
    with pytest.raises(InvalidInputError, match="measured at the end, got x"):
        predict(lambda c, x, y: (c.measure(0, 0), c.x(0)))
    circuit, head, written = hand_made(lambda c, x, y: c.x(0))
    with pytest.raises(InvalidInputError, match=r"shape \(batch, 2\), got \(1, 3\)"):
        predict_transpiled(circuit, head, written, torch.zeros(1, 3), DeviceNoise())
    bare = written.remove_final_measurements(inplace=False)
    with pytest.raises(InvalidInputError, match="does not measure all wires of"):
        predict_transpiled(circuit, head, bare, angles, DeviceNoise())
