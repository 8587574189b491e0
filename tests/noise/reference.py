"""Noise for tests, with PennyLane's own channels beside ours, and `default.mixed` to run them."""

from itertools import product

import numpy as np
import pennylane as qml
import torch
from hypothesis import strategies as st

from qmtl.circuit import Gate
from qmtl.noise import Channel, DeviceNoise

PAULIS = {"I": np.eye(2), "X": qml.X(0).matrix(), "Y": qml.Y(0).matrix(), "Z": qml.Z(0).matrix()}


def pauli_kraus(probabilities):
    """Kraus matrices of Pauli errors, from their definition."""
    n = len(next(iter(probabilities)))
    rest = 1 - sum(probabilities.values())
    return [
        np.sqrt(p) * PAULIS[string]
        if n == 1
        else np.sqrt(p) * np.kron(PAULIS[string[0]], PAULIS[string[1]])
        for string, p in {"I" * n: rest, **probabilities}.items()
    ]


def misread_kraus(p01, p10):
    """Kraus matrices that flip a bit before it is read."""
    return [
        np.sqrt([[1 - p01, 0], [0, 0]]),
        np.sqrt([[0, 0], [p01, 0]]),
        np.sqrt([[0, p10], [0, 0]]),
        np.sqrt([[0, 0], [0, 1 - p10]]),
    ]


TWO_WIRE = ["".join(letters) for letters in product("IXYZ", repeat=2)][1:]
SPREAD = {"XI": 0.01, "ZZ": 0.05, "YX": 0.02, "IY": 0.03}
# Ours, and what PennyLane has for it.
ONE = {
    Channel.depolarising(0.03): lambda w: qml.DepolarizingChannel(0.03, w),
    Channel.amplitude_damping(0.07): lambda w: qml.AmplitudeDamping(0.07, w),
    Channel.phase_damping(0.04): lambda w: qml.PhaseDamping(0.04, w),
    Channel.thermal_relaxation(50e-6, 70e-6, 4e-6, 0.1): lambda w: qml.ThermalRelaxationError(
        0.1, 50e-6, 70e-6, 4e-6, w
    ),
    Channel.thermal_relaxation(50e-6, 30e-6, 4e-6, 0.0): lambda w: qml.ThermalRelaxationError(
        0.0, 50e-6, 30e-6, 4e-6, w
    ),
    Channel.pauli({"X": 0.02}): lambda w: qml.BitFlip(0.02, w),
    Channel.pauli({"Z": 0.05}): lambda w: qml.PhaseFlip(0.05, w),
    Channel.pauli({"X": 0.02, "Y": 0.01, "Z": 0.03}): lambda w: qml.QubitChannel(
        pauli_kraus({"X": 0.02, "Y": 0.01, "Z": 0.03}), w
    ),
}
TWO = {
    Channel.depolarising(0.05, n_wires=2): lambda w: qml.QubitChannel(
        pauli_kraus(dict.fromkeys(TWO_WIRE, 0.05 / 15)), w
    ),
    Channel.pauli(SPREAD): lambda w: qml.QubitChannel(pauli_kraus(SPREAD), w),
}
KNOWN = ONE | TWO
ERRORS = [(0.0, 0.0), (0.02, 0.02), (0.03, 0.08)]


@st.composite
def noises(draw, max_wires=6):
    """Noise after all gates, after particular ones, and when wires are read."""
    one, two = st.sampled_from(list(ONE)), st.sampled_from(list(TWO))
    gates = {}
    for name in draw(st.lists(st.sampled_from(["CZ", "CNOT", "IsingZZ"]), unique=True)):
        first, second = draw(st.permutations(range(max_wires)))[:2]
        gates[name, (first, second)] = (
            (draw(one), (0,)),
            (draw(two), draw(st.sampled_from([(0, 1), (1, 0)]))),
            (draw(one), (1,)),
        )
    for name in draw(st.lists(st.sampled_from(["RX", "RY", "RZ"]), unique=True)):
        gates[name, (draw(st.integers(0, max_wires - 1)),)] = ((draw(one), (0,)),)
    return DeviceNoise(
        draw(st.none() | one),
        draw(st.none() | two),
        gates,
        draw(st.sampled_from(ERRORS)),
        {draw(st.integers(0, max_wires - 1)): draw(st.sampled_from(ERRORS))},
    )


def gate_channels(noise: DeviceNoise, gate: Gate):
    """What follows a gate, read from the noise's fields rather than by its methods."""
    listed, wires = noise.gates.get((gate.name, gate.wires)), gate.wires
    if listed is None and gate.name in ("CZ", "IsingZZ"):
        listed, wires = noise.gates.get((gate.name, gate.wires[::-1])), gate.wires[::-1]
    if listed is not None:
        return [(channel, [wires[i] for i in at]) for channel, at in listed]
    default = noise.one_wire if len(gate.wires) == 1 else noise.two_wire
    return [] if default is None else [(default, list(gate.wires))]


def mixed_outputs(circuit, task, row, weights, noise):
    """A task's outputs for one sample, from the density matrix of all wires."""
    register = circuit.register(task)

    @qml.qnode(qml.device("default.mixed", wires=circuit.n_wires))
    def probabilities():
        for gate in circuit.gates(task):
            angles = []
            if gate.angle is not None:
                value = gate.angle.constant
                for feature in gate.angle.features:
                    value *= float(row[feature])
                if gate.angle.weight is not None:
                    value *= float(weights[gate.angle.owner][gate.angle.weight])
                angles = [value]
            getattr(qml, gate.name)(*angles, wires=list(gate.wires))
            for channel, wires in gate_channels(noise, gate):
                KNOWN[channel](wires)
        for wire in register.wires:
            errors = noise.readouts.get(wire, noise.readout)
            if any(errors):
                qml.QubitChannel(misread_kraus(*errors), wire)
        return qml.probs(wires=list(register.wires))

    matrix = np.array(register.readout.matrix(len(register.wires)), dtype=float)
    return torch.tensor(matrix @ np.asarray(probabilities()))
