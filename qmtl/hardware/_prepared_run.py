"""PreparedRun: all that is sent to a backend and needed to read its answer, as plain data."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from qmtl.errors import InvalidInputError
from qmtl.hardware._settings import Mitigation, Mode, Primitive

if TYPE_CHECKING:
    from qiskit import QuantumCircuit


T = TypeVar("T")
Execution = Literal["device", "whole circuit on the cut", "task by task"]
FORMAT = "qmtl-prepared-run"
VERSION = 1
# Fields of a prepared run that JSON holds as they are.
PLAIN = ("backend", "primitive", "mode", "options", "execution", "context", "request")
Values = NDArray[np.float64]


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
        scale: a logit is the scale times a Z value, or times the logarithm of a probability.
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
        budget_seconds: most seconds on the device that the caller allows; None for no limit.
        notes: what the caller should know before the run is sent, a sentence or two each.
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


@dataclass(frozen=True)
class Pub:
    """One circuit with some of its parameter sets.

    Attributes:
        circuit: index into the run's circuits.
        samples: rows ``[start, stop)`` of the circuit's parameter values.
        shots: of each parameter set; the same in all PUBs of a chunk, as the client asks for.
    """

    circuit: int
    samples: tuple[int, int]
    shots: int


@dataclass(frozen=True)
class Chunk:
    """What one job carries.

    Attributes:
        index: its place in the run.
        pubs: its PUBs.
        executions: parameter sets times shots, over all PUBs.
        hash: SHA-256 of circuits, parameter values, shots, options and backend.
    """

    index: int
    pubs: tuple[Pub, ...]
    executions: int
    hash: str


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """A run that is ready to be sent: all that is needed to send it and to read its results.

    Attributes:
        backend: name of the backend it is transpiled for.
        primitive: ``"sampler"`` or ``"estimator"``.
        mode: how its chunks are sent: ``"job"``, ``"batch"`` or ``"session"``.
        circuits: transpiled circuits, features symbolic and weights bound; the sampler's with
            measurements.
        values: for each circuit its parameter values in the order of ``circuit.parameters``,
            (n_samples, n_parameters).
        chunks: one for each job.
        decoding: how raw results become outputs.
        options: the primitive's options (`SamplerOptions` or `EstimatorOptions`), JSON-able.
        estimate: what the run needs.
        predicted: the expected outputs of each task under the backend's calibration, (n_samples,
            n_outputs); empty if they were not asked for or there is no calibration.
        exact: the expected outputs without noise.
        execution: how it is executed: ``"device"``, ``"whole circuit on the cut"``, or ``"task by
            task"``, where shots of different tasks are not correlated.
        context: JSON-able notes of the caller; not part of any hash.
        request: SHA-256 of the request; it does not depend on the calibration of the day.
        device: the open backend, if it is simulated here; `to_bytes` leaves it out.
    """

    backend: str
    primitive: Primitive
    mode: Mode
    circuits: tuple["QuantumCircuit", ...]
    values: tuple[Values, ...]
    chunks: tuple[Chunk, ...]
    decoding: Decoding
    options: Mapping[str, Any]
    estimate: Estimate
    predicted: Mapping[str, Values] = field(default_factory=dict)
    exact: Mapping[str, Values] = field(default_factory=dict)
    execution: Execution = "device"
    context: Mapping[str, Any] = field(default_factory=dict)
    request: str = ""
    device: Any = field(default=None, repr=False)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all that is sent and of how it is decoded."""
        parts = [chunk.hash for chunk in self.chunks]
        return _digest([FORMAT, VERSION, self.primitive, parts, self.decoding.to_dict()])

    def with_context(self, **notes: Any) -> "PreparedRun":
        """The same run with further notes in its context."""
        return replace(self, context={**self.context, **notes})

    def pubs(self, chunk: int) -> list[tuple[Any, ...]]:
        """A chunk's PUBs as Qiskit's primitives take them.

        Sampler: (circuit, values, shots), without values for a circuit without parameters;
        estimator: (circuit, observables, values, precision), whose result has shape (samples,
        observables).
        """
        found: list[tuple[Any, ...]] = []
        for pub in self.chunks[chunk].pubs:
            circuit = self.circuits[pub.circuit]
            values = self.values[pub.circuit][pub.samples[0] : pub.samples[1]]
            if self.primitive == "sampler":
                found.append((circuit, values if values.shape[1] else None, pub.shots))
                continue
            observables = _paulis(self.decoding.strings[pub.circuit], circuit.num_qubits)
            found.append((circuit, observables, values[:, None, :], pub.shots**-0.5))
        return found

    def to_bytes(self) -> bytes:
        """The run as one zip file of QPY, JSON and npz; `from_bytes` reads it."""
        from qiskit import qpy

        plain = {name: getattr(self, name) for name in PLAIN}
        description = plain | {
            "format": FORMAT,
            "version": VERSION,
            "chunks": [asdict(chunk) for chunk in self.chunks],
            "decoding": self.decoding.to_dict(),
            "estimate": asdict(self.estimate),
            "predicted": list(self.predicted),
            "exact": list(self.exact),
        }
        circuits, arrays, content = io.BytesIO(), io.BytesIO(), io.BytesIO()
        qpy.dump(list(self.circuits), circuits)
        named = {f"values-{i}": array for i, array in enumerate(self.values)}
        for key, of_tasks in (("predicted", self.predicted), ("exact", self.exact)):
            named |= {f"{key}-{i}": array for i, array in enumerate(of_tasks.values())}
        np.savez_compressed(arrays, allow_pickle=False, **named)
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("run.json", json.dumps(description))
            archive.writestr("circuits.qpy", circuits.getvalue())
            archive.writestr("arrays.npz", arrays.getvalue())
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """The run that `to_bytes` wrote.

        Raises:
            InvalidInputError: if the bytes are damaged, or of a version that cannot be read.
        """
        from qiskit import qpy

        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                read = json.loads(archive.read("run.json"))
                if (read["format"], read["version"]) != (FORMAT, VERSION):
                    raise InvalidInputError(f"format {read['format']} {read['version']}")
                circuits = tuple(qpy.load(io.BytesIO(archive.read("circuits.qpy"))))
                with np.load(io.BytesIO(archive.read("arrays.npz")), allow_pickle=False) as file:
                    arrays = {key: file[key] for key in file.files}
            decoding = dict(read["decoding"])
            decoding["confusion"] = {q: pair for q, *pair in decoding["confusion"]}
            return cls(
                circuits=circuits,
                values=tuple(arrays[f"values-{i}"] for i in range(len(circuits))),
                chunks=_read(tuple[Chunk, ...], read["chunks"]),
                decoding=_read(Decoding, decoding),
                estimate=_read(Estimate, read["estimate"]),
                predicted={t: arrays[f"predicted-{i}"] for i, t in enumerate(read["predicted"])},
                exact={t: arrays[f"exact-{i}"] for i, t in enumerate(read["exact"])},
                **{name: read[name] for name in PLAIN if name in read},
            )
        except Exception as error:
            raise InvalidInputError(f"a prepared run cannot be read: {error!r}") from None


