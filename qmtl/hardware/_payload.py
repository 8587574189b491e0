"""The content of a run: a trained head's circuit, weights and angles, divided into chunks."""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from qmtl.circuit import HeadCircuit, Register
from qmtl.data import as_samples
from qmtl.errors import InvalidInputError
from qmtl.hardware._backends import Backend
from qmtl.hardware._local import twirled
from qmtl.hardware._prepared_run import (
    Chunk,
    Decoding,
    Observable,
    Pub,
    TaskReading,
    Values,
    calibration_register,
    check_rates,
    chunk_hash,
    strings_of,
)
from qmtl.hardware._qiskit import (
    QiskitHeadCircuit,
    fingerprint,
    measured_qubits,
    measured_tasks,
    to_qiskit,
)
from qmtl.hardware._settings import HardwareSettings
from qmtl.heads import QuantumHead

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

# Settings that do not change the measured values.
NOT_MEASURED = ("predict", "cache", "max_qpu_seconds", "max_shots")


@dataclass(frozen=True, eq=False)
class HeadRun:
    """A head circuit to measure, with its weights, angles and scales."""

    circuit: HeadCircuit
    # Key: "encoding" or a task's name; value: flat vector in gate order.
    weights: Mapping[str, Tensor]
    # Encoding angles in radians, (samples, n_features).
    angles: Tensor
    tasks: tuple[str, ...]
    # Each task's factor between outputs and logits.
    scales: Mapping[str, float]


def head_run(model: nn.Module, inputs: Any, tasks: str | Sequence[str] | None = None) -> HeadRun:
    """Return the circuit, weights, angles and scales of a model's head, for `prepare`."""
    head, features = _features(model, inputs)
    chosen = measured_tasks(head.circuit, tasks)
    with torch.no_grad():
        weights = {name: weights.detach() for name, weights in head.weights().items()}
        scales = dict(zip(head.circuit.registers, head.scales().tolist(), strict=True))
        return HeadRun(head.circuit, weights, head.angles(features), chosen, scales)


def _features(model: Any, inputs: Any) -> tuple[QuantumHead, Tensor]:
    head = getattr(model, "head", model)
    if not isinstance(head, QuantumHead):
        raise InvalidInputError(
            f"only quantum heads run on hardware, got a {type(head).__name__}; pass a QuantumHead, "
            f"or a model that has one{getattr(head, 'instead', '')}"
        )
    features = as_samples(inputs).to(head.encoding) if model is head else model.features(inputs)
    if features.ndim != 2 or features.shape[1] != head.n_features:
        raise InvalidInputError(
            f"features must have shape (samples, {head.n_features}), got {tuple(features.shape)}"
        )
    return head, features


def check_run(run: HeadRun, backend: Backend, settings: HardwareSettings) -> None:
    """Raise `InvalidInputError` for unusable angles or settings that the backend lacks."""
    if not len(run.angles):
        raise InvalidInputError("inputs must have at least one sample, got none")
    if not torch.isfinite(run.angles).all():
        raise InvalidInputError("inputs must be finite, some of their angles are not")
    most = backend.max_shots
    if most is not None and settings.shots > most:
        raise InvalidInputError(
            f"{backend.name} takes at most {most} shots per sample, got shots={settings.shots}"
        )
    if settings.layout is not None and backend.target is None:
        raise InvalidInputError(f"{backend.name} has no qubits to choose: give no layout")
    if settings.primitive == "estimator" and backend.is_local and settings.resilience > 1:
        raise InvalidInputError(
            f"resilience 2 (extrapolation to zero noise) needs a device, {backend.name} is "
            f"simulated: use resilience 0 or 1"
        )
    if settings.mode is not None and settings.mode != "job" and backend.is_local:
        raise InvalidInputError(f"{backend.name} is simulated here and has no {settings.mode}")


def head_circuits(run: HeadRun) -> list[QiskitHeadCircuit]:
    """Return one circuit for all tasks; in the shared layout, one circuit for each task."""
    if run.circuit.layout == "partitioned":
        return [to_qiskit(run.circuit, run.weights, run.tasks)]
    return [to_qiskit(run.circuit, run.weights, task) for task in run.tasks]


def read_wires(run: HeadRun, head: QiskitHeadCircuit) -> list[int]:
    """Return the wires whose read-out affects an output."""
    found = []
    for task in head.registers:
        wires, readout = run.circuit.register(task).wires, run.circuit.register(task).readout
        found += [wires[i] for i in readout.read_wires(len(wires))]
    return found


