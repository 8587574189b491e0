"""Build data and model from a recipe, and say how a head looks in plots."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from qmtl.circuit import HeadCircuit
from qmtl.data import MultiTaskData
from qmtl.encoders import EncoderInputs
from qmtl.errors import RecipeError, unknown_name
from qmtl.experiments._recipe import SINGLE_TASK, Recipe, TrainingSection
from qmtl.heads import HEAD_TYPES, HeadOptions, HeadType, build_head, task_columns
from qmtl.model import MultiTaskModel
from qmtl.plotting import COLOURS, MARKERS
from qmtl.simulators import (
    LightConeSimulator,
    NoisySimulator,
    ShotSimulator,
    Simulator,
    simulator_for,
)
from qmtl.tasks import Task

PROBE = "linear-probe"
"""The name of the linear probe, which takes the place of a head in a benchmark's cells."""


def build_data(recipe: Recipe) -> MultiTaskData:
    """Load the recipe's data and splits, with its class weights, metrics and task order.

    Example:
        >>> from qmtl.experiments import read_recipe
        >>> build_data(read_recipe("digits")).n_inputs
        64
    """
    data = recipe.data.load()
    if recipe.data.class_weights is not None:
        data = data.with_class_weights(recipe.data.class_weights)
    tasks = {task.name: task for task in data.tasks}
    for name, chosen in (recipe.data.metrics or {}).items():
        if name not in tasks:
            raise unknown_name("task in data.metrics:", name, tasks)
        tasks[name] = dataclasses.replace(tasks[name], metric_names=tuple(chosen))
    return in_order(recipe, dataclasses.replace(data, tasks=tuple(tasks.values())))


def in_order(recipe: Recipe, data: MultiTaskData) -> MultiTaskData:
    """Return the data; if the recipe requests it, with tasks in the order of their graph."""
    if recipe.circuit.task_order is None:
        return data
    from qmtl.methods import task_order

    return data.subset(task_order(data))


def build_circuit(recipe: Recipe, tasks: Sequence[Task]) -> HeadCircuit:
    """Return the recipe's circuit for these tasks."""
    circuit = HeadCircuit.load(recipe.circuit.design, tasks)
    if recipe.circuit.wires_per_task is None:
        return circuit
    return HeadCircuit(
        tasks,
        circuit.encoding,
        {task.name: circuit.ansatz(task.name) for task in tasks},
        layout=circuit.layout,
        wires_per_task=recipe.circuit.wires_per_task,
    )


def build_model(
    recipe: Recipe, data: MultiTaskData, head_type: HeadType | None = None
) -> MultiTaskModel:
    """Return the recipe's model for these data, with its own or another head.

    The width of the encoder's last layer is the number of features that the head takes.
    """
    circuit = build_circuit(recipe, data.tasks)
    options = with_noise(recipe.head, recipe.training, circuit)
    head = build_head(head_type or recipe.head.type, circuit, options)
    # A rival that uses all features of the circuit gets the same columns as the quantum head.
    columns = head.task_columns()
    if columns is None and head.n_features == circuit.n_features:
        columns = task_columns(circuit)
    given = EncoderInputs(data.train.inputs, head.n_features, data.modalities, columns)
    return MultiTaskModel(recipe.encoder.build(given), head)


def with_noise(
    options: HeadOptions, training: TrainingSection, circuit: HeadCircuit
) -> HeadOptions:
    """Return the options with a simulator that has the recipe's noise and shots.

    Raises:
        RecipeError: if noise or shots come with a simulator other than ``lightcone``.

    Example:
        >>> from qmtl.tasks import Task
        >>> circuit = HeadCircuit([Task.binary("a")])
        >>> with_noise(HeadOptions(), TrainingSection(shots=8), circuit).simulator
        ShotSimulator(LightConeSimulator(max_memory=None, engine='compiled'), shots=8, seed=None)
    """
    if training.noise is None and training.shots is None:
        return options
    simulator: Simulator = simulator_for(options.simulator)
    if not isinstance(simulator, LightConeSimulator):
        raise RecipeError(
            f"training.noise and training.shots need head.simulator 'lightcone', got "
            f"{options.simulator!r}; for a PennyLane device, set noise and shots of the device"
        )
    if training.noise is not None:
        simulator = NoisySimulator(training.noise.device_noise(circuit.n_wires))
    if training.shots is not None:
        simulator = ShotSimulator(simulator, training.shots)
    # The section of a recipe names its simulator.
    plain = {name: getattr(options, name) for name in HeadOptions.model_fields}
    return HeadOptions(**plain | {"simulator": simulator})


def head_look(head: str) -> dict[str, Any]:
    """Return a head's colour and marker, the same in every plot."""
    number = (*HEAD_TYPES, SINGLE_TASK, PROBE).index(head)
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
