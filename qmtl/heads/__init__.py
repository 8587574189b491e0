"""Torch modules from features to each task's logits: the quantum head and its classical rivals."""

from typing import Any

from qmtl.heads._build import (
    HEAD_TYPES,
    HeadOptions,
    HeadSection,
    HeadType,
    build_head,
    head_parameters,
)
from qmtl.heads._head import Head
from qmtl.heads._initial import INITIAL_STD, block_weights
from qmtl.heads._linear import LinearHead, LocalLinearHead
from qmtl.heads._low_rank import LowRankLinearHead
from qmtl.heads._peers import SharedVQCHead, VQCPerTaskHead
from qmtl.heads._quantum import QuantumHead
from qmtl.heads._task_rows import TaskRows, escaped, pop_part

__all__ = [
    "HEADS", "HEAD_TYPES", "INITIAL_STD", "Head", "HeadOptions", "HeadSection", "HeadType",
    "LinearHead", "LocalLinearHead", "LowRankLinearHead", "QuantumHead", "SharedVQCHead",
    "TaskRows", "VQCPerTaskHead", "block_weights", "build_head", "escaped", "head_parameters",
    "pop_part",
]  # fmt: skip

HEADS: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        QuantumHead,
        LinearHead,
        LocalLinearHead,
        LowRankLinearHead,
        VQCPerTaskHead,
        SharedVQCHead,
    )
}
"""Classes of heads by the names that saved models use."""
