"""Labels: read from what people have, checked, and summed up in the best constant prediction."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qmtl.errors import InvalidInputError
from qmtl.tasks._definition import MISSING, is_flat

if TYPE_CHECKING:
    from qmtl.tasks._task import Task

__all__ = ["best_constant", "present", "read_labels", "to_targets"]


def present(targets: Tensor) -> Tensor:
    """Which entries of canonical targets are labelled."""
    return ~targets.isnan() if targets.is_floating_point() else targets != MISSING


def to_targets(task: "Task", values: Any, first_row: int) -> Tensor:
    """Labels as losses and metrics expect them; see `Task.to_targets`."""
    array = torch.from_numpy(read_labels(task, values, first_row))
    device = values.device if isinstance(values, Tensor) else torch.device("cpu")
    if task.kind == "multiclass":
        return array.nan_to_num(nan=MISSING).long().to(device)
    # Timestamps and the like keep their digits until they are standardised.
    exact = task.kind == "regression" and device.type != "mps"  # which has no float64
    return (array if exact else array.float()).to(device)


def read_labels(task: "Task", values: Any, first_row: int) -> np.ndarray:
    """Labels as float64 with NaN for missing, (N,) or (N, n_outputs), checked."""
    array = _as_numbers(task, values, first_row)
    flat = is_flat(task)
    if flat and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if not flat and task.n_outputs == 1 and array.ndim == 1:
        array = array[:, None]
    if array.ndim != (1 if flat else 2) or (not flat and array.shape[1] != task.n_outputs):
        expected = "(N,)" if flat else f"(N, {task.n_outputs})"
        raise InvalidInputError(
            f"labels of {task.kind} task '{task.name}': expected shape {expected}, "
            f"got {array.shape}"
        )
    if task.kind == "regression":
        # Losses and models are float32, in which a larger label would silently become infinite.
        bad, allowed = np.abs(array) > np.finfo(np.float32).max, "finite numbers, NaN if missing"
    else:
        array = np.where(array == MISSING, np.nan, array)
        n_classes = task.n_outputs if task.kind == "multiclass" else 2
        bad = ~np.isnan(array) & ~np.isin(array, np.arange(n_classes))
        allowed = f"whole numbers 0..{n_classes - 1}, {MISSING} or NaN if missing"
    if bad.any():
        position = tuple(np.argwhere(bad)[0])
        raise InvalidInputError(
            f"labels of {task.kind} task '{task.name}': row {position[0] + first_row} has "
            f"{array[position]:g}; allowed are {allowed}"
        )
    return array


def _as_numbers(task: "Task", values: Any, first_row: int) -> np.ndarray:
    if isinstance(values, Tensor):
        kept = values.detach().cpu()
        values = kept if kept.is_complex() else kept.to(torch.float64)
    try:
        array = np.asarray(values)
        if array.dtype.kind in "US":
            array = np.asarray(values, dtype=object)  # else None and NaN become texts
    except (ValueError, TypeError) as error:
        raise InvalidInputError(
            f"labels of task '{task.name}': expected an array of labels, got rows of "
            f"different lengths or types"
        ) from error
    if array.dtype.kind in "biuf":
        return array.astype(np.float64)
    if array.dtype.kind != "O":
        raise InvalidInputError(
            f"labels of task '{task.name}': expected numbers or texts, got {array.dtype}"
        )
    codes = {text: code for code, text in enumerate(task.class_names or ())}
    numbers = np.empty(array.shape, dtype=np.float64)
    for position, value in np.ndenumerate(array):
        row = first_row + (position[0] if position else 0)
        numbers[position] = _as_number(task, value, codes, row)
    return numbers


def _as_number(task: "Task", value: Any, codes: dict[str, int], row: int) -> float:
    # pandas' own missing values are recognised by name: the package does not import pandas.
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return math.nan
    if isinstance(value, str):
        if task.kind in ("binary", "multiclass") and value in codes:
            return codes[value]
        allowed = ", ".join(repr(text) for text in codes) if codes else "numbers (no class_names)"
        if task.kind in ("multilabel", "regression"):
            allowed = "numbers"
        raise InvalidInputError(
            f"labels of {task.kind} task '{task.name}': row {row} has the text {value!r}; "
            f"allowed are {allowed}"
        )
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"labels of {task.kind} task '{task.name}': row {row} has {value!r}; expected a number"
        ) from error


def best_constant(task: "Task", train_targets: Any) -> Tensor:
    """One row of predictions, the same for every sample; see `Task.baseline`."""
    labels = torch.from_numpy(read_labels(task, train_targets, 0))
    columns = labels.reshape(len(labels), -1)
    empty = columns.isnan().all(dim=0)
    if empty.all() or (task.kind == "regression" and empty.any()):
        raise InvalidInputError(
            f"task '{task.name}': the baseline needs at least one training label of every "
            f"target, but target {int(empty.long().argmax())} has none"
        )
    if task.kind == "multiclass":
        classes = columns[~columns.isnan()].long()
        counts = torch.bincount(classes, minlength=task.n_outputs).float()
        return counts / counts.sum()
    means = columns.nanmean(dim=0).nan_to_num(nan=0.5)
    if task.kind != "regression":
        means = means.float()
    return means[0] if is_flat(task) else means
