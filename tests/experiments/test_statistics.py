"""Intervals, tests and corrections against scipy, their definitions, and cases by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import linregress

from qmtl.errors import InvalidInputError
from qmtl.experiments._statistics import (
    delta_m,
    estimate,
    exponential_rate,
    holm,
    paired_test,
    power_law,
)

NUMBERS = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


@given(NUMBERS)
def test_interval_is_students(values):
    found = estimate(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    error = stats.sem(values)
    if error > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error)
        assert found.half_width == pytest.approx((high - low) / 2, rel=1e-6)


def test_interval_covers_the_mean_in_95_percent_of_samples():
    rng = np.random.default_rng(0)
    found = [estimate(list(rng.normal(3, 2, size=5))) for _ in range(2000)]
    covered = np.mean([abs(e.mean - 3) <= e.half_width for e in found])
    assert abs(covered - 0.95) < 0.015


def test_undefined_values_are_left_out():
    assert estimate([1.0, math.nan, 3.0]).n == 2
    assert math.isnan(estimate([]).mean)
    assert math.isnan(estimate([1.0]).half_width)


@pytest.mark.parametrize(
    ("values", "spec", "text"),
    [
        ([1.0, 3.0], ".0f", "2 ± 13"),
        ([1.0, 3.0], "+.0f", "+2 ± 13"),
        ([1.0], ".1f", "1.0"),
        ([], ".1f", "–"),
    ],
)
def test_text(values, spec, text):
    assert f"{estimate(values):{spec}}" == text


@given(NUMBERS)
def test_paired_test_is_scipys(values):
    rng = np.random.default_rng(1)
    other = list(np.asarray(values) + rng.normal(0.3, 1, len(values)))
    found = paired_test(values, other)
    assert found.t_test == pytest.approx(stats.ttest_rel(values, other).pvalue)
    assert found.difference.mean == pytest.approx(np.mean(values) - np.mean(other))
    assert 2.0 ** (1 - len(values)) - 1e-12 <= found.wilcoxon <= 1


def test_paired_test_is_invariant_to_what_seeds_have_in_common():
    values, other = [0.1, 0.4, 0.35], [0.0, 0.2, 0.3]
    shift = [10.0, -5.0, 2.0]
    moved = paired_test(
        [a + s for a, s in zip(values, shift, strict=True)],
        [b + s for b, s in zip(other, shift, strict=True)],
    )
    assert moved.t_test == pytest.approx(paired_test(values, other).t_test)


def test_paired_test_at_its_edges():
    assert paired_test([1.0, 2.0], [1.0, 2.0]).t_test == 1
    # Equal differences, but for rounding: a t-test would be certain after two seeds.
    assert paired_test([2.0, 3.0], [1.0, 2.0]).t_test == 0.5
    assert paired_test([94.3, 93.6], [95.4, 94.7]).t_test == 0.5
    assert paired_test([2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0]).t_test == 0.125
    assert math.isnan(paired_test([1.0], [2.0]).t_test)
    assert paired_test([1.0, math.nan, 2.0, 3.0], [0.0, 5.0, 1.5, 1.0]).difference.n == 3
    with pytest.raises(InvalidInputError, match="2 values cannot be paired with 1"):
        paired_test([1.0, 2.0], [1.0])


def test_holm_rejects_what_the_procedure_rejects():
    # Holm's own rule: compare the i-th smallest with alpha / (n - i), stop at the first failure.
    rng = np.random.default_rng(2)
    for _ in range(200):
        p = {str(i): float(value) for i, value in enumerate(rng.uniform(0, 0.1, size=6))}
        rejected = set()
        for rank, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
            if value > 0.05 / (6 - rank):
                break
            rejected.add(name)
        assert {name for name, value in holm(p).items() if value <= 0.05} == rejected


def test_holm_ignores_tests_that_could_not_be_made():
    corrected = holm({"a": 0.02, "b": math.nan})
    assert corrected["a"] == 0.02
    assert math.isnan(corrected["b"])


def test_delta_m_by_hand():
    # Maninis et al., equation 4: signs by the direction of the metric, relative to single task.
    scores, single = {"acc": 0.9, "rmse": 0.5}, {"acc": 0.75, "rmse": 0.4}
    assert delta_m(scores, single, ["rmse"]) == pytest.approx((20 - 25) / 2)
    assert delta_m({"m": -0.1}, {"m": -0.2}, []) == pytest.approx(50)
    assert math.isnan(delta_m({"a": 0.5}, {"a": 0.0}, []))
    assert delta_m({"a": math.nan, "b": 1.1}, {"a": 0.5, "b": 1.0}, []) == pytest.approx(10)


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
        ([1], [1], "two different values"),
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
