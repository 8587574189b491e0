"""Rows of a Jacobian that are known to be zero but at a few places, kept together.

Where each of T tasks depends on a handful of features, the Jacobian of their losses by the layer
that computes the features has T times as many entries as the layer, and its Gramian costs T times
as much again. Rows without a place in common lie on top of each other here, so that the Gramian and
sums of rows cost a few passes over the layer.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Places", "SparseRows"]


@dataclass(frozen=True)
class Places:
    """At which places each task's row may be other than zero.

    Attributes:
        group: shape (tasks,); rows of one group have no place in common.
        task, place: where they may be, all tasks one after the other.
        size: shape (groups, places) of rows on top of each other.
        same: pairs of entries at the same place, as two tensors of positions in `task`.
    """

    group: Tensor
    task: Tensor
    place: Tensor
    size: tuple[int, int]
    same: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, depends: Tensor, group: Tensor, n_groups: int) -> "Places":
        """From a mask of shape (tasks, places).

        Example:
            >>> mask = torch.tensor([[True, True, False], [False, True, True]])
            >>> Places.of(mask, torch.tensor([0, 1]), 2).same
            (tensor([0, 1, 1, 2, 2, 3]), tensor([0, 1, 2, 1, 2, 3]))
        """
        task, place = depends.nonzero().unbind(1)
        size = (n_groups, depends.shape[1])
        # For each entry the position of the one of each group at its place.
        found = torch.full(size, -1)
        found[group[task], place] = torch.arange(len(task))
        partners = found[:, place].T
        first, which = (partners >= 0).nonzero().unbind(1)
        return cls(group, task, place, size, (first, partners[first, which]))

    def to(self, device: torch.device) -> "Places":
        """The same on another device."""
        first, second = self.same
        return Places(
            self.group.to(device), self.task.to(device), self.place.to(device), self.size,
            (first.to(device), second.to(device)),
        )  # fmt: skip

    def apart(self, joint: Tensor) -> Tensor:
        """Rows (tasks, places, ...) from those of groups, (groups, places, ...).

        Example:
            >>> places = Places.of(torch.eye(2).bool(), torch.tensor([0, 0]), 1)
            >>> places.apart(torch.tensor([[3.0, 4.0]]))
            tensor([[3., 0.],
                    [0., 4.]])
        """
        rows = joint.new_zeros(len(self.group), *joint.shape[1:])
        rows[self.task, self.place] = joint[self.group[self.task], self.place]
        return rows

    def padded(self) -> tuple[Tensor, Tensor]:
        """Each task's places, shape (tasks, most of any), and which of them are real."""
        counts = torch.bincount(self.task, minlength=len(self.group))
        order = torch.arange(max(1, int(counts.max())), device=self.task.device)
        real = order < counts[:, None]
        places = torch.zeros_like(real, dtype=torch.long)
        places[real] = self.place
        return places, real


@dataclass(frozen=True)
class SparseRows:
    """The Jacobian's rows by one parameter, those of a group on top of each other.

    Args:
        joint: shape (groups, *shape of the parameter), whose first axis has the `places`.
        places: of the tasks' rows.

    Example:
        >>> places = Places.of(torch.tensor([[True, True], [False, True]]), torch.tensor([0, 1]), 2)
        >>> rows = SparseRows(torch.tensor([[1.0, 2.0], [0.0, 3.0]]), places)
        >>> rows.dense()
        tensor([[1., 2.],
                [0., 3.]])
        >>> rows.gramian()
        tensor([[5., 6.],
                [6., 9.]])
        >>> rows.weighted_sum(torch.tensor([1.0, 10.0]))
        tensor([ 1., 32.])
    """

    joint: Tensor
    places: Places

    @classmethod
    def zero(cls, parameter: Tensor, n_tasks: int) -> "Tensor | SparseRows":
        """The rows by a parameter that no task depends on.

        Example:
            >>> SparseRows.zero(torch.ones(2, 3), 4).dense().shape
            torch.Size([4, 2, 3])
        """
        if not parameter.ndim:
            return parameter.new_zeros(n_tasks)
        nowhere = torch.zeros(n_tasks, len(parameter), dtype=torch.bool)
        places = Places.of(nowhere, torch.zeros(n_tasks, dtype=torch.long), 1)
        return cls(torch.zeros_like(parameter)[None], places.to(parameter.device))

    def __len__(self) -> int:
        return len(self.places.group)

    def dense(self) -> Tensor:
        """Every row for itself, shape (tasks, *shape of the parameter)."""
        return self.places.apart(self.joint)

    def gramian(self) -> Tensor:
        """Inner products of the rows, shape (tasks, tasks)."""
        p = self.places
        n_groups, n_places = p.size
        values = self.joint.reshape(n_groups, n_places, self._width).transpose(0, 1)
        # Of all groups at one place, which is where rows meet.
        products = values @ values.transpose(1, 2)
        first, second = p.same
        group = p.group[p.task]
        terms = products[p.place[first], group[first], group[second]]
        n = len(self)
        flat = terms.new_zeros(n * n).index_add(0, p.task[first] * n + p.task[second], terms)
        return flat.view(n, n)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """The sum of the rows, each times its weight."""
        p = self.places
        factors = self.joint.new_zeros(p.size)
        factors[p.group[p.task], p.place] = weights.to(factors)[p.task]
        n_groups, n_places = p.size
        values = self.joint.reshape(n_groups, n_places, self._width)
        return (factors.unsqueeze(2) * values).sum(0).view(self.joint.shape[1:])

    @property
    def _width(self) -> int:
        """Numbers at a place; not -1, which is nothing where there are no numbers."""
        return math.prod(self.joint.shape[2:])
