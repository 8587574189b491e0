"""Small arrays around the tapes: cosines and sines with constants beside them, and products."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["in_pairs", "joined", "products"]

Array = NDArray[Any]
# Multiplications of a product of matrices above which numpy might use threads of its own.
LARGEST_SMALL = 2**16


def products(a: Tensor, b: Tensor) -> Tensor:
    """Products of matrices: small ones by numpy, which takes less for each, others by torch.

    Example:
        >>> products(torch.ones(2, 1, 3), torch.ones(2, 3, 1)).flatten()
        tensor([3., 3.])
    """
    if a.shape[1] * a.shape[2] * b.shape[2] > LARGEST_SMALL:
        return torch.bmm(a, b)
    return torch.from_numpy(np.matmul(a.numpy(), b.numpy()))


def in_pairs(constants: Array) -> Array:
    """Constants in the places of cosines and sines, shape (2, places, pairs)."""
    padded = np.pad(constants, ((0, 0), (0, constants.shape[1] % 2)))
    return padded.reshape(len(constants), -1, 2).transpose(2, 0, 1)


def joined(angles: Array, constants: Array) -> Tensor:
    """Cosines and sines of angles, and then constants; the angles alone if there are none."""
    if constants.shape[2]:
        # Contiguous, as kernels need it: numpy may keep the order of the constants' axes.
        both = np.concatenate([angles, constants.astype(angles.dtype)], axis=2)
        angles = np.ascontiguousarray(both)
    return torch.from_numpy(angles)
