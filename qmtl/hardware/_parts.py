"""Parts of a run: the circuits that are sent, their parameters, and how results are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qmtl.errors import InvalidInputError
from qmtl.hardware._backends import Backend
from qmtl.hardware._decoding import Decoding, TaskReading
from qmtl.hardware._head_run import HeadRun
from qmtl.hardware._prepared import Values
from qmtl.hardware._qiskit import QiskitHeadCircuit
from qmtl.hardware._reading import (
    calibration_circuits,
    measured_qubits,
    task_reading,
    z_strings,
)
from qmtl.hardware._settings import HardwareSettings
from qmtl.hardware._transpiled import Transpiled

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = ["Parts", "make_parts"]


@dataclass(frozen=True, eq=False)
class Parts:
    """What is sent and how it is read; see `PreparedRun` for the fields of the same names."""

    circuits: tuple["QuantumCircuit", ...]
    values: tuple[Values, ...]
    decoding: Decoding


def make_parts(
    run: HeadRun,
    heads: Sequence[QiskitHeadCircuit],
    native: Sequence[Transpiled],
    backend: Backend,
    settings: HardwareSettings,
) -> Parts:
    """The parts of a run of transpiled circuits."""
    tasks = _readings(run, heads, native)
    circuits, values, columns = _parameters(run, heads, native)
    calibration = None
    if settings.mitigation == "circuits":
        calibration = (len(circuits), len(circuits) + 1)
        circuits += _calibration(tasks, circuits[0].num_qubits, backend)
        values += [np.empty((1, 0))] * 2
    strings: tuple[tuple[tuple[int, ...], ...], ...] = ()
    if settings.primitive == "estimator":
        strings = tuple(z_strings(t for t in tasks if t.circuit == i) for i in range(len(circuits)))
        circuits = [circuit.remove_final_measurements(inplace=False) for circuit in circuits]
    decoding = Decoding(
        tasks=tasks,
        n_samples=len(run.angles),
        columns=columns,
        mitigation=settings.mitigation,
        confusion=_confusion(tasks, backend, settings),
        calibration_circuits=calibration,
        strings=strings,
    )
    return Parts(tuple(circuits), tuple(values), decoding)


def _readings(
    run: HeadRun, heads: Sequence[QiskitHeadCircuit], native: Sequence[Transpiled]
) -> tuple[TaskReading, ...]:
    found = []
    for i, (head, own) in enumerate(zip(heads, native, strict=True)):
        qubits = measured_qubits(own.circuit)
        for task, name in head.registers.items():
            register = run.circuit.register(task)
            found.append(task_reading(register, name, i, qubits[name], run.scales[task]))
    return tuple(found)


def _calibration(
    tasks: Sequence[TaskReading], n_qubits: int, backend: Backend
) -> tuple["QuantumCircuit", "QuantumCircuit"]:
    qubits = sorted({qubit for task in tasks for qubit in task.qubits})
    flip = "x" if backend.target is None or "x" in backend.target.operation_names else "sx"
    return calibration_circuits(n_qubits, qubits, flip)


def _parameters(
    run: HeadRun, heads: Sequence[QiskitHeadCircuit], native: Sequence[Transpiled]
) -> tuple[list["QuantumCircuit"], list[Values], tuple[tuple[int, ...], ...]]:
    """Circuits, their parameters' values, and the feature of each parameter.

    Transpilation may leave parameters out that change nothing.
    """
    angles = run.angles.detach().cpu().double().numpy()
    circuits, values, columns = [], [], []
    for head, found in zip(heads, native, strict=True):
        feature = dict(zip(head.circuit.parameters, head.features, strict=True))
        own = tuple(int(feature[p] or 0) for p in found.circuit.parameters)
        circuits.append(found.circuit)
        values.append(np.ascontiguousarray(angles[:, own]))
        columns.append(own)
    return circuits, values, tuple(columns)


def _confusion(
    tasks: Sequence[TaskReading], backend: Backend, settings: HardwareSettings
) -> dict[int, tuple[float, float]]:
    if settings.mitigation != "calibration":
        return {}
    noise = backend.noise
    found = {}
    for qubit in sorted({qubit for task in tasks for qubit in task.qubits}):
        up, down = noise.readouts.get(qubit, noise.readout)
        if settings.twirl_readout and not backend.is_local:
            up = down = (up + down) / 2  # twirled, either error is as likely
        if up + down >= 1:
            raise InvalidInputError(
                f"qubit {qubit} of {backend.name} is read wrongly as often as rightly: mitigation "
                f"cannot help; choose another layout"
            )
        found[qubit] = (float(up), float(down))
    return found