def _read(kind: type[T], description: Any) -> T:
    """A data class from the lists and dictionaries of JSON."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind).validate_python(description)


def _paulis(strings: tuple[tuple[int, ...], ...], n_qubits: int) -> list[Any]:
    from qiskit.quantum_info import SparsePauliOp

    # A list, since numpy would make dense matrices of an array of these.
    return [
        SparsePauliOp.from_sparse_list([("Z" * len(qubits), list(qubits), 1.0)], n_qubits)
        for qubits in strings
    ]


def chunk_hash(
    backend: str,
    pubs: tuple[Pub, ...],
    fingerprints: tuple[str, ...],
    values: tuple[Values, ...],
    content: Any,
) -> str:
    """SHA-256 of what a chunk sends.

    Args:
        backend: name of the backend.
        pubs: the chunk's.
        fingerprints: of the run's circuits.
        values: of the run's circuits.
        content: whatever else is sent (options, observables), JSON-able.
    """
    parts = [
        [
            fingerprints[pub.circuit],
            pub.shots,
            list(pub.samples),
            hashlib.sha256(
                np.ascontiguousarray(
                    values[pub.circuit][pub.samples[0] : pub.samples[1]], "<f8"
                ).tobytes()
            ).hexdigest(),
        ]
        for pub in pubs
    ]
    return _digest([FORMAT, VERSION, backend, parts, content])


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def calibration_register(qubit: int) -> str:
    """Name of the classical register of a qubit in `calibration_circuits`.

    Example:
        >>> calibration_register(7)
        'q7'
    """
    return f"q{qubit}"


def strings_of(qubits: Sequence[int]) -> list[tuple[int, ...]]:
    """Every non-empty subset of qubits; number m, from 1, has those where m has a bit.

    The first qubit is the most significant bit.

    Example:
        >>> strings_of([7, 3])
        [(3,), (7,), (7, 3)]
    """
    n = len(qubits)
    return [
        tuple(qubit for i, qubit in enumerate(qubits) if mask >> (n - 1 - i) & 1)
        for mask in range(1, 1 << n)
    ]
