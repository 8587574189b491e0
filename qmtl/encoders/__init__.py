"""Classical encoders: torch modules from inputs to features."""

from qmtl.encoders.cnn import CNN
from qmtl.encoders.fusion import Fusion
from qmtl.encoders.identity import Identity
from qmtl.encoders.image import ImageBackbone
from qmtl.encoders.mlp import MLP
from qmtl.encoders.registry import WHOLE_ENCODERS
from qmtl.encoders.separate import SeparateEncoders
from qmtl.encoders.text import TextEmbedding

__all__ = [
    "CNN",
    "ENCODERS",
    "MLP",
    "Fusion",
    "Identity",
    "ImageBackbone",
    "SeparateEncoders",
    "TextEmbedding",
]

# A new encoder goes into registry.py, where SeparateEncoders finds it, too.
ENCODERS = {**WHOLE_ENCODERS, "SeparateEncoders": SeparateEncoders}
