"""Computation of a tape's measurements from exact outputs, or from samples of wires."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pennylane as qml
import torch
from numpy.typing import NDArray
from pennylane.exceptions import DeviceError
from pennylane.measurements import (
    CountsMP,
    ExpectationMP,
    MeasurementProcess,
    ProbabilityMP,
    SampleMP,
    VarianceMP,
)
from pennylane.tape import QuantumScript
from torch import Tensor

from qmtl.circuit import MAX_READ_WIRES, Angle, Gate
from qmtl.pennylane._tape import GATES, IDLE, Read, decomposed, stacked

# Gates that rotate a Pauli operator to Z.
TO_Z = {"X": (("Hadamard", None),), "Y": (("RZ", -np.pi / 2), ("Hadamard", None)), "Z": ()}


@dataclass(frozen=True)
class Result:
    """A measurement's value as a function of a circuit's outputs."""

    # Indices of the outputs that the measurement needs.
    columns: list[int]
    # Computes the measurement's value from these outputs, shape (batch, columns).
    value: Callable[[Tensor], Tensor]


class Reads:
    """Collects distinct `Read` objects and assigns columns of the outputs to them."""

    def __init__(self, place: Callable[[Any], int]) -> None:
        self._place = place
        self._columns: dict[Read, int] = {}
        self._n = 0

    @property
    def all(self) -> tuple[Read, ...]:
        return tuple(self._columns)

    def word(self, word: "qml.pauli.PauliWord") -> int:
        """Return the column of a Pauli word's mean."""
        letters = sorted((self._place(wire), letter) for wire, letter in word.items())
        to_z = tuple(
            Gate(name, (i,), None if angle is None else Angle(constant=angle))
            for i, (_, letter) in enumerate(letters)
            for name, angle in TO_Z[letter]
        )
        return self._add(Read(tuple(wire for wire, _ in letters), to_z, True))

    def probabilities(self, wires: Sequence[Any], to_z: Sequence[Any] = ()) -> list[int]:
        """Return the columns of some wires' probabilities, first wire most significant."""
        if len(wires) > MAX_READ_WIRES:
            raise DeviceError(
                f"qmtl's devices read at most {MAX_READ_WIRES} wires together, got {len(wires)}: "
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
    """Return gates, all in `GATES`, after which a Z measurement gives the measurement."""
    gates = measurement.diagonalizing_gates()
    if not all(op.name in GATES for op in gates):
        (tape,), _ = decomposed(QuantumScript(gates), name="qmtl's devices")
        gates = tape.operations
    return [op for op in gates if op.name not in IDLE]


def result_of(measurement: MeasurementProcess, reads: Reads, tape: QuantumScript) -> Result:
    """Return a measurement's exact value as a `Result`; add the needed outputs to `reads`."""
    if isinstance(measurement, ProbabilityMP):
        wires = measurement.wires or tape.wires
        return Result(reads.probabilities(wires, basis_gates(measurement)), lambda values: values)
    if not isinstance(measurement, VarianceMP):
        return _mean(measurement, reads)
    words = _words(measurement.obs)
    if words is None:
        columns, levels = _levels(measurement, reads)
        return Result(columns, lambda p: p @ levels.to(p) ** 2 - (p @ levels.to(p)) ** 2)
    return _joined(
        [_mean_of_words(words @ words, reads), _mean_of_words(words, reads)],
        lambda square, mean: square - mean**2,
    )


def _mean(measurement: ExpectationMP, reads: Reads) -> Result:
    """Return a mean by the observable's Pauli words, its terms, or its eigenvalues."""
    words = _words(measurement.obs)
    if words is not None:
        return _mean_of_words(words, reads)
    if isinstance(measurement.obs, qml.ops.Sum):
        factors, terms = measurement.obs.terms()
        return _joined(
            [_mean(qml.expval(term), reads) for term in terms],
            lambda *means: sum(f * mean for f, mean in zip(factors, means, strict=True)),
        )
    columns, levels = _levels(measurement, reads)
    return Result(columns, lambda p: p @ levels.to(p))


def _levels(measurement: MeasurementProcess, reads: Reads) -> tuple[list[int], Tensor]:
    """Return the columns of the possible outcomes' probabilities, and each outcome's value."""
    columns = reads.probabilities(measurement.wires, basis_gates(measurement))
    return columns, torch.as_tensor(np.real(qml.math.toarray(measurement.eigvals())))


def _joined(results: Sequence[Result], combine: Callable[..., Tensor]) -> Result:
    ends = np.cumsum([len(result.columns) for result in results])[:-1].tolist()

    def value(values: Tensor) -> Tensor:
        parts = values.tensor_split(ends, dim=1)
        return combine(*(r.value(part) for r, part in zip(results, parts, strict=True)))

    return Result([column for result in results for column in result.columns], value)


def _words(observable: Any) -> "qml.pauli.PauliSentence | None":
    """Return an observable as a sum of Pauli words; None if its eigenvalues are used instead."""
    if observable is None:  # the measurement has eigenvalues instead
        return None
    if observable.pauli_rep is not None or observable.has_diagonalizing_gates:
        return observable.pauli_rep
    matrix = observable.matrix()
    return qml.pauli_decompose(matrix, wire_order=observable.wires, pauli=True)


def _mean_of_words(words: "qml.pauli.PauliSentence", reads: Reads) -> Result:
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
    """Return the factor of a Pauli word; raise an error unless it is real."""
    found = complex(qml.math.toarray(factor))
    if abs(found.imag) > 1e-9 * max(1.0, abs(found)):
        raise DeviceError(f"the observable is not Hermitian: the factor of {word} is {found}")
    if isinstance(factor, Tensor):
        return factor.real if factor.is_complex() else factor
    return found.real


Support = Callable[[Iterable[Any]], frozenset[Any]]


@dataclass(frozen=True, eq=False)
class Draw:
    """A set of wires that are sampled together."""

    # For each wire (the first is the most significant bit), a description of the gates to Z.
    basis: dict[Any, Any]
    # All gates that rotate the wires to the Z basis.
    gates: list[Any]
    # The wires that the samples depend on.
    support: frozenset[Any] = frozenset()

    @property
    def wires(self) -> list[Any]:
        return list(self.basis)

    @classmethod
    def of(cls, measurement: MeasurementProcess, tape: QuantumScript) -> "Draw":
        wires, gates = list(measurement.wires or tape.wires), basis_gates(measurement)
        if any(len(op.wires) > 1 for op in gates):
            return cls(dict.fromkeys(wires, _described(gates)), gates)
        basis = {wire: _described(op for op in gates if wire in op.wires) for wire in wires}
        return cls(basis, gates)

    def agrees(self, other: "Draw") -> bool:
        """Return whether both draws can use the same samples."""
        shared = self.basis.keys() & other.basis.keys()
        return all(self.basis[wire] == other.basis[wire] for wire in shared)

    def joined(self, other: "Draw") -> "Draw":
        further = [op for op in other.gates if op.wires[0] not in self.basis]
        support = self.support | other.support
        return Draw(self.basis | other.basis, self.gates + further, support)


def _described(gates: Iterable[Any]) -> tuple[Any, ...]:
    return tuple((op.name, tuple(op.wires), tuple(map(float, op.data))) for op in gates)


class Sampling:
    """Samples the measurements of a tape.

    Samples and counts are drawn together if their light cones meet and their bases agree;
    otherwise they are independent. Means, variances and probabilities use these draws if possible,
    else further draws. The mean of a sum is the sum of its terms' means, each from all shots.
    """

    def __init__(self, tape: QuantumScript, support: Support) -> None:
        self.draws: list[Draw] = []
        self._tape = tape
        # The terms of each measurement: a factor, the measurement (None for 1), and its samples.
        self._terms: list[list[tuple[float, Any, Draw | None]]] = []
        for measurement in tape.measurements:
            if isinstance(measurement, SampleMP | CountsMP):
                draw = Draw.of(measurement, tape)
                self._add_raw(replace(draw, support=support(draw.wires)))
        for measurement in tape.measurements:
            terms: list[tuple[float, Any, Draw | None]] = []
            for factor, term in _terms(measurement):
                held = None if term is None else self._holding(Draw.of(term, tape))
                terms.append((factor, term, held))
            self._terms.append(terms)

    def _add_raw(self, draw: Draw) -> None:
        """Add a draw; join it with draws whose light cones meet it and whose bases agree."""
        for other in list(self.draws):
            if other.support & draw.support and other.agrees(draw):
                self.draws.remove(other)
                draw = other.joined(draw)
        if len(draw.wires) > MAX_READ_WIRES:
            raise DeviceError(
                f"qmtl's devices draw samples of at most {MAX_READ_WIRES} wires together, got "
                f"{len(draw.wires)} whose light cones meet: name the wires that you need"
            )
        self.draws.append(draw)

    def _holding(self, needed: Draw) -> Draw:
        """Return a draw that includes the needed one; add it if there is none."""
        for draw in self.draws:
            if needed.basis.keys() <= draw.basis.keys() and draw.agrees(needed):
                return draw
        self.draws.append(needed)
        return needed

    def results(
        self, likely: Sequence[NDArray[np.float64]], rng: np.random.Generator
    ) -> tuple[Any, ...]:
        """Return the measurements' values; with partitioned shots, a tuple for each part.

        `likely` are the probabilities for each of `draws`, shape (batch, 2^wires).
        """
        shots = self._tape.shots
        bits: dict[Draw, NDArray[np.int64]] = {}
        for draw, rows in zip(self.draws, likely, strict=True):
            found = [_bits(rng, row, shots.total_shots) for row in rows]
            bits[draw] = np.stack(found) if self._tape.batch_size is not None else found[0]

        def value(term: Any, draw: Draw | None, part: tuple[int, int]) -> Any:
            if draw is None:
                return 1.0
            wires = qml.wires.Wires(draw.wires)
            return term.process_samples(bits[draw], wires, shot_range=part)

        def total(terms: list[tuple[float, Any, Draw | None]], part: tuple[int, int]) -> Any:
            if len(terms) == 1 and terms[0][0] == 1 and terms[0][2] is not None:
                return value(*terms[0][1:], part)
            shape = () if self._tape.batch_size is None else (self._tape.batch_size,)
            return sum((f * value(term, draw, part) for f, term, draw in terms), np.zeros(shape))

        every = [tuple(total(terms, part) for terms in self._terms) for part in shots.bins()]
        if not shots.has_partitioned_shots:
            return every[0]
        return tuple(part if len(part) > 1 else part[0] for part in every)


def _terms(measurement: MeasurementProcess) -> list[tuple[float, MeasurementProcess | None]]:
    """Return a mean as terms with factors; None is the identity."""
    observable = measurement.obs
    if not isinstance(measurement, ExpectationMP) or observable is None:
        return [(1.0, measurement)]
    words = observable.pauli_rep
    if words is not None:
        return [
            (_real_part(factor), qml.expval(word.operation()) if len(word) else None)
            for word, factor in words.items()
        ]
    if isinstance(observable, qml.ops.Sum | qml.ops.SProd):
        return [
            (_real_part(factor) * inner, found)
            for factor, term in zip(*observable.terms(), strict=True)
            for inner, found in _terms(qml.expval(term))
        ]
    return [(1.0, measurement)]


def _real_part(number: Any) -> float:
    return float(np.real(qml.math.toarray(number)))


def _bits(rng: np.random.Generator, likely: NDArray[np.float64], shots: int) -> NDArray[np.int64]:
    """Sample the wires' bits from the probabilities of their states, shape (shots, wires)."""
    likely = np.clip(likely, 0, None)
    states = rng.choice(len(likely), shots, p=likely / likely.sum())
    n = len(likely).bit_length() - 1
    return states[:, None] >> np.arange(n - 1, -1, -1) & 1
