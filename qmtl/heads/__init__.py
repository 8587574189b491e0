"""Torch modules from features to each task's logits: the quantum head and its classical rivals."""

from typing import Any, Protocol

from torch import Tensor, nn

from qmtl.heads.build import HEAD_TYPES, HeadOptions, HeadType, build_head, head_parameters
from qmtl.heads.linear import LinearHead, LocalLinearHead
from qmtl.heads.low_rank import LowRankLinearHead
from qmtl.heads.quantum import QuantumHead
from qmtl.heads.registry import WHOLE_HEADS
from qmtl.heads.separate import SeparateHeads
from qmtl.heads.shared_vqc import SharedVQCHead
from qmtl.heads.vqc_per_task import VQCPerTaskHead
from qmtl.tasks import Task

__all__ = [
    "HEADS",
    "HEAD_TYPES",
    "Head",
    "HeadOptions",
    "HeadType",
    "LinearHead",
    "LocalLinearHead",
    "LowRankLinearHead",
    "QuantumHead",
    "SeparateHeads",
    "SharedVQCHead",
    "VQCPerTaskHead",
    "build_head",
    "head_parameters",
]

HEADS: dict[str, Any] = {**WHOLE_HEADS, "SeparateHeads": SeparateHeads}


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
