"""What a task may be: the checks of its fields."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks._kinds import METRICS

if TYPE_CHECKING:
    from qmtl.tasks._definition import TaskDefinition

__all__ = ["check_task"]


def check_task(task: "TaskDefinition") -> None:
    """Check all fields, and set those that have a canonical form (ints, tuples, floats).

    Raises:
        InvalidInputError: a value does not fit; it is named with what was expected.
    """
    _check_name(task.name)
    if task.kind not in METRICS:
        raise unknown_name(f"kind of task '{task.name}':", task.kind, METRICS)
    _check_n_outputs(task)
    for field in ("class_names", "class_weights", "metric_names"):
        object.__setattr__(task, field, _as_tuple(task, field))
    _check_class_names(task)
    _check_class_weights(task)
    _check_metric_names(task)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name.strip() or name == "encoding":
        raise InvalidInputError(
            f"name of a task: expected a non-empty text other than 'encoding', got {name!r}"
        )


def _check_n_outputs(task: "TaskDefinition") -> None:
    n, least = task.n_outputs, 2 if task.kind == "multiclass" else 1
    exact = task.kind == "binary"
    is_int = isinstance(n, int | np.integer) and not isinstance(n, bool)
    if not is_int or n < least or (exact and n != 1):
        expected = "1" if exact else f"a whole number of at least {least}"
        raise InvalidInputError(
            f"n_outputs of {task.kind} task '{task.name}': expected {expected}, got {n!r}"
        )
    object.__setattr__(task, "n_outputs", int(n))


def _as_tuple(task: "TaskDefinition", field: str) -> tuple[Any, ...] | None:
    values = getattr(task, field)
    if values is None:
        return None
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InvalidInputError(
            f"{field} of task '{task.name}': expected a sequence, got {values!r}"
        )
    return tuple(values)


def _check_class_names(task: "TaskDefinition") -> None:
    names = task.class_names
    if names is None:
        return
    expected = 2 if task.kind == "binary" else task.n_outputs
    texts = all(isinstance(name, str) and name for name in names)
    if len(names) != expected or len(set(names)) != expected or not texts:
        raise InvalidInputError(
            f"class_names of {task.kind} task '{task.name}': expected {expected} different "
            f"non-empty texts, got {names!r}"
        )


def _check_class_weights(task: "TaskDefinition") -> None:
    weights = task.class_weights
    if weights is None:
        return
    if task.kind == "regression":
        raise InvalidInputError(
            f"class_weights of regression task '{task.name}': expected None, got {weights!r}"
        )
    expected = 2 if task.kind == "binary" else task.n_outputs
    try:
        numbers = tuple(float(weight) for weight in weights)
    except (TypeError, ValueError):
        numbers = ()
    positive = all(0 < weight < math.inf for weight in numbers)
    if len(numbers) != expected or not positive:
        raise InvalidInputError(
            f"class_weights of {task.kind} task '{task.name}': expected {expected} positive "
            f"numbers, got {weights!r}"
        )
    object.__setattr__(task, "class_weights", numbers)


def _check_metric_names(task: "TaskDefinition") -> None:
    names, fitting = task.metric_names, METRICS[task.kind]
    if names is None:
        return
    if not names or len(set(names)) != len(names):
        raise InvalidInputError(
            f"metrics of task '{task.name}': expected one or more different names, got {names!r}"
        )
    for name in names:
        if name in fitting:
            continue
        if any(name in known for known in METRICS.values()):
            raise InvalidInputError(
                f"metrics of task '{task.name}': '{name}' does not fit a {task.kind} task; "
                f"choose among {', '.join(fitting)}"
            )
        raise unknown_name(f"metric of {task.kind} task '{task.name}':", name, fitting)
