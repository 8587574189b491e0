"""Chunks: a run's samples divided into jobs that stay under the service's limits."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qmtl.errors import InvalidInputError
from qmtl.hardware._prepared import Chunk, Pub, Values, chunk_hash, fingerprint
from qmtl.hardware._settings import HardwareSettings

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = ["make_chunks", "payload_bytes"]

# Numbers travel as compressed base64 text.
BYTES_PER_VALUE = 10


def make_chunks(
    backend: str,
    circuits: Sequence["QuantumCircuit"],
    values: Sequence[Values],
    calibration: tuple[int, int] | None,
    settings: HardwareSettings,
    content: Any,
) -> tuple[Chunk, ...]:
    """The chunks of a run: each carries all circuits for some of the samples.

    Args:
        backend: its name.
        circuits: transpiled.
        values: of each circuit's parameters.
        calibration: indices of the circuits of read-out calibration, which are in every chunk.
        settings: shots and limits.
        content: whatever else is sent, JSON-able; part of the chunks' hashes.

    Raises:
        InvalidInputError: if one sample alone is beyond the limits.
    """
    extra = () if calibration is None else calibration
    measured = [i for i in range(len(circuits)) if i not in extra]
    n_samples = len(values[measured[0]])
    step = min(_most_samples(circuits, values, measured, len(extra), settings), n_samples)
    if step < 1:
        raise InvalidInputError(
            f"one sample takes {len(circuits)} circuits of {settings.shots} shots, beyond "
            f"max_executions ({settings.max_executions}) or max_job_bytes "
            f"({settings.max_job_bytes}) of one job: use fewer shots or tasks"
        )
    prints = tuple(fingerprint(circuit) for circuit in circuits)
    chunks = []
    for index, first in enumerate(range(0, n_samples, step)):
        rows = (first, min(first + step, n_samples))
        pubs = tuple(
            Pub(i, (0, 1) if i in extra else rows, settings.shots) for i in range(len(circuits))
        )
        executions = sum((pub.samples[1] - pub.samples[0]) * pub.shots for pub in pubs)
        digest = chunk_hash(backend, pubs, prints, tuple(values), content)
        chunks.append(Chunk(index, pubs, executions, digest))
    return tuple(chunks)


def _most_samples(
    circuits: Sequence["QuantumCircuit"],
    values: Sequence[Values],
    measured: Sequence[int],
    extra: int,
    settings: HardwareSettings,
) -> int:
    by_executions = (settings.max_executions // settings.shots - extra) // len(measured)
    outcome = sum(-(-r.size // 8) for i in measured for r in circuits[i].cregs) * settings.shots
    sample = sum(BYTES_PER_VALUE * values[i].shape[1] for i in measured)
    room = settings.max_job_bytes - _circuit_bytes(circuits)
    return min(by_executions, int(room // max(1, outcome, sample)))


def payload_bytes(
    circuits: Sequence["QuantumCircuit"], values: Sequence[Values], chunks: Sequence[Chunk]
) -> int:
    """Estimated size of the largest job's input."""
    sizes = [
        sum(
            BYTES_PER_VALUE * (pub.samples[1] - pub.samples[0]) * values[pub.circuit].shape[1]
            for pub in chunk.pubs
        )
        for chunk in chunks
    ]
    return _circuit_bytes(circuits) + max(sizes, default=0)


def _circuit_bytes(circuits: Sequence["QuantumCircuit"]) -> int:
    from qiskit import qpy

    buffer = io.BytesIO()
    qpy.dump(list(circuits), buffer)
    return len(buffer.getvalue())
