"""Drawings of head circuits, as text and as SVG, from one placement of gates in columns."""

from html import escape

from qmtl.circuit.gates import Gate
from qmtl.circuit.head_circuit import HeadCircuit

__all__ = ["draw_svg", "draw_text"]

# Colour-blind safe (Okabe and Ito), one per task in turn; the encoding is grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
Column = list[Gate]


def _columns(circuit: HeadCircuit, task: str | None) -> tuple[list[Column], str | None]:
    if circuit.layout == "shared" and task is None:
        task = circuit.tasks[0].name
    level = [0] * circuit.n_wires
    columns: list[Column] = []
    for gate in circuit.gates(task):
        # A two-wire gate takes the whole span between its wires, so that lines never cross it.
        span = range(min(gate.wires), max(gate.wires) + 1)
        place = max(level[w] for w in span)
        if place == len(columns):
            columns.append([])
        columns[place].append(gate)
        for w in span:
            level[w] = place + 1
    return columns, task


def _marks(gate: Gate) -> dict[int, str]:
    if len(gate.wires) == 1:
        name = "H" if gate.name == "Hadamard" else gate.name
        return {gate.wires[0]: f"{name}({gate.angle})" if gate.angle else name}
    first, second = gate.wires
    if gate.name == "IsingZZ":
        return {first: f"ZZ({gate.angle})", second: "ZZ"}
    return {first: "●", second: "●" if gate.name == "CZ" else "⊕"}


def _readouts(circuit: HeadCircuit, task: str | None) -> dict[int, str]:
    marks = {}
    for name, register in circuit.registers.items():
        if task is None or name == task:
            symbol = "P" if register.readout.is_probability else "⟨Z⟩"
            for i in register.readout.read_wires(len(register.wires)):
                marks[register.wires[i]] = symbol
    return marks


def _labels(circuit: HeadCircuit, task: str | None) -> list[str]:
    owner = [""] * circuit.n_wires
    for name, register in circuit.registers.items():
        for w in register.wires:
            if task is None or name == task:
                owner[w] = name
    width = max(map(len, owner))
    digits = len(str(circuit.n_wires - 1))
    return [f"{name:<{width}} {w:>{digits}}" for w, name in enumerate(owner)]


def draw_text(circuit: HeadCircuit, task: str | None = None, *, max_wires: int = 16) -> str:
    """One line per wire; at most `max_wires` lines, then how many more there are."""
    columns, task = _columns(circuit, task)
    lines = [f"{label}: ─" for label in _labels(circuit, task)]
    for column in columns:
        marks = {wire: mark for gate in column for wire, mark in _marks(gate).items()}
        for gate in column:
            for wire in range(min(gate.wires) + 1, max(gate.wires)):
                marks.setdefault(wire, "│")
        width = max(map(len, marks.values())) + 1
        lines = [line + marks.get(w, "").ljust(width, "─") for w, line in enumerate(lines)]
    ends = _readouts(circuit, task)
    lines = [line + ends.get(w, "───") for w, line in enumerate(lines)]
    if len(lines) > max_wires:
        lines = [*lines[:max_wires], f"… and {len(lines) - max_wires} more wires"]
    return "\n".join(lines)


def draw_svg(circuit: HeadCircuit, task: str | None = None) -> str:
    """A drawing in SVG: grey gates encode, coloured gates belong to a task's block."""
    columns, task = _columns(circuit, task)
    colour = {
        name: COLOURS[i % len(COLOURS)]
        for i, name in enumerate(circuit.registers)
        if task is None or name == task
    }
    n_encoding = len(circuit.encoding_gates)
    block = {id(gate) for gate in circuit.gates(task)[n_encoding:]}
    wire_colour = {
        w: colour[name]
        for name, register in circuit.registers.items()
        if name in colour
        for w in register.wires
    }
    labels = _labels(circuit, task)
    left = 12 + 7 * max(map(len, labels))
    cell, row = 84, 34
    width, height = left + cell * len(columns) + 60, row * circuit.n_wires + 20
    y = [20 + row * w for w in range(circuit.n_wires)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="monospace" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for w, label in enumerate(labels):
        parts.append(f'<text x="6" y="{y[w] + 4}" fill="{wire_colour[w]}">{escape(label)}</text>')
        parts.append(f'<path d="M{left} {y[w]}H{width - 50}" stroke="#999"/>')
    for i, column in enumerate(columns):
        for gate in column:
            fill = wire_colour[gate.wires[0]] if id(gate) in block else "#555"
            parts += _svg_gate(gate, left + cell * i + cell // 2, y, fill)
    for w, mark in _readouts(circuit, task).items():
        parts.append(f'<text x="{width - 44}" y="{y[w] + 4}" fill="#222">{mark}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _svg_gate(gate: Gate, x: int, y: list[int], fill: str) -> list[str]:
    parts = []
    if len(gate.wires) == 2:
        a, b = (y[w] for w in gate.wires)
        parts.append(f'<path d="M{x} {a}V{b}" stroke="{fill}" stroke-width="1.5"/>')
    for wire, mark in _marks(gate).items():
        if mark in "●⊕":
            hollow = f' stroke="{fill}" stroke-width="1.5"' if mark == "⊕" else ""
            inside = "white" if mark == "⊕" else fill
            radius = 8 if mark == "⊕" else 4
            parts.append(f'<circle cx="{x}" cy="{y[wire]}" r="{radius}" fill="{inside}"{hollow}/>')
            if mark == "⊕":
                cross = f"M{x - 8} {y[wire]}h16M{x} {y[wire] - 8}v16"
                parts.append(f'<path d="{cross}" stroke="{fill}" stroke-width="1.5"/>')
        else:
            parts.append(
                f'<rect x="{x - 38}" y="{y[wire] - 11}" width="76" height="22" rx="3" '
                f'fill="white" stroke="{fill}"/>'
            )
            parts.append(
                f'<text x="{x}" y="{y[wire] + 4}" fill="{fill}" '
                f'text-anchor="middle">{escape(mark)}</text>'
            )
    return parts
