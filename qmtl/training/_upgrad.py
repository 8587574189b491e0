"""Projections onto the dual cone of a Jacobian's rows, many at once, for UPGrad."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchjd.linalg import DualConeProjector, PSDMatrix

Floats = NDArray[np.float64]
# A Gramian with a smaller trace counts as zero. REG_EPS is added to the diagonal at trace 1.
NORM_EPS = REG_EPS = 1e-4
# From this number of rows and of variables, several threads are faster than one.
MANY = 64
# The kernel's status of a row.
SOLVED, UNSOLVED, INDEFINITE = 0, 1, 2
SWEEPS = 20
# After this many rounds without improvement, the solver moves one variable at a time.
PATIENCE = 3
# A negative value below this fraction of its summands counts as zero.
ROUNDING = 16 * float(np.finfo(np.float64).eps)

# Sums may be reordered, so that they vectorise; NaN and infinity keep their meaning. Indices of
# inner loops are unsigned: for signed ones, numba would have to handle counting from the end.
_compiled: Any = numba.njit(
    cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"}
)


class PivotingProjector(DualConeProjector):
    """Projects weights onto the dual cone of a Jacobian's rows; a TorchJD projector.

    The projection of ``u`` is ``argmin v'Gv`` subject to ``v >= u``. As in TorchJD's
    ``QuadprogProjector``, ``G`` is the Gramian divided by its trace, with `REG_EPS` added to its
    diagonal. UPGrad has m such programs in m variables, with one matrix and few active constraints.
    Block principal pivoting solves them to double precision in a few rounds of small dense systems.

    Raises:
        ValueError: for a Gramian that is not finite, or not positive definite.

    Example:
        >>> from torchjd.aggregation import UPGrad
        >>> upgrad = UPGrad(projector=PivotingProjector())
        >>> upgrad(torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]))
        tensor([0.2929, 1.9004, 1.9004])

    References:
        UPGrad: Quinton and Rey, arXiv:2406.16232. Block pivoting: Júdice and Pires, Computers and
        Operations Research 21 (1994); Kim and Park, SIAM J. Sci. Comput. 33 (2011).
    """

    def __call__(self, U: Tensor, G: PSDMatrix) -> Tensor:
        """Return the weights of the projections, in the shape of `U`, (..., m)."""
        gramian = G.detach()
        trace = gramian.diagonal().sum()
        if not bool(gramian.isfinite().all() & trace.isfinite()):
            raise ValueError("the Jacobian's Gramian has values that are not finite")
        scaled = torch.zeros_like(gramian) if trace < NORM_EPS else gramian / trace
        matrix = (scaled + REG_EPS * torch.eye(len(gramian)).to(gramian)).cpu().double()
        matrix = (matrix + matrix.T) / 2
        given = U.detach().cpu().double().reshape(-1, len(matrix))
        added = complementary(matrix.numpy(), (given @ matrix).numpy())
        return (given + torch.from_numpy(added)).to(G).reshape(U.shape)

    def __repr__(self) -> str:
        return "PivotingProjector()"


def complementary(matrix: Floats, offsets: Floats, rounds: int | None = None) -> Floats:
    """Solve, for each row ``q``: ``z >= 0`` with ``y = Mz + q >= 0`` and ``z'y = 0``.

    M is symmetric and positive definite, (m, m); offsets (rows q) and result (rows z) are (n, m).
    Rounding errors may leave some y slightly negative. A row that pivoting has not solved after
    `rounds` rounds is solved by scipy's non-negative least squares; the default number is far
    above what rows need.
    """
    matrix, offsets = (np.ascontiguousarray(given, float) for given in (matrix, offsets))
    found = np.zeros_like(offsets)
    state = np.zeros(len(offsets), np.int64)
    conflicting = np.flatnonzero((offsets < 0).any(axis=1))
    if not len(conflicting):
        return found
    if not (matrix.diagonal() > 0).all():
        raise ValueError("the matrix is not positive definite")
    rounds = 50 + 3 * len(matrix) if rounds is None else rounds
    n_threads = torch.get_num_threads() if min(len(conflicting), len(matrix)) >= MANY else 1
    if n_threads == 1:
        _solve_rows(matrix, offsets, conflicting, rounds, found, state)
    else:
        # Each thread gets every n-th row, because neighbouring rows take similar time.
        shares = [conflicting[i::n_threads].copy() for i in range(n_threads)]
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(lambda s: _solve_rows(matrix, offsets, s, rounds, found, state), shares))
    if (state == INDEFINITE).any():
        raise ValueError("the matrix is not positive definite")
    for row in np.flatnonzero(state == UNSOLVED):
        found[row] = _least_squares(matrix, offsets[row])
    return found


@_compiled
def _sweep(matrix: Any, z: Any, y: Any) -> Any:
    """Do one Gauss-Seidel pass; return whether entries became positive or zero."""
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
def _solve_places(matrix: Any, q: Any, places: Any, k: Any, factor: Any, z: Any) -> Any:
    """Solve Mz + q = 0 on k variables by Cholesky; return whether M is positive definite there."""
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
def _move(z: Any, y: Any, free: Any, limit: Any, one: Any) -> Any:
    """Count the variables with the wrong sign; move all of them, or only the last if `one`."""
    count = 0
    for j in range(len(z) - 1, -1, -1):
        if (free[j] and z[j] < 0) or (not free[j] and y[j] < limit):
            count += 1
            if not one or count == 1:
                free[j] = not free[j]
    return count


@_compiled
def _solve_rows(matrix: Any, offsets: Any, rows: Any, rounds: Any, found: Any, state: Any) -> None:
    """Solve the given rows of offsets; write results to the same rows of `found` and `state`.

    Gauss-Seidel sweeps find most positive variables. Block principal pivoting then solves exactly
    for these, and moves variables with the wrong sign until there are none.
    """
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


def _least_squares(matrix: Floats, offset: Floats) -> Floats:
    """Solve one row as non-negative least squares, by scipy's active sets."""
    from scipy.linalg import cholesky, solve_triangular
    from scipy.optimize import nnls

    factor = cholesky(matrix)
    target = solve_triangular(factor, -offset, trans="T")
    solution: Floats = nnls(factor, target, maxiter=100 * len(matrix))[0]
    return solution
