"""Shared code of encoders: the section of a recipe, the initial weights, names in files."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from qmtl._sections import OneOf, Section, Seed
from qmtl.encoders._task_encoder import TaskColumns
from qmtl.errors import InvalidInputError

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class EncoderInputs:
    """What an encoder is built for.

    Attributes:
        inputs: inputs of the train split, (N, ...).
        n_features: number of features that the head takes.
        modalities: width of each modality in the inputs, if the data has modalities.
        columns: each task's own features, for a `TaskEncoder`; None if tasks have no features of
            their own.
    """

    inputs: Tensor
    n_features: int
    modalities: Mapping[str, int] | None = None
    columns: TaskColumns | None = None


class EncoderSection(Section):
    """The section ``[encoder]`` of a recipe. Each encoder defines a subclass beside it.

    Attributes:
        type: name of the encoder; each subclass has its own.
        seed: seed of the initial weights.
    """

    encoder: ClassVar[type[nn.Module]]
    """The class that the section builds; saved models know it by its name."""

    type: str
    seed: Seed = 0

    @abstractmethod
    def build(self, given: EncoderInputs) -> nn.Module:
        """The encoder for some data.

        Raises:
            InvalidInputError: if the inputs do not fit this encoder, or a value is wrong.
        """

    def of_task(self, name: str) -> Self:
        """The section for a single-task model, without settings for other tasks."""
        return self


AnyEncoderSection = Annotated[EncoderSection, OneOf("type", default="MLP")]
"""A field of a recipe that holds the section of any encoder."""


def known_encoders() -> dict[str, Any]:
    """The encoders, by their names in saved models.

    Example:
        >>> import qmtl.encoders
        >>> "MLP" in known_encoders()
        True
    """
    encoders = [section.encoder for section in EncoderSection.__subclasses__()]
    return {encoder.__name__: encoder for encoder in sorted(encoders, key=lambda e: e.__name__)}


def check_flat(inputs: Tensor, width: int) -> None:
    """Raise if inputs are not of shape (batch, width)."""
    if inputs.ndim != 2 or inputs.shape[1] != width:
        raise InvalidInputError(
            f"inputs must have shape (batch, {width}), got {tuple(inputs.shape)}"
        )


def flat_width(encoder: str, inputs: Tensor) -> int:
    """The width of inputs (N, width).

    Raises:
        InvalidInputError: if the inputs have another number of dimensions.

    Example:
        >>> flat_width("MLP", torch.zeros(3, 5))
        5
    """
    if inputs.ndim != 2:
        raise InvalidInputError(
            f"encoder {encoder!r} needs flat inputs, got shape {tuple(inputs.shape[1:])}; for "
            f"images use 'CNN' or 'ImageBackbone'"
        )
    return inputs.shape[1]


def image_shape(encoder: str, inputs: Tensor) -> tuple[int, int, int]:
    """Channels, height and width of images (N, channels, height, width).

    Raises:
        InvalidInputError: if the inputs are not images.

    Example:
        >>> image_shape("CNN", torch.zeros(3, 1, 8, 8))
        (1, 8, 8)
    """
    if inputs.ndim != 4:
        shape = tuple(inputs.shape[1:])
        given = f"{shape[0]} flat inputs" if len(shape) == 1 else f"shape {shape}"
        raise InvalidInputError(
            f"encoder {encoder!r} needs images of shape (channels, height, width), the data have "
            f"{given}"
        )
    channels, height, width = inputs.shape[1:]
    return channels, height, width


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Inside, torch draws from this seed; then its generator is restored. None: no change.

    Example:
        >>> with seeded(0):
        ...     first = torch.rand(2)
        >>> with seeded(0):
        ...     bool((torch.rand(2) == first).all())
        True
    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield
