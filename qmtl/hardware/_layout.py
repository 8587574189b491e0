"""Layouts: which qubits of a device carry a circuit, by the device's calibration."""

from collections.abc import Iterable
from math import isnan, prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.transpiler import Target

__all__ = ["best_layout", "estimated_success", "usable_target"]

# Two-qubit gates and read-outs as bad as this are broken.
BROKEN = 0.5
# Steps of the search: until a first layout is found, and then for better ones.
STEPS = (3_000_000, 300_000)


def usable_target(target: "Target") -> "Target":
    """The target without what its calibration shows to be broken.

    Two-qubit gates, and read-outs with all that is on their qubits, whose error is NaN, 0.5 or more
    are left out; and those of error 0 where others have one, since 0 stands for no measurement.
    """
    from qiskit.transpiler import Target

    bad = {qubits[0] for qubits in _broken(target, "measure")}
    found = Target(
        num_qubits=target.num_qubits,
        dt=target.dt,
        granularity=target.granularity,
        qubit_properties=target.qubit_properties,
    )
    for name in target.operation_names:
        on: Any = target[name]
        if on is None or None in on:
            continue
        broken = _broken(target, name) if len(next(iter(on))) == 2 else set()
        kept = {
            qubits: properties
            for qubits, properties in on.items()
            if qubits not in broken and bad.isdisjoint(qubits)
        }
        if kept:
            found.add_instruction(target.operation_from_name(name), kept, name=name)
    return found


def _broken(target: "Target", name: str) -> set[tuple[int, ...]]:
    on: Any = target[name] if name in target.operation_names else {}
    errors = {qubits: _error(properties) for qubits, properties in on.items()}
    some = any(error for error in errors.values() if error is not None)
    return {
        qubits
        for qubits, error in errors.items()
        if error is not None and (isnan(error) or error >= BROKEN or (some and error <= 0))
    }


def _error(properties: Any) -> float | None:
    return None if properties is None else properties.error


def best_layout(
    circuit: "QuantumCircuit", target: "Target", read: Iterable[int]
) -> tuple[int, ...] | None:
    """The qubits on which a circuit runs without any swap and with the least errors.

    A ring, a line, or whatever graph the circuit's two-qubit gates form is looked for in the
    coupling map; among those found the one with the largest product of two-qubit and read-out
    fidelities is taken.

    Args:
        circuit: before transpilation.
        target: `usable_target` of the device's.
        read: wires whose read-out counts.

    Returns:
        The qubit of each wire; None if the coupling map does not hold the circuit's graph, or none
        was found in the time given.

    Example:
        >>> from qiskit import QuantumCircuit
        >>> from qiskit.providers.fake_provider import GenericBackendV2
        >>> backend = GenericBackendV2(4, ["cz", "x"], coupling_map=[[0, 1], [1, 3]], seed=1)
        >>> line = QuantumCircuit(3)
        >>> _ = line.cz(0, 1), line.cz(1, 2)
        >>> best_layout(line, backend.target, [])[1]
        1
    """
    from qiskit.converters import circuit_to_dag
    from qiskit.transpiler.passes import VF2Layout

    pattern, plain, errors = _pattern(circuit, target, read)
    search = VF2Layout(target=plain, seed=-1, call_limit=STEPS)
    search.property_set["vf2_avg_error_map"] = errors
    search.run(circuit_to_dag(pattern))
    layout = search.property_set["layout"]
    if layout is None:
        return None
    return tuple(layout[qubit] for qubit in pattern.qubits)


def _pattern(
    circuit: "QuantumCircuit", target: "Target", read: Iterable[int]
) -> tuple["QuantumCircuit", "Target", Any]:
    """A circuit and a target in which only what matters for the layout has an error.

    Every two-qubit gate stays one; a one-qubit gate stands for each read-out.
    """
    from qiskit import QuantumCircuit
    from qiskit.circuit.library import CZGate, XGate
    from qiskit.transpiler import Target
    from qiskit.transpiler.passes.layout.vf2_utils import ErrorMap

    pattern = QuantumCircuit(circuit.num_qubits)
    for instruction in circuit.data:
        if len(instruction.qubits) == 2 and instruction.operation.name != "barrier":
            pattern.cz(*(circuit.find_bit(qubit).index for qubit in instruction.qubits))
    for wire in read:
        pattern.x(wire)
    pairs = _pair_errors(target)
    readouts = {
        qubit: _error(properties) or 0.0
        for (qubit,), properties in (
            target["measure"] if "measure" in target.operation_names else {}
        ).items()
    }
    errors = ErrorMap(len(pairs) + len(readouts))
    for pair, error in pairs.items():
        errors.add_error(pair, error)
    for qubit, error in readouts.items():
        errors.add_error((qubit, qubit), error)
    plain = Target(num_qubits=target.num_qubits)
    plain.add_instruction(CZGate(), dict.fromkeys(pairs))
    plain.add_instruction(XGate(), {(qubit,): None for qubit in readouts or range(len(pairs))})
    return pattern, plain, errors


def _pair_errors(target: "Target") -> dict[tuple[int, int], float]:
    """The error of the native entangling gate on each pair, in both directions."""
    found: dict[tuple[int, int], float] = {}
    for name in ("cz", "ecr", "cx", "rzz"):
        if name not in target.operation_names:
            continue
        for (a, b), properties in target[name].items():
            error = _error(properties) or 0.0
            for pair in ((a, b), (b, a)):
                found.setdefault(pair, error)
    return found


def estimated_success(circuit: "QuantumCircuit", target: "Target") -> float:
    """Product of the fidelities of a transpiled circuit's gates and read-outs.

    Example:
        >>> from qiskit import QuantumCircuit
        >>> from qiskit.providers.fake_provider import GenericBackendV2
        >>> target = GenericBackendV2(2, seed=1).target
        >>> circuit = QuantumCircuit(2)
        >>> _ = circuit.cx(0, 1)
        >>> estimated_success(circuit, target) == 1 - target["cx"][0, 1].error
        True
    """
    errors = []
    for instruction in circuit.data:
        name = instruction.operation.name
        qubits = tuple(circuit.find_bit(qubit).index for qubit in instruction.qubits)
        if name in target.operation_names and qubits in target[name]:
            errors.append(_error(target[name][qubits]) or 0.0)
    return prod(1 - error for error in errors)
