"""Base classes of encoders and of their recipe sections; checks of inputs and columns."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qmtl._calls import seeded
from qmtl._sections import OneOf, Section, Seed
from qmtl.errors import InvalidInputError
from qmtl.tasks import chosen_tasks

TaskColumns = Mapping[str, Sequence[int]]


class Described(nn.Module):
    """A module with one attribute per argument of its constructor, except for the seed."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able description without parameters."""
        # A user's subclass may have other arguments; it must define its own to_dict.
        own = next(c for c in type(self).__mro__ if Described in c.__bases__)
        names = [name for name in inspect.signature(own).parameters if name != "seed"]
        values = {name: getattr(self, name) for name in names}
        lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        return {"type": own.__name__} | values | lists

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        """Return the encoder that `to_dict` described, with fresh parameters."""
        with seeded(0):
            return cls(**{name: value for name, value in description.items() if name != "type"})


class TaskEncoder(nn.Module, ABC):
    """An encoder that computes separate features for each task's register.

    A subclass defines `task_features`; this class puts them in the columns where the head expects
    them. A model asks only for the features on the light cones of the requested tasks.

    Args:
        columns: task → indices of its features, as ``head.task_columns()`` returns them. Each
            feature belongs to one task.

    Attributes:
        columns: the same mapping, with tuples of integers.
        out_features: number of features.

    Raises:
        InvalidInputError: there are no columns (the head's tasks have no features of their
            own), or a feature belongs to no task or to two.

    Example:
        >>> class Means(TaskEncoder):
        ...     def task_features(self, inputs, tasks):
        ...         width = sum(len(self.columns[task]) for task in tasks)
        ...         return inputs.mean(1, keepdim=True).expand(-1, width)
        >>> encoder = Means({"a": [0, 1], "b": [2]})
        >>> encoder(torch.ones(1, 4)), encoder(torch.ones(1, 4), ["b"])
        (tensor([[1., 1., 1.]]), tensor([[0., 0., 1.]]))
    """

    def __init__(self, columns: TaskColumns) -> None:
        super().__init__()
        self.columns = _checked(columns)
        self.out_features = sum(len(own) for own in self.columns.values())

    def forward(
        self, inputs: Tensor, tasks: Sequence[str] | None = None
    ) -> Float[Tensor, "batch features"]:
        """Return the features of the inputs, (batch, out_features).

        Args:
            inputs: inputs whose first dimension is the batch.
            tasks: tasks whose features are computed; the other features are 0. None for all.
        """
        names = chosen_tasks(tasks, self.columns)
        places = [place for name in names for place in self.columns[name]]
        features = self.task_features(inputs, names)
        if places == list(range(self.out_features)):
            return features
        where = torch.tensor(places, dtype=torch.int64, device=features.device)
        empty = features.new_zeros(features.shape[0], self.out_features)
        return empty.index_copy(1, where, features)

    @abstractmethod
    def task_features(self, inputs: Tensor, tasks: tuple[str, ...]) -> Tensor:
        """Return these tasks' features side by side, in this order: (batch, their features)."""

    def start_epoch(self, progress: float) -> None:
        """Prepare for a training epoch; `progress` is the share of epochs done at its end."""

    def extra_loss(self) -> Tensor | None:
        """Return a term of the parameters alone to add to the losses; None if there is none."""
        return None

    def train_new_tasks(self) -> None:
        """Prepare an encoder in evaluation mode for `qmtl.fit` with ``tasks=...``."""

    def undecayed(self) -> list[nn.Parameter]:
        """Return the parameters to exclude from weight decay."""
        return []

    def utilisation(self, inputs: Tensor) -> dict[str, dict[str, float]]:
        """Return each task's mean share of each part, such as an expert, in its mixture; or {}."""
        return {}

    def collapse(self, inputs: Tensor) -> list[str]:
        """Describe problems in the use of the parts in `utilisation`, one sentence each."""
        return []

    def task_parameters(self) -> dict[nn.Parameter, tuple[str, ...]]:
        """Return the parameters of tasks, with the task of each entry along the first axis.

        `qmtl.fit` with ``tasks=...`` trains only these.
        """
        return {}

    def _feature_tasks(self) -> tuple[str, ...]:
        owner = {place: task for task, own in self.columns.items() for place in own}
        return tuple(owner[place] for place in range(self.out_features))

    def with_task(self, name: str, columns: Sequence[int], seed: int | None = None) -> Self:
        """Return a copy with one more task, whose features come after the others.

        Raises:
            InvalidInputError: this encoder cannot grow.
        """
        raise InvalidInputError(
            f"the encoder {type(self).__name__} cannot grow by a task; give encoder=, one for "
            f"{[*self.columns, name]}"
        )


