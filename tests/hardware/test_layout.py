"""Layouts by calibration, broken gates left out, and transpiled circuits kept by content."""

import math
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("qiskit")
pytest.importorskip("qiskit_ibm_runtime")

from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.circuit.library import CZGate, Measure, RZGate, SXGate, XGate
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.quantum_info import Operator
from qiskit.transpiler import InstructionProperties, Target

from qmtl.circuit import AngleEncoding, HeadCircuit
from qmtl.errors import InvalidInputError
from qmtl.hardware import Backend, decode, execute, open_backend, prepare, to_qiskit
from qmtl.hardware import _transpile as transpile_module
from qmtl.hardware._transpile import (
    best_layout,
    estimated_success,
    transpiled,
    usable_target,
)
from qmtl.heads import QuantumHead
from qmtl.tasks import Task
from tests.hardware.samples import binary_head, deviations, features


def line_target(cz, readout):
    """Qubits in a row, with these errors."""
    n = len(readout)
    target = Target(num_qubits=n, dt=4e-9)
    single = {(q,): InstructionProperties(error=1e-4, duration=4e-8) for q in range(n)}
    target.add_instruction(SXGate(), dict(single))
    target.add_instruction(XGate(), dict(single))
    target.add_instruction(RZGate(Parameter("a")), dict.fromkeys(single))
    pairs = {(i, i + 1): InstructionProperties(error=e, duration=8e-8) for i, e in enumerate(cz)}
    target.add_instruction(CZGate(), pairs)
    read = {(q,): InstructionProperties(error=e, duration=1e-6) for q, e in enumerate(readout)}
    target.add_instruction(Measure(), read)
    return target


def line(n):
    circuit = QuantumCircuit(n, n)
    for i in range(n - 1):
        circuit.cz(i, i + 1)
    circuit.measure(range(n), range(n))
    return circuit


def test_the_best_line_is_found_by_two_qubit_and_readout_errors():
    good, bad = 0.001, 0.05
    target = line_target([bad, good, good, bad, good, good], [good] * 7)
    assert sorted(best_layout(line(3), target, [0, 1, 2])) in ([1, 2, 3], [4, 5, 6])
    target = line_target([good] * 6, [good, bad, good, good, good, bad, good])
    assert sorted(best_layout(line(3), target, [0, 1, 2])) == [2, 3, 4]
    # Only the read-out of wires that are read counts: wire 1 may sit on the bad qubit.
    target = line_target(
        [good, good, bad, bad, bad, bad], [good, bad, good, good, good, good, good]
    )
    assert sorted(best_layout(line(3), target, [0, 2])) == [0, 1, 2]


def test_parts_without_a_gate_between_them_get_qubits_of_their_own():
    good, bad = 0.001, 0.05
    target = line_target([good, bad, good, good, bad, good, bad], [good] * 8)
    parts = QuantumCircuit(6)  # pairs on wires 4, 5; three in a row on 0, 1, 2; wire 3 is idle
    parts.cz(4, 5)
    parts.cz(0, 1)
    parts.cz(1, 2)
    layout = best_layout(parts, target, [0, 1, 2, 4, 5])
    assert sorted(layout[:3]) == [2, 3, 4]
    assert sorted(layout[4:]) in ([0, 1], [5, 6])
    assert len(set(layout)) == 6
    assert best_layout(parts, line_target([good] * 3, [good] * 4), []) is None


def test_wires_without_two_qubit_gates_get_qubits_of_their_own():
    """Qiskit gives each of them the qubit with the best read-out."""
    target = line_target([0.001] * 3, [0.03, 0.01, 0.04, 0.02])
    assert best_layout(QuantumCircuit(4), target, [3, 1, 0]) == (1, 3, 2, 0)
    with_pair = QuantumCircuit(4)
    with_pair.cz(1, 3)
    layout = best_layout(with_pair, target, [0, 1, 2, 3])
    assert sorted(layout) == [0, 1, 2, 3]
    assert abs(layout[1] - layout[3]) == 1
    assert best_layout(QuantumCircuit(5), target, range(5)) is None


