"""PreparedRun: plain data for sending a run to a backend and for decoding its results."""

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

from qmtl._html import counted, listed
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
    # For each output, the factors of the 2^wires probabilities.
    rows: tuple[tuple[float, ...], ...]
    # Indices of these outputs among the task's outputs.
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class TaskReading:
    """The qubits of a task, and how to compute its outputs and logits."""

    task: str
    # Index of its circuit in the run.
    circuit: int
    # Name of its classical register; bit i is wire i of the task's register.
    register: str
    # The device's qubits that are measured into these bits.
    qubits: tuple[int, ...]
    observables: tuple[Observable, ...]
    n_outputs: int
    # Whether outputs are probabilities; otherwise they are Z values.
    is_probability: bool
    # A logit is the scale times a Z value, or times the logarithm of a probability.
    scale: float


@dataclass(frozen=True)
class Decoding:
    """How to compute outputs from raw results."""

    # In the requested order.
    tasks: tuple[TaskReading, ...]
    # Number of parameter sets of each circuit.
    n_samples: int
    # For each circuit, the index of the feature in each column of its parameter values.
    columns: tuple[tuple[int, ...], ...]
    mitigation: Mitigation = "none"
    # For mitigation "calibration": the probabilities that a qubit's 0 is read as 1, and 1 as 0.
    confusion: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    # For mitigation "circuits": indices of the circuits that prepare all 0 and all 1.
    calibration_circuits: tuple[int, int] | None = None
    # For each circuit, the estimator's observables: Z on these qubits of the device.
    strings: tuple[tuple[tuple[int, ...], ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return this object as data that JSON can hold."""
        return asdict(self) | {"confusion": [[q, *p] for q, p in sorted(self.confusion.items())]}


@dataclass(frozen=True)
class Estimate:
    """The resources that a run needs on a backend.

    Attributes:
        wires: number of qubits in use.
        depth: largest number of gate layers in a transpiled circuit, not counting ``rz``.
        two_qubit_depth: largest number of layers of two-qubit gates in a circuit.
        two_qubit_gates: largest number of two-qubit gates in a circuit.
        swaps: largest number of swaps that routing added to a circuit; each costs up to three
            two-qubit gates.
        success: product of the fidelities of all gates and read-outs of a circuit, the smallest of
            all circuits; None without a calibration.
        task_success: the same product for each task, over the task's light cone.
        circuits: number of distinct transpiled circuits, including those of read-out calibration.
        executions: circuits times parameter sets times shots, see `HardwareSettings.executions`.
        jobs: number of jobs.
        qpu_seconds: estimated time on the device.
        payload_bytes: estimated size of the largest job's input.
        layout: the device's qubit of each wire of the head circuit.
        budget_seconds: largest time on the device that the caller allows; None for no limit.
        notes: warnings to read before sending the run, a sentence or two each.
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

    def __str__(self) -> str:
        known = self.success is not None
        lines = {
            "qubits": f"{self.wires}: {', '.join(map(str, self.layout))}",
            "depth": f"{self.depth}, of two-qubit gates {self.two_qubit_depth}",
            "two-qubit gates": f"{self.two_qubit_gates}, with {self.swaps} swaps added",
            "estimated success": f"{self.success:.3g} of a whole circuit" if known else "unknown",
            "circuits": f"{self.circuits}, in {counted(self.jobs, 'job')}",
            "executions": f"{self.executions:,}",
            "QPU time": f"about {self.qpu_seconds:.1f} s",
            "largest input": f"{self.payload_bytes / 1e6:.2f} MB",
        }
        return "\n".join(f"{name:<17}  {value}" for name, value in lines.items())


@dataclass(frozen=True)
class Pub:
    """One circuit with some of its parameter sets (a PUB in Qiskit's terms)."""

    # Index into the run's circuits.
    circuit: int
    # Rows [start, stop) of the circuit's parameter values.
    samples: tuple[int, int]
    # Shots of each parameter set; the client requires the same number in all PUBs of a chunk.
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
    # Parameter sets times shots, summed over all PUBs, with the executions that mitigation adds.
    executions: int
    # SHA-256 of circuits, parameter values, shots, options and backend.
    hash: str


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """A run that is ready to be sent: everything needed to send it and to decode its results.

    Attributes:
        backend: name of the backend for which the circuits are transpiled.
        primitive: ``"sampler"`` or ``"estimator"``.
        mode: how the chunks are sent: ``"job"``, ``"batch"`` or ``"session"``.
        circuits: transpiled circuits with symbolic features and bound weights, with measurements
            for the sampler.
        values: for each circuit, its parameter values in the order of ``circuit.parameters``,
            (n_samples, n_parameters).
        chunks: the content of each job.
        decoding: how to compute outputs from raw results.
        options: options of the primitive, as data that JSON can hold.
        estimate: the resources that the run needs.
        predicted: expected outputs of each task under the backend's calibration, (n_samples,
            n_outputs); empty if not requested or too large to compute.
        exact: expected outputs without noise.
        execution: ``"device"``, or how this machine simulates the run: ``"whole circuit"`` or
            ``"task by task"`` (shots of different tasks are then not correlated).
        context: the caller's notes, as data that JSON can hold; not part of any hash.
        request: SHA-256 of the request, which is the same for every calibration of a device.
        identity: `Backend.identity`; empty in older files.
        device: the open fake backend, or None; `to_bytes` leaves it out.
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

    def __repr__(self) -> str:
        tasks = listed(reading.task for reading in self.decoding.tasks)
        jobs, executions = self.estimate.jobs, self.estimate.executions
        return (
            f"PreparedRun({self.backend!r}, {counted(self.decoding.n_samples, 'sample')}, "
            f"tasks: {tasks}, {counted(jobs, 'job')}, {counted(executions, 'execution')})"
        )

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything that is sent, and of `decoding`."""
        parts = [chunk.hash for chunk in self.chunks]
        return digest([FORMAT, VERSION, self.primitive, parts, self.decoding.to_dict()])

    def with_context(self, **notes: Any) -> "PreparedRun":
        """Return a copy of the run with these notes added to its context."""
        return replace(self, context={**self.context, **notes})

    def pubs(self, chunk: int) -> list[tuple[Any, ...]]:
        """Return a chunk's PUBs as Qiskit's primitives take them.

        For the sampler: (circuit, values, shots); `values` is None without parameters.
        For the estimator: (circuit, observables, values, precision); the result has shape
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
            # The client takes ceil(1 / precision²) shots; rounding must not add a shot.
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
        """Return the run from the bytes of `to_bytes`; raise `InvalidInputError` for others."""
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
    """Return a dataclass, or a tuple of them, made from the content of a JSON file."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind).validate_python(description)


def _paulis(strings: tuple[tuple[int, ...], ...], n_qubits: int) -> list[Any]:
    from qiskit.quantum_info import SparsePauliOp

    # Not an array: numpy would turn these operators into dense matrices.
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
    """Return the SHA-256 of a chunk's PUBs and of other content that JSON can hold."""

    def described(pub: Pub) -> list[Any]:
        rows = np.ascontiguousarray(values[pub.circuit][slice(*pub.samples)], "<f8")
        row_hash = hashlib.sha256(rows.tobytes()).hexdigest()
        return [fingerprints[pub.circuit], pub.shots, list(pub.samples), row_hash]

    return digest([FORMAT, VERSION, backend, [described(pub) for pub in pubs], content])


def digest(content: Any) -> str:
    """Return the SHA-256 of data that JSON can hold."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def calibration_register(qubit: int) -> str:
    """Return the name of a qubit's classical register in the calibration circuits."""
    return f"q{qubit}"


def check_rates(qubit: int, up: float, down: float, whose: str, advice: str) -> None:
    """Raise if a qubit's read-out error rates are too large for mitigation to correct."""
    if up + down >= 1:
        raise InvalidInputError(
            f"qubit {qubit} of {whose} has read-out error rates that sum to 1 or more, which "
            f"mitigation cannot correct; {advice}"
        )


def strings_of(qubits: Sequence[int]) -> list[tuple[int, ...]]:
    """Return all non-empty subsets of qubits in binary order, the first qubit most significant."""
    chosen = product((False, True), repeat=len(qubits))
    return [tuple(compress(qubits, own)) for own in chosen if any(own)]
