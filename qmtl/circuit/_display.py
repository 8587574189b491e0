"""A head circuit as a notebook shows it: its drawing, its counts, and each task's light cone."""

from itertools import islice
from typing import Any

from markupsafe import Markup

from qmtl._html import drawing, facts, panel, table
from qmtl.circuit._drawing import draw_svg, draw_text
from qmtl.circuit._head_circuit import HeadCircuit
from qmtl.circuit._registers import Register

__all__ = ["circuit_drawing", "circuit_facts", "circuit_html", "task_rows"]

# A drawing of more wires than a screen holds is no drawing.
MOST_WIRES = 24
MOST_TASKS = 24


def circuit_html(circuit: HeadCircuit) -> str:
    """What ``HeadCircuit._repr_html_`` returns.

    Example:
        >>> from qmtl.tasks import Task
        >>> "<svg " in circuit_html(HeadCircuit([Task.binary("a")]))
        True
    """
    return panel(
        f"HeadCircuit: {_count(len(circuit.tasks), 'task')}, {_count(circuit.n_wires, 'wire')}",
        circuit_drawing(circuit),
        facts(circuit_facts(circuit)),
        table(task_rows(circuit), len(circuit.tasks)),
    )


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
