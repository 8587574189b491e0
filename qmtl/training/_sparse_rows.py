"""Rows of a Jacobian with known zeros: rows that do not overlap are stored as one joint row."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """The places where each task's row may be non-zero.

    Rows that share no place are differentiated as one and then separated (Curtis, Powell and Reid,
    IMA J. Appl. Math. 13, 1974).

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
        size = (int(group.max()) + 1, n_places)
        # For each entry, the position of each group's entry at the same place.
        found = torch.full(size, -1)
        found[group[task], place] = torch.arange(len(task))
        partners = found[:, place].T
        first, which = (partners >= 0).nonzero().unbind(1)
        return cls(group, task, place, size, (first, partners[first, which]))

    def to(self, device: torch.device) -> "Places":
        group, task, place, first, second = (
            t.to(device) for t in (self.group, self.task, self.place, *self.same)
        )
        return Places(group, task, place, self.size, (first, second))

    def apart(self, joint: Tensor) -> Tensor:
        """Separate the rows of groups (groups, places, ...) into rows (tasks, places, ...)."""
        rows = joint.new_zeros(len(self.group), *joint.shape[1:])
        rows[self.task, self.place] = joint[self.group[self.task], self.place]
        return rows

    def padded(self) -> tuple[Tensor, Tensor]:
        """Return each task's places, padded to (tasks, most places), and the mask of real ones."""
        counts = torch.bincount(self.task, minlength=len(self.group))
        order = torch.arange(max(1, int(counts.max())), device=self.task.device)
        real = order < counts[:, None]
        places = torch.zeros_like(real, dtype=torch.long)
        places[real] = self.place
        return places, real


@dataclass(frozen=True)
class SparseRows:
    """The joint rows for one parameter, (groups, *its shape), whose first axis are the places."""

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
        # Two rows have non-zero entries in common only at equal places: others add nothing.
        products = values @ values.transpose(1, 2)
        first, second = p.same
        group = p.group[p.task]
        terms = products[p.place[first], group[first], group[second]]
        n = len(p.group)
        flat = terms.new_zeros(n * n).index_add(0, p.task[first] * n + p.task[second], terms)
        return flat.view(n, n)
