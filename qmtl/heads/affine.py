"""Many tasks' linear layers in few products, so that rivals are not slow for want of a batch."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from qmtl.heads.computed import renew

__all__ = ["local_linear", "shared_linear"]


def shared_linear(features: Tensor, layers: Mapping[str, nn.Linear]) -> dict[str, Tensor]:
    """Layers that all see the same features, as one product.

    Args:
        features: shape (batch, width).
        layers: each task's, of that width; all with a bias or none.

    Returns:
        Task to its layer's outputs, (batch, out_features).

    Example:
        >>> layers = {"a": nn.Linear(4, 1), "b": nn.Linear(4, 3)}
        >>> {name: tuple(v.shape) for name, v in shared_linear(torch.ones(2, 4), layers).items()}
        {'a': (2, 1), 'b': (2, 3)}
    """
    if len(layers) < 2:
        return {name: layer(features) for name, layer in layers.items()}
    own = list(layers.values())
    for layer in own:
        renew(layer)
    weight = torch.cat([layer.weight for layer in own])
    bias = None if own[0].bias is None else torch.cat([layer.bias for layer in own])
    joined = nn.functional.linear(features, weight, bias)
    parts = joined.split([layer.out_features for layer in own], dim=1)
    return dict(zip(layers, parts, strict=True))


def local_linear(
    features: Tensor, columns: Mapping[str, Sequence[int]], layers: Mapping[str, nn.Linear]
) -> dict[str, Tensor]:
    """Layers that each see columns of their own: one batched product per shape of layer.

    Args:
        features: shape (batch, width).
        columns: the features that each task sees, as indices.
        layers: each task's, with a bias, as wide as its columns are many.

    Returns:
        Task to its layer's outputs, (batch, out_features).

    Example:
        >>> layers = {"a": nn.Linear(2, 1), "b": nn.Linear(2, 1)}
        >>> outputs = local_linear(torch.ones(5, 3), {"a": (0, 1), "b": (0, 2)}, layers)
        >>> {name: tuple(value.shape) for name, value in outputs.items()}
        {'a': (5, 1), 'b': (5, 1)}
    """
    groups: dict[tuple[int, int], list[str]] = {}
    for name, layer in layers.items():
        groups.setdefault((layer.in_features, layer.out_features), []).append(name)
    outputs: dict[str, Tensor] = {}
    for (width, _), names in groups.items():
        own = {name: layers[name] for name in names}
        if width == features.shape[1]:
            outputs |= shared_linear(features, own)
        else:
            outputs |= _gathered(features, [columns[name] for name in names], own)
    return {name: outputs[name] for name in layers}


def _gathered(
    features: Tensor, columns: Sequence[Sequence[int]], layers: Mapping[str, nn.Linear]
) -> dict[str, Tensor]:
    """Layers of one shape, each on its own columns."""
    index = torch.from_numpy(np.array(columns)).to(features.device)
    # (tasks, batch, width) times (tasks, width, outputs)
    seen = features.T[index].transpose(1, 2)
    for layer in layers.values():
        renew(layer)
    weight = torch.stack([layer.weight for layer in layers.values()])
    bias = torch.stack([layer.bias for layer in layers.values()])
    joined = torch.baddbmm(bias[:, None], seen, weight.transpose(1, 2))
    return dict(zip(layers, joined.unbind(), strict=True))
