"""``qmtl circuits``: the catalogue of designs. ``qmtl explain``: a recipe's circuit and plan."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option, Typer

from qmtl._io import print_table
from qmtl.cli._options import (
    Overrides,
    complete_design,
    complete_recipe,
    path_argument,
    path_option,
)
from qmtl.cli._output import check_out, terminal_width, write_out
from qmtl.errors import InvalidInputError, unknown_name

if TYPE_CHECKING:
    from qmtl.circuit import HeadCircuit
    from qmtl.tasks import Task

app = Typer(help="List, show and export head circuits.", no_args_is_help=True)
FORMATS = ("text", "svg", "qasm")
MOST_WIRES = 16
Design = Annotated[str, path_argument("A design, or a .toml file.", autocompletion=complete_design)]
TaskOption = Annotated[
    list[str] | None,
    Option(
        "--task",
        metavar="NAME:KIND[:N]",
        help="A task, such as a:binary or b:multiclass:3; repeatable. [a:binary b:multiclass:3]",
    ),
]


@app.command("list")
def list_() -> None:
    """List the catalogue's designs.

    Example: qmtl circuits list
    """
    from qmtl.circuit import list_designs, load_design

    designs = map(load_design, list_designs())
    print_table(
        ("design", "layout", "description"), ((d.name, d.layout, d.description) for d in designs)
    )


@app.command()
def show(design: Design, task: TaskOption = None) -> None:
    """Draw a design for some tasks, and count its wires, gates and weights.

    Example: qmtl circuits show cz-ring --task a:binary --task b:multiclass:3
    """
    circuit = _circuit(design, task)
    count = circuit.count_parameters()
    print(circuit.draw(max_width=terminal_width()))
    print(
        f"\n{circuit.n_wires} wires, depth {circuit.depth}, {circuit.two_qubit_gates} two-qubit "
        f"gates (depth {circuit.two_qubit_depth})\n{count.encoding} encoding weights, "
        + ", ".join(f"{n} of {name}" for name, n in count.tasks.items())
    )
    for name in circuit.registers:
        print(f"light cone of {name}: {_wires(circuit.light_cone(name).wires)}")


@app.command()
def export(
    design: Design,
    task: TaskOption = None,
    format_: Annotated[str, Option("--format", help="text, svg or qasm.")] = "qasm",
    out: Annotated[Path | None, path_option("File; standard output by default.")] = None,
) -> None:
    """Export a design as OpenQASM 3 with symbolic inputs, as SVG, or as text.

    Example: qmtl circuits export cz-ring --format svg --out cz-ring.svg
    """
    if format_ not in FORMATS:
        raise unknown_name("format", format_, FORMATS)
    check_out(out)
    circuit = _circuit(design, task)
    if format_ == "qasm":
        from qmtl.hardware import to_qasm3

        content = to_qasm3(circuit)
    elif format_ == "svg":
        from qmtl.circuit import draw_svg

        content = draw_svg(circuit)
        if out is None:
            # Standard output may have any encoding, so write XML character references.
            content = content.encode("ascii", "xmlcharrefreplace").decode("ascii")
    else:
        content = circuit.draw(max_wires=circuit.n_wires) + "\n"
    write_out(out, content)


def _wires(wires: Sequence[int]) -> str:
    if len(wires) <= MOST_WIRES:
        return f"wires {list(wires)}"
    ends = ", ".join(map(str, wires[:3])), ", ".join(map(str, wires[-3:]))
    return f"{len(wires)} wires [{ends[0]}, …, {ends[1]}]"


def _circuit(design: str, tasks: list[str] | None) -> "HeadCircuit":
    from qmtl.circuit import HeadCircuit

    parsed = [_task(text) for text in tasks or ["a:binary", "b:multiclass:3"]]
    return HeadCircuit.load(design, parsed)


def _task(text: str) -> "Task":
    from qmtl.tasks import Task

    name, _, rest = text.partition(":")
    kind, _, number = rest.partition(":")
    makers = {"multiclass": Task.multiclass, "multilabel": Task.multilabel}
    try:
        if kind == "binary" and not number:
            return Task.binary(name)
        if kind == "regression":
            return Task.regression(name, int(number or 1))
        if kind in makers:
            return makers[kind](name, int(number))
    except ValueError:
        raise InvalidInputError(
            f"--task {text!r}: expected NAME:KIND or NAME:KIND:N with N a whole number"
        ) from None
    raise unknown_name(f"kind in --task {text!r}:", kind, ["binary", "regression", *makers])


def explain(
    recipe: Annotated[
        str,
        path_argument("A built-in recipe, a .toml file, or a run.", autocompletion=complete_recipe),
    ],
    batch_size: Annotated[int | None, Option(min=1, help="Rows per step. [the recipe's]")] = None,
    set_: Overrides = None,
) -> None:
    """Show the circuit, its light cones, and the memory and work of a training step.

    If the recipe has training.noise, this also shows the noisy light cones.

    Example: qmtl explain digits --batch-size 256
    """
    import torch

    from qmtl.experiments import build_circuit, build_data, read_recipe, with_noise
    from qmtl.heads import QuantumHead, build_head
    from qmtl.model import load
    from qmtl.simulators import simulator_for

    path = Path(recipe)
    chosen = read_recipe(
        path / "recipe.toml" if (path / "recipe.toml").is_file() else recipe, set_ or []
    )
    # A task order by the labels' graph needs the labels.
    ordered = chosen.circuit.task_order is not None
    tasks = build_data(chosen).tasks if ordered else chosen.data.load_tasks()
    circuit = build_circuit(chosen, tasks)
    options = with_noise(chosen.head, chosen.training, circuit)
    head = build_head(chosen.head.type, circuit, options)
    if isinstance(head, QuantumHead):
        circuit = head.circuit  # types such as quantum-no-entangler change the design's circuit
    else:
        _warn(f"the recipe has a head {chosen.head.type!r}; the circuit is that of a quantum head")
    if (path / "model").is_dir():
        names = [t.name for t in load(path / "model").tasks if t.name not in circuit.registers]
        if names:
            _warn(f"the run's model also has tasks that are not in the recipe shown here: {names}")
    count = circuit.count_parameters()
    trained = sum(p.numel() for p in head.parameters() if p.requires_grad)
    print(circuit.draw(max_width=terminal_width()))
    print(
        f"\n{circuit.n_wires} wires, {circuit.n_features} features, depth {circuit.depth}, "
        f"{circuit.two_qubit_gates} two-qubit gates (depth {circuit.two_qubit_depth}); "
        f"{count.encoding} encoding weights, {sum(count.tasks.values())} task weights, "
        f"{count.scales} scales; the head {chosen.head.type!r} trains {trained:,} parameters"
    )
    size = batch_size or chosen.training.batch_size
    size = size or chosen.training.batch_for(len(build_data(chosen).train))
    print(simulator_for(options.simulator).explain(circuit, size, torch.float32))


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
