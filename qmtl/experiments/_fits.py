"""Straight lines through measurements: exponents of power laws, and rates of exponentials."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qmtl.errors import InvalidInputError

__all__ = ["Fit", "exponential_rate", "power_law"]


@dataclass(frozen=True)
class Fit:
    """A least-squares line through logarithms.

    Attributes:
        slope: of the line.
        error: its standard error; NaN with two points, which leave no residual.
        intercept: of the line, in the logarithm's base.
        n: number of points.
    """

    slope: float
    error: float
    intercept: float
    n: int

    def __str__(self) -> str:
        # Two points have no error that could be told.
        return f"{self.slope:.3f}" + (f" ± {self.error:.3f}" if self.n > 2 else "")


def power_law(x: Sequence[float], y: Sequence[float]) -> Fit:
    """The exponent of ``y ∝ x^slope``, by least squares of log y against log x.

    Raises:
        InvalidInputError: for fewer than two different x, or values that are not positive.

    Example:
        >>> fit = power_law([1, 2, 4, 8], [3, 12, 48, 192])
        >>> round(fit.slope, 6), round(fit.error, 6)
        (2.0, 0.0)
    """
    return _line(np.log(_positive("x", x)), np.log(_positive("y", y)))


def exponential_rate(x: Sequence[float], y: Sequence[float]) -> Fit:
    """The rate of ``y ∝ 2^(slope·x)``, by least squares of log2 y against x.

    Raises:
        InvalidInputError: for fewer than two different x, or y that are not positive.

    Example:
        >>> round(exponential_rate([2, 4, 6], [1.0, 0.25, 0.0625]).slope, 6)
        -1.0
    """
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
            f"a line needs at least two different x and as many y, got {len(x)} x "
            f"({len(np.unique(x))} different) and {len(y)} y"
        )
    found = linregress(x, y)
    # With two points the residual is zero and says nothing about the error.
    error = float(found.stderr) if len(x) > 2 else float("nan")
    return Fit(float(found.slope), error, float(found.intercept), len(x))
