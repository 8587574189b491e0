"""A run's results, their comparison with the predictions, and their files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qmtl._html import MOST_ROWS, counted, facts, hardware_facts, panel, table
from qmtl._io import write_csv, write_json
from qmtl.errors import InvalidInputError, check_type
from qmtl.hardware._decode import Decoded, PubData, decode, exact_logits, raw_from_bytes
from qmtl.hardware._ledger import Ledger
from qmtl.hardware._prepared_run import Estimate, PreparedRun, Values

# A deviation of more standard errors than this counts as large.
MANY = 4.0
COLUMNS = (
    "task", "output", "measured", "predicted", "exact", "standard_error",
    "deviation_in_standard_errors",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Measured and expected outputs by task; every array is (samples, n_outputs).

    Attributes:
        measured: measured Z values or probabilities of each task.
        predicted: expected values under the backend's calibration; the exact values if those are
            unknown.
        exact: expected values without noise; empty if unknown.
        errors: standard errors of the measured values if the prediction is right.
        shared_errors: the part of `errors` that all samples of a job share.
        deviations: (measured - predicted) / errors.
        expected_beyond: expected number of deviations above 4 if the prediction is right. Shots
            follow binomial distributions, whose tails are heavier than normal ones for small
            probabilities.
    """

    measured: dict[str, Values]
    predicted: dict[str, Values]
    exact: dict[str, Values]
    errors: dict[str, Values]
    shared_errors: dict[str, Values]
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
        """Return the rows of `HardwareResult.table`."""
        return _mean_rows(
            self.measured, self.errors, self.shared_errors, self.predicted, self.exact
        )

    def __str__(self) -> str:
        return (
            f"{self.n_compared} outputs compared, the largest deviation {self.largest:.1f} "
            f"standard errors; {self.n_beyond} beyond {MANY:g}, {self.expected_beyond:.2g} expected"
        )


def _mean_rows(
    measured: Mapping[str, Any],
    errors: Mapping[str, Any],
    shared: Mapping[str, Any],
    predicted: Mapping[str, Any],
    exact: Mapping[str, Any],
) -> list[dict[str, Any]]:
    rows = []
    for task, values in measured.items():
        for output, column in enumerate(np.asarray(values).T):
            known = np.isfinite(column)
            n = int(known.sum())
            means: list[float | None] = [
                float(np.asarray(of[task])[known, output].mean()) if n and task in of else None
                for of in (measured, predicted, exact)
            ]
            off = error = None
            if n:
                whole, common = (np.asarray(of[task])[known, output] for of in (errors, shared))
                own = np.sqrt(np.maximum(whole**2 - common**2, 0))
                # Averaging does not reduce the error that all samples share.
                error = float(np.hypot(np.linalg.norm(own) / n, common.mean()))
            if means[0] is not None and means[1] is not None and error:
                off = (means[0] - means[1]) / error
            rows.append(dict(zip(COLUMNS, (task, output, *means, error, off), strict=True)))
    return rows


def compare(prepared: PreparedRun, decoded: Decoded) -> Comparison:
    """Compare a run's measured outputs with its predictions.

    Args:
        prepared: a run with predictions (``predict=True``).
        decoded: its results; the comparison leaves out samples not yet fetched.

    Raises:
        InvalidInputError: if the run was prepared without predictions.
    """
    check_type("prepared", prepared, PreparedRun)
    check_type("decoded", decoded, Decoded)
    predicted = dict(prepared.predicted or prepared.exact)
    if not predicted:
        raise InvalidInputError("the run was prepared without predictions (predict=False)")
    from scipy.stats import norm

    direct = prepared.primitive == "sampler" and prepared.decoding.mitigation == "none"
    errors, deviations, beyond = {}, {}, 0.0
    for task in prepared.decoding.tasks:
        name, shots, expected = task.task, decoded.shots, predicted[task.task]
        error = decoded.errors[name]
        if direct:
            variance = expected * (1 - expected) if task.is_probability else 1 - expected**2
            error = np.sqrt(np.clip(variance, 0, None) / shots)
        # An error of at least one shot, so that a difference of one shot is no large deviation.
        errors[name] = np.maximum(error, (1.0 if task.is_probability else 2.0) / shots)
        deviations[name] = (decoded.values[name] - expected) / errors[name]
        if direct:
            beyond += _expected_beyond(expected, errors[name], shots, task.is_probability)
        else:
            beyond += float(2 * norm.sf(MANY) * expected.size)
    return Comparison(
        measured=decoded.values,
        predicted=predicted,
        exact=dict(prepared.exact),
        errors=errors,
        shared_errors=decoded.shared_errors,
        deviations=deviations,
        expected_beyond=beyond,
    )


def _expected_beyond(values: Values, errors: Values, shots: int, is_probability: bool) -> float:
    from scipy.stats import binom

    share = np.clip(values if is_probability else (1 + values) / 2, 0, 1)
    width = MANY * errors * (1.0 if is_probability else 0.5)
    above = binom.sf(np.floor(shots * (share + width) + 1e-9), shots, share)
    below = binom.cdf(np.ceil(shots * (share - width) - 1e-9) - 1, shots, share)
    return float((above + below).sum())


