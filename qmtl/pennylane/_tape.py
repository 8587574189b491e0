"""A PennyLane tape as a head circuit, and its measurements from what the circuit's tasks read."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pennylane as qml
import torch
from pennylane.devices.preprocess import decompose
from pennylane.exceptions import DeviceError
from pennylane.measurements import MeasurementProcess, ProbabilityMP, VarianceMP
from pennylane.tape import QuantumScript
from torch import Tensor

from qmtl.circuit import (
    GATE_WIRES,
    MAX_READ_WIRES,
    Angle,
    Gate,
    HeadCircuit,
    PauliStrings,
    Probabilities,
    Readout,
    Register,
)
from qmtl.tasks import Task

__all__ = [
    "GATES", "Read", "Reads", "Result", "TapeCircuit", "TapeGates", "basis_gates",
    "decomposed", "precision", "result_of", "stacked",
]  # fmt: skip

# Gates without an effect on what is measured.
IDLE = frozenset({"Identity", "GlobalPhase", "Barrier", "WireCut", "Snapshot"})
GATES = frozenset(GATE_WIRES) | IDLE
# Gates that take a Pauli operator to Z.
TO_Z = {
    "X": (("Hadamard", None),),
    "Y": (("RZ", -np.pi / 2), ("Hadamard", None)),
    "Z": (),
}


def decomposition(op: Any) -> list[Any]:
    """PennyLane's decomposition of a gate, or that of its matrix.

    Raises:
        DeviceError: for a channel.
        _BatchOfMatricesError: for matrices that PennyLane decomposes one by one only.
    """
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
    pass


def _is_known(op: Any) -> bool:
    return op.name in GATES


@qml.transform
def decomposed(
    tape: QuantumScript, device_wires: Any = None, name: str = "device"
) -> tuple[Sequence[QuantumScript], Callable[..., Any]]:
    """A tape of gates that circuits know; several tapes for a batch where need be.

    Raises:
        DeviceError: for an operation without a decomposition.
    """
    options = {
        "stopping_condition": _is_known,
        "skip_initial_state_prep": False,
        "decomposer": decomposition,
        "target_gates": set(GATES),
        "device_wires": device_wires,
        "name": name,
    }
    found: tuple[Sequence[QuantumScript], Callable[..., Any]]
    try:
        found = decompose(tape, **options)
    except _BatchOfMatricesError:
        tapes, joined = qml.transforms.broadcast_expand(tape)
        found = [decompose(own, **options)[0][0] for own in tapes], joined
    return found


@dataclass(frozen=True)
class _Gates:
    """A tape's gates as the encoding of a head circuit."""

    given: tuple[Gate, ...]
    features: int
    weights: int

    def gates(self, n_wires: int) -> list[Gate]:
        return list(self.given)

    def n_features(self, n_wires: int) -> int:
        return self.features

    def n_weights(self, n_wires: int) -> int:
        return self.weights


@dataclass(frozen=True)
class _ToZ:
    """Gates that take an observable to the Z basis, as a task block.

    Attributes:
        given: gates on places of the register.
        offsets: wires of the register, counted from its first one. Blocks are equal only if these
            are, so that registers of gaps are not taken for moved ones.
    """

    given: tuple[Gate, ...]
    offsets: tuple[int, ...]

    def gates(self, n_wires: int, read: Sequence[int]) -> list[Gate]:
        return list(self.given)

    def n_weights(self, n_wires: int, read: Sequence[int]) -> int:
        return 0


@dataclass(frozen=True)
class Read:
    """What is read of some wires: the mean of a product of Paulis, or all probabilities.

    Attributes:
        wires: places of the device's wires.
        to_z: gates on places in `wires`, before wires are read in the Z basis.
        is_word: whether the mean of the product of all Zs is wanted, or the probabilities.
    """

    wires: tuple[int, ...]
    to_z: tuple[Gate, ...]
    is_word: bool

    @property
    def readout(self) -> Readout:
        n = len(self.wires)
        return PauliStrings(("Z" * n,)) if self.is_word else Probabilities(1 << n)


