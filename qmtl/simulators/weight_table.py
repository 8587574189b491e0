"""Weight tables: the angles that are the same for all samples, and their gradients by weight."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.simulators.slots import SlotTable

__all__ = ["WeightTable"]

Array = NDArray[Any]


@dataclass(frozen=True)
class WeightTable:
    """Where the angles that are the same for all samples come from.

    Attributes:
        index: places of the weights in a flat vector, shape (places, angles).
        constants: factors; None if all are 1.
        present: whether there is a weight at all; None if there always is.
    """

    index: NDArray[np.int64]
    constants: Array | None
    present: NDArray[np.bool_] | None

    @classmethod
    def of(cls, table: SlotTable, stride: int = 0) -> "WeightTable":
        """The table of a section; with a `stride`, each row has weights of its own."""
        slots = table.weight_slots
        index, constants = table.weights[:, slots], table.constants[:, slots]
        present = index >= 0
        own = np.arange(len(index))[:, None] * stride
        return cls(
            np.ascontiguousarray(np.where(present, index + own, 0)),
            None if (constants == 1).all() else constants,
            None if present.all() else present,
        )

    def angles(self, weights: Tensor) -> Tensor:
        """The angles by torch operations, shape (places, angles)."""
        index = torch.from_numpy(self.index).to(weights.device)
        flat = weights.reshape(-1) if weights.numel() else weights.new_zeros(1)
        values = flat[index]
        if self.present is not None:
            values = values.where(torch.from_numpy(self.present).to(weights.device), 1.0)
        if self.constants is not None:
            values = values * torch.from_numpy(self.constants).to(values)
        return values

    def cosines_and_sines(self, weights: Tensor, *, half: bool = False) -> Array:
        """Of the angles or of their halves, shape (2, places, angles)."""
        if self.present is None and self.constants is None:
            angles = weights.detach().numpy().reshape(-1)[self.index]
        else:
            angles = self.angles(weights.detach()).numpy()
        if half:
            angles = angles / 2
        both = np.empty((2, *angles.shape), angles.dtype)
        with np.errstate(invalid="ignore"):  # of infinite weights, as torch has it
            np.cos(angles, out=both[0])
            np.sin(angles, out=both[1])
        return both

    def scatter(
        self, gradient: Array, places: Array | None, row: Array, n: int, size: int
    ) -> Array:
        """Gradients (places, angles) summed by weight, for `n` rows of a Jacobian.

        Args:
            gradient: by the angles.
            places: which they are; None for all, of a single row.
            row: the row of each place.
            n: how many rows there are.
            size: how many weights there are.
        """
        if not size:
            return np.zeros((n, 0), gradient.dtype)
        chosen: Any = slice(None) if places is None else places
        if self.constants is not None:
            gradient = gradient * self.constants[chosen]
        if self.present is not None:
            gradient = np.where(self.present[chosen], gradient, 0)
        target = self.index if places is None else self.index[places] + row[:, None] * size
        summed = np.bincount(target.ravel(), weights=gradient.ravel(), minlength=n * size)
        return summed.reshape(n, size).astype(gradient.dtype)
