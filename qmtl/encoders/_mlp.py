"""MLP: a multi-layer perceptron as encoder; and Identity, which passes inputs on."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from qmtl._calls import seeded
from qmtl._sections import Section
from qmtl.encoders._encoder import Described, EncoderInputs, EncoderSection, check_flat, flat_width
from qmtl.errors import InvalidInputError, check_integer, unknown_name

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}
# Relative to a column's mean: float32 values closer than this differ by rounding only.
ROUNDING = torch.finfo(torch.float32).eps


def check_layers(activation: str, dropout: float) -> None:
    """Raise for an unknown activation or a dropout outside [0, 1)."""
    if activation not in ACTIVATIONS:
        raise unknown_name("activation", activation, ACTIVATIONS)
    if not 0 <= dropout < 1:
        raise InvalidInputError(f"dropout must be in [0, 1), got {dropout}")


class MLP(Described):
    """Linear layers with an activation between them.

    Args:
        in_features: width of the inputs.
        hidden: widths of the hidden layers; empty for a single linear layer.
        out_features: width of the features.
        activation: ``relu``, ``gelu``, ``silu`` or ``tanh``.
        dropout: probability of dropping a hidden unit in training.
        standardise: whether inputs are scaled to mean 0 and deviation 1, column by column, by the
            statistics that `set_input_scale` computes (before that call, inputs are not scaled).
            The statistics are saved with the parameters, and are not trained.
        seed: seed of the initial weights; None uses torch's global generator.

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
        standardise: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        given = (in_features, *hidden, out_features)
        widths = tuple(check_integer("widths", width) for width in given)
        check_layers(activation, dropout)
        self.in_features, self.hidden, self.out_features = widths[0], widths[1:-1], widths[-1]
        self.activation, self.dropout = activation, dropout
        self.standardise = standardise
        if standardise:
            self.register_buffer("input_mean", torch.zeros(in_features))
            self.register_buffer("input_scale", torch.ones(in_features))
        layers: list[nn.Module] = []
        with seeded(seed):
            for width, following in pairwise(widths):
                layers.append(nn.Linear(width, following))
                layers.append(ACTIVATIONS[activation]())
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers[:-2])

    def forward(self, inputs: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch features"]:
        """Return the features of the inputs."""
        check_flat(inputs, self.in_features)
        if self.standardise:
            inputs = (inputs - self.get_buffer("input_mean")) * self.get_buffer("input_scale")
        features: Tensor = self.layers(inputs)
        return features

    @torch.no_grad()
    def set_input_scale(self, inputs: Float[Tensor, "rows inputs"]) -> None:
        """Set the columns' means and deviations from the rows of a training split.

        The encoder then ignores columns that are constant in these rows: they carry no information,
        and dividing by their deviation would let them dominate others.

        Raises:
            InvalidInputError: the encoder was made without `standardise`, or inputs have another
                width.

        Example:
            >>> encoder = MLP(2, out_features=1, standardise=True, seed=0)
            >>> encoder.set_input_scale(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
            >>> encoder.input_mean.tolist(), encoder.input_scale.tolist()
            ([2.0, 5.0], [1.0, 0.0])
        """
        if not self.standardise:
            raise InvalidInputError("set_input_scale needs an MLP made with standardise=True")
        if inputs.ndim != 2 or inputs.shape[1] != self.in_features or not len(inputs):
            raise InvalidInputError(
                f"inputs must have shape (rows, {self.in_features}) with at least one row, got "
                f"{tuple(inputs.shape)}"
            )
        values = inputs.cpu().double()
        mean, std = values.mean(dim=0), values.std(dim=0, correction=0)
        varies = std > ROUNDING * mean.abs() + torch.finfo(torch.float32).tiny
        self.get_buffer("input_mean").copy_(mean)
        self.get_buffer("input_scale").copy_(torch.where(varies, 1 / std, 0.0))

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        options = {k: description[k] for k in ("out_features", "activation", "dropout")}
        # Models saved before this option existed have no entry for it.
        options["standardise"] = description.get("standardise", False)
        return cls(description["in_features"], *description["hidden"], **options, seed=0)


class Identity(Described):
    """Passes inputs of shape (batch, n_features) on as features.

    Example:
        >>> Identity(4)(torch.ones(1, 4))
        tensor([[1., 1., 1., 1.]])
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = check_integer("n_features", n_features)
        self.in_features = self.out_features = self.n_features

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs, unchanged."""
        return inputs


class _MLPKeys(Section):
    hidden: list[int] = Field(default_factory=lambda: [64])
    activation: str = "relu"
    dropout: float = Field(0.0, ge=0, lt=1)
    standardise: bool = False


class MLPSection(_MLPKeys, EncoderSection):
    """Section ``[encoder]`` with ``type = "MLP"``, the default.

    Its keys are arguments of `MLP`. Inputs are standardised by the training split.
    """

    encoder: ClassVar[type[nn.Module]] = MLP
    type: Literal["MLP"] = "MLP"

    def build(self, given: EncoderInputs) -> nn.Module:
        options = self.model_dump(exclude={"type", "hidden"})
        width = flat_width(self.type, given.inputs)
        encoder = MLP(width, *self.hidden, out_features=given.n_features, **options)
        if self.standardise:
            encoder.set_input_scale(given.inputs)
        return encoder


class IdentitySection(_MLPKeys, EncoderSection):
    """Section ``[encoder]`` with ``type = "Identity"``.

    It ignores the keys of the MLP, so that a grid can compare both.
    """

    encoder: ClassVar[type[nn.Module]] = Identity
    type: Literal["Identity"] = "Identity"

    def build(self, given: EncoderInputs) -> nn.Module:
        width = flat_width(self.type, given.inputs)
        if width != given.n_features:
            raise InvalidInputError(
                f"encoder 'Identity' passes {width} inputs on, the head takes {given.n_features} "
                f"features; use 'MLP', or inputs of that number"
            )
        return Identity(width)
