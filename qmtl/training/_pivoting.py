"""The compiled kernel of `complementary`: linear complementarity problems with one matrix.

Gauss-Seidel sweeps find most of what is positive; block principal pivoting then solves exactly for
these places, and moves what comes out with the wrong sign until nothing does.
"""

import math
from typing import Any

import numba
import numpy as np

__all__ = ["INDEFINITE", "SOLVED", "UNSOLVED", "solve_rows"]

# What the kernel says of a row.
SOLVED, UNSOLVED, INDEFINITE = 0, 1, 2
SWEEPS = 20
# Rounds in which a problem may get no better before it moves one place at a time.
PATIENCE = 3
# Negative values of this part of what they were summed from count as zero.
ROUNDING = 16 * float(np.finfo(np.float64).eps)

# Sums may be reordered, so that they vectorise; NaN and infinity keep their meaning.
# Indices of inner loops are unsigned: negative ones would count from the end.
_compiled: Any = numba.njit(
    cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"}
)


@_compiled
def _sweep(matrix, z, y):
    """One Gauss-Seidel pass; whether places became positive or zero."""
    changed = False
    for j in range(len(z)):
        new = z[j] - y[j] / matrix[j, j]
        new = new if new > 0 else 0.0
        step = new - z[j]
        if step != 0:
            changed |= (new > 0) != (z[j] > 0)
            z[j] = new
            row = matrix[j]
            for i in range(np.uint64(len(z))):
                y[i] += step * row[i]
    return changed


@_compiled
def _solve_places(matrix, q, places, k, factor, z):
    """Solve Mz + q = 0 on k places by Cholesky; whether M is positive definite there."""
    for i in range(k):
        row, own = matrix[places[i]], factor[i]
        for j in range(i + 1):
            other = factor[j]
            total = row[places[j]]
            for c in range(np.uint64(j)):
                total -= own[c] * other[c]
            if j < i:
                own[j] = total / other[j]
            elif total > 0:
                own[i] = math.sqrt(total)
            else:
                return False
        total = -q[places[i]]
        for c in range(i):
            total -= factor[i, c] * z[places[c]]
        z[places[i]] = total / factor[i, i]
    for i in range(k - 1, -1, -1):
        value = z[places[i]] / factor[i, i]
        z[places[i]] = value
        for c in range(i):
            z[places[c]] -= factor[i, c] * value
    return True


@_compiled
def _move(z, y, free, limit, one):
    """Count the places with the wrong sign, and move all of them, or the last `one` only."""
    count = 0
    for j in range(len(z) - 1, -1, -1):
        if (free[j] and z[j] < 0) or (not free[j] and y[j] < limit):
            count += 1
            if not one or count == 1:
                free[j] = not free[j]
    return count


@_compiled
def solve_rows(matrix, offsets, rows, rounds, found, state):
    """Solve some rows of offsets, given by number, into the rows of `found` and `state`."""
    m = len(matrix)
    factor, y = np.empty((m, m)), np.empty(m)
    places, free = np.empty(m, np.int64), np.empty(m, np.bool_)
    largest = 0.0
    for j in range(m):
        largest = max(largest, matrix[j, j])
    for row in rows:
        q, z = offsets[row], found[row]
        y[:] = q
        for _ in range(SWEEPS):
            if not _sweep(matrix, z, y):
                break
        for j in range(m):
            free[j] = z[j] > 0
        fewest, patience = m + 1, PATIENCE
        state[row] = UNSOLVED
        for _ in range(rounds):
            k = 0
            for j in range(m):
                z[j] = 0.0
                if free[j]:
                    places[k] = j
                    k += 1
            if not _solve_places(matrix, q, places, k, factor, z):
                state[row] = INDEFINITE
                break
            size = 0.0
            for j in range(m):
                y[j] = q[j]
                size = max(size, abs(q[j]))
            for c in range(k):
                j = places[c]
                size += abs(z[j]) * largest
                places_row, value = matrix[j], z[j]
                for other in range(np.uint64(m)):
                    y[other] += value * places_row[other]
            wrong = _move(z, y, free, -ROUNDING * size, patience <= 0)
            if wrong == 0:
                state[row] = SOLVED
                break
            patience = PATIENCE if wrong < fewest else patience - 1
            fewest = min(fewest, wrong)
