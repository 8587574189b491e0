"""Head circuits as Qiskit circuits with symbolic features, and as OpenQASM 3."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from qmtl.circuit import Angle, HeadCircuit, check_circuit
from qmtl.errors import InvalidInputError, missing_extra
from qmtl.hardware._prepared_run import digest
from qmtl.tasks import chosen_tasks

if TYPE_CHECKING:
    from qiskit import ClassicalRegister, QuantumCircuit

# No register may have these names: attributes of the object in which Qiskit returns the registers'
# data; gates of qelib1.inc and functions of OpenQASM 2, and words of OpenQASM 3, that Qiskit writes
# as they are; and what the circuit itself uses.
RESERVED = (
    "data items keys ndim shape size values "
    "ccx ch crz cu1 cu3 cx cy cz h id rx ry rz rzz s sdg t tdg u1 u2 u3 x y z "
    "cos exp ln pi sin sqrt tan case default false im pragma readonly switch true void "
    "q w_encoding"
)
METHODS = {"Hadamard": "h", "CNOT": "cx", "CZ": "cz", "IsingZZ": "rzz"}  # else: lower-case name


@dataclass(frozen=True, eq=False)
class QiskitHeadCircuit:
    """A head circuit in Qiskit, with its features' parameters and its tasks' registers.

    Bit i of a task's classical register is wire i of the task's register. Qiskit is little-endian:
    bit 0 is the lowest bit of an integer outcome, and is printed last. So an integer outcome is
    qmtl's state index (first wire most significant) with its bits reversed.

    Attributes:
        circuit: the `QuantumCircuit`; wire i is qubit i. Features are the `ParameterVector` ``x``.
            Symbolic weights are ``w_encoding`` and, for each task, ``w_<register>``.
        features: for each parameter in ``circuit.parameters`` (Qiskit sorts them by name), the
            index of its feature; None for a weight.
        n_features: number of encoding angles of the head circuit.
        registers: for each task, the name of its classical register: the task's name, with
            characters replaced that OpenQASM does not allow.
    """

    circuit: "QuantumCircuit"
    features: tuple[int | None, ...]
    n_features: int
    registers: dict[str, str]

    def parameter_values(self, angles: Any) -> np.ndarray:
        """Return the values of ``circuit.parameters``, (batch, n_parameters), if weights are bound.

        `angles` are encoding angles in radians, shape (batch, n_features).

        Example:
            >>> import torch
            >>> from qmtl import HeadCircuit, Task
            >>> circuit = HeadCircuit([Task.binary("a")])
            >>> bound = to_qiskit(circuit, {"encoding": torch.zeros(2), "a": torch.zeros(6)})
            >>> bound.parameter_values([[0.1, 0.2]])
            array([[0.1, 0.2]])
        """
        columns = [index for index in self.features if index is not None]
        if len(columns) < len(self.features):
            raise InvalidInputError(
                "the circuit has symbolic weights; pass weights to to_qiskit to bind them"
            )
        values = angles.detach().cpu() if isinstance(angles, Tensor) else angles
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 2 or array.shape[1] != self.n_features:
            raise InvalidInputError(
                f"angles must have shape (batch, {self.n_features}), got {array.shape}"
            )
        return array[:, columns]


def to_qiskit(
    circuit: HeadCircuit,
    weights: Mapping[str, Tensor] | None = None,
    tasks: str | Sequence[str] | None = None,
    *,
    measure: bool = True,
) -> QiskitHeadCircuit:
    """Convert a head circuit to Qiskit with symbolic features, so that it is transpiled only once.

    Args:
        circuit: the head circuit.
        weights: weights to bind: for ``"encoding"`` and each task, a flat vector in gate order;
            None to keep weights symbolic.
        tasks: tasks whose blocks and measurements are included; None for all. In the shared
            layout, name one task, because each task has its own circuit.
        measure: whether to measure every task's wires into the task's classical register.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> head = to_qiskit(HeadCircuit([Task.binary("my task"), Task.regression("b")]))
        >>> [(register.name, register.size) for register in head.circuit.cregs]
        [('my_task', 2), ('b', 2)]
    """
    try:
        from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
        from qiskit.circuit import ParameterVector
    except ImportError:
        raise missing_extra("Qiskit is not installed", "ibm") from None
    check_circuit(circuit)
    chosen = measured_tasks(circuit, tasks)
    if circuit.layout == "shared" and len(chosen) > 1:
        raise InvalidInputError(
            f"the shared layout has one circuit per task; name one of {list(chosen)}"
        )
    sizes = {"encoding": circuit.n_encoding_weights}
    sizes |= {name: circuit.n_weights(name) for name in chosen}
    registers = _identifiers(chosen)
    symbols: dict[str, Any] = {}
    for key, size in sizes.items():
        name = f"w_{registers.get(key, key)}"
        symbols[key] = (
            ParameterVector(name, size) if weights is None else _numbers(weights, key, size)
        )
    x = ParameterVector("x", circuit.n_features)
    wires = QuantumRegister(circuit.n_wires, "q")
    target = QuantumCircuit(wires, name="_".join(registers.values()))
    blocks = [gate for name in chosen for gate in circuit.block_gates(name)]
    for gate in (*circuit.encoding_gates, *blocks):
        angle = () if gate.angle is None else (_angle(gate.angle, x, symbols),)
        getattr(target, METHODS.get(gate.name, gate.name.lower()))(*angle, *gate.wires)
    for name in chosen if measure else ():
        read = circuit.register(name).wires
        bits = ClassicalRegister(len(read), registers[name])
        target.add_register(bits)
        target.measure(read, bits)
    index = {parameter: i for i, parameter in enumerate(x)}
    features = tuple(index.get(parameter) for parameter in target.parameters)
    return QiskitHeadCircuit(target, features, circuit.n_features, registers)


def to_qasm3(
    circuit: HeadCircuit,
    weights: Mapping[str, Tensor] | None = None,
    tasks: str | Sequence[str] | None = None,
    *,
    measure: bool = True,
) -> str:
    """Return OpenQASM 3 with symbolic inputs; the arguments are those of `to_qiskit`.

    Feature 3 is ``input float[64] x_3``, weight 2 of task ``a`` is ``w_a_2``. If Qiskit reads the
    text, bind parameters by name, because Qiskit sorts them as text (``x_10`` before ``x_2``).

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> text = to_qasm3(HeadCircuit([Task.binary("a")]))
        >>> text.splitlines()[0], "input float[64] w_a_5;" in text
        ('OPENQASM 3.0;', True)
    """
    target = to_qiskit(circuit, weights, tasks, measure=measure).circuit
    from qiskit import qasm3
    from qiskit.circuit import Parameter

    # OpenQASM does not allow brackets in names: x[3] becomes x_3.
    plain: Any = {p: Parameter(f"{p.vector.name}_{p.index}") for p in target.parameters}
    return str(qasm3.dumps(target.assign_parameters(plain))).rstrip("\n") + "\n"


def measured_tasks(circuit: HeadCircuit, tasks: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the given tasks, or of all for None; raise an error for unknown ones."""
    chosen = chosen_tasks((tasks,) if isinstance(tasks, str) else tasks, circuit.registers)
    if not chosen:
        raise InvalidInputError("tasks must name at least one task, got []")
    return chosen


