"""Projections onto the dual cone of a Jacobian's rows, all of them at once.

UPGrad projects the gradient of each of m tasks, which is m quadratic programs in m variables. They
share one matrix and few of their constraints are tight, so that block principal pivoting solves
them together in a handful of rounds of small dense systems, where a general solver takes them one
by one.
"""

import torch
from torch import Tensor
from torchjd.linalg import DualConeProjector, PSDMatrix

from qmtl.training.pivoting import complementary

__all__ = ["PivotingProjector"]


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
