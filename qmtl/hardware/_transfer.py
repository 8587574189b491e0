"""Transfer matrices of a circuit's instructions: gates and their noise in the Pauli basis.

A density matrix is written as the expectation values of the Pauli strings; a gate or a channel is a
real matrix over them (I, X, Y, Z on each wire, the first wire most significant).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qmtl.errors import InvalidInputError
from qmtl.noise import Channel, DeviceNoise

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = ["Operation", "operations"]

Matrices = NDArray[np.float64]
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "ps": 1e-12}


@dataclass(frozen=True, eq=False)
class Operation:
    """What happens to one or two wires.

    Attributes:
        wires: where, the first most significant in the matrices.
        matrices: (1, 4^wires, 4^wires), or one for each sample.
    """

    wires: tuple[int, ...]
    matrices: Matrices


def operations(
    circuit: "QuantumCircuit",
    values: NDArray[np.float64],
    noise: DeviceNoise,
    dt: float | None = None,
    qubits: Sequence[int] | None = None,
) -> list[Operation]:
    """A circuit's instructions as transfer matrices; measurements and barriers are left out.

    Args:
        circuit: in gates of one or two qubits; wires wait where it has delays, and nowhere else.
        values: of ``circuit.parameters``, (samples, parameters).
        noise: of the device.
        dt: seconds of a time step, for delays that are given in such steps.
        qubits: the device's qubits of the circuit's wires; None for wire i on qubit i.

    Raises:
        InvalidInputError: for an instruction that is no gate, or a gate with several angles.

    Example:
        >>> from qiskit import QuantumCircuit
        >>> circuit = QuantumCircuit(1)
        >>> _ = circuit.x(0)
        >>> [o] = operations(circuit, np.empty((1, 0)), DeviceNoise.uniform(one_qubit=0.0075))
        >>> np.round(np.diag(o.matrices[0]), 12).tolist()
        [1.0, 0.99, -0.99, -0.99]
    """
    found: list[Operation] = []
    cache: dict[str, Any] = {}
    for instruction in circuit.data:
        operation = instruction.operation
        wires = tuple(circuit.find_bit(qubit).index for qubit in instruction.qubits)
        on = wires if qubits is None else tuple(qubits[wire] for wire in wires)
        if operation.name in ("barrier", "measure"):
            continue
        if operation.name == "delay":
            channel = _waiting(operation, on[0], noise, dt)
            if channel is not None:
                found.append(Operation(wires, _channels([(channel, on)], on)))
            continue
        if len(wires) > 2 or len(operation.params) > 1 or not hasattr(operation, "to_matrix"):
            raise InvalidInputError(
                f"{operation.name} is not among the native gates known here: transpile the "
                f"circuit to the device's gates first"
            )
        matrices = _gate(operation, circuit, values, cache)
        after = noise.channels(operation.name, on)
        found.append(Operation(wires, _channels(after, on) @ matrices if after else matrices))
    return found


def _gate(
    operation: Any, circuit: "QuantumCircuit", values: NDArray[np.float64], cache: dict[str, Any]
) -> Matrices:
    if not operation.params:
        if operation.name not in cache:
            cache[operation.name] = _transfer(operation)
        found: Matrices = cache[operation.name][None]
        return found
    if operation.name not in cache:
        # A rotation's matrix is linear in the cosine and the sine of its angle.
        make = type(operation)
        at = [_transfer(make(angle)) for angle in (0.0, np.pi / 2, np.pi)]
        constant = (at[0] + at[2]) / 2
        cache[operation.name] = (constant, at[0] - constant, at[1] - constant)
    constant, cosine, sine = cache[operation.name]
    angles = _angles(operation.params[0], circuit, values)[:, None, None]
    turned: Matrices = constant + np.cos(angles) * cosine + np.sin(angles) * sine
    return turned


def _angles(angle: Any, circuit: "QuantumCircuit", values: NDArray[np.float64]) -> Matrices:
    used = getattr(angle, "parameters", ())
    if not used:
        return np.array([float(angle)])
    columns = [(p, i) for i, p in enumerate(circuit.parameters) if p in used]
    return np.array([float(angle.bind({p: row[i] for p, i in columns})) for row in values])


def _waiting(operation: Any, wire: int, noise: DeviceNoise, dt: float | None) -> Channel | None:
    if noise.timing is None or not operation.duration:
        return None
    unit = dt if operation.unit == "dt" else SECONDS[operation.unit]
    if unit is None:
        raise InvalidInputError("delays are in time steps, and the backend does not say how long")
    return noise.timing.waiting(wire, float(operation.duration) * unit)


def _channels(
    channels: Iterable[tuple[Channel, tuple[int, ...]]], wires: tuple[int, ...]
) -> Matrices:
    """Channels on some of the wires, one after the other, as one matrix."""
    found = np.eye(4 ** len(wires))
    for channel, on in channels:
        own = np.diag(channel.factors)
        if channel.n_wires == 1:
            own[3, 0] = channel.shift
        if len(on) < len(wires):
            own = np.kron(own, np.eye(4)) if on[0] == wires[0] else np.kron(np.eye(4), own)
        elif on != wires:
            own = own.reshape(4, 4, 4, 4).transpose(1, 0, 3, 2).reshape(16, 16)
        found = own @ found
    return found[None]


def _transfer(gate: Any) -> Matrices:
    """Qiskit's transfer matrix has the first qubit least significant."""
    from qiskit.quantum_info import PTM, Operator

    matrix = np.real(PTM(Operator(gate)).data)
    if len(matrix) == 4:
        return np.ascontiguousarray(matrix)
    pairs = matrix.reshape(4, 4, 4, 4).transpose(1, 0, 3, 2)
    return np.ascontiguousarray(pairs.reshape(16, 16))
