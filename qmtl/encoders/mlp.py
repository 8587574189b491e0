"""MLP: a multi-layer perceptron as classical encoder."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Self

from jaxtyping import Float
from torch import Tensor, nn

from qmtl.encoders.initial import seeded
from qmtl.errors import InvalidInputError, unknown_name

__all__ = ["ACTIVATIONS", "MLP"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class MLP(nn.Module):
    """Linear layers with an activation between them.

    Args:
        in_features: width of the inputs.
        hidden: widths of the hidden layers; none makes one linear layer.
        out_features: width of the features.
        activation: ``relu``, ``gelu``, ``silu`` or ``tanh``.
        dropout: probability of dropping a hidden unit in training.
        seed: of the initial weights; None uses torch's global generator.

    Shape:
        ``(batch, in_features)`` to ``(batch, out_features)``.

    Example:
        >>> import torch
        >>> MLP(64, 32, out_features=12, seed=0)(torch.zeros(5, 64)).shape
        torch.Size([5, 12])
    """

    def __init__(
        self,
        in_features: int,
        *hidden: int,
        out_features: int,
        activation: str = "relu",
        dropout: float = 0.0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        widths = (in_features, *hidden, out_features)
        if any(isinstance(w, bool) or not isinstance(w, int) or w < 1 for w in widths):
            raise InvalidInputError(f"widths must be integers >= 1, got {widths}")
        if activation not in ACTIVATIONS:
            raise unknown_name("activation", activation, ACTIVATIONS)
        if not 0 <= dropout < 1:
            raise InvalidInputError(f"dropout must be in [0, 1), got {dropout}")
        self.in_features, self.hidden, self.out_features = in_features, hidden, out_features
        self.activation, self.dropout = activation, dropout
        layers: list[nn.Module] = []
        with seeded(seed):
            for width, following in pairwise(widths):
                layers.append(nn.Linear(width, following))
                layers.append(ACTIVATIONS[activation]())
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers[:-2])

    def forward(self, inputs: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch features"]:
        """Features of the inputs."""
        if inputs.ndim != 2 or inputs.shape[1] != self.in_features:
            raise InvalidInputError(
                f"inputs must have shape (batch, {self.in_features}), got {tuple(inputs.shape)}"
            )
        features: Tensor = self.layers(inputs)
        return features

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description without parameters."""
        return {
            "type": "MLP",
            "in_features": self.in_features,
            "hidden": list(self.hidden),
            "out_features": self.out_features,
            "activation": self.activation,
            "dropout": self.dropout,
        }

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        """The encoder that `to_dict` described, with fresh parameters."""
        options = {k: description[k] for k in ("out_features", "activation", "dropout")}
        return cls(description["in_features"], *description["hidden"], **options, seed=0)
