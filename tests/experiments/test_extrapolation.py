"""Zero-noise extrapolation: what each method is exact for."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qmtl.circuit import HeadCircuit
from qmtl.errors import InvalidInputError
from qmtl.experiments._robustness import ExtrapolatedSimulator, extrapolated
from qmtl.noise import DeviceNoise
from qmtl.simulators import LightConeSimulator, NoisySimulator
from qmtl.tasks import Task
from tests.strategies import random_angles, random_weights

number = st.floats(-1, 1)
some_scales = st.sampled_from([(1, 2), (1, 1.5, 3), (1, 2, 4), (1, 2, 3, 5)])


def powers(scales, coefficients):
    return torch.tensor(
        [sum(c * s**i for i, c in enumerate(coefficients)) for s in scales], dtype=torch.float64
    )


@given(some_scales, st.data())
def test_richardson_is_exact_for_polynomials(scales, data):
    coefficients = data.draw(st.lists(number, min_size=len(scales), max_size=len(scales)))
    values = powers(scales, coefficients)
    assert extrapolated(scales, values) == pytest.approx(coefficients[0], abs=1e-9)


@given(some_scales, number, number)
def test_linear_is_the_line_of_least_squares(scales, start, slope):
    values = powers(scales, (start, slope))
    assert extrapolated(scales, values, "linear") == pytest.approx(start, abs=1e-9)
    bent = values + torch.tensor(scales).double().sin()
    expected = np.polyfit(scales, bent.numpy(), 1)[1]
    assert extrapolated(scales, bent, "linear") == pytest.approx(expected, abs=1e-9)


@given(some_scales, st.floats(0.01, 1), st.floats(0, 1), st.floats(-0.5, 0.5), st.booleans())
def test_exponential_is_exact_for_decays(scales, start, rate, floor, negative):
    sign = -1 if negative else 1
    values = torch.tensor([floor + sign * start * np.exp(-rate * s) for s in scales]).double()
    found = extrapolated(scales, values, "exponential", floor)
    assert found == pytest.approx(floor + sign * start, abs=1e-9)


def test_exponential_falls_back_to_the_line():
    values = torch.tensor([[0.1, 0.8], [-0.1, 0.4], [0.0, 0.2]]).double()
    found = extrapolated((1, 2, 3), values, "exponential")
    assert found[0] == extrapolated((1, 2, 3), values, "linear")[0]
    assert found[1] == pytest.approx(1.6)


@pytest.mark.parametrize("method", ["richardson", "linear", "exponential"])
def test_it_brings_outputs_nearer(method):
    circuit = HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)])
    angles, weights = random_angles(circuit, 20), random_weights(circuit)
    noise = DeviceNoise.uniform(0.001, 0.005, 0.01)
    simulators = {s: NoisySimulator(noise.scaled(s)) for s in (1, 2, 3)}
    one = ExtrapolatedSimulator(simulators, method)
    ideal, noisy, found = (
        simulator.expectation_values(circuit, angles, weights)
        for simulator in (LightConeSimulator(), simulators[1], one)
    )
    for name in ideal:
        before = (noisy[name] - ideal[name]).square().mean().sqrt()
        after = (found[name] - ideal[name]).square().mean().sqrt()
        assert after < before / 3, name


@pytest.mark.parametrize(
    ("scales", "method", "message"),
    [
        ((1,), "linear", "two or more distinct, positive"),
        ((1, 1), "linear", "distinct"),
        ((0, 1), "richardson", "positive"),
        ((1, 2), "exponentially", "did you mean 'exponential'"),
    ],
)
def test_bad_input(scales, method, message):
    with pytest.raises(InvalidInputError, match=message):
        extrapolated(scales, torch.ones(len(scales)), method)
