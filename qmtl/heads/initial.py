"""Initial parameters: every named part draws from a generator of its own.

So the weights of one task depend on the seed and its name only: adding, leaving out or reordering
tasks leaves the others' weights alone.
"""

import math
import zlib

import numpy as np
import torch
from torch import nn

from qmtl.errors import InvalidInputError

__all__ = ["INITIAL_STD", "circuit_weights", "drawn_seed", "linear_layer"]

INITIAL_STD = {"encoding": 0.1, "block": 0.5}


def drawn_seed(seed: int | None) -> int:
    """The seed, or for None one that torch's global generator gives.

    Raises:
        InvalidInputError: if it is neither an integer nor None.

    Example:
        >>> drawn_seed(3)
        3
    """
    if seed is None:
        return int(torch.randint(2**31, ()))
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise InvalidInputError(f"seed must be an integer or None, got {seed!r}")
    return int(seed)


def _generator(seed: int, name: str) -> torch.Generator:
    # crc32 is the same on every machine and in every process; hash() is not.
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))


def circuit_weights(seed: int, name: str, size: int, std: float) -> nn.Parameter:
    """Flat weights from N(0, std²) of the part of that name.

    Example:
        >>> circuit_weights(0, "task cola", 6, INITIAL_STD["block"]).shape
        torch.Size([6])
    """
    weights = torch.randn(size, generator=_generator(seed, name)) * std
    # DistributedDataParallel waits for the gradient of every trainable parameter, empty or not.
    return nn.Parameter(weights, requires_grad=size > 0)


def linear_layer(
    seed: int, name: str, in_features: int, out_features: int, *, bias: bool = True
) -> nn.Linear:
    """A linear layer with torch's usual initial weights, U(±1/√in_features), drawn for that name.

    Example:
        >>> same = [linear_layer(0, "task cola", 4, 1).weight for _ in range(2)]
        >>> torch.equal(*same)
        True
    """
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, in_features, out_features, bias=bias)
    generator = _generator(seed, name)
    bound = 1 / math.sqrt(in_features)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer
