"""The whole of ``qmtl trainability``: sample, write tables and plots, and say what was found."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmtl._io import as_csv, write_text
from qmtl.experiments._fits import Fit, power_law
from qmtl.experiments._trainability import GradientVariance, decay_rates, gradient_variance
from qmtl.experiments._trainability_cases import (
    INITIALS,
    SHALLOW,
    Case,
    TrainabilitySettings,
    cases,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["run_trainability"]

Say = Callable[[str], None]
Wanted = Callable[[Case], bool]
# Title, axis label, what varies, and which cases: one column of a figure.
Column = tuple[str, str, Callable[[GradientVariance], int], Wanted]
# On a ring of fewer registers of two wires, the default cone of six wires is cut short.
WHOLE_CONE = 3
RATE_KEYS = ("readout", "initial", "entangler", "block_layers", "weight")
DRAWN = {"uniform": "weights and angles uniform", "default": "default initial weights"}


def run_trainability(settings: TrainabilitySettings, out: Path, say: Say = print) -> None:
    """Sample every circuit, write CSV files and plots into a folder, and report in lines of text.

    Args:
        settings: what to sample.
        out: an existing folder; files of an earlier run in it are replaced.
        say: takes the lines.
    """
    found = [
        one
        for case in cases(settings)
        for one in gradient_variance(case, samples=settings.samples, seed=settings.seed)
    ]
    write_text(out / "variance.csv", as_csv(one.as_row() for one in found))
    rates = decay_rates(found)
    write_text(out / "rates.csv", as_csv(_rate_row(key, fit) for key, fit in rates.items()))
    blocks = [one for one in found if one.weight == "block"]
    for name, columns in _figures(settings).items():
        _save(_draw(blocks, columns), out / f"{name}.png")
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

    from qmtl.experiments._trainability_plots import plot_variance
    from qmtl.plotting import style

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


def _save(figure: "Figure", path: Path) -> None:
    from qmtl.plotting import save_figure, style

    with style():
        save_figure(figure, path)
