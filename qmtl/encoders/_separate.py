"""SeparateEncoders: several encoders of the same inputs, side by side; for single-task models."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qmtl.encoders._registry import WHOLE_ENCODERS
from qmtl.errors import InvalidInputError, unknown_name

__all__ = ["SeparateEncoders"]


class SeparateEncoders(nn.Module):
    """Encoders that share nothing; their features follow each other.

    Before `qmtl.heads.SeparateHeads` this makes one single-task model per task, which `qmtl.fit`
    trains one after the other.

    Args:
        encoders: modules with ``out_features``, all for the same inputs.

    Raises:
        InvalidInputError: for no encoder, or one that does not state its ``out_features``.

    Example:
        >>> from qmtl.encoders import MLP
        >>> encoder = SeparateEncoders([MLP(8, out_features=4), MLP(8, out_features=2)])
        >>> encoder(torch.zeros(3, 8)).shape
        torch.Size([3, 6])
    """

    def __init__(self, encoders: Sequence[nn.Module]) -> None:
        super().__init__()
        if not encoders:
            raise InvalidInputError("encoders must be one or more modules, got none")
        for encoder in encoders:
            if not isinstance(getattr(encoder, "out_features", None), int):
                raise InvalidInputError(
                    f"encoders must state their out_features, got {type(encoder).__name__} without"
                )
        self.encoders = nn.ModuleList(encoders)
        widths: list[Any] = [encoder.out_features for encoder in self.encoders]
        self.out_features: int = sum(widths)

    @property
    def in_features(self) -> Any:
        """Width of the inputs, as the first encoder states it; None if it does not."""
        return getattr(self.encoders[0], "in_features", None)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features of all encoders, (batch, out_features)."""
        return torch.cat([encoder(inputs) for encoder in self.encoders], dim=1)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description without parameters."""
        encoders: list[Any] = list(self.encoders)
        return {"type": "SeparateEncoders", "encoders": [own.to_dict() for own in encoders]}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> "SeparateEncoders":
        """The encoders that `to_dict` described, with fresh parameters."""
        encoders = []
        for own in description["encoders"]:
            if own["type"] not in WHOLE_ENCODERS:
                raise unknown_name("encoder", own["type"], WHOLE_ENCODERS)
            encoders.append(WHOLE_ENCODERS[own["type"]].from_dict(own))
        return cls(encoders)
