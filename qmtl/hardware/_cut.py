"""The part of a backend that a circuit uses, so that a fake chip is not simulated as a whole."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qmtl.errors import InvalidInputError

if TYPE_CHECKING:
    from qiskit import ClassicalRegister, QuantumCircuit
    from qiskit.transpiler import Target

__all__ = ["active_qubits", "cone_circuit", "cut_circuit", "cut_target", "scheduled"]

# Instructions that do not make a qubit used.
IDLE = frozenset({"barrier", "delay"})


def active_qubits(circuit: "QuantumCircuit") -> tuple[int, ...]:
    """The qubits that a circuit acts on, ascending.

    Example:
        >>> from qiskit import QuantumCircuit
        >>> circuit = QuantumCircuit(5)
        >>> _ = circuit.cz(3, 1)
        >>> active_qubits(circuit)
        (1, 3)
    """
    used = {
        circuit.find_bit(qubit).index
        for instruction in circuit.data
        if instruction.operation.name not in IDLE
        for qubit in instruction.qubits
    }
    return tuple(sorted(used))


def scheduled(circuit: "QuantumCircuit", target: "Target") -> "QuantumCircuit":
    """The circuit with explicit delays, every gate as late as possible, as IBM's devices run it.

    Args:
        circuit: transpiled for the target.
        target: with durations; without any the circuit is returned as it is.
    """
    from qiskit.transpiler import PassManager
    from qiskit.transpiler.exceptions import TranspilerError
    from qiskit.transpiler.passes import ALAPScheduleAnalysis, PadDelay

    if target.dt is None:
        return circuit
    passes = PassManager([ALAPScheduleAnalysis(target=target), PadDelay(target=target)])
    try:
        return passes.run(circuit)
    except TranspilerError as error:
        raise InvalidInputError(
            f"the backend's calibration lacks durations of some gates: {error}"
        ) from None


def cut_circuit(circuit: "QuantumCircuit", qubits: Sequence[int]) -> "QuantumCircuit":
    """The same circuit on some qubits: qubit i of the result is ``qubits[i]``.

    Args:
        circuit: any circuit; barriers, and delays of other qubits, are left out.
        qubits: all qubits that it acts on.

    Raises:
        InvalidInputError: if the circuit acts on other qubits, too.
    """
    from qiskit import QuantumCircuit, QuantumRegister

    place = {qubit: i for i, qubit in enumerate(qubits)}
    outside = set(active_qubits(circuit)) - set(place)
    if outside:
        raise InvalidInputError(f"the circuit acts on qubits {sorted(outside)}, too")
    found = QuantumCircuit(QuantumRegister(len(place), "q"), *circuit.cregs, name=circuit.name)
    for instruction in circuit.data:
        on = [circuit.find_bit(qubit).index for qubit in instruction.qubits]
        if instruction.operation.name == "barrier" or not set(on) <= set(place):
            continue
        found.append(instruction.operation, [place[q] for q in on], instruction.clbits)
    return found


def cut_target(target: "Target", qubits: Sequence[int]) -> "Target":
    """A target's gates, errors and durations on some of its qubits, numbered anew.

    Example:
        >>> from qiskit.providers.fake_provider import GenericBackendV2
        >>> target = GenericBackendV2(4, coupling_map=[[0, 1], [1, 2], [2, 3]], seed=1).target
        >>> sorted(cut_target(target, [2, 1])["cx"])
        [(1, 0)]
    """
    from qiskit.transpiler import Target

    place = {qubit: i for i, qubit in enumerate(qubits)}
    found = Target(
        num_qubits=len(place),
        dt=target.dt,
        granularity=target.granularity,
        qubit_properties=target.qubit_properties
        and [target.qubit_properties[qubit] for qubit in qubits],
    )
    for name in target.operation_names:
        on: Any = target[name]
        if on is None or None in on:
            continue  # control flow, which head circuits do not have
        kept = {
            tuple(place[qubit] for qubit in key): properties
            for key, properties in on.items()
            if all(qubit in place for qubit in key)
        }
        if kept:
            found.add_instruction(target.operation_from_name(name), kept, name=name)
    return found


def cone_circuit(circuit: "QuantumCircuit", register: "ClassicalRegister") -> "QuantumCircuit":
    """The instructions that a register's bits can depend on, noise included.

    Gates that commute with what is measured stay: their noise does not.

    Args:
        circuit: measured at its end.
        register: one of its classical registers, the only one of the result.
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
