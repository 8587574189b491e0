"""SeparateHeads: heads that share nothing, each on features of its own; for single-task models."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Self

import torch
from torch import Tensor, nn

from qmtl.errors import InvalidInputError, unknown_name
from qmtl.heads._head import Head
from qmtl.heads._linear import LinearHead, LocalLinearHead
from qmtl.heads._low_rank import LowRankLinearHead
from qmtl.heads._peers import SharedVQCHead, VQCPerTaskHead
from qmtl.heads._quantum import QuantumHead
from qmtl.tasks import Task, chosen_tasks

__all__ = ["WHOLE_HEADS", "SeparateHeads"]

# By the names that saved models know them by; all but those that hold other heads.
_HEADS: tuple[type[Any], ...] = (
    QuantumHead,
    LinearHead,
    LocalLinearHead,
    LowRankLinearHead,
    VQCPerTaskHead,
    SharedVQCHead,
)
WHOLE_HEADS = {cls.__name__: cls for cls in _HEADS}


class SeparateHeads(Head):
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
        >>> from qmtl import LinearHead, Task
        >>> heads = [LinearHead([Task.binary("a")], 4), LinearHead([Task.multiclass("b", 3)], 2)]
        >>> {name: tuple(v.shape) for name, v in SeparateHeads(heads)(torch.ones(5, 6)).items()}
        {'a': (5, 1), 'b': (5, 3)}
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        tasks: list[Task] = []
        for head in heads:
            own = getattr(head, "tasks", ())
            if len(own) != 1:
                raise InvalidInputError(
                    f"heads must have one task each, got {type(head).__name__} with "
                    f"{[task.name for task in own]}"
                )
            tasks += own
        widths = [head.n_features for head in heads]
        super().__init__(tasks, sum(widths) or 1)
        self.heads = nn.ModuleList(heads)
        self._positions = {task.name: i for i, task in enumerate(self.tasks)}
        self.columns = {
            task.name: slice(end - width, end)
            for task, width, end in zip(self.tasks, widths, accumulate(widths), strict=True)
        }

    def head(self, task: str) -> Any:
        """The head of one task."""
        (name,) = chosen_tasks([task], self._sizes)
        return self.heads[self._positions[name]]

    def _joined(self, features: Tensor, names: tuple[str, ...] | None) -> Tensor:
        chosen = list(self.columns) if names is None else names
        return torch.cat(
            [self.head(name)(features[:, self.columns[name]], joined=True) for name in chosen],
            dim=1,
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description of the heads without their parameters."""
        heads: list[Any] = list(self.heads)
        return {"type": "SeparateHeads", "heads": [head.to_dict() for head in heads]}

    @classmethod
    def from_dict(
        cls, description: Mapping[str, Any], custom: Mapping[str, type] | None = None
    ) -> Self:
        """The heads that `to_dict` described, with fresh parameters."""
        heads = []
        for own in description["heads"]:
            if own["type"] not in WHOLE_HEADS:
                raise unknown_name("head", own["type"], WHOLE_HEADS)
            heads.append(WHOLE_HEADS[own["type"]].from_dict(own, custom))
        return cls(heads)
