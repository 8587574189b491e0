"""``qml.device("qmtl.noisy")`` against density matrices of all wires."""

import numpy as np
import pennylane as qml
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pennylane import numpy as pnp

from qmtl.circuit import Angle, Gate
from qmtl.errors import InvalidInputError
from qmtl.noise import Channel, DeviceNoise
from tests.noise.reference import KNOWN, gate_channels, misread_kraus, noises

WIRES = 3
NOISE = DeviceNoise.uniform(one_qubit=0.01, two_qubit=0.05, readout=0.02)
ROTATIONS = [qml.RX, qml.RY, qml.RZ, qml.IsingZZ]
FIXED = [qml.Hadamard, qml.CZ, qml.CNOT]
# Gates that take a letter to the Z basis.
TO_Z = {
    "X": lambda w: [qml.Hadamard(w)],
    "Y": lambda w: [qml.RZ(-np.pi / 2, w), qml.Hadamard(w)],
    "Z": lambda w: [],
}
PAULIS = {"X": qml.X, "Y": qml.Y, "Z": qml.Z}


@st.composite
def gates(draw):
    found = []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from([*ROTATIONS, *FIXED]))
        wires = draw(st.permutations(range(WIRES)))[: kind.num_wires]
        found.append((kind, wires, draw(st.integers(0, 1)) if kind in ROTATIONS else None))
    return found


words = st.dictionaries(st.integers(0, WIRES - 1), st.sampled_from("XYZ"), min_size=1)


def apply(circuit, parameters):
    return [
        kind(*([] if place is None else [parameters[place]]), wires=wires)
        for kind, wires, place in circuit
    ]


def mixed(circuit, noise, letters):
    """A word's mean from the density matrix, with the noise of each gate behind it."""

    @qml.qnode(qml.device("default.mixed", wires=WIRES), diff_method="parameter-shift")
    def probabilities(parameters):
        with qml.queuing.QueuingManager.stop_recording():
            found = apply(circuit, parameters)
            found += [op for wire, letter in letters.items() for op in TO_Z[letter](wire)]
        for op in found:
            qml.apply(op)
            angle = Angle(constant=1.0) if op.num_params else None
            for channel, wires in gate_channels(noise, Gate(op.name, tuple(op.wires), angle)):
                KNOWN[channel](wires)
        for wire in letters:
            errors = noise.readouts.get(wire, noise.readout)
            if any(errors):
                qml.QubitChannel(misread_kraus(*errors), wire)
        return qml.probs(wires=sorted(letters))

    signs = np.array([(-1) ** bin(state).count("1") for state in range(1 << len(letters))])
    return lambda parameters: pnp.dot(probabilities(parameters), signs)


@given(gates(), noises(WIRES), st.lists(words, min_size=1, max_size=2), st.integers(0, 2**16))
def test_values_are_those_of_density_matrices(circuit, noise, measured, seed):
    # The noise may name wires that the device does not have.
    device = qml.device("qmtl.noisy", wires=WIRES, noise=noise)

    @qml.qnode(device)
    def ours(parameters):
        apply(circuit, parameters)
        return [
            qml.expval(qml.prod(*(PAULIS[letter](wire) for wire, letter in word.items())))
            for word in measured
        ]

    point = np.random.default_rng(seed).normal(size=2)
    for value, word in zip(ours(point), measured, strict=True):
        assert value == pytest.approx(float(mixed(circuit, noise, word)(point)), abs=1e-10)


def test_gradients():
    noise = DeviceNoise(
        Channel.amplitude_damping(0.07), Channel.depolarising(0.05, n_wires=2), readout=(0.03, 0.08)
    )
    turns = [(qml.RX, [0], 0), (qml.CNOT, [0, 1], None), (qml.RY, [1], 1), (qml.CZ, [1, 2], None)]
    word, point = {0: "Y", 1: "X"}, [0.4, 1.1]

    @qml.qnode(qml.device("qmtl.noisy", wires=WIRES, noise=noise))
    def ours(parameters):
        apply(turns, parameters)
        return qml.expval(qml.Y(0) @ qml.X(1))

    expected = qml.grad(mixed(turns, noise, word))(pnp.array(point))
    given = torch.tensor(point, dtype=torch.float64, requires_grad=True)
    by_torch = torch.autograd.grad(ours(given), given)[0]
    for found in (by_torch, qml.grad(ours)(pnp.array(point))):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def circuit(x):
    qml.RX(x, 0)
    qml.CNOT([0, 1])
    return qml.probs(wires=[1, 0]), qml.expval(qml.Z(0)), qml.var(qml.X(1))


def test_probabilities_and_batches():
    node = qml.QNode(circuit, qml.device("qmtl.noisy", wires=3, noise=NOISE))
    batch = node(np.array([0.3, 0.8]))
    for one, row in zip(node(0.8), (value[1] for value in batch), strict=True):
        np.testing.assert_allclose(row, one, rtol=0, atol=1e-12)
    likely, mean, spread = node(0.3)
    assert likely.sum() == pytest.approx(1)
    assert likely @ [1, -1, 1, -1] == pytest.approx(float(mean))
    assert spread == pytest.approx(1)


def test_samples():
    device = qml.device("qmtl.noisy", wires=2, noise=NOISE, seed=0)
    exact, sampled = (qml.set_shots(qml.QNode(circuit, device), n)(0.3) for n in (None, 20_000))
    for value, estimate in zip(exact, sampled, strict=True):
        np.testing.assert_allclose(estimate, value, atol=0.03)


def test_without_noise_it_is_exact():
    found = [
        qml.QNode(circuit, device)(0.3)
        for device in (
            qml.device("qmtl.noisy", wires=2, noise=DeviceNoise()),
            qml.device("default.qubit", wires=2),
        )
    ]
    np.testing.assert_allclose(np.hstack(found[0]), np.hstack(found[1]), rtol=0, atol=1e-10)


def test_many_wires():
    """Neighbours share a wire, so that each pair is a circuit of its own."""
    n = 60

    @qml.qnode(qml.device("qmtl.noisy", wires=n, noise=NOISE))
    def ring(x):
        for i in range(n):
            qml.RY(x, i)
        for i in range(n):
            qml.CZ([i, (i + 1) % n])
        return [qml.expval(qml.Z(i) @ qml.Z((i + 1) % n)) for i in range(0, n, 3)] + [
            qml.expval(qml.X(4) @ qml.Z(5))
        ]

    values = ring(0.3)
    assert np.ptp(values[:-1]) < 1e-12
    assert 0 < values[0] < np.cos(0.3) ** 2


@pytest.mark.parametrize("noise", [None, 0.1])
def test_wrong_noise(noise):
    with pytest.raises(InvalidInputError, match=r"noise must be a qmtl\.noise\.DeviceNoise"):
        qml.device("qmtl.noisy", wires=2, noise=noise)
