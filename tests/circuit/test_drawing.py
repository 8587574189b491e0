"""Drawings: text by heart for a small circuit, SVG by what it must contain."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest

from qmtl.circuit import Angle, AngleEncoding, Gate, HeadCircuit, IQPEncoding, RealAmplitudes
from qmtl.circuit._drawing import COLOURS, draw_svg, draw_text
from qmtl.errors import InvalidInputError
from qmtl.tasks import Task

SVG = "{http://www.w3.org/2000/svg}"
TASKS = [Task.binary("a"), Task.multiclass("long & <odd> name", 3)]

CIRCUITS = {
    "default": (HeadCircuit(TASKS), None),
    "shared": (HeadCircuit(TASKS, layout="shared", n_wires=3), "long & <odd> name"),
    "cnot": (HeadCircuit(TASKS, AngleEncoding(1, entangler="cnot_ring"), RealAmplitudes()), None),
    "iqp": (HeadCircuit(TASKS, IQPEncoding(1)), None),
    "one wire": (HeadCircuit([TASKS[0]], wires_per_task=1), None),
}


def test_text():
    tasks = [Task.binary("a"), Task.multiclass("bc", 3)]
    circuit = HeadCircuit(tasks, AngleEncoding(n_layers=1, trainable=""))
    assert draw_text(circuit).splitlines() == [
        "a  0: ─RY(x[0])─●───●─RZ(a[0])──RY(a[2])──●─RZ(a[4])──RY(a[5])──⟨Z⟩",
        "a  1: ─RY(x[1])─●─●─│─RZ(a[1])──RY(a[3])──●────────────────────────",
        "bc 2: ─RY(x[2])─●─●─│─RZ(bc[0])─RY(bc[2])─●─RZ(bc[4])─RY(bc[6])─P",
        "bc 3: ─RY(x[3])─●───●─RZ(bc[1])─RY(bc[3])─●─RZ(bc[5])─RY(bc[7])─P",
    ]


def test_text_of_one_circuit_of_the_shared_layout():
    circuit = CIRCUITS["shared"][0]
    assert draw_text(circuit) == draw_text(circuit, "a")
    assert draw_text(circuit, "a").startswith("a 0: ")


@pytest.mark.parametrize("max_wires", [1, 5, 15])
def test_text_is_cut(max_wires):
    circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(8)])
    whole = draw_text(circuit).splitlines()
    assert len(whole) == 16
    cut = draw_text(circuit, max_wires=max_wires).splitlines()
    assert cut == [*whole[:max_wires], f"… and {16 - max_wires} more wires"]


@pytest.mark.parametrize("name", CIRCUITS)
def test_svg(name):
    circuit, task = CIRCUITS[name]
    root = ElementTree.fromstring(draw_svg(circuit, task))
    gates = circuit.gates(task)
    boxes = [r for r in root.iter(f"{SVG}rect") if r.get("rx")]
    one_wire = sum(len(gate.wires) == 1 for gate in gates)
    assert len(boxes) == one_wire + 2 * sum(gate.name == "IsingZZ" for gate in gates)
    dots = list(root.iter(f"{SVG}circle"))
    assert len(dots) == 2 * sum(gate.name in ("CZ", "CNOT") for gate in gates)


@pytest.mark.parametrize("name", CIRCUITS)
def test_svg_boxes_do_not_overlap_and_hold_their_text(name):
    root = ElementTree.fromstring(draw_svg(*CIRCUITS[name]))
    width, height = float(root.get("width")), float(root.get("height"))
    boxes = [r for r in root.iter(f"{SVG}rect") if r.get("rx")]
    spans: dict[str, list[tuple[float, float]]] = {}
    for box in boxes:
        x, y, w = (float(box.get(key)) for key in ("x", "y", "width"))
        assert x >= 0
        assert x + w <= width
        assert y + float(box.get("height")) <= height
        spans.setdefault(box.get("y"), []).append((x, x + w))
    for row in spans.values():
        row.sort()
        assert all(end <= start for (_, end), (start, _) in pairwise(row))
    for text in root.iter(f"{SVG}text"):
        if text.get("text-anchor") == "middle":
            x, y = float(text.get("x")), float(text.get("y"))
            # A box around each text, wide enough for it.
            assert any(
                float(box.get("x")) + 3.3 * len(text.text) <= x
                and x + 3.3 * len(text.text) <= float(box.get("x")) + float(box.get("width"))
                and 0 < y - float(box.get("y")) <= float(box.get("height"))
                for box in boxes
            )
    for wire in root.iter(f"{SVG}path"):
        if wire.get("class") == "wire":
            # Boxes are transparent: no wire runs behind one.
            pieces = [piece.split("H") for piece in wire.get("d").split("M")[1:]]
            y = float(pieces[0][0].split()[1])
            for (start, _), end in ((piece[0].split(), piece[1]) for piece in pieces):
                for box in boxes:
                    top = float(box.get("y"))
                    if top < y < top + float(box.get("height")):
                        left = float(box.get("x"))
                        right = left + float(box.get("width"))
                        assert float(end) <= left or right <= float(start)


def test_a_wide_drawing_goes_on_below():
    circuit = HeadCircuit([Task.binary("a"), Task.binary("b")], AngleEncoding(n_layers=12))
    one, folded = (
        ElementTree.fromstring(draw_svg(circuit, max_width=most)) for most in (None, 500)
    )
    assert float(folded.get("width")) <= 500 < float(one.get("width"))
    assert float(folded.get("height")) > 2 * float(one.get("height"))
    texts = [
        [t.text for t in root.iter(f"{SVG}text") if t.get("text-anchor") == "middle"]
        for root in (one, folded)
    ]
    assert texts[0] == texts[1]


def test_colours_are_the_pages_light_or_dark():
    circuit = HeadCircuit(TASKS)
    inline, file = draw_svg(circuit, inline=True), draw_svg(circuit)
    # A style would hold for the whole page that the drawing stands in.
    assert "<style>" not in inline
    assert "prefers-color-scheme:dark" in file
    fixed = set(re.findall(r'(?:fill|stroke)="(#\w+|white|black)"', inline))
    assert fixed <= {*COLOURS, "#808080"}
    assert all(0.1 < luminance(colour) < 0.6 for colour in fixed)


def luminance(colour: str) -> float:
    """Relative luminance as WCAG has it: 0 is black, 1 is white."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_svg_colours_blocks_by_task():
    root = ElementTree.fromstring(draw_svg(HeadCircuit(TASKS)))
    strokes = [r.get("stroke") for r in root.iter(f"{SVG}rect") if r.get("rx")]
    assert strokes.count(COLOURS[0]) == 6
    assert strokes.count(COLOURS[1]) == 8
    assert len(strokes) == 6 + 8 + 4 * 3


