"""Result: what a training run gives back, as plain tables."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmtl.model import MultiTaskModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Metrics", "Result"]

Metrics = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True, repr=False)
class Result:
    """A trained model with its history and metrics.

    Attributes:
        model: the trained model.
        metrics: split → task → metric → value; metrics of the kept weights.
        baselines: the same for the best constant prediction.
        history: one row per epoch, split, task and metric, with keys ``epoch``, ``split``,
            ``task``, ``metric`` and ``value``; epochs count from 0.
        epochs: epochs trained.
        best_epoch: the epoch whose weights were kept: that of the best validation loss, or the
            last one with ``restore_best=False`` or without any validation label.
        seconds: time spent training.
        checkpoints: folder of the checkpoints, if they were kept.
        best_epochs: (single-task models) each task's own best epoch; `epochs` and `best_epoch` are
            then the largest over tasks, and `seconds` their sum.
    """

    model: MultiTaskModel
    metrics: Metrics
    baselines: Metrics
    history: list[dict[str, Any]] = field(repr=False)
    epochs: int
    best_epoch: int
    seconds: float
    checkpoints: Path | None = None
    best_epochs: dict[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        test = self.metrics["test"]
        mains = [(task.name, task.main_metric) for task in self.model.tasks]
        scores = ", ".join(f"{name} {main} {test[name][main]:.4f}" for name, main in mains)
        kept = f"{self.epochs} epochs, kept epoch {self.best_epoch + 1}"
        return f"Result({kept}; test: {scores})"

    def table(self, split: str = "test") -> list[dict[str, Any]]:
        """One row per task and metric: the model's value and the constant prediction's."""
        rows = []
        for name, values in self.metrics[split].items():
            for metric, value in values.items():
                if metric != "loss":
                    baseline = self.baselines[split][name].get(metric)
                    row = {"task": name, "metric": metric, "value": value, "baseline": baseline}
                    rows.append(row)
        return rows

    def plot(self, metric: str = "loss", ax: "Axes | None" = None) -> "Axes":
        """Validation curves of a metric, one line per task that has it.

        Args:
            metric: ``"loss"`` or a metric's name.
            ax: where to draw; None makes a new figure.

        Raises:
            InvalidInputError: if no task has the metric.
        """
        from qmtl.plotting import axes_or_new, style
        from qmtl.training._curves import plot_curves

        with style():
            kept = None if self.best_epochs else self.best_epoch
            return plot_curves(self.history, axes_or_new(ax), metric=metric, kept=kept)

    def _repr_html_(self) -> str:
        from qmtl.training._display import result_html

        return result_html(self)
