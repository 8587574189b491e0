"""Projections onto the dual cone of a Jacobian's rows, all of them at once.

UPGrad projects the gradient of each of m tasks, which is m quadratic programs in m variables. They
share one matrix and few of their constraints are tight, so that block principal pivoting solves
them together in a handful of rounds of small dense systems, where a general solver takes them one
by one.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchjd.linalg import DualConeProjector, PSDMatrix

__all__ = ["PivotingProjector", "complementary"]

Floats = NDArray[np.float64]
# Rows and variables from which threads are worth starting.
MANY = 64


class PivotingProjector(DualConeProjector):
    r"""Projects weights onto the dual cone of a Jacobian's rows; a TorchJD projector.

    For each ``u`` this is ``argmin v'Gv`` subject to ``v >= u``, for the Gramian ``G`` divided by
    its trace and with `reg_eps` on its diagonal, exactly as TorchJD's ``QuadprogProjector`` has
    it, to the accuracy of double precision.

    Args:
        norm_eps: Gramians with a smaller trace count as zero.
        reg_eps: added to the diagonal of the normalised Gramian.

    Raises:
        ValueError: if `norm_eps` or `reg_eps` is negative; on a call, for a Gramian that is not
            finite, or not positive definite with `reg_eps` added.

    Example:
        >>> from torchjd.aggregation import UPGrad
        >>> upgrad = UPGrad(projector=PivotingProjector())
        >>> upgrad(torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]))
        tensor([0.2929, 1.9004, 1.9004])

    References:
        UPGrad: Quinton and Rey, arXiv:2406.16232. Block pivoting: Júdice and Pires, Computers and
        Operations Research 21 (1994); Kim and Park, SIAM J. Sci. Comput. 33 (2011).
    """

    def __init__(self, *, norm_eps: float = 1e-4, reg_eps: float = 1e-4) -> None:
        for name, value in (("norm_eps", norm_eps), ("reg_eps", reg_eps)):
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        self.norm_eps, self.reg_eps = norm_eps, reg_eps

    def __call__(self, U: Tensor, G: PSDMatrix) -> Tensor:
        """Weights of the projections, of the shape of `U`, (..., m), for a Gramian (m, m)."""
        matrix = self._regular(G.detach()).cpu().double()
        matrix = (matrix + matrix.T) / 2
        given = U.detach().cpu().double().reshape(-1, len(matrix))
        added = complementary(matrix.numpy(), (given @ matrix).numpy())
        return (given + torch.from_numpy(added)).to(G).reshape(U.shape)

    def _regular(self, gramian: Tensor) -> Tensor:
        trace = gramian.diagonal().sum()
        if not bool(gramian.isfinite().all() & trace.isfinite()):
            raise ValueError("the Jacobian's Gramian has values that are not finite")
        scaled = torch.zeros_like(gramian) if trace < self.norm_eps else gramian / trace
        return scaled + self.reg_eps * torch.eye(len(gramian)).to(gramian)

    def __repr__(self) -> str:
        return f"PivotingProjector(norm_eps={self.norm_eps}, reg_eps={self.reg_eps})"


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
    state = np.zeros(len(offsets), np.int64)
    conflicting = np.flatnonzero((offsets < 0).any(axis=1))
    if not len(conflicting):
        return found
    if not (matrix.diagonal() > 0).all():
        raise ValueError("the matrix is not positive definite")
    from qmtl.training._pivoting import INDEFINITE, UNSOLVED, solve_rows

    rounds = 50 + 3 * len(matrix) if rounds is None else rounds
    n_threads = torch.get_num_threads() if min(len(conflicting), len(matrix)) >= MANY else 1
    if n_threads == 1:
        solve_rows(matrix, offsets, conflicting, rounds, found, state)
    else:
        # Every n-th row to each: neighbours take alike long.
        shares = [conflicting[i::n_threads].copy() for i in range(n_threads)]
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(lambda s: solve_rows(matrix, offsets, s, rounds, found, state), shares))
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
