"""The table of angles: the distinct angles of a circuit's rotations, and what they depend on.

An angle is ``constant · Π features · weight``. An angle with a feature depends on the sample and is
a row of the *sampled* angles; the others are *fixed*. Rotations with the same angle share a row, so
that its cosine is computed once and its gradients are summed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.circuit import Angle

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
# A slot is the index of a rotation. The first tuple holds the slots whose angles depend on the
# sample, the second tuple all others.
Slots = tuple[tuple[int, ...], tuple[int, ...]]


class Columns(NamedTuple):
    """The features, weights and constants of some angles.

    Attributes:
        features: indices of the features to multiply, shape (..., angles, factors); -1 for none.
        weights: indices in the flat vector of weights, shape (..., angles); -1 for no weight.
        constants: constant factors, shape (..., angles).
    """

    features: IntArray
    weights: IntArray
    constants: FloatArray

    def at(self, index: Any) -> "Columns":
        """Return the columns of the angles at an index."""
        return Columns(*(part[index] for part in self))

    def moved(self, starts: IntArray) -> "Columns":
        """Return the same columns with `starts` added to the indices of weights."""
        return self._replace(weights=np.where(self.weights >= 0, self.weights + starts, -1))

    @classmethod
    def stacked(cls, parts: Sequence["Columns"]) -> "Columns":
        """Stack the columns of several cones or blocks, all with equally many angles."""
        factors = max(part.features.shape[1] for part in parts)
        missing = [((0, 0), (0, factors - part.features.shape[1])) for part in parts]
        features = [
            np.pad(p.features, m, constant_values=-1) for p, m in zip(parts, missing, strict=True)
        ]
        weights, constants = [p.weights for p in parts], [p.constants for p in parts]
        return cls(np.stack(features), np.stack(weights), np.stack(constants))


def angle_columns(angles: Sequence[Angle], owners: Mapping[str, slice] | None = None) -> Columns:
    """Return the columns of some angles; `owners` may hold each owner's slice of the weights."""
    factors = max((len(angle.features) for angle in angles), default=0)
    starts = {owner: own.start for owner, own in (owners or {}).items()}
    features = np.full((len(angles), factors), -1, np.int64)
    for i in range(factors):
        features[:, i] = [a.features[i] if len(a.features) > i else -1 for a in angles]
    weights = [-1 if a.weight is None else a.weight + starts.get(a.owner, 0) for a in angles]
    constants = np.array([angle.constant for angle in angles], np.float64)
    return Columns(features, np.array(weights, np.int64), constants)


@dataclass
class AngleRows:
    """The angles of several equal cones or blocks, called places.

    Attributes:
        columns: the columns of the angles; the first axis is the place.
        rows: rows of the table, shape (places, rotations); `TableBuilder.finish` sets them.
    """

    columns: Columns
    rows: IntArray

    @property
    def is_sampled(self) -> NDArray[np.bool_]:
        """Which rotations depend on the sample, shape (rotations,)."""
        return np.asarray((self.columns.features[:1] >= 0).any(axis=(0, 2)))

    def angles(self, sampled: Tensor, fixed: Tensor, members: slice = slice(None)) -> list[Tensor]:
        """Look up the angle of each rotation, shape (places, samples or 1)."""
        found = []
        for moving, own in zip(self.is_sampled, self.rows[members].T, strict=True):
            index = _index(np.ascontiguousarray(own), sampled)
            found.append(sampled[index] if moving else fixed[index][:, None])
        return found


class TableBuilder:
    """Collects angles, and builds their table."""

    def __init__(self) -> None:
        self._added: list[AngleRows] = []

    def add(self, columns: Columns) -> AngleRows:
        """Add angles, shape (places, rotations); `finish` sets their rows in the table."""
        self._added.append(AngleRows(columns, np.zeros(columns.weights.shape, np.int64)))
        return self._added[-1]

    def finish(self) -> "AngleTable":
        """Build the table of all added angles."""
        return AngleTable(*_unified(self._added, True), *_unified(self._added, False))


