"""The interface of engines, which compute a group's outputs and gradients, and their program."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.simulators._plan import Plan

Array = NDArray[Any]


class Inputs(NamedTuple):
    """A step's angles in the form that engines take.

    Attributes:
        sampled: angles that depend on the sample, shape (n_sampled, batch).
        fixed: the other angles, shape (n_fixed,).
        whole: cosines and sines of the sampled angles and of the fixed ones, if an engine uses
            them.
        half: cosines and sines of half the angles, if an engine uses them.
    """

    sampled: Array
    fixed: Array
    whole: tuple[Array, Array, Array, Array] | None
    half: tuple[Array, Array, Array, Array] | None


class Engine(ABC):
    """Computes the outputs of a group of cones from the angles of a plan's table.

    The base class runs torch operations, in chunks of members and samples if `lane_numbers` is not
    0. Compiled engines override `forward`, `pull_back` and `step_bytes`.

    Args:
        columns: columns of the members' outputs among the plan's, shape (members, n_outputs).
        lane_numbers: numbers that a training step keeps for one sample of one member; 0 for no
            chunks.
        most_bytes: most bytes of a chunk; a chunk holds at least one sample of one member.
    """

    name: ClassVar[str]
    # The angles whose cosines and sines the engine uses: "whole", "half", or "" for none.
    wants: ClassVar[str] = ""
    # Whether the engine runs compiled kernels, which take most of a second to load.
    has_kernels: ClassVar[bool] = False

    def __init__(
        self, columns: NDArray[np.int64], lane_numbers: int = 0, most_bytes: int = 0
    ) -> None:
        self.columns, self.lane_numbers, self.most_bytes = columns, lane_numbers, most_bytes

    @abstractmethod
    def torch_values(self, sampled: Tensor, fixed: Tensor, members: slice = slice(None)) -> Tensor:
        """Compute outputs by differentiable torch operations, (members, n_outputs, batch).

        Args:
            sampled: the plan's angles that depend on the sample, shape (n_sampled, batch).
            fixed: the plan's other angles, shape (n_fixed,).
            members: the members to compute; engines without chunks always compute all.
        """

    @abstractmethod
    def step_operations(self, samples: int) -> int:
        """Estimate the floating-point operations of a training step."""

    def step_bytes(self, samples: int, itemsize: int) -> int:
        """Estimate the bytes of a training step."""
        numbers = self._lanes(samples, itemsize) * self.lane_numbers
        return (numbers + 4 * self.columns.size * samples) * itemsize

    def _lanes(self, samples: int, itemsize: int) -> int:
        """Return how many pairs of a member and a sample a chunk holds."""
        every = len(self.columns) * samples
        if not self.lane_numbers:
            return every
        return min(every, max(1, self.most_bytes // (self.lane_numbers * itemsize)))

    def _chunks(self, samples: int, itemsize: int) -> Iterator[tuple[slice, slice]]:
        n, lanes = len(self.columns), self._lanes(samples, itemsize)
        width = max(1, min(lanes, samples))
        height = max(1, lanes // width)
        for member in range(0, n, height):
            for low in range(0, samples, width):
                yield slice(member, min(member + height, n)), slice(low, min(low + width, samples))

    def forward(self, inputs: Inputs, values: Array) -> Any:
        """Write the outputs into their columns of `values`, shape (batch, all outputs).

        The result is the `kept` of `pull_back`; in the base class, the graph of a single chunk.
        """
        chunks = list(self._chunks(len(values), values.itemsize))
        kept = None
        for members, part in chunks:
            with torch.set_grad_enabled(len(chunks) == 1):
                leaves, found = self._graph(inputs, members, part)
            values[part, self.columns[members].ravel()] = found.detach().numpy()
            kept = leaves, found
        return kept if len(chunks) == 1 else None

    def pull_back(
        self, inputs: Inputs, kept: Any, gradients: Array, by_sampled: Array, by_fixed: Array
    ) -> None:
        """Add the gradients with respect to the angles to `by_sampled` and `by_fixed`.

        Args:
            inputs: the angles, as for `forward`.
            kept: the result of `forward`.
            gradients: gradients with respect to all outputs of the plan, shape (batch, all
                outputs).
            by_sampled: array to add to, shape (n_sampled, batch).
            by_fixed: array to add to, shape (n_fixed,).
        """
        for members, part in self._chunks(len(gradients), gradients.itemsize):
            chosen = gradients[part, self.columns[members].ravel()]
            # NaN counts as a gradient, since it must reach the result.
            if not chosen.any():
                continue
            with torch.enable_grad():
                leaves, values = kept or self._graph(inputs, members, part)
            # Outputs without any angle have no graph.
            if values.requires_grad:
                # A kept graph may be differentiated several times.
                first, second = torch.autograd.grad(
                    values, leaves, torch.from_numpy(chosen), materialize_grads=True,
                    retain_graph=kept is not None,
                )  # fmt: skip
                by_sampled[:, part] += first.numpy()
                by_fixed += second.numpy()

    def _graph(self, inputs: Inputs, members: slice, part: slice) -> tuple[list[Tensor], Tensor]:
        """Return a chunk's angles, and its outputs (samples, members' outputs)."""
        numbers = inputs.sampled[:, part], inputs.fixed
        sampled, fixed = (torch.from_numpy(own).requires_grad_() for own in numbers)
        return [sampled, fixed], self.torch_values(sampled, fixed, members).flatten(0, 1).T


class Program:
    """A plan and its engines, which together compute all its outputs.

    Args:
        plan: the plan.
        engines: engines of the plan's groups, then the chain's engine if there is a chain.
    """

    def __init__(self, plan: Plan, engines: Sequence[Engine]) -> None:
        self.plan, self.table, self.engines = plan, plan.table, tuple(engines)
        columns = [engine.columns.ravel() for engine in engines]
        every = np.concatenate(columns) if columns else np.zeros(0, np.int64)
        self._order = np.argsort(every, kind="stable")
        self.wanted = {engine.wants for engine in engines}

    def torch_values(self, angles: Tensor, weights: Tensor) -> Tensor:
        """Compute outputs by torch operations, (batch, n_outputs); differentiable to any order."""
        sampled, fixed = self.table.sampled(angles, weights), self.table.fixed(weights)
        if not self.engines:
            return angles.new_zeros(len(angles), 0)
        parts = [engine.torch_values(sampled, fixed).flatten(0, 1) for engine in self.engines]
        order = torch.from_numpy(self._order).to(angles.device)
        return torch.cat(parts)[order].T
