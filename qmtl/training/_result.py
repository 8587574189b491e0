"""Result: the outcome of a training run, as tables, curves and a page in a notebook."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from matplotlib.axes import Axes

from qmtl._html import MOST_ROWS, counted, facts, panel, table
from qmtl.errors import InvalidInputError, check_rows
from qmtl.model import MultiTaskModel
from qmtl.plotting import (
    COLOURS,
    axes_or_new,
    inline_svg,
    legend_below,
    line_look,
    panels,
    plain,
    style,
)

Metrics = dict[str, dict[str, dict[str, float]]]

# With more tasks, a reader cannot follow the lines, and a thick one shows their median.
MOST_LINES = 12


class History:
    """Rows of metrics stored as columns of numbers, because checkpoints hold all of them."""

    def __init__(self) -> None:
        self.keys: dict[tuple[str, str, str], int] = {}
        self.columns: tuple[array[Any], ...] = (array("q"), array("q"), array("d"))

    def add(self, epoch: int, key: tuple[str, str, str], value: float) -> None:
        place = self.keys.setdefault(key, len(self.keys))
        for column, item in zip(self.columns, (epoch, place, value), strict=True):
            column.append(item)

    def rows(self, first: int = 0) -> list[dict[str, Any]]:
        keys = [dict(zip(("split", "task", "metric"), key, strict=True)) for key in self.keys]
        return [
            {"epoch": epoch + 1, **keys[place], "value": value}
            for epoch, place, value in zip(*(c[first:] for c in self.columns), strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        return {
            "keys": list(self.keys),
            "columns": [torch.from_numpy(np.array(c)) for c in self.columns],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "History":
        history = cls()
        history.keys = {tuple(key): place for place, key in enumerate(state["keys"])}
        for column, values in zip(history.columns, state["columns"], strict=True):
            column.extend(values.tolist())
        return history


@dataclass(frozen=True, repr=False)
class Result:
    """A trained model with its history and metrics.

    Attributes:
        model: the trained model.
        metrics: split → task → metric → value, computed with the kept weights.
        baselines: the same metrics for the best constant prediction.
        history: one row per epoch, split, task and metric, with the keys ``epoch``, ``split``,
            ``task``, ``metric`` and ``value``; epochs count from 1.
        epochs: number of epochs trained.
        best_epoch: the epoch whose weights were kept: the one with the best `monitor`, or the last
            one with ``restore_best=False`` or without any validation label.
        seconds: time spent on training, in all sessions of a run that was resumed.
        checkpoints: folder of the checkpoints, if they were kept.
    """

    model: MultiTaskModel
    metrics: Metrics
    baselines: Metrics
    history: list[dict[str, Any]] = field(repr=False)
    epochs: int
    best_epoch: int
    seconds: float
    checkpoints: Path | None = None

    def __repr__(self) -> str:
        test = self.metrics["test"]
        mains = [(t.name, t.main_metric) for t in self.model.tasks if t.name in test]
        scores = ", ".join(f"{name} {main} {test[name][main]:.4f}" for name, main in mains)
        kept = f"{self.epochs} epochs, kept epoch {self.best_epoch}"
        return f"Result({kept}; test: {scores})"

    def table(self, split: str = "test") -> list[dict[str, Any]]:
        """Return one row per task and metric: the model's value and the constant prediction's."""
        constant = self.baselines[split]
        return [
            {"task": task, "metric": name, "value": value, "baseline": constant[task].get(name)}
            for task, values in self.metrics[split].items()
            for name, value in values.items()
            if name != "loss"
        ]

    def plot(self, metric: str = "loss", ax: Axes | None = None) -> Axes:
        """Plot validation curves of the loss or of a metric, by `qmtl.training.plot_curves`."""
        with style():
            ax = axes_or_new(ax)
            return plot_curves(self.history, ax, metric=metric, kept=self.best_epoch)

    def _repr_html_(self) -> str:
        head = sum(p.numel() for p in self.model.head.parameters())
        encoder = sum(p.numel() for p in self.model.encoder.parameters())
        about = {
            "epochs": f"{self.epochs:,} in {self.seconds:.1f} s",
            "kept": f"epoch {self.best_epoch:,}",
            "parameters": f"encoder {encoder:,}, head {head:,}",
        }
        titles = ("task", "metric", "test", "constant prediction")
        rows = [dict(zip(titles, row.values(), strict=True)) for row in self.table()]
        return panel(
            f"Result: {counted(len(self.model.tasks), 'task')}",
            facts(about),
            table(rows[:MOST_ROWS], len(rows)),
            _loss_curves(self),
        )


def plot_curves(
    history: Sequence[Mapping[str, Any]],
    ax: Axes | None = None,
    *,
    metric: str = "loss",
    split: str = "validation",
    tasks: Sequence[str] | None = None,
    kept: int | None = None,
) -> Axes:
    """Draw one line per task; with more than twelve tasks, thin lines and their median.

    Args:
        history: rows as in `Result.history`.
        ax: axes to draw on; None for those of a new figure.
        metric: ``"loss"`` or a metric's name.
        split: ``"train"`` (its loss only) or ``"validation"``.
        tasks: the tasks to draw; None for all that have the metric.
        kept: the epoch to mark, whose weights were kept.

    Raises:
        InvalidInputError: if no row fits.

    Example:
        >>> from matplotlib.figure import Figure
        >>> row = {"split": "validation", "task": "a", "metric": "loss"}
        >>> history = [row | {"epoch": 1, "value": 0.7}, row | {"epoch": 2, "value": 0.5}]
        >>> ax = plot_curves(history, Figure().subplots(), kept=2)
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('epoch', 'validation loss')
    """
    import pandas as pd
    from matplotlib.ticker import MaxNLocator

    check_rows("history", history, Mapping)
    lines = _lines(history, metric, split, tasks)
    ax = axes_or_new(ax)
    many = len(lines) > MOST_LINES
    for number, (name, points) in enumerate(lines.items()):
        look = {"color": "0.6", "linestyle": "-", "linewidth": 0.6} if many else line_look(number)
        every = max(1, len(points) // 8)
        ax.plot(
            list(points),
            list(points.values()),
            label="_" if many else plain(name),
            markersize=4,
            markevery=(number % every, every),
            **look,
        )
    if many:
        median = pd.DataFrame(list(lines.values())).median().sort_index().dropna()
        label = f"median of {len(lines)} tasks"
        ax.plot(median.index, median, "-", color=COLOURS[0], lw=2.5, label=label)
    if kept is not None:
        ax.axvline(kept, color="0.5", linestyle=":", linewidth=1, label="kept")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title(f"{metric} on the {split} split")
    ax.set_xlabel("epoch")
    ax.set_ylabel(f"{split} {metric}")
    legend_below(ax)
    return ax


def _lines(
    history: Sequence[Mapping[str, Any]], metric: str, split: str, tasks: Sequence[str] | None
) -> dict[str, dict[int, float]]:
    """Return a metric's values by task and epoch; epochs count from 1."""
    lines: dict[str, dict[int, float]] = {} if tasks is None else {name: {} for name in tasks}
    for row in history:
        wanted = tasks is None or row["task"] in lines
        if wanted and (row["split"], row["metric"]) == (split, metric):
            lines.setdefault(row["task"], {})[row["epoch"]] = row["value"]
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        known = sorted({f"{row['split']} {row['metric']}" for row in history})
        raise InvalidInputError(
            f"nothing to draw: the history has no {split} {metric}"
            + ("" if tasks is None else f" of {list(tasks)}")
            + f"; it has {', '.join(known)}"
        )
    return lines


def _loss_curves(result: Result) -> Markup:
    there = {row["split"] for row in result.history if row["metric"] == "loss"}
    splits = [split for split in ("train", "validation") if split in there]
    if not splits:
        return Markup()
    draw = partial(plot_curves, result.history, kept=result.best_epoch)
    figure = panels([partial(draw, split=split) for split in splits], len(splits), (4.4, 2.9))
    return inline_svg(figure, "curves of the loss")
