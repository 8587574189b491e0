"""PreparedRun: everything that is sent to a backend or needed to read its answer, as plain data."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import compress, product
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from qmtl.errors import InvalidInputError
from qmtl.hardware._settings import Mitigation, Mode, Primitive

if TYPE_CHECKING:
    from qiskit import QuantumCircuit


T = TypeVar("T")
Execution = Literal["device", "whole circuit", "task by task"]
FORMAT = "qmtl-prepared-run"
VERSION = 1
# Fields of a prepared run that JSON can hold unchanged.
PLAIN = ("backend", "primitive", "mode", "options", "execution", "context", "request", "identity")
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Observable:
    """Outputs that are linear in the probabilities of the bit strings of some wires."""

    # Positions in the task's register; the first is the most significant bit.
    wires: tuple[int, ...]
    # For each output, a row over the 2^wires bit strings.
    rows: tuple[tuple[float, ...], ...]
    # Indices of these outputs among the task's.
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class TaskReading:
    """Says where a task is measured, and how to compute its outputs and logits."""

    task: str
    # Index of its circuit in the run.
    circuit: int
    # Name of its classical register; bit i is wire i of the task's register.
    register: str
    # The device's qubits that are measured into these bits.
    qubits: tuple[int, ...]
    observables: tuple[Observable, ...]
    n_outputs: int
    # Whether outputs are probabilities, or Z values.
    is_probability: bool
    # A logit is the scale times a Z value, or times the logarithm of a probability.
    scale: float


@dataclass(frozen=True)
class Decoding:
    """How raw results are turned into outputs."""

    # In the requested order.
    tasks: tuple[TaskReading, ...]
    # Number of parameter sets of each circuit.
    n_samples: int
    # For each circuit, the feature of each column of its parameter values.
    columns: tuple[tuple[int, ...], ...]
    mitigation: Mitigation = "none"
    # For mitigation by calibration: the probabilities that a qubit's 0 is read as 1, and 1 as 0.
    confusion: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    # For mitigation by circuits: indices of those that prepare all 0 and all 1.
    calibration_circuits: tuple[int, int] | None = None
    # For each circuit, the estimator's observables: Z on these qubits of the device.
    strings: tuple[tuple[tuple[int, ...], ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able description."""
        return asdict(self) | {"confusion": [[q, *p] for q, p in sorted(self.confusion.items())]}


