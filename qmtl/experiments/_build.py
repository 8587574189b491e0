"""Build data and model from a recipe, and say how a head looks in plots."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from qmtl.circuit import HeadCircuit
from qmtl.data import MultiTaskData, Split
from qmtl.encoders import EncoderInputs
from qmtl.errors import InvalidInputError, RecipeError, unknown_name
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
    weights, metrics = recipe.data.class_weights or {}, recipe.data.metrics or {}
    changes: dict[str, dict[str, Any]] = {task.name: {} for task in data.tasks}
    if weights == "balanced":
        weights = {task.name: weights for task in data.tasks if task.is_classification}
    for key, given in (("class_weights", weights), ("metrics", metrics)):
        for name in given:
            if name not in changes:
                raise unknown_name(f"task in data.{key}:", name, changes)
    for name, own in weights.items():
        found = _balanced(data.task(name), data.train) if own == "balanced" else own
        changes[name]["class_weights"] = found
    for name, chosen in metrics.items():
        changes[name]["metric_names"] = tuple(chosen)
    tasks = tuple(dataclasses.replace(task, **changes[task.name]) for task in data.tasks)
    return in_order(recipe, dataclasses.replace(data, tasks=tasks))


def in_order(recipe: Recipe, data: MultiTaskData) -> MultiTaskData:
    """Return the data; if the recipe requests it, with tasks in the order of their graph."""
    if recipe.circuit.task_order is None:
        return data
    from qmtl.methods import task_order

    return data.subset(task_order(data))


def _balanced(task: Task, rows: Split) -> tuple[float, ...] | None:
    """Return weights that give every class the same share of the loss; 1 for an empty class."""
    targets = rows.targets[task.name]
    weights = torch.ones(len(rows)) if rows.sample_weight is None else rows.sample_weight
    if task.kind == "multilabel":
        pairs = [(weights[c == 0].sum(), weights[c == 1].sum()) for c in targets.T]
        return tuple(float(no / yes) if no * yes > 0 else 1.0 for no, yes in pairs)
    if not task.is_classification:
        raise InvalidInputError(
            f"data.class_weights: task {task.name!r} is {task.kind} and has no classes"
        )
    classes = range(max(2, task.n_outputs))
    counts = [float(weights[targets == label].sum()) for label in classes]
    return tuple(sum(counts) / (len(counts) * n) if n else 1.0 for n in counts)


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
    return options.model_copy(update={"simulator": simulator})


def head_look(head: str) -> dict[str, Any]:
    """Return a head's colour and marker, the same in every plot."""
    number = (*HEAD_TYPES, SINGLE_TASK, PROBE).index(head)
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
