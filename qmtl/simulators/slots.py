"""Slot tables: where the angles of a group's rotations come from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmtl.circuit.gates import Angle

__all__ = ["SlotTable", "slot_table"]

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class SlotTable:
    """Where the angles of a section come from: one row per cone, one column per rotation.

    Attributes:
        features: indices of the features that are multiplied, shape (cones, slots, factors);
            -1 where there is none.
        weights: index of the weight, shape (cones, slots); -1 where there is none.
        constants: factors, shape (cones, slots).
    """

    features: IntArray
    weights: IntArray
    constants: NDArray[np.float64]

    @property
    def feature_slots(self) -> IntArray:
        """Slots whose angle depends on the sample."""
        return np.flatnonzero((self.features[0] >= 0).any(axis=1))

    @property
    def weight_slots(self) -> IntArray:
        """Slots whose angle is the same for all samples."""
        return np.flatnonzero(~(self.features[0] >= 0).any(axis=1))


def slot_table(rows: Sequence[Sequence[Angle]]) -> SlotTable:
    """The table of these angles, one row per cone."""
    n_slots = len(rows[0])
    factors = max((len(angle.features) for angle in rows[0]), default=0)
    features = np.full((len(rows), n_slots, factors), -1, dtype=np.int64)
    weights = np.full((len(rows), n_slots), -1, dtype=np.int64)
    constants = np.ones((len(rows), n_slots))
    for i, row in enumerate(rows):
        for j, angle in enumerate(row):
            features[i, j, : len(angle.features)] = angle.features
            weights[i, j] = -1 if angle.weight is None else angle.weight
            constants[i, j] = angle.constant
    return SlotTable(features, weights, constants)
