"""Drawings of a head circuit as text and as SVG, and tables of its counts and tasks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from itertools import islice
from typing import Any

from markupsafe import Markup

from qmtl._html import counted, drawing, facts, table
from qmtl.circuit._gates import Angle, Gate
from qmtl.circuit._head_circuit import HeadCircuit, check_circuit
from qmtl.circuit._readout import Register
from qmtl.errors import check_integer

# Colour-blind safe colours (Okabe and Ito), which tasks take in turn; the encoding is grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
ENCODING_COLOUR = "#808080"
ROW = 36  # pixels between two wires
BOX = 26  # height of a box
FAINT = ' opacity="0.2"'
CHARACTER = 6.7  # width of a character in pixels
MOST_NAME = 16  # most characters of a task's name
PAGE = 940  # width of a page in pixels
# Pictures with more wires do not fit on a screen.
MOST_WIRES = 24
MOST_TASKS = 24
# Style of a drawing in a separate file: the background follows the reader's light or dark mode.
STYLE = (
    "<style>svg{color:#222;background:#fff}"
    "@media(prefers-color-scheme:dark){svg{color:#ddd;background:#16191d}}</style>"
)


@dataclass(frozen=True)
class _Column:
    """Gates on disjoint wires, and the position of each among the circuit's gates."""

    gates: list[Gate]
    positions: list[int]


def _columns(circuit: HeadCircuit, task: str | None) -> tuple[list[_Column], str | None]:
    if circuit.layout == "shared" and task is None:
        task = circuit.tasks[0].name
    level = [0] * circuit.n_wires
    columns: list[_Column] = []
    for position, gate in enumerate(circuit.gates(task)):
        # A two-wire gate also occupies the wires in between, so that its line crosses no gate.
        span = range(min(gate.wires), max(gate.wires) + 1)
        place = max(level[w] for w in span)
        if place == len(columns):
            columns.append(_Column([], []))
        columns[place].gates.append(gate)
        columns[place].positions.append(position)
        for w in span:
            level[w] = place + 1
    return columns, task


def _marks(gate: Gate, written: Callable[[Angle], str]) -> dict[int, tuple[str, str]]:
    """Return, for each wire of a gate, its symbol and the text beside it: the angle, or none."""
    angle = "" if gate.angle is None else written(gate.angle)
    if len(gate.wires) == 1:
        return {gate.wires[0]: ("H" if gate.name == "Hadamard" else gate.name, angle)}
    first, second = gate.wires
    if gate.name == "IsingZZ":
        return {first: ("ZZ", angle), second: ("ZZ", "")}
    return {first: ("●", ""), second: ("●" if gate.name == "CZ" else "⊕", "")}


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
    """Draw the circuit as text, one line per wire; a wide drawing continues below.

    Args:
        circuit: the circuit to draw.
        task: the task whose circuit to draw in the shared layout (None: the first).
        max_wires: most wires to draw; a last line counts the other wires.
        max_width: most characters of a line; None for no limit.

    Raises:
        InvalidInputError: if `max_wires` or `max_width` is less than 1.
    """
    for name, most in (("max_wires", max_wires), ("max_width", max_width)):
        if most is not None:
            check_integer(name, most)
    check_circuit(circuit)
    columns, task = _columns(circuit, task)
    shown = range(min(circuit.n_wires, max_wires))
    labels = [f"{label}: " for label in _labels(circuit, task)]
    ends = _readouts(circuit, task)
    drawn = [_text_column(column) for column in columns]
    widths = [max(map(len, column.values())) for column in drawn]
    for column, width in zip(drawn, widths, strict=True):
        column |= {w: column.get(w, "").ljust(width, "─") for w in shown}
    # The readouts are the last column.
    drawn.append({w: ends.get(w, "───") for w in shown})
    widths.append(3)
    parts: list[str] = []
    first = 0
    while first < len(drawn):
        # Two characters at each end are for the marks of continued lines.
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
    marks = {}
    for gate in column.gates:
        for wire, (name, angle) in _marks(gate, str).items():
            marks[wire] = f"{name}({angle})" if angle else name
        for wire in range(min(gate.wires) + 1, max(gate.wires)):
            marks.setdefault(wire, "│")
    return marks