def test_a_circuit_in_parts_of_which_one_needs_swaps():
    """With Qiskit's search of better qubits at level 3 this took minutes."""
    task = Task.multiclass("c", 16)
    circuit = HeadCircuit([task, Task.binary("b")], AngleEncoding(entangler="none"))
    head = QuantumHead(circuit, seed=0, initial="normal")
    found = transpiled(to_qiskit(circuit).circuit, open_backend("fake_fez"), range(6))
    assert found.swaps > 0
    assert len(set(found.layout)) == circuit.n_wires == 6
    run = prepare(head, features(head), "fake_fez", shots=4000, cache=False, seed=0)
    decoded = decode(run, [execute(run, 0)])
    assert abs(deviations(decoded.values, run.predicted, decoded.errors)).max() < 4.5


@pytest.mark.parametrize("broken", [1.0, math.nan, 0.0, 0.6])
def test_broken_gates_and_readouts_are_left_out(broken):
    target = usable_target(line_target([0.01, broken, 0.01, 0.01], [0.01] * 5))
    assert (1, 2) not in target["cz"]
    assert sorted(best_layout(line(3), target, range(3))) == [2, 3, 4]
    target = usable_target(line_target([0.01] * 4, [0.01, 0.01, broken, 0.01, 0.01]))
    assert {(0, 1), (3, 4)} == set(target["cz"])
    assert (2,) not in target["sx"]
    assert best_layout(line(3), target, range(3)) is None


def test_errors_of_zero_everywhere_mean_a_perfect_device():
    target = usable_target(line_target([0.0, 0.0], [0.0] * 3))
    assert len(target["cz"]) == 2
    assert estimated_success(line(3), target) == 1


def test_rings_of_a_heavy_hex_lattice():
    target = usable_target(open_backend("fake_fez").target)

    def ring(n):
        circuit = line(n)
        circuit.cz(n - 1, 0)
        return circuit

    couplings = {frozenset(pair) for pair in target["cz"]}
    for n in (12, 20, 40, 100):
        layout = best_layout(ring(n), target, range(n))
        assert len(set(layout)) == n
        assert all(frozenset((layout[i], layout[(i + 1) % n])) in couplings for i in range(n))
    assert best_layout(ring(10), target, range(10)) is None


def test_success_is_the_product_of_fidelities():
    target = line_target([0.1, 0.2], [0.01, 0.02, 0.03])
    assert estimated_success(line(3), target) == pytest.approx(0.9 * 0.8 * 0.99 * 0.98 * 0.97)


@pytest.fixture(scope="module")
def boston():
    return open_backend("fake_boston")


def test_transpiled_circuits_are_kept_by_content(boston, tmp_path, monkeypatch):
    head = to_qiskit((one := binary_head(2)).circuit, one.weights())
    first = transpiled(head.circuit, boston, [0, 2], cache=tmp_path)
    [file] = tmp_path.iterdir()
    calls = []
    original = transpile_module._transpile
    monkeypatch.setattr(transpile_module, "_transpile", lambda *a: calls.append(a) or original(*a))
    # Parameters of another circuit with the same names.
    again = to_qiskit(one.circuit, one.weights())
    found = transpiled(again.circuit, boston, [0, 2], cache=tmp_path)
    assert not calls
    assert (found.layout, found.swaps) == (first.layout, first.swaps)
    assert set(found.circuit.parameters) == set(again.circuit.parameters)
    assert found.circuit.cregs == first.circuit.cregs
    row = dict(zip(again.circuit.parameters, np.linspace(0, 1, 4), strict=True))
    bound = [
        [(i.operation.name, [float(p) for p in i.operation.params]) for i in c.data]
        for c in (
            found.circuit.assign_parameters(row),
            first.circuit.assign_parameters({p.name: v for p, v in row.items()}),
        )
    ]
    assert bound[0] == bound[1]
    # A file that is damaged is made anew; other weights are another circuit.
    file.write_bytes(file.read_bytes()[:-20])
    transpiled(head.circuit, boston, [0, 2], cache=tmp_path)
    assert len(calls) == 1
    other = binary_head(2)
    other.encoding.data += 1
    transpiled(to_qiskit(other.circuit, other.weights()).circuit, boston, [0, 2], cache=tmp_path)
    assert len(calls) == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cache_that_cannot_be_written_costs_time_only(boston, tmp_path):
    (tmp_path / "file").write_text("")
    head = to_qiskit((one := binary_head(1)).circuit, one.weights())
    assert transpiled(head.circuit, boston, [0], cache=tmp_path / "file" / "folder").swaps == 0


