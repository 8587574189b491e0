"""Heads by the name that saved models know them by, but for those that hold other heads."""

from typing import Any

from qmtl.heads.linear import LinearHead, LocalLinearHead
from qmtl.heads.low_rank import LowRankLinearHead
from qmtl.heads.quantum import QuantumHead
from qmtl.heads.shared_vqc import SharedVQCHead
from qmtl.heads.vqc_per_task import VQCPerTaskHead

__all__ = ["WHOLE_HEADS"]

WHOLE_HEADS: dict[str, Any] = {
    "QuantumHead": QuantumHead,
    "LinearHead": LinearHead,
    "LocalLinearHead": LocalLinearHead,
    "LowRankLinearHead": LowRankLinearHead,
    "VQCPerTaskHead": VQCPerTaskHead,
    "SharedVQCHead": SharedVQCHead,
}
