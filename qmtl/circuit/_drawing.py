"""A head circuit to look at: drawings as text and as SVG, and tables of its counts and tasks."""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from itertools import islice
from typing import Any

from markupsafe import Markup

from qmtl._html import drawing
from qmtl.circuit._gates import Gate
from qmtl.circuit._head_circuit import HeadCircuit
from qmtl.circuit._readout import Register
from qmtl.errors import InvalidInputError

__all__ = ["circuit_drawing", "circuit_facts", "draw_svg", "draw_text", "task_rows"]

# Colour-blind safe (Okabe and Ito), one per task in turn; the encoding is grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


ENCODING_COLOUR = "#777"


INK = "#222"


ROW = 34  # pixels from wire to wire


FAINT = ' opacity="0.2"'


CHARACTER = 7  # pixels that a character takes


@dataclass(frozen=True)
class _Column:
    """Gates on disjoint wires, and which of them belong to a task's block."""

    gates: list[Gate]
    in_block: list[bool]


def _columns(circuit: HeadCircuit, task: str | None) -> tuple[list[_Column], str | None]:
    if circuit.layout == "shared" and task is None:
        task = circuit.tasks[0].name
    level = [0] * circuit.n_wires
    columns: list[_Column] = []
    for position, gate in enumerate(circuit.gates(task)):
        # A two-wire gate takes the whole span between its wires, so that lines never cross it.
        span = range(min(gate.wires), max(gate.wires) + 1)
        place = max(level[w] for w in span)
        if place == len(columns):
            columns.append(_Column([], []))
        columns[place].gates.append(gate)
        columns[place].in_block.append(position >= len(circuit.encoding_gates))
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


def draw_text(
    circuit: HeadCircuit,
    task: str | None = None,
    *,
    max_wires: int = 16,
    max_width: int | None = None,
) -> str:
    """One line per wire, in several parts one below the other where it is too wide.

    Args:
        circuit: what to draw.
        task: picks one circuit of the shared layout (None: the first).
        max_wires: lines at the most; then how many more wires there are.
        max_width: characters of a line at the most; None for any number.

    Raises:
        InvalidInputError: if `max_wires` or `max_width` is less than 1.

    Example:
        >>> from qmtl.tasks import Task
        >>> circuit = HeadCircuit([Task.binary("a"), Task.binary("b")])
        >>> print(draw_text(circuit, max_wires=1, max_width=40))
        a 0: ─RY(x[0])─RZ(encoding[0])─●───●─…
        <BLANKLINE>
        a 0: …─RY(x[0])─●───●─RZ(a[0])─…
        <BLANKLINE>
        a 0: …─RY(a[2])─●─RZ(a[4])─RY(a[5])─⟨Z⟩
        … and 3 more wires
    """
    for name, most in (("max_wires", max_wires), ("max_width", max_width)):
        if most is not None and most < 1:
            raise InvalidInputError(f"{name} must be >= 1, got {most}")
    columns, task = _columns(circuit, task)
    shown = range(min(circuit.n_wires, max_wires))
    labels = [f"{label}: " for label in _labels(circuit, task)]
    ends = _readouts(circuit, task)
    drawn = [_text_column(column) for column in columns]
    widths = [max(map(len, column.values())) for column in drawn]
    for column, width in zip(drawn, widths, strict=True):
        column |= {w: column.get(w, "").ljust(width, "─") for w in shown}
    # The readouts come last, and nothing follows them.
    drawn.append({w: ends.get(w, "───") for w in shown})
    widths.append(3)
    parts: list[str] = []
    first = 0
    while first < len(drawn):
        # Two characters before and after are for the marks of a part that goes on.
        left = None if max_width is None else max_width - len(labels[0]) - 2 - 2
        last, used = first + 1, widths[first]
        while last < len(drawn) and (
            left is None or used + 1 + widths[last] <= left + 2 * (last == len(drawn) - 1)
        ):
            used += 1 + widths[last]
            last += 1
        before, after = "…─" if first else "─", "─…" if last < len(drawn) else ""
        lines = ("─".join(column[w] for column in drawn[first:last]) for w in shown)
        parts.append(
            "\n".join(
                f"{labels[w]}{before}{line}{after}" for w, line in zip(shown, lines, strict=True)
            )
        )
        first = last
    text = "\n\n".join(parts)
    hidden = circuit.n_wires - len(shown)
    return f"{text}\n… and {hidden} more wires" if hidden else text