def _identifiers(names: Iterable[str]) -> dict[str, str]:
    """Return distinct names of classical registers: letters, digits and _, a letter first."""
    identifiers: dict[str, str] = {}
    used = set(RESERVED.split())
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_]", "_", name)
        if not base[0].isalpha() or base in used or re.match(r"w_|x_\d", base):
            base = f"task_{base}"
        further = (f"{base}_{n}" for n in count(2))
        identifiers[name] = next(i for i in chain([base], further) if i not in used)
        used.add(identifiers[name])
    return identifiers


def _numbers(weights: Mapping[str, Tensor], key: str, size: int) -> list[float]:
    if key not in weights:
        raise InvalidInputError(f"weights must have the key {key!r}, got {sorted(weights)}")
    if tuple(weights[key].shape) != (size,):
        raise InvalidInputError(
            f"weights[{key!r}] must have shape ({size},), got {tuple(weights[key].shape)}"
        )
    return [float(value) for value in weights[key].detach().cpu().double().tolist()]


def _angle(angle: Angle, x: Any, symbols: Mapping[str, Any]) -> Any:
    factor = angle.constant
    symbolic = [x[i] for i in angle.features]
    if angle.weight is not None:
        weight = symbols[angle.owner][angle.weight]
        if isinstance(weight, float):
            factor *= weight
        else:
            symbolic.append(weight)
    if not symbolic:
        return factor
    product = prod(symbolic[1:], start=symbolic[0])  # start=1 would remain as a factor
    return product if factor == 1.0 else factor * product


# A qubit with only these instructions is not in use.
IDLE = frozenset({"barrier", "delay"})


def active_qubits(circuit: "QuantumCircuit") -> tuple[int, ...]:
    """Return the sorted qubits that a circuit acts on."""
    used = {
        circuit.find_bit(qubit).index
        for instruction in circuit.data
        if instruction.operation.name not in IDLE
        for qubit in instruction.qubits
    }
    return tuple(sorted(used))


def cone_circuit(circuit: "QuantumCircuit", register: "ClassicalRegister") -> "QuantumCircuit":
    """Return a circuit of the instructions that affect a register's bits, including by noise.

    It contains gates that commute with the measurement, because their noise does not commute.
    """
    from qiskit import QuantumCircuit

    bits = set(register)
    support: set[Any] = set()
    kept = []
    for instruction in reversed(circuit.data):
        if instruction.operation.name == "measure":
            if instruction.clbits[0] not in bits:
                continue
            support.update(instruction.qubits)
        elif support.isdisjoint(instruction.qubits) or instruction.operation.name == "barrier":
            continue
        support.update(instruction.qubits)
        kept.append(instruction)
    found = QuantumCircuit(*circuit.qregs, register, name=register.name)
    for instruction in reversed(kept):
        found.append(instruction)
    return found


def measured_qubits(circuit: "QuantumCircuit") -> dict[str, tuple[int, ...]]:
    """Return the qubits that are measured into each classical register, by its name."""
    qubits = {
        instruction.clbits[0]: circuit.find_bit(instruction.qubits[0]).index
        for instruction in circuit.data
        if instruction.operation.name == "measure"
    }
    return {r.name: tuple(qubits[bit] for bit in r) for r in circuit.cregs}


def fingerprint(circuit: "QuantumCircuit") -> str:
    """Return the SHA-256 of a circuit's instructions; a hash of QPY would differ by process."""
    instructions = [
        [
            instruction.operation.name,
            [circuit.find_bit(qubit).index for qubit in instruction.qubits],
            [circuit.find_bit(bit).index for bit in instruction.clbits],
            [str(parameter) for parameter in instruction.operation.params],
        ]
        for instruction in circuit.data
    ]
    registers = [[register.name, register.size] for register in circuit.cregs]
    parameters = [parameter.name for parameter in circuit.parameters]
    return digest([circuit.num_qubits, registers, parameters, instructions])
