"""From the section [encoder] of a recipe to the encoder for some data."""

from torch import nn

from qmtl.data import MultiTaskData
from qmtl.encoders import CNN, MLP, Fusion, Identity, ImageBackbone
from qmtl.errors import InvalidInputError
from qmtl.training._encoder_section import EncoderSection

__all__ = ["build_encoder"]


def build_encoder(section: EncoderSection, data: MultiTaskData, n_features: int) -> nn.Module:
    """The encoder for these data, with so many features.

    Raises:
        InvalidInputError: if the data's inputs do not fit the type of encoder, or a value is wrong.

    Example:
        >>> from qmtl.data import digits
        >>> build_encoder(EncoderSection(hidden=[8]), digits(), 12).hidden
        (8,)
    """
    if section.type in ("CNN", "ImageBackbone"):
        return _of_images(section, data, n_features)
    width = data.n_inputs
    if not isinstance(width, int):
        raise InvalidInputError(
            f"encoder {section.type!r} needs flat inputs, got shape {width}; for images use 'CNN' "
            f"or 'ImageBackbone'"
        )
    if section.type == "Fusion":
        return _fusion(section, data.modalities, width, n_features)
    if section.type == "Identity":
        if width != n_features:
            raise InvalidInputError(
                f"encoder 'Identity' passes {width} inputs on, the head takes {n_features} "
                f"features; use 'MLP', or inputs of that number"
            )
        return Identity(width)
    encoder = MLP(
        width,
        *section.hidden,
        out_features=n_features,
        activation=section.activation,
        dropout=section.dropout,
        standardise=section.standardise,
        seed=section.seed,
    )
    if section.standardise:
        encoder.set_input_scale(data.train.inputs)
    return encoder


def _of_images(section: EncoderSection, data: MultiTaskData, n_features: int) -> nn.Module:
    shape = data.n_inputs
    if isinstance(shape, int) or len(shape) != 3:
        raise InvalidInputError(
            f"encoder {section.type!r} needs images of shape (channels, height, width), the data "
            f"have {f'{shape} flat inputs' if isinstance(shape, int) else f'shape {shape}'}"
        )
    channels, *size = shape
    if section.type == "CNN":
        return CNN(
            channels,
            size,
            n_features,
            section.channels,
            pooling=section.pooling,
            activation=section.activation,
            dropout=section.dropout,
            seed=section.seed,
        )
    if channels not in (1, 3):
        raise InvalidInputError(f"encoder 'ImageBackbone' needs 1 or 3 channels, got {channels}")
    return ImageBackbone(
        section.network,
        n_features,
        section.weights,
        frozen=section.frozen,
        library=section.library,
        seed=section.seed,
    )


def _fusion(
    section: EncoderSection, modalities: dict[str, int] | None, width: int, n_features: int
) -> nn.Module:
    widths = section.widths or modalities
    if widths is None:
        raise InvalidInputError(
            f"encoder 'Fusion' needs widths = {{ modality = columns, ... }}: the data have {width} "
            f"inputs and do not say which are whose"
        )
    if modalities is not None and list(widths.items()) != list(modalities.items()):
        raise InvalidInputError(f"encoder: widths are {widths}, the data have {modalities}")
    expected = len(widths) + sum(widths.values())
    if expected != width:
        raise InvalidInputError(
            f"encoder 'Fusion': widths {widths} and a presence flag for each are {expected} "
            f"inputs, the data have {width}"
        )
    return Fusion(
        widths,
        n_features,
        section.kind,
        dim=section.dim,
        n_heads=section.n_heads,
        hidden=section.hidden,
        activation=section.activation,
        dropout=section.dropout,
        modality_dropout=section.modality_dropout,
        seed=section.seed,
    )
