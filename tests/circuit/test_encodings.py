from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.circuit import AngleEncoding, Encoding, HeadCircuit, IQPEncoding, entangler_gates
from qmtl.errors import InvalidInputError
from tests.laws import assert_closed_form_counts
from tests.strategies import binary_tasks, encodings


@given(encodings(), st.integers(1, 9))
def test_counts_equal_the_gates(encoding, n):
    gates = encoding.gates(n)
    weights = [g.angle.weight for g in gates if g.angle and g.angle.weight is not None]
    features = Counter(f for g in gates if g.angle for f in g.angle.features)
    assert weights == list(range(encoding.n_weights(n)))
    assert set(features) == set(range(encoding.n_features(n)))
    assert {w for g in gates for w in g.wires} == set(range(n))
    assert isinstance(encoding, Encoding)


@given(encodings(), st.integers(1, 4))
def test_counts_of_a_head(encoding, n):
    assert_closed_form_counts(HeadCircuit(binary_tasks(n), encoding))


def test_default_gates():
    texts = [str(g) for g in AngleEncoding().gates(3)]
    ring = [str(g) for g in entangler_gates("cz_ring", range(3))]
    load = [f"RY(x[{i}]) {i}" for i in range(3)]
    turn = [f"RZ(w[{i}]) {i}" for i in range(3)]
    assert texts == load + turn + ring + load + ring


def test_features_are_spread_over_the_layers():
    encoding = AngleEncoding(n_layers=2, features_per_wire=2, trainable="", entangler="none")
    assert encoding.n_features(2) == 4
    assert [str(g) for g in encoding.gates(2)] == [
        "RY(x[0]) 0", "RY(x[2]) 1", "RY(x[1]) 0", "RY(x[3]) 1",
    ]  # fmt: skip
    dense = AngleEncoding(n_layers=1, axes="YZ", entangler="none")
    assert [str(g) for g in dense.gates(2)] == [
        "RY(x[0]) 0", "RY(x[2]) 1", "RZ(x[1]) 0", "RZ(x[3]) 1",
    ]  # fmt: skip


def test_without_reuploading_later_layers_are_trainable():
    encoding = AngleEncoding(n_layers=3, trainable="ZY", reupload=False, entangler="cz_line")
    gates = encoding.gates(2)
    assert encoding.n_weights(2) == 3 * 2 * 2
    assert sum(bool(g.angle and g.angle.features) for g in gates) == 2
    assert AngleEncoding(n_layers=1, reupload=False).n_weights(2) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_layers": 0}, "n_layers must be an integer >= 1, got 0"),
        ({"n_layers": 1.5}, "n_layers must be an integer >= 1, got 1.5"),
        ({"axes": ""}, "axes must be a string of X, Y and Z, got ''"),
        ({"axes": "YH"}, "axes must be .* got 'YH'"),
        ({"trainable": "W"}, "trainable must be .* or empty, got 'W'"),
        ({"entangler": "ring"}, "unknown entangler 'ring'"),
        ({"features_per_wire": 3}, "features_per_wire must be from 1 to 2.*got 3"),
        ({"features_per_wire": 0}, "features_per_wire must be from 1 to 2.*got 0"),
        ({"features_per_wire": 2, "reupload": False, "trainable": "Y"}, "from 1 to 1"),
        ({"reupload": False}, "trainable X or Y rotation, got trainable='Z'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InvalidInputError, match=message):
        AngleEncoding(**options)


def test_bad_iqp_options():
    with pytest.raises(InvalidInputError, match="unknown entangler"):
        IQPEncoding(pattern="pairs")
    with pytest.raises(InvalidInputError, match="got -1"):
        IQPEncoding(n_layers=-1)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_iqp_is_pennylanes(n_layers):
    import numpy as np
    import pennylane as qml

    from tests.laws import dense_state

    x = np.array([0.3, -1.1, 2.0])
    encoding = IQPEncoding(n_layers=n_layers, pattern="all_to_all")
    with qml.queuing.AnnotatedQueue() as queue:
        qml.IQPEmbedding(x, wires=range(3), n_repeats=n_layers)
    tape = qml.tape.QuantumScript.from_queue(queue)
    expected = qml.matrix(tape, wire_order=range(3))[:, 0]
    np.testing.assert_allclose(dense_state(encoding.gates(3), 3, x).ravel(), expected, atol=1e-12)
