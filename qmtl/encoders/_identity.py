"""Identity: the inputs are the features."""

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor, nn

from qmtl.errors import InvalidInputError

__all__ = ["Identity"]


class Identity(nn.Module):
    """Passes inputs of shape (batch, n_features) on as features.

    Example:
        >>> import torch
        >>> Identity(4)(torch.ones(1, 4))
        tensor([[1., 1., 1., 1.]])
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        if isinstance(n_features, bool) or not isinstance(n_features, int) or n_features < 1:
            raise InvalidInputError(f"n_features must be an integer >= 1, got {n_features!r}")
        self.in_features = self.out_features = n_features

    def forward(self, inputs: Tensor) -> Tensor:
        """The inputs, unchanged."""
        return inputs

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description."""
        return {"type": "Identity", "n_features": self.out_features}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        """The encoder that `to_dict` described."""
        return cls(description["n_features"])
