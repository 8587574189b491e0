"""Classical encoders: torch modules from inputs to features."""

from qmtl.encoders.identity import Identity
from qmtl.encoders.mlp import MLP

__all__ = ["ENCODERS", "MLP", "Identity"]

ENCODERS = {"Identity": Identity, "MLP": MLP}
