"""Waiting and coherent errors in head circuits, against default.mixed and Qiskit's schedules."""

import numpy as np
import pennylane as qml
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qmtl.circuit import AngleEncoding, HeadCircuit
from qmtl.errors import InvalidInputError
from qmtl.noise import Channel, CoherentError, DeviceNoise, Relaxation, Timing, idle_times
from qmtl.simulators import NoisySimulator
from qmtl.tasks import Task

RELAX = {0: Relaxation(4e-6, 3e-6, 0.1), 3: Relaxation(9e-6, 12e-6)}
OTHERS = Relaxation(6e-6, 6e-6, 0.05)
DURATIONS = {"RY": 60e-9, ("RY", (1,)): 200e-9, "CZ": 300e-9, ("CZ", (2, 1)): 500e-9}
COHERENT = {
    "RY": CoherentError(0.05),
    ("RY", (2,)): CoherentError(-0.1, (("RX", (0,), 0.07),)),
    "CZ": CoherentError(rotations=(("IsingZZ", (0, 1), 0.06), ("RZ", (1,), -0.04))),
}
PAULI = Channel.pauli({"X": 0.01, "Z": 0.03})
CIRCUITS = {
    "partitioned": HeadCircuit([Task.binary("a"), Task.multiclass("b", 4), Task.regression("c")]),
    "shared": HeadCircuit(
        [Task.binary("a"), Task.multilabel("b", 3)], AngleEncoding(n_layers=1), layout="shared"
    ),
}


@st.composite
def steps(draw):
    wires = st.lists(st.integers(0, 3), min_size=1, max_size=2, unique=True).map(tuple)
    found = draw(st.lists(st.tuples(wires, st.integers(0, 9).map(float)), max_size=12))
    return [*found, *(((wire,), 5.0) for wire in range(4))]


@given(steps())
def test_idle_times_are_qiskits(found):
    qiskit = pytest.importorskip("qiskit")
    from qiskit.transpiler import InstructionDurations, PassManager, passes

    circuit = qiskit.QuantumCircuit(4, 4)
    given_durations = [("measure", [wire], 5) for wire in range(4)]
    for i, (wires, seconds) in enumerate(found[:-4]):
        circuit.append(qiskit.circuit.Gate(f"g{i}", len(wires), []), wires)
        given_durations.append((f"g{i}", None, int(seconds)))
    for wire in range(4):
        circuit.measure(wire, wire)
    durations = InstructionDurations(given_durations, dt=1.0)
    for order, analysis in (
        ("alap", passes.ALAPScheduleAnalysis), ("asap", passes.ASAPScheduleAnalysis)
    ):  # fmt: skip
        pad = passes.PadDelay(fill_very_end=False, durations=durations)
        padded = PassManager([analysis(durations), pad]).run(circuit)
        waited, expected = [0.0] * 4, []
        for instruction in padded.data:
            on = [padded.find_bit(qubit).index for qubit in instruction.qubits]
            if instruction.operation.name == "delay":
                waited[on[0]] += instruction.operation.duration
            else:
                expected.append((tuple(on), tuple(waited[w] for w in on)))
                for wire in on:
                    waited[wire] = 0.0
        ours = list(zip((wires for wires, _ in found), idle_times(found, order), strict=True))
        by_wire = lambda pairs, w: [t[on.index(w)] for on, t in pairs if w in on]  # noqa: E731
        for wire in range(4):
            assert by_wire(ours, wire) == by_wire(expected, wire)


def damping(wire: int, seconds: float) -> None:
    r = RELAX.get(wire, OTHERS)
    qml.ThermalRelaxationError(r.excited, r.t1, r.t2, seconds, wire)


def late_starts(gates, lengths) -> list[float]:
    """When gates start if all are as late as possible, counted from the end, by brute force."""
    ends = [0.0] * len(gates)
    for _ in gates:
        for i, gate in enumerate(gates):
            later = [j for j in range(i + 1, len(gates)) if set(gates[j].wires) & set(gate.wires)]
            ends[i] = max((ends[j] + lengths[j] for j in later), default=0.0)
    whole = max(end + length for end, length in zip(ends, lengths, strict=True))
    return [whole - end - length for end, length in zip(ends, lengths, strict=True)]


