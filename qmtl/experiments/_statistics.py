"""Means with intervals, paired tests over seeds, negative transfer, and straight-line fits."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qmtl.errors import InvalidInputError


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with the half width of its 95% interval (Student's), over `n` values.

    The mean is NaN without any value, and the half width with fewer than two.
    """

    mean: float
    half_width: float
    n: int

    def __format__(self, spec: str) -> str:
        """Return ``mean ± half width``, both in the given format; a dash without any value."""
        spec = spec or ".1f"
        if math.isnan(self.mean):
            return "–"
        width = f" ± {self.half_width:{spec.removeprefix('+')}}"
        return f"{self.mean:{spec}}" + ("" if math.isnan(self.half_width) else width)


def estimate(values: Sequence[float]) -> Estimate:
    """Return mean and Student's 95% interval; ignore values that are NaN.

    Example:
        >>> f"{estimate([1.0, 2.0, 3.0]):.2f}"
        '2.00 ± 2.48'
    """
    from scipy.stats import t

    kept = [value for value in values if not math.isnan(value)]
    n = len(kept)
    if n < 2:
        return Estimate(kept[0] if kept else math.nan, math.nan, n)
    mean = math.fsum(kept) / n
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in kept) / (n - 1) / n)
    return Estimate(mean, float(t.ppf(0.975, n - 1)) * error, n)


@dataclass(frozen=True)
class PairedTest:
    """A comparison of two heads, seed by seed: the difference, and two-sided p-values.

    `t_test` is Student's, NaN with fewer than two pairs. `wilcoxon` is the signed-rank test's,
    exact for few pairs without ties. With n pairs, `wilcoxon` is at least ``2 ** (1 - n)``.
    """

    difference: Estimate
    t_test: float
    wilcoxon: float


def paired_test(values: Sequence[float], reference: Sequence[float]) -> PairedTest:
    """Compare values with those of a reference on the same seeds.

    Pairs with a NaN are left out. Heads that agree on every seed have p = 1. If all differences are
    equal, as happens with few seeds and test rows, the t-test would give p = 0; `t_test` is then
    the p-value of Wilcoxon's test.

    Raises:
        InvalidInputError: if the numbers of values and reference values differ.

    Example:
        >>> test = paired_test([3.0, 4.0, 5.5], [1.0, 2.5, 3.0])
        >>> test.difference.mean, round(test.t_test, 3), test.wilcoxon
        (2.0, 0.02, 0.25)
    """
    from scipy import stats

    if len(values) != len(reference):
        raise InvalidInputError(
            f"paired_test: {len(values)} values cannot be paired with {len(reference)} reference "
            f"values"
        )
    pairs = np.array([values, reference], dtype=float)
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    differences = pairs[0] - pairs[1]
    difference = estimate(differences.tolist())
    if len(differences) < 2:
        return PairedTest(difference, math.nan, math.nan)
    if not differences.any():
        return PairedTest(difference, 1.0, 1.0)
    wilcoxon = float(stats.wilcoxon(differences).pvalue)
    if np.ptp(differences) <= 1e-9 * np.abs(pairs).max():
        return PairedTest(difference, wilcoxon, wilcoxon)
    return PairedTest(difference, float(stats.ttest_rel(*pairs).pvalue), wilcoxon)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Correct several p-values by Holm's step-down method; NaN stays NaN and does not count.

    References:
        Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
        Statistics 6 (1979).

    Example:
        >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
        {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    ordered = sorted((p, name) for name, p in p_values.items() if not math.isnan(p))
    corrected = dict.fromkeys(p_values, math.nan)
    largest = 0.0
    for rank, (p, name) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p))
        corrected[name] = largest
    return corrected


def delta_m(
    scores: Mapping[str, float], single_task: Mapping[str, float], lower_is_better: Sequence[str]
) -> float:
    """Return Δm, the mean relative change from single-task models in percent; < 0 if worse.

    Δm is the mean over tasks of ``±100 · (score - single) / |single|``. Tasks with an undefined
    score, or with a single-task score of zero, are left out; without any task, Δm is NaN. A
    single-task score near zero (such as a Matthews correlation) makes Δm large.

    Scores are main metrics by task; `lower_is_better` names tasks whose metric is an error.

    References:
        Maninis et al., arXiv:1904.08918, equation 4.

    Example:
        >>> delta_m({"a": 0.88, "b": 2.0}, {"a": 0.8, "b": 2.0}, lower_is_better=["b"])
        5.0
    """
    changes = []
    for task, reference in single_task.items():
        value = scores.get(task, math.nan)
        if math.isnan(value) or math.isnan(reference) or reference == 0:
            continue
        sign = -1.0 if task in lower_is_better else 1.0
        changes.append(sign * 100 * (value - reference) / abs(reference))
    return round(math.fsum(changes) / len(changes), 10) if changes else math.nan


@dataclass(frozen=True)
class Fit:
    """A least-squares line through logarithms of `n` points.

    The standard error of the slope is NaN with two points, which leave no residual.
    """

    slope: float
    error: float
    intercept: float
    n: int

    def __str__(self) -> str:
        return f"{self.slope:.3f}" + (f" ± {self.error:.3f}" if self.n > 2 else "")


def power_law(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Fit the exponent of ``y ∝ x^slope``, by least squares of log y against log x."""
    return _line(np.log(_positive("x", x)), np.log(_positive("y", y)))


def exponential_rate(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Fit the rate of ``y ∝ 2^(slope·x)``, by least squares of log2 y against x."""
    return _line(np.asarray(x, dtype=float), np.log2(_positive("y", y)))


def _positive(name: str, values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if not (array > 0).all():
        raise InvalidInputError(f"{name}: expected positive numbers, got {array.tolist()}")
    return array


def _line(x: np.ndarray, y: np.ndarray) -> Fit:
    from scipy.stats import linregress

    if len(x) != len(y) or len(np.unique(x)) < 2:
        raise InvalidInputError(
            f"a line needs at least two different values of x, and one y for each x, got {len(x)} "
            f"x ({len(np.unique(x))} different) and {len(y)} y"
        )
    found = linregress(x, y)
    error = float(found.stderr) if len(x) > 2 else math.nan
    return Fit(float(found.slope), error, float(found.intercept), len(x))
