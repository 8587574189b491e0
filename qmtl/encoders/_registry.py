"""Encoders by the name that saved models know them by, but for those that hold other encoders."""

from typing import Any

from qmtl.encoders._cnn import CNN
from qmtl.encoders._fusion import Fusion
from qmtl.encoders._identity import Identity
from qmtl.encoders._image import ImageBackbone
from qmtl.encoders._mlp import MLP

__all__ = ["WHOLE_ENCODERS"]

WHOLE_ENCODERS: dict[str, Any] = {
    "CNN": CNN,
    "Fusion": Fusion,
    "Identity": Identity,
    "ImageBackbone": ImageBackbone,
    "MLP": MLP,
}