def draw_svg(
    circuit: HeadCircuit,
    task: str | None = None,
    *,
    light_cone: str | None = None,
    max_width: int | None = PAGE,
    inline: bool = False,
) -> str:
    """Return a drawing in SVG, in the colours of the reader's light or dark mode.

    A box names the feature ``x`` or weight ``w`` in its angle. The box is grey for the encoding,
    and has the task's colour for a block.

    Args:
        circuit: the circuit to draw.
        task: the task whose circuit to draw in the shared layout (None: the first).
        light_cone: a task's name, to draw gates and wires outside its light cone faintly.
        max_width: largest width in pixels; a wider drawing continues below. None for no limit.
        inline: whether the drawing is part of a page, and takes the page's colours.

    Example:
        >>> from qmtl.tasks import Task
        >>> draw_svg(HeadCircuit([Task.binary("a")])).startswith("<svg ")
        True
    """
    check_circuit(circuit)
    if max_width is not None:
        check_integer("max_width", max_width)
    if light_cone is not None and circuit.layout == "shared":
        task = light_cone
    columns, task = _columns(circuit, task)
    cone = _cone_positions(circuit, task, light_cone)
    seen = range(circuit.n_wires) if light_cone is None else circuit.light_cone(light_cone).wires
    colours = _wire_colours(circuit, task)
    names = _wire_names(circuit, task)
    left = 16 + round(CHARACTER * max(map(len, names)))
    widths = [_column_width(column) for column in columns]
    bands = _bands(widths, None if max_width is None else max_width - left - 44)
    width = left + max(sum(widths[i] for i in band) for band in bands) + 44
    band_height = ROW * circuit.n_wires + 14
    height = band_height * len(bands) - 8
    parts: list[str] = []
    for number, band in enumerate(bands):
        top = band_height * number
        y = [top + 20 + ROW * w for w in range(circuit.n_wires)]
        for w, name in enumerate(names):
            if w in colours:
                bar = f'x="2" y="{y[w] - ROW // 2}" width="4" height="{ROW}"'
                parts.append(f'<rect {bar} fill="{colours[w]}"/>')
            parts.append(f'<text x="10" y="{y[w] + 4}">{escape(name)}</text>')
        x = left
        boxes: list[tuple[int, int, int]] = []
        drawn: list[str] = []
        for i in band:
            column = columns[i]
            for gate, position in zip(column.gates, column.positions, strict=True):
                in_block = position >= len(circuit.encoding_gates)
                colour = colours[gate.wires[0]] if in_block else ENCODING_COLOUR
                shapes = _svg_gate(gate, x + widths[i] // 2, y, colour, boxes)
                is_faint = cone is not None and position not in cone
                drawn += [f"<g{FAINT}>", *shapes, "</g>"] if is_faint else shapes
            x += widths[i]
        end = x + 8
        for w in range(circuit.n_wires):
            stroke = f'stroke="currentColor" stroke-opacity="{0.5 if w in seen else 0.12}"'
            # Boxes are transparent, so wires must stop at their sides.
            cuts = sorted((a, b) for wire, a, b in boxes if wire == w)
            edges = [left, *(edge for cut in cuts for edge in cut), end]
            path = "".join(f"M{a} {y[w]}H{b}" for a, b in zip(edges[::2], edges[1::2], strict=True))
            parts.append(f'<path class="wire" d="{path}" {stroke}/>')
        parts += drawn
        if number == len(bands) - 1:
            for w, mark in _readouts(circuit, light_cone or task).items():
                parts.append(f'<text x="{end + 5}" y="{y[w] + 4}">{mark}</text>')
        else:
            parts += [f'<text x="{end + 5}" y="{y_w + 4}">…</text>' for y_w in y]
    start = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="monospace" font-size="11" '
        f'fill="currentColor">'
    )
    return "\n".join([start, *([] if inline else [STYLE]), *parts, "</svg>", ""])


def _bands(widths: list[int], most: int | None) -> list[list[int]]:
    """Split the columns into groups that each fit into the width."""
    bands: list[list[int]] = [[]]
    used = 0
    for i, width in enumerate(widths):
        if most is not None and bands[-1] and used + width > most:
            bands.append([])
            used = 0
        bands[-1].append(i)
        used += width
    return bands


def _wire_names(circuit: HeadCircuit, task: str | None) -> list[str]:
    """Return the number of each wire, with the task's name on the first wire of each register."""
    digits = len(str(circuit.n_wires - 1))
    names = [f"{w:>{digits}}" for w in range(circuit.n_wires)]
    for name, register in circuit.registers.items():
        if task is None or name == task:
            short = name if len(name) <= MOST_NAME else f"{name[: MOST_NAME - 1]}…"
            names[register.wires[0]] += f" {short}"
    return names


def _cone_positions(
    circuit: HeadCircuit, task: str | None, light_cone: str | None
) -> set[int] | None:
    """Return the positions of a light cone's gates among the gates that are drawn."""
    if light_cone is None:
        return None
    cone, found = circuit.light_cone(light_cone), set[int]()
    start = len(circuit.encoding_gates)
    for name in circuit.registers if task is None else [task]:
        if name == light_cone:
            found = {start + position for position in cone.block_positions}
        start += len(circuit.block_gates(name))
    return found.union(cone.positions)


def _wire_colours(circuit: HeadCircuit, task: str | None) -> dict[int, str]:
    return {
        w: COLOURS[i % len(COLOURS)]
        for i, (name, register) in enumerate(circuit.registers.items())
        if task is None or name == task
        for w in register.wires
    }


