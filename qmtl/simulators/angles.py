"""From features and weights to the angles of a group's slots, in radians."""

import torch
from torch import Tensor

from qmtl.simulators.slots import IntArray, SlotTable

__all__ = ["by_slot", "fixed_angles", "sample_angles"]


def _looked_up(index: IntArray, values: Tensor, axis: int) -> Tensor:
    """Values at these places of an axis, and 1 where the index is -1."""
    # What depends on the table alone is numpy's, so that torch can be traced.
    places = torch.from_numpy(index.clip(min=0)).to(values.device)
    found = values[places] if axis == 0 else values.gather(axis, places)
    present = index >= 0
    if present.all():
        return found
    mask = torch.from_numpy(present).to(values.device)
    return found.where(mask.reshape(mask.shape + (1,) * (found.ndim - mask.ndim)), 1.0)


def fixed_angles(table: SlotTable, weights: Tensor) -> Tensor:
    """Angles that are the same for all samples, shape (cones, slots).

    Args:
        table: where they come from.
        weights: flat weights shared by all cones, or (cones, n_weights) with a row for each.
    """
    slots = table.weight_slots
    index = table.weights[:, slots]
    if not (index >= 0).any():
        return torch.from_numpy(table.constants[:, slots]).to(weights)
    value = _looked_up(index, weights, weights.ndim - 1)
    if bool((table.constants[:, slots] == 1).all()):
        return value
    return value * torch.from_numpy(table.constants[:, slots]).to(weights)


def sample_angles(table: SlotTable, columns: Tensor, weights: Tensor) -> Tensor:
    """Angles that depend on the sample, shape (cones, slots, samples).

    Args:
        table: where they come from.
        columns: features, shape (n_features, samples).
        weights: as for `fixed_angles`.
    """
    slots = table.feature_slots
    value = torch.from_numpy(table.constants[:, slots, None]).to(columns)
    for factor in range(table.features.shape[2]):
        value = value * _looked_up(table.features[:, slots, factor], columns, 0)
    index = table.weights[:, slots]
    if (index >= 0).any():
        value = value * _looked_up(index, weights, weights.ndim - 1)[..., None]
    return value.expand(-1, -1, columns.shape[1])


def by_slot(table: SlotTable, sample: Tensor, fixed: Tensor) -> list[Tensor]:
    """One tensor (cones, samples or 1) per slot, in the order of slots."""
    angles = dict(zip(table.feature_slots.tolist(), sample.unbind(1), strict=True))
    angles |= dict(zip(table.weight_slots.tolist(), fixed[..., None].unbind(1), strict=True))
    return [angles[slot] for slot in range(len(angles))]
