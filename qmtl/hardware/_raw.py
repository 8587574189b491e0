"""Raw results of a job, as arrays that are stored once and decoded as often as wanted."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmtl.errors import InvalidInputError
from qmtl.hardware._prepared import PreparedRun

__all__ = ["PubData", "raw_from_bytes", "raw_from_result", "raw_to_bytes"]


@dataclass(frozen=True)
class PubData:
    """What one PUB gave.

    Attributes:
        arrays: sampler: for each classical register the packed bits as in Qiskit's `BitArray`,
            uint8 (samples, shots, bytes), big-endian; estimator: ``"evs"`` and ``"stds"``, float64
            (samples, observables).
        bits: sampler: size of each classical register; estimator: empty.
    """

    arrays: dict[str, NDArray[Any]]
    bits: dict[str, int] = field(default_factory=dict)


def raw_from_result(prepared: PreparedRun, chunk: int, result: Any) -> tuple[PubData, ...]:
    """The arrays of a primitive's result, checked against what was asked for.

    Args:
        prepared: the run.
        chunk: index of the chunk that the result is of.
        result: a `PrimitiveResult`, or any sequence of PUB results.

    Raises:
        InvalidInputError: if PUBs, registers, samples or shots are missing.
    """
    pubs = prepared.chunks[chunk].pubs
    results = list(result)
    if len(results) != len(pubs):
        raise InvalidInputError(
            f"the result of chunk {chunk} must have {len(pubs)} PUBs, got {len(results)}"
        )
    read = _sampled if prepared.primitive == "sampler" else _estimated
    found = []
    for pub, data in zip(pubs, results, strict=True):
        n_samples = pub.samples[1] - pub.samples[0]
        found.append(read(prepared, pub.circuit, n_samples, pub.shots, data.data))
    return tuple(found)


def _sampled(prepared: PreparedRun, circuit: int, n_samples: int, shots: int, data: Any) -> PubData:
    arrays, bits = {}, {}
    for register in prepared.circuits[circuit].cregs:
        found = getattr(data, register.name, None)
        if found is None:
            raise InvalidInputError(f"the result lacks the register {register.name!r}")
        array = np.asarray(found.array, np.uint8)
        # A circuit without parameters has no axis for samples.
        array = array.reshape(-1, *array.shape[-2:])
        if len(array) != n_samples or array.shape[1] < shots or found.num_bits != register.size:
            raise InvalidInputError(
                f"the result's register {register.name!r} must have {n_samples} samples of "
                f"{shots} shots of {register.size} bits, got {len(array)} of {array.shape[1]} of "
                f"{found.num_bits}"
            )
        arrays[register.name], bits[register.name] = array, int(found.num_bits)
    return PubData(arrays, bits)


def _estimated(
    prepared: PreparedRun, circuit: int, n_samples: int, shots: int, data: Any
) -> PubData:
    shape = (n_samples, len(prepared.decoding.strings[circuit]))
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
    """One chunk's raw results as a compressed npz file."""
    arrays: dict[str, NDArray[Any]] = {}
    described = []
    for i, pub in enumerate(raw):
        # Names of registers stay out of the names of files in the archive.
        keys = {name: f"{i}-{j}" for j, name in enumerate(pub.arrays)}
        arrays |= {keys[name]: array for name, array in pub.arrays.items()}
        described.append({"arrays": keys, "bits": pub.bits})
    arrays["description"] = np.frombuffer(json.dumps(described).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def raw_from_bytes(content: bytes) -> tuple[PubData, ...]:
    """The raw results that `raw_to_bytes` wrote.

    Raises:
        InvalidInputError: if the bytes are damaged.

    Example:
        >>> raw = (PubData({"a": np.zeros((1, 4, 1), np.uint8)}, {"a": 2}),)
        >>> raw_from_bytes(raw_to_bytes(raw))[0].bits
        {'a': 2}
    """
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
