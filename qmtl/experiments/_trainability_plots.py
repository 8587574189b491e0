"""Plots of trainability: gradient variance against wires, layers and tasks."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qmtl.experiments._trainability import READOUTS, GradientVariance, decay_rates
from qmtl.plotting import line_look, number_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LABELS", "plot_variance"]

LABELS = {
    "local": "local: Z on one wire",
    "global-string": "global: Z⊗…⊗Z",
    "global-projector": "global: |0…0⟩⟨0…0|",
}


def plot_variance(
    found: Sequence[GradientVariance],
    ax: "Axes",
    *,
    against: Callable[[GradientVariance], int],
    xlabel: str,
    title: str,
) -> "Axes":
    """One line per readout of the variances given, with standard errors, on a log scale.

    Args:
        found: variances of one weight that differ in readout and in one number.
        ax: where to draw.
        against: that number.
        xlabel: its name; for wires, the axis is linear and the legend has the decay rates.
        title: of the axes.
    """
    for readout in READOUTS:
        own = [one for one in found if one.case.readout == readout and one.variance > 0]
        if not own:
            continue
        number = READOUTS.index(readout)
        label = LABELS[readout]
        for fit in decay_rates(own).values():
            label += f" (2^({fit.slope:.2f} n))"
        ax.errorbar(
            [against(one) for one in own],
            [one.variance for one in own],
            # A log axis has no room for a bar that reaches zero.
            yerr=[min(2 * one.error, 0.9 * one.variance) for one in own],
            label=label,
            markersize=4,
            capsize=2,
            elinewidth=0.8,
            **line_look(number),
        )
    ax.set_yscale("log", base=2)
    # Room for the legend.
    ax.margins(y=0.25)
    ticks = sorted({against(one) for one in found})
    number_axis(ax, ticks, log=xlabel != "wires n")
    ax.set_xlabel(xlabel)
    ax.set_ylabel("variance of the gradient (1/rad²)")
    ax.set_title(title, fontsize=10)
    ax.legend(fontsize=7.5)
    return ax
