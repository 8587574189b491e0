"""Batches: which rows make each step, for aligned and for disjoint data.

A plan is a function of a seed and the epoch alone, so that a resumed run sees the same batches
without any state to save.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from qmtl.data.dataset import Split
from qmtl.tasks import MISSING, Task
from qmtl.tasks.stacked import labelled_rows, stacks_by_shape

__all__ = ["Batch", "BatchPlan", "EpochBatches", "SplitRows", "plan_batches", "to_device"]


@dataclass(frozen=True)
class Batch:
    """Inputs, and for each task its targets, of some rows."""

    inputs: Tensor
    targets: dict[str, Tensor]

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        return Batch(self.inputs.to(device), to_device(self.targets, device))


def to_device(targets: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Targets on a device; in float32 on MPS, which has no float64."""
    if all(value.device == device for value in targets.values()):
        return dict(targets)
    names, moved = list(targets), dict(targets)
    for places, stack in stacks_by_shape(list(targets.values())):
        # One transfer for all tasks of a kind.
        exact = stack.dtype != torch.float64 or device.type != "mps"
        there = (stack if exact else stack.float()).to(device)
        moved |= zip((names[i] for i in places), there.unbind(), strict=True)
    return moved


class SplitRows(Dataset[Batch]):
    """A split as a torch data set that is indexed by the row numbers of a whole batch."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self._names = list(split.targets)
        self._stacks = stacks_by_shape(list(split.targets.values()))

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, rows: list[int]) -> Batch:
        """The batch of these rows; -1 stands for a row without labels."""
        index = torch.tensor(rows, dtype=torch.int64)
        padding = index < 0
        index = index.clamp(min=0)
        targets = dict.fromkeys(self._names, index)
        for places, stack in self._stacks:
            values = stack[:, index]
            if bool(padding.any()):
                values[:, padding] = math.nan if values.is_floating_point() else MISSING
            targets |= zip((self._names[i] for i in places), values.unbind(), strict=True)
        return Batch(self.split.inputs[index], targets)


def rows_by_task(labelled: Tensor, present: Sequence[int]) -> list[Tensor] | None:
    """Each present task's own rows, if every row of the batch belongs to one task; else None.

    A task of which this process has no row gets one without a label, which has no loss.

    Example:
        >>> rows_by_task(torch.tensor([[True, False], [False, True]]), [0, 1])
        [tensor([0]), tensor([1])]
    """
    if len(present) < 2 or int(labelled.sum(dim=0).max()) > 1:
        return None
    own = [labelled[i].nonzero().flatten() for i in present]
    return [rows if len(rows) else labelled.new_zeros(1, dtype=torch.int64) for rows in own]


@dataclass(frozen=True)
class BatchPlan:
    """How the training rows are cut into steps.

    Attributes:
        rows: each task's labelled rows, or a single list of all rows for mixed batches.
        batch_size: rows per task and step.
        tasks_per_step: how many of the lists a step draws from.
        temperature: lists are drawn with probability proportional to ``size ** temperature``.
        seed: of the order of rows.
    """

    rows: tuple[Tensor, ...]
    batch_size: int
    tasks_per_step: int
    temperature: float
    seed: int

    @property
    def n_steps(self) -> int:
        """Steps per epoch: as many as it takes to see as many rows as there are."""
        total = sum(len(rows) for rows in self.rows)
        return math.ceil(total / (self.batch_size * self.tasks_per_step))

    def epoch(self, epoch: int) -> list[list[int]]:
        """Row numbers of every step of one epoch.

        Example:
            >>> plan = BatchPlan((torch.arange(5),), 2, 1, 1.0, seed=0)
            >>> [len(rows) for rows in plan.epoch(0)], plan.epoch(1) == plan.epoch(1)
            ([2, 2, 1], True)
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        if len(self.rows) == 1:
            order = self.rows[0][torch.randperm(len(self.rows[0]), generator=generator)]
            return [part.tolist() for part in order.split(self.batch_size)]
        streams = [_Stream(rows, generator) for rows in self.rows]
        sizes = torch.tensor([len(rows) for rows in self.rows], dtype=torch.float64)
        logits = self.temperature * sizes.log()
        steps = []
        for _ in range(self.n_steps):
            # Gumbel's trick draws from softmax(logits) without replacement, however sharp it is.
            noise = torch.empty_like(logits).exponential_(generator=generator).log()
            chosen = (logits - noise).topk(self.tasks_per_step).indices
            step: list[int] = []
            for i in sorted(chosen.tolist()):
                step += streams[i].take(self.batch_size)
            steps.append(step)
        return steps


class _Stream:
    """Rows of one task in random order, shuffled anew whenever they have all been seen.

    Mini-batches run on into the next shuffle, so all are of one size: the one asked for, or all of
    a task's rows if it has fewer.
    """

    def __init__(self, rows: Tensor, generator: torch.Generator) -> None:
        self.rows, self.generator = rows, generator
        self.waiting: list[int] = []

    def take(self, n: int) -> list[int]:
        n = min(n, len(self.rows))
        if len(self.waiting) < n:
            order = torch.randperm(len(self.rows), generator=self.generator)
            self.waiting += self.rows[order].tolist()
        taken, self.waiting = self.waiting[:n], self.waiting[n:]
        return taken


def plan_batches(
    split: Split,
    tasks: Sequence[Task],
    *,
    batch_size: int,
    seed: int,
    single_task: bool,
    tasks_per_step: int = 1,
    temperature: float = 1.0,
) -> BatchPlan:
    """The plan of a training split.

    Args:
        split: the training rows.
        tasks: the tasks to learn.
        batch_size: rows per step; with `single_task`, rows per task and step.
        seed: of the order of rows.
        single_task: draw each mini-batch from one task's labelled rows (disjoint data); else
            batches mix all rows that have any label.
        tasks_per_step: with `single_task`, how many tasks a step draws a mini-batch from.
        temperature: with `single_task`, how strongly larger tasks are preferred: 0 not at all,
            1 in proportion to their size.
    """
    labelled = labelled_rows(tasks, split.targets)
    if single_task:
        rows = tuple(mask.nonzero().flatten() for mask in labelled if bool(mask.any()))
        return BatchPlan(rows, batch_size, min(tasks_per_step, len(rows)), temperature, seed)
    anything = labelled.any(dim=0).nonzero().flatten()
    return BatchPlan((anything,), batch_size, 1, temperature, seed)


class EpochBatches:
    """A torch sampler whose items are the rows of a step; each process takes its share of them.

    Use it as ``DataLoader(SplitRows(split), sampler=EpochBatches(plan), batch_size=None)``.

    Args:
        plan: the plan.
        rank: this process.
        world_size: number of processes; step s gives rank r the rows ``r, r + world_size, …``.
    """

    def __init__(self, plan: BatchPlan, rank: int = 0, world_size: int = 1) -> None:
        self.plan, self.rank, self.world_size = plan, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.plan.n_steps

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.plan.epoch(self.epoch):
            # A step with fewer rows than processes gives some of them a row without labels.
            yield rows[self.rank :: self.world_size] or [-1]
