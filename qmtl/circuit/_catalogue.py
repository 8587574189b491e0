"""Head circuits as plain data: descriptions of circuits, and designs in TOML files."""

import json
import math
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from qmtl._io import design_texts
from qmtl.circuit._ansatz import ANSATZE, Ansatz
from qmtl.circuit._encodings import ENCODINGS, Encoding, RegisterEncoding
from qmtl.circuit._head_circuit import HeadCircuit
from qmtl.circuit._readout import READOUTS, Layout
from qmtl.errors import InvalidInputError, as_path, unknown_name
from qmtl.tasks import Task, check_tasks

Classes = Mapping[str, type]


NO_CLASSES: Classes = types.MappingProxyType({})


# Encodings that a saved circuit may have; designs may only have those of `ENCODINGS`.
ALL_ENCODINGS: dict[str, Any] = {**ENCODINGS, "RegisterEncoding": RegisterEncoding}
BUILT_IN: dict[str, Any] = {**ALL_ENCODINGS, **ANSATZE, **READOUTS}


def part_to_dict(part: Any) -> dict[str, Any]:
    """Return the part's class name, as ``type``, and its dataclass fields."""
    kind = type(part).__name__
    if not is_dataclass(part):
        raise InvalidInputError(f"{kind} cannot be written: it must be a (frozen) dataclass")
    if BUILT_IN.get(kind, type(part)) is not type(part):
        raise InvalidInputError(f"{kind} cannot be written: qmtl has a class of that name")
    plain = {
        f.name: _plain(f"{kind}.{f.name}", getattr(part, f.name)) for f in fields(part) if f.init
    }
    return {"type": kind, **plain}