@dataclass(frozen=True)
class TapeGates:
    """A tape's gates, with its parameters.

    Attributes:
        gates: on places of wires; angles are features where parameters are broadcast, else weights.
        features: parameters with a batch.
        weights: the others.
    """

    gates: tuple[Gate, ...]
    features: list[Any]
    weights: list[Any]

    @classmethod
    def of(cls, tape: QuantumScript, place: Callable[[Any], int]) -> "TapeGates":
        """Those of a tape of known gates."""
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
    """A tape as a head circuit: what is measured are its tasks.

    Registers may overlap; each is measured in a circuit of its own then, if `apart`.
    """

    def __init__(
        self, n_wires: int, gates: Sequence[Gate], reads: Sequence[Read], *, apart: bool = False
    ) -> None:
        angles = [gate.angle for gate in gates if gate.angle is not None]
        n_features = sum(bool(angle.features) for angle in angles)
        self.encoding = _Gates(tuple(gates), n_features, len(angles) - n_features)
        wires = [wire for read in reads for wire in read.wires]
        self.layout = "shared" if apart and len(set(wires)) < len(wires) else "partitioned"
        self.n_wires, self.n_features = n_wires, n_features
        self.registers, self._ansatz = {}, {}
        for i, read in enumerate(reads):
            name, readout = f"m{i}", read.readout
            n = readout.n_outputs
            task = Task.binary(name) if n == 1 else Task.multiclass(name, n)
            self.registers[name] = Register(task, read.wires, readout)
            offsets = tuple((wire - read.wires[0]) % n_wires for wire in read.wires)
            self._ansatz[name] = _ToZ(read.to_z, offsets)
        self.tasks = tuple(register.task for register in self.registers.values())


@dataclass(frozen=True)
class Result:
    """How a measurement's value comes from what is read.

    Attributes:
        columns: which of all outputs the measurement needs.
        value: from these columns, shape (batch, columns), to the measurement's value.
    """

    columns: list[int]
    value: Callable[[Tensor], Tensor]


class Reads:
    """Collects what is read, each of it once, with its columns among the outputs."""

    def __init__(self, place: Callable[[Any], int]) -> None:
        self._place = place
        self._columns: dict[Read, int] = {}
        self._n = 0

    @property
    def all(self) -> tuple[Read, ...]:
        return tuple(self._columns)

    def word(self, word: "qml.pauli.PauliWord") -> int:
        """The column of a Pauli word's mean."""
        letters = sorted((self._place(wire), letter) for wire, letter in word.items())
        to_z = tuple(
            Gate(name, (i,), None if angle is None else Angle(constant=angle))
            for i, (_, letter) in enumerate(letters)
            for name, angle in TO_Z[letter]
        )
        return self._add(Read(tuple(wire for wire, _ in letters), to_z, True))

    def probabilities(self, wires: Sequence[Any], to_z: Sequence[Any] = ()) -> list[int]:
        """The columns of the probabilities of some wires, the first one the most significant."""
        if len(wires) > MAX_READ_WIRES:
            raise DeviceError(
                f"qmtl.lightcone reads at most {MAX_READ_WIRES} wires together, got {len(wires)}: "
                f"name the wires that you need"
            )
        local = {wire: i for i, wire in enumerate(wires)}
        gates = tuple(
            Gate(op.name, tuple(local[w] for w in op.wires), _constant(op)) for op in to_z
        )
        first = self._add(Read(tuple(map(self._place, wires)), gates, False))
        return list(range(first, first + (1 << len(wires))))

    def _add(self, read: Read) -> int:
        if read not in self._columns:
            self._columns[read] = self._n
            self._n += read.readout.n_outputs
        return self._columns[read]


def _constant(op: Any) -> Angle | None:
    return Angle(constant=float(op.data[0])) if op.num_params else None


def basis_gates(measurement: MeasurementProcess) -> list[Any]:
    """Gates that take a measurement to the Z basis, of those that circuits know."""
    gates = measurement.diagonalizing_gates()
    if all(op.name in GATES for op in gates):
        return [op for op in gates if op.name not in IDLE]
    (tape,), _ = decompose(
        QuantumScript(gates), _is_known, decomposer=decomposition, name="qmtl.lightcone"
    )
    return [op for op in tape.operations if op.name not in IDLE]


