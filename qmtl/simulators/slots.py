"""Slot tables: where the angles of a group's rotations come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

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

    @cached_property
    def feature_slots(self) -> IntArray:
        """Slots whose angle depends on the sample."""
        return np.flatnonzero((self.features[0] >= 0).any(axis=1))

    @cached_property
    def weight_slots(self) -> IntArray:
        """Slots whose angle is the same for all samples."""
        return np.flatnonzero(~(self.features[0] >= 0).any(axis=1))

    @cached_property
    def rows(self) -> tuple[IntArray, bool]:
        """For each cone, which row each sample-dependent angle is, shape (cones, angles).

        Rows are the features if each such angle is a feature (then True), and else the angles
        themselves, cone by cone, which are to be computed first.
        """
        slots = self.feature_slots
        features = self.features[:, slots]
        single = bool((features[..., 1:] < 0).all())
        unscaled = bool(
            (self.weights[:, slots] < 0).all() and (self.constants[:, slots] == 1).all()
        )
        if len(slots) and single and unscaled:
            return np.ascontiguousarray(features[..., 0]), True
        return np.arange(len(features) * len(slots)).reshape(len(features), len(slots)), False


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
