"""PennyLane's devices as simulators, and QNodes of head circuits for PennyLane's tools."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pennylane as qml
import torch
from torch import Tensor

from qmtl._html import bytes_text
from qmtl.circuit import HeadCircuit, Register, task_strings
from qmtl.errors import CircuitTooLargeError, InvalidInputError, unknown_name
from qmtl.simulators import Simulator, check_angles, check_weights, memory_limit, weights_by_name

# Devices that store the state of all wires: 2 ** (bits * wires) amplitudes, with these bits.
STATE_WIRES = {"default.qubit": 1, "lightning.qubit": 1, "default.mixed": 2}
BYTES_PER_AMPLITUDE = 8  # in single precision; double precision takes twice as many


class PennyLaneSimulator(Simulator):
    """Evaluates head circuits gate by gate on a PennyLane device, as torch QNodes.

    The device simulates all wires together. All outputs are linear in expectation values of
    Z-strings, which all PennyLane devices and differentiation methods support.

    Args:
        device: a device name, such as ``"default.qubit"`` or ``"lightning.qubit"``.
        diff_method: PennyLane's differentiation method.
        options: keyword arguments for ``qml.device``, and ``shots`` per circuit. Each sample takes
            one circuit, or one circuit per task in the shared layout. Gradients with shots take two
            more circuits for each angle.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> circuit = HeadCircuit([Task.binary("a")])
        >>> weights = torch.zeros(circuit.n_circuit_weights)
        >>> PennyLaneSimulator().values(circuit, torch.zeros(2, 2), weights).shape
        torch.Size([2, 1])
    """

    def __init__(
        self, device: str = "default.qubit", *, diff_method: str = "best", **options: Any
    ) -> None:
        self.device = device
        self.diff_method = diff_method
        self.options = options

    def values(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Tensor,
        tasks: Sequence[str] | None = None,
    ) -> Tensor:
        chosen = check_angles(circuit, angles, tasks)
        check_weights(circuit, weights, angles)
        wires, limit = circuit.n_wires, memory_limit(torch.device("cpu"), None)
        needed = BYTES_PER_AMPLITUDE << STATE_WIRES.get(self.device, 0) * wires
        if needed > limit:
            raise CircuitTooLargeError(
                f"{self.device!r} simulates all {wires} wires at once, which takes "
                f"{bytes_text(needed)}, more than the {bytes_text(limit)} that a step may take; "
                f"'lightcone' simulates each task on its own few wires"
            )
        together = [chosen] if circuit.layout == "partitioned" else [(name,) for name in chosen]
        found = [self._run(circuit, angles, weights, names) for names in together]
        return torch.cat([angles.new_zeros(len(angles), 0), *found], dim=1)

    @staticmethod
    def names() -> list[str]:
        """Return the names of the devices that PennyLane and its installed plugins offer.

        Example:
            >>> {"default.qubit", "lightning.qubit"} <= set(PennyLaneSimulator.names())
            True
        """
        return sorted(qml.plugin_devices)

    def to_dict(self) -> dict[str, Any]:
        settings = {"diff_method": self.diff_method, "options": self.options}
        return {"type": "pennylane", "device": self.device, **settings}

    def _run(
        self, circuit: HeadCircuit, angles: Tensor, weights: Tensor, tasks: tuple[str, ...]
    ) -> Tensor:
        read = [task_strings(circuit, name) for name in tasks]
        wires = [
            [wire for i, wire in enumerate(circuit.register(name).wires) if mask >> i & 1]
            for name, (masks, _) in zip(tasks, read, strict=True)
            for mask in masks
        ]
        # PennyLane cannot measure a string without a Z, whose value is 1, or an empty batch.
        measured = [own for own in wires if own and len(angles)]

        def run(angles: Tensor, weights: Tensor) -> list[Any]:
            _apply_all(circuit, tasks, angles, weights_by_name(circuit, weights))
            return [_expectation(own) for own in measured]

        # All measurements are expectation values, which "best" may differentiate by adjoints.
        methods = ("backprop", "adjoint")
        node = _node(run, self.device, circuit, self.diff_method, self.options, methods)
        # PennyLane converts lightning's results (NumPy scalars) to tensors of the default type.
        # With float32, values and gradients would lose half of their digits.
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            found = iter(node(angles, weights) if measured else ())
        finally:
            torch.set_default_dtype(before)
        # A result that depends on no feature may have no batch dimension.
        one = angles.new_ones(len(angles))
        rows = [next(found).to(one).expand(len(one)) if own and len(one) else one for own in wires]
        values = [angles.new_zeros(0, len(angles))]
        for masks, mixing in read:
            own, rows = rows[: len(masks)], rows[len(masks) :]
            strings = torch.stack(own) if own else values[0]
            values.append(strings if mixing is None else angles.new_tensor(mixing) @ strings)
        return torch.cat(values).T

    def __repr__(self) -> str:
        return f"PennyLaneSimulator({self.device!r}, diff_method={self.diff_method!r})"


def task_qnode(
    circuit: HeadCircuit,
    weights: Mapping[str, Tensor],
    device: Any = "default.qubit",
    tasks: Sequence[str] | None = None,
    *,
    diff_method: str = "best",
    **options: Any,
) -> Any:
    """Return a torch QNode ``qnode(angles, weights)`` that measures each task.

    Args:
        circuit: the head circuit.
        weights: default of the QNode's second argument: a flat vector for ``"encoding"`` and each
            task's name.
        device: a PennyLane device, or its name.
        tasks: the tasks to measure; None for all. The shared layout has one circuit per task.
        diff_method: PennyLane's differentiation method.
        options: keyword arguments for ``qml.device``, if `device` is a name.

    Returns:
        A QNode that returns, by task name, the probabilities of the register's basis states, or a
        list of one expectation value per output. Angles (radians) may have a batch dimension.

    Raises:
        InvalidInputError: for a device, option, method or task that does not fit.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> circuit = HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)])
        >>> weights = {name: torch.zeros(*size) for name, size in circuit.weight_sizes.items()}
        >>> measured = task_qnode(circuit, weights)(torch.zeros(circuit.n_features))
        >>> len(measured["a"]), measured["b"].shape
        (1, torch.Size([4]))
    """
    chosen = list(circuit.registers) if tasks is None else list(tasks)
    if isinstance(tasks, str) or not chosen:
        raise InvalidInputError(f"tasks must be a list of at least one name, got {tasks!r}")
    registers = {name: circuit.register(name) for name in chosen}
    if circuit.layout == "shared" and len(chosen) != 1:
        raise InvalidInputError(
            f"the shared layout has a circuit per task: give tasks a list with one of "
            f"{list(circuit.registers)}"
        )

    def measured(register: Register) -> Any:
        strings = register.readout.z_strings(len(register.wires))
        if strings is None:
            return qml.probs(wires=register.wires)
        return [_expectation([register.wires[i] for i in string]) for string in strings]

    def run(angles: Tensor, weights: Mapping[str, Tensor] = weights) -> dict[str, Any]:
        angles = torch.as_tensor(angles)
        if angles.shape[-1:] != (circuit.n_features,):
            raise InvalidInputError(
                f"angles: expected {circuit.n_features} per sample, got shape {tuple(angles.shape)}"
            )
        missing = {"encoding", *chosen}.difference(weights if isinstance(weights, Mapping) else ())
        if missing:
            raise InvalidInputError(
                f"weights must map 'encoding' and each task to a flat tensor, as head.weights() "
                f"does; got a {type(weights).__name__} without {', '.join(sorted(missing))}"
            )
        _apply_all(circuit, chosen, angles, weights)
        return {name: measured(register) for name, register in registers.items()}

    return _node(run, device, circuit, diff_method, options)


def _node(
    run: Callable[..., Any],
    device: Any,
    circuit: HeadCircuit,
    diff_method: str,
    options: Mapping[str, Any],
    best: Sequence[str] = ("backprop",),
) -> Any:
    """Return a torch QNode that is also differentiable for batches of angles.

    `best` are the methods that support batches and that ``"best"`` may choose.
    """
    # PennyLane no longer sets shots on devices but on circuits.
    others = {name: value for name, value in options.items() if name != "shots"}
    target = _device(device, circuit, others if isinstance(device, str) else options)
    try:
        qnode = qml.QNode(run, target, interface="torch", diff_method=diff_method)
    except qml.exceptions.QuantumFunctionError as error:
        raise InvalidInputError(f"diff_method {diff_method!r}: {error}") from None
    if diff_method == "best":
        configs = [qml.devices.ExecutionConfig(gradient_method=method) for method in best]
        takes_batches = any(target.supports_derivatives(config) for config in configs)
    else:
        takes_batches = diff_method in ("backprop", "adjoint")
    shots = options.get("shots")
    if shots is not None and (not isinstance(shots, int) or isinstance(shots, bool) or shots < 1):
        raise InvalidInputError(f"shots must be an integer > 0, or None, got {shots!r}")
    if "shots" in options and isinstance(device, str):
        qnode = qml.set_shots(qnode, shots)
    # Parameter-shift rules, the only choice with shots, do not support batches.
    if takes_batches and not (shots or target.shots):
        return qnode
    return qml.transforms.broadcast_expand(qnode)


def _device(device: Any, circuit: HeadCircuit, options: Mapping[str, Any]) -> Any:
    if not isinstance(device, str):
        wires = getattr(device, "wires", None)
        if not isinstance(device, qml.devices.Device):
            raise InvalidInputError(f"device must be a name or a PennyLane device, got {device!r}")
        if wires is not None and not set(range(circuit.n_wires)) <= set(wires):
            raise InvalidInputError(
                f"the circuit runs on wires 0 to {circuit.n_wires - 1}, the device has {wires}"
            )
        return device
    if device not in PennyLaneSimulator.names():
        raise unknown_name("PennyLane device", device, PennyLaneSimulator.names())
    try:
        return qml.device(device, wires=circuit.n_wires, **options)
    except qml.exceptions.DeviceError as error:
        raise InvalidInputError(f"PennyLane has no device {device!r} ({error})") from None
    except TypeError as error:
        raise InvalidInputError(
            f"device {device!r} with options {dict(options)}: {error}"
        ) from None


def _apply_all(
    circuit: HeadCircuit, tasks: Sequence[str], angles: Tensor, weights: Mapping[str, Tensor]
) -> None:
    blocks = (gate for name in tasks for gate in circuit.block_gates(name))
    for gate in (*circuit.encoding_gates, *blocks):
        operation, angle = getattr(qml, gate.name), gate.angle
        if angle is None:
            operation(wires=gate.wires)
            continue
        value = angles.new_tensor(angle.constant)
        for feature in angle.features:
            value = value * angles[..., feature]
        if angle.weight is not None:
            value = value * weights[angle.owner][angle.weight]
        operation(value, wires=gate.wires)


def _expectation(wires: Sequence[int]) -> Any:
    return qml.expval(qml.prod(*map(qml.Z, wires)))