def _unified(added: Sequence[AngleRows], sampled: bool) -> tuple[IntArray, Columns]:
    """Return the distinct angles, sampled or fixed, and set each rotation's row in `added`."""
    chosen = [(rows, np.flatnonzero(rows.is_sampled == sampled)) for rows in added]
    factors = max((rows.columns.features.shape[2] for rows in added), default=0) if sampled else 0
    keys = [np.zeros((0, factors + 2), np.int64)]
    for rows, own in chosen:
        features, weights, constants = rows.columns
        size = len(weights) * len(own)
        key = np.full((size, factors + 2), -1, np.int64)
        n = min(factors, features.shape[2])
        key[:, :n] = features[:, own, :n].reshape(size, n)
        key[:, -2] = weights[:, own].ravel()
        key[:, -1] = constants[:, own].ravel().view(np.int64)
        keys.append(key)
    key = np.concatenate(keys)
    # Most angles are a single feature or weight: these need no slow search over whole rows.
    plain = key[:, -1] == np.float64(1).view(np.int64)
    if sampled:
        plain &= (key[:, 1:-2] < 0).all(axis=1) & (key[:, -2] < 0)
    else:
        plain &= key[:, -2] >= 0
    first = key[plain, 0]
    used = np.unique(first)
    place = np.empty(len(key), np.int64)
    place[plain] = np.searchsorted(used, first)
    others, inverse = np.unique(key[~plain], axis=0, return_inverse=True)
    place[~plain] = len(used) + inverse.ravel()
    start = 0
    for rows, own in chosen:
        size = len(rows.rows) * len(own)
        rows.rows[:, own] = place[start : start + size].reshape(len(rows.rows), len(own))
        start += size
    constants = np.ascontiguousarray(others[:, -1]).view(np.float64)
    return used, Columns(others[:, :-2], others[:, -2], constants)


@dataclass(frozen=True)
class AngleTable:
    """The distinct angles of some rotations.

    Attributes:
        features: features of the angles that are a single feature: the first sampled angles.
        sampled_products: the columns of the other sampled angles.
        weights: weights of the angles that are a single weight: the first fixed angles.
        fixed_products: the columns of the other fixed angles.
    """

    features: IntArray
    sampled_products: Columns
    weights: IntArray
    fixed_products: Columns

    @property
    def n_sampled(self) -> int:
        """Number of angles that depend on the sample."""
        return len(self.features) + len(self.sampled_products.weights)

    @property
    def is_plain(self) -> bool:
        """Whether each angle is a single feature or a single weight."""
        return not len(self.sampled_products.weights) and not len(self.fixed_products.weights)

    def sampled(self, angles: Tensor, weights: Tensor) -> Tensor:
        """Return the sampled angles, shape (n_sampled, batch), by differentiable torch operations.

        Args:
            angles: encoding angles, shape (batch, n_features).
            weights: all weights in one flat vector.
        """
        found = angles.T[_index(self.features, angles)]
        if not len(self.sampled_products.weights):
            return found
        products = _products(self.sampled_products, angles.T, weights)
        return torch.cat([found, products.expand(-1, angles.shape[0])])

    def fixed(self, weights: Tensor) -> Tensor:
        """Return the fixed angles, shape (n_fixed,), by differentiable torch operations."""
        found = weights[_index(self.weights, weights)]
        if not len(self.fixed_products.weights):
            return found
        return torch.cat([found, _products(self.fixed_products, weights[None], weights)[:, 0]])


def _products(columns: Columns, features: Tensor, weights: Tensor) -> Tensor:
    """Multiply features and weights; return shape (angles, samples or 1)."""
    value = torch.from_numpy(columns.constants[:, None]).to(weights)
    for factor in columns.features.T:
        value = value * _looked_up(features, factor)
    return value * _looked_up(weights[:, None], columns.weights)


def _index(places: IntArray, like: Tensor) -> Tensor:
    return torch.from_numpy(places).to(like.device)


def _looked_up(values: Tensor, places: IntArray) -> Tensor:
    """Return the rows of `values` at these places, and 1 where the place is -1."""
    present = places >= 0
    if present.all():
        return values[_index(places, values)]
    if not present.any():
        return values.new_ones(1, 1)
    found = values[_index(places.clip(min=0), values)]
    return found.where(torch.from_numpy(present).to(values.device)[:, None], 1.0)


def split_slots(sampled: Iterable[bool]) -> Slots:
    """Separate the slots whose angles depend on the sample from the others."""
    found = list(enumerate(sampled))
    return tuple(i for i, yes in found if yes), tuple(i for i, yes in found if not yes)
