import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qmtl.simulators.layers import sort_into_layers
from qmtl.simulators.statevector import _flip_signs, _signs, apply_layers, encode, to_complex
from tests.laws import dense_state
from tests.strategies import gate_lists

many_gates = st.integers(1, 5).flatmap(lambda n: st.tuples(st.just(n), gate_lists(n, max_gates=20)))


def as_numpy(state):
    parts = [part.squeeze(-1).numpy() for part in state.unbind(2)]
    return parts[0] if len(parts) == 1 else parts[0] + 1j * parts[1]


@given(many_gates)
def test_layers_of_any_gates_give_the_dense_state(drawn):
    n, gates = drawn
    layers, angles = sort_into_layers(gates, {w: w for w in range(n)})
    columns = [torch.full((1, 1), a.constant, dtype=torch.float64) for a in angles]
    like = torch.zeros(1, 1, dtype=torch.float64)
    expected = dense_state(gates, n).ravel()
    state = encode(layers, columns, n, like)
    np.testing.assert_allclose(as_numpy(state)[0], expected, rtol=0, atol=1e-13)
    # The same without the shortcut for the first layer.
    zero = torch.zeros(1, 2**n, 1, 1, dtype=torch.float64)
    zero[:, 0] = 1
    state = apply_layers(zero, layers, columns, n)
    np.testing.assert_allclose(as_numpy(state)[0], expected, rtol=0, atol=1e-13)


@given(many_gates)
def test_layers_alternate_and_keep_every_gate(drawn):
    n, gates = drawn
    layers, angles = sort_into_layers(gates, {w: w for w in range(n)})
    ops = [op for layer in layers for op in layer.ops]
    assert len(ops) == len(gates) + 2 * sum(g.name == "CNOT" for g in gates)
    assert [op.slot for op in ops if op.slot is not None] == list(range(len(angles)))
    for layer in layers:
        assert all((op.name in ("RZ", "CZ", "IsingZZ")) == layer.diagonal for op in layer.ops)


def test_real_gates_keep_the_state_real():
    from qmtl.circuit import Angle, Gate

    gates = [Gate("RY", (0,), Angle()), Gate("Hadamard", (1,)), Gate("CNOT", (0, 1))]
    angle = torch.ones(1, 1, dtype=torch.float64)
    layers, _ = sort_into_layers(gates, {0: 0, 1: 1})
    assert encode(layers, [angle], 2, angle).shape[2] == 1
    layers, _ = sort_into_layers([*gates, Gate("RZ", (0,), Angle())], {0: 0, 1: 1})
    assert encode(layers, [angle, angle], 2, angle).shape[2] == 2


def test_to_complex():
    state = torch.ones(1, 2, 1, 3)
    assert to_complex(state).shape == (1, 2, 2, 3)
    assert to_complex(to_complex(state)).shape == (1, 2, 2, 3)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_sign_tables(n):
    for wire in range(n):
        expected = [1 - 2 * (s >> (n - 1 - wire) & 1) for s in range(2**n)]
        assert _signs(((wire,),), n).tolist() == [expected]
    if n > 1:
        flips = _flip_signs(((0, n - 1),), n)
        assert flips.tolist() == [-1 if s >> (n - 1) & s & 1 else 1 for s in range(2**n)]
