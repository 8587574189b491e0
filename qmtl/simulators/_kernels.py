"""Functions that compile and run kernels, and kernels that several engines share."""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from numba import uint64

# Sums may be reordered, so that they vectorise; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "arcp", "nsz"}

# Starting a thread's work costs about 0.1 ms; this many operations take about a millisecond.
OPERATIONS_PER_THREAD = 5e6
# Work is cut into several pieces per thread, so that one slow thread delays the others less.
PIECES_PER_THREAD = 4
# Numbers to transpose together, so that they stay in the cache: samples to read, features to write.
ROWS, LINE = 64, 16


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function for the types it is called with, and cache the code on disk.

    Inner loops must have unsigned indices: a signed index could count from the end, so that numba
    does not vectorise the loop.
    """
    compiled: Callable[..., Any] = numba.njit(
        function, cache=True, nogil=True, error_model="numpy", fastmath=_FAST
    )
    return compiled


@kernel
def add_at(target, index, values):
    """Add each row ``values[p, a]`` to the row ``target[index[p, a]]``."""
    for p in range(index.shape[0]):
        for a in range(index.shape[1]):
            row = index[p, a]
            for s in range(np.uint64(target.shape[1])):
                target[row, s] += values[p, a, s]


@kernel
def load(columns, features, places, factor):
    """Set ``columns[i, s] = factor · features[s, places[i]]`` and return the sum of the features.

    A finite sum proves that all features are finite.
    """
    times, total = columns.dtype.type(factor), columns.dtype.type(0)
    samples = uint64(len(features))
    for first in range(0, samples, ROWS):
        last = uint64(min(first + ROWS, samples))
        for i in range(uint64(len(places))):
            place = places[i]
            for s in range(uint64(first), last):
                value = features[s, place]
                columns[i, s] = times * value
                total += value
    return total


@kernel
def unload(by_feature, by_column, columns, places, slope, is_curved):
    """Pull gradients back through `load`, and through the tanh of its columns if they have one."""
    times, one, n = columns.dtype.type(slope), columns.dtype.type(1), uint64(len(places))
    for first in range(0, n, LINE):
        last = uint64(min(first + LINE, n))
        for s in range(uint64(len(by_feature))):
            for i in range(uint64(first), last):
                given = times * by_column[i, s]
                if is_curved:
                    given *= one - columns[i, s] * columns[i, s]
                by_feature[s, places[i]] = given


@kernel
def weigh(target, terms, gradient, values, factors):
    """Compute gradients with respect to values and factors from those of ``values · factors``."""
    for s in range(len(gradient)):
        for o in range(np.uint64(gradient.shape[1])):
            target[s, o] = gradient[s, o] * factors[o]
            terms[o] += gradient[s, o] * values[s, o]


def n_threads(n_items: int, operations: float) -> int:
    """Return the number of threads for `run_items`: at most torch's, fewer for little work."""
    if operations <= OPERATIONS_PER_THREAD:
        return 1
    return min(torch.get_num_threads(), int(operations / OPERATIONS_PER_THREAD), n_items)


def run_items(run: Callable[..., None], n_items: int, operations: float, *arguments: Any) -> None:
    """Call ``run(first, last, *arguments)`` on all items, split over threads.

    Args:
        run: processes some items; releases Python's lock.
        n_items: number of items.
        operations: approximate number of floating-point operations for all items.
        *arguments: further arguments of each call.
    """
    threads = n_threads(n_items, operations)
    if threads == 1:
        run(0, n_items, *arguments)
        return
    pieces = min(n_items, PIECES_PER_THREAD * threads)
    bounds = [n_items * i // pieces for i in range(pieces + 1)]
    pool = _pool(os.getpid(), threads)
    parts = [pool.submit(run, *part, *arguments) for part in itertools.pairwise(bounds)]
    for part in parts:
        part.result()


@cache
def _pool(process: int, n_threads: int) -> ThreadPoolExecutor:
    """Return a process's pool of threads: a forked child cannot use the pool of its parent."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="qmtl")
