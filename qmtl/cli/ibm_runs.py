"""What the commands of ``qmtl ibm`` share: a run directory's model and inputs, tables, records."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from qmtl.hardware import Estimate, HardwareResult, Ledger, RunStatus
    from qmtl.model import MultiTaskModel

__all__ = ["Measured", "open_run", "settings_of", "show_estimate", "show_result", "show_status"]


@dataclass(frozen=True)
class Measured:
    """A run directory's model, and the rows of a split that are measured.

    Attributes:
        model: the run's model.
        inputs: the first rows of the split.
        targets: their targets.
    """

    model: "MultiTaskModel"
    inputs: Any
    targets: Mapping[str, Any]


def open_run(path: Path, split: str, samples: int) -> Measured:
    """The model of a run directory and the first rows of a split.

    Raises:
        InvalidInputError: it is no run directory, or its data have no such split.
    """
    from qmtl.errors import unknown_name
    from qmtl.experiments import Run, build_data
    from qmtl.model import load

    opened = Run.read(path)
    data = build_data(opened.recipe)
    if split not in data.splits:
        raise unknown_name("split", split, data.splits)
    rows = data.splits[split]
    targets = {name: values[:samples] for name, values in rows.targets.items()}
    return Measured(load(opened.path / "model"), rows.inputs[:samples], targets)


def settings_of(shots: int, pairs: Sequence[str], max_qpu_seconds: float | None) -> Any:
    """`HardwareSettings` of the command line.

    Raises:
        InvalidInputError: a pair is no ``KEY=VALUE``, or a key or value does not fit.
    """
    from qmtl.errors import InvalidInputError
    from qmtl.hardware import HardwareSettings

    options: dict[str, Any] = {"shots": shots, "max_qpu_seconds": max_qpu_seconds}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InvalidInputError(f"--set: expected KEY=VALUE, got {pair!r}")
        try:
            options[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            options[key.strip()] = text.strip()
    return HardwareSettings.of(options)


def show_estimate(backend: str, estimate: "Estimate") -> None:
    """What a run needs, line by line."""
    success = "unknown" if estimate.success is None else f"{estimate.success:.3g}"
    lines = {
        "backend": backend,
        "qubits": f"{estimate.wires}: {', '.join(map(str, estimate.layout))}",
        "depth": f"{estimate.depth}, of two-qubit gates {estimate.two_qubit_depth}",
        "two-qubit gates": f"{estimate.two_qubit_gates}, with {estimate.swaps} swaps added",
        "estimated success": f"{success} of a whole circuit",
        "circuits": f"{estimate.circuits}, in {estimate.jobs} jobs",
        "executions": f"{estimate.executions:,}",
        "QPU time": f"about {estimate.qpu_seconds:.1f} s",
        "largest input": f"{estimate.payload_bytes / 1e6:.2f} MB",
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}")
    for note in estimate.notes:
        print(f"note: {note}")


def show_status(found: "RunStatus", ledger: "Ledger") -> None:
    """A run's jobs."""
    table = _table("chunk", "samples", "job", "state")
    prepared = ledger.prepared(found.run.run)
    for status, chunk in zip(found.chunks, prepared.chunks, strict=True):
        samples = chunk.pubs[0].samples
        rows = f"{samples[0]}–{samples[1] - 1}"
        table.add_row(str(status.chunk.idx), rows, status.chunk.job or "–", str(status))
    _print(table)
    print(found)


def show_result(ledger: "Ledger", result: "HardwareResult") -> None:
    """A result's table; of a run directory's model also metrics, and a record in that directory."""
    from qmtl.hardware import write_result

    table = _table("task", "output", "measured", "predicted", "exact", "error", "deviation")
    for row in result.table():
        numbers = [row[key] for key in ("measured", "predicted", "exact", "standard_error")]
        off = row["deviation_in_standard_errors"]
        deviation = "–" if off is None else f"{off:+.1f}"
        table.add_row(row["task"], str(row["output"]), *map(_number, numbers), deviation)
    _print(table)
    print(result)
    directory = ledger.run(result.run).directory
    if directory is None or not (Path(directory) / "model").is_dir():
        return
    more: dict[str, Any] = {}
    context = ledger.prepared(result.run).context
    if not result.missing and "split" in context:
        rows = open_run(Path(directory), context["split"], context["samples"])
        more = {"split": context["split"], "metrics": _metrics(rows, result, context["split"])}
    print(f"wrote {write_result(result, Path(directory) / 'hardware', **more)}")


def _metrics(rows: Measured, result: "HardwareResult", split: str) -> dict[str, Any]:
    """Metrics of the measured logits, beside those of the run's own simulator."""
    import torch

    from qmtl.cli.tables import show_metrics
    from qmtl.training import score

    with torch.no_grad():
        simulated = rows.model(rows.inputs.to(next(rows.model.parameters())), list(result.logits))
    found = {
        "measured": score(rows.model, result.logits, rows.targets),
        "simulated": score(rows.model, simulated, rows.targets),
    }
    show_metrics(
        f"{len(rows.inputs)} rows of {split}: on {result.backend}, and simulated",
        found["measured"],
        {"simulated": found["simulated"]},
    )
    return found


def _table(*columns: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name)
    return table


def _print(table: "Table") -> None:
    from rich.console import Console

    Console(markup=False, emoji=False).print(table)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
