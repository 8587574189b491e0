"""Plots of robustness: a trained model, and heads of many shapes, under noise."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qmtl.experiments._robustness import NONE, HeadRobustness, UnderNoise
from qmtl.plotting import COLOURS, MARKERS, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_signal", "plot_under_noise"]


def plot_under_noise(found: Sequence[UnderNoise], task: str, metric: str, ax: "Axes") -> "Axes":
    """A task's metric against the strength of the noise, and what extrapolation to none gives.

    Args:
        found: what `evaluate_under_noise` returned.
        task: its name.
        metric: one of its metrics, or ``"deviation"``.
        ax: where to draw.

    Example:
        >>> from matplotlib.figure import Figure
        >>> found = [UnderNoise(s, "none", {"a": {"f1": 1 - s / 9}}) for s in (0, 1, 2)]
        >>> plot_under_noise(found, "a", "f1", Figure().subplots()).get_ylabel()
        'f1'
    """
    plain_ones = sorted((one for one in found if one.method == NONE), key=lambda one: one.scale)
    scales = [one.scale for one in plain_ones]
    values = [one.metrics[task][metric] for one in plain_ones]
    ax.plot(scales, values, marker="o", color=COLOURS[0], label="as measured")
    mitigated = [one for one in found if one.method != NONE]
    for number, one in enumerate(mitigated, start=1):
        (point,) = ax.plot(0, one.metrics[task][metric], label=f"{one.method} extrapolation")
        point.set(marker=MARKERS[number], color=COLOURS[number], linestyle="none")
    if mitigated:
        ax.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    ax.set_title(plain(task))
    ax.set_xlabel("strength of the noise (×)")
    ax.set_ylabel(metric)
    return ax


def plot_signal(found: Sequence[HeadRobustness], varied: str, ax: "Axes") -> "Axes":
    """The share of the signal that noise leaves of heads that differ in one number.

    Args:
        found: what `study` returned.
        varied: that number; other entries are left out.
        ax: where to draw.

    Example:
        >>> from matplotlib.figure import Figure
        >>> found = [HeadRobustness("tasks", n, 0.1, 0.9, 2) for n in (2, 4)]
        >>> plot_signal(found, "tasks", Figure().subplots()).get_xlabel()
        'tasks'
    """
    own = [one for one in found if one.varied == varied]
    # Values are few and far apart: as words, at even distances.
    ax.plot([str(one.value) for one in own], [one.signal for one in own], marker="o")
    ax.set_xlabel(varied)
    ax.set_ylabel("share of the signal left")
    return ax
