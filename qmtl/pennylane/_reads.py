"""Computes a tape's measurements from the values that are read on a circuit's wires."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pennylane as qml
import torch
from pennylane.exceptions import DeviceError
from pennylane.measurements import MeasurementProcess, ProbabilityMP, VarianceMP
from pennylane.tape import QuantumScript
from torch import Tensor

from qmtl.circuit import MAX_READ_WIRES, Angle, Gate
from qmtl.pennylane._tape import GATES, IDLE, Read, decomposed, stacked

__all__ = ["Reads", "Result", "basis_gates", "result_of"]

# Gates that rotate a Pauli operator to Z.
TO_Z = {
    "X": (("Hadamard", None),),
    "Y": (("RZ", -np.pi / 2), ("Hadamard", None)),
    "Z": (),
}


@dataclass(frozen=True)
class Result:
    """A measurement's value as a function of the outputs that are read.

    Attributes:
        columns: indices of the outputs that the measurement needs.
        value: function from these columns, shape (batch, columns), to the measurement's value.
    """

    columns: list[int]
    value: Callable[[Tensor], Tensor]


class Reads:
    """Collects what is to be read, without repetition, and its columns among the outputs."""

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
        """Columns of the probabilities of some wires, the first wire being the most significant."""
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
    """Gates that rotate a measurement to the Z basis, limited to gates that circuits know."""
    gates = measurement.diagonalizing_gates()
    if all(op.name in GATES for op in gates):
        return [op for op in gates if op.name not in IDLE]
    (tape,), _ = decomposed(QuantumScript(gates), name="qmtl.lightcone")
    return [op for op in tape.operations if op.name not in IDLE]


def result_of(measurement: MeasurementProcess, reads: Reads, tape: QuantumScript) -> Result:
    """How a measurement's exact value follows from the outputs; adds what it needs to `reads`."""
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
    """The mean of an observable, from its Pauli words, its terms, or its eigenvalues."""
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
    """Columns of the probabilities of the possible outcomes, and the value of each outcome."""
    columns = reads.probabilities(measurement.wires, basis_gates(measurement))
    return columns, torch.as_tensor(np.real(qml.math.toarray(measurement.eigvals())))


def _joined(results: Sequence[Result], combine: Callable[..., Tensor]) -> Result:
    """A function of several results, as one result."""
    ends = np.cumsum([len(result.columns) for result in results])[:-1].tolist()

    def value(values: Tensor) -> Tensor:
        parts = values.tensor_split(ends, dim=1)
        return combine(*(r.value(part) for r, part in zip(results, parts, strict=True)))

    return Result([column for result in results for column in result.columns], value)


def _words(observable: Any) -> "qml.pauli.PauliSentence | None":
    """An observable as a sum of Pauli words, if it is read that way."""
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
    """The factor of a Pauli word, checked to be real."""
    found = complex(qml.math.toarray(factor))
    if abs(found.imag) > 1e-9 * max(1.0, abs(found)):
        raise DeviceError(f"the observable is not Hermitian: the factor of {word} is {found}")
    if isinstance(factor, Tensor):
        return factor.real if factor.is_complex() else factor
    return found.real
