"""The compiled kernel of `pivoting`: solves the problems of some rows of offsets."""

import math

import numpy as np
from numba import int64

from qmtl.simulators.kernel_parts import argument, array, part, take
from qmtl.training.pivoting import INDEFINITE, SOLVED, UNSOLVED

__all__ = ["program"]

SWEEPS = 20
# Rounds in which a problem may get no better before it moves one place at a time.
PATIENCE = 3
# Negative values of this part of what they were summed from count as zero.
ROUNDING = 16 * float(np.finfo(np.float64).eps)


@part
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
            for i in range(len(z)):
                y[i] += step * matrix[j, i]
    return changed


@part
def _solve_places(matrix, q, places, k, factor, z):
    """Solve Mz + q = 0 on k places by Cholesky; whether M is positive definite there."""
    for i in range(k):
        for j in range(i + 1):
            total = matrix[places[i], places[j]]
            for c in range(j):
                total -= factor[i, c] * factor[j, c]
            if j < i:
                factor[i, j] = total / factor[j, j]
            elif total > 0:
                factor[i, i] = math.sqrt(total)
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


@part
def _move(z, y, free, limit, one):
    """Count the places with the wrong sign, and move all of them, or the last `one` only."""
    count = 0
    for j in range(len(z) - 1, -1, -1):
        if (free[j] and z[j] < 0) or (not free[j] and y[j] < limit):
            count += 1
            if not one or count == 1:
                free[j] = 1 - free[j]
    return count


def program(real):
    """The kernel for double precision."""

    def run(words):
        rows = argument(words, 6, 1, int64)
        matrix = argument(words, 8, 2, real)
        offsets = argument(words, 11, 2, real)
        rounds = words[14]
        found = argument(words, 15, 2, real)
        state = argument(words, 18, 1, int64)
        m = len(matrix)
        own = words[3] + take(words, 0) * words[5] * 8
        factor = array(own, (m, m), real)
        y = array(own + 8 * m * m, (m,), real)
        places = array(own + 8 * (m * m + m), (m,), int64)
        free = array(own + 8 * (m * m + 2 * m), (m,), int64)
        largest = 0.0
        for j in range(m):
            largest = matrix[j, j] if matrix[j, j] > largest else largest
        i = take(words, 1)
        while i < words[2]:
            row = rows[i]
            q, z = offsets[row], found[row]
            # Loops and no slices: numba compiles twice as long for their error messages.
            for j in range(m):
                y[j] = q[j]
            for _ in range(SWEEPS):
                if not _sweep(matrix, z, y):
                    break
            for j in range(m):
                free[j] = 1 if z[j] > 0 else 0
            fewest, patience = m + 1, int64(PATIENCE)
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
                    size = abs(q[j]) if abs(q[j]) > size else size
                for c in range(k):
                    j = places[c]
                    size += abs(z[j]) * largest
                    for other in range(m):
                        y[other] += z[j] * matrix[j, other]
                wrong = _move(z, y, free, -ROUNDING * size, patience <= 0)
                if wrong == 0:
                    state[row] = SOLVED
                    break
                patience = int64(PATIENCE) if wrong < fewest else patience - 1
                fewest = wrong if wrong < fewest else fewest
            i = take(words, 1)

    return run
