"""How long training steps take, measured while a model trains."""

import math
import statistics
import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

__all__ = ["StepTimes"]


class StepTimes(Callback):
    """A callback for `fit` that measures every training step: forward, backward and update.

    The loading of the batch is not counted.

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
        """Seconds per step, the median, so that compilation in the first step does not count.

        NaN before any step.
        """
        return statistics.median(self.seconds) if self.seconds else math.nan


def _finish(trainer: pl.Trainer) -> None:
    # Work on a GPU goes on after the call that queued it.
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize()
