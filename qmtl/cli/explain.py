"""``qmtl explain``: what a recipe will simulate, before it runs."""

from typing import Annotated

import typer

from qmtl.cli._options import Overrides, complete_recipe, expanded
from qmtl.cli._output import terminal_width


def explain(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A built-in recipe, a .toml file, or a run.",
            callback=expanded,
            autocompletion=complete_recipe,
        ),
    ],
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows per step. [the recipe's]")
    ] = None,
    set_: Overrides = None,
) -> None:
    """Show the circuit, its light cones, and the memory and work of a training step.

    With training.noise in the recipe, noisy light cones are shown beside the ideal ones.

    Example: qmtl explain digits --batch-size 256
    """
    from pathlib import Path

    import torch

    from qmtl.experiments import build_circuit, build_data, read_recipe, with_noise
    from qmtl.simulators import simulator_for

    path = Path(recipe)
    chosen = read_recipe(
        path / "recipe.toml" if (path / "recipe.toml").is_file() else recipe, set_ or []
    )
    # The order of tasks by the labels' graph needs the labels.
    ordered = chosen.circuit.task_order is not None
    tasks = build_data(chosen).tasks if ordered else chosen.data.load_tasks()
    circuit = build_circuit(chosen, tasks)
    count = circuit.count_parameters()
    print(circuit.draw(max_width=terminal_width()))
    print(
        f"\n{circuit.n_wires} wires, {circuit.n_features} features, depth {circuit.depth}, "
        f"{circuit.two_qubit_gates} two-qubit gates (depth {circuit.two_qubit_depth}); "
        f"{count.encoding} encoding weights, {sum(count.tasks.values())} task weights, "
        f"{count.scales} scales"
    )
    size = batch_size or chosen.training.batch_size
    size = size or chosen.training.batch_for(len(build_data(chosen).train))
    options = with_noise(chosen.head.options(), chosen.training, circuit)
    print(simulator_for(options.simulator).explain(circuit, size, torch.float32))
