"""Decoding: all that is needed to turn a run's raw results into outputs, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

__all__ = ["Decoding", "Mitigation", "Observable", "TaskReading"]

# Read-out mitigation: none, by the backend's calibration, or by circuits in the same job.
Mitigation = Literal["none", "calibration", "circuits"]


@dataclass(frozen=True)
class Observable:
    """Outputs that are linear in the probabilities of the bit strings of some wires.

    Attributes:
        wires: positions in the task's register; the first is the most significant bit.
        rows: a row over the ``2^wires`` bit strings for each output.
        outputs: which of the task's outputs they are.
    """

    wires: tuple[int, ...]
    rows: tuple[tuple[float, ...], ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class TaskReading:
    """Where a task is measured, and how its outputs and logits follow.

    Attributes:
        task: its name.
        circuit: index of its circuit in the run.
        register: name of its classical register; bit i is wire i of the task's register.
        qubits: the device's qubits that are measured into these bits.
        observables: what its outputs are.
        n_outputs: how many there are.
        is_probability: whether outputs are probabilities, rather than Z values.
        scale: logits are it times a Z value, or times a probability's logarithm.
    """

    task: str
    circuit: int
    register: str
    qubits: tuple[int, ...]
    observables: tuple[Observable, ...]
    n_outputs: int
    is_probability: bool
    scale: float


@dataclass(frozen=True)
class Decoding:
    """How raw results become outputs.

    Attributes:
        tasks: in the order asked for.
        n_samples: parameter sets of each circuit.
        columns: for each circuit the feature of each column of its parameter values.
        mitigation: of read-out errors, on the sampler's path.
        confusion: probabilities that a device's qubit is read as 1 when 0, and as 0 when 1, for
            mitigation by calibration.
        calibration_circuits: indices of the circuits that prepare all 0 and all 1, for mitigation
            by circuits.
        strings: for each circuit the estimator's observables: Z on these device's qubits.
    """

    tasks: tuple[TaskReading, ...]
    n_samples: int
    columns: tuple[tuple[int, ...], ...]
    mitigation: Mitigation = "none"
    confusion: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    calibration_circuits: tuple[int, int] | None = None
    strings: tuple[tuple[tuple[int, ...], ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description."""
        return asdict(self) | {"confusion": [[q, *p] for q, p in sorted(self.confusion.items())]}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        """The decoding that `to_dict` described, before or after a passage through JSON."""
        tasks = tuple(_reading(reading) for reading in description["tasks"])
        pair = description["calibration_circuits"]
        return cls(
            tasks,
            description["n_samples"],
            tuple(map(tuple, description["columns"])),
            description["mitigation"],
            {int(q): (float(a), float(b)) for q, a, b in description["confusion"]},
            None if pair is None else (pair[0], pair[1]),
            tuple(tuple(map(tuple, strings)) for strings in description["strings"]),
        )


def _reading(description: Mapping[str, Any]) -> TaskReading:
    observables = tuple(
        Observable(tuple(o["wires"]), _rows(o["rows"]), tuple(o["outputs"]))
        for o in description["observables"]
    )
    lists = {"qubits": tuple(description["qubits"]), "observables": observables}
    return TaskReading(**{**description, **lists})


def _rows(rows: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, row)) for row in rows)
