"""CNN: a small convolutional encoder for grey-scale (or few-channel) images."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from qmtl._calls import seeded
from qmtl._sections import Count
from qmtl.encoders._encoder import Described, EncoderInputs, EncoderSection, image_shape
from qmtl.encoders._mlp import ACTIVATIONS, check_layers
from qmtl.errors import InvalidInputError, check_integer, unknown_name

POOLINGS = ("average", "flatten")
LARGEST_GROUPS = 8


class CNN(Described):
    """Blocks of convolution, normalisation, activation and pooling, then one linear layer.

    Each block is a 3x3 convolution (padding 1), group normalisation, the activation and 2x2 max
    pooling, which halves height and width (rounded down). Group normalisation, unlike batch
    normalisation, makes a sample's features independent of the others in its batch, which may be of
    size 1, and equal in training and prediction. It also removes most of an image's overall
    brightness and contrast; a task that needs these should get them as separate inputs.

    Args:
        in_channels: number of channels: 1 for grey-scale images.
        image_size: height and width in pixels; a number for square images.
        out_features: width of the features.
        channels: number of channels of each block; they are normalised in up to 8 equal groups.
        pooling: input of the linear layer: the ``average`` of each channel over the image, or all
            of its pixels (``flatten``), which keeps positions and costs more parameters.
        activation: ``relu``, ``gelu``, ``silu`` or ``tanh``.
        dropout: probability of dropping an input of the linear layer in training.
        seed: seed of the initial weights; None uses torch's global generator.

    Shape:
        ``(batch, in_channels, height, width)`` to ``(batch, out_features)``.

    Raises:
        InvalidInputError: a number does not fit, or the image is too small for the blocks.

    Example:
        >>> import torch
        >>> CNN(1, 64, out_features=12, seed=0)(torch.zeros(5, 1, 64, 64)).shape
        torch.Size([5, 12])

    References:
        Group normalisation: Wu and He, arXiv:1803.08494.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int | Sequence[int],
        out_features: int,
        channels: Sequence[int] = (16, 32, 64),
        *,
        pooling: str = "average",
        activation: str = "relu",
        dropout: float = 0.0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        widths = (in_channels, *channels)
        _check_numbers(size, widths, out_features)
        if pooling not in POOLINGS:
            raise unknown_name("pooling", pooling, POOLINGS)
        check_layers(activation, dropout)
        self.in_channels, self.image_size, self.out_features = in_channels, size, out_features
        self.channels, self.pooling = widths[1:], pooling
        self.activation, self.dropout = activation, dropout
        pixels = 1
        if pooling == "flatten":
            pixels = (size[0] >> len(channels)) * (size[1] >> len(channels))
        with seeded(seed):
            blocks = [
                layer
                for i, width in enumerate(self.channels)
                for layer in _block(widths[i], width, ACTIVATIONS[activation]())
            ]
            pool: list[nn.Module] = [nn.AdaptiveAvgPool2d(1)] if pooling == "average" else []
            self.layers = nn.Sequential(*blocks, *pool, nn.Flatten(), nn.Dropout(dropout))
            self.projection = nn.Linear(self.channels[-1] * pixels, out_features)

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features"]:
        """Return the features of the images."""
        expected = (self.in_channels, *self.image_size)
        if tuple(inputs.shape[1:]) != expected:
            raise InvalidInputError(
                f"images must have shape (batch, {', '.join(map(str, expected))}), got "
                f"{tuple(inputs.shape)}"
            )
        features: Tensor = self.projection(self.layers(inputs))
        return features


class CNNSection(EncoderSection):
    """Recipe section of `CNN`."""

    encoder: ClassVar[type[nn.Module]] = CNN
    type: Literal["CNN"] = "CNN"
    channels: list[Count] = Field(default_factory=lambda: [16, 32, 64], min_length=1)
    pooling: Literal["average", "flatten"] = "average"
    activation: str = "relu"
    dropout: float = Field(0.0, ge=0, lt=1)

    def build(self, given: EncoderInputs) -> nn.Module:
        in_channels, *size = image_shape(self.type, given.inputs)
        options = self.model_dump(exclude={"type"})
        return CNN(in_channels, size, given.n_features, **options)


def _block(in_channels: int, out_channels: int, activation: nn.Module) -> list[nn.Module]:
    groups = max(g for g in range(1, LARGEST_GROUPS + 1) if out_channels % g == 0)
    return [
        # The normalisation that follows has its own bias.
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.GroupNorm(groups, out_channels),
        activation,
        nn.MaxPool2d(2),
    ]


def _check_numbers(size: Sequence[int], widths: Sequence[int], out_features: int) -> None:
    if len(size) != 2 or any(map(_is_no_count, size)):
        raise InvalidInputError(f"image_size must be two integers >= 1, got {tuple(size)}")
    if len(widths) < 2:
        raise InvalidInputError("channels must hold at least one block's channels, got none")
    if any(map(_is_no_count, widths)):
        raise InvalidInputError(f"in_channels and channels must be integers >= 1, got {widths}")
    check_integer("out_features", out_features)
    blocks = len(widths) - 1
    if min(size) < 2**blocks:
        raise InvalidInputError(
            f"image_size {tuple(size)} is halved by each of {blocks} blocks, so that it needs at "
            f"least {2**blocks} pixels a side; give fewer channels"
        )


def _is_no_count(number: object) -> bool:
    return isinstance(number, bool) or not isinstance(number, int) or number < 1
