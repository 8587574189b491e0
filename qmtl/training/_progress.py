"""Progress: a bar on a terminal or in a notebook, or a line per epoch in a log; step times."""

import math
import statistics
import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch
from markupsafe import Markup
from pytorch_lightning.callbacks import Callback, ProgressBar, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm

from qmtl._html import in_notebook

__all__ = ["StepTimes", "progress_callback"]

# A front end redraws a cell's whole output; more frequent updates would flicker.
REDRAW_SECONDS = 0.2
BAR = Markup(
    '<div>epoch {}/{} <progress value="{}" max="{}" style="width: 16em"></progress> '
    "{}{:.0f} s</div>"
)


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
    """One bar over all steps of an epoch, without a separate one for validation."""

    def init_validation_tqdm(self) -> Any:
        """A bar that shows nothing."""
        return Tqdm(disable=True)

    def on_train_epoch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        """Show the epoch, counted from 1, and the number of epochs."""
        super().on_train_epoch_start(trainer, *arguments)
        epoch, total = trainer.current_epoch + 1, trainer.max_epochs
        self.train_progress_bar.set_description(f"epoch {epoch}/{total}")

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The validation loss, without a version number."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class NotebookBar(ProgressBar):
    """One HTML bar over all steps of all epochs.

    It needs no widgets, and a saved notebook keeps its last state as one line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.output: Any = None
        self.started = self.drawn = 0.0

    def disable(self) -> None:
        """Do nothing: only the first process draws the bar."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the bar into the cell's output."""
        super().on_train_start(trainer, pl_module)
        self.started = time.monotonic()
        self._draw(trainer, 0)

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        """Update the bar, at most a few times a second."""
        if time.monotonic() - self.drawn > REDRAW_SECONDS:
            self._draw(trainer, int(arguments[-1]) + 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        """Show the validation loss."""
        self._draw(trainer, int(trainer.num_training_batches))

    def _draw(self, trainer: pl.Trainer, step: int) -> None:
        from IPython.display import HTML, display

        if not trainer.is_global_zero:
            return
        steps, epochs = int(trainer.num_training_batches), trainer.max_epochs or 0
        done = trainer.current_epoch * steps + step
        loss = trainer.callback_metrics.get("validation_loss")
        told = "" if loss is None else f"validation loss {float(loss):.4f}, "
        seconds = time.monotonic() - self.started
        epoch = min(trainer.current_epoch + 1, epochs)
        page = HTML(BAR.format(epoch, epochs, done, epochs * steps, told, seconds))
        if self.output is None:
            self.output = display(page, display_id=True)
        else:
            self.output.update(page)
        self.drawn = time.monotonic()


def progress_callback() -> Callback:
    """The progress callback that suits the output: terminal, notebook or log."""
    if in_notebook():
        return NotebookBar()
    return EpochBar(leave=False) if sys.stderr.isatty() else EpochLines()


class StepTimes(Callback):
    """A callback for `fit` that measures every training step: forward, backward and update.

    The time to load the batch is not included.

    Example:
        >>> import qmtl
        >>> data = qmtl.data.digits(tasks=["parity"])
        >>> circuit = qmtl.HeadCircuit(data.tasks)
        >>> encoder = qmtl.encoders.MLP(64, out_features=circuit.n_features, seed=0)
        >>> model = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
        >>> times = StepTimes()
        >>> _ = qmtl.fit(model, data, max_epochs=1, progress=False, callbacks=[times])
        >>> len(times.seconds), times.median > 0
        (34, True)
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock."""
        _finish(trainer)
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop the clock."""
        _finish(trainer)
        self.seconds.append(time.perf_counter() - self._started)

    @property
    def median(self) -> float:
        """Median of the seconds per step, so that compilation in the first step does not count.

        It is NaN before any step.
        """
        return statistics.median(self.seconds) if self.seconds else math.nan


def _finish(trainer: pl.Trainer) -> None:
    # GPU work continues after the call that queued it has returned.
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize()
