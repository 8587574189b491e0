import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.circuit import Ansatz, IdentityAnsatz, RealAmplitudes, RotationAnsatz
from qmtl.errors import InvalidInputError
from tests.strategies import ansatze


@given(ansatze, st.integers(1, 6), st.data())
def test_counts_equal_the_gates(ansatz, n, data):
    read = data.draw(st.lists(st.integers(0, n - 1), min_size=1, unique=True).map(sorted))
    gates = ansatz.gates(n, read)
    weights = [g.angle.weight for g in gates if g.angle]
    assert weights == list(range(ansatz.n_weights(n, read)))
    assert {w for g in gates for w in g.wires} <= set(range(n))
    assert not any(g.angle and g.angle.features for g in gates)
    assert isinstance(ansatz, Ansatz)


def test_rotation_ansatz_of_two_wires():
    assert [str(g) for g in RotationAnsatz().gates(2, (0,))] == [
        "RZ(w[0]) 0", "RZ(w[1]) 1", "RY(w[2]) 0", "RY(w[3]) 1",
        "CZ 0,1", "RZ(w[4]) 0", "RY(w[5]) 0",
    ]  # fmt: skip


def test_last_layer_turns_the_read_wires_only_and_has_no_entangler():
    gates = RotationAnsatz(n_layers=3).gates(4, (1, 3))
    assert [str(g) for g in gates[-4:]] == [
        "RZ(w[16]) 1", "RZ(w[17]) 3", "RY(w[18]) 1", "RY(w[19]) 3",
    ]  # fmt: skip
    assert RealAmplitudes().gates(3, (2,))[-1].wires == (2,)


@pytest.mark.parametrize("n_layers", [1, 2, 5])
def test_one_wire_has_one_layer(n_layers):
    assert RotationAnsatz(n_layers).n_weights(1, (0,)) == 2
    assert RealAmplitudes(n_layers).n_weights(1, (0,)) == 1


def test_identity():
    assert IdentityAnsatz().gates(3, (0, 1)) == []
    assert IdentityAnsatz().n_weights(3, (0, 1)) == 0


@pytest.mark.parametrize("kind", [RotationAnsatz, RealAmplitudes])
def test_bad_options(kind):
    with pytest.raises(InvalidInputError, match="got 0"):
        kind(n_layers=0)
    with pytest.raises(InvalidInputError, match="unknown entangler 'cx_ring'"):
        kind(entangler="cx_ring")
