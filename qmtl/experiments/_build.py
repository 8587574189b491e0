"""From a recipe to data and model."""

from collections.abc import Sequence
from typing import Any

from qmtl import data as sources
from qmtl.circuit import HeadCircuit
from qmtl.data import MultiTaskData
from qmtl.experiments._recipe import Recipe
from qmtl.experiments._training_section import with_noise
from qmtl.heads import HeadType, build_head
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task
from qmtl.training import DataSection, build_encoder

__all__ = ["build_circuit", "build_data", "build_model"]

_MUSTARD_LABELS = {
    "mustard": "sarcasm",
    "mustard-extended": "extended",
    "mustard-plus-plus": "plus_plus",
}


def build_data(recipe: Recipe) -> MultiTaskData:
    """The recipe's data, split.

    Example:
        >>> from qmtl.experiments import read_recipe
        >>> build_data(read_recipe("digits")).n_inputs
        64
    """
    return _load_data(recipe.data)


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
    return MultiTaskModel(build_encoder(recipe.encoder, data, head.n_features), head)


def _load_data(section: DataSection) -> MultiTaskData:
    """The data of a section, split."""
    if section.source == "digits":
        return sources.digits(seed=section.seed, tasks=section.tasks, **_given(section, "splits"))
    assert section.path is not None
    if section.source == "csv":
        return _csv(section, section.path)
    if section.source == "glue":
        options = _given(section, "validation", "max_rows", "max_test_rows")
        return sources.glue(
            section.path, section.tasks, _embedding(section), seed=section.seed, **options
        )
    if section.source == "chestxray":
        options = _given(section, "labels", "images", "image_size", "max_patients", "splits")
        return sources.chestxray(
            section.path,
            tasks=section.tasks,
            uncertain=section.uncertain,
            blank=section.blank,
            views=section.views,
            kind=section.kind,
            flat=section.flat,
            seed=section.seed,
            **options,
        )
    return sources.mustard(
        section.path,
        _MUSTARD_LABELS[section.source],
        split=section.split or section.splits,
        tasks=section.tasks,
        embed=_embedding(section),
        context=section.context,
        seed=section.seed,
        **_given(section, "audio", "visual", "validation"),
    )


def _given(section: DataSection, *keys: str) -> dict[str, Any]:
    """The keys that are not None, which stands for the source's default."""
    return {key: getattr(section, key) for key in keys if getattr(section, key) is not None}


def _embedding(section: DataSection) -> Any:
    if section.text_model is None:
        return None
    from qmtl.encoders import TextEmbedding

    return TextEmbedding(section.text_model)


def _csv(section: DataSection, path: str) -> MultiTaskData:
    loaded = sources.from_csv(
        path,
        targets=section.targets or section.tasks or (),
        inputs=section.inputs,
        ignore=section.ignore,
        seed=section.seed,
        split_column=section.split_column,
        group_column=section.group_column,
        delimiter=section.delimiter,
        **_given(section, "splits"),
    )
    return loaded if section.tasks is None else loaded.subset(section.tasks)
