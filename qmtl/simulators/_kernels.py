"""How kernels are compiled, and the few that several engines share."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

__all__ = ["add_at", "kernel", "part"]

# Sums may be reordered, so that they vectorise; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "arcp", "nsz"}


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function for the types it is called with, and keep the code on disk.

    Indices of inner loops are unsigned: a negative one would count from the end, and such loops do
    not vectorise.
    """
    compiled: Callable[..., Any] = numba.njit(
        function, cache=True, nogil=True, error_model="numpy", fastmath=_FAST
    )
    return compiled


def part(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of kernels, which is compiled as part of each."""
    inlined: Callable[..., Any] = numba.njit(function, cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
    return inlined


@kernel
def add_at(target, index, values):  # type: ignore[no-untyped-def]
    """Add ``values[p, a]`` to ``target[index[p, a]]``; both are rows of numbers."""
    for p in range(index.shape[0]):
        for a in range(index.shape[1]):
            row = index[p, a]
            for s in range(np.uint64(target.shape[1])):
                target[row, s] += values[p, a, s]
