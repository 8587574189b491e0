"""Linear complementarity problems with one matrix and many right-hand sides, compiled.

Gauss-Seidel sweeps find most of what is positive; block principal pivoting then solves exactly for
these places, and moves what comes out with the wrong sign until nothing does.
"""

import numpy as np
from numpy.typing import NDArray

from qmtl.simulators.autograd import in_threads
from qmtl.simulators.compilation import kernel, part

__all__ = ["complementary"]

SWEEPS = 20
# Rounds in which a problem may get no better before it moves one place at a time.
PATIENCE = 3
# Negative values of this part of what they were summed from count as zero.
ROUNDING = 16 * float(np.finfo(np.float64).eps)
SOLVED, UNSOLVED, INDEFINITE = 0, 1, 2

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def complementary(matrix: Floats, offsets: Floats, rounds: int | None = None) -> Floats:
    """For each row ``q``: ``z >= 0`` with ``y = Mz + q >= 0`` and ``z'y = 0``.

    Args:
        matrix: M, symmetric and positive definite, shape (m, m).
        offsets: the rows, shape (n, m).
        rounds: of pivoting, before a row is left to scipy's non-negative least squares; None for
            far more than are ever needed.

    Returns:
        Shape (n, m). Some y may be negative by rounding errors.

    Raises:
        ValueError: if the matrix is not positive definite.

    Example:
        >>> complementary(np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[-2.0, 3.0]]))
        array([[1., 0.]])

    References:
        Júdice and Pires, Computers and Operations Research 21 (1994), 587-596; Kim and Park, SIAM
        J. Sci. Comput. 33 (2011), 3261-3281.
    """
    matrix, offsets = np.ascontiguousarray(matrix), np.ascontiguousarray(offsets)
    found = np.zeros_like(offsets)
    state = np.full(len(offsets), SOLVED)
    conflicting = np.flatnonzero((offsets < 0).any(axis=1))
    if not len(conflicting):
        return found
    if not (matrix.diagonal() > 0).all():
        raise ValueError("the matrix is not positive definite")
    rounds = 50 + 3 * len(matrix) if rounds is None else rounds
    in_threads(_solve, conflicting, matrix, offsets, rounds, found, state)
    if (state == INDEFINITE).any():
        raise ValueError("the matrix is not positive definite")
    for row in np.flatnonzero(state == UNSOLVED):
        found[row] = _least_squares(matrix, offsets[row])
    return found


def _least_squares(matrix: Floats, offset: Floats) -> Floats:
    """The same for one row, as non-negative least squares by scipy's active sets."""
    from scipy.linalg import cholesky, solve_triangular
    from scipy.optimize import nnls

    factor = cholesky(matrix)
    target = solve_triangular(factor, -offset, trans="T")
    solution: Floats = nnls(factor, target, maxiter=100 * len(matrix))[0]
    return solution


@part
def _sweep(matrix: Floats, z: Floats, y: Floats) -> bool:
    """One Gauss-Seidel pass; whether places became positive or zero."""
    changed = False
    for j in range(len(z)):
        new = max(0.0, z[j] - y[j] / matrix[j, j])
        step = new - z[j]
        if step != 0:
            changed |= (new > 0) != (z[j] > 0)
            z[j] = new
            for i in range(len(z)):
                y[i] += step * matrix[j, i]
    return changed


@part
def _solve_places(matrix: Floats, q: Floats, places: Integers, factor: Floats, z: Floats) -> bool:
    """Solve Mz + q = 0 on the places by Cholesky; whether M is positive definite there."""
    for i in range(len(places)):
        for j in range(i + 1):
            total = matrix[places[i], places[j]]
            for c in range(j):
                total -= factor[i, c] * factor[j, c]
            if j < i:
                factor[i, j] = total / factor[j, j]
            elif total > 0:
                factor[i, i] = np.sqrt(total)
            else:
                return False
        total = -q[places[i]]
        for c in range(i):
            total -= factor[i, c] * z[places[c]]
        z[places[i]] = total / factor[i, i]
    for i in range(len(places) - 1, -1, -1):
        value = z[places[i]] / factor[i, i]
        z[places[i]] = value
        for c in range(i):
            z[places[c]] -= factor[i, c] * value
    return True


@part
def _move(z: Floats, y: Floats, free: NDArray[np.bool_], limit: float, one: bool) -> int:
    """Count the places with the wrong sign, and move all of them, or the last `one` only."""
    count = 0
    for j in range(len(z) - 1, -1, -1):
        if (free[j] and z[j] < 0) or (not free[j] and y[j] < limit):
            count += 1
            if not one or count == 1:
                free[j] = not free[j]
    return count


@kernel
def _solve(
    rows: Integers, matrix: Floats, offsets: Floats, rounds: int, found: Floats, state: Integers
) -> None:
    """Solve the problems of some rows of offsets."""
    m = len(matrix)
    factor = np.empty((m, m))
    places = np.empty(m, np.int64)
    y = np.empty(m)
    free = np.empty(m, np.bool_)
    largest = 0.0
    for j in range(m):
        largest = max(largest, matrix[j, j])
    for row in rows:
        q, z = offsets[row], found[row]
        # Loops and no slices: numba compiles twice as long for their error messages.
        for j in range(m):
            y[j] = q[j]
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
            if not _solve_places(matrix, q, places[:k], factor, z):
                state[row] = INDEFINITE
                break
            size = 0.0
            for j in range(m):
                y[j] = q[j]
                size = max(size, abs(q[j]))
            for c in range(k):
                j = places[c]
                size += abs(z[j]) * largest
                for i in range(m):
                    y[i] += z[j] * matrix[j, i]
            wrong = _move(z, y, free, -ROUNDING * size, patience <= 0)
            if wrong == 0:
                state[row] = SOLVED
                break
            patience = PATIENCE if wrong < fewest else patience - 1
            fewest = min(fewest, wrong)
