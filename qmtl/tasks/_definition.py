"""The definition of a task: kinds and metrics, checks of its fields, conversion to plain data."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

import numpy as np

from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks._texts import plain_text, truth_word

Kind = Literal["binary", "multiclass", "multilabel", "regression"]
"""Kinds of tasks."""

MISSING = -100
"""The missing label in integer targets (torch's `ignore_index`)."""

_CLASS_METRICS = (
    "accuracy", "balanced_accuracy", "f1", "macro_f1", "weighted_f1",
    "auroc", "average_precision", "matthews", "ece",
)  # fmt: skip
METRICS: dict[str, tuple[str, ...]] = {
    "binary": _CLASS_METRICS,
    "multiclass": _CLASS_METRICS,
    "multilabel": ("accuracy", "f1", "macro_f1", "weighted_f1", "auroc", "average_precision"),
    "regression": ("r2", "mse", "mae", "pearson", "spearman"),
}
"""Names of the metrics that a task of each kind can have."""
_DEFAULT_METRICS: dict[str, tuple[str, ...]] = {
    "binary": ("accuracy", "f1", "auroc"),
    "multiclass": ("accuracy", "macro_f1"),
    "multilabel": ("accuracy", "macro_f1", "auroc"),
    "regression": ("r2", "mae"),
}


@dataclass(frozen=True)
class TaskDefinition:
    """The fields of a `Task`, checked and in canonical form; `Task` documents them."""

    name: str
    kind: Kind
    n_outputs: int
    class_names: tuple[str, ...] | None = None
    class_weights: tuple[float, ...] | None = None
    metric_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check_task(self)

    @classmethod
    def binary(
        cls,
        name: str,
        *,
        class_names: Sequence[str] | None = None,
        class_weights: Sequence[float] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> Self:
        """Return a binary task, with one logit.

        Example:
            >>> from qmtl.tasks import Task
            >>> Task.binary("spam", class_names=("ham", "spam")).n_outputs
            1
        """
        return cls(name, "binary", 1, class_names, class_weights, metrics)  # type: ignore[arg-type]

    @classmethod
    def multiclass(
        cls,
        name: str,
        n_classes: int | None = None,
        *,
        class_names: Sequence[str] | None = None,
        class_weights: Sequence[float] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> Self:
        """Return a task with one of `n_classes` >= 2 exclusive classes, with one logit per class.

        Without `n_classes`, the class names give the number.

        Example:
            >>> from qmtl.tasks import Task
            >>> Task.multiclass("digit", 10).main_metric
            'accuracy'
            >>> Task.multiclass("size", class_names=("small", "medium", "large")).n_outputs
            3
        """
        n: Any = _counted(n_classes, class_names)
        return cls(name, "multiclass", n, class_names, class_weights, metrics)  # type: ignore[arg-type]

    @classmethod
    def multilabel(
        cls,
        name: str,
        n_labels: int | None = None,
        *,
        class_names: Sequence[str] | None = None,
        class_weights: Sequence[float] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> Self:
        """Return a task with several yes-or-no labels per sample, with one logit per label.

        Without `n_labels`, the class names give the number.

        Example:
            >>> from qmtl.tasks import Task
            >>> Task.multilabel("finding", 2, class_names=("edema", "mass")).n_outputs
            2
        """
        n: Any = _counted(n_labels, class_names)
        return cls(name, "multilabel", n, class_names, class_weights, metrics)  # type: ignore[arg-type]

    @classmethod
    def regression(
        cls,
        name: str,
        n_targets: int = 1,
        *,
        class_names: Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> Self:
        """Return a task with one or more real targets, which `class_names` names.

        Example:
            >>> from qmtl.tasks import Task
            >>> Task.regression("stsb").main_metric
            'r2'
        """
        return cls(name, "regression", n_targets, class_names, None, metrics)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Return the task as data that JSON can hold; `from_dict` reads it.

        Example:
            >>> from qmtl.tasks import Task
            >>> Task.from_dict(Task.binary("a").to_dict()) == Task.binary("a")
            True
        """
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the task that `to_dict` described.

        Raises:
            InvalidInputError: a key is unknown or missing, or a value does not fit.

        Example:
            >>> from qmtl.tasks import Task
            >>> Task.from_dict({"name": "a", "kind": "binary", "n_outputs": 1}).kind
            'binary'
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(data, dict):
            raise InvalidInputError(f"task: expected a dict with {known}, got {data!r}")
        for key in data:
            if key not in known:
                raise unknown_name("task key", key, known)
        for key in known[:3]:
            if key not in data:
                raise InvalidInputError(f"task: the key '{key}' is missing from {data!r}")
        return cls(**data)


def _counted(number: int | None, class_names: Sequence[str] | None) -> int | None:
    if number is not None or class_names is None or isinstance(class_names, str):
        return number
    return len(class_names)


def metric_names(task: "TaskDefinition") -> tuple[str, ...]:
    """Return the task's metrics, which default to those of its kind."""
    return task.metric_names or _DEFAULT_METRICS[task.kind]


def is_flat(task: "TaskDefinition") -> bool:
    """Return whether canonical targets have shape (N,), not (N, n_outputs)."""
    return task.kind in ("binary", "multiclass") or (
        task.kind == "regression" and task.n_outputs == 1
    )


def _check_task(task: "TaskDefinition") -> None:
    """Check all fields, and convert them to canonical types (ints, tuples, floats)."""
    if not isinstance(task.name, str) or not task.name.strip() or task.name == "encoding":
        raise InvalidInputError(
            f"name of a task: expected a non-empty text other than 'encoding', got {task.name!r}"
        )
    if task.kind not in METRICS:
        raise unknown_name(f"kind of task '{task.name}':", task.kind, METRICS)
    object.__setattr__(task, "name", str(task.name))  # NumPy's texts are texts, too
    _check_n_outputs(task)
    checks = {
        "class_names": _check_class_names,
        "class_weights": _check_class_weights,
        "metric_names": _check_metric_names,
    }
    for field, check in checks.items():
        values = getattr(task, field)
        if values is None:
            continue
        if isinstance(values, str) or not isinstance(values, Iterable):
            hint = "; data.with_class_weights() balances classes" if values == "balanced" else ""
            raise InvalidInputError(
                f"{field} of task '{task.name}': expected a sequence, got {values!r}{hint}"
            )
        object.__setattr__(task, field, check(task, tuple(values)))


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


def _check_class_names(task: "TaskDefinition", names: tuple[Any, ...]) -> tuple[str, ...]:
    expected = 2 if task.kind == "binary" else task.n_outputs
    texts = all(isinstance(name, str) and name.strip() for name in names)
    if len(names) != expected or len(set(names)) != expected or not texts:
        raise InvalidInputError(
            f"class_names of {task.kind} task '{task.name}': expected {expected} different "
            f"non-empty texts, got {names!r}"
        )
    if task.kind in ("binary", "multiclass"):
        first: dict[str, str] = {}
        for name in names:
            other = first.setdefault(truth_word(name) or plain_text(name), name)
            if other != name:
                raise InvalidInputError(
                    f"class_names of {task.kind} task '{task.name}': {other!a} and "
                    f"{name!a} are the same label"
                )
    return tuple(map(str, names))


def _check_class_weights(task: "TaskDefinition", weights: tuple[Any, ...]) -> tuple[float, ...]:
    if task.kind == "regression":
        raise InvalidInputError(
            f"class_weights of regression task '{task.name}': expected None, got {weights!r}"
        )
    expected = 2 if task.kind == "binary" else task.n_outputs
    try:
        numbers = tuple(float(weight) for weight in weights)
    except (TypeError, ValueError):
        numbers = ()
    truths = any(isinstance(weight, bool) for weight in weights)
    if truths or len(numbers) != expected or not all(0 < weight < math.inf for weight in numbers):
        raise InvalidInputError(
            f"class_weights of {task.kind} task '{task.name}': expected {expected} positive "
            f"numbers, got {weights!r}"
        )
    return numbers


def _check_metric_names(task: "TaskDefinition", names: tuple[Any, ...]) -> tuple[str, ...]:
    if not names or len(set(names)) != len(names):
        raise InvalidInputError(
            f"metrics of task '{task.name}': expected one or more different names, got {names!r}"
        )
    fitting = METRICS[task.kind]
    for name in names:
        if name in fitting:
            continue
        if any(name in known for known in METRICS.values()):
            raise InvalidInputError(
                f"metrics of task '{task.name}': '{name}' does not fit a {task.kind} task; "
                f"choose among {', '.join(fitting)}"
            )
        raise unknown_name(f"metric of {task.kind} task '{task.name}':", name, fitting)
    return names
