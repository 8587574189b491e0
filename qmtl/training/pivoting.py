"""Linear complementarity problems with one matrix and many right-hand sides, compiled.

Gauss-Seidel sweeps find most of what is positive; block principal pivoting then solves exactly for
these places, and moves what comes out with the wrong sign until nothing does.
"""

import numpy as np
from numpy.typing import NDArray

from qmtl.simulators.compilation import Kernel, words

__all__ = ["complementary"]

KERNEL = Kernel("qmtl.training.pivoting_kernel")
# What the kernel says of a row.
SOLVED, UNSOLVED, INDEFINITE = 0, 1, 2

Floats = NDArray[np.float64]


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
    matrix, offsets = (np.ascontiguousarray(given, float) for given in (matrix, offsets))
    found = np.zeros_like(offsets)
    state = np.full(len(offsets), SOLVED)
    conflicting = np.flatnonzero((offsets < 0).any(axis=1))
    if not len(conflicting):
        return found
    if not (matrix.diagonal() > 0).all():
        raise ValueError("the matrix is not positive definite")
    rounds = 50 + 3 * len(matrix) if rounds is None else rounds
    m = len(matrix)
    own, given = (m * m + 3 * m,), (conflicting, matrix, offsets, rounds, found, state)
    KERNEL.call(matrix.dtype, len(conflicting), own, words(*given), given).run()
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
