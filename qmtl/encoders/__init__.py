"""Classical encoders: torch modules from inputs to features."""

from qmtl.encoders.identity import Identity
from qmtl.encoders.mlp import MLP
from qmtl.encoders.text import TextEmbedding

__all__ = ["ENCODERS", "MLP", "Identity", "TextEmbedding"]

ENCODERS = {"Identity": Identity, "MLP": MLP}
