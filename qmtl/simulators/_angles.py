"""The table of angles: where the angles of a circuit's rotations come from, each of them once.

An angle is ``constant · Π features · weight``. Those with a feature depend on the sample and are
rows of the *sampled* angles; the others are the *fixed* ones. Rotations with the same angle share
its row, so that its cosine is computed once and its gradients are summed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.circuit import Angle

__all__ = ["AngleRows", "AngleTable", "TableBuilder", "angle_columns"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass
class AngleRows:
    """The angles of some rotations, in a plan that is being made.

    Attributes:
        features: indices of the features that are multiplied, shape (places, rotations, factors);
            -1 where there is none.
        weights: places in the flat vector of weights, shape (places, rotations); -1 where there is
            none.
        constants: factors, shape (places, rotations).
        rows: rows of the table, shape (places, rotations), once the table is finished.
    """

    features: IntArray
    weights: IntArray
    constants: FloatArray
    rows: IntArray | None = None

    @property
    def is_sampled(self) -> NDArray[np.bool_]:
        """Which rotations depend on the sample, shape (rotations,)."""
        return np.asarray((self.features[:1] >= 0).any(axis=(0, 2)))


def angle_columns(angles: Sequence[Angle]) -> tuple[IntArray, IntArray, FloatArray]:
    """Features (n, factors), weights (n,) and constants (n,) of some angles.

    Example:
        >>> features, weights, constants = angle_columns([Angle((3,)), Angle(weight=2)])
        >>> features.tolist(), weights.tolist(), constants.tolist()
        ([[3], [-1]], [-1, 2], [1.0, 1.0])
    """
    factors = max((len(angle.features) for angle in angles), default=0)
    features = np.full((len(angles), factors), -1, np.int64)
    for i in range(factors):
        features[:, i] = [a.features[i] if len(a.features) > i else -1 for a in angles]
    weights = np.array([-1 if a.weight is None else a.weight for a in angles], np.int64)
    return features, weights, np.array([angle.constant for angle in angles], np.float64)


class TableBuilder:
    """Collects angles, and makes their table."""

    def __init__(self) -> None:
        self._added: list[tuple[AngleRows, NDArray[np.intp]]] = []

    def add(self, features: IntArray, weights: IntArray, constants: FloatArray) -> AngleRows:
        """Add angles; their rows are known after `finish`. For the shapes see `AngleRows`."""
        found = AngleRows(features, weights, constants)
        self._added.append((found, np.flatnonzero(found.is_sampled)))
        return found

    def finish(self) -> "AngleTable":
        """The table of all angles that were added."""
        tables = []
        for sampled in (True, False):
            chosen = []
            for rows, slots in self._added:
                every = np.arange(rows.weights.shape[1])
                own = slots if sampled else np.setdiff1d(every, slots)
                chosen.append((rows, own))
            tables.append(_unified(chosen, sampled))
        return AngleTable(*tables[0], *tables[1])


def _unified(chosen: Sequence[tuple[AngleRows, Any]], sampled: bool) -> tuple[Any, ...]:
    """The distinct angles of some rotations; fills in the rows of these."""
    factors = max((rows.features.shape[2] for rows, _ in chosen), default=0) if sampled else 0
    keys = []
    for rows, own in chosen:
        size = rows.weights.shape[0] * len(own)
        key = np.full((size, factors + 2), -1, np.int64)
        n = min(factors, rows.features.shape[2])
        key[:, :n] = rows.features[:, own, :n].reshape(size, n)
        key[:, -2] = rows.weights[:, own].ravel()
        key[:, -1] = rows.constants[:, own].ravel().view(np.int64)
        keys.append(key)
    key = np.concatenate(keys) if keys else np.zeros((0, factors + 2), np.int64)
    one = np.float64(1).view(np.int64)
    # Most angles are a feature or a weight by itself, which needs no search over whole rows.
    plain = key[:, -1] == one
    if sampled:
        plain &= (key[:, 1:-2] < 0).all(axis=1) & (key[:, -2] < 0)
        first = key[:, 0]
    else:
        plain &= key[:, -2] >= 0
        first = key[:, -2]
    used = np.unique(first[plain])
    place = np.empty(len(key), np.int64)
    place[plain] = np.searchsorted(used, first[plain])
    others, inverse = np.unique(key[~plain], axis=0, return_inverse=True)
    place[~plain] = len(used) + inverse.ravel()
    start = 0
    for rows, own in chosen:
        if rows.rows is None:
            rows.rows = np.zeros(rows.weights.shape, np.int64)
        size = rows.weights.shape[0] * len(own)
        rows.rows[:, own] = place[start : start + size].reshape(len(rows.rows), len(own))
        start += size
    constants = np.ascontiguousarray(others[:, -1]).view(np.float64)
    columns = (used, others[:, -2], constants)
    return (*columns, others[:, :-2]) if sampled else columns


@dataclass(frozen=True)
class AngleTable:
    """The distinct angles of some rotations.

    Attributes:
        features: those that are a feature by itself, the first rows of the sampled angles.
        sampled_weights: of the other sampled angles the weight, or -1.
        sampled_constants: and the constant.
        sampled_features: and the features, shape (angles, factors); -1 where there is none.
        weights: the fixed angles that are a weight by itself, their first rows.
        fixed_weights: of the other fixed angles the weight, or -1.
        fixed_constants: and the constant.
    """

    features: IntArray
    sampled_weights: IntArray
    sampled_constants: FloatArray
    sampled_features: IntArray
    weights: IntArray
    fixed_weights: IntArray
    fixed_constants: FloatArray

    @property
    def n_sampled(self) -> int:
        """Angles that depend on the sample."""
        return len(self.features) + len(self.sampled_weights)

    @property
    def n_fixed(self) -> int:
        """Angles that are the same for all samples."""
        return len(self.weights) + len(self.fixed_weights)

    @property
    def is_plain(self) -> bool:
        """Whether each angle is a feature or a weight by itself."""
        return not len(self.sampled_weights) and not len(self.fixed_weights)

    def sampled(self, angles: Tensor, weights: Tensor) -> Tensor:
        """The sampled angles, shape (n_sampled, batch), by differentiable torch operations.

        Args:
            angles: encoding angles, shape (batch, n_features).
            weights: all weights in one flat vector.
        """
        columns = angles.T
        found = columns[_index(self.features, angles)]
        if not len(self.sampled_weights):
            return found
        value = torch.from_numpy(self.sampled_constants[:, None]).to(angles)
        for factor in self.sampled_features.T:
            value = value * _looked_up(columns, factor)
        value = value * _looked_up(weights[:, None], self.sampled_weights)
        return torch.cat([found, value.expand(-1, len(angles))])

    def fixed(self, weights: Tensor) -> Tensor:
        """The fixed angles, shape (n_fixed,), by differentiable torch operations."""
        found = weights[_index(self.weights, weights)]
        if not len(self.fixed_weights):
            return found
        value = _looked_up(weights[:, None], self.fixed_weights)[:, 0]
        return torch.cat([found, value * torch.from_numpy(self.fixed_constants).to(weights)])


def _index(places: IntArray, like: Tensor) -> Tensor:
    return torch.from_numpy(places).to(like.device)


def _looked_up(values: Tensor, places: IntArray) -> Tensor:
    """Rows of the values, and 1 where the place is -1."""
    present = places >= 0
    if present.all():
        return values[_index(places, values)]
    if not present.any():
        return values.new_ones(1, 1)
    found = values[_index(places.clip(min=0), values)]
    return found.where(torch.from_numpy(present).to(values.device)[:, None], 1.0)
