"""SeparateHeads: heads that share nothing, each on features of its own; for single-task models."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from qmtl.errors import InvalidInputError, unknown_name
from qmtl.heads.features import check_features, chosen_tasks
from qmtl.heads.registry import WHOLE_HEADS
from qmtl.tasks import Task, check_tasks

__all__ = ["SeparateHeads"]


class SeparateHeads(nn.Module):
    """One head per task, each on its own part of the features.

    Behind `qmtl.encoders.SeparateEncoders` this makes one single-task model per task, which
    `qmtl.fit` trains one after the other.

    Args:
        heads: a head of exactly one task for each task; their features follow each other.

    Shape:
        features ``(batch, sum of the heads' n_features)`` to ``{task: (batch, n_outputs)}``.

    Raises:
        InvalidInputError: for a head of several tasks, no head, or two tasks of one name.

    Example:
        >>> import torch
        >>> from qmtl import LinearHead, Task
        >>> heads = [LinearHead([Task.binary("a")], 4), LinearHead([Task.multiclass("b", 3)], 2)]
        >>> {name: tuple(v.shape) for name, v in SeparateHeads(heads)(torch.ones(5, 6)).items()}
        {'a': (5, 1), 'b': (5, 3)}
    """

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        tasks: list[Task] = []
        for head in heads:
            own = getattr(head, "tasks", ())
            if len(own) != 1:
                raise InvalidInputError(
                    f"heads must have one task each, got {type(head).__name__} with "
                    f"{[task.name for task in own]}"
                )
            tasks += own
        self.tasks: tuple[Task, ...] = check_tasks(tasks)
        self.heads = nn.ModuleList(heads)
        widths: list[Any] = [head.n_features for head in self.heads]
        self.n_features: int = sum(widths)
        ends = [sum(widths[: i + 1]) for i in range(len(widths))]
        self._positions = {task.name: i for i, task in enumerate(self.tasks)}
        self.columns = {
            task.name: slice(end - width, end)
            for task, width, end in zip(self.tasks, widths, ends, strict=True)
        }

    def head(self, task: str) -> Any:
        """The head of one task."""
        (name,) = chosen_tasks([task], self.columns)
        return self.heads[self._positions[name]]

    def shared_parameters(self) -> list[nn.Parameter]:
        """None: every parameter belongs to one task."""
        return []

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """All parameters of one task's head."""
        head = self.head(task)
        return [*head.shared_parameters(), *head.task_parameters(task)]

    def forward(
        self, features: Float[Tensor, "batch features"], tasks: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Logits of the tasks asked for (None: all), each ``(batch, n_outputs)``."""
        check_features(features, self.n_features)
        logits: dict[str, Tensor] = {}
        for name in chosen_tasks(tasks, self.columns):
            logits |= self.head(name)(features[:, self.columns[name]])
        return logits

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description of the heads without their parameters."""
        heads: list[Any] = list(self.heads)
        return {"type": "SeparateHeads", "heads": [head.to_dict() for head in heads]}

    @classmethod
    def from_dict(
        cls, description: Mapping[str, Any], custom: Mapping[str, type] | None = None
    ) -> "SeparateHeads":
        """The heads that `to_dict` described, with fresh parameters."""
        heads: list[nn.Module] = []
        for own in description["heads"]:
            if own["type"] not in WHOLE_HEADS:
                raise unknown_name("head", own["type"], WHOLE_HEADS)
            heads.append(WHOLE_HEADS[own["type"]].from_dict(own, custom))
        return cls(heads)
