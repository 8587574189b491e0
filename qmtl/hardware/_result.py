"""HardwareResult: what a run measured, beside what it should be."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qmtl._io import write_json, write_text
from qmtl.hardware._compare import Comparison, compare
from qmtl.hardware._decode import Decoded, decode
from qmtl.hardware._estimate import Estimate
from qmtl.hardware._ledger import Ledger
from qmtl.hardware._prepared import PreparedRun
from qmtl.hardware._raw import raw_from_bytes

__all__ = ["HardwareResult", "read_result", "write_result"]

COLUMNS = (
    "task", "output", "measured", "predicted", "exact", "standard_error",
    "deviation_in_standard_errors",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class HardwareResult:
    """What a run measured. Tensors are float64, (samples, n_outputs), by task.

    Attributes:
        run: its name in the ledger.
        backend: where it ran.
        execution: ``"device"``; here ``"whole circuit on the cut"``, or ``"task by task"``, where
            shots of different tasks are not correlated.
        primitive: ``"sampler"`` or ``"estimator"``.
        jobs: identifiers of the jobs that carried it.
        shots: of each sample.
        logits: what the head gives for the measured values, as a simulator's would.
        values: the measured Z values or probabilities.
        standard_errors: of the values.
        logit_errors: standard errors of the logits, to first order.
        predicted: what the values should be under the backend's calibration; empty if not known.
        exact: what they would be without noise; empty if not known.
        comparison: measured against predicted; None without predictions.
        estimate: what the run was estimated to need.
        missing: samples without a result so far; their numbers are NaN.
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
    logit_errors: dict[str, Tensor]
    predicted: dict[str, Tensor]
    exact: dict[str, Tensor]
    comparison: Comparison | None = field(repr=False)
    estimate: Estimate = field(repr=False)
    missing: int = 0

    def __str__(self) -> str:
        samples = len(next(iter(self.values.values())))
        lines = [
            f"run {self.run} on {self.backend} ({self.execution}): {samples} samples, "
            f"{self.shots} shots, {len(self.jobs)} job{'s' if len(self.jobs) != 1 else ''}"
        ]
        if self.missing:
            lines.append(f"{self.missing} samples have no result yet")
        if self.comparison is not None:
            lines.append(f"against the prediction: {self.comparison}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from qmtl.hardware._display import result_html

        return result_html(self)

    def table(self) -> list[dict[str, Any]]:
        """A row for each task and output, of means over samples; see `Comparison.table`."""
        if self.comparison is not None:
            return [{key: row[key] for key in COLUMNS} for row in self.comparison.table()]
        rows = []
        for task, values in self.values.items():
            for output in range(values.shape[1]):
                column, errors = values[:, output], self.standard_errors[task][:, output]
                known = ~column.isnan()
                n = int(known.sum())
                row = dict.fromkeys(COLUMNS)
                row |= {"task": task, "output": output}
                row["measured"] = float(column[known].mean()) if n else None
                row["standard_error"] = float(errors[known].norm()) / n if n else None
                rows.append(row)
        return rows

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able record of the run, with its table."""
        estimate = self.estimate
        return {
            "run": self.run,
            "backend": self.backend,
            "shots": self.shots,
            "samples": len(next(iter(self.values.values()))),
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


def read_result(ledger: Ledger, run: str) -> HardwareResult:
    """A run's result as far as it is in the ledger; nothing is asked of the service.

    Args:
        ledger: the ledger.
        run: the run's name.

    Raises:
        InvalidInputError: for a run that the ledger does not know.
    """
    record = ledger.run(run)
    prepared = ledger.prepared(record.run)
    stored = {idx: raw_from_bytes(raw) for idx, raw in ledger.results(record.run).items()}
    decoded = decode(prepared, stored)
    jobs = tuple(chunk.job for chunk in ledger.chunks(record.run) if chunk.job is not None)
    known = _samples(prepared, set(stored))
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
        logit_errors=_tensors(decoded.logit_errors),
        predicted=_tensors(prepared.predicted),
        exact=_tensors(prepared.exact),
        comparison=_compared(prepared, decoded) if stored else None,
        estimate=prepared.estimate,
        missing=prepared.decoding.n_samples - known,
    )


def _samples(prepared: PreparedRun, chunks: set[int]) -> int:
    """How many samples these chunks have."""
    first = prepared.decoding.tasks[0].circuit
    pubs = [pub for i in chunks for pub in prepared.chunks[i].pubs if pub.circuit == first]
    return sum(pub.samples[1] - pub.samples[0] for pub in pubs)


def _tensors(arrays: Any) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _compared(prepared: PreparedRun, decoded: Decoded) -> Comparison | None:
    return compare(prepared, decoded) if prepared.predicted or prepared.exact else None


def write_result(result: HardwareResult, folder: Path, **more: Any) -> Path:
    """Write a result's record as JSON, and its table as CSV, into a folder.

    Args:
        result: of a run.
        folder: made if it is not there.
        **more: further JSON-able entries of the record, such as metrics.

    Returns:
        The JSON file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = result.to_dict() | more
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(record["table"])
    write_text(folder / f"{result.run}.csv", text.getvalue())
    write_json(folder / f"{result.run}.json", record)
    return folder / f"{result.run}.json"
