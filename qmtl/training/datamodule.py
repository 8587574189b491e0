"""The Lightning data module: batches of a `MultiTaskData`."""

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from qmtl.data import MultiTaskData
from qmtl.training.batches import Batch, EpochBatches, SplitRows, plan_batches
from qmtl.training.settings import TrainingSettings

__all__ = ["MultiTaskDataModule"]

EVALUATION_BATCH = 512


class MultiTaskDataModule(pl.LightningDataModule):
    """Training and validation batches.

    Aligned data come in mixed batches. Disjoint data (no row has labels of two tasks) come in
    single-task batches for a scalarizer, and in one mini-batch per task for an aggregator.

    Args:
        data: the data.
        settings: batch size, seed, temperature and the aggregator.
    """

    def __init__(self, data: MultiTaskData, settings: TrainingSettings) -> None:
        super().__init__()
        self.data = data
        self.settings = settings
        jacobian = settings.aggregator is not None
        self.plan = plan_batches(
            data.train,
            data.tasks,
            batch_size=settings.batch_size,
            seed=settings.seed,
            single_task=data.is_disjoint,
            tasks_per_step=(settings.tasks_per_step or len(data.tasks)) if jacobian else 1,
            temperature=settings.temperature,
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of the training split; every process takes its share of each."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
        world = torch.distributed.get_world_size() if distributed else 1
        sampler = EpochBatches(self.plan, rank, world)
        return self._loader(SplitRows(self.data.train), sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split in order, whole in every process."""
        rows = torch.arange(len(self.data.validation)).split(EVALUATION_BATCH)
        return self._loader(SplitRows(self.data.validation), [part.tolist() for part in rows])

    def _loader(self, rows: SplitRows, sampler: object) -> DataLoader[Batch]:
        return DataLoader(
            rows,
            sampler=sampler,  # type: ignore[arg-type]
            batch_size=None,
            num_workers=self.settings.num_workers,
            # A generator of its own: the loader's seeds must not disturb torch's global one.
            generator=torch.Generator().manual_seed(self.settings.seed),
        )
