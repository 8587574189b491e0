"""Designs: head circuits without their tasks, from the catalogue or from TOML files."""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from qmtl.circuit._ansatz import ANSATZE, Ansatz
from qmtl.circuit._description import (
    NO_CLASSES,
    Classes,
    build_part,
    check_keys,
    check_types,
    part_to_dict,
)
from qmtl.circuit._encodings import ENCODINGS, Encoding
from qmtl.circuit._head_circuit import HeadCircuit
from qmtl.circuit._readout import Layout
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import Task


@dataclass(frozen=True)
class Design:
    """A head circuit without its tasks, as a catalogue file holds it.

    Args:
        name: short, such as ``"cz-ring"``.
        description: one or two sentences.
        layout: ``"partitioned"`` or ``"shared"``.
        encoding: the shared encoding.
        ansatz: the block of every task.
        wires_per_task: (partitioned) wires of every register; None for `HeadCircuit`'s defaults.
        n_wires: (shared) wires of the one register; None for the most that any task needs.

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
        """The design's circuit for these tasks."""
        return HeadCircuit(
            tasks,
            self.encoding,
            self.ansatz,
            layout=self.layout,
            wires_per_task=self.wires_per_task,
            n_wires=self.n_wires,
        )


def _folder() -> Traversable:
    installed = files("qmtl") / "circuits"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "circuits"


def list_designs() -> list[str]:
    """Names of the catalogue's designs, sorted.

    Example:
        >>> "cz-ring" in list_designs()
        True
    """
    folder = _folder()
    entries = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(name.removesuffix(".toml") for name in entries if name.endswith(".toml"))


def load_design(name_or_path: str | Path, *, custom: Classes = NO_CLASSES) -> Design:
    """A design of the catalogue by name, or one from a file (ends in .toml, or has a separator).

    Raises:
        InvalidInputError: for an unknown name, or a file that cannot be read or does not fit.

    Example:
        >>> load_design("cz-ring").encoding.n_layers
        2
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".toml") or "/" in text or "\\" in text:
        return design_from_toml(Path(name_or_path), custom=custom)
    known = list_designs()
    if text not in known:
        raise unknown_name("circuit", text, known)
    source = (_folder() / f"{text}.toml").read_text(encoding="utf-8")
    return _read(source, f"circuit {text!r}", custom)


def design_from_toml(source: str | Path, *, custom: Classes = NO_CLASSES) -> Design:
    """A design from TOML: the text itself (a `str`), or a file (a `Path`).

    Raises:
        InvalidInputError: if it cannot be read, or a key, type or value does not fit.

    Example:
        >>> design_from_toml(to_toml(load_design("iqp"))) == load_design("iqp")
        True
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
    """The design as TOML; the same design gives the same text.

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
        raise InvalidInputError("TOML holds no None within a list")
    # JSON's strings, numbers and booleans are TOML's, except for the control character DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
