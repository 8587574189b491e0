"""Rows of a Jacobian whose zeros are known, so that several rows are stored in one.

Rows that share no place are differentiated as one and then separated (Curtis, Powell and Reid, IMA
J. Appl. Math. 13, 1974).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Places:
    """The places where each task's row may be non-zero.

    Attributes:
        group: group of each task, shape (tasks,); rows of one group share no place.
        task, place: pairs of a task and a place where its row may be non-zero, sorted by task.
        size: (groups, places), the shape of the joint rows.
        same: pairs of entries at the same place, as two tensors of positions in `task`.
    """

    group: Tensor
    task: Tensor
    place: Tensor
    size: tuple[int, int]
    same: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, task: Tensor, place: Tensor, group: Tensor, n_places: int) -> "Places":
        """Build the object from pairs of a task and a place, sorted by task.

        Example:
            >>> task, place = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 2])
            >>> Places.of(task, place, torch.tensor([0, 1]), 3).same
            (tensor([0, 1, 1, 2, 2, 3]), tensor([0, 1, 2, 1, 2, 3]))
        """
        size = (int(group.max()) + 1, n_places)
        # For each entry, the position of each group's entry at the same place.
        found = torch.full(size, -1)
        found[group[task], place] = torch.arange(len(task))
        partners = found[:, place].T
        first, which = (partners >= 0).nonzero().unbind(1)
        return cls(group, task, place, size, (first, partners[first, which]))

    def to(self, device: torch.device) -> "Places":
        """Return these places on another device."""
        group, task, place, first, second = (
            t.to(device) for t in (self.group, self.task, self.place, *self.same)
        )
        return Places(group, task, place, self.size, (first, second))

    def apart(self, joint: Tensor) -> Tensor:
        """Separate the rows of groups (groups, places, ...) into rows (tasks, places, ...).

        Example:
            >>> both = torch.arange(2)
            >>> places = Places.of(both, both, torch.tensor([0, 0]), 2)
            >>> places.apart(torch.tensor([[3.0, 4.0]]))
            tensor([[3., 0.],
                    [0., 4.]])
        """
        rows = joint.new_zeros(len(self.group), *joint.shape[1:])
        rows[self.task, self.place] = joint[self.group[self.task], self.place]
        return rows

    def padded(self) -> tuple[Tensor, Tensor]:
        """Each task's places, padded to (tasks, largest number), and a mask of the real ones."""
        counts = torch.bincount(self.task, minlength=len(self.group))
        order = torch.arange(max(1, int(counts.max())), device=self.task.device)
        real = order < counts[:, None]
        places = torch.zeros_like(real, dtype=torch.long)
        places[real] = self.place
        return places, real


@dataclass(frozen=True)
class SparseRows:
    """The Jacobian's rows for one parameter; rows of a group are stored as one.

    Args:
        joint: the joint rows, shape (groups, *shape of the parameter); the first axis of the
            parameter is the `places`.
        places: places of the tasks' rows.

    Example:
        >>> task, place = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
        >>> places = Places.of(task, place, torch.tensor([0, 1]), 2)
        >>> rows = SparseRows(torch.tensor([[1.0, 2.0], [0.0, 3.0]]), places)
        >>> rows.dense()
        tensor([[1., 2.],
                [0., 3.]])
        >>> rows.gramian()
        tensor([[5., 6.],
                [6., 9.]])
    """

    joint: Tensor
    places: Places

    def dense(self) -> Tensor:
        """Return every row separately, shape (tasks, *shape of the parameter)."""
        return self.places.apart(self.joint)

    def gramian(self) -> Tensor:
        """Return inner products of the rows, shape (tasks, tasks)."""
        p = self.places
        n_groups, n_places = p.size
        # reshape cannot infer the width (-1) of a tensor without entries.
        width = math.prod(self.joint.shape[2:])
        values = self.joint.reshape(n_groups, n_places, width).transpose(0, 1)
        # Rows of different groups only overlap at equal places: multiply their entries there.
        products = values @ values.transpose(1, 2)
        first, second = p.same
        group = p.group[p.task]
        terms = products[p.place[first], group[first], group[second]]
        n = len(p.group)
        flat = terms.new_zeros(n * n).index_add(0, p.task[first] * n + p.task[second], terms)
        return flat.view(n, n)


def groups_apart(
    n_tasks: int, pairs: Sequence[tuple[Indices, Indices]], sizes: tuple[int, int]
) -> Tensor:
    """Assign each task to the first group in which it shares nothing with another task."""
    ends = [np.searchsorted(task, np.arange(n_tasks + 1)) for task, _ in pairs]
    taken = [np.zeros((1, size), bool) for size in sizes]
    groups = np.zeros(n_tasks, np.int64)
    n_groups = 0
    for i in range(n_tasks):
        own = [p[1][e[i] : e[i + 1]] for p, e in zip(pairs, ends, strict=True)]
        meets = np.any([t[:, places].any(1) for t, places in zip(taken, own, strict=True)], axis=0)
        group = int(np.argmin(np.append(meets[:n_groups], False)))
        groups[i] = group
        if group == n_groups:
            n_groups += 1
            taken = [np.vstack([t, np.zeros((1, t.shape[1]), bool)]) for t in taken]
        for t, places in zip(taken, own, strict=True):
            t[group, places] = True
    return torch.from_numpy(groups)
