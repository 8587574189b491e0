"""Torch modules from features to each task's logits: the quantum head and its classical rivals."""

from typing import Any, Protocol

from torch import Tensor, nn

from qmtl.heads.linear import LinearHead, LocalLinearHead
from qmtl.heads.quantum import QuantumHead
from qmtl.tasks import Task

__all__ = ["HEADS", "Head", "LinearHead", "LocalLinearHead", "QuantumHead"]

HEADS = {
    "QuantumHead": QuantumHead,
    "LinearHead": LinearHead,
    "LocalLinearHead": LocalLinearHead,
}


class Head(Protocol):
    """What `MultiTaskModel` asks of a head; it is also a ``torch.nn.Module``."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, in order."""

    @property
    def n_features(self) -> int:
        """Width of the features."""

    def __call__(self, features: Tensor, tasks: Any = None) -> dict[str, Tensor]:
        """Logits of the tasks asked for."""

    def shared_parameters(self) -> list[nn.Parameter]:
        """Parameters that several tasks depend on."""

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Parameters of one task alone."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description without parameters."""