def mixed_outputs(circuit, task, row, weights):
    """All the noise of this file by hand: waiting, over-rotations, Pauli noise, readout."""
    gates = circuit.gates(task if circuit.layout == "shared" else None)
    lengths = [
        DURATIONS.get((g.name, g.wires), DURATIONS.get((g.name, g.wires[::-1]))
                      or DURATIONS.get(g.name, 0.0))
        for g in gates
    ]  # fmt: skip
    starts = late_starts(gates, lengths)
    register = circuit.register(task)

    @qml.qnode(qml.device("default.mixed", wires=circuit.n_wires))
    def probabilities():
        free = [0.0] * circuit.n_wires
        for gate, start, length in zip(gates, starts, lengths, strict=True):
            for wire in gate.wires:
                if start > free[wire] + 1e-15:
                    damping(wire, start - free[wire])
                free[wire] = start + length
            error = COHERENT.get((gate.name, gate.wires), COHERENT.get(gate.name, CoherentError()))
            angles = []
            if gate.angle is not None:
                value = gate.angle.constant * np.prod([float(row[f]) for f in gate.angle.features])
                if gate.angle.weight is not None:
                    value *= float(weights[gate.angle.owner][gate.angle.weight])
                angles = [value * (1 + error.relative)]
            getattr(qml, gate.name)(*angles, wires=list(gate.wires))
            for name, at, angle in error.rotations:
                getattr(qml, name)(angle, wires=[gate.wires[i] for i in at])
            if len(gate.wires) == 1:
                kraus = [np.sqrt(0.96) * np.eye(2), np.sqrt(0.01) * qml.X.compute_matrix(),
                         np.sqrt(0.03) * qml.Z.compute_matrix()]  # fmt: skip
                qml.QubitChannel(kraus, gate.wires)
        return qml.probs(wires=list(register.wires))

    n = len(register.wires)
    p = np.asarray(probabilities()).reshape((2,) * n)
    for axis in range(n):
        p = np.moveaxis(np.tensordot([[0.98, 0.05], [0.02, 0.95]], p, (1, axis)), 0, axis)
    return torch.tensor(np.array(register.readout.matrix(n)) @ p.ravel())


def noise() -> DeviceNoise:
    timing = Timing(DURATIONS, RELAX, OTHERS)
    return DeviceNoise(PAULI, readout=(0.02, 0.05), coherent=COHERENT, timing=timing)


@pytest.mark.parametrize("layout", CIRCUITS)
def test_matches_default_mixed(layout):
    circuit = CIRCUITS[layout]
    weights = {k: torch.randn(*s, dtype=torch.float64) for k, s in circuit.weight_sizes.items()}
    angles = torch.randn(1, circuit.n_features, dtype=torch.float64)
    found = NoisySimulator(noise()).expectation_values(circuit, angles, weights)
    for task, values in found.items():
        expected = mixed_outputs(circuit, task, angles[0], weights)
        torch.testing.assert_close(values[0], expected, rtol=0, atol=1e-10)
    # Asking for one task does not change the schedule, which is that of the whole circuit.
    one = NoisySimulator(noise()).expectation_values(circuit, angles, weights, ["b"])
    torch.testing.assert_close(one["b"], found["b"], rtol=0, atol=1e-14)


def test_gradients_are_finite_differences():
    circuit = CIRCUITS["partitioned"]
    weights = {k: torch.randn(*s, dtype=torch.float64) for k, s in circuit.weight_sizes.items()}
    angles = torch.randn(2, circuit.n_features, dtype=torch.float64, requires_grad=True)
    leaves = [angles, *(w.requires_grad_() for w in weights.values())]
    simulator = NoisySimulator(noise())

    def total(*values):
        named = dict(zip(weights, values[1:], strict=True))
        outputs = simulator.expectation_values(circuit, values[0], named)
        return torch.cat([v.sin().sum(1) for v in outputs.values()])

    assert torch.autograd.gradcheck(total, leaves, eps=1e-6, atol=1e-6)


def test_scaled_and_saved():
    full, again = noise(), DeviceNoise.from_dict(noise().to_dict())
    assert again == full
    assert full.scaled(2).timing.relaxation[0] == Relaxation(2e-6, 1.5e-6, 0.1)
    assert full.scaled(2).coherent["RY"].relative == 0.1
    none = full.scaled(0)
    assert none.timing.relaxation == {}
    circuit = CIRCUITS["partitioned"]
    weights = {k: torch.randn(*s, dtype=torch.float64) for k, s in circuit.weight_sizes.items()}
    angles = torch.randn(3, circuit.n_features, dtype=torch.float64)
    a = NoisySimulator(none).expectation_values(circuit, angles, weights)
    b = NoisySimulator(DeviceNoise()).expectation_values(circuit, angles, weights)
    for task in a:
        torch.testing.assert_close(a[task], b[task], rtol=0, atol=1e-12)


def test_bad_input():
    with pytest.raises(InvalidInputError, match="not negative, got -1"):
        Timing({"CZ": -1})
    with pytest.raises(InvalidInputError, match="order"):
        Timing({}, order="late")
    with pytest.raises(InvalidInputError, match="t2 <= 2·t1"):
        Relaxation(1e-6, 3e-6)
    with pytest.raises(InvalidInputError, match="needs two wires"):
        CoherentError(rotations=(("RX", (1,), 0.1),)).after((0,))
    with pytest.raises(InvalidInputError, match="must be positions 0 or 1"):
        CoherentError(rotations=(("RX", (2,), 0.1),))