def test_drawing_is_deterministic():
    assert draw_svg(HeadCircuit(TASKS)) == draw_svg(HeadCircuit(TASKS))


@pytest.mark.parametrize(("layout", "n_wires"), [("partitioned", None), ("shared", 4)])
def test_svg_draws_what_a_task_does_not_depend_on_faintly(layout, n_wires):
    circuit = HeadCircuit([Task.binary(name) for name in "abcde"], layout=layout, n_wires=n_wires)
    root = ElementTree.fromstring(draw_svg(circuit, light_cone="c"))
    plain = [g for g in root.iter(f"{SVG}rect") if g.get("rx")]
    faint = [g for group in root.iter(f"{SVG}g") for g in group.iter(f"{SVG}rect")]
    turns = [gate for gate in circuit.light_cone("c").gates if len(gate.wires) == 1]
    assert len(plain) - len(faint) == len(turns)
    wires = [line for line in root.iter(f"{SVG}path") if line.get("class") == "wire"]
    strong = [line for line in wires if line.get("stroke-opacity") == "0.5"]
    assert len(strong) == len(circuit.light_cone("c").wires)


class Repeated:
    """A block whose first gate, outside the cone, equals the last one, which is in it."""

    def n_weights(self, n_wires, read):
        return 1

    def gates(self, n_wires, read):
        half = Gate("RY", (1,), Angle(constant=0.5))
        return [Gate("RY", (0,), Angle(weight=0)), half, Gate("CNOT", (1, 0)), half]


@pytest.mark.parametrize(("layout", "n_wires"), [("partitioned", None), ("shared", 2)])
def test_equal_gates_inside_and_outside_the_light_cone(layout, n_wires):
    blocks = {"a": RealAmplitudes(1), "b": Repeated()}
    tasks = [Task.binary(name) for name in blocks]
    circuit = HeadCircuit(tasks, AngleEncoding(1), blocks, layout=layout, n_wires=n_wires)
    for task in (None, "b"):
        root = ElementTree.fromstring(draw_svg(circuit, task, light_cone="b"))
        faint = [g for group in root.iter(f"{SVG}g") for g in group.iter(f"{SVG}text")]
        assert [text.text for text in faint].count("0.5") == 1


def test_readme_drawing_is_up_to_date():
    path = Path(__file__).parents[2] / "scripts" / "results" / "light_cone.svg"
    circuit = HeadCircuit([Task.binary(name) for name in "abcde"])
    assert path.read_text() == draw_svg(circuit, light_cone="c")


@pytest.mark.parametrize("width", [24, 40, 72])
def test_text_folds_at_a_width(width):
    """Parts one below the other hold all columns in their order, each at most so wide."""
    circuit = HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)])
    whole = draw_text(circuit).splitlines()
    parts = [part.splitlines() for part in draw_text(circuit, max_width=width).split("\n\n")]
    assert len(parts) > 1
    assert max(len(line) for part in parts for line in part) <= width
    for wire, line in enumerate(whole):
        label, columns = line.split(": ─")
        pieces = [part[wire].split(": ")[1].strip("…").strip("─") for part in parts]
        assert all(part[wire].startswith(f"{label}: ") for part in parts)
        # A gate is whole in one of the parts.
        gates = [gate for gate in columns.split("─") if gate]
        assert [gate for piece in pieces for gate in piece.split("─") if gate] == gates


def test_a_gate_that_is_wider_than_the_width_stands_alone():
    parts = draw_text(HeadCircuit([Task.binary("a")]), max_width=1).split("\n\n")
    assert all(part.count("RY") + part.count("RZ") in (0, 1, 2) for part in parts)
    with pytest.raises(InvalidInputError, match="max_width must be an integer >= 1, got 0"):
        draw_text(HeadCircuit([Task.binary("a")]), max_width=0)
