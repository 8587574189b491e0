"""FourierFeatures: random cosines of the inputs, and one linear layer that learns."""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from qmtl._calls import seeded
from qmtl._sections import Count
from qmtl.encoders._encoder import (
    Described,
    EncoderInputs,
    EncoderSection,
    check_flat,
    flat_width,
)
from qmtl.errors import InvalidInputError, check_integer


class FourierFeatures(Described):
    """Cosines of random projections of the inputs, then a linear layer.

    The cosines are drawn once and are not trained. With many of them, the linear layer can learn
    the same functions as a Gaussian-process regression with a Gaussian kernel of width `scale`.
    This suits small tables, whose columns should be standardised.

    Args:
        in_features: width of the inputs.
        out_features: width of the features.
        n_cosines: number of random directions.
        scale: width of the kernel, in units of the inputs.
        seed: seed of the directions and the initial weights; None uses torch's global generator.

    Shape:
        ``(batch, in_features)`` to ``(batch, out_features)``.

    Raises:
        InvalidInputError: a width is not an integer >= 1, or the scale is not positive.

    Example:
        >>> FourierFeatures(11, 6, seed=0)(torch.zeros(5, 11)).shape
        torch.Size([5, 6])

    References:
        Rahimi and Recht, "Random features for large-scale kernel machines", NeurIPS 2007.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        n_cosines: int = 256,
        scale: float = 3.0,
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        in_features = check_integer("in_features", in_features)
        out_features = check_integer("out_features", out_features)
        n_cosines = check_integer("n_cosines", n_cosines)
        if not 0 < scale < math.inf:
            raise InvalidInputError(f"scale must be a positive number, got {scale!r}")
        self.in_features, self.out_features = in_features, out_features
        self.n_cosines, self.scale = n_cosines, float(scale)
        with seeded(seed):
            # A buffer is saved with the parameters, so that a saved model has the same directions.
            self.register_buffer("directions", torch.randn(in_features, n_cosines) / scale)
            self.register_buffer("shifts", 2 * math.pi * torch.rand(n_cosines))
            self.layer = nn.Linear(n_cosines, out_features)

    def forward(self, inputs: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch features"]:
        """Return the features of the inputs."""
        check_flat(inputs, self.in_features)
        angles = inputs @ self.get_buffer("directions") + self.get_buffer("shifts")
        features: Tensor = self.layer(math.sqrt(2 / self.n_cosines) * angles.cos())
        return features


class FourierFeaturesSection(EncoderSection):
    """Recipe section of `FourierFeatures`."""

    encoder: ClassVar[type[nn.Module]] = FourierFeatures
    type: Literal["FourierFeatures"] = "FourierFeatures"
    n_cosines: Count = 256
    scale: float = Field(3.0, gt=0, allow_inf_nan=False)

    def build(self, given: EncoderInputs) -> nn.Module:
        width = flat_width(self.type, given.inputs)
        return FourierFeatures(width, given.n_features, self.n_cosines, self.scale, seed=self.seed)
