"""A PennyLane tape as a head circuit, whose tasks are the tape's measurements."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pennylane as qml
import torch
from pennylane.devices.preprocess import decompose
from pennylane.exceptions import DeviceError
from pennylane.tape import QuantumScript
from torch import Tensor

from qmtl.circuit import (
    GATE_WIRES,
    Angle,
    Gate,
    GateSequence,
    HeadCircuit,
    PauliStrings,
    Probabilities,
    Readout,
    Register,
)
from qmtl.tasks import Task

# Number of circuits to keep, because simulators keep plans by circuit.
CACHED_CIRCUITS = 32
# Operations that do not affect measurements.
IDLE = frozenset({"Identity", "GlobalPhase", "Barrier", "WireCut", "Snapshot"})
GATES = frozenset(GATE_WIRES) | IDLE


def _decomposition(op: Any) -> list[Any]:
    """Return PennyLane's decomposition of a gate, directly or by its matrix."""
    if isinstance(op, qml.operation.Channel):
        raise DeviceError(
            f"{op.name} is a channel: qml.device('qmtl.noisy', noise=qmtl.noise.DeviceNoise(...)) "
            f"has channels after gates, default.mixed has them anywhere"
        )
    if not op.has_decomposition and op.has_matrix:
        op = qml.QubitUnitary(op.matrix(), op.wires)
    if isinstance(op, qml.QubitUnitary) and op.batch_size is not None and len(op.wires) > 1:
        raise _BatchOfMatricesError
    found: list[Any] = op.decomposition()
    return found


class _BatchOfMatricesError(Exception):
    """PennyLane can only decompose the matrices one by one."""


@qml.transform
def decomposed(
    tape: QuantumScript, device_wires: Any = None, name: str = "device"
) -> tuple[Sequence[QuantumScript], Callable[..., Any]]:
    """Decompose a tape into `GATES`; a batch may need several tapes."""
    into_gates = partial(
        decompose,
        stopping_condition=lambda op: op.name in GATES,
        skip_initial_state_prep=False,
        decomposer=_decomposition,
        target_gates=set(GATES),
        device_wires=device_wires,
        name=name,
    )
    try:
        found: tuple[Sequence[QuantumScript], Callable[..., Any]] = into_gates(tape)
        return found
    except _BatchOfMatricesError:
        tapes, joined = qml.transforms.broadcast_expand(tape)
        return [into_gates(own)[0][0] for own in tapes], joined


@dataclass(frozen=True)
class _ToZ:
    """Gates that rotate an observable to the Z basis, as a task block."""

    given: tuple[Gate, ...]
    # The register's wires, counted from its first wire. They make blocks unequal if only their
    # registers' gaps differ: such blocks are not shifted copies.
    offsets: tuple[int, ...]

    def gates(self, n_wires: int, read: Sequence[int]) -> list[Gate]:
        return list(self.given)

    def n_weights(self, n_wires: int, read: Sequence[int]) -> int:
        return 0


@dataclass(frozen=True)
class Read:
    """A read-out of some wires: the mean of a product of Paulis, or all probabilities."""

    wires: tuple[int, ...]
    # Gates on positions within `wires`, applied before the wires are read in the Z basis.
    to_z: tuple[Gate, ...]
    # Whether to read the mean of the product of all Zs; otherwise read the probabilities.
    is_word: bool

    @property
    def readout(self) -> Readout:
        n = len(self.wires)
        return PauliStrings(("Z" * n,)) if self.is_word else Probabilities(1 << n)


@dataclass(frozen=True)
class TapeGates:
    """A tape's gates and parameters: features with a batch dimension, and weights without."""

    gates: tuple[Gate, ...]
    features: list[Any]
    weights: list[Any]

    @classmethod
    def of(cls, tape: QuantumScript, place: Callable[[Any], int]) -> "TapeGates":
        """Return the gates and parameters of a `decomposed` tape."""
        gates: list[Gate] = []
        features: list[Any] = []
        weights: list[Any] = []
        for op in tape.operations:
            if op.name in IDLE:
                continue
            angle = None
            if op.num_params and op.batch_size is None:
                angle = Angle(weight=len(weights), owner="encoding")
                weights.append(op.data[0])
            elif op.num_params:
                angle = Angle(features=(len(features),))
                features.append(op.data[0])
            gates.append(Gate(op.name, tuple(map(place, op.wires)), angle))
        return cls(tuple(gates), features, weights)


class TapeCircuit(HeadCircuit):
    """A tape as a head circuit, whose tasks are the measurements.

    Registers may overlap. With `apart`, a separate circuit then measures each register.
    """

    def __init__(
        self, n_wires: int, gates: Sequence[Gate], reads: Sequence[Read], apart: bool
    ) -> None:
        self.encoding = GateSequence.of(n_wires, gates)
        wires = [wire for read in reads for wire in read.wires]
        self.layout = "shared" if apart and len(set(wires)) < len(wires) else "partitioned"
        self.n_wires, self.n_features = n_wires, self.encoding.n_features(n_wires)
        self.encoding_gates = self._encoding_gates()
        self.registers, self._ansatz = {}, {}
        for i, read in enumerate(reads):
            name, readout = f"m{i}", read.readout
            n = readout.n_outputs
            task = Task.binary(name) if n == 1 else Task.multiclass(name, n)
            self.registers[name] = Register(task, read.wires, readout)
            offsets = tuple((wire - read.wires[0]) % n_wires for wire in read.wires)
            self._ansatz[name] = _ToZ(read.to_z, offsets)
        self.tasks = tuple(register.task for register in self.registers.values())


tape_circuit = lru_cache(CACHED_CIRCUITS)(TapeCircuit)


def _real(number: Any) -> Any:
    """Return a number as a real type; raise an error if it has an imaginary part."""
    found: Any = number if isinstance(number, Tensor) else np.asarray(number)
    is_array = isinstance(found, np.ndarray)
    if is_array and found.dtype.kind in "biuf":
        return found
    if (is_array and found.dtype.kind != "c") or (abs(found.imag) > 1e-9).any():
        raise DeviceError(f"parameters must be real numbers, got {number!r}")
    return found.real


def precision(parameters: Iterable[Any]) -> torch.dtype:
    """Return float32 if all parameters are float32 torch tensors, else float64."""
    kinds = {p.dtype if isinstance(p, Tensor) else torch.float64 for p in parameters}
    return torch.float32 if kinds == {torch.float32} else torch.float64


def stacked(numbers: Sequence[Any], dtype: torch.dtype, shape: tuple[int, ...] = ()) -> Tensor:
    """Stack real numbers as rows of one tensor, shape (numbers, *shape)."""
    if not numbers:
        return torch.zeros(0, *shape, dtype=dtype)
    if not any(isinstance(number, Tensor) for number in numbers):
        rows = [np.broadcast_to(_real(qml.math.toarray(number)), shape) for number in numbers]
        return torch.as_tensor(np.stack(rows), dtype=dtype)
    real = (n if isinstance(n, Tensor) and not n.is_complex() else _real(n) for n in numbers)
    kept = [torch.as_tensor(number, dtype=dtype).expand(shape) for number in real]
    return torch.stack(kept)
