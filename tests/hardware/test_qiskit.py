"""Qiskit circuits agree with PennyLane and the light-cone simulator, down to the measured bits."""

import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

qiskit = pytest.importorskip("qiskit")

from qiskit import QuantumCircuit, qasm2, qasm3  # noqa: E402
from qiskit.primitives.containers import DataBin  # noqa: E402
from qiskit.quantum_info import Operator, Statevector  # noqa: E402
from qiskit.transpiler import CouplingMap  # noqa: E402

from qmtl.circuit import (  # noqa: E402
    ENTANGLERS,
    AngleEncoding,
    ExpectationZ,
    HeadCircuit,
    IdentityAnsatz,
    IQPEncoding,
    PauliStrings,
    Probabilities,
    RealAmplitudes,
    RotationAnsatz,
)
from qmtl.errors import InvalidInputError, MissingDependencyError  # noqa: E402
from qmtl.hardware import to_qasm3, to_qiskit  # noqa: E402
from qmtl.pennylane import PennyLaneSimulator  # noqa: E402
from qmtl.simulators import LightConeSimulator  # noqa: E402
from qmtl.tasks import Task  # noqa: E402
from tests.hardware.samples import features, small_head  # noqa: E402

entanglers = st.sampled_from(list(ENTANGLERS))
ansatze = st.one_of(
    st.builds(RotationAnsatz, n_layers=st.integers(1, 3), entangler=entanglers),
    st.builds(RealAmplitudes, n_layers=st.integers(1, 2), entangler=entanglers),
    st.just(IdentityAnsatz()),
)
encodings = st.one_of(
    st.builds(
        AngleEncoding,
        n_layers=st.integers(1, 2),
        axes=st.sampled_from(["Y", "X", "YZ", "ZXY"]),
        features_per_wire=st.sampled_from([None, 1]),
        trainable=st.sampled_from(["Z", "XY", "YZ"]),
        entangler=entanglers,
    ),
    st.builds(AngleEncoding, trainable=st.just("X"), reupload=st.just(False)),
    st.builds(
        IQPEncoding,
        n_layers=st.integers(1, 2),
        pattern=st.sampled_from(["cz_ring", "cz_line", "all_to_all", "none"]),
    ),
)
NAMES = ["a", "my task", "0", "c[1]"]


