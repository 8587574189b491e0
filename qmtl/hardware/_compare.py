"""compare: measured outputs beside what they should be, in standard errors."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from qmtl.errors import InvalidInputError
from qmtl.hardware._decode import Decoded
from qmtl.hardware._prepared import PreparedRun, Values

__all__ = ["Comparison", "compare"]

MANY = 4.0


@dataclass(frozen=True)
class Comparison:
    """Measured outputs beside expected ones; every array is (samples, n_outputs).

    Attributes:
        measured: Z values or probabilities of each task.
        predicted: under the backend's calibration; without one, or if it is not known, the exact
            values.
        exact: without noise; empty if not known.
        errors: standard errors of the measured values if the prediction holds.
        deviations: (measured - predicted) / errors.
        expected_beyond: how many deviations of more than 4 are to be expected if the prediction
            holds, of all that were compared: shots follow binomial distributions, whose tails are
            heavier than normal ones where probabilities are small.
    """

    measured: dict[str, Values]
    predicted: dict[str, Values]
    exact: dict[str, Values]
    errors: dict[str, Values]
    deviations: dict[str, Values]
    expected_beyond: float

    @property
    def n_compared(self) -> int:
        """Number of outputs compared."""
        return sum(int(np.isfinite(d).sum()) for d in self.deviations.values())

    @property
    def n_beyond(self) -> int:
        """Number of deviations of more than 4 standard errors."""
        return sum(int((abs(d) > MANY).sum()) for d in self.deviations.values())

    @property
    def largest(self) -> float:
        """The largest deviation, in standard errors."""
        return max(float(np.nanmax(abs(d), initial=0.0)) for d in self.deviations.values())

    def table(self) -> list[dict[str, Any]]:
        """A row for each task and output: means over samples, and the mean's deviation.

        Keys: task, output, measured, predicted, exact (None if not known), standard_error,
        deviation_in_standard_errors, largest_deviation.
        """
        rows = []
        for task, measured in self.measured.items():
            for output in range(measured.shape[1]):
                known = np.isfinite(measured[:, output])
                n = int(known.sum())
                if not n:
                    continue
                error = float(np.sqrt((self.errors[task][known, output] ** 2).sum())) / n
                means = [
                    float(values[task][known, output].mean()) if task in values else None
                    for values in (self.measured, self.predicted, self.exact)
                ]
                difference = (means[0] or 0.0) - (means[1] or 0.0)
                rows.append(
                    {
                        "task": task,
                        "output": output,
                        "measured": means[0],
                        "predicted": means[1],
                        "exact": means[2],
                        "standard_error": error,
                        "deviation_in_standard_errors": difference / error,
                        "largest_deviation": float(abs(self.deviations[task][known, output]).max()),
                    }
                )
        return rows

    def __str__(self) -> str:
        return (
            f"{self.n_compared} outputs compared, the largest deviation {self.largest:.1f} "
            f"standard errors; {self.n_beyond} beyond {MANY:g}, {self.expected_beyond:.2g} expected"
        )


def compare(prepared: PreparedRun, decoded: Decoded) -> Comparison:
    """Measured outputs beside what was predicted when the run was prepared.

    Args:
        prepared: with predictions (``predict=True``).
        decoded: its results; samples not yet fetched are left out.

    Raises:
        InvalidInputError: if the run was prepared without predictions.
    """
    predicted = dict(prepared.predicted or prepared.exact)
    if not predicted:
        raise InvalidInputError("the run was prepared without predictions (predict=False)")
    errors, deviations, beyond = {}, {}, 0.0
    for task in prepared.decoding.tasks:
        name = task.task
        direct = prepared.primitive == "sampler" and prepared.decoding.mitigation == "none"
        spread = _spread(predicted[name], task.is_probability)
        if not direct:
            spread = decoded.errors[name] * np.sqrt(decoded.shots)
        # One shot more or less is no deviation.
        one_shot = (1.0 if task.is_probability else 2.0) / decoded.shots
        errors[name] = np.maximum(spread / np.sqrt(decoded.shots), one_shot)
        deviations[name] = (decoded.values[name] - predicted[name]) / errors[name]
        beyond += _expected_beyond(
            predicted[name], errors[name], decoded.shots, task.is_probability, direct
        )
    return Comparison(
        measured=decoded.values,
        predicted=predicted,
        exact=dict(prepared.exact),
        errors=errors,
        deviations=deviations,
        expected_beyond=beyond,
    )


def _spread(values: Values, is_probability: bool) -> Values:
    """Of one shot."""
    variance = values * (1 - values) if is_probability else 1 - values**2
    return np.sqrt(np.clip(variance, 0, None))


def _expected_beyond(
    values: Values, errors: Values, shots: int, is_probability: bool, direct: bool
) -> float:
    from scipy.stats import binom, norm

    if not direct:
        return float(2 * norm.sf(MANY) * values.size)
    share = np.clip(values if is_probability else (1 + values) / 2, 0, 1)
    width = MANY * errors * (1.0 if is_probability else 0.5)
    above = binom.sf(np.floor(shots * (share + width) + 1e-9), shots, share)
    below = binom.cdf(np.ceil(shots * (share - width) - 1e-9) - 1, shots, share)
    return float((above + below).sum())
