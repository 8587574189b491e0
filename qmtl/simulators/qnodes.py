"""PennyLane QNodes of head circuits, for our simulator and for PennyLane's own tools."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qmtl.circuit.gates import Angle, Gate
from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.circuit.registers import Register
from qmtl.errors import InvalidInputError, unknown_name

__all__ = ["device_names", "task_qnode", "to_qnode", "z_string_mixing"]


def device_names() -> list[str]:
    """Names of the devices that PennyLane and its installed plugins offer.

    Example:
        >>> {"default.qubit", "lightning.qubit"} <= set(device_names())
        True
    """
    import pennylane as qml

    return sorted(qml.plugin_devices)


def to_qnode(
    circuit: HeadCircuit,
    tasks: Sequence[str],
    device: str = "default.qubit",
    *,
    diff_method: str = "best",
    **options: Any,
) -> Any:
    """A torch QNode of the circuit: ``qnode(angles, encoding_weights, *task_weights)``.

    It returns the expectation values of the Z-strings that the readouts of `tasks` are made of.
    `angles` may have a batch dimension; weights are flat vectors in gate order.

    Raises:
        InvalidInputError: for a device that PennyLane does not know.
    """
    import pennylane as qml

    target = _device(device, circuit, options)
    gates = [*circuit.encoding_gates, *(g for name in tasks for g in circuit.block_gates(name))]
    strings = [
        [register.wires[i] for i in string]
        for register in map(circuit.register, tasks)
        for string in z_string_mixing(register)[0]
    ]

    @qml.qnode(target, interface="torch", diff_method=diff_method)
    def qnode(angles: Tensor, encoding: Tensor, *own: Tensor) -> list[Any]:
        weights = {"encoding": encoding, **dict(zip(tasks, own, strict=True))}
        for gate in gates:
            _apply(gate, angles, weights)
        return [qml.expval(qml.prod(*map(qml.Z, wires))) for wires in strings]

    # Shift rules do not take batches; backprop and adjoint, which "best" picks without shots, do.
    if diff_method in ("best", "backprop", "adjoint") and not options.get("shots"):
        return qnode
    return qml.transforms.broadcast_expand(qnode)


def task_qnode(
    circuit: HeadCircuit,
    weights: Mapping[str, Tensor],
    device: Any = "default.qubit",
    tasks: Sequence[str] | None = None,
    *,
    diff_method: str = "best",
    **options: Any,
) -> Any:
    """A torch QNode for PennyLane's own tools: ``qnode(angles, weights)`` to each task's readout.

    Args:
        circuit: the head circuit.
        weights: the default of the QNode's second argument; flat vectors by task, and "encoding".
        device: a name, or a PennyLane device.
        tasks: the tasks to measure; None for all. The shared layout has one circuit per task.
        diff_method: PennyLane's differentiation method.
        options: keyword arguments for ``qml.device``, if `device` is a name.

    Returns:
        A QNode to a dict: task name to the probabilities of its register's basis states, or to a
        list of one expectation value per output. Angles (radians) may have a batch dimension.

    Raises:
        InvalidInputError: for a device that PennyLane does not know or that has too few wires, an
            option or method that it does not take, an unknown task, no task, or several tasks of
            the shared layout; of the QNode, for angles of another number.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> circuit = HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)])
        >>> weights = {name: torch.zeros(*size) for name, size in circuit.weight_sizes.items()}
        >>> measured = task_qnode(circuit, weights)(torch.zeros(circuit.n_features))
        >>> len(measured["a"]), measured["b"].shape
        (1, torch.Size([4]))
    """
    import pennylane as qml

    chosen = list(circuit.registers) if tasks is None else list(tasks)
    if isinstance(tasks, str) or not chosen:
        raise InvalidInputError(f"tasks must be a list of at least one name, got {tasks!r}")
    registers = {name: circuit.register(name) for name in chosen}
    if circuit.layout == "shared" and len(chosen) != 1:
        raise InvalidInputError(
            f"the shared layout has a circuit per task: give tasks a list with one of "
            f"{list(circuit.registers)}"
        )
    gates = [*circuit.encoding_gates, *(g for name in chosen for g in circuit.block_gates(name))]

    def measured(register: Register) -> Any:
        strings = register.readout.z_strings(len(register.wires))
        if strings is None:
            return qml.probs(wires=register.wires)
        return [qml.expval(qml.prod(*(qml.Z(register.wires[i]) for i in s))) for s in strings]

    def run(angles: Tensor, weights: Mapping[str, Tensor] = weights) -> dict[str, Any]:
        angles = torch.as_tensor(angles)
        if angles.shape[-1:] != (circuit.n_features,):
            raise InvalidInputError(
                f"angles: expected {circuit.n_features} per sample, got shape {tuple(angles.shape)}"
            )
        for gate in gates:
            _apply(gate, angles, weights)
        return {name: measured(register) for name, register in registers.items()}

    target = _device(device, circuit, options)
    try:
        qnode = qml.QNode(run, target, interface="torch", diff_method=diff_method)
    except qml.exceptions.QuantumFunctionError as error:
        raise InvalidInputError(f"diff_method {diff_method!r}: {error}") from None
    return qnode if _takes_batches(target, diff_method) else qml.transforms.broadcast_expand(qnode)


def _takes_batches(device: Any, diff_method: str) -> bool:
    """Whether PennyLane differentiates batches of angles so; shift rules do not."""
    import pennylane as qml

    if diff_method == "best":
        config = qml.devices.ExecutionConfig(gradient_method="backprop")
        return not device.shots and bool(device.supports_derivatives(config))
    return diff_method in ("backprop", "adjoint")


def _device(device: Any, circuit: HeadCircuit, options: Mapping[str, Any]) -> Any:
    import pennylane as qml

    if not isinstance(device, str):
        wires = getattr(device, "wires", None)
        if not isinstance(device, qml.devices.Device):
            raise InvalidInputError(f"device must be a name or a PennyLane device, got {device!r}")
        if wires is not None and not set(range(circuit.n_wires)) <= set(wires):
            raise InvalidInputError(
                f"the circuit runs on wires 0 to {circuit.n_wires - 1}, the device has {wires}"
            )
        return device
    if device not in device_names():
        raise unknown_name("PennyLane device", device, device_names())
    try:
        return qml.device(device, wires=circuit.n_wires, **options)
    except qml.exceptions.DeviceError as error:
        raise InvalidInputError(f"PennyLane has no device {device!r} ({error})") from None
    except TypeError as error:
        raise InvalidInputError(
            f"device {device!r} with options {dict(options)}: {error}"
        ) from None


def _apply(gate: Gate, angles: Tensor, weights: Mapping[str, Tensor]) -> None:
    import pennylane as qml

    operation = getattr(qml, gate.name)
    if gate.angle is None:
        operation(wires=gate.wires)
    else:
        operation(_angle(gate.angle, angles, weights), wires=gate.wires)


def _angle(angle: Angle, angles: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    value = angles.new_tensor(angle.constant)
    for feature in angle.features:
        value = value * angles[..., feature]
    return value if angle.weight is None else value * weights[angle.owner][angle.weight]


def z_string_mixing(register: Register) -> tuple[list[tuple[int, ...]], Tensor, Tensor]:
    """The Z-strings that a readout needs, and outputs as ``mixing @ values + constant``.

    A function f of the basis state is Σ_S f̂(S) ⟨Z_S⟩, with f̂ its Walsh-Hadamard transform.
    """
    n = len(register.wires)
    spectrum = torch.tensor(register.readout.matrix(n), dtype=torch.float64)
    for i in range(n):  # one wire at a time: n 2^n operations, not 4^n
        zero, one = spectrum.reshape(-1, 2**i, 2, 2 ** (n - 1 - i)).unbind(2)
        spectrum = torch.stack([zero + one, zero - one], 2).reshape(-1, 2**n) / 2
    used = [s for s in range(1, 2**n) if bool((spectrum[:, s].abs() > 1e-12).any())]
    strings = [tuple(i for i in range(n) if s >> (n - 1 - i) & 1) for s in used]
    return strings, spectrum[:, used], spectrum[:, 0]
