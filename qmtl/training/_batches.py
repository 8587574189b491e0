"""Batches: the rows of each step, which only seed and epoch decide, so that runs can resume."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch import distributed as dist
from torch.utils.data import DataLoader, Dataset

from qmtl.data import MultiTaskData, Split
from qmtl.methods import Batch
from qmtl.tasks import Task, labelled_rows, task_layout
from qmtl.training._settings import TrainingSettings

EVALUATION_BATCH = 512


class SplitRows(Dataset[Batch]):
    """A split as a torch data set that is indexed by the row numbers of a whole batch."""

    def __init__(self, split: Split, tasks: Sequence[Task]) -> None:
        self.inputs = split.inputs
        self.targets = task_layout(tuple(tasks)).join_targets(split.targets)
        self.complete = not bool(self.targets.isnan().any())
        self.sample_weight = split.relative_weight

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, rows: Tensor) -> Batch:
        """Return the batch of these rows; for no rows, an empty batch."""
        if not len(rows):
            return Batch(self.inputs[:2], torch.full_like(self.targets[:2], math.nan))
        inputs, targets = self.inputs.index_select(0, rows), self.targets.index_select(0, rows)
        weights = self.sample_weight
        return Batch(inputs, targets, self.complete, None if weights is None else weights[rows])


@dataclass(frozen=True)
class BatchPlan:
    """How the training rows are divided into steps.

    Attributes:
        rows: each task's labelled rows, or a single list of all rows for mixed batches.
        batch_size: number of rows per task and step.
        smallest: smallest size of the last mixed batch of an epoch; a smaller one is merged into
            the batch before it, because batch normalisation cannot train on a single row.
        tasks_per_step: number of lists that a step draws from.
        temperature: lists are drawn with probability proportional to ``size ** temperature``.
        seed: seed of the order of rows.
    """

    rows: tuple[Tensor, ...]
    batch_size: int
    tasks_per_step: int
    temperature: float
    seed: int
    smallest: int = 1

    @property
    def n_steps(self) -> int:
        """Number of steps per epoch, which together draw at least as many rows as there are."""
        total = sum(len(rows) for rows in self.rows)
        if len(self.rows) > 1:
            return math.ceil(total / (self.batch_size * self.tasks_per_step))
        whole, rest = divmod(total, self.batch_size)
        return max(1, whole + (rest >= min(self.smallest, self.batch_size)))

    def epoch(self, epoch: int) -> list[Tensor]:
        """Return the row numbers of every step of one epoch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        if len(self.rows) == 1:
            order = self.rows[0][torch.randperm(len(self.rows[0]), generator=generator)]
            steps = list(order.split(self.batch_size))
            if len(steps) > 1 and len(steps[-1]) < min(self.smallest, self.batch_size):
                steps[-2:] = [torch.cat(steps[-2:])]
            return steps
        streams = [_stream(rows, self.batch_size, generator) for rows in self.rows]
        sizes = torch.tensor([len(rows) for rows in self.rows], dtype=torch.float64)
        logits = self.temperature * sizes.log()
        steps = []
        for _ in range(self.n_steps):
            # Gumbel's trick draws from softmax(logits) without replacement, for any temperature.
            noise = torch.empty_like(logits).exponential_(generator=generator).log()
            chosen = (logits - noise).topk(self.tasks_per_step).indices
            steps.append(torch.cat([next(streams[i]) for i in sorted(chosen.tolist())]))
        return steps


def _stream(rows: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield a task's rows in random order, `size` at a time, or all if it has fewer.

    All mini-batches have the same size: one may take its last rows from the next shuffle.
    """
    size, waiting = min(size, len(rows)), rows[:0]
    while True:
        if len(waiting) < size:
            order = torch.randperm(len(rows), generator=generator)
            waiting = torch.cat([waiting, rows[order]])
        # These slices are views: copying the waiting rows in each step would take most of an epoch.
        yield waiting[:size]
        waiting = waiting[size:]


class EpochBatches:
    """A torch sampler that yields one process's row numbers for each step.

    In each step, process r of `world_size` gets the rows ``r, r + world_size, …``, or no row if
    the step has too few.
    """

    def __init__(self, plan: BatchPlan, rank: int = 0, world_size: int = 1) -> None:
        self.plan, self.rank, self.world_size = plan, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.plan.n_steps

    def __iter__(self) -> Iterator[Tensor]:
        for rows in self.plan.epoch(self.epoch):
            yield rows[self.rank :: self.world_size]


class _Loader:
    """Yields a sampler's batches, without processes in less time than torch's loader.

    It is no `DataLoader`, whose sampler Lightning would replace by one of single rows.
    """

    # Lightning expects this attribute beside the sampler.
    batch_sampler = None

    def __init__(self, rows: SplitRows, sampler: Any, settings: TrainingSettings) -> None:
        self.rows, self.sampler, self.settings = rows, sampler, settings

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        if not self.settings.num_workers:
            return map(self.rows.__getitem__, self.sampler)
        # The loader must not draw from torch's global generator.
        generator = torch.Generator().manual_seed(self.settings.seed)
        options: dict[str, Any] = {"num_workers": self.settings.num_workers, "generator": generator}
        return iter(DataLoader(self.rows, batch_size=None, sampler=self.sampler, **options))


class MultiTaskDataModule(pl.LightningDataModule):
    """Training and validation batches.

    Aligned data come in mixed batches. Disjoint data (no row has labels of two tasks) come in
    single-task batches for a scalarizer, and with one mini-batch per task for an aggregator.

    Args:
        data: the data set.
        settings: settings of training, such as batch size, seed, temperature and aggregator.
    """

    def __init__(self, data: MultiTaskData, settings: TrainingSettings) -> None:
        super().__init__()
        self.data, self.settings = data, settings
        labelled = labelled_rows(data.tasks, data.train.targets)
        some = labelled.any(dim=0).nonzero().flatten()
        # Batch normalisation needs at least two rows in each process.
        rows, n_tasks, smallest = (some,), 1, 2 * settings.devices
        if data.is_disjoint:
            rows = tuple(mask.nonzero().flatten() for mask in labelled if bool(mask.any()))
            smallest = 1
            if settings.aggregator is not None:
                n_tasks = min(settings.tasks_per_step or len(rows), len(rows))
        size = settings.batch_for(len(some))
        self.plan = BatchPlan(rows, size, n_tasks, settings.temperature, settings.seed, smallest)

    def train_dataloader(self) -> Any:
        """Return batches of the training split; every process takes its share of each."""
        distributed = dist.is_available() and dist.is_initialized()
        rank = dist.get_rank() if distributed else 0
        world = dist.get_world_size() if distributed else 1
        batches = EpochBatches(self.plan, rank, world)
        # The trainer's overfit_batches are the same ones in every epoch.
        overfits = self.trainer is not None and self.trainer.overfit_batches > 0
        return self._loader(self.data.train, list(batches) if overfits else batches)

    def val_dataloader(self) -> Any:
        """Return the validation split in order; every process sees all of it."""
        return self._in_order(self.data.validation)

    def test_dataloader(self) -> Any:
        """Return the test split in order; every process sees all of it."""
        return self._in_order(self.data.test)

    def predict_dataloader(self) -> Any:
        """Return the test split in order, for `Trainer.predict`."""
        return self._in_order(self.data.test)

    def _in_order(self, split: Split) -> Any:
        return self._loader(split, torch.arange(len(split)).split(EVALUATION_BATCH))

    def _loader(self, split: Split, sampler: Any) -> Any:
        return _Loader(SplitRows(split, self.data.tasks), sampler, self.settings)
