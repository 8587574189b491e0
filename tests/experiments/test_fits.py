"""Fits of lines through logarithms."""

import math

import numpy as np
import pytest
from scipy.stats import linregress

from qmtl.errors import InvalidInputError
from qmtl.experiments._fits import exponential_rate, power_law


def test_slope_and_error_are_those_of_a_line_through_logarithms():
    x = np.array([1.0, 2, 4, 8, 16])
    y = 3 * x**1.5 * np.exp([0.1, -0.2, 0.05, 0.0, 0.1])
    expected = linregress(np.log(x), np.log(y))
    found = power_law(x.tolist(), y.tolist())
    assert (found.slope, found.error, found.n) == (expected.slope, expected.stderr, 5)
    # The residuals do not depend on the base, the slope per unit of x does.
    rate = exponential_rate(x.tolist(), (2.0 ** (-0.7 * x)).tolist())
    assert rate.slope == pytest.approx(-0.7)
    assert rate.error == pytest.approx(0, abs=1e-9)


def test_two_points_have_no_error():
    fit = power_law([1, 2], [1, 4])
    assert math.isnan(fit.error)
    assert str(fit) == "2.000"


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1], [1], "two different x"),
        ([2, 2], [1, 3], "1 different"),
        ([1, 2], [1, 2, 3], "3 y"),
        ([1, 2], [1, 0], "y: expected positive"),
        ([0, 2], [1, 1], "x: expected positive"),
        ([1, 2], [1, float("nan")], "positive"),
    ],
)
def test_what_has_no_line(x, y, words):
    with pytest.raises(InvalidInputError, match=words):
        power_law(x, y)
