"""State vectors by torch: layers of gates in no pattern at all."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from qmtl.simulators._cones import _sorted_into_layers
from qmtl.simulators._torch import _encode, apply_layers
from tests.laws import dense_state
from tests.strategies import gate_lists

many_gates = st.integers(1, 5).flatmap(lambda n: st.tuples(st.just(n), gate_lists(n, max_gates=20)))


def layers_of(gates, n):
    layers, slots = _sorted_into_layers(gates, {w: w for w in range(n)})
    angles = [torch.full((1, 1), gates[i].angle.constant, dtype=torch.float64) for i in slots]
    return layers, angles


def as_complex(state):
    """The amplitudes of one cone and sample, from their parts."""
    parts = state[:, 0, :, 0].numpy()
    return parts[0] + 1j * parts[1] if len(parts) == 2 else parts[0]


@given(many_gates)
def test_layers_of_any_gates_give_the_dense_state(drawn):
    n, gates = drawn
    layers, angles = layers_of(gates, n)
    expected = dense_state(gates, n).ravel()
    state = _encode(layers, angles, n, torch.zeros(1, 1, dtype=torch.float64))
    np.testing.assert_allclose(as_complex(state), expected, rtol=0, atol=1e-13)
    # The same without the shortcut for the first layer.
    zero = torch.zeros(1, 1, 2**n, 1, dtype=torch.float64)
    zero[:, :, 0] = 1
    state = apply_layers(zero, layers, angles, n)
    np.testing.assert_allclose(as_complex(state), expected, rtol=0, atol=1e-13)
