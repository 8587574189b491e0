import json
import pickle

import numpy as np
import pytest

from qmtl.circuit import (
    DIAGONAL_GATES,
    GATE_WIRES,
    Angle,
    Gate,
    GateSequence,
    HeadCircuit,
    circuit_from_dict,
)
from qmtl.circuit._gates import ALIASES, COMPOSED, PauliString
from qmtl.errors import InvalidInputError
from qmtl.tasks import Task
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
        (("RY", (0, 1), ANGLE), r"RY acts on 1 distinct wire >= 0, got \(0, 1\)"),
        (("CZ", (1, 1)), r"CZ acts on 2 distinct wires >= 0, got \(1, 1\)"),
        (("CZ", (1,)), r"CZ acts on 2 distinct wires >= 0, got \(1,\)"),
        (("RZ", (0,)), "RZ needs an angle, got None"),
        (("CNOT", (0, 1), ANGLE), "CNOT takes no angle"),
        (("S", (0,), ANGLE), "S takes no angle, got 0.7"),
        (("Rot", (0,), ANGLE), "Rot needs a tuple of 3 angles, got 0.7"),
        (("RY", (-1,), ANGLE), r"RY acts on 1 distinct wire >= 0, got \(-1,\)"),
        (("RY", ("a",), ANGLE), r"RY acts on 1 distinct wire >= 0, got \('a',\)"),
        (("CZ", (0, 0.5)), r"CZ acts on 2 distinct wires >= 0, got \(0, 0.5\)"),
        (("CRX", (0, 1)), "CRX needs an angle, got None"),
        (("SWOP", (0, 1)), "did you mean 'SWAP'"),
    ],
)
def test_bad_gates_are_refused(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        Gate(*arguments)


@pytest.mark.parametrize("bad", [{"features": (0, -1)}, {"weight": -2}])
def test_negative_indices_are_refused(bad):
    with pytest.raises(InvalidInputError, match=r">= 0, got -"):
        Angle(**bad)


@pytest.mark.parametrize("bad", [float("nan"), -float("inf"), "0.5", None])
def test_constants_are_finite_numbers(bad):
    with pytest.raises(InvalidInputError, match="constant must be a finite number, got"):
        Angle(constant=bad)


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


@pytest.mark.parametrize("name", [*ALIASES, *COMPOSED])
def test_other_gates_of_pennylane_are_made_of_elementary_ones(name):
    import pennylane as qml

    n_wires, n_angles = COMPOSED.get(name, (1, int(name == "PhaseShift")))
    angles = tuple(Angle(constant=0.3 + i) for i in range(n_angles))
    gate = Gate(name, tuple(range(n_wires)), angles if n_angles > 1 else (*angles, None)[0])
    assert all(part.name in GATE_WIRES for part in gate.decomposed())
    expected = qml.matrix(getattr(qml, name)(*(a.constant for a in angles), wires=gate.wires))
    # Column by column, with a wire that holds the column's number and is left alone.
    ours = np.empty_like(expected, dtype=complex)
    for column in range(2**n_wires):
        flips = [Gate("X", (w,)) for w in range(n_wires) if column >> (n_wires - 1 - w) & 1]
        state = dense_state([*flips, *gate.decomposed()], n_wires).reshape(-1)
        ours[:, column] = state / (-1j) ** len(flips)
    phase = np.vdot(expected, ours)
    np.testing.assert_allclose(ours * abs(phase) / phase, expected, atol=1e-12)


def test_a_gate_keeps_its_angles_on_other_wires():
    rot = Gate("Rot", (0,), (ANGLE, Angle(weight=0), Angle(features=(1,))))
    assert rot.on([4]) == Gate("Rot", (4,), rot.angles)
    assert pickle.loads(pickle.dumps(rot)) == rot
    assert str(rot) == "Rot(0.7, w[0], x[1]) 0"


GATES = [
    Gate("H", (0,)),
    Gate("RX", (1,), Angle(features=(0, 1), weight=1, constant=0.5)),
    Gate("CRY", (0, 1), Angle(weight=0)),
]


def test_a_sequence_is_an_encoding_or_a_block_and_plain_data():
    sequence = GateSequence.of(2, GATES)
    assert (sequence.n_features(2), sequence.n_weights(2)) == (2, 2)
    circuit = HeadCircuit([Task.binary("a")], sequence)
    assert circuit_from_dict(json.loads(json.dumps(circuit.to_dict()))) == circuit
    with pytest.raises(InvalidInputError, match="takes weights only; the GateSequence has 2 feat"):
        HeadCircuit([Task.binary("a")], ansatz=sequence)
    with pytest.raises(InvalidInputError, match="is on 2 wires, the circuit has 4"):
        HeadCircuit([Task.binary("a"), Task.binary("b")], sequence)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("RX", (2,), (), None, 1.0)], r"RX\(1\) 2: the sequence has wires 0 to 1"),
        ([("RX", (0,), (), 3, 1.0)], "weights must be numbered from 0 .*: no gate uses 0"),
        ([("RX", (0,), (1,), None, 1.0)], "features must be numbered from 0"),
        ([("RX", (0,))], "does not fit"),
        ([("RX", 0, (), None, 1.0)], "does not fit"),
        ([("RX", (0,), (), "a", 1.0)], "does not fit"),
    ],
)
def test_bad_sequences_are_refused(rows, message):
    with pytest.raises(InvalidInputError, match=message):
        GateSequence(2, tuple(rows))


def test_a_sequence_prints_its_size():
    sequence = GateSequence.of(2, [Gate("RY", (1,), Angle((0,))), Gate("CZ", (0, 1))])
    assert repr(sequence) == "GateSequence(2 wires, 2 gates, features: 1, weights: 0)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": 0}, "features must be a tuple, got 0"),
        ({"features": (0.5,)}, "indices must be integers >= 0, got 0.5"),
        ({"weight": "a"}, "indices must be integers >= 0, got 'a'"),
        ({"weight": -1}, "indices must be integers >= 0, got -1"),
    ],
)
def test_bad_angles(options, message):
    with pytest.raises(InvalidInputError, match=message):
        Angle(**options)


def test_indices_of_numpy():
    gate = Gate("RY", np.arange(1), Angle(features=(np.int64(2),)))
    assert gate == Gate("RY", 0, Angle(features=(2,)))


def test_an_angle_that_is_a_number_is_refused_with_what_to_write():
    for angle in (0.3, "x"):
        with pytest.raises(InvalidInputError, match=r"angle of RX must be an Angle, such as Angle"):
            Gate("RX", (0,), angle)