@st.composite
def circuits(draw):
    """Circuits of up to 8 wires and 4 tasks, of every part that the package has."""
    layout = draw(st.sampled_from(["partitioned", "shared"]))
    n_tasks = draw(st.integers(1, 4))
    common = draw(st.integers(1, 4))
    tasks, readouts, sizes = [], {}, {}
    for name in NAMES[:n_tasks]:
        size = draw(st.integers(1, 8 // n_tasks)) if layout == "partitioned" else common
        kind = draw(st.sampled_from(["z", "p", "strings"]))
        if kind == "z":
            n = draw(st.integers(1, size))
            readouts[name] = ExpectationZ(n)
        elif kind == "p":
            n = draw(st.integers(2, 2**size))
            readouts[name] = Probabilities(n)
        else:
            every = [bin(i)[2:].zfill(size) for i in range(1, 2**size)]
            chosen = draw(st.lists(st.sampled_from(every), min_size=1, max_size=3, unique=True))
            strings = (text.replace("0", "I").replace("1", "Z") for text in chosen)
            readouts[name] = PauliStrings(tuple(strings))
            n = len(chosen)
        tasks.append(Task.regression(name, n))
        sizes[name] = size
    wires = {"n_wires": common} if layout == "shared" else {"wires_per_task": sizes}
    blocks = {name: draw(ansatze) for name in sizes}
    return HeadCircuit(tasks, draw(encodings), blocks, layout=layout, readouts=readouts, **wires)


def sizes_of(circuit):
    tasks = {name: circuit.n_weights(name) for name in circuit.registers}
    return {"encoding": circuit.n_encoding_weights, **tasks}


def random_inputs(circuit, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = {key: normal(size) for key, size in sizes_of(circuit).items()}
    return normal(batch, circuit.n_features), weights


def outputs(circuit, bound_circuit, name):
    """The task's outputs from Qiskit's state vector."""
    register = circuit.register(name)
    # qargs are little-endian, so reversing them makes the first wire the most significant.
    probabilities = Statevector(bound_circuit).probabilities(list(reversed(register.wires)))
    return np.array(register.readout.matrix(len(register.wires))) @ probabilities


def all_outputs(circuit, angles, weights):
    values = {name: [] for name in circuit.registers}
    groups = [None] if circuit.layout == "partitioned" else list(circuit.registers)
    for group in groups:
        head = to_qiskit(circuit, weights, group, measure=False)
        for row in head.parameter_values(angles):
            bound = head.circuit.assign_parameters(row)
            for name in values if group is None else [group]:
                values[name].append(outputs(circuit, bound, name))
    return {name: np.array(rows) for name, rows in values.items()}


@given(circuits(), st.integers(1, 3), st.integers(0, 2**30))
def test_values_agree_with_pennylane_and_light_cones(circuit, batch, seed):
    angles, weights = random_inputs(circuit, batch, seed)
    ours = LightConeSimulator().expectation_values(circuit, angles, weights)
    pennylane = PennyLaneSimulator("default.qubit").expectation_values(circuit, angles, weights)
    for name, values in all_outputs(circuit, angles, weights).items():
        np.testing.assert_allclose(values, ours[name].numpy(), rtol=0, atol=1e-10)
        np.testing.assert_allclose(values, pennylane[name].numpy(), rtol=0, atol=1e-10)


def bind_by_name(qiskit_circuit, circuit, angles, weights, names):
    """Bind a circuit whose parameters are called ``x[3]`` or, as read from QASM, ``x_3``."""
    values = {f"x{i}": float(value) for i, value in enumerate(angles)}
    for key, name in names.items():
        values |= {f"w_{name}{i}": float(value) for i, value in enumerate(weights[key])}
    by_parameter = {}
    for parameter in qiskit_circuit.parameters:
        stem, index = re.fullmatch(r"(\w+?)[\[_](\d+)\]?", parameter.name).groups()
        by_parameter[parameter] = values[f"{stem}{index}"]
    return qiskit_circuit.assign_parameters(by_parameter)


@given(circuits().filter(lambda c: c.n_wires <= 5), st.integers(0, 2**30))
def test_qasm3_roundtrip_gives_the_same_unitary(circuit, seed):
    angles, weights = random_inputs(circuit, 1, seed)
    task = next(iter(circuit.registers)) if circuit.layout == "shared" else None
    direct = to_qiskit(circuit, weights, task, measure=False)
    bound = direct.circuit.assign_parameters(direct.parameter_values(angles)[0])
    symbolic = to_qiskit(circuit, None, task)
    names = {"encoding": "encoding", **symbolic.registers}
    again = qasm3.loads(to_qasm3(circuit, None, task, measure=False))
    for candidate in (again, to_qiskit(circuit, None, task, measure=False).circuit):
        candidate = bind_by_name(candidate, circuit, angles[0], weights, names)
        difference = Operator(candidate).data - Operator(bound).data
        assert np.abs(difference).max() < 1e-10
    text = to_qasm3(circuit, weights, task)
    assert [r.size for r in qasm3.loads(text).cregs] == [r.size for r in symbolic.circuit.cregs]


def test_more_than_ten_features_are_not_confused():
    circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(6)])  # x[10] and x[2]
    angles = torch.arange(24, dtype=torch.float64).reshape(2, 12)
    _, weights = random_inputs(circuit)
    head = to_qiskit(circuit, weights)
    values = head.parameter_values(angles)
    for column, parameter in enumerate(head.circuit.parameters):
        feature = int(parameter.name[2:-1])
        assert head.features[column] == feature
        assert values[:, column].tolist() == [feature, 12 + feature]
    np.testing.assert_array_equal(head.parameter_values(angles.numpy()), values)
    symbolic = to_qiskit(circuit)
    for index, parameter in zip(symbolic.features, symbolic.circuit.parameters, strict=True):
        assert parameter.name == (f"x[{index}]" if index is not None else parameter.name)
        assert (index is None) == parameter.name.startswith("w_")


@pytest.mark.parametrize("layout", ["partitioned", "shared"])
def test_measured_bits_are_our_states(layout):
    """Sampled register outcomes, with their bits reversed, follow our probabilities."""
    primitives = pytest.importorskip("qiskit_aer.primitives")
    tasks = [Task.multiclass("my task", 7), Task.multiclass("b", 3)]
    circuit = HeadCircuit(tasks, layout=layout)
    angles, weights = random_inputs(circuit, 1, seed=5)
    ours = LightConeSimulator().expectation_values(circuit, angles, weights)
    for task in tasks:
        head = to_qiskit(circuit, weights, None if layout == "partitioned" else task.name)
        bound = head.circuit.assign_parameters(head.parameter_values(angles)[0])
        result = primitives.SamplerV2(seed=1).run([bound], shots=20_000).result()[0]
        bits = result.data[head.registers[task.name]]
        n_wires = len(circuit.register(task.name).wires)
        outcomes = [int(text[::-1], 2) for text in bits.get_bitstrings()]
        states = np.bincount(outcomes, minlength=2**n_wires)
        expected = ours[task.name][0].numpy()
        np.testing.assert_allclose(states[: len(expected)] / 20_000, expected, atol=0.02)


ODD_NAMES = ["q", "x", "w_encoding", "w_a", "a", "bit", "input", "pi", "U", "ry", "measure", "rzz"]
ODD_NAMES += [
    "shape",
    "values",
    "keys",
    "items",
    "size",
    "ndim",
    "a b",
    "a_b",
    "ü",
    "9",
    "_x_0_",
    "x_0",
    "x_1",
    "task_q",
    "-",
    "Σ/2",
    "im",
]
ODD_NAMES += [
    "y",
    "z",
    "h",
    "s",
    "t",
    "cx",
    "u3",
    "sin",
    "sqrt",
    "true",
    "switch",
    "pragma",
    "creg",
]


def test_odd_task_names_become_distinct_registers():
    circuit = HeadCircuit([Task.binary(n) for n in ODD_NAMES], AngleEncoding(1), IdentityAnsatz())
    head = to_qiskit(circuit)
    names = list(head.registers.values())
    assert list(head.registers) == ODD_NAMES
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name) for name in names)
    assert [register.name for register in head.circuit.cregs] == names
    assert not any(hasattr(DataBin, name) for name in names)
    small = HeadCircuit([Task.binary(n) for n in ODD_NAMES], wires_per_task=1)
    read = qasm3.loads(to_qasm3(small))
    assert read.num_clbits == len(ODD_NAMES)
    circuit = to_qiskit(small).circuit
    assert len(read.parameters) == len(circuit.parameters)
    # OpenQASM 2 has other words: Qiskit reads what it writes (Qiskit/qiskit#10459).
    bound = circuit.assign_parameters(np.zeros(len(circuit.parameters)))
    assert qasm2.loads(qasm2.dumps(bound)).num_clbits == len(ODD_NAMES)