@dataclass(frozen=True, eq=False)
class HardwareResult:
    """The results of a run. Tensors are float64, (samples, n_outputs), by task.

    Attributes:
        run: name of the run in the ledger.
        backend: name of the backend that ran it.
        execution: as for `PreparedRun`.
        primitive: ``"sampler"`` or ``"estimator"``.
        jobs: identifiers of its jobs.
        shots: number of shots of each sample.
        logits: the head's logits, computed from the measured values.
        values: the measured Z values or probabilities.
        standard_errors: standard errors of the values.
        shared_errors: the part of `standard_errors` that all samples of a job share.
        logit_errors: standard errors of the logits, to first order.
        exact_logits: logits without noise, for the same weights; empty if unknown.
        predicted: expected values under the backend's calibration; empty if unknown.
        exact: expected values without noise; empty if unknown.
        comparison: comparison of measured and predicted values; None without predictions.
        estimate: the estimated resources.
        missing: number of samples without a result so far; their values are NaN.
    """

    run: str
    backend: str
    execution: str
    primitive: str
    jobs: tuple[str, ...]
    shots: int
    logits: dict[str, Tensor]
    values: dict[str, Tensor]
    standard_errors: dict[str, Tensor]
    shared_errors: dict[str, Tensor]
    logit_errors: dict[str, Tensor]
    exact_logits: dict[str, Tensor]
    predicted: dict[str, Tensor]
    exact: dict[str, Tensor]
    comparison: Comparison | None = field(repr=False)
    estimate: Estimate = field(repr=False)
    missing: int = 0

    @property
    def n_samples(self) -> int:
        """Number of samples, with and without a result."""
        return len(next(iter(self.values.values())))

    def __str__(self) -> str:
        how = "" if self.execution == "device" else "simulated here, "
        lines = [
            f"run {self.run} on {self.backend} ({how}{self.execution}): {self.n_samples} samples, "
            f"{self.shots} shots, {counted(len(self.jobs), 'job')}"
        ]
        if self.missing:
            lines.append(f"{self.missing} samples have no result yet")
        if self.comparison is not None:
            lines.append(f"against the prediction: {self.comparison}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        record = self.to_dict()
        about = hardware_facts(record)
        if self.missing:
            about["samples without a result yet"] = self.missing
        rows = [{k.replace("_", " "): v for k, v in row.items()} for row in record["table"]]
        title = f"Hardware run {self.run} on {self.backend}"
        return panel(title, facts(about), table(rows[:MOST_ROWS], len(rows)))

    def table(self) -> list[dict[str, Any]]:
        """Return the means over samples and their deviation, in one row for each task and output.

        The keys are task, output, measured, predicted, exact, standard_error,
        deviation_in_standard_errors; unknown values are None.
        """
        if self.comparison is not None:
            return self.comparison.table()
        errors, shared = self.standard_errors, self.shared_errors
        return _mean_rows(self.values, errors, shared, self.predicted or self.exact, self.exact)

    def to_dict(self) -> dict[str, Any]:
        """Return the run and its table as data that JSON can hold."""
        estimate = self.estimate
        return {
            "run": self.run,
            "backend": self.backend,
            "shots": self.shots,
            "samples": self.n_samples,
            "primitive": self.primitive,
            "execution": self.execution,
            "jobs": list(self.jobs),
            "layout": list(estimate.layout),
            "wires": estimate.wires,
            "depth": estimate.depth,
            "two_qubit_gates": estimate.two_qubit_gates,
            "swaps": estimate.swaps,
            "estimated_success": estimate.success,
            "table": self.table(),
        }


def read_result(run: str, ledger: Ledger | str | Path | None = None) -> HardwareResult:
    """Return the part of a run's result that is in the ledger, without asking the service.

    Args:
        run: name of the run.
        ledger: the ledger or its file; None for the user's.
    """
    ledger = Ledger.existing(ledger)
    record = ledger.run(run)
    prepared = ledger.prepared(record.run)
    stored = raw_results(record.run, ledger)
    decoded = decode(prepared, stored)
    jobs = tuple(chunk.job for chunk in ledger.chunks(record.run) if chunk.job is not None)
    first = prepared.decoding.tasks[0].circuit
    pubs = [pub for i in stored for pub in prepared.chunks[i].pubs if pub.circuit == first]
    is_compared = stored and (prepared.predicted or prepared.exact)
    return HardwareResult(
        run=record.run,
        backend=record.backend,
        execution=prepared.execution,
        primitive=prepared.primitive,
        jobs=jobs,
        shots=decoded.shots,
        logits=_tensors(decoded.logits),
        values=_tensors(decoded.values),
        standard_errors=_tensors(decoded.errors),
        shared_errors=_tensors(decoded.shared_errors),
        logit_errors=_tensors(decoded.logit_errors),
        exact_logits=_tensors(exact_logits(prepared)),
        predicted=_tensors(prepared.predicted),
        exact=_tensors(prepared.exact),
        comparison=compare(prepared, decoded) if is_compared else None,
        estimate=prepared.estimate,
        missing=prepared.decoding.n_samples - sum(pub.n_samples for pub in pubs),
    )


def raw_results(run: str, ledger: Ledger) -> dict[int, tuple[PubData, ...]]:
    """Return the raw results of a run that are in the ledger, by chunk."""
    return {idx: raw_from_bytes(raw) for idx, raw in ledger.results(run).items()}


def _tensors(arrays: Any) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def write_result(result: HardwareResult, folder: Path, **more: Any) -> Path:
    """Write a result as JSON, and its table as CSV; return the path of the JSON file.

    Args:
        result: result of a run.
        folder: output folder; created if it does not exist.
        **more: further entries of the JSON file, such as metrics.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = result.to_dict() | more
    write_csv(folder / f"{result.run}.csv", record["table"])
    write_json(folder / f"{result.run}.json", record)
    return folder / f"{result.run}.json"
