"""What a task is: its fields, a constructor for each kind, and its form as plain data."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks._checks import check_task
from qmtl.tasks._kinds import Kind

__all__ = ["TaskDefinition"]


@dataclass(frozen=True)
class TaskDefinition:
    """The fields of a `Task`, which says what they are, checked and in canonical form."""

    name: str
    kind: Kind
    n_outputs: int
    class_names: tuple[str, ...] | None = None
    class_weights: tuple[float, ...] | None = None
    metric_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_task(self)

    @classmethod
    def binary(
        cls,
        name: str,
        *,
        class_names: Sequence[str] | None = None,
        class_weights: Sequence[float] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> Self:
        """A yes-or-no task: one logit.

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
        n_classes: int,
        *,
        class_names: Sequence[str] | None = None,
        class_weights: Sequence[float] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> Self:
        """One of `n_classes` (at least 2) exclusive classes: that many logits.

        Example:
            >>> from qmtl.tasks import Task
            >>> Task.multiclass("digit", 10).main_metric
            'accuracy'
        """
        weights: Any = class_weights
        return cls(name, "multiclass", n_classes, class_names, weights, metrics)  # type: ignore[arg-type]

    @classmethod
    def multilabel(
        cls,
        name: str,
        n_labels: int,
        *,
        class_names: Sequence[str] | None = None,
        class_weights: Sequence[float] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> Self:
        """Several yes-or-no labels of one sample: one logit each.

        Example:
            >>> from qmtl.tasks import Task
            >>> Task.multilabel("finding", 2, class_names=("edema", "mass")).n_outputs
            2
        """
        weights: Any = class_weights
        return cls(name, "multilabel", n_labels, class_names, weights, metrics)  # type: ignore[arg-type]

    @classmethod
    def regression(
        cls,
        name: str,
        n_targets: int = 1,
        *,
        class_names: Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> Self:
        """One or more real numbers; `class_names` are the names of the targets.

        Example:
            >>> from qmtl.tasks import Task
            >>> Task.regression("stsb").main_metric
            'r2'
        """
        return cls(name, "regression", n_targets, class_names, None, metrics)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold; `from_dict` reads it.

        Example:
            >>> from qmtl.tasks import Task
            >>> Task.from_dict(Task.binary("a").to_dict()) == Task.binary("a")
            True
        """
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """A task from `to_dict`.

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