def test_a_subset_of_tasks_has_only_their_blocks_and_registers():
    circuit = HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)])
    head = to_qiskit(circuit, tasks=["b"])
    assert [register.name for register in head.circuit.cregs] == ["b"]
    assert not any(p.name.startswith("w_a") for p in head.circuit.parameters)
    assert to_qiskit(circuit, measure=False).circuit.cregs == []


def test_errors():
    circuit = HeadCircuit([Task.binary("task"), Task.binary("b")])
    angles, weights = random_inputs(circuit)
    for call, expected in [
        (lambda: to_qiskit(circuit, tasks="taks"), "did you mean 'task'"),
        (lambda: to_qiskit(circuit, tasks=[]), "at least one"),
        (lambda: to_qiskit(circuit, tasks=["b", "b"]), "distinct"),
        (lambda: to_qiskit(circuit, {"b": weights["b"]}), "key 'encoding'"),
        (lambda: to_qiskit(circuit, weights | {"b": angles}), r"shape (6,), got (2, 4)"),
        (lambda: to_qiskit(circuit).parameter_values(angles), "symbolic weights"),
        (lambda: to_qiskit(circuit, weights).parameter_values(angles[0]), "shape (batch, 4)"),
        (lambda: to_qiskit(circuit, weights).parameter_values(angles[:, 1:]), "got (2, 3)"),
    ]:
        with pytest.raises(InvalidInputError, match=re.escape(expected)):
            call()
    shared = HeadCircuit([Task.binary("a"), Task.binary("b")], layout="shared")
    with pytest.raises(InvalidInputError, match="one circuit per task"):
        to_qiskit(shared)


def test_qiskit_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "qiskit", None)
    with pytest.raises(
        MissingDependencyError,
        match=re.escape('pip install -c scripts/constraints.txt -e ".[ibm]"'),
    ):
        to_qiskit(HeadCircuit([Task.binary("a")]))


def two_qubit_depth(circuit):
    return circuit.depth(lambda instruction: instruction.operation.num_qubits == 2)


def transpiled_encoding(encoding, coupling=None):
    circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(50)], encoding, IdentityAnsatz())
    _, weights = random_inputs(circuit)
    return qiskit.transpile(
        to_qiskit(circuit, weights, measure=False).circuit,
        basis_gates=["rz", "sx", "x", "cz"],
        coupling_map=coupling,
        initial_layout=list(range(100)),
        optimization_level=1,
        seed_transpiler=0,
    )


@pytest.mark.slow
def test_two_qubit_depth_of_the_default_encoding_on_100_wires():
    assert two_qubit_depth(transpiled_encoding(AngleEncoding())) <= 4
    line = CouplingMap.from_line(100)
    straight = transpiled_encoding(AngleEncoding(entangler="cz_line"), line)
    assert two_qubit_depth(straight) <= 4
    assert straight.count_ops()["cz"] == 2 * 99
    ring = transpiled_encoding(AngleEncoding(), line)
    print(
        f"\ncz_ring on a line of 100: two-qubit depth {two_qubit_depth(ring)}, "
        f"{ring.count_ops()['cz']} CZs (200 without the line)",
        end="",
    )


def test_a_head_gives_a_plain_circuit_of_qiskit():
    head = small_head()
    circuit = head.to_qiskit()
    assert type(circuit) is QuantumCircuit
    assert circuit.parameters == {p for p in circuit.parameters if p.vector.name == "x"}
    angles = head.angles(features(head, 1))
    bound = circuit.assign_parameters(angles[0].tolist())
    counts = to_qiskit(head.circuit, head.weights())
    expected = counts.circuit.assign_parameters(counts.parameter_values(angles)[0])
    assert bound == expected
    inputs = re.findall(r"input float\[64\] (\w+);", head.to_qasm(bound=False))
    names = {"x", "w_encoding", "w_my_task", "w_b"}
    assert {name.rpartition("_")[0] for name in inputs} <= names
