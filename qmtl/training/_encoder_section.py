"""The section [encoder] of a recipe: a type, and the keys that this type reads."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from qmtl.training._settings import Section, Seed

__all__ = ["EncoderSection"]

_MLP = {"hidden", "activation", "dropout"}
_KEYS: dict[str, set[str]] = {
    "MLP": {*_MLP, "standardise"},
    "Identity": {*_MLP, "standardise"},  # has no use for them, but a grid may try it beside MLP
    "CNN": {"channels", "pooling", "activation", "dropout"},
    "Fusion": {*_MLP, "widths", "kind", "dim", "n_heads", "modality_dropout"},
    "ImageBackbone": {"network", "library", "weights", "frozen"},
}
_COMMON = {"type", "seed"}
_Count = Annotated[int, Field(ge=1)]


class EncoderSection(Section):
    """The classical encoder; see the class of that name in `qmtl.encoders`.

    Attributes:
        type: ``MLP`` or ``Identity`` (flat inputs), ``CNN`` or ``ImageBackbone`` (images), or
            ``Fusion`` (several modalities).
        hidden: (MLP, Fusion) widths of the hidden layers.
        activation: (MLP, CNN, Fusion) relu, gelu, silu or tanh.
        dropout: (MLP, CNN, Fusion) probability of dropping a unit in training.
        standardise: (MLP) whether inputs are standardised, column by column, by the training
            split's means and deviations.
        channels: (CNN) of each block.
        pooling: (CNN) average or flatten.
        widths: (Fusion) modality to its number of columns; None for what the data say.
        kind: (Fusion) concat, gated or cross-attention.
        dim: (Fusion) width of the joint representation.
        n_heads: (Fusion) attention heads.
        modality_dropout: (Fusion) probability of taking a modality for missing in training.
        network: (ImageBackbone) such as resnet18.
        library: (ImageBackbone) torchvision or timm.
        weights: (ImageBackbone) a file with the network's weights, relative to the recipe; None for
            random ones.
        frozen: (ImageBackbone) whether the network keeps its weights.
        seed: of the initial weights.
    """

    type: Literal["MLP", "Identity", "CNN", "Fusion", "ImageBackbone"] = "MLP"
    hidden: list[int] = Field(default_factory=lambda: [64])
    activation: str = "relu"
    dropout: float = Field(0.0, ge=0, lt=1)
    standardise: bool = False
    channels: list[_Count] = Field(default_factory=lambda: [16, 32, 64], min_length=1)
    pooling: Literal["average", "flatten"] = "average"
    widths: dict[str, _Count] | None = None
    kind: Literal["concat", "gated", "cross-attention"] = "concat"
    dim: _Count = 64
    n_heads: _Count = 4
    modality_dropout: float = Field(0.0, ge=0, lt=1)
    network: str = "resnet18"
    library: Literal["torchvision", "timm"] = "torchvision"
    weights: str | None = None
    frozen: bool = False
    seed: Seed = 0

    @model_validator(mode="after")
    def _keys_fit_the_type(self) -> "EncoderSection":
        # A default is no wish: resolved recipes hold the defaults of all types.
        default = EncoderSection.model_construct(type=self.type)
        for key in type(self).model_fields:
            unread = key not in _COMMON | _KEYS[self.type]
            if unread and getattr(self, key) != getattr(default, key):
                raise ValueError(
                    f"type '{self.type}' does not read '{key}'; it reads "
                    f"{', '.join(sorted((_COMMON | _KEYS[self.type]) - {'type'}))}"
                )
        return self

    def relative_to(self, folder: Path) -> "EncoderSection":
        """The section with its path made absolute, as seen from the recipe's folder.

        Example:
            >>> section = EncoderSection(type="ImageBackbone", weights="resnet.pth")
            >>> section.relative_to(Path("/recipes")).weights
            '/recipes/resnet.pth'
        """
        if self.weights is None:
            return self
        return self.model_copy(update={"weights": str((folder / self.weights).resolve())})
