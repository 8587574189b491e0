"""Ablations: a head circuit without one of its parts, to measure the effect of that part."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from qmtl.circuit._ansatz import Ansatz, IdentityAnsatz
from qmtl.circuit._encodings import Encoding
from qmtl.circuit._head_circuit import HeadCircuit, check_circuit
from qmtl.circuit._readout import Readout
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import Task

# The field of an encoding or ansatz that names its pattern of two-qubit gates.
PATTERN_FIELDS = ("entangler", "pattern")


def without_blocks(circuit: HeadCircuit, *, turned: bool = False) -> HeadCircuit:
    """Return the same circuit with the identity as every task's block.

    Only the weights of the shared encoding remain, and only those in a light cone have an effect
    (`count_live_weights`).

    Args:
        circuit: the circuit.
        turned: whether each block is a fixed quarter turn instead, see `IdentityAnsatz`.

    Raises:
        InvalidInputError: if a task then depends on no feature.

    Example:
        >>> from qmtl.tasks import Task
        >>> without_blocks(HeadCircuit([Task.binary("a"), Task.binary("b")])).count_parameters()
        ParameterCount(encoding=4, tasks={'a': 0, 'b': 0}, scales=2, total=6)
    """
    check_circuit(circuit)
    blocks = dict.fromkeys(circuit.registers, IdentityAnsatz(turned))
    ablated = rebuilt(circuit, blocks=blocks)
    for name in ablated.registers:
        gates = ablated.light_cone(name).encoding
        if not any(gate.angle is not None and gate.angle.features for gate in gates):
            raise InvalidInputError(
                f"without its block, task {name!r} depends on no feature: features that "
                f"{circuit.encoding} loads do not change a measurement in the Z basis; use more "
                f"encoding layers"
            )
    return ablated


def without_entanglers(circuit: HeadCircuit) -> HeadCircuit:
    """Return the same circuit without two-qubit gates in the encoding and in the blocks.

    Wires then are independent, and features on wires that no task reads have no effect.

    Raises:
        InvalidInputError: for a part that has two-qubit gates but neither a field ``entangler`` nor
            ``pattern`` to set to ``"none"``.

    Example:
        >>> from qmtl.tasks import Task
        >>> circuit = HeadCircuit([Task.binary("a"), Task.binary("b")])
        >>> without_entanglers(circuit).light_cone("b").wires
        (2,)
    """
    check_circuit(circuit)
    blocks = {name: _unentangled(circuit.ansatz(name)) for name in circuit.registers}
    ablated = rebuilt(circuit, _unentangled(circuit.encoding), blocks)
    for name in ablated.registers:
        for gate in ablated.gates(name):
            if len(gate.wires) > 1:
                raise InvalidInputError(
                    f"the circuit of task {name!r} keeps its two-qubit gate {gate}: with "
                    f"{' or '.join(PATTERN_FIELDS)} 'none', {circuit.encoding} and "
                    f"{circuit.ansatz(name)} must not have two-qubit gates"
                )
    return ablated


def count_live_weights(circuit: HeadCircuit) -> int:
    """Count the circuit weights in at least one task's light cone; others have no effect.

    The count equals ``circuit.count_parameters().circuit`` for every catalogue design. For
    ablations it may be smaller, because they keep weights that no output depends on.

    Example:
        >>> from qmtl.tasks import Task
        >>> circuit = HeadCircuit([Task.binary("a"), Task.binary("b")])
        >>> count_live_weights(circuit), count_live_weights(without_entanglers(circuit))
        (16, 10)
    """
    check_circuit(circuit)
    return len(
        {
            (gate.angle.owner, gate.angle.weight)
            for name in circuit.registers
            for gate in circuit.light_cone(name).gates
            if gate.angle is not None and gate.angle.weight is not None
        }
    )


def _unentangled(part: Any) -> Any:
    if not is_dataclass(part) or isinstance(part, type):
        return part
    found = [f.name for f in fields(part) if f.name in PATTERN_FIELDS]
    return replace(part, **dict.fromkeys(found, "none"))


def rebuilt(
    circuit: HeadCircuit,
    encoding: Encoding | None = None,
    blocks: Mapping[str, Ansatz] | None = None,
    *,
    tasks: Sequence[Task] | None = None,
    readouts: Mapping[str, Readout] | None = None,
    like: Mapping[str, str] | None = None,
) -> HeadCircuit:
    """Return the same circuit, with the given parts replaced.

    Args:
        circuit: the circuit.
        encoding: the new encoding; None for the circuit's.
        blocks: new blocks by task name; other tasks keep their blocks.
        tasks: the new circuit's tasks; None for the circuit's.
        readouts: new readouts by task name; other tasks keep their readouts.
        like: for each task, the task of `circuit` whose block, readout and number of wires it gets;
            None for the task of the same name. Any other task gets the defaults.

    Example:
        >>> circuit = HeadCircuit([Task.binary("a"), Task.binary("b")], layout="shared", n_wires=4)
        >>> other = rebuilt(circuit, blocks={"a": IdentityAnsatz()})
        >>> other.n_wires, other.count_parameters().tasks
        (4, {'a': 0, 'b': 10})
    """
    tasks = circuit.tasks if tasks is None else tasks
    registers = circuit.registers
    if like is None:
        like = {task.name: task.name for task in tasks if task.name in registers}
    for own in like.values():
        if own not in registers:
            raise unknown_name("task in like:", own, registers)
    size: dict[str, Any] = (
        {"n_wires": circuit.n_wires}
        if circuit.layout == "shared"
        else {"wires_per_task": {name: len(registers[own].wires) for name, own in like.items()}}
    )
    return HeadCircuit(
        tasks,
        circuit.encoding if encoding is None else encoding,
        {name: circuit.ansatz(own) for name, own in like.items()} | dict(blocks or {}),
        layout=circuit.layout,
        readouts={name: registers[own].readout for name, own in like.items()}
        | dict(readouts or {}),
        **size,
    )
