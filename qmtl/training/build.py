"""From a recipe to data and model."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from qmtl import data as sources
from qmtl.circuit import HeadCircuit
from qmtl.data import MultiTaskData
from qmtl.encoders import MLP, Identity, SeparateEncoders
from qmtl.errors import InvalidInputError
from qmtl.heads import HeadType, SeparateHeads, build_head
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task
from qmtl.training.recipe import EncoderSection, Recipe

__all__ = ["build_circuit", "build_data", "build_model"]


def build_data(recipe: Recipe) -> MultiTaskData:
    """The recipe's data, split.

    Example:
        >>> from qmtl.training.recipe import read_recipe
        >>> build_data(read_recipe("digits")).n_inputs
        64
    """
    section = recipe.data
    options = {} if section.splits is None else {"splits": section.splits}
    if section.source == "digits":
        return sources.digits(seed=section.seed, tasks=section.tasks, **options)
    assert section.path is not None
    loaded = sources.from_csv(
        section.path,
        targets=section.targets or section.tasks or (),
        inputs=section.inputs,
        ignore=section.ignore,
        seed=section.seed,
        split_column=section.split_column,
        group_column=section.group_column,
        delimiter=section.delimiter,
        **options,
    )
    return loaded if section.tasks is None else loaded.subset(section.tasks)


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
    head takes. ``single-task`` has an encoder per task; `qmtl.fit` trains its parts one by one.
    """
    circuit = build_circuit(recipe, data.tasks)
    head = build_head(head_type or recipe.head.type, circuit, recipe.head.options())
    encoder: nn.Module
    if isinstance(head, SeparateHeads):
        widths: list[Any] = [own.n_features for own in head.heads]
        encoder = SeparateEncoders([_encoder(recipe.encoder, data, width) for width in widths])
    else:
        encoder = _encoder(recipe.encoder, data, head.n_features)
    return MultiTaskModel(encoder, head)


def _encoder(section: EncoderSection, data: MultiTaskData, n_features: int) -> nn.Module:
    width = data.n_inputs
    if not isinstance(width, int):
        raise InvalidInputError(f"encoder {section.type!r} needs flat inputs, got shape {width}")
    if section.type == "Identity":
        if width != n_features:
            raise InvalidInputError(
                f"encoder 'Identity' passes {width} inputs on, the head takes {n_features} "
                f"features; use 'MLP', or inputs of that number"
            )
        return Identity(width)
    return MLP(
        width,
        *section.hidden,
        out_features=n_features,
        activation=section.activation,
        dropout=section.dropout,
        seed=section.seed,
    )