def result_of(measurement: MeasurementProcess, reads: Reads, tape: QuantumScript) -> Result:
    """How a measurement's exact value comes from what is read, which it adds to `reads`."""
    observable, is_variance = measurement.obs, isinstance(measurement, VarianceMP)
    if isinstance(measurement, ProbabilityMP):
        wires = measurement.wires or tape.wires
        return Result(reads.probabilities(wires, basis_gates(measurement)), lambda values: values)
    if observable is not None and not is_variance:
        return _mean(observable, reads)
    words = None if observable is None else _words(observable)
    if words is None:
        columns, levels = _levels(measurement, reads)
        if not is_variance:
            return Result(columns, lambda p: p @ levels.to(p))
        return Result(columns, lambda p: p @ levels.to(p) ** 2 - (p @ levels.to(p)) ** 2)
    return _joined(
        [_mean_of_words(words @ words, reads), _mean_of_words(words, reads)],
        lambda square, mean: square - mean**2,
    )


def _mean(observable: Any, reads: Reads) -> Result:
    """The mean of an observable: of its Pauli words, its terms, or its eigenvalues."""
    words = _words(observable)
    if words is not None:
        return _mean_of_words(words, reads)
    if isinstance(observable, qml.ops.Sum):
        factors, terms = observable.terms()
        return _joined(
            [_mean(term, reads) for term in terms],
            lambda *means: sum(f * mean for f, mean in zip(factors, means, strict=True)),
        )
    columns, levels = _levels(qml.expval(observable), reads)
    return Result(columns, lambda values: values @ levels.to(values))


def _levels(measurement: MeasurementProcess, reads: Reads) -> tuple[list[int], Tensor]:
    """Columns of the probabilities of what may be measured, and the values of each."""
    columns = reads.probabilities(measurement.wires, basis_gates(measurement))
    return columns, torch.as_tensor(np.real(qml.math.toarray(measurement.eigvals())))


def _joined(results: Sequence[Result], combine: Callable[..., Tensor]) -> Result:
    """A function of several results as one."""
    ends = np.cumsum([len(result.columns) for result in results])[:-1].tolist()

    def value(values: Tensor) -> Tensor:
        parts = values.tensor_split(ends, dim=1)
        return combine(*(r.value(part) for r, part in zip(results, parts, strict=True)))

    return Result([column for result in results for column in result.columns], value)


def _words(observable: Any) -> "qml.pauli.PauliSentence | None":
    """An observable as a sum of Pauli words, where that is how it is read."""
    if observable.pauli_rep is not None or observable.has_diagonalizing_gates:
        return observable.pauli_rep
    matrix = observable.matrix()
    return qml.pauli_decompose(matrix, wire_order=observable.wires, pauli=True)


def _mean_of_words(words: "qml.pauli.PauliSentence", reads: Reads) -> Result:
    """The mean of a sum of Pauli words."""
    factors, columns, constant = [], [], 0.0
    for word, factor in words.items():
        if len(word):
            columns.append(reads.word(word))
            factors.append(_real(factor, word))
        else:
            constant = constant + _real(factor, word)

    def value(values: Tensor) -> Tensor:
        if not factors:
            return values.new_zeros(len(values)) + constant
        return values @ stacked(factors, values.dtype) + constant

    return Result(columns, value)


def _real(factor: Any, word: Any) -> Any:
    """The factor of a Pauli word, which is real."""
    found = complex(qml.math.toarray(factor))
    if abs(found.imag) > 1e-9 * max(1.0, abs(found)):
        raise DeviceError(f"the observable is not Hermitian: the factor of {word} is {found}")
    if isinstance(factor, Tensor):
        return factor.real if factor.is_complex() else factor
    return found.real


def precision(parameters: Iterable[Any]) -> torch.dtype:
    """float32 if all parameters are torch's of that type, else float64."""
    kinds = {p.dtype if isinstance(p, Tensor) else torch.float64 for p in parameters}
    return torch.float32 if kinds == {torch.float32} else torch.float64


def stacked(numbers: Sequence[Any], dtype: torch.dtype, shape: tuple[int, ...] = ()) -> Tensor:
    """Numbers as rows of one tensor, shape (numbers, *shape)."""
    if not numbers:
        return torch.zeros(0, *shape, dtype=dtype)
    if not any(isinstance(number, Tensor) for number in numbers):
        rows = [np.broadcast_to(qml.math.toarray(number), shape) for number in numbers]
        return torch.as_tensor(np.stack(rows), dtype=dtype)
    kept = [torch.as_tensor(number, dtype=dtype).expand(shape) for number in numbers]
    return torch.stack(kept)