def request_hash(head: HeadRun, backend: str, settings: HardwareSettings) -> str:
    """Hash a request: circuit, weights, angles, tasks, backend and settings (SHA-256).

    The hash does not depend on a device's calibration (a prepared run's hash does), so the same
    call finds the same run on another day. `backend` is the name or `Backend.identity`.
    """
    circuit = head.circuit
    described = [
        backend,
        list(head.tasks),
        [head.scales[task] for task in head.tasks],
        {key: value for key, value in settings.to_dict().items() if key not in NOT_MEASURED},
        repr(circuit.encoding_gates),
        [repr((circuit.block_gates(task), circuit.register(task))) for task in head.tasks],
    ]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    arrays = [head.angles, head.weights["encoding"], *(head.weights[t] for t in head.tasks)]
    for tensor in arrays:
        digest.update(np.ascontiguousarray(tensor.detach().cpu().double().numpy()).tobytes())
    return digest.hexdigest()


# For probabilities of this many wires, the estimator needs 2^wires observables.
MOST_STRING_WIRES = 8
# Numbers are sent as compressed base64 text.
BYTES_PER_VALUE = 10

Circuits = tuple["QuantumCircuit", ...]


def make_payload(
    run: HeadRun,
    heads: Sequence[QiskitHeadCircuit],
    native: Sequence["QuantumCircuit"],
    backend: Backend,
    settings: HardwareSettings,
) -> tuple[Circuits, tuple[Values, ...], Decoding]:
    """Return the circuits to send, their parameter values, and how to decode their results.

    `native` are the transpiled circuits of `heads`.
    """
    tasks = _readings(run, heads, native)
    angles = run.angles.detach().cpu().double().numpy()
    columns = []
    for head, found in zip(heads, native, strict=True):
        # Transpilation may remove parameters that have no effect.
        feature = dict(zip(head.circuit.parameters, head.features, strict=True))
        columns.append(tuple(int(feature[p] or 0) for p in found.parameters))
    values = [np.ascontiguousarray(angles[:, own]) for own in columns]
    circuits, calibration = list(native), None
    if settings.mitigation == "circuits":
        calibration = (len(circuits), len(circuits) + 1)
        circuits += _calibration_circuits(tasks, circuits[0].num_qubits, backend)
        values += [np.empty((1, 0))] * 2
    strings: tuple[tuple[tuple[int, ...], ...], ...] = ()
    if settings.primitive == "estimator":
        strings = tuple(_strings(t for t in tasks if t.circuit == i) for i in range(len(circuits)))
        circuits = [circuit.remove_final_measurements(inplace=False) for circuit in circuits]
    decoding = Decoding(
        tasks=tasks,
        n_samples=len(angles),
        columns=tuple(columns),
        mitigation=settings.mitigation,
        confusion=_known_confusion(tasks, backend, settings),
        calibration_circuits=calibration,
        strings=strings,
    )
    return tuple(circuits), tuple(values), decoding


def _readings(
    run: HeadRun, heads: Sequence[QiskitHeadCircuit], native: Sequence["QuantumCircuit"]
) -> tuple[TaskReading, ...]:
    """Return the qubits of each task, and how to compute its outputs from the bits."""
    found = []
    for i, (head, circuit) in enumerate(zip(heads, native, strict=True)):
        qubits = measured_qubits(circuit)
        for task, name in head.registers.items():
            register = run.circuit.register(task)
            reading = TaskReading(
                task=task,
                circuit=i,
                register=name,
                qubits=qubits[name],
                observables=_observables(register),
                n_outputs=register.readout.n_outputs,
                is_probability=register.readout.is_probability,
                scale=run.scales[task],
            )
            found.append(reading)
    return tuple(found)


def _observables(register: Register) -> tuple[Observable, ...]:
    """Return a task's outputs as observables on as few wires as possible."""
    n = len(register.wires)
    strings = register.readout.z_strings(n)
    if strings is None:
        rows = tuple(tuple(map(float, row)) for row in register.readout.matrix(n))
        return (Observable(tuple(range(n)), rows, tuple(range(len(rows)))),)
    found = []
    for output, string in enumerate(strings):
        signs = tuple(1.0 - 2.0 * (state.bit_count() % 2) for state in range(1 << len(string)))
        found.append(Observable(tuple(string), (signs,), (output,)))
    return tuple(found)


