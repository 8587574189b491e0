"""Sites of a chain: what a wire's gates do between its left and its right bonds.

A site's last gates, the halves of the last layer's two-wire gates, depend on no angle. They are
kept apart, so that a site is 4^(L-1) x 4^(L-1) x 4 numbers per sample and not 16 times as many.
"""

from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from qmtl.simulators.angles import by_slot, fixed_angles, sample_angles
from qmtl.simulators.chain_parts import Step
from qmtl.simulators.chain_plan import Site
from qmtl.simulators.pauli_basis import bond_tensor, rotate

__all__ = ["SiteTensor", "site_tensor"]


@dataclass(frozen=True)
class SiteTensor:
    """Sites of equal structure in the Pauli basis, one per register and sample.

    Bonds are flattened with the last gate's first. Where an edge has fewer bonds than others its
    first indices are used, and the others are zero.

    Attributes:
        early: gates up to the last that has an angle, shape (registers, samples, left, right, 4).
        late: gates after it, shape (4 new Paulis, left, right, 4 old Paulis).
        width: size of an edge, 4 to the power of the bonds of the edge that has most.
    """

    early: Tensor
    late: Tensor
    width: int

    def transfer(self) -> Tensor:
        """The sites if nobody looks at them, shape (registers, samples, width, width)."""
        return self._joined(1)[..., 0, :]

    def after(self, left: Tensor, *, read: bool) -> Tensor:
        """What is left of the site's right bonds, its Paulis last among the strings.

        Args:
            left: what is left of the site, shape (registers, samples, rows, strings, width).
            read: whether the site's Paulis are kept; if not, the site is traced out.
        """
        edge = left[..., : self.late.shape[1] * self.early.shape[2]]
        edge = edge.unflatten(-1, (self.late.shape[1], self.early.shape[2]))
        # n, b: registers, samples; s: rows and strings; l, r: early bonds; t, v: late bonds.
        found = torch.einsum("nbstl,nblrp->nbstrp", edge.flatten(2, 3), self.early)
        found = torch.einsum("nbstrp,utvp->nbsuvr", found, self.late[: 4 if read else 1])
        found = found.flatten(-2).unflatten(2, left.shape[2:4]).flatten(3, 4)
        return self._padded(found, 4)

    def before(self, right: Tensor | None, *, read: bool) -> Tensor:
        """What is right of the site's left bonds, its Paulis first among the strings.

        Args:
            right: what is right of the site, shape (registers, samples, width, strings, rows);
                None for the identity.
            read: whether the site's Paulis are kept.
        """
        paulis = 4 if read else 1
        if right is None:
            return self._joined(paulis)
        edge = right[:, :, : self.late.shape[2] * self.early.shape[3]].flatten(3, 4)
        edge = edge.unflatten(2, (self.late.shape[2], self.early.shape[3]))
        found = torch.einsum("nblrp,nbvrs->nblpvs", self.early, edge)
        found = torch.einsum("nblpvs,utvp->nbtlus", found, self.late[:paulis])
        found = found.flatten(2, 3).unflatten(-1, right.shape[3:]).flatten(3, 4)
        return self._padded(found, 2)

    def _joined(self, paulis: int) -> Tensor:
        """The first `paulis` Paulis, shape (registers, samples, width, paulis, width)."""
        kept = self.late[:paulis]
        joined = self.early @ kept.reshape(-1, 4).T
        joined = joined.unflatten(-1, kept.shape[:3]).permute(0, 1, 5, 2, 4, 6, 3)
        joined = joined.flatten(5, 6).flatten(2, 3)
        return self._padded(self._padded(joined, -1), 2)

    def _padded(self, values: Tensor, axis: int) -> Tensor:
        missing = self.width - values.shape[axis]
        if not missing:
            return values
        behind = (values.ndim - 1 - axis) % values.ndim
        return torch.nn.functional.pad(values, (0, 0) * behind + (0, missing))


def site_tensor(site: Site, columns: Tensor, weights: Tensor, width: int) -> SiteTensor:
    """The tensor of a group's sites at the same position of the register.

    Args:
        site: its gates.
        columns: encoding angles, shape (n_features, samples).
        weights: the encoding's weights.
        width: size of the chain's edges.
    """
    late = list(takewhile(lambda step: step.side >= 0, reversed(site.steps)))[::-1]
    early = site.steps[: len(site.steps) - len(late)]
    n, samples = len(site.slots.weights), columns.shape[1]
    angles = by_slot(
        site.slots,
        sample_angles(site.slots, columns, weights),
        fixed_angles(site.slots, weights),
    )
    zero = columns.new_tensor([1.0, 0.0, 0.0, 1.0])[:, None, None]
    values, left, right = _run(zero, early, angles)
    values = values.expand(*values.shape[:-2], n, samples)
    values = values.permute(-2, -1, *left, *right, 0)
    values = values.reshape(n, samples, 4 ** len(left), 4 ** len(right), 4)
    return SiteTensor(values, _constant(tuple(late), columns), width)


def _constant(steps: tuple[Step, ...], like: Tensor) -> Tensor:
    """Gates without angles as a map of Paulis, shape (4 new, left, right, 4 old)."""
    identity = torch.eye(4, dtype=like.dtype, device=like.device)[:, None, :]
    values, left, right = _run(identity, steps, ())
    values = values.permute(0, *left, *right, -1, -2)
    return values.reshape(4, 4 ** len(left), 4 ** len(right), 4)


def _run(
    values: Tensor, steps: tuple[Step, ...], angles: "list[Tensor] | tuple[()]"
) -> tuple[Tensor, list[int], list[int]]:
    """Gates on Paulis, the first axis of `values`; also the axes of the left and right bonds.

    A bond's axis is put behind the Paulis, so that no numbers are moved: late bonds come first.
    """
    sides: list[int] = []
    for step in steps:
        if step.side < 0:
            angle = None if step.slot is None else angles[step.slot]
            values = rotate(values, step.name, angle, 0)
        else:
            half = torch.from_numpy(bond_tensor(step.name)).to(values)
            values = (half.reshape(16, 4) @ values.flatten(1)).reshape(4, 4, *values.shape[1:])
            sides.insert(0, step.side)
    left, right = ([i + 1 for i, side in enumerate(sides) if side == s] for s in (0, 1))
    return values, left, right
