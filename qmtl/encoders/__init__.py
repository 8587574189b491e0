"""Classical encoders: torch modules from inputs to features."""

from typing import Any

from qmtl.encoders._cnn import CNN
from qmtl.encoders._fusion import Fusion
from qmtl.encoders._identity import Identity
from qmtl.encoders._image import ImageBackbone
from qmtl.encoders._mlp import MLP
from qmtl.encoders._text import TextEmbedding

__all__ = [
    "CNN",
    "ENCODERS",
    "MLP",
    "Fusion",
    "Identity",
    "ImageBackbone",
    "TextEmbedding",
]

# By the names that saved models know them by.
ENCODERS: dict[str, Any] = {
    cls.__name__: cls for cls in (CNN, Fusion, Identity, ImageBackbone, MLP)
}
