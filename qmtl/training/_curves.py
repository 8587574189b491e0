"""Curves of training: a metric of every task against epochs."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qmtl.errors import InvalidInputError
from qmtl.plotting import COLOURS, line_look, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_curves"]

# Lines that a reader can follow; with more tasks, their median stands out instead.
MOST_LINES = 12


def plot_curves(
    history: Sequence[Mapping[str, Any]],
    ax: "Axes",
    *,
    metric: str = "loss",
    split: str = "validation",
    tasks: Sequence[str] | None = None,
    kept: int | None = None,
) -> "Axes":
    """One line per task; of more than twelve tasks, thin lines and their median.

    Args:
        history: rows with ``epoch`` (from 0), ``split``, ``task``, ``metric`` and ``value``, as in
            `Result.history`.
        ax: where to draw.
        metric: ``"loss"`` or a metric's name.
        split: ``"train"`` (its loss only) or ``"validation"``.
        tasks: those to draw; None for all that have the metric.
        kept: the epoch whose weights were kept, to be marked.

    Raises:
        InvalidInputError: if no row fits.

    Example:
        >>> from matplotlib.figure import Figure
        >>> row = {"split": "validation", "task": "a", "metric": "loss"}
        >>> history = [row | {"epoch": 0, "value": 0.7}, row | {"epoch": 1, "value": 0.5}]
        >>> ax = plot_curves(history, Figure().subplots(), kept=1)
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('epoch', 'validation loss')
    """
    from matplotlib.ticker import MaxNLocator

    lines = _lines(history, metric, split, tasks)
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
        median = _median(list(lines.values()))
        label = f"median of {len(lines)} tasks"
        ax.plot(list(median), list(median.values()), "-", color=COLOURS[0], lw=2.5, label=label)
    if kept is not None:
        ax.axvline(kept + 1, color="0.5", linestyle=":", linewidth=1, label="kept")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title(f"{metric} on the {split} split")
    ax.set_xlabel("epoch")
    ax.set_ylabel(f"{split} {metric}")
    # Below the axes, where it hides no line.
    columns = 3 if max(map(len, lines)) <= 14 else 2
    ax.legend(
        fontsize=8, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.2), handlelength=3
    )
    return ax


def _lines(
    history: Sequence[Mapping[str, Any]], metric: str, split: str, tasks: Sequence[str] | None
) -> dict[str, dict[int, float]]:
    """Task to epoch (from 1) to value."""
    lines: dict[str, dict[int, float]] = {} if tasks is None else {name: {} for name in tasks}
    for row in history:
        wanted = tasks is None or row["task"] in lines
        if wanted and (row["split"], row["metric"]) == (split, metric):
            lines.setdefault(row["task"], {})[row["epoch"] + 1] = row["value"]
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        known = sorted({f"{row['split']} {row['metric']}" for row in history})
        raise InvalidInputError(
            f"nothing to draw: the history has no {split} {metric}"
            + ("" if tasks is None else f" of {list(tasks)}")
            + f"; it has {', '.join(known) or 'no rows'}"
        )
    return lines


def _median(lines: Sequence[Mapping[int, float]]) -> dict[int, float]:
    import numpy as np

    result = {}
    for epoch in sorted({epoch for points in lines for epoch in points}):
        values = [points[epoch] for points in lines if not math.isnan(points.get(epoch, math.nan))]
        if values:
            result[epoch] = float(np.median(values))
    return result