def test_threads_share_a_cache(boston, tmp_path):
    head = to_qiskit((one := binary_head(2)).circuit, one.weights())
    with ThreadPoolExecutor(4) as pool:
        futures = [
            pool.submit(transpiled, head.circuit, boston, [0], cache=tmp_path) for _ in range(4)
        ]
        layouts = {future.result().layout for future in futures}
    assert len(layouts) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_the_transpiled_circuit_is_the_same_operation():
    """On a line of as many qubits as wires: equal unitaries, up to the layout."""
    target = line_target([0.01] * 3, [0.01] * 4)
    backend = Backend("line", "fake", type("Device", (), {"target": target})())
    one = binary_head(2, "cz_line")
    head = to_qiskit(one.circuit, one.weights())
    found = transpiled(head.circuit, backend, [0, 2])
    row = dict(zip(head.circuit.parameters, np.linspace(0.3, 1, 4), strict=True))
    before = head.circuit.assign_parameters(row).remove_final_measurements(inplace=False)
    after = found.circuit.assign_parameters(row).remove_final_measurements(inplace=False)
    probabilities = [
        np.abs(Operator(c).data[:, 0]) ** 2
        for c in (before, QuantumCircuit(4).compose(after.copy(), range(4)))
    ]
    order = found.layout
    turned = probabilities[1].reshape(2, 2, 2, 2).transpose([3 - q for q in order[::-1]])
    np.testing.assert_allclose(turned.ravel(), probabilities[0], atol=1e-9)


def test_layouts_that_do_not_fit(boston):
    one = binary_head(1)
    head = to_qiskit(one.circuit, one.weights())
    with pytest.raises(InvalidInputError, match="2 distinct qubits"):
        transpiled(head.circuit, boston, [0], layout=[1, 2, 3])


def device(target):
    """A Qiskit backend with this target."""
    return SimpleNamespace(name="own", target=target, num_qubits=target.num_qubits)


def gates_anywhere(n=4):
    target = Target(num_qubits=n)
    for gate in (RZGate(Parameter("a")), SXGate(), XGate(), CZGate(), Measure()):
        target.add_instruction(gate)
    return target


def test_gates_without_a_coupling_map_act_on_all_pairs():
    head = binary_head(2)
    x = features(head, 2)
    run = prepare(head, x, device(gates_anywhere()), predict=False, cache=False, seed=0)
    assert run.estimate.swaps == 0
    decoded = decode(run, [execute(run, 0)])
    exact = {
        task: values.detach().numpy()
        for task, values in head.expectation_values(head.angles(x)).items()
    }
    assert abs(deviations(decoded.values, exact, decoded.errors)).max() < 4.5


def test_without_durations_nothing_waits():
    backend = GenericBackendV2(4, ["cz", "rz", "sx", "x"], noise_info=False)
    run = prepare(binary_head(2), torch.zeros(1, 4), backend, cache=False, shots=10)
    for task, values in run.predicted.items():
        np.testing.assert_allclose(values, run.exact[task], atol=1e-9)


def test_backends_that_cannot_run_a_circuit():
    target = line_target([0.01], [0.01] * 2)
    blind = Target(num_qubits=2)
    blind.add_instruction(CZGate(), {(0, 1): None})
    for given, message in [
        (blind, "own has no measurement among its operations"),
        (target, "has 4 wires, own has 2 qubits. Choosing tasks"),
        (gates_anywhere(None), "Qiskit backend with some qubits"),
    ]:
        tasks = 1 if given is blind else 2
        with pytest.raises(InvalidInputError, match=message):
            prepare(binary_head(tasks), torch.zeros(1, 2 * tasks), device(given))
