"""The look of all plots: one style, one palette that colour-blind readers can tell apart."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmtl.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "MARKERS", "STYLE", "look", "save_figure", "style"]

# Okabe and Ito's palette without its yellow, which is too light for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#888888")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.dpi": 150,
    "font.size": 10,
    "grid.color": "0.9",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "qmtl",
}
# Heads keep their look in every plot.
HEADS = (
    "quantum", "linear", "local-cone", "local-register", "low-rank", "fixed-width", "single-task",
    "vqc-per-task", "shared-vqc", "quantum-no-block", "quantum-frozen", "quantum-no-entangler",
    "linear-probe",
)  # fmt: skip


@contextmanager
def style() -> Iterator[None]:
    """Everything drawn within has the package's look; settings of the caller come back after.

    Example:
        >>> import matplotlib
        >>> with style():
        ...     matplotlib.rcParams["axes.spines.top"]
        False
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


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


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG or SVG, by the name's end, whole or not at all.

    Make it with ``matplotlib.figure.Figure``: pyplot would keep it open and ask for a display.
    """
    content = io.BytesIO()
    kind = path.suffix.removeprefix(".")
    # A date would make a new file of the same plot.
    figure.savefig(content, format=kind, metadata={"Date": None} if kind == "svg" else None)
    write_bytes(path, content.getvalue())