def _text_column(column: _Column) -> dict[int, str]:
    marks = {wire: mark for gate in column.gates for wire, mark in _marks(gate).items()}
    for gate in column.gates:
        for wire in range(min(gate.wires) + 1, max(gate.wires)):
            marks.setdefault(wire, "│")
    return marks


def draw_svg(
    circuit: HeadCircuit, task: str | None = None, *, light_cone: str | None = None
) -> str:
    """A drawing in SVG: grey gates encode, coloured gates belong to a task's block.

    Args:
        circuit: what to draw.
        task: picks one circuit of the shared layout (None: the first).
        light_cone: a task; gates and wires that its output does not depend on are drawn faintly.

    Example:
        >>> from qmtl.tasks import Task
        >>> draw_svg(HeadCircuit([Task.binary("a")])).startswith("<svg ")
        True
    """
    if light_cone is not None and circuit.layout == "shared":
        task = light_cone
    columns, task = _columns(circuit, task)
    is_faint = _faint_gates(circuit, light_cone)
    seen = range(circuit.n_wires) if light_cone is None else circuit.light_cone(light_cone).wires
    labels = _labels(circuit, task)
    colours = _wire_colours(circuit, task)
    widths = [_column_width(column) for column in columns]
    left = 12 + CHARACTER * max(map(len, labels))
    right = left + sum(widths) + 10
    width, height = right + 34, ROW * circuit.n_wires + 6
    y = [20 + ROW * w for w in range(circuit.n_wires)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="monospace" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for w, label in enumerate(labels):
        colour = colours.get(w, ENCODING_COLOUR)
        parts.append(f'<text x="6" y="{y[w] + 4}" fill="{colour}">{escape(label)}</text>')
        stroke = f'stroke="#999"{"" if w in seen else FAINT}'
        parts.append(f'<path d="M{left} {y[w]}H{right}" {stroke}/>')
    x = left
    for column, column_width in zip(columns, widths, strict=True):
        for gate, in_block in zip(column.gates, column.in_block, strict=True):
            colour = colours[gate.wires[0]] if in_block else ENCODING_COLOUR
            drawn = _svg_gate(gate, x + column_width // 2, y, colour)
            parts += [f"<g{FAINT}>", *drawn, "</g>"] if is_faint(gate, in_block) else drawn
        x += column_width
    for w, mark in _readouts(circuit, light_cone or task).items():
        parts.append(f'<text x="{right + 6}" y="{y[w] + 4}" fill="{INK}">{mark}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _faint_gates(circuit: HeadCircuit, light_cone: str | None) -> Callable[[Gate, bool], bool]:
    """Tells a gate (of a block or not) outside the light cone; without a cone there is none."""
    if light_cone is None:
        return lambda gate, in_block: False
    cone = circuit.light_cone(light_cone)
    # By identity: layers of the encoding repeat gates that compare equal.
    encoding, block = {id(gate) for gate in cone.encoding}, set(cone.block)
    return lambda gate, in_block: gate not in block if in_block else id(gate) not in encoding


def _wire_colours(circuit: HeadCircuit, task: str | None) -> dict[int, str]:
    return {
        w: COLOURS[i % len(COLOURS)]
        for i, (name, register) in enumerate(circuit.registers.items())
        if task is None or name == task
        for w in register.wires
    }


def _box_width(mark: str) -> int:
    return max(30, CHARACTER * len(mark) + 10)


def _column_width(column: _Column) -> int:
    marks = [mark for gate in column.gates for mark in _marks(gate).values()]
    return max(24 if mark in "●⊕" else _box_width(mark) + 8 for mark in marks)


def _svg_gate(gate: Gate, x: int, y: list[int], colour: str) -> list[str]:
    parts = []
    if len(gate.wires) == 2:
        a, b = (y[w] for w in gate.wires)
        parts.append(f'<path d="M{x} {a}V{b}" stroke="{colour}" stroke-width="1.5"/>')
    for wire, mark in _marks(gate).items():
        parts += _svg_mark(mark, x, y[wire], colour)
    return parts


def _svg_mark(mark: str, x: int, y: int, colour: str) -> list[str]:
    if mark == "●":
        return [f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>']
    if mark == "⊕":
        stroke = f'stroke="{colour}" stroke-width="1.5"'
        return [
            f'<circle cx="{x}" cy="{y}" r="8" fill="white" {stroke}/>',
            f'<path d="M{x - 8} {y}h16M{x} {y - 8}v16" {stroke}/>',
        ]
    width = _box_width(mark)
    return [
        f'<rect x="{x - width // 2}" y="{y - 11}" width="{width}" height="22" rx="3" '
        f'fill="white" stroke="{colour}"/>',
        f'<text x="{x}" y="{y + 4}" fill="{INK}" text-anchor="middle">{escape(mark)}</text>',
    ]


# A drawing of more wires than a screen holds is no drawing.
MOST_WIRES = 24


MOST_TASKS = 24


def circuit_drawing(circuit: HeadCircuit) -> Markup:
    """The circuit as SVG, or the first wires as text where there are too many for it."""
    if circuit.n_wires > MOST_WIRES:
        return drawing(draw_text(circuit))
    svg = draw_svg(circuit).replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)
    return drawing(Markup(svg))


def circuit_facts(circuit: HeadCircuit) -> dict[str, object]:
    """Counts of the whole circuit, by name."""
    count = circuit.count_parameters()
    return {
        "layout": circuit.layout,
        "encoding": str(circuit.encoding),
        "wires": circuit.n_wires,
        "features": circuit.n_features,
        "depth": circuit.depth,
        "two-qubit gates": f"{circuit.two_qubit_gates:,} (depth {circuit.two_qubit_depth})",
        "parameters": f"{count.total:,}: encoding {count.encoding:,}, tasks "
        f"{sum(count.tasks.values()):,}, scales {count.scales:,}",
    }


def task_rows(circuit: HeadCircuit) -> list[dict[str, Any]]:
    """A row for each of the first 24 tasks: its register, what is read, what it depends on.

    Example:
        >>> from qmtl.tasks import Task
        >>> task_rows(HeadCircuit([Task.binary("a"), Task.binary("b")]))[0]["light cone"]
        '4 wires: 0–3'
    """
    return [
        _task_row(circuit, name, register)
        for name, register in islice(circuit.registers.items(), MOST_TASKS)
    ]


def _task_row(circuit: HeadCircuit, name: str, register: Register) -> dict[str, Any]:
    cone = circuit.light_cone(name).wires
    return {
        "task": name,
        "kind": register.task.kind,
        "outputs": register.task.n_outputs,
        "register": _span(register.wires),
        "readout": "probabilities" if register.readout.is_probability else "⟨Z⟩",
        "light cone": f"{_count(len(cone), 'wire')}: {_span(cone)}",
        "weights": circuit.n_weights(name),
    }


def _span(wires: tuple[int, ...]) -> str:
    """Wires as ranges: those of a ring may end at its last wire and go on at its first."""
    parts: list[list[int]] = []
    for wire in sorted(wires):
        if parts and wire == parts[-1][1] + 1:
            parts[-1][1] = wire
        else:
            parts.append([wire, wire])
    return ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in parts)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
