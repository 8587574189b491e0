"""Parameter shift: gradients of head circuits from measurements at shifted angles.

Every rotation has an angle of its own, so that the rule holds whatever angles are made of: an
output's derivative is half the difference of the outputs at the angle plus and minus π/2
(arXiv:1811.11184). The chain rule down to features and weights is torch's.
"""

from collections.abc import Mapping, Sequence
from math import pi

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.circuit.gates import Gate
from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.hardware.qiskit import QiskitHeadCircuit, to_qiskit

__all__ = ["gate_angles", "rotations", "shift_circuit", "shifted"]


def rotations(circuit: HeadCircuit, tasks: Sequence[str]) -> tuple[int, ...]:
    """Which of the tasks' rotations, in the order of `gate_angles`, their outputs depend on.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> len(rotations(HeadCircuit([Task.binary("a")]), ["a"]))
        12
    """
    needed = {gate for task in tasks for gate in circuit.light_cone(task).gates}
    turning = [gate for gate in _gates(circuit, tasks) if gate.angle is not None]
    return tuple(i for i, gate in enumerate(turning) if gate in needed)


def _gates(circuit: HeadCircuit, tasks: Sequence[str]) -> list[Gate]:
    blocks = [gate for task in tasks for gate in circuit.block_gates(task)]
    return [*circuit.encoding_gates, *blocks]


def gate_angles(
    circuit: HeadCircuit, tasks: Sequence[str], angles: Tensor, weights: Mapping[str, Tensor]
) -> Tensor:
    """The angle of every rotation, (samples, rotations), differentiable in angles and weights."""
    columns = []
    for gate in _gates(circuit, tasks):
        if gate.angle is None:
            continue
        value = angles.new_full((len(angles),), gate.angle.constant)
        for feature in gate.angle.features:
            value = value * angles[:, feature]
        if gate.angle.weight is not None:
            value = value * weights[gate.angle.owner][gate.angle.weight]
        columns.append(value)
    return torch.stack(columns, dim=1)


def shift_circuit(circuit: HeadCircuit, tasks: Sequence[str]) -> QiskitHeadCircuit:
    """The circuit of some tasks in Qiskit, with a parameter ``g[i]`` for its i-th rotation."""
    from qiskit import QuantumCircuit
    from qiskit.circuit import ParameterVector

    own = to_qiskit(circuit, None, tasks)
    turning = [bool(instruction.operation.params) for instruction in own.circuit.data]
    vector = ParameterVector("g", sum(turning))
    found = QuantumCircuit(*own.circuit.qregs, *own.circuit.cregs, name=own.circuit.name)
    position = 0
    for instruction, turns in zip(own.circuit.data, turning, strict=True):
        operation = instruction.operation
        if turns:
            operation = type(operation)(vector[position])
            position += 1
        found.append(operation, instruction.qubits, instruction.clbits)
    index = {parameter: i for i, parameter in enumerate(vector)}
    features = tuple(index[parameter] for parameter in found.parameters)
    return QiskitHeadCircuit(found, features, len(vector), own.registers)


def shifted(angles: NDArray[np.float64], columns: Sequence[int]) -> NDArray[np.float64]:
    """Each sample with each of some columns shifted by π/2 and by -π/2.

    Returns:
        Shape (samples · columns · 2, rotations), the sign varying fastest.
    """
    steps = np.zeros((len(columns), 2, angles.shape[1]))
    steps[np.arange(len(columns)), 0, list(columns)] = pi / 2
    steps[np.arange(len(columns)), 1, list(columns)] = -pi / 2
    rows: NDArray[np.float64] = angles[:, None, None] + steps
    return rows.reshape(-1, angles.shape[1])
