"""Classical encoders: torch modules from inputs to features."""

from qmtl.encoders._cnn import CNN
from qmtl.encoders._fusion import Fusion
from qmtl.encoders._identity import Identity
from qmtl.encoders._image import ImageBackbone
from qmtl.encoders._mlp import MLP
from qmtl.encoders._registry import WHOLE_ENCODERS
from qmtl.encoders._separate import SeparateEncoders
from qmtl.encoders._text import TextEmbedding

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
