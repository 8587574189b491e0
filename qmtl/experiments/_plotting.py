"""The look of heads in plots: every head keeps its own. The rest is in `qmtl.plotting`."""

from typing import Any

from qmtl.plotting import COLOURS, MARKERS, save_figure, style

__all__ = ["COLOURS", "MARKERS", "look", "save_figure", "style"]

# Heads keep their look in every plot.
HEADS = (
    "quantum", "linear", "local-cone", "local-register", "low-rank", "fixed-width", "single-task",
    "vqc-per-task", "shared-vqc", "quantum-no-block", "quantum-frozen", "quantum-no-entangler",
    "linear-probe",
)  # fmt: skip


def look(head: str) -> dict[str, Any]:
    """Colour and marker of a head: the same in every plot, no two known heads alike.

    Example:
        >>> look("quantum")
        {'color': '#0072B2', 'marker': 'o'}
    """
    number = HEADS.index(head) if head in HEADS else sum(map(ord, head))
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
    }
