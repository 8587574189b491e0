"""Channels against their definition: adjoint Kraus maps on Pauli strings."""

from itertools import product

import numpy as np
import pennylane as qml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.errors import InvalidInputError
from qmtl.noise import Channel, DeviceNoise
from tests.noise.reference import KNOWN, PAULIS, misread_kraus


def transfer(kraus):
    """The Pauli-transfer matrix in the Heisenberg picture: column = string, row = what it gives."""
    n = int(np.log2(len(kraus[0])))
    strings = [PAULIS[a] for a in "IXYZ"]
    if n == 2:
        strings = [np.kron(a, b) for a, b in product(strings, strings)]
    after = [sum(k.conj().T @ p @ k for k in kraus) for p in strings]
    return np.array([[np.trace(q @ a).real / 2**n for a in after] for q in strings])


def expected(channel):
    matrix = np.diag(channel.factors)
    if channel.shift:
        matrix[0, 3] = channel.shift
    return matrix


@pytest.mark.parametrize("channel", KNOWN)
def test_matches_pennylane(channel):
    kraus = KNOWN[channel](list(range(channel.n_wires))).kraus_matrices()
    np.testing.assert_allclose(expected(channel), transfer(kraus), atol=1e-14)


probability = st.floats(0, 1)


@given(probability)
def test_every_strength_matches_pennylane(p):
    pairs = [
        (Channel.depolarising(p), qml.DepolarizingChannel(p, 0)),
        (Channel.amplitude_damping(p), qml.AmplitudeDamping(p, 0)),
        (Channel.phase_damping(p), qml.PhaseDamping(p, 0)),
        (Channel.pauli({"Y": p}), qml.PauliError("Y", p, 0)),
        (Channel.pauli({"ZX": p}), qml.PauliError("ZX", p, [0, 1])),
    ]
    for ours, theirs in pairs:
        # PennyLane adds 1e-14 below the roots of its damping.
        np.testing.assert_allclose(expected(ours), transfer(theirs.kraus_matrices()), atol=2e-7)


@given(probability, probability)
def test_readout_is_the_confusion_of_bits(p01, p10):
    # What is read is made of I and Z.
    ours, theirs = expected(Channel.readout(p01, p10)), transfer(misread_kraus(p01, p10))
    np.testing.assert_allclose(ours[:, [0, 3]], theirs[:, [0, 3]], atol=1e-14)


@given(st.floats(1e-6, 1e-3), st.floats(0.05, 2), st.floats(0, 2), probability)
def test_thermal_relaxation_matches_pennylane(t1, ratio, share, excited):
    """Up to twice T1: for longer, PennyLane's Kraus matrices no longer keep the trace."""
    t2, duration = ratio * t1, share * t1
    ours = Channel.thermal_relaxation(t1, t2, duration, excited)
    theirs = qml.ThermalRelaxationError(excited, t1, t2, duration, 0)
    # PennyLane's Kraus matrices take a root of what rounding may leave of a zero.
    np.testing.assert_allclose(expected(ours), transfer(theirs.kraus_matrices()), atol=1e-6)


def test_full_depolarisation_leaves_the_identity_only():
    assert Channel.depolarising(3 / 4).factors == (1.0, 0.0, 0.0, 0.0)
    np.testing.assert_allclose(Channel.depolarising(15 / 16, 2).factors[1:], 0, atol=1e-15)


@pytest.mark.parametrize("channel", KNOWN)
def test_scaling_is_repetition(channel):
    """Twice as strong is the channel twice; nought is nothing; one is the same."""
    one = expected(channel)
    np.testing.assert_allclose(expected(channel.scaled(2)), one @ one, atol=1e-14)
    np.testing.assert_allclose(expected(channel.scaled(3)), one @ one @ one, atol=1e-14)
    assert channel.scaled(0).is_identity
    assert channel.scaled(1) == channel
    half = expected(channel.scaled(0.5))
    np.testing.assert_allclose(half @ half, one, atol=1e-14)


def test_scaling_what_leaves_nothing():
    full = Channel.depolarising(3 / 4)
    assert full.scaled(0).is_identity
    assert full.scaled(0.5) == full == full.scaled(4)


def test_numbers_of_numpy_go_into_a_file(tmp_path):
    noise = DeviceNoise(Channel.pauli({"X": np.float32(0.25)}), readout=(0.0, 0.0))
    noise.save(tmp_path / "noise.json")
    assert DeviceNoise.load(tmp_path / "noise.json") == noise
    assert "np." not in repr(noise)


def test_sizes():
    assert Channel.depolarising(0.1).n_wires == 1
    assert Channel.depolarising(0.1, 2).n_wires == 2
    assert Channel.depolarising(0.0).is_identity
    assert not Channel.amplitude_damping(0.1).is_identity


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Channel((1.0, 0.5)), "factors must be 4 or 16 numbers"),
        (lambda: Channel((0.5, 1.0, 1.0, 1.0)), "the first of them 1"),
        (lambda: Channel((1.0, 1.5, 1.0, 1.0)), r"must be in \[-1, 1\]"),
        (lambda: Channel((1.0, float("nan"), 1.0, 1.0)), r"must be in \[-1, 1\]"),
        (lambda: Channel((1.0,) * 4, 2.0), r"must be in \[-1, 1\]"),
        (lambda: Channel((1.0,) * 16, 0.1), "one wire"),
        (lambda: Channel.depolarising(1.1), r"probability must be in \[0, 1\], got 1.1"),
        (lambda: Channel.amplitude_damping(-0.1), "gamma"),
        (lambda: Channel.phase_damping(float("nan")), "gamma"),
        (lambda: Channel.pauli({"Q": 0.1}), "Pauli strings of one or of two letters"),
        (lambda: Channel.pauli({"X": 0.1, "XX": 0.1}), "of one or of two letters"),
        (lambda: Channel.pauli({"X": 0.7, "Y": 0.7}), "sum of the probabilities"),
        (lambda: Channel.pauli({"X": -0.1, "Y": 0.7}), "probability of X"),
        (lambda: Channel.thermal_relaxation(1e-5, 3e-5, 1e-6), "t2 <= 2·t1"),
        (lambda: Channel.thermal_relaxation(1e-5, 1e-5, -1e-6), "not negative"),
        (lambda: Channel.thermal_relaxation(1e-5, 1e-5, 1e-6, 2), "excited"),
        (lambda: Channel.readout(0.1, 1.1), "p10"),
        (lambda: Channel(("1.0",) * 4), "factors must be 4 or 16 numbers"),
        (lambda: Channel.pauli("X"), "probabilities must be a Mapping, got str"),
        (lambda: Channel.pauli({"X": "a"}), "probability of X must be .* got 'a'"),
        (lambda: Channel.depolarising(0.1, 0), "n_wires must be 1 or 2, got 0"),
        (lambda: Channel.depolarising(0.1, 1.5), "n_wires must be 1 or 2, got 1.5"),
        (lambda: Channel.depolarising(0.1).scaled("a"), "scale must be a number .* got 'a'"),
        (lambda: Channel.depolarising(0.1).then(3), "other must be a Channel, got int"),
        (
            lambda: Channel.depolarising(0.1).then(Channel.depolarising(0.1, 2)),
            "other must be on as many wires, 1, got 2",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()
