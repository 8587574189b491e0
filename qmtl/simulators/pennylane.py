"""Any PennyLane device as a simulator of head circuits: the reference, and others' engines."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from qmtl.circuit.gates import Angle, Gate
from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.circuit.registers import Register
from qmtl.errors import CircuitTooLargeError, InvalidInputError, unknown_name
from qmtl.simulators.memory import bytes_text, memory_limit
from qmtl.simulators.simulator import check_inputs

# Devices that hold a state of all wires, and how many bits of its index a wire takes; complex
# numbers of single precision at the least.
STATE_WIRES = {"default.qubit": 1, "lightning.qubit": 1, "default.mixed": 2}
BYTES_PER_AMPLITUDE = 8

__all__ = ["PennyLaneSimulator", "device_names", "task_qnode", "to_qnode"]


class PennyLaneSimulator:
    """Evaluates head circuits gate by gate on a PennyLane device, as torch QNodes.

    All wires are simulated. The outputs of every readout are linear in expectation values of
    Z-strings, which all PennyLane devices and differentiation methods offer.

    Args:
        device: a device name, such as ``"default.qubit"`` or ``"lightning.qubit"``.
        diff_method: PennyLane's differentiation method.
        options: keyword arguments for ``qml.device``.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> circuit = HeadCircuit([Task.binary("a")])
        >>> weights = {"encoding": torch.zeros(2), "a": torch.zeros(6)}
        >>> PennyLaneSimulator().expectation_values(circuit, torch.zeros(2, 2), weights)["a"].shape
        torch.Size([2, 1])
    """

    def __init__(
        self, device: str = "default.qubit", *, diff_method: str = "best", **options: Any
    ) -> None:
        self.device = device
        self.diff_method = diff_method
        self.options = options

    def expectation_values(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Mapping[str, Tensor],
        tasks: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Each task's outputs, shape (batch, n_outputs); see `Simulator`."""
        chosen = check_inputs(circuit, angles, weights, tasks)
        self._check_width(circuit)
        if circuit.layout == "partitioned":
            return self._run(circuit, angles, weights, chosen)
        values: dict[str, Tensor] = {}
        for name in chosen:
            values |= self._run(circuit, angles, weights, (name,))
        return values

    def _check_width(self, circuit: HeadCircuit) -> None:
        """Raise `CircuitTooLargeError` if the state of all wires cannot be in memory."""
        wires, limit = circuit.n_wires, memory_limit(torch.device("cpu"), None)
        needed = BYTES_PER_AMPLITUDE << STATE_WIRES.get(self.device, 0) * wires
        if self.device in STATE_WIRES and needed > limit:
            raise CircuitTooLargeError(
                f"{self.device!r} simulates all {wires} wires at once, which takes "
                f"{bytes_text(needed)}, more than the {bytes_text(limit)} that a step may take; "
                f"'lightcone' simulates each task on its own few wires"
            )

    def _run(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Mapping[str, Tensor],
        tasks: tuple[str, ...],
    ) -> dict[str, Tensor]:
        qnode = to_qnode(circuit, tasks, self.device, diff_method=self.diff_method, **self.options)
        if not tasks or not len(angles):  # PennyLane refuses both
            return {n: angles.new_zeros(0, circuit.task(n).n_outputs) for n in tasks}
        keys = ["encoding", *tasks]
        with _default_dtype(torch.float64):
            measured = torch.stack(tuple(qnode(angles, *[weights[key] for key in keys])), dim=-1)
        # A circuit without features in the cone, or a batch of one, may come back unbatched.
        measured = measured.reshape(-1, measured.shape[-1]).expand(angles.shape[0], -1)
        measured = measured.to(angles.dtype)
        values, start = {}, 0
        for name in tasks:
            mixing, constant = _z_string_mixing(circuit.register(name))[1:]
            mixing, constant = mixing.to(angles), constant.to(angles)
            part = measured[:, start : start + mixing.shape[1]]
            values[name] = part @ mixing.T + constant
            start += mixing.shape[1]
        return values

    def __repr__(self) -> str:
        return f"PennyLaneSimulator({self.device!r}, diff_method={self.diff_method!r})"


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Torch's default type for a while.

    PennyLane makes a device's numbers (NumPy scalars, as lightning's) tensors of the default type:
    with float32 they would lose half of their digits, and so would the gradients.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


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
        for string in _z_string_mixing(register)[0]
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


def _z_string_mixing(register: Register) -> tuple[list[tuple[int, ...]], Tensor, Tensor]:
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
