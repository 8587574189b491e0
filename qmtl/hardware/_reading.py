"""What is read of a head circuit: its tasks' outputs, and circuits that calibrate the read-out."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from qmtl.circuit import Register
from qmtl.errors import InvalidInputError
from qmtl.hardware._decoding import Observable, TaskReading

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = [
    "calibration_circuits",
    "calibration_register",
    "measured_qubits",
    "observables",
    "task_reading",
    "z_strings",
]

# An estimator's probabilities take 2^wires observables.
MOST_STRING_WIRES = 8


def observables(register: Register) -> tuple[Observable, ...]:
    """A task's outputs over the bit strings of as few wires as possible.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> register = HeadCircuit([Task.binary("a")]).register("a")
        >>> observables(register)
        (Observable(wires=(0,), rows=((1.0, -1.0),), outputs=(0,)),)
    """
    n = len(register.wires)
    strings = register.readout.z_strings(n)
    if strings is None:
        rows = tuple(tuple(map(float, row)) for row in register.readout.matrix(n))
        return (Observable(tuple(range(n)), rows, tuple(range(len(rows)))),)
    found = []
    for output, string in enumerate(strings):
        signs = tuple(1.0 - 2.0 * (state.bit_count() % 2) for state in range(1 << len(string)))
        found.append(Observable(tuple(string), (signs,), (output,)))
    return tuple(found)


def measured_qubits(circuit: "QuantumCircuit") -> dict[str, tuple[int, ...]]:
    """Name of each classical register to the qubits that are measured into its bits."""
    qubits = {
        instruction.clbits[0]: circuit.find_bit(instruction.qubits[0]).index
        for instruction in circuit.data
        if instruction.operation.name == "measure"
    }
    return {r.name: tuple(qubits[bit] for bit in r) for r in circuit.cregs}


def task_reading(
    register: Register, name: str, circuit: int, qubits: Sequence[int], scale: float
) -> TaskReading:
    """Where one task is measured, and how its outputs follow.

    Args:
        register: of the head circuit.
        name: of the classical register.
        circuit: index of the circuit in the run.
        qubits: measured into the bits of the classical register.
        scale: of the task's logits.
    """
    return TaskReading(
        task=register.task.name,
        circuit=circuit,
        register=name,
        qubits=tuple(qubits),
        observables=observables(register),
        n_outputs=register.readout.n_outputs,
        is_probability=register.readout.is_probability,
        scale=scale,
    )


def z_strings(tasks: Iterable[TaskReading]) -> tuple[tuple[int, ...], ...]:
    """The estimator's observables of one circuit: Z on these device's qubits.

    Outputs that are one Z string need that one; probabilities need all strings of their wires.

    Raises:
        InvalidInputError: if a task has probabilities of too many wires.
    """
    found: dict[tuple[int, ...], None] = {}
    for task in tasks:
        for observable in task.observables:
            qubits = [task.qubits[wire] for wire in observable.wires]
            if not task.is_probability:
                found[tuple(qubits)] = None
                continue
            if len(qubits) > MOST_STRING_WIRES:
                raise InvalidInputError(
                    f"task {task.task!r}: the estimator would need all 2^{len(qubits)} Z strings "
                    f"of its wires: use the sampler"
                )
            for mask in range(1, 1 << len(qubits)):
                chosen = (q for i, q in enumerate(qubits) if mask >> (len(qubits) - 1 - i) & 1)
                found[tuple(chosen)] = None
    return tuple(found)


def calibration_circuits(
    n_qubits: int, qubits: Sequence[int], flip: str
) -> tuple["QuantumCircuit", "QuantumCircuit"]:
    """Circuits that prepare all 0 and all 1 on some qubits, and measure them.

    Qubit 7 is measured into a classical register of its own, ``q7``.

    Args:
        n_qubits: of the device.
        qubits: to be measured.
        flip: name of the device's gate that flips a qubit: ``"x"``, or ``"sx"`` applied twice.

    Example:
        >>> [c.count_ops().get("x", 0) for c in calibration_circuits(5, [1, 3], "x")]
        [0, 2]
    """
    from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister

    found = []
    for ones in (False, True):
        circuit = QuantumCircuit(QuantumRegister(n_qubits, "q"), name=f"readout_{int(ones)}")
        for qubit in qubits if ones else ():
            for _ in range(1 if flip == "x" else 2):
                getattr(circuit, flip)(qubit)
        for qubit in qubits:
            bit = ClassicalRegister(1, calibration_register(qubit))
            circuit.add_register(bit)
            circuit.measure(qubit, bit[0])
        found.append(circuit)
    return found[0], found[1]


def calibration_register(qubit: int) -> str:
    """Name of the classical register of a qubit in `calibration_circuits`.

    Example:
        >>> calibration_register(7)
        'q7'
    """
    return f"q{qubit}"
