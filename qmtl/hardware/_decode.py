"""decode: compute values, probabilities and logits with standard errors from raw results."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmtl.errors import InvalidInputError, check_type
from qmtl.hardware._prepared_run import (
    Chunk,
    Observable,
    PreparedRun,
    Pub,
    TaskReading,
    Values,
    calibration_register,
    check_rates,
    strings_of,
)
from qmtl.simulators import PROBABILITY_FLOOR


@dataclass(frozen=True)
class PubData:
    """The raw results of one PUB (a circuit with its parameter values, in Qiskit's terms)."""

    # For the sampler, each classical register's packed bits as in Qiskit's `BitArray`, uint8
    # (samples, shots, bytes), big-endian; for the estimator, "evs" and "stds", float64 (samples,
    # observables).
    arrays: dict[str, NDArray[Any]]
    # For the sampler, the size of each classical register.
    bits: dict[str, int] = field(default_factory=dict)


def raw_from_result(prepared: PreparedRun, chunk: int, result: Any) -> tuple[PubData, ...]:
    """Return the arrays of a `PrimitiveResult`; raise an error if they do not match the chunk."""
    pubs = prepared.chunks[chunk].pubs
    results = list(result)
    if len(results) != len(pubs):
        raise InvalidInputError(
            f"the result of chunk {chunk} must have {len(pubs)} PUBs, got {len(results)}"
        )
    read = _sampler_arrays if prepared.primitive == "sampler" else _estimator_arrays
    return tuple(read(prepared, pub, one.data) for pub, one in zip(pubs, results, strict=True))


def _sampler_arrays(prepared: PreparedRun, pub: Pub, data: Any) -> PubData:
    arrays, bits = {}, {}
    for register in prepared.circuits[pub.circuit].cregs:
        found = getattr(data, register.name, None)
        if found is None:
            raise InvalidInputError(f"the result lacks the register {register.name!r}")
        array = np.asarray(found.array, np.uint8)
        # A circuit without parameters has no axis for samples.
        array = array.reshape(-1, *array.shape[-2:])
        n_samples, shots = array.shape[:2]
        if n_samples != pub.n_samples or shots < pub.shots or found.num_bits != register.size:
            raise InvalidInputError(
                f"the result's register {register.name!r} must have {pub.n_samples} samples of "
                f"{pub.shots} shots of {register.size} bits, got {n_samples} of {shots} of "
                f"{found.num_bits}"
            )
        arrays[register.name], bits[register.name] = array, int(found.num_bits)
    return PubData(arrays, bits)


def _estimator_arrays(prepared: PreparedRun, pub: Pub, data: Any) -> PubData:
    shape = (pub.n_samples, len(prepared.decoding.strings[pub.circuit]))
    arrays = {}
    for name in ("evs", "stds"):
        array = np.asarray(getattr(data, name, ()), np.float64)
        if array.shape != shape:
            raise InvalidInputError(
                f"the result's {name} must have shape {shape}, got {array.shape}"
            )
        arrays[name] = array
    return PubData(arrays)


def raw_to_bytes(raw: Sequence[PubData]) -> bytes:
    """Pack one chunk's raw results into a compressed npz file."""
    arrays: dict[str, NDArray[Any]] = {}
    described = []
    for i, pub in enumerate(raw):
        # Names of registers may not be valid file names in the archive.
        keys = {name: f"{i}-{j}" for j, name in enumerate(pub.arrays)}
        arrays |= {keys[name]: array for name, array in pub.arrays.items()}
        described.append({"arrays": keys, "bits": pub.bits})
    arrays["description"] = np.frombuffer(json.dumps(described).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def raw_from_bytes(content: bytes) -> tuple[PubData, ...]:
    """Return the raw results from `raw_to_bytes`; raise `InvalidInputError` for other bytes."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            described = json.loads(file["description"].tobytes())
            return tuple(
                PubData({name: file[key] for name, key in pub["arrays"].items()}, pub["bits"])
                for pub in described
            )
    except Exception as error:
        raise InvalidInputError(
            f"raw results are damaged and cannot be read ({type(error).__name__})"
        ) from None


# For each qubit: frequency of 0 read as 1, of 1 read as 0, and the number of calibration shots.
Confusion = Mapping[int, tuple[float, float, int | None]]


@dataclass(frozen=True)
class Decoded:
    """Measured outputs of each task, (samples, n_outputs); NaN for samples not yet fetched.

    Attributes:
        values: Z values or probabilities. If the sampler's read-out errors were corrected, values
            may lie outside [-1, 1] or [0, 1] by some standard errors.
        errors: standard errors of the values. If all shots agree, the change that one different
            shot would make; NaN for a single shot.
        shared_errors: the part of `errors` that all samples of a job share, because they share the
            read-out calibration circuits.
        logits: the head's logits for these values.
        logit_errors: standard errors of the logits, to first order. For a probability measured as
            0, the change of its logarithm by one standard error.
        shots: number of shots of each sample.
    """

    values: dict[str, Values]
    errors: dict[str, Values]
    shared_errors: dict[str, Values]
    logits: dict[str, Values]
    logit_errors: dict[str, Values]
    shots: int


def decode(
    prepared: PreparedRun, raw: Sequence[Sequence[PubData]] | Mapping[int, Sequence[PubData]]
) -> Decoded:
    """Compute the outputs of a run from its raw results; a pure function.

    Every output is linear in the probabilities of the bit strings of some wires. The correction of
    read-out errors multiplies the output's row by the inverse of the wires' confusion matrices, so
    the output stays linear. Each output is then a mean over shots, and its standard error follows
    from the spread of the shots.

    Args:
        prepared: the run.
        raw: results of all chunks in order, or of some chunks by their index.

    Raises:
        InvalidInputError: if the raw results do not belong to this run.

    Example:
        >>> import torch
        >>> from qmtl import HeadCircuit, QuantumHead, Task
        >>> from qmtl.hardware import execute, prepare
        >>> head = QuantumHead(HeadCircuit([Task.multiclass("a", 3)]), seed=0)
        >>> run = prepare(head, torch.zeros(2, 2), "aer", shots=1000, seed=1)
        >>> decoded = decode(run, [execute(run, 0)])
        >>> bool((abs(decoded.values["a"] - run.exact["a"]) < 4 * decoded.errors["a"]).all())
        True
    """
    check_type("prepared", prepared, PreparedRun)
    given = dict(raw) if isinstance(raw, Mapping) else dict(enumerate(raw))
    for pubs in given.values():
        check_type("raw results of a chunk", pubs, Sequence, "; pass a list, [execute(run, 0)]")
    unknown = set(given) - set(range(len(prepared.chunks)))
    if unknown:
        raise InvalidInputError(
            f"the run has {len(prepared.chunks)} chunks, got results of {sorted(unknown)}"
        )
    n = prepared.decoding.n_samples
    tasks = prepared.decoding.tasks
    results = tuple({t.task: np.full((n, t.n_outputs), np.nan) for t in tasks} for _ in range(3))
    for index, pubs in given.items():
        _decode_chunk(prepared, prepared.chunks[index], pubs, results)
    values, errors, shared = results
    logits = {t.task: _logits(t, values[t.task], errors[t.task]) for t in tasks}
    return Decoded(
        values=values,
        errors=errors,
        shared_errors=shared,
        logits={task: own for task, (own, _) in logits.items()},
        logit_errors={task: own for task, (_, own) in logits.items()},
        shots=prepared.chunks[0].pubs[0].shots,
    )


def exact_logits(prepared: PreparedRun) -> dict[str, Values]:
    """Return the head's logits without noise; empty if they are unknown."""
    return {
        task.task: _logits(task, values, np.zeros_like(values))[0]
        for task in prepared.decoding.tasks
        if (values := prepared.exact.get(task.task)) is not None
    }


def _decode_chunk(
    prepared: PreparedRun,
    chunk: Chunk,
    pubs: Sequence[PubData],
    results: tuple[dict[str, Values], ...],
) -> None:
    """Write a chunk's values, errors and shared errors into `results`."""
    if len(pubs) != len(chunk.pubs):
        raise InvalidInputError(
            f"chunk {chunk.index} has {len(chunk.pubs)} PUBs, got results of {len(pubs)}"
        )
    data = {pub.circuit: found for pub, found in zip(chunk.pubs, pubs, strict=True)}
    rows = {pub.circuit: slice(*pub.samples) for pub in chunk.pubs}
    confusion = _confusion(prepared, data)
    for task in prepared.decoding.tasks:
        own, at = data[task.circuit], rows[task.circuit]
        if prepared.primitive == "sampler":
            found = _sampled(task, own, confusion)
        else:
            found = _estimated(task, own, prepared.decoding.strings[task.circuit])
        if len(found[0]) != at.stop - at.start:
            raise InvalidInputError(
                f"chunk {chunk.index} must have {at.stop - at.start} samples of task "
                f"{task.task!r}, got {len(found[0])}"
            )
        for result, own_found in zip(results, found, strict=True):
            result[task.task][at] = own_found


def _confusion(prepared: PreparedRun, data: Mapping[int, PubData]) -> Confusion:
    decoding = prepared.decoding
    if decoding.calibration_circuits is None:
        return {qubit: (*pair, None) for qubit, pair in decoding.confusion.items()}
    zeros, ones = data[decoding.calibration_circuits[0]], data[decoding.calibration_circuits[1]]
    found: dict[int, tuple[float, float, int | None]] = {}
    for qubit in {qubit for task in decoding.tasks for qubit in task.qubits}:
        name = calibration_register(qubit)
        up = float(zeros.arrays[name].mean())
        down = 1.0 - float(ones.arrays[name].mean())
        advice = "take more shots or another layout"
        check_rates(qubit, up, down, "the calibration circuits", advice)
        found[qubit] = (up, down, int(zeros.arrays[name].size))
    return found


# Values of a task's outputs, their errors, and the part of the errors that samples share.
Found = tuple[Values, Values, Values]


def _sampled(task: TaskReading, data: PubData, confusion: Confusion) -> Found:
    packed = data.arrays[task.register]
    results = tuple(np.empty((len(packed), task.n_outputs)) for _ in range(3))
    for observable in task.observables:
        shares = _shares(packed, observable.wires)
        found = _means_and_errors(task, observable, shares, packed.shape[1], confusion)
        for result, own in zip(results, found, strict=True):
            result[:, observable.outputs] = own
    values, errors, shared = results
    return values, errors, shared


def _shares(packed: NDArray[np.uint8], wires: Sequence[int]) -> Values:
    """Return the frequency of each bit string of some wires, first wire most significant."""
    n_samples, shots, n_bytes = packed.shape
    last = n_bytes - 1
    strings = np.zeros((n_samples, shots), np.int64)
    for wire in wires:
        strings = 2 * strings + (packed[..., last - wire // 8] >> wire % 8 & 1)
    size = 1 << len(wires)
    offsets = size * np.arange(n_samples)[:, None]
    counts = np.bincount((strings + offsets).ravel(), minlength=size * n_samples)
    found: Values = counts.reshape(n_samples, size) / shots
    return found


def _means_and_errors(
    task: TaskReading, observable: Observable, shares: Values, shots: int, confusion: Confusion
) -> Found:
    rows = np.array(observable.rows)
    known = [confusion.get(task.qubits[wire]) for wire in observable.wires]
    inverses: list[Values] = [np.eye(2) if c is None else _inverse(c[0], c[1]) for c in known]
    undone = _through(rows, inverses)
    means = shares @ undone.T
    spread = (shares[:, None] * (undone - means[..., None]) ** 2).sum(-1)
    variance = spread / (shots - 1) if shots > 1 else np.full_like(spread, np.nan)
    shared = np.zeros_like(variance)
    for i, c in enumerate(known):
        if c is None or c[2] is None:
            continue
        # The uncertainty of the confusion matrix, to first order.
        for share, change in ((c[0], [[-1, 0], [1, 0]]), (c[1], [[0, 1], [0, -1]])):
            turned = [*inverses]
            turned[i] = -inverses[i] @ np.array(change) @ inverses[i]
            slope = shares @ _through(rows, turned).T
            # The estimate of a rate must not be 0 just because no shot shows the error.
            likely = (share * c[2] + 1) / (c[2] + 2)
            shared += slope**2 * likely * (1 - likely) / c[2]
    # If all shots agree, use the change that one different shot would make.
    errors = np.maximum(np.sqrt(variance + shared), np.ptp(undone, axis=1) / shots)
    return means, errors, np.sqrt(shared)


def _inverse(up: float, down: float) -> Values:
    """Return the inverse of the confusion matrix with entries (read bit, true bit)."""
    return np.array([[1 - down, -down], [-up, 1 - up]]) / (1 - up - down)


def _through(rows: Values, matrices: Sequence[Values]) -> Values:
    """Multiply rows over bit strings by the tensor product of one matrix per bit."""
    state = rows.reshape(len(rows), *(2,) * len(matrices))
    for axis, matrix in enumerate(matrices, start=1):
        state = np.moveaxis(np.tensordot(state, matrix, axes=(axis, 0)), -1, axis)
    return state.reshape(len(rows), -1)


def _estimated(task: TaskReading, data: PubData, strings: Sequence[tuple[int, ...]]) -> Found:
    from scipy.linalg import hadamard

    column = {string: i for i, string in enumerate(strings)}
    means, stds = data.arrays["evs"], data.arrays["stds"]
    values = np.empty((len(means), task.n_outputs))
    errors = np.empty_like(values)
    for observable in task.observables:
        qubits = [task.qubits[wire] for wire in observable.wires]
        if not task.is_probability:
            at = column[tuple(qubits)]
            values[:, observable.outputs] = means[:, [at]]
            errors[:, observable.outputs] = stds[:, [at]]
            continue
        n_states = 1 << len(qubits)
        places = [column[string] for string in strings_of(qubits)]
        signs = hadamard(n_states)[:, 1:]  # of string m in state s
        likely = (1 + means[:, places] @ signs.T) / n_states
        likely = np.clip(likely, 0, None)
        likely /= likely.sum(axis=1, keepdims=True)
        rows = np.array(observable.rows)
        values[:, observable.outputs] = likely @ rows.T
        slopes = rows @ signs / n_states
        for i, own in enumerate(_covariances(means[:, places], stds[:, places])):
            variance = ((slopes @ own) * slopes).sum(axis=1)
            errors[i, observable.outputs] = np.sqrt(np.maximum(variance, 0))
    return values, errors, np.zeros_like(errors)


def _covariances(means: Values, stds: Values) -> Iterator[Values]:
    """Yield each sample's covariance matrix of all Z-strings, if measured in the same shots."""
    masks = np.arange(1, means.shape[1] + 1)
    # The product of two strings is a string, whose mean gives the correlation of the two.
    products = masks[:, None] ^ masks
    for row, errors in zip(means, stds, strict=True):
        spread = np.sqrt(np.clip(1 - row**2, 0, None))
        both = np.outer(spread, spread)
        covariance = np.append(1.0, row)[products] - np.outer(row, row)
        known = np.divide(covariance, both, out=np.eye(len(row)), where=both > 1e-9)
        correlation = np.clip(known, -1, 1)
        np.fill_diagonal(correlation, 1)
        yield correlation * np.outer(errors, errors)


def _logits(task: TaskReading, values: Values, errors: Values) -> tuple[Values, Values]:
    """Return logits and their standard errors, by the same formula as `QuantumHead`."""
    if not task.is_probability:
        return task.scale * values, abs(task.scale) * errors
    floored = np.clip(values, 0, None) + PROBABILITY_FLOOR
    relative = errors / floored
    # At a probability of 0, first order fails: use the logarithm's change by one standard error.
    relative = np.where(values > 0, relative, np.log1p(relative))
    return task.scale * np.log(floored), abs(task.scale) * relative
