"""One head circuit as JSON-able data, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

from qmtl.circuit._ansatz import ANSATZE
from qmtl.circuit._catalogue._parts import (
    NO_CLASSES,
    Classes,
    build_part,
    check_keys,
    fits,
    part_to_dict,
)
from qmtl.circuit._encodings import ENCODINGS
from qmtl.circuit._head_circuit import HeadCircuit
from qmtl.circuit._readout import READOUTS
from qmtl.errors import InvalidInputError
from qmtl.tasks import Task, check_tasks

__all__ = ["circuit_from_dict", "circuit_to_dict"]

VERSION = 1


def circuit_to_dict(circuit: HeadCircuit) -> dict[str, Any]:
    """A JSON-able description of a circuit; `circuit_from_dict` reads it.

    A user's encoding, ansatz or readout is written by its class name and its dataclass fields.
    The ansatz is written once when all tasks have the same, else under ``ansatz_per_task``.

    Raises:
        InvalidInputError: if a part is no dataclass, or a field holds what JSON cannot.

    Example:
        >>> description = circuit_to_dict(HeadCircuit([Task.binary("a")]))
        >>> description["ansatz"], description["wires_per_task"]
        ({'type': 'RotationAnsatz', 'n_layers': 2, 'entangler': 'cz_ring'}, {'a': 2})
    """
    names = list(circuit.registers)
    blocks = {name: circuit.ansatz(name) for name in names}
    data: dict[str, Any] = {
        "version": VERSION,
        "layout": circuit.layout,
        "tasks": [task.to_dict() for task in circuit.tasks],
        "encoding": part_to_dict(circuit.encoding),
    }
    if all(block == blocks[names[0]] for block in blocks.values()):
        data["ansatz"] = part_to_dict(blocks[names[0]])
    else:
        data["ansatz_per_task"] = {name: part_to_dict(block) for name, block in blocks.items()}
    registers = circuit.registers.items()
    data["readouts"] = {name: part_to_dict(register.readout) for name, register in registers}
    if circuit.layout == "shared":
        data["n_wires"] = circuit.n_wires
    else:
        data["wires_per_task"] = {name: len(register.wires) for name, register in registers}
    return data


def circuit_from_dict(data: Mapping[str, Any], *, custom: Classes = NO_CLASSES) -> HeadCircuit:
    """The circuit that `circuit_to_dict` described.

    Args:
        data: the description.
        custom: class names to classes, for encodings, blocks or readouts that are not qmtl's.

    Raises:
        InvalidInputError: for a missing or unknown key, type or field, or a value of another kind.

    Example:
        >>> circuit = HeadCircuit([Task.binary("a")])
        >>> circuit_from_dict(circuit_to_dict(circuit)) == circuit
        True
    """
    size = "n_wires" if isinstance(data, Mapping) and "n_wires" in data else "wires_per_task"
    block = "ansatz" if isinstance(data, Mapping) and "ansatz" in data else "ansatz_per_task"
    required = ["version", "layout", "tasks", "encoding", block, "readouts", size]
    check_keys("circuit", data, required, required)
    if data["version"] != VERSION:
        raise InvalidInputError(f"circuit: version {data['version']!r} came, {VERSION} is read")
    if not isinstance(data["tasks"], Sequence) or isinstance(data["tasks"], str):
        raise InvalidInputError(f"circuit: tasks must be a list, got {data['tasks']!r}")
    tasks = check_tasks([Task.from_dict(task) for task in data["tasks"]])
    names = [task.name for task in tasks]
    sizes: dict[str, Any] = {size: data[size]}
    if size == "wires_per_task":
        check_keys("circuit: wires_per_task", data[size], names, names)
    elif data["layout"] == "shared" and not fits(data[size], int):
        raise InvalidInputError(f"circuit: n_wires must be an integer, got {data[size]!r}")
    ansatz: Any
    if block == "ansatz":
        ansatz = build_part("ansatz", data[block], ANSATZE, custom)
    else:
        ansatz = _build_each("ansatz_per_task", data[block], names, ANSATZE, custom)
    encoding: Any = build_part("encoding", data["encoding"], ENCODINGS, custom)
    readouts: Any = _build_each("readouts", data["readouts"], names, READOUTS, custom)
    return HeadCircuit(tasks, encoding, ansatz, layout=data["layout"], readouts=readouts, **sizes)


def _build_each(
    where: str, data: Any, names: list[str], known: Mapping[str, type], custom: Classes
) -> dict[str, Any]:
    check_keys(f"circuit: {where}", data, names, names)
    return {name: build_part(f"{where} of {name!r}", data[name], known, custom) for name in names}