@dataclass(frozen=True)
class Estimate:
    """The resources that a run needs on a backend.

    Attributes:
        wires: number of qubits in use.
        depth: layers of gates of the deepest transpiled circuit, without frame changes (``rz``).
        two_qubit_depth: layers of two-qubit gates, for the circuit with most of them.
        two_qubit_gates: number of two-qubit gates, for the circuit with most of them.
        swaps: number of swaps that routing added to the circuit with most of them; each costs up to
            three two-qubit gates.
        success: product of the fidelities of all gates and read-outs, for the circuit in which it
            is smallest; None without a calibration.
        task_success: the same product for each task, over the gates that its result depends on.
        circuits: number of distinct transpiled circuits, including those of read-out calibration.
        executions: circuits times parameter sets times shots, see `HardwareSettings.executions`.
        jobs: number of jobs.
        qpu_seconds: estimated time on the device.
        payload_bytes: estimated size of the largest job's input.
        layout: the device's qubit of each wire of the head circuit.
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
    """One circuit with some of its parameter sets (a PUB in Qiskit's terms)."""

    # Index into the run's circuits.
    circuit: int
    # Rows [start, stop) of the circuit's parameter values.
    samples: tuple[int, int]
    # Shots of each parameter set; the client requires the same in all PUBs of a chunk.
    shots: int

    @property
    def n_samples(self) -> int:
        return self.samples[1] - self.samples[0]


@dataclass(frozen=True)
class Chunk:
    """The content of one job."""

    # Index of the chunk in the run.
    index: int
    pubs: tuple[Pub, ...]
    # Parameter sets times shots, summed over all PUBs, with what mitigation adds.
    executions: int
    # SHA-256 of circuits, parameter values, shots, options and backend.
    hash: str


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """A run that is ready to be sent: everything needed to send it and to read its results.

    Attributes:
        backend: name of the backend for which it is transpiled.
        primitive: ``"sampler"`` or ``"estimator"``.
        mode: how its chunks are sent: ``"job"``, ``"batch"`` or ``"session"``.
        circuits: transpiled circuits, with symbolic features and bound weights; the sampler's have
            measurements.
        values: for each circuit, its parameter values in the order of ``circuit.parameters``,
            (n_samples, n_parameters).
        chunks: the content of each job.
        decoding: how raw results are turned into outputs.
        options: options of the primitive, as data that JSON can hold.
        estimate: the resources that the run needs.
        predicted: expected outputs of each task under the backend's calibration, (n_samples,
            n_outputs); empty if they were not requested or there is no calibration.
        exact: expected outputs without noise.
        execution: how the run is executed: ``"device"``; or simulated on this machine, as one
            ``"whole circuit"`` on the qubits in use, or ``"task by task"``, in which case shots of
            different tasks are not correlated.
        context: the caller's notes, as data that JSON can hold; not part of any hash.
        request: SHA-256 of the request; it does not depend on the calibration of the day.
        identity: the backend's name and calibration, see `Backend`; empty in older files.
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
    identity: str = ""
    device: Any = field(default=None, repr=False)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything that is sent, and of how results are decoded."""
        parts = [chunk.hash for chunk in self.chunks]
        return digest([FORMAT, VERSION, self.primitive, parts, self.decoding.to_dict()])

    def with_context(self, **notes: Any) -> "PreparedRun":
        """Return the same run with further notes in its context."""
        return replace(self, context={**self.context, **notes})

    def pubs(self, chunk: int) -> list[tuple[Any, ...]]:
        """Return a chunk's PUBs in the form that Qiskit's primitives take.

        For the sampler: (circuit, values, shots), without values for a circuit without parameters.
        For the estimator: (circuit, observables, values, precision), whose result has shape
        (samples, observables).
        """
        found: list[tuple[Any, ...]] = []
        for pub in self.chunks[chunk].pubs:
            circuit = self.circuits[pub.circuit]
            values = self.values[pub.circuit][slice(*pub.samples)]
            if self.primitive == "sampler":
                found.append((circuit, values if values.shape[1] else None, pub.shots))
                continue
            observables = _paulis(self.decoding.strings[pub.circuit], circuit.num_qubits)
            # The client takes ceil(1 / precision²) shots; rounding must not add one.
            precision = (pub.shots * (1 - 1e-9)) ** -0.5
            found.append((circuit, observables, values[:, None, :], precision))
        return found

    def to_bytes(self) -> bytes:
        """Return the run as one zip file of QPY, JSON and npz, which `from_bytes` reads."""
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
        """Return the run that `to_bytes` wrote; raise `InvalidInputError` for any other bytes."""
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
    """Make a dataclass from the lists and dictionaries of a JSON file."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind).validate_python(description)


def _paulis(strings: tuple[tuple[int, ...], ...], n_qubits: int) -> list[Any]:
    from qiskit.quantum_info import SparsePauliOp

    # A list, because numpy would turn an array of these into dense matrices.
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
    """Hash what a chunk sends: its PUBs, and other content that JSON can hold (SHA-256)."""

    def described(pub: Pub) -> list[Any]:
        rows = np.ascontiguousarray(values[pub.circuit][slice(*pub.samples)], "<f8")
        row_hash = hashlib.sha256(rows.tobytes()).hexdigest()
        return [fingerprints[pub.circuit], pub.shots, list(pub.samples), row_hash]

    return digest([FORMAT, VERSION, backend, [described(pub) for pub in pubs], content])


def digest(content: Any) -> str:
    """Hash data that JSON can hold (SHA-256)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def calibration_register(qubit: int) -> str:
    """Return the name of a qubit's classical register in the calibration circuits."""
    return f"q{qubit}"


def strings_of(qubits: Sequence[int]) -> list[tuple[int, ...]]:
    """Return all non-empty subsets of qubits in binary order, the first qubit most significant."""
    chosen = product((False, True), repeat=len(qubits))
    return [tuple(compress(qubits, own)) for own in chosen if any(own)]
