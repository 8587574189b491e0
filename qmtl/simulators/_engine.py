"""The contract of engines: what computes a group's outputs, and their gradients."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Array", "Engine", "Inputs"]

Array = NDArray[Any]


class Inputs(NamedTuple):
    """A step's angles, as engines take them.

    Attributes:
        sampled: those that depend on the sample, shape (n_sampled, batch).
        fixed: the others, shape (n_fixed,).
        whole: cosines and sines, of the sampled angles and of the fixed ones, where an engine wants
            them.
        half: the same of half of the angles.
    """

    sampled: Array
    fixed: Array
    whole: tuple[Array, Array, Array, Array] | None
    half: tuple[Array, Array, Array, Array] | None


class Engine(ABC):
    """A way to the outputs of a group of cones, from the angles of a plan's table.

    By itself an engine runs torch operations; compiled ones override `forward` and `pull_back`.

    Args:
        columns: columns of the members' outputs among the plan's, shape (members, n_outputs).
    """

    name: ClassVar[str]
    # Of which angles it wants cosines and sines: "whole", "half" or none.
    wants: ClassVar[str] = ""

    def __init__(self, columns: NDArray[np.int64]) -> None:
        self.columns = columns

    @abstractmethod
    def torch_values(self, sampled: Tensor, fixed: Tensor) -> Tensor:
        """Outputs by differentiable torch operations, shape (members, n_outputs, batch).

        Args:
            sampled: the plan's angles that depend on the sample, shape (n_sampled, batch).
            fixed: the others, shape (n_fixed,).
        """

    @abstractmethod
    def step_bytes(self, samples: int, itemsize: int) -> int:
        """Estimated bytes of a training step."""

    @abstractmethod
    def step_operations(self, samples: int) -> int:
        """Estimated floating-point operations of a training step."""

    def forward(self, inputs: Inputs, values: Array) -> Any:
        """Write the outputs into their columns of `values`, shape (batch, all outputs).

        Returns what `pull_back` wants.
        """
        with torch.no_grad():
            found = self.torch_values(*map(torch.from_numpy, (inputs.sampled, inputs.fixed)))
        values[:, self.columns.ravel()] = found.flatten(0, 1).T.numpy()
        return None

    def pull_back(
        self, inputs: Inputs, kept: Any, gradients: Array, by_sampled: Array, by_fixed: Array
    ) -> None:
        """Add the gradients with respect to the angles.

        Args:
            inputs: as for `forward`.
            kept: what `forward` returned.
            gradients: with respect to all outputs of the plan, shape (batch, all outputs).
            by_sampled: where to add, shape (n_sampled, batch).
            by_fixed: where to add, shape (n_fixed,).
        """
        chosen = gradients[:, self.columns.ravel()]
        if not chosen.any():
            return
        with torch.enable_grad():
            numbers = (inputs.sampled, inputs.fixed)
            leaves = [torch.from_numpy(part).requires_grad_() for part in numbers]
            values = self.torch_values(*leaves).flatten(0, 1).T
        if values.requires_grad:
            first, second = torch.autograd.grad(
                values, leaves, torch.from_numpy(chosen), materialize_grads=True
            )
            by_sampled += first.numpy()
            by_fixed += second.numpy()
