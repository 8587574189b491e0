"""The whole of ``qmtl scaling``: measure, write tables and plots, and say what was found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmtl._io import as_csv, write_text
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.experiments._fits import power_law
from qmtl.experiments._scaling import (
    DESIGNS,
    HEADS,
    CircuitSize,
    HeadCount,
    circuit_size,
    count_head,
    crossover,
    fitted_exponents,
)
from qmtl.experiments._scaling_accuracy import (
    AccuracyCell,
    AccuracyPoint,
    AccuracySettings,
    run_cells,
    summarise,
)
from qmtl.experiments._scaling_cost import TIMED_HEADS, CostPoint, StepCost, measure_cost

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PARTS", "ScalingSettings", "run_scaling"]

# Below, the fixed cost of a step is most of its time.
COST_FIT_FROM = 128
NAMES = {"quantum": "the quantum head", "rival": "this head", "neither": "neither, they are equal"}
PARTS = ("parameters", "cost", "accuracy")
Say = Callable[[str], None]


@dataclass(frozen=True)
class ScalingSettings:
    """What is measured.

    Attributes:
        tasks: numbers of binary tasks.
        parts: of `PARTS`.
        data: folder of real data for the accuracy, see `scaling_data`; None for digits.
        accuracy: budget of the accuracy part.
        batch_size: of the timed step.
        threads: of the timed step.
        jobs: processes that train for the accuracy part; the timed steps run one at a time.
    """

    tasks: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    parts: tuple[str, ...] = PARTS
    data: str | None = None
    accuracy: AccuracySettings = field(default_factory=AccuracySettings)
    batch_size: int = 32
    threads: int = 1
    jobs: int = 1

    def __post_init__(self) -> None:
        if not self.tasks or any(n < 1 for n in self.tasks):
            raise InvalidInputError(
                f"tasks: expected one or more integers >= 1, got {list(self.tasks)}"
            )
        for part in self.parts:
            if part not in PARTS:
                raise unknown_name("part", part, PARTS)


def run_scaling(settings: ScalingSettings, out: Path, say: Say = print) -> None:
    """Measure, write CSV files and plots into a folder, and report in lines of text.

    Args:
        settings: what to measure.
        out: an existing folder; tables and plots of an earlier run in it are replaced, and
            training runs for the accuracy, which lie in ``cells``, are not done again.
        say: takes the lines.
    """
    tasks = sorted(set(settings.tasks))
    if "parameters" in settings.parts:
        counts = [count_head(head, n) for head in HEADS for n in tasks]
        circuits = [circuit_size(rule, n) for rule in DESIGNS for n in tasks]
        _write_table(out / "parameters.csv", counts)
        _write_table(out / "circuits.csv", circuits)
        _draw_parameters(counts, out)
        _report_parameters(counts, circuits, say)
    if "cost" in settings.parts:
        costs = [_measured(settings, head, n, say) for head in TIMED_HEADS for n in tasks]
        _write_table(out / "cost.csv", costs)
        _draw_cost(costs, out)
        _report_cost(costs, say)
    if "accuracy" in settings.parts:
        cells = run_cells(
            settings.accuracy,
            tasks,
            settings.data,
            jobs=settings.jobs,
            store=out / "cells",
            report=lambda cell, done, all_: say(_progress(cell, done, all_)),
        )
        points = summarise(cells)
        _write_table(out / "accuracy_runs.csv", cells)
        _write_table(out / "accuracy.csv", points)
        _draw_accuracy(points, out)
        _report_accuracy(points, settings.accuracy, say)


def _progress(cell: AccuracyCell, done: int, all_: int) -> str:
    return (
        f"{done:3d} of {all_}: T = {cell.tasks}, {cell.head}, seed {cell.seed}, head learning rate "
        f"{cell.head_learning_rate}: validation {100 * cell.validation:.1f}"
    )


def _measured(settings: ScalingSettings, head: str, n: int, say: Say) -> StepCost:
    cost = measure_cost(CostPoint(head, n, settings.batch_size, settings.threads))
    say(f"{head:17s} T = {n:5d}: step {cost.step_ms:9.2f} ms, peak {cost.peak_mb:7.1f} MB")
    return cost


def _report_parameters(
    counts: Sequence[HeadCount], circuits: Sequence[CircuitSize], say: Say
) -> None:
    wrong = [count for count in counts if count.parameters != count.closed_form]
    say(f"{len(counts)} heads built; closed form and count differ for {len(wrong)}")
    fits = fitted_exponents(counts)
    for head in HEADS:
        fit = fits.get((head.rule, head.name))
        text = f"{head.rule:8s} {head.name:15s} {head.formula:10s}"
        if fit is not None:
            text += f" exponent {fit}"
        if head.name != "quantum":
            found = crossover(head)
            text += f"; fewer from T = {found.tasks}: {NAMES[found.smaller]}"
        say(text)
    for size in circuits:
        if size.tasks == max(circuit.tasks for circuit in circuits):
            each = f"{size.circuits} circuits, each of " if size.circuits > 1 else ""
            say(
                f"{size.rule} circuit at T = {size.tasks}: {each}{size.wires} wires, depth "
                f"{size.depth}, {size.two_qubit_gates} two-qubit gates in {size.two_qubit_depth} "
                f"layers, cones of {size.cone_wires} wires"
            )


def _report_cost(costs: Sequence[StepCost], say: Say) -> None:
    for head in dict.fromkeys(cost.head for cost in costs):
        own = [cost for cost in costs if cost.head == head and cost.tasks >= COST_FIT_FROM]
        if len(own) > 1:
            fit = power_law([cost.tasks for cost in own], [cost.step_ms for cost in own])
            say(f"{head:17s} step time from T = {COST_FIT_FROM}: exponent {fit}")


def _report_accuracy(points: Sequence[AccuracyPoint], settings: AccuracySettings, say: Say) -> None:
    say(
        f"{points[0].data}: test {points[0].metric} × 100, mean over tasks ± 95% interval over "
        f"{settings.seeds} seeds; every head tried head learning rates "
        f"{', '.join(map(str, settings.head_learning_rates))}, chosen on validation"
    )
    for point in points:
        ahead = point.ahead_of_linear
        say(
            f"T = {point.tasks:3d} {point.head:12s} {100 * point.test.mean:5.1f} ± "
            f"{100 * point.test.half_width:4.1f}, from linear {100 * ahead.mean:+5.1f} ± "
            f"{100 * ahead.half_width:4.1f}, {point.head_parameters} head parameters"
        )


def _write_table(path: Path, rows: Sequence[Any]) -> None:
    write_text(path, as_csv(row.as_row() for row in rows))


def _draw_parameters(counts: Sequence[HeadCount], out: Path) -> None:
    from qmtl.experiments._scaling_plots import plot_parameters

    draw = {rule: lambda ax, rule=rule: plot_parameters(counts, rule, ax) for rule in DESIGNS}
    _save(out / "parameters.png", draw)


def _draw_cost(costs: Sequence[StepCost], out: Path) -> None:
    from qmtl.experiments._scaling_plots import plot_memory, plot_step_time

    _save(
        out / "cost.png",
        {"time": lambda ax: plot_step_time(costs, ax), "memory": lambda ax: plot_memory(costs, ax)},
    )


def _draw_accuracy(points: Sequence[AccuracyPoint], out: Path) -> None:
    from qmtl.experiments._scaling_plots import plot_accuracy, plot_accuracy_difference

    draw = {"scores": lambda ax: plot_accuracy(points, ax)}
    if {"linear"} < {point.head for point in points}:
        draw["difference"] = lambda ax: plot_accuracy_difference(points, ax)
    _save(out / "accuracy.png", draw)


def _save(path: Path, draw: Mapping[str, Callable[["Axes"], "Axes"]]) -> None:
    """One figure with an axes per function, side by side."""
    from matplotlib.figure import Figure

    from qmtl.experiments._plotting import save_figure, style

    with style():
        figure = Figure(figsize=(5.4 * len(draw), 4.4))
        for ax, function in zip(
            figure.subplots(1, len(draw), squeeze=False)[0], draw.values(), strict=True
        ):
            function(ax)
        save_figure(figure, path)
