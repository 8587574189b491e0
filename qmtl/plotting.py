"""Shared by all plots: style, look of lines, number axes, panels, files and inline SVG."""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from qmtl._io import write_bytes
from qmtl.errors import InvalidInputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "INK",
    "LINES",
    "MARKERS",
    "axes_or_new",
    "count_axis",
    "inline_svg",
    "legend_below",
    "line_look",
    "number_axis",
    "panels",
    "plain",
    "save_figure",
    "style",
]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#222222", "#888888")
"""Colours of ``plots.mplstyle``, for plots that do not follow the order of its colour cycle."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
"""Markers that tell curves apart without colour."""
LINES = ("-", "--", "-.", ":")
"""Line styles that tell groups of curves apart."""
INK = "#222222"
"""Colour of text and axes; a dark page replaces it by its own."""


@contextmanager
def style() -> Iterator[None]:
    """Give plots the package's style; afterwards the caller's settings return.

    It is the style file ``qmtl/plots.mplstyle``; ``matplotlib.style.use("qmtl.plots")`` applies it
    permanently.

    Example:
        >>> import matplotlib
        >>> with style():
        ...     matplotlib.rcParams["axes.spines.top"]
        False
    """
    import matplotlib.style

    with matplotlib.style.context("qmtl.plots"):
        yield


def line_look(number: int) -> dict[str, Any]:
    """Return colour, marker and dashes of a line by number; the first 24 are all different.

    Example:
        >>> line_look(1)
        {'color': '#D55E00', 'marker': 's', 'linestyle': '--'}
    """
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number % len(LINES)],
    }


def plain(text: str, most: int = 36) -> str:
    r"""Escape a text so that matplotlib shows it without mathematics and keeps it in legends.

    A text of more than `most` characters is cut off.

    Example:
        >>> print(plain("_in $ or in €"))
         _in \$ or in €
        >>> plain("a long name", 7)
        'a long…'
    """
    if len(text) > most:
        text = f"{text[: most - 1]}…"
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def number_axis(ax: "Axes", ticks: Sequence[int], *, log: bool = True) -> None:
    """Give a horizontal axis ticks at some whole numbers, on a log (base 2) or linear scale."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    if log:
        ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(sorted(set(ticks))))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    ax.tick_params(axis="x", labelsize=9)


def count_axis(ax: "Axes", which: str = "y") -> None:
    """Make the axis x or y logarithmic, with ticks at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set(**{f"{which}scale": "log"})
    axis = {"x": ax.xaxis, "y": ax.yaxis}[which]
    low, high = axis.get_view_interval()
    # Over many decades, ticks at 2 and 5 would be too close.
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def legend_below(ax: "Axes", *, fontsize: float = 8) -> None:
    """Put a legend below the axes, where it hides nothing, in as many columns as fit."""
    from matplotlib.transforms import ScaledTranslation

    labels = ax.get_legend_handles_labels()[1]
    if not labels:
        return
    place = ax.get_subplotspec()
    figure: Any = ax.get_figure()
    width = 72 * figure.get_figwidth() / (1 if place is None else place.get_gridspec().ncols)
    # A letter's width is about 0.6 of its height; the line before the text takes the rest.
    columns = int(width // (0.6 * fontsize * max(map(len, labels)) + 5.5 * fontsize))
    ax.legend(
        fontsize=fontsize,
        ncols=min(max(columns, 1), len(labels)),
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        # Below the axis's ticks and label, whatever the height of the axes.
        bbox_transform=ax.transAxes + ScaledTranslation(0, -34 / 72, figure.dpi_scale_trans),
        handlelength=2.5,
        columnspacing=1.2,
    )


def axes_or_new(ax: "Axes | None") -> "Axes":
    """Return the given axes, or those of a new pyplot figure, which a notebook shows by itself."""
    if ax is not None:
        from matplotlib.axes import Axes

        if not isinstance(ax, Axes):
            raise InvalidInputError(f"ax must be axes of matplotlib, got {type(ax).__name__}")
        return ax
    from matplotlib import pyplot as plt

    new: Axes
    _, new = plt.subplots(figsize=(6, 4), layout="constrained")
    return new


def panels(
    draw: Sequence[Callable[["Axes"], object]],
    columns: int,
    size: tuple[float, float],
    **options: Any,
) -> "Figure":
    """Return a figure in which each function draws on axes of its own, in rows of some columns.

    The size is that of a panel, in inches; options are those of `Figure.subplots`.
    """
    from matplotlib.figure import Figure

    rows = -(-len(draw) // columns)
    with style():
        figure = Figure(figsize=(size[0] * columns, size[1] * rows))
        axes = figure.subplots(rows, columns, squeeze=False, **options).flatten()
        for function, ax in zip(draw, axes, strict=False):
            function(ax)
        for ax in axes[len(draw) :]:
            ax.set_visible(False)
    return figure


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Write a figure as PNG, SVG or PDF (by the suffix), atomically.

    The figure is that of the axes that a plot function returned, ``ax.figure``. To open no window,
    create it with ``matplotlib.figure.Figure``; pyplot would keep it.

    Example:
        >>> from matplotlib.figure import Figure
        >>> save_figure(Figure(), "plot.doc")
        Traceback (most recent call last):
        ...
        qmtl.errors.InvalidInputError: a figure is saved as .png, .svg or .pdf, got plot.doc
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise InvalidInputError(f"a figure is saved as .png, .svg or .pdf, got {path}")
    # A date would make equal plots different files.
    date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    write_bytes(path, _saved(figure, format=kind, metadata=date))


def inline_svg(figure: "Figure", label: str) -> Markup:
    """Return a figure as SVG for use inside a page: transparent, with the page's text colour.

    The figure is drawn within `style`; the label describes it to those who cannot see it.
    """
    with warnings.catch_warnings():
        # The page's fonts draw the text, and have more characters than matplotlib's.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        options: dict[str, Any] = {"transparent": True, "metadata": {"Date": None}}
        text = _saved(figure, format="svg", **options).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, count=1, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    own = sha256(text.encode()).hexdigest()[:8]
    # Change tags only: the text between them is the user's.
    text = re.sub(r"<[^>]+>", lambda tag: _for_page(tag[0], used, own), text)
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))


def _saved(figure: "Figure", **options: Any) -> bytes:
    """Return a figure as the content of a file."""
    # Some settings only apply when a figure is written, such as SVG text that stays text.
    with style():
        for _ in range(2):
            before, content = _ticks(figure), io.BytesIO()
            figure.savefig(content, **options)
            # Writing computes the layout; other ticks need another one.
            if _ticks(figure) == before:
                break
    return content.getvalue()


def _ticks(figure: "Figure") -> list[list[float]]:
    axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    return [list(axis.get_majorticklocs()) for axis in axes]


def _for_page(tag: str, used: set[str], own: str) -> str:
    """Remove attributes that a page does not need from an SVG tag, and make ids unique."""
    if tag.startswith("<svg"):
        return re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", tag)
    tag = re.sub(rf"(fill|stroke): {INK}", r"\1: currentColor", tag)
    tag = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", "'DejaVu Sans', Verdana, sans-serif", tag)
    tag = re.sub(r' id="([^"]+)"', lambda m: f' id="{own}{m[1]}"' if m[1] in used else "", tag)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{own}", tag)
