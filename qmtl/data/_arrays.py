"""`from_arrays`: a data set from arrays in memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qmtl.data._columns import TableColumns
from qmtl.data._dataset import MultiTaskData, Split, take_splits
from qmtl.data._splits import Indices, explicit_indices, label_codes, split_indices
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import Task, check_tasks, infer_task

__all__ = ["choose_rows", "from_arrays", "scale_of"]


def from_arrays(
    X: Any,
    targets: Mapping[str, Any],
    *,
    tasks: Sequence[Task] | None = None,
    splits: Sequence[float] | Mapping[str, Any] = (0.7, 0.15, 0.15),
    seed: int = 0,
    groups: Any = None,
    name: str = "arrays",
    standardise: bool = False,
) -> MultiTaskData:
    """A data set from inputs and one array of labels per task.

    Args:
        X: inputs (N, ...), at least 2-D: NumPy array, tensor, list or DataFrame. They become
            float32, integers too (exact to 2^24): an encoder of tokens takes them back with
            ``inputs.long()``.
        targets: task name → labels, see `Task.to_targets`; texts if the task has class names.
        tasks: in the order that circuits use. None: inferred from the labels, see `infer_task`.
        splits: three fractions (train, validation, test), stratified by the labels; or a dict of
            row numbers with these three keys.
        seed: of the split.
        groups: one value per row; rows of a group stay in one split.
        name: of the data set.
        standardise: scale each input column by mean and std of the train split (2-D only).

    Raises:
        InvalidInputError: shapes, names or labels do not fit.

    Example:
        >>> X = [[float(i), 1.0] for i in range(20)]
        >>> data = from_arrays(X, {"odd": [i % 2 for i in range(20)]})
        >>> data
        MultiTaskData('arrays', inputs=(2,), train=14, validation=3, test=3, tasks: odd (binary))
    """
    inputs = _as_inputs(X)
    if not isinstance(targets, Mapping) or not targets:
        raise InvalidInputError(
            f"targets: expected a dict of task name → labels, got {type(targets).__name__}"
        )
    if tasks is None:
        tasks = [infer_task(key, values) for key, values in targets.items()]
    tasks = check_tasks(tasks)
    labels = _as_targets(tasks, targets, len(inputs))
    indices = choose_rows(len(inputs), splits, seed, label_codes(tasks, labels), groups)
    columns = None
    if standardise:
        columns = _columns_of(inputs, indices[0])
        scale = torch.tensor([entry[1:] for entry in columns.numeric], dtype=torch.float64)
        inputs = (inputs - scale[:, 0]) / scale[:, 1]
    parts = take_splits(Split(inputs.float(), labels), indices)
    given = isinstance(splits, Mapping)
    return MultiTaskData(
        name, tasks, **parts, columns=columns, split_seed=None if given else int(seed)
    )


def choose_rows(
    n: int,
    splits: Sequence[float] | Mapping[str, Any],
    seed: int,
    stratify: Tensor | None = None,
    groups: Any = None,
) -> Indices:
    """Rows of each split, from fractions or from a dict of row numbers.

    Example:
        >>> choose_rows(3, {"train": [0], "validation": [1], "test": [2]}, 0)[2]
        tensor([2])
    """
    if not isinstance(splits, Mapping):
        return split_indices(n, splits, seed, stratify, groups)
    if groups is not None:
        raise InvalidInputError("groups: expected None when splits gives row numbers")
    return explicit_indices(n, splits)


def scale_of(values: np.ndarray) -> tuple[float, float]:
    """Mean and std (1 for a constant) of numbers (N,), NaN left out; (0, 1) without numbers.

    Example:
        >>> scale_of(np.array([1.0, 3.0, np.nan])), scale_of(np.array([4.0] * 3))
        ((2.0, 1.0), (4.0, 1.0))
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return 0.0, 1.0
    mean, std = float(values.mean()), float(values.std())
    # A constant such as 0.1 has a std of rounding errors, which would blow up in the quotient.
    return mean, std if std > 1e-12 * abs(mean) else 1.0


def _as_inputs(values: Any) -> Tensor:
    """Inputs as float64 (N, ...): scaling comes before the loss of digits."""
    try:
        array = values.detach().cpu() if isinstance(values, Tensor) else np.asarray(values)
        inputs = torch.tensor(np.asarray(array, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"X: expected numbers of shape (N, ...), got {type(values).__name__} that is not "
            f"numeric or has rows of different lengths"
        ) from error
    if inputs.ndim < 2:
        raise InvalidInputError(
            f"X: expected at least 2 dimensions (rows, inputs), got shape {tuple(inputs.shape)}; "
            f"for one input per row use shape (N, 1)"
        )
    if not inputs.numel():
        raise InvalidInputError(f"X: expected rows and inputs, got shape {tuple(inputs.shape)}")
    return inputs


def _as_targets(tasks: tuple[Task, ...], targets: Mapping[str, Any], n: int) -> dict[str, Tensor]:
    names = [task.name for task in tasks]
    for key in targets:
        if key not in names:
            raise unknown_name("task in targets:", key, names)
    labels = {}
    for task in tasks:
        if task.name not in targets:
            raise InvalidInputError(f"targets: there are no labels for task '{task.name}'")
        labels[task.name] = task.to_targets(targets[task.name]).cpu()
        if len(labels[task.name]) != n:
            raise InvalidInputError(
                f"targets: task '{task.name}' has {len(labels[task.name])} labels for {n} rows"
            )
    return labels


def _columns_of(inputs: Tensor, train: Tensor) -> TableColumns:
    if inputs.ndim != 2:
        raise InvalidInputError(
            f"standardise: expected inputs (N, inputs), got shape {tuple(inputs.shape)}"
        )
    rows = inputs[train].numpy()
    finite = np.where(np.isfinite(rows), rows, np.nan)  # the data set itself names the bad rows
    return TableColumns(tuple((f"x{i}", *scale_of(column)) for i, column in enumerate(finite.T)))
