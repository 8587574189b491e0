"""``qmtl trainability``: sample, write tables and plots, and print the results."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmtl._io import as_csv, write_text
from qmtl.experiments._statistics import Fit, power_law
from qmtl.experiments._sweep import CellStore, Workers, results_of, run_cells
from qmtl.experiments._trainability import (
    INITIALS,
    READOUTS,
    SHALLOW,
    Case,
    GradientVariance,
    TrainabilitySettings,
    VarianceCell,
    cases,
    decay_rates,
)
from qmtl.plotting import legend_below, line_look, number_axis, save_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_variance", "run_trainability"]

Say = Callable[[str], None]
Wanted = Callable[[Case], bool]
# Title, axis label, what varies, and which cases: one column of a figure.
Column = tuple[str, str, Callable[[GradientVariance], int], Wanted]
# On a ring of fewer registers of two wires, the default cone of six wires is cut short.
WHOLE_CONE = 3
RATE_KEYS = ("readout", "initial", "entangler", "block_layers", "weight")
READOUT_LABELS = {
    "local": "local: Z on one wire",
    "global-string": "global: Z⊗…⊗Z",
    "global-projector": "global: |0…0⟩⟨0…0|",
}
DRAWN = {"uniform": "weights and angles uniform", "default": "default initial weights"}


def run_trainability(
    settings: TrainabilitySettings, out: Path, workers: Workers | None = None, say: Say = print
) -> None:
    """Sample every circuit, write CSV files and plots into a folder, and report in lines of text.

    Args:
        settings: what to sample.
        out: an existing folder; files of an earlier run in it are replaced, and circuits whose
            samples lie in ``cells`` are not sampled again.
        workers: where cells run; None for one after another.
        say: takes the lines.

    Raises:
        QmtlError: a circuit could not be sampled.
    """
    cells = [VarianceCell(case, settings.samples, settings.seed) for case in cases(settings)]
    sampled = results_of(cells, run_cells(cells, CellStore(out / "cells"), workers))
    found = [one for gradients in sampled for one in gradients.found]
    write_text(out / "variance.csv", as_csv(one.as_row() for one in found))
    rates = decay_rates(found)
    write_text(out / "rates.csv", as_csv(_rate_row(key, fit) for key, fit in rates.items()))
    blocks = [one for one in found if one.weight == "block"]
    for name, columns in _figures(settings).items():
        save_figure(_draw(blocks, columns), out / f"{name}.png")
    _report(found, rates, settings, say)


def _rate_row(key: tuple[Any, ...], fit: Fit) -> dict[str, Any]:
    numbers = {"rate_per_wire": fit.slope, "error": fit.error, "points": fit.n}
    return dict(zip(RATE_KEYS, key, strict=True)) | numbers


def _report(
    found: Sequence[GradientVariance],
    rates: dict[tuple[str, str, str, int, str], Fit],
    settings: TrainabilitySettings,
    say: Say,
) -> None:
    say(
        f"variance of a block weight's gradient over {settings.samples} draws, as 2^(rate · "
        f"wires): a rate of -1 halves it with each wire"
    )
    for (readout, initial, entangler, layers, weight), fit in rates.items():
        if weight == "block":
            say(f"{initial:8s} {readout:17s} {layers:3d} layers {entangler:11s} rate {fit}")
    for initial in INITIALS:
        for readout in ("local", "global-string"):
            own = [
                one
                for one in found
                if one.weight == "block"
                and one.case.tasks >= WHOLE_CONE
                and (one.case.study, one.case.initial, one.case.readout)
                == ("tasks", initial, readout)
            ]
            if len(own) > 1:
                fit = power_law([one.case.tasks for one in own], [one.variance for one in own])
                say(
                    f"{initial:8s} {readout:17s} on a register of 2 wires, T = "
                    f"{own[0].case.tasks} to {own[-1].case.tasks}: variance as T^({fit})"
                )


def _figures(settings: TrainabilitySettings) -> dict[str, list[Column]]:
    deep = max(settings.layers)

    def wires(one: GradientVariance) -> int:
        return one.case.wires

    def block(one: GradientVariance) -> int:
        return one.case.block_layers

    def encoding(one: GradientVariance) -> int:
        return one.case.encoding_layers

    def tasks(one: GradientVariance) -> int:
        return one.case.tasks

    def of(study: str, entangler: str, layers: int | None = None) -> Wanted:
        return lambda case: (
            (case.study, case.entangler) == (study, entangler)
            and layers in (None, case.block_layers)
        )

    middle = "block layers"
    return {
        "wires": [
            (f"block of {SHALLOW} layers, CZ ring", "wires n", wires, of("wires", "cz_ring", 2)),
            (f"{deep} layers, CZ ring", "wires n", wires, of("wires", "cz_ring", deep)),
            (f"{deep} layers, all to all", "wires n", wires, of("wires", "all_to_all", deep)),
        ],
        "layers": [
            ("block, CZ ring", "block layers", block, of(middle, "cz_ring")),
            ("block, all to all", "block layers", block, of(middle, "all_to_all")),
            ("encoding", "encoding layers", encoding, of("encoding layers", "cz_ring")),
        ],
        "tasks": [("read on a register of 2 wires", "tasks T", tasks, of("tasks", "cz_ring"))],
    }


def _draw(found: Sequence[GradientVariance], columns: Sequence[Column]) -> "Figure":
    """A row of axes per initial distribution, or per column if there is only one."""
    from matplotlib.figure import Figure

    with style():
        n = len(columns)
        shape = (len(INITIALS), n) if n > 1 else (1, len(INITIALS))
        figure = Figure(figsize=(4.3 * shape[1], 3.5 * shape[0]))
        axes = figure.subplots(*shape, squeeze=False, sharey=True)
        panels = [(initial, column) for initial in INITIALS for column in columns]
        for ax, (initial, (title, xlabel, against, wanted)) in zip(axes.flat, panels, strict=True):
            own = [one for one in found if one.case.initial == initial and wanted(one.case)]
            whole = f"{title}\n{DRAWN[initial]}"
            plot_variance(own, ax, against=against, xlabel=xlabel, title=whole)
        for ax in axes[:, 1:].flat:
            ax.set_ylabel("")
    return figure


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
        label = READOUT_LABELS[readout]
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
    ticks = sorted({against(one) for one in found})
    number_axis(ax, ticks, log=xlabel != "wires n")
    ax.set_xlabel(xlabel)
    ax.set_ylabel("variance of the gradient (1/rad²)")
    ax.set_title(title, fontsize=10)
    legend_below(ax, fontsize=7.5)
    return ax
