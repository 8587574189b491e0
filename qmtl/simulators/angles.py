"""From features and weights to the angles of a group's slots, in radians."""

import torch
from torch import Tensor

from qmtl.simulators.slots import SlotTable

__all__ = ["by_slot", "fixed_angles", "sample_angles"]


def _factor(index: Tensor, values: Tensor) -> Tensor:
    """Looked-up factors, 1 where the index is -1."""
    present = index >= 0
    if bool(present.all()):
        return values
    while present.ndim < values.ndim:
        present = present[..., None]
    return values.where(present.to(values.device), 1.0)


def _weights(index: Tensor, weights: Tensor) -> Tensor:
    safe = index.clamp(min=0).to(weights.device)
    return _factor(index, weights[safe] if weights.ndim == 1 else weights.gather(1, safe))


def fixed_angles(table: SlotTable, weights: Tensor) -> Tensor:
    """Angles that are the same for all samples, shape (cones, slots).

    Args:
        table: where they come from.
        weights: flat weights shared by all cones, or (cones, n_weights) with a row for each.
    """
    slots = table.weight_slots
    index = torch.from_numpy(table.weights[:, slots])
    if not len(slots) or not bool((index >= 0).any()):
        return torch.from_numpy(table.constants[:, slots]).to(weights)
    value = _weights(index, weights)
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
        index = torch.from_numpy(table.features[:, slots, factor])
        value = value * _factor(index, columns[index.clamp(min=0).to(columns.device)])
    index = torch.from_numpy(table.weights[:, slots])
    if bool((index >= 0).any()):
        value = value * _weights(index, weights)[..., None]
    return value.expand(-1, -1, columns.shape[1])


def by_slot(table: SlotTable, sample: Tensor, fixed: Tensor) -> list[Tensor]:
    """One tensor (cones, samples or 1) per slot, in the order of slots."""
    angles = dict(zip(table.feature_slots.tolist(), sample.unbind(1), strict=True))
    angles |= dict(zip(table.weight_slots.tolist(), fixed[..., None].unbind(1), strict=True))
    return [angles[slot] for slot in range(len(angles))]
