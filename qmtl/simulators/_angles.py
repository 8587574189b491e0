"""The table of angles: where the angles of a circuit's rotations come from, each of them once.

An angle is ``constant · Π features · weight``. Those with a feature depend on the sample and are
rows of the *sampled* angles; the others are the *fixed* ones. Rotations with the same angle share
its row, so that its cosine is computed once and its gradients are summed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.circuit import Angle

__all__ = [
    "AngleRows",
    "AngleTable",
    "Columns",
    "Slots",
    "TableBuilder",
    "angle_columns",
    "split_slots",
]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
# Slots number the rotations: those whose angles depend on the sample, and the others.
Slots = tuple[tuple[int, ...], tuple[int, ...]]


class Columns(NamedTuple):
    """What some angles are made of.

    Attributes:
        features: indices of the features that are multiplied, shape (..., angles, factors); -1
            where there is none.
        weights: places in the flat vector of weights, shape (..., angles); -1 where there is none.
        constants: factors, shape (..., angles).
    """

    features: IntArray
    weights: IntArray
    constants: FloatArray

    def at(self, index: Any) -> "Columns":
        """The same of the angles at an index."""
        return Columns(*(part[index] for part in self))

    def moved(self, starts: IntArray) -> "Columns":
        """The same with weights counted from these places on."""
        return self._replace(weights=np.where(self.weights >= 0, self.weights + starts, -1))

    @classmethod
    def stacked(cls, parts: Sequence["Columns"]) -> "Columns":
        """Equally many angles of several places, side by side."""
        factors = max(part.features.shape[1] for part in parts)
        missing = [((0, 0), (0, factors - part.features.shape[1])) for part in parts]
        features = [
            np.pad(p.features, m, constant_values=-1) for p, m in zip(parts, missing, strict=True)
        ]
        weights, constants = [p.weights for p in parts], [p.constants for p in parts]
        return cls(np.stack(features), np.stack(weights), np.stack(constants))


def angle_columns(angles: Sequence[Angle], owners: Mapping[str, slice] | None = None) -> Columns:
    """What some angles are made of; with where each owner's weights are, if that is given.

    Example:
        >>> features, weights, constants = angle_columns([Angle((3,)), Angle(weight=2)])
        >>> features.tolist(), weights.tolist(), constants.tolist()
        ([[3], [-1]], [-1, 2], [1.0, 1.0])
    """
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
    """The angles of some rotations, in a plan that is being made.

    Attributes:
        columns: what they are made of, the places first.
        rows: rows of the table, shape (places, rotations); known once the table is finished.
    """

    columns: Columns
    rows: IntArray

    @property
    def is_sampled(self) -> NDArray[np.bool_]:
        """Which rotations depend on the sample, shape (rotations,)."""
        return np.asarray((self.columns.features[:1] >= 0).any(axis=(0, 2)))

    def angles(self, sampled: Tensor, fixed: Tensor, members: slice = slice(None)) -> list[Tensor]:
        """The angle of each rotation, shape (places, samples or 1), from the table's."""
        found = []
        for moving, own in zip(self.is_sampled, self.rows[members].T, strict=True):
            index = _index(np.ascontiguousarray(own), sampled)
            found.append(sampled[index] if moving else fixed[index][:, None])
        return found


class TableBuilder:
    """Collects angles, and makes their table."""

    def __init__(self) -> None:
        self._added: list[AngleRows] = []

    def add(self, columns: Columns) -> AngleRows:
        """Add angles, the places first; their rows are known after `finish`."""
        self._added.append(AngleRows(columns, np.zeros(columns.weights.shape, np.int64)))
        return self._added[-1]

    def finish(self) -> "AngleTable":
        """The table of all angles that were added."""
        return AngleTable(*_unified(self._added, True), *_unified(self._added, False))


def _unified(added: Sequence[AngleRows], sampled: bool) -> tuple[IntArray, Columns]:
    """The distinct angles of some rotations; fills in the rows of these."""
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
    # Most angles are a feature or a weight by itself, which needs no search over whole rows.
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
        features: those that are a feature by itself, the first rows of the sampled angles.
        sampled_products: the other sampled angles.
        weights: the fixed angles that are a weight by itself, their first rows.
        fixed_products: the other fixed angles.
    """

    features: IntArray
    sampled_products: Columns
    weights: IntArray
    fixed_products: Columns

    @property
    def n_sampled(self) -> int:
        """Angles that depend on the sample."""
        return len(self.features) + len(self.sampled_products.weights)

    @property
    def is_plain(self) -> bool:
        """Whether each angle is a feature or a weight by itself."""
        return not len(self.sampled_products.weights) and not len(self.fixed_products.weights)

    def sampled(self, angles: Tensor, weights: Tensor) -> Tensor:
        """The sampled angles, shape (n_sampled, batch), by differentiable torch operations.

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
        """The fixed angles, shape (n_fixed,), by differentiable torch operations."""
        found = weights[_index(self.weights, weights)]
        if not len(self.fixed_products.weights):
            return found
        return torch.cat([found, _products(self.fixed_products, weights[None], weights)[:, 0]])


def _products(columns: Columns, features: Tensor, weights: Tensor) -> Tensor:
    """Angles that are products, shape (angles, samples or 1); features come first."""
    value = torch.from_numpy(columns.constants[:, None]).to(weights)
    for factor in columns.features.T:
        value = value * _looked_up(features, factor)
    return value * _looked_up(weights[:, None], columns.weights)


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


def split_slots(sampled: Iterable[bool]) -> Slots:
    """The slots whose angles depend on the sample, and the others."""
    found = list(enumerate(sampled))
    return tuple(i for i, yes in found if yes), tuple(i for i, yes in found if not yes)