def _plain(where: str, value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(where, item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return part_to_dict(value)
    finite = type(value) is float and math.isfinite(value)
    if value is None or finite or type(value) in (bool, int, str):
        return value
    raise InvalidInputError(
        f"{where} cannot be written: expected numbers, text, booleans or tuples of them, "
        f"got {value!r}"
    )


def build_part(where: str, data: Any, known: Mapping[str, type], custom: Classes) -> Any:
    """Build the object that `data` describes by ``type`` and fields, if its class is known."""
    for name in custom:
        if name in BUILT_IN:
            raise InvalidInputError(f"custom: qmtl has a class named {name!r}; rename yours")
    check_keys(where, data, None, ["type"])
    classes = {**known, **custom}
    if data["type"] not in list(classes):
        raise unknown_name(f"{where} type", data["type"], classes)
    cls = classes[data["type"]]
    if not is_dataclass(cls):
        raise InvalidInputError(f"{where}: {data['type']} must be a dataclass, got {cls!r}")
    given = {
        key: build_part(f"{where}.{key}", value, known, custom)
        if isinstance(value, Mapping)
        else _as_tuples(value)
        for key, value in data.items()
        if key != "type"
    }
    check_keys(f"{where} ({data['type']})", given, [f.name for f in fields(cls) if f.init], [])
    check_types(f"{where} ({data['type']})", cls, given)
    try:
        return cls(**given)
    except TypeError as error:
        raise InvalidInputError(f"{where}: {error}") from None
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from None


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


def check_keys(where: str, data: Any, known: list[str] | None, required: list[str]) -> None:
    """Check that `data` is a table that has the required keys and no unknown ones."""
    if not isinstance(data, Mapping):
        raise InvalidInputError(f"{where}: expected a table of keys and values, got {data!r}")
    names = set(known or ())
    for key in data:
        if known is not None and key not in names:
            raise unknown_name(f"key in {where}:", key, known)
    for key in required:
        if key not in data:
            raise InvalidInputError(f"{where}: the key {key!r} is missing; got {list(data)}")


def check_types(where: str, cls: type, values: Mapping[str, Any]) -> None:
    """Check values from a file against the annotations of the class that takes them."""
    try:
        hints = get_type_hints(cls)
    except (NameError, TypeError):  # the annotations of a user's class may not resolve
        return
    for key, value in values.items():
        if key in hints and not fits(value, hints[key]):
            expected = getattr(hints[key], "__name__", None) or str(hints[key])
            if get_args(hints[key]):
                expected = str(hints[key]).replace("typing.", "")
            raise InvalidInputError(f"{where}: {key} must be {expected}, got {value!r}")


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value from a file fits a type annotation; True for unknown annotations."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple)
    if hint in (int, float):
        number = isinstance(value, (int, float) if hint is float else int)
        return number and not isinstance(value, bool)
    if hint in (str, bool, types.NoneType):
        return isinstance(value, hint)
    return True


VERSION = 1


def circuit_to_dict(circuit: HeadCircuit) -> dict[str, Any]:
    """Return a JSON-able description of a circuit; `circuit_from_dict` reads it.

    A user's encoding, ansatz or readout is stored by its class name and its dataclass fields. An
    ansatz that all tasks have is stored once; otherwise ``ansatz_per_task`` holds all blocks.

    Raises:
        InvalidInputError: if a part is not a dataclass, or JSON cannot hold the value of a field.
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
    """Return the circuit that `circuit_to_dict` described.

    Args:
        data: the description.
        custom: class names to classes, for your own encodings, blocks or readouts.

    Raises:
        InvalidInputError: for a missing or unknown key, type or field, or a value of the wrong
            type.

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
        raise InvalidInputError(f"circuit: version {VERSION} was expected, got {data['version']!r}")
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
    encoding: Any = build_part("encoding", data["encoding"], ALL_ENCODINGS, custom)
    readouts: Any = _build_each("readouts", data["readouts"], names, READOUTS, custom)
    return HeadCircuit(tasks, encoding, ansatz, layout=data["layout"], readouts=readouts, **sizes)


def _build_each(
    where: str, data: Any, names: list[str], known: Mapping[str, type], custom: Classes
) -> dict[str, Any]:
    check_keys(f"circuit: {where}", data, names, names)
    return {name: build_part(f"{where} of {name!r}", data[name], known, custom) for name in names}


@dataclass(frozen=True)
class Design:
    """A head circuit without its tasks, as a catalogue file holds it.

    Args:
        name: a short name, such as ``"cz-ring"``.
        description: one or two sentences.
        layout: ``"partitioned"`` or ``"shared"``.
        encoding: the shared encoding.
        ansatz: the block of every task.
        wires_per_task: (partitioned) number of wires of every register; None for `HeadCircuit`'s
            defaults.
        n_wires: (shared) number of wires of the common register; None for the largest number that a
            task needs.

    Example:
        >>> load_design("cz-ring").circuit([Task.binary("a"), Task.binary("b")]).n_wires
        4
    """

    name: str
    description: str
    layout: Layout
    encoding: Encoding
    ansatz: Ansatz
    wires_per_task: int | None = None
    n_wires: int | None = None

    def __post_init__(self) -> None:
        check_types(f"design {self.name!r}", type(self), vars(self))
        if self.layout == "shared" and self.wires_per_task is not None:
            raise InvalidInputError(f"design {self.name!r}: the shared layout takes n_wires only")
        if self.layout == "partitioned" and self.n_wires is not None:
            raise InvalidInputError(f"design {self.name!r}: n_wires is for the shared layout only")

    def circuit(self, tasks: Sequence[Task]) -> HeadCircuit:
        """Return the design's circuit for these tasks."""
        return HeadCircuit(
            tasks,
            self.encoding,
            self.ansatz,
            layout=self.layout,
            wires_per_task=self.wires_per_task,
            n_wires=self.n_wires,
        )


def list_designs() -> list[str]:
    """Return the names of the catalogue's designs, sorted.

    Example:
        >>> "cz-ring" in list_designs()
        True
    """
    return list(design_texts())


def load_design(name_or_path: str | Path, *, custom: Classes = NO_CLASSES) -> Design:
    """Load a design by its catalogue name, or from a file (a path with .toml or a separator).

    Raises:
        InvalidInputError: for an unknown name, or a file that cannot be read or does not fit.

    Example:
        >>> load_design("cz-ring").encoding.n_layers
        2
    """
    path, text = as_path(name_or_path, "name_or_path"), str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".toml") or "/" in text or "\\" in text:
        return design_from_toml(path, custom=custom)
    known = design_texts()
    if text not in known:
        raise unknown_name("circuit", text, known)
    return _read(known[text], f"circuit {text!r}", custom)


def design_from_toml(source: str | Path, *, custom: Classes = NO_CLASSES) -> Design:
    """Return a design from TOML: the text itself (a `str`), or a file (a `Path`).

    Raises:
        InvalidInputError: if the design cannot be read, or a key, type or value does not fit.
    """
    if isinstance(source, str):
        return _read(source, "design", custom)
    try:
        return _read(source.read_text(encoding="utf-8"), str(source), custom)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInputError(f"{source}: cannot be read as a design ({reason})") from None


def _read(text: str, where: str, custom: Classes) -> Design:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"{where}: not valid TOML: {error}") from None
    known = [field.name for field in fields(Design)]
    check_keys(where, data, known, known[:5])
    data["encoding"] = build_part(f"{where}: encoding", data["encoding"], ENCODINGS, custom)
    data["ansatz"] = build_part(f"{where}: ansatz", data["ansatz"], ANSATZE, custom)
    return Design(**data)


def to_toml(design: Design) -> str:
    """Return the design as TOML; equal designs give equal texts.

    Example:
        >>> print(to_toml(load_design("iqp")).split("[ansatz]")[1].strip())
        type = "RotationAnsatz"
        n_layers = 2
        entangler = "cz_ring"
    """
    top = {f.name: getattr(design, f.name) for f in fields(design)}
    parts = {key: part_to_dict(top.pop(key)) for key in ("encoding", "ansatz")}
    sections = [top, *parts.values()]
    titles = ["", *(f"\n[{key}]\n" for key in parts)]
    return "".join(
        title + "".join(f"{k} = {_toml(v)}\n" for k, v in section.items() if v is not None)
        for title, section in zip(titles, sections, strict=True)
    )


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if value is None:
        raise InvalidInputError("TOML cannot hold None within a list")
    # JSON and TOML write strings, numbers and booleans alike, except for the control character DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
