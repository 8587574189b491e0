"""Progress: a bar on a terminal or in a notebook, one plain line per epoch in a log."""

import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm

__all__ = ["progress_callback"]


class EpochLines(Callback):
    """Prints one line at the end of every epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch and the validation loss."""
        if trainer.is_global_zero:
            loss = float(trainer.callback_metrics["validation_loss"])
            total = trainer.max_epochs
            epoch = trainer.current_epoch + 1
            print(f"epoch {epoch}/{total}  validation loss {loss:.4f}", flush=True)


class EpochBar(TQDMProgressBar):
    """One bar over all steps of an epoch, without a second one for validation."""

    def init_validation_tqdm(self) -> Any:
        """A bar that shows nothing."""
        return Tqdm(disable=True)

    def on_train_epoch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        """Count epochs from 1, and say of how many."""
        super().on_train_epoch_start(trainer, *arguments)
        epoch, total = trainer.current_epoch + 1, trainer.max_epochs
        self.train_progress_bar.set_description(f"epoch {epoch}/{total}")

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The validation loss, without a version number."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


def progress_callback() -> Callback:
    """The one that suits where the output goes."""
    interactive = sys.stderr.isatty() or "ipykernel" in sys.modules
    return EpochBar(leave=False) if interactive else EpochLines()
