"""From a recipe to data and model."""

from collections.abc import Sequence

from qmtl.circuit import HeadCircuit
from qmtl.data import MultiTaskData
from qmtl.experiments._recipe import Recipe
from qmtl.experiments._training_section import with_noise
from qmtl.heads import HeadType, build_head
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task

__all__ = ["build_circuit", "build_data", "build_model"]


def build_data(recipe: Recipe) -> MultiTaskData:
    """The recipe's data, split.

    Example:
        >>> from qmtl.experiments import read_recipe
        >>> build_data(read_recipe("digits")).n_inputs
        64
    """
    return recipe.data.load()


def build_circuit(recipe: Recipe, tasks: Sequence[Task]) -> HeadCircuit:
    """The recipe's circuit for these tasks."""
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
    """The recipe's model for these data, or the same with another head.

    The encoder is the same for all heads but in its last layer, which gives the features that the
    head takes.
    """
    circuit = build_circuit(recipe, data.tasks)
    options = with_noise(recipe.head.options(), recipe.training, circuit)
    head = build_head(head_type or recipe.head.type, circuit, options)
    encoder = recipe.encoder.build(data.train.inputs, head.n_features, data.modalities)
    return MultiTaskModel(encoder, head)
