"""Adaptation of a model: from its labelled rows and their features to the larger head."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qmtl._model_files import check_plain
from qmtl._target_scale import label_scale
from qmtl.adaptation._adapt import adapted_head, check_labels
from qmtl.data import MultiTaskData, column_differences
from qmtl.errors import InvalidInputError
from qmtl.heads import ExtendedHead, Head
from qmtl.tasks import Task, row_weights


def adapted_to(
    model: Any, task: Task, data: Any, sample_weight: Any, *, methods: Sequence[str], seed: int
) -> tuple[ExtendedHead, tuple[Tensor, Tensor] | None, Tensor]:
    """Return the larger head, a regression's label mean and deviation, and the labelled inputs.

    The arguments and errors are those of `qmtl.MultiTaskModel.adapt`.
    """
    import sklearn.linear_model  # noqa: F401  (loads the libraries whose threads are limited)
    from threadpoolctl import threadpool_limits

    check_plain("head", model.head, "be copied", parametrised=False)
    if not isinstance(model.head, Head):
        kind = type(model.head).__name__
        raise InvalidInputError(f"only a head of qmtl.heads can be adapted, got a {kind}")
    if not isinstance(task, Task):
        raise InvalidInputError(f"new_task must be a Task, got a {type(task).__name__}")
    inputs, targets, weights = _labelled_rows(model, task, data, sample_weight)
    scale = None
    if task.kind == "regression":
        check_labels(task, targets)
        mean, std = scale = label_scale(targets, weights)
        wide = targets.reshape(len(targets), -1).double()
        targets = ((wide - mean) / std).reshape(targets.shape)
    try:
        features = model.features(inputs)
    except RuntimeError as error:  # torch's modules raise it for another width
        raise InvalidInputError(
            f"inputs of shape {tuple(inputs.shape)} do not go through the model's encoder "
            f"{type(model.encoder).__name__}: {' '.join(str(error).split())}"
        ) from error
    # The fits are small, and threads of several libraries would wait for each other.
    with threadpool_limits(1):
        options: dict[str, Any] = {"methods": methods, "seed": seed, "sample_weight": weights}
        head, _ = adapted_head(model.head, task, features, targets, **options)
    return head, scale, inputs


def _labelled_rows(
    model: Any, task: Task, data: Any, sample_weight: Any
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return a task's labelled rows: inputs, canonical targets, and weights of at most 1."""
    if isinstance(data, MultiTaskData):
        if sample_weight is not None:
            raise InvalidInputError(
                "sample_weight goes with a pair of inputs and labels; MultiTaskData has the "
                "weights of its rows"
            )
        inputs, targets, sample_weight = _of_data(model, task, data)
    elif isinstance(data, tuple) and len(data) == 2:
        inputs, targets = model.as_samples(data[0]), task.to_targets(data[1])
    else:
        raise InvalidInputError(
            f"data must be MultiTaskData or a pair of inputs and labels, got {type(data).__name__}"
        )
    if len(inputs) != len(targets):
        raise InvalidInputError(
            f"task {task.name!r}: got {len(inputs)} rows of inputs and {len(targets)} labels"
        )
    known, weights = task.labelled(targets).cpu(), row_weights(sample_weight, len(targets))
    if weights is not None:
        known = known & (weights > 0)
        weights = weights[known] / weights.max()
    return model.as_samples(inputs[known]), targets[known].cpu(), weights


def _of_data(model: Any, task: Task, data: MultiTaskData) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return inputs, targets and weights of the train and validation rows."""
    own = data.task(task.name)
    if not task.labelled_like(own):
        raise InvalidInputError(
            f"the new task {task.name!r} is {task.labels_in_words()}; the data's is "
            f"{own.labels_in_words()}"
        )
    if None not in (model.columns, data.columns) and model.columns != data.columns:
        sides = column_differences(model.columns, data.columns)
        raise InvalidInputError(
            f"the model and the data encode their tables differently: the model has {sides[0]}; "
            f"the data have {sides[1]}; give (data frame, labels), which the model encodes itself"
        )
    splits = (data.train, data.validation)
    inputs = torch.cat([split.inputs for split in splits])
    targets = torch.cat([split.targets[task.name] for split in splits])
    if all(split.sample_weight is None for split in splits):
        return inputs, targets, None
    weights = [
        torch.ones(len(split), dtype=torch.float64)
        if split.sample_weight is None
        else split.sample_weight
        for split in splits
    ]
    return inputs, targets, torch.cat(weights)
