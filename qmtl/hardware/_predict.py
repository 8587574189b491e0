"""Transpiled circuits as plain data, and their outputs under a device's noise."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import pi, prod
from typing import TYPE_CHECKING, Any

from torch import Tensor

from qmtl.circuit import Angle, HeadCircuit
from qmtl.errors import InvalidInputError
from qmtl.hardware._qiskit import QiskitHeadCircuit
from qmtl.noise import DeviceNoise, DeviceStep, Event, NativeCircuit
from qmtl.simulators import check_angles, native_values

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

Wires = tuple[int, ...]
# A sum of products: (indices of features, constant factor).
Terms = list[tuple[tuple[int, ...], float]]
# A constant angle this close to a multiple of π/2 is treated as that multiple.
RIGHT_ANGLE = 1e-12
# Most features in an angle's expression, and the relative rounding error of its coefficients.
MOST_FACTORS = 8
ROUNDING = 1e-12
Z_TURNS = {1: "S", 2: "Z", 3: "Sdg"}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "ps": 1e-12}
ROTATIONS = {"rx": "RX", "ry": "RY", "rz": "RZ", "p": "RZ", "rzz": "IsingZZ"}
TURNS = {"t": pi / 4, "tdg": -pi / 4}  # about Z
# For each native gate, its elementary gates and their wires' positions among the gate's wires.
FIXED: dict[str, list[tuple[str, Wires]]] = {
    "id": [],
    "x": [("X", (0,))],
    "y": [("Z", (0,)), ("X", (0,))],
    "z": [("Z", (0,))],
    "sx": [("SX", (0,))],
    "sxdg": [("SXdg", (0,))],
    "s": [("S", (0,))],
    "sdg": [("Sdg", (0,))],
    "h": [("Hadamard", (0,))],
    "cz": [("CZ", (0, 1))],
    "cx": [("CNOT", (0, 1))],
    "swap": [("CNOT", (0, 1)), ("CNOT", (1, 0)), ("CNOT", (0, 1))],
    # A quarter turn about ZX, then X on the first wire (from the echo).
    "ecr": [
        ("Hadamard", (1,)), ("CZ", (0, 1)), ("S", (0,)), ("S", (1,)), ("Hadamard", (1,)),
        ("X", (0,)),
    ],
}  # fmt: skip


def predict_transpiled(
    circuit: HeadCircuit,
    head: QiskitHeadCircuit,
    transpiled: "QuantumCircuit",
    angles: Tensor,
    noise: DeviceNoise,
    *,
    dt: float | None = None,
) -> dict[str, Tensor]:
    """Predict each task's exact outputs when a device with this noise runs a circuit.

    Time and memory are linear in the number of tasks. Qubits relax during delays and during gaps
    between gates, by ``noise.timing``.

    Args:
        circuit: the head circuit. For the joint distribution of the bits that each task reads, pass
            `qmtl.circuit.distribution_circuit` of the head circuit.
        head: the same circuit in Qiskit, with its weights bound (`to_qiskit`).
        transpiled: ``head.circuit`` in the device's gates (``rz``, ``sx``, ``x``, ``cz``, and a few
            more), with symbolic features, on the device's qubits.
        angles: encoding angles in radians, shape (batch, n_features).
        noise: noise of the device's qubits (`DeviceNoise.from_backend` of the whole backend). With
            its read-out errors, the prediction is for uncorrected counts.
        dt: the backend's time step in seconds, if delays are in time steps.

    Returns:
        Task name to its outputs, shape (batch, n_outputs), in the dtype of `angles`.

    Raises:
        InvalidInputError: for unknown gates, unbound weights, or angles that are not sums of
            products of features.
        CircuitTooLargeError: if a task's cone is too large.

    Example:
        >>> import torch
        >>> from qiskit import transpile
        >>> from qmtl import HeadCircuit, Task
        >>> from qmtl.hardware import to_qiskit
        >>> circuit = HeadCircuit([Task.binary("a")])
        >>> head = to_qiskit(circuit, {"encoding": torch.zeros(2), "a": torch.zeros(6)})
        >>> native = transpile(head.circuit, basis_gates=["rz", "sx", "x", "cz"])
        >>> noise = DeviceNoise.uniform(readout=0.1)
        >>> predict_transpiled(circuit, head, native, torch.zeros(1, 2), noise)["a"]
        tensor([[0.8000]])
    """
    check_angles(circuit, angles, None)
    return native_values(circuit, read_transpiled(head, transpiled, dt=dt), angles, noise)


def read_transpiled(
    head: QiskitHeadCircuit, transpiled: "QuantumCircuit", *, dt: float | None = None
) -> NativeCircuit:
    """Return a transpiled head circuit as plain data; see `predict_transpiled`."""
    registers = {register.name: register for register in transpiled.cregs}
    missing = [task for task, name in head.registers.items() if name not in registers]
    if missing:
        raise InvalidInputError(f"the transpiled circuit does not measure all wires of {missing}")
    features = dict(zip(head.circuit.parameters, head.features, strict=True))
    bits = {task: registers[name] for task, name in head.registers.items()}
    return read_native(transpiled, features, bits, dt=dt)


def read_native(
    circuit: "QuantumCircuit",
    features: Mapping[Any, int | None],
    registers: Mapping[str, Sequence[Any]],
    *,
    dt: float | None = None,
) -> NativeCircuit:
    """Return a circuit with measurements at its end as plain data.

    `features` maps a parameter to the index of its feature (None for a weight). `registers` maps a
    name to classical bits that are read together.
    """
    steps: list[DeviceStep] = []
    bits: dict[Any, int] = {}
    measured: set[int] = set()
    for instruction in circuit.data:
        operation = instruction.operation
        wires = tuple(circuit.find_bit(qubit).index for qubit in instruction.qubits)
        if operation.name == "barrier":
            wires = tuple(wire for wire in wires if wire not in measured)
        if operation.name == "delay" and wires[0] in measured:
            continue  # an ASAP schedule pads to the end of the circuit
        if not measured.isdisjoint(wires):
            raise InvalidInputError(
                f"qubits must be measured at the end, got {operation.name} on {wires} after that"
            )
        if operation.name == "measure":
            bits[instruction.clbits[0]] = wires[0]
            measured.update(wires)
        steps.append(_step(operation, wires, features, dt))
    missing = [name for name, own in registers.items() if any(bit not in bits for bit in own)]
    if missing:
        raise InvalidInputError(f"the transpiled circuit does not measure all wires of {missing}")
    read = {name: tuple(bits[bit] for bit in own) for name, own in registers.items()}
    return NativeCircuit(tuple(steps), read)


def _step(
    operation: Any, wires: Wires, columns: Mapping[Any, int | None], dt: float | None
) -> DeviceStep:
    name = operation.name
    if name == "delay":
        return DeviceStep(name, wires, seconds=_seconds(operation.duration, operation.unit, dt))
    if name in ("barrier", "measure"):
        return DeviceStep(name, wires, seconds=0.0 if name == "barrier" else None)
    if name in ROTATIONS:
        terms = _terms(operation.params[0], columns)
        if name in ("rz", "p"):
            return DeviceStep(name, wires, tuple(_frame(wires, terms)))
        rotation = ROTATIONS[name]
        gates = [Event(wires, rotation, Angle(features, constant=c)) for features, c in terms]
        return DeviceStep(name, wires, tuple(gates))
    if name in TURNS:
        return DeviceStep(name, wires, (Event(wires, "RZ", Angle(constant=TURNS[name])),))
    if name in FIXED:
        gates = [Event(tuple(wires[i] for i in at), gate) for gate, at in FIXED[name]]
        return DeviceStep(name, wires, tuple(gates))
    known = sorted([*FIXED, *TURNS, *ROTATIONS, "barrier", "delay", "measure"])
    raise InvalidInputError(
        f"{name} is not among the native gates known here, {', '.join(known)}: transpile the "
        f"circuit to the device's gates first"
    )


def _frame(wires: Wires, terms: Terms) -> Iterator[Event]:
    """Yield rotations about Z; rotations by right angles become gates without an angle."""
    for features, constant in terms:
        turns = round(constant / (pi / 2))
        if features or abs(constant - turns * pi / 2) > RIGHT_ANGLE:
            yield Event(wires, "RZ", Angle(features, constant=constant))
        elif turns % 4:
            yield Event(wires, Z_TURNS[turns % 4])


def _terms(value: Any, columns: Mapping[Any, int | None]) -> Terms:
    """Return an angle as a sum of products of features, without zero terms."""
    if not getattr(value, "parameters", ()):
        return [((), float(value))] if float(value) else []
    unknown = [p.name for p in value.parameters if columns.get(p) is None]
    if unknown:
        raise InvalidInputError(f"only features may be symbolic, bind the weights; got {unknown}")
    try:
        return _split(value, columns)
    except ZeroDivisionError:
        raise InvalidInputError(
            f"an angle must be a sum of products of features, got {value}"
        ) from None


def _split(value: Any, columns: Mapping[Any, int | None]) -> Terms:
    """Return the coefficients of an angle that is linear in each of its features."""
    # The coefficients follow from the angle's values at features of 0 and 1 (inclusion-exclusion).
    # The value at another point shows whether the angle has other terms.
    parameters = sorted(value.parameters, key=lambda p: str(p.name))
    if len(parameters) > MOST_FACTORS:
        raise InvalidInputError(f"an angle has at most {MOST_FACTORS} features, got {value}")
    sets = [c for n in range(len(parameters) + 1) for c in combinations(parameters, n)]
    coefficients: dict[tuple[Any, ...], float] = {}
    for chosen in sets:
        ones = dict.fromkeys(parameters, 0.0) | dict.fromkeys(chosen, 1.0)
        smaller = (c for found, c in coefficients.items() if set(found) < set(chosen))
        coefficients[chosen] = float(value.bind(ones)) - sum(smaller)
    point = {p: 0.37 + 0.61 * i for i, p in enumerate(parameters)}
    there = sum(c * prod(point[p] for p in found) for found, c in coefficients.items())
    if abs(there - float(value.bind(point))) > ROUNDING * (
        1 + sum(map(abs, coefficients.values()))
    ):
        coefficients = _powers(value, parameters)
    return [
        (tuple(index for p in found if (index := columns[p]) is not None), c)
        for found, c in coefficients.items()
        if abs(c) > ROUNDING
    ]


def _powers(value: Any, parameters: Sequence[Any]) -> dict[tuple[Any, ...], float]:
    """Return the coefficients of an angle that has powers of features, which takes longer."""
    from sympy import Poly, Symbol

    polynomial = Poly(value.sympify())
    symbols = [Symbol(p.name) for p in parameters]
    if not set(polynomial.gens) <= set(symbols):
        raise InvalidInputError(f"an angle must be a sum of products of features, got {value}")
    of = dict(zip(symbols, parameters, strict=True))
    return {
        tuple(
            of[g] for g, power in zip(polynomial.gens, powers, strict=True) for _ in range(power)
        ): float(c)
        for powers, c in polynomial.terms()
    }


def _seconds(duration: Any, unit: str, dt: float | None) -> float:
    if unit != "dt":
        return float(duration) * SECONDS[unit]
    if dt is None:
        raise InvalidInputError("the circuit's delays are in time steps: pass dt=backend.dt")
    return float(duration) * dt