def copy_weights(old: nn.Module, grown: nn.Module) -> None:
    """Copy an encoder into one with more tasks, whose tensors are longer along the first axis."""
    grown.to(next(old.parameters())).train(old.training)
    state = old.state_dict()
    with torch.no_grad():
        for key, value in grown.state_dict().items():
            target = value[: len(state[key])] if value.ndim else value
            target.copy_(state[key])
    for parameter, before in zip(grown.parameters(), old.parameters(), strict=True):
        parameter.requires_grad_(before.requires_grad)


def check_tasks_of(encoder: TaskEncoder, tasks: Sequence[str], columns: TaskColumns | None) -> None:
    """Raise unless encoder and head assign the same features to each task.

    Raises:
        InvalidInputError: they do not; the error names the task and both assignments.
    """
    for name in encoder.columns:
        if name not in tasks:
            raise InvalidInputError(
                f"the encoder has features of task {name!r}, the head has the tasks {list(tasks)}"
            )
    for name, own in (columns or {}).items():
        given = encoder.columns.get(name)
        if given != tuple(own):
            raise InvalidInputError(
                f"features of task {name!r}: the encoder has {given}, the head takes {tuple(own)}"
            )


def _checked(columns: TaskColumns) -> dict[str, tuple[int, ...]]:
    if not isinstance(columns, Mapping) or not columns:
        raise InvalidInputError(
            f"columns must map each task to its features, as head.task_columns() does, got "
            f"{columns!r}; in a shared layout, or with a dense head, tasks have none of their own"
        )
    found = {name: tuple(own) for name, own in columns.items()}
    places = [place for own in found.values() for place in own]
    if sorted(places) != list(range(len(places))) or not all(found.values()):
        raise InvalidInputError(
            f"columns must give each feature from 0 on to one task, and each task at least one, "
            f"got {found}"
        )
    return found


@dataclass(frozen=True)
class EncoderInputs:
    """The data and the head for which an encoder is built.

    Attributes:
        inputs: inputs of the train split, (N, ...).
        n_features: number of features that the head takes.
        modalities: width of each modality in the inputs, if the data has modalities.
        columns: each task's own features, for a `TaskEncoder`; None if there are none.
    """

    inputs: Tensor
    n_features: int
    modalities: Mapping[str, int] | None = None
    columns: TaskColumns | None = None


class EncoderSection(Section):
    """The section ``[encoder]`` of a recipe. Each encoder defines a subclass beside it.

    Its keys are arguments of the encoder.

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
        """Make the encoder for given inputs, with the settings of this section.

        Raises:
            InvalidInputError: the inputs do not fit this encoder, or a value is wrong.
        """

    def of_task(self, name: str) -> Self:
        """Return the section for a single-task model, without settings for other tasks."""
        return self


AnyEncoderSection = Annotated[EncoderSection, OneOf("type", default="MLP")]
"""A field of a recipe that holds the section of any encoder."""


def known_encoders() -> dict[str, Any]:
    """Return the encoders, by their names in saved models."""
    encoders = [section.encoder for section in EncoderSection.__subclasses__()]
    return {encoder.__name__: encoder for encoder in sorted(encoders, key=lambda e: e.__name__)}


def check_flat(inputs: Tensor, width: int) -> None:
    """Raise unless inputs have shape (batch, width)."""
    if inputs.ndim != 2 or inputs.shape[1] != width:
        raise InvalidInputError(
            f"inputs must have shape (batch, {width}), got {tuple(inputs.shape)}"
        )


def flat_width(encoder: str, inputs: Tensor) -> int:
    """Return the width of flat inputs; raise for others."""
    if inputs.ndim != 2:
        raise InvalidInputError(
            f"encoder {encoder!r} needs flat inputs, got shape {tuple(inputs.shape[1:])}; for "
            f"images use 'CNN' or 'ImageBackbone'"
        )
    return inputs.shape[1]


def image_shape(encoder: str, inputs: Tensor) -> tuple[int, int, int]:
    """Return (channels, height, width) of images; raise for other inputs."""
    if inputs.ndim != 4:
        shape = tuple(inputs.shape[1:])
        given = f"{shape[0]} flat inputs" if len(shape) == 1 else f"shape {shape}"
        raise InvalidInputError(
            f"encoder {encoder!r} needs images of shape (channels, height, width), the data have "
            f"{given}"
        )
    channels, height, width = inputs.shape[1:]
    return channels, height, width
