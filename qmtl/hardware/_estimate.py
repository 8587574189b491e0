"""Estimate: what a prepared run needs and costs, before anything is spent."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

__all__ = ["Estimate"]


@dataclass(frozen=True)
class Estimate:
    """What a run needs on a backend.

    Attributes:
        wires: qubits in use.
        depth: layers of gates of the deepest transpiled circuit, frame changes (``rz``) and
            barriers not counted.
        two_qubit_depth: the same, of two-qubit gates only.
        two_qubit_gates: of the circuit with most of them.
        swaps: swaps that routing added, of the circuit with most of them; each costs up to three
            two-qubit gates.
        success: product of the fidelities of all gates and read-outs of the circuit in which it is
            smallest; None without a calibration.
        task_success: the same for each task, of the gates that its result depends on.
        circuits: distinct transpiled circuits, those of read-out calibration included.
        executions: circuits times parameter sets times shots.
        jobs: jobs that carry them.
        qpu_seconds: estimated time on the device.
        payload_bytes: estimated size of the largest job's input.
        layout: the device's qubits of the head circuit's wires.
        budget_seconds: the budget that the run is held against; None for none.
        notes: what should be known before the run is sent, one sentence each.
    """

    wires: int
    depth: int
    two_qubit_depth: int
    two_qubit_gates: int
    swaps: int
    success: float | None
    task_success: Mapping[str, float]
    circuits: int
    executions: int
    jobs: int
    qpu_seconds: float
    payload_bytes: int
    layout: tuple[int, ...]
    budget_seconds: float | None = None
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description."""
        return asdict(self) | {"layout": list(self.layout), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        """The estimate that `to_dict` described."""
        lists = {key: tuple(description[key]) for key in ("layout", "notes")}
        return cls(**{**description, **lists})