def _strings(tasks: Iterable[TaskReading]) -> tuple[tuple[int, ...], ...]:
    """Return the Z-strings, as device qubits, that the estimator measures for one circuit."""
    found: dict[tuple[int, ...], None] = {}
    for task in tasks:
        for observable in task.observables:
            qubits = [task.qubits[wire] for wire in observable.wires]
            if not task.is_probability:
                found[tuple(qubits)] = None
                continue
            if len(qubits) > MOST_STRING_WIRES:
                raise InvalidInputError(
                    f"task {task.task!r}: the estimator would need all 2^{len(qubits)} Z strings "
                    f"of its wires: use the sampler"
                )
            found |= dict.fromkeys(strings_of(qubits))
    return tuple(found)


def _calibration_circuits(
    tasks: Sequence[TaskReading], n_qubits: int, backend: Backend
) -> list["QuantumCircuit"]:
    """Return the circuits that prepare 0 and 1 on all qubits, with one register per qubit."""
    from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister

    qubits = sorted({qubit for task in tasks for qubit in task.qubits})
    has_x = backend.target is None or "x" in backend.target.operation_names
    found = []
    for ones in (False, True):
        circuit = QuantumCircuit(QuantumRegister(n_qubits, "q"), name=f"readout_{int(ones)}")
        for qubit in qubits if ones else ():
            for flip in ("x",) if has_x else ("sx", "sx"):
                getattr(circuit, flip)(qubit)
        for qubit in qubits:
            bit = ClassicalRegister(1, calibration_register(qubit))
            circuit.add_register(bit)
            circuit.measure(qubit, bit[0])
        found.append(circuit)
    return found


def _known_confusion(
    tasks: Sequence[TaskReading], backend: Backend, settings: HardwareSettings
) -> dict[int, tuple[float, float]]:
    if settings.mitigation != "calibration":
        return {}
    noise = backend.noise
    if settings.twirl_readout and not backend.is_local:
        noise = twirled(noise)
    found = {}
    for qubit in sorted({qubit for task in tasks for qubit in task.qubits}):
        up, down = noise.readouts.get(qubit, noise.readout)
        check_rates(qubit, up, down, backend.name, "choose another layout")
        found[qubit] = (float(up), float(down))
    return found


def make_chunks(
    backend: str,
    circuits: Circuits,
    values: tuple[Values, ...],
    decoding: Decoding,
    settings: HardwareSettings,
    options: Any,
) -> tuple[tuple[Chunk, ...], int]:
    """Return the chunks of a run, and the estimated bytes of the largest job's input.

    Each chunk has all circuits, and as many samples as one job may have.
    """
    from qiskit import qpy

    # Every chunk contains the circuits of read-out calibration once.
    extra = decoding.calibration_circuits or ()
    measured = [i for i in range(len(circuits)) if i not in extra]
    buffer = io.BytesIO()
    qpy.dump(list(circuits), buffer)
    size = len(buffer.getvalue())
    sample = sum(BYTES_PER_VALUE * values[i].shape[1] for i in measured)
    outcome = sum(-(-r.size // 8) for i in measured for r in circuits[i].cregs) * settings.shots
    fixed = settings.executions(0)
    each = settings.executions(1) - fixed
    step = min(
        ((settings.max_executions - fixed) // each - len(extra)) // len(measured),
        (settings.max_job_bytes - size) // max(1, outcome, sample),
        decoding.n_samples,
    )
    if step < 1:
        raise InvalidInputError(
            f"one sample takes {len(circuits)} circuits of {settings.shots} shots, beyond "
            f"max_executions ({settings.max_executions}) or max_job_bytes "
            f"({settings.max_job_bytes}) of one job: use fewer shots or tasks"
        )
    prints = tuple(fingerprint(circuit) for circuit in circuits)
    content = [settings.primitive, options, decoding.to_dict()["strings"]]
    chunks = []
    for index, first in enumerate(range(0, decoding.n_samples, step)):
        rows = (first, min(first + step, decoding.n_samples))
        pubs = tuple(
            Pub(i, (0, 1) if i in extra else rows, settings.shots) for i in range(len(circuits))
        )
        executions = settings.executions(sum(pub.n_samples for pub in pubs))
        digest = chunk_hash(backend, pubs, prints, values, content)
        chunks.append(Chunk(index, pubs, executions, digest))
    return tuple(chunks), size + step * sample
