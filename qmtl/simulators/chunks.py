"""An engine on a few samples at a time: memory for time, with the same results."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from qmtl.simulators.engine import ALL, Engine, Needs, Three

__all__ = ["ChunkedEngine"]


class ChunkedEngine:
    """Runs another engine on chunks of the batch and keeps nothing; an `Engine`.

    Backwards each chunk is computed again, so that a step takes the memory of one chunk and about
    a third more time.

    Args:
        inner: the engine.
        samples: samples of a chunk.
    """

    is_differentiable: ClassVar[bool] = False

    def __init__(self, inner: Engine, samples: int) -> None:
        self.inner, self.samples = inner, samples

    @property
    def name(self) -> str:
        """The engine's name."""
        return self.inner.name

    def angles(self, columns: Tensor, encoding: Tensor) -> Tensor:
        """The inner engine's first input."""
        return self.inner.angles(columns, encoding)

    def _chunks(self, inputs: Three) -> list[Three]:
        rows, second, third = inputs
        return [(part.detach(), second, third) for part in rows.split(self.samples, dim=1)]

    def forward(self, inputs: Three, keep: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs; nothing is kept."""
        parts = [self.inner.forward(chunk, False)[0] for chunk in self._chunks(inputs)]
        return torch.cat(parts, dim=-1), ()

    def pull_back(
        self, gradients: Tensor, inputs: Three, kept: Sequence[Tensor], needs: Needs = ALL
    ) -> Three:
        """Gradients by the three inputs, for each row of a Jacobian."""
        by_rows: list[Tensor] = []
        by_second = by_third = None
        pieces = gradients.detach().split(self.samples, dim=-1)
        for chunk, gradient in zip(self._chunks(inputs), pieces, strict=True):
            again = () if self.inner.is_differentiable else self.inner.forward(chunk, True)[1]
            first, second, third = self.inner.pull_back(gradient, chunk, again, needs)
            by_rows.append(first)
            by_second = second if by_second is None else by_second + second
            by_third = third if by_third is None else by_third + third
        assert by_second is not None
        assert by_third is not None
        return torch.cat(by_rows, dim=-1), by_second, by_third

    def eager(self, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        """The same by torch operations, on the whole batch."""
        return self.inner.eager(first, second, third)

    def step_bytes(self, samples: int, itemsize: int) -> int:
        """Estimated bytes of a training step."""
        return self.inner.step_bytes(min(samples, self.samples), itemsize)

    def step_operations(self, samples: int) -> int:
        """Estimated floating-point operations of a training step, a second forward included."""
        return self.inner.step_operations(samples) * 4 // 3
