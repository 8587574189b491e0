"""Plots of what a quantum device measured."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qmtl.errors import InvalidInputError
from qmtl.plotting import line_look, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_measured"]

MOST_TASKS = 12


def plot_measured(rows: Sequence[Mapping[str, Any]], ax: "Axes") -> "Axes":
    """Measured values against those predicted under the device's noise, with standard errors.

    Args:
        rows: with keys ``task``, ``measured``, ``predicted`` and ``standard_error`` (which may be
            None), as in the table of a hardware run. Tasks after the twelfth share one look.
        ax: where to draw.

    Raises:
        InvalidInputError: for no row.

    Example:
        >>> from matplotlib.figure import Figure
        >>> row = {"task": "a", "measured": 0.48, "predicted": 0.5, "standard_error": 0.02}
        >>> plot_measured([row], Figure().subplots()).get_xlabel()
        'predicted ⟨Z⟩ or probability'
    """
    if not rows:
        raise InvalidInputError("nothing to draw: no measured value")
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    named, others = tasks[:MOST_TASKS], tasks[MOST_TASKS:]
    groups = {name: {name} for name in named} | ({"other tasks": set(others)} if others else {})
    for number, (name, members) in enumerate(groups.items()):
        own = [row for row in rows if row["task"] in members]
        ax.errorbar(
            [row["predicted"] for row in own],
            [row["measured"] for row in own],
            yerr=[row.get("standard_error") or 0 for row in own],
            label=plain(name),
            markersize=4,
            elinewidth=0.8,
            **line_look(number) | {"linestyle": "none"},
        )
    values = [row[key] for row in rows for key in ("measured", "predicted")]
    ends = [min(values), max(values)]
    ax.plot(ends, ends, color="0.5", linestyle=":", linewidth=0.8)
    ax.set_xlabel("predicted ⟨Z⟩ or probability")
    ax.set_ylabel("measured (± standard error)")
    ax.legend(fontsize=7)
    return ax