def _short(angle: Angle) -> str:
    """Write an angle without the owner of its weight, which the colour shows."""
    factors = [f"x{i}" for i in angle.features]
    factors += [] if angle.weight is None else [f"w{angle.weight}"]
    number = f"{angle.constant:.3g}"
    if not factors:
        return number
    if angle.constant == 1.0:
        return "·".join(factors)
    return "-" + "·".join(factors) if angle.constant == -1.0 else "·".join([number, *factors])


def _box_width(mark: tuple[str, str]) -> int:
    return max(28, round(CHARACTER * max(map(len, mark))) + 8)


def _column_width(column: _Column) -> int:
    marks = [mark for gate in column.gates for mark in _marks(gate, _short).values()]
    return max(22 if mark[0] in "●⊕" else _box_width(mark) + 6 for mark in marks)


def _svg_gate(
    gate: Gate, x: int, y: list[int], colour: str, boxes: list[tuple[int, int, int]]
) -> list[str]:
    """Return the SVG shapes of a gate, and append its boxes (wire, left, right) to `boxes`."""
    parts = []
    if len(gate.wires) == 2:
        a, b = sorted(y[w] for w in gate.wires)
        inset = BOX // 2 if gate.name == "IsingZZ" else 0
        line = f'd="M{x} {a + inset}V{b - inset}" stroke="{colour}" stroke-width="1.5"'
        parts.append(f"<path {line}/>")
    for wire, mark in _marks(gate, _short).items():
        if mark[0] not in "●⊕":
            width = _box_width(mark)
            boxes.append((wire, x - width // 2, x - width // 2 + width))
        parts += _svg_mark(mark, x, y[wire], colour)
    return parts


def _svg_mark(mark: tuple[str, str], x: int, y: int, colour: str) -> list[str]:
    if mark[0] == "●":
        return [f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>']
    if mark[0] == "⊕":
        stroke = f'stroke="{colour}" stroke-width="1.5"'
        return [
            f'<circle cx="{x}" cy="{y}" r="8" fill="none" {stroke}/>',
            f'<path d="M{x - 8} {y}h16M{x} {y - 8}v16" {stroke}/>',
        ]
    width = _box_width(mark)
    name, angle = mark
    lines = [(name, y - 1), (angle, y + 10)] if angle else [(name, y + 4)]
    return [
        f'<rect x="{x - width // 2}" y="{y - BOX // 2}" width="{width}" height="{BOX}" rx="3" '
        f'fill="{colour}" fill-opacity="0.12" stroke="{colour}"/>',
        *(
            f'<text x="{x}" y="{at}" text-anchor="middle">{escape(text)}</text>'
            for text, at in lines
        ),
    ]


def circuit_parts(
    circuit: HeadCircuit,
    about: Mapping[str, object] | None = None,
    columns: Mapping[str, Mapping[str, object]] | None = None,
) -> tuple[Markup, Markup, Markup]:
    """Return a circuit's drawing, its settings and sizes, and a table of the first 24 tasks.

    Args:
        circuit: the circuit.
        about: facts to show before the counts; a fact with the name of a count replaces the count.
        columns: further columns of the table: column name to task name to value.

    Example:
        >>> from qmtl.tasks import Task
        >>> drawn, counts, tasks = circuit_parts(HeadCircuit([Task.binary("a"), Task.binary("b")]))
        >>> "4 wires: 0–3" in tasks
        True
    """
    rows = [
        _task_row(circuit, name, register) | {key: of[name] for key, of in (columns or {}).items()}
        for name, register in islice(circuit.registers.items(), MOST_TASKS)
    ]
    counts = dict(about or {}) | {
        k: v for k, v in _facts(circuit).items() if k not in (about or ())
    }
    return _drawing(circuit), facts(counts), table(rows, len(circuit.tasks))


def _drawing(circuit: HeadCircuit) -> Markup:
    """Draw the circuit as SVG, or, if it has too many wires, the first wires as text."""
    if circuit.n_wires > MOST_WIRES:
        return drawing(draw_text(circuit, max_width=PAGE // 8))
    svg = draw_svg(circuit, inline=True).replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)
    return drawing(Markup(svg))


def _facts(circuit: HeadCircuit) -> dict[str, object]:
    """Return the circuit's settings and sizes, by name."""
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


def _task_row(circuit: HeadCircuit, name: str, register: Register) -> dict[str, Any]:
    cone = circuit.light_cone(name).wires
    return {
        "task": name,
        "kind": register.task.kind,
        "outputs": register.task.n_outputs,
        "register": _span(register.wires),
        "readout": "probabilities" if register.readout.is_probability else "⟨Z⟩",
        "light cone": f"{counted(len(cone), 'wire')}: {_span(cone)}",
        "weights": circuit.n_weights(name),
    }


def _span(wires: tuple[int, ...]) -> str:
    """Write wires as ranges, such as 0-3; on a ring, a register may wrap around the last wire."""
    parts: list[list[int]] = []
    for wire in sorted(wires):
        if parts and wire == parts[-1][1] + 1:
            parts[-1][1] = wire
        else:
            parts.append([wire, wire])
    return ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in parts)
