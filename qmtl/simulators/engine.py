"""The contract of engines: what computes a group's outputs, and their gradients."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

__all__ = ["ALL", "EarlyEngine", "Engine", "Needs", "Three", "no_gradient"]

Three = tuple[Tensor, Tensor, Tensor]
# Which of the three inputs' gradients are asked for.
Needs = tuple[bool, bool, bool]
ALL: Needs = (True, True, True)


class Engine(Protocol):
    """A way to a group's outputs, from three tensors of angles or weights.

    The third has a row for each member of the group: a task, or several of them on one state.
    """

    @property
    def name(self) -> str:
        """How it is called in explanations."""

    @property
    def is_differentiable(self) -> bool:
        """Whether torch's autograd should follow `eager` itself."""

    def angles(self, columns: Tensor, encoding: Tensor) -> Tensor:
        """The first input, from the features (features, samples)."""

    def forward(self, inputs: Three, keep: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs (members, n_outputs, samples), and what `pull_back` wants (if `keep`)."""

    def pull_back(
        self, gradients: Tensor, inputs: Three, kept: Sequence[Tensor], needs: Needs = ALL
    ) -> Three:
        """Gradients by the inputs, for each of `gradients` (n, members, n_outputs, samples).

        Where one is not needed, anything of its shape (`no_gradient`).
        """

    def eager(self, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        """The same outputs by torch operations."""

    def step_bytes(self, samples: int, itemsize: int) -> int:
        """Estimated bytes of a training step."""

    def step_operations(self, samples: int) -> int:
        """Estimated floating-point operations of a training step."""


class Unfinished(Protocol):
    """What threads are at work on."""

    def finish(self) -> None:
        """Wait for them."""


class EarlyEngine(Engine, Protocol):
    """An engine whose threads need the tasks' weights late, and have their gradient early."""

    @property
    def n_members(self) -> int:
        """How many members there are."""

    def n_threads(self, samples: int, itemsize: int) -> int:
        """How many threads so many samples are worth."""

    def begin(self, first: Tensor, second: Tensor) -> "Unfinished":
        """What does not need the tasks' weights, in other threads; for `forward`."""

    def forward(
        self, inputs: Three, keep: bool, begun: Any = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The same as any engine's, with what `begin` has given."""

    def start(
        self, gradient: Tensor, inputs: Three, kept: Sequence[Tensor], needs: Needs
    ) -> tuple[Three, Callable[[], None]]:
        """Gradients by the inputs, and what waits for the first two, which other threads compute.

        Until then these are NaN, so that nobody who sees them too early takes them for gradients.
        """


def no_gradient(n: int, like: Tensor) -> Tensor:
    """In place of `n` gradients that nobody asked for: zeros that take no memory."""
    return like.new_zeros(()).expand(n, *like.shape)
