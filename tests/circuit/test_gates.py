import pickle

import numpy as np
import pytest

from qmtl.circuit import DIAGONAL_GATES, GATE_WIRES, Angle, Gate, PauliString
from qmtl.errors import InvalidInputError
from tests.laws import dense_state

ANGLE = Angle(constant=0.7)


def _gate(name):
    turns = name in ("RX", "RY", "RZ", "IsingZZ")
    return Gate(name, tuple(range(GATE_WIRES[name])), ANGLE if turns else None)


@pytest.mark.parametrize("name", GATE_WIRES)
def test_names_and_matrices_are_pennylanes(name):
    import pennylane as qml

    gate = _gate(name)
    parameters = [0.7] if gate.angle else []
    matrix = qml.matrix(getattr(qml, name)(*parameters, wires=gate.wires))
    n = len(gate.wires)
    ours = dense_state([gate], n).reshape(-1)
    np.testing.assert_allclose(ours, matrix[:, 0], atol=1e-14)
    assert gate.is_diagonal == np.allclose(matrix, np.diag(np.diag(matrix)))
    assert gate.is_diagonal == (name in DIAGONAL_GATES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("RYY", (0,), ANGLE), "unknown gate 'RYY'; did you mean 'RY'"),
        (("RY", (0, 1), ANGLE), r"RY acts on 1 distinct wires, got \(0, 1\)"),
        (("CZ", (1, 1)), r"CZ acts on 2 distinct wires, got \(1, 1\)"),
        (("CZ", (1,)), r"CZ acts on 2 distinct wires, got \(1,\)"),
        (("RZ", (0,)), "RZ needs angle, got None"),
        (("CNOT", (0, 1), ANGLE), "CNOT takes no angle"),
    ],
)
def test_bad_gates_are_refused(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        Gate(*arguments)


@pytest.mark.parametrize("bad", [{"features": (0, -1)}, {"weight": -2}])
def test_negative_indices_are_refused(bad):
    with pytest.raises(InvalidInputError, match=r">= 0, got -"):
        Angle(**bad)


def test_owner_is_given_to_weights_only():
    assert Gate("RY", (0,), Angle(weight=3)).owned_by("a").angle == Angle(weight=3, owner="a")
    loads = Gate("RY", (0,), Angle(features=(3,)))
    assert loads.owned_by("a") is loads
    cz = Gate("CZ", (0, 1))
    assert cz.owned_by("a") is cz


def test_text():
    assert str(Gate("IsingZZ", (0, 2), Angle(features=(0, 2)))) == "IsingZZ(x[0]·x[2]) 0,2"
    assert str(Angle(weight=1, owner="a", constant=0.5, features=(4,))) == "0.5·x[4]·a[1]"
    assert str(Gate("Hadamard", (5,))) == "Hadamard 5"


def test_gates_are_values():
    gate = Gate("RY", (0,), Angle(features=(0,)))
    assert gate == pickle.loads(pickle.dumps(gate))
    assert len({gate, Gate("RY", (0,), Angle(features=(0,))), Gate("RX", (0,), ANGLE)}) == 2


@pytest.mark.parametrize("factors", ["Z", "IZ", "ZI", "ZZ", "IZIZ", "ZZZ"])
def test_pauli_string_signs_are_the_diagonal(factors):
    diagonal = np.ones(1)
    for factor in factors:
        diagonal = np.kron(diagonal, [1, -1] if factor == "Z" else [1, 1])
    assert PauliString(factors).signs() == tuple(diagonal)
    assert PauliString(factors).wires == tuple(i for i, f in enumerate(factors) if f == "Z")


@pytest.mark.parametrize("factors", ["", "I", "II", "X", "ZY", "zi"])
def test_bad_pauli_strings_are_refused(factors):
    with pytest.raises(InvalidInputError, match="letters I and Z"):
        PauliString(factors)
