"""``qmtl scaling``: measure, write tables and plots, and print the results."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmtl._io import as_csv, write_text
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.experiments._plots import (
    plot_accuracy,
    plot_accuracy_difference,
    plot_memory,
    plot_parameters,
    plot_step_time,
)
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
    AccuracyPoint,
    AccuracySettings,
    measure_accuracy,
    summarise,
)
from qmtl.experiments._scaling_cost import TIMED_HEADS, CostPoint, StepCost
from qmtl.experiments._statistics import power_law
from qmtl.experiments._sweep import Cell, Failure, results_of, run_cells
from qmtl.plotting import save_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PARTS", "ScalingSettings", "run_scaling"]

# With fewer tasks, the fixed cost of a step is most of its time.
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

    Raises:
        QmtlError: a step could not be timed, or a training run failed.
    """
    tasks = sorted(set(settings.tasks))
    if "parameters" in settings.parts:
        counts = [count_head(head, n) for head in HEADS for n in tasks]
        circuits = [circuit_size(rule, n) for rule in DESIGNS for n in tasks]
        _write_table(out / "parameters.csv", map(asdict, counts))
        _write_table(out / "circuits.csv", map(asdict, circuits))
        by_rule = [partial(plot_parameters, counts, rule) for rule in DESIGNS]
        _save(out / "parameters.png", by_rule)
        _report_parameters(counts, circuits, say)
    if "cost" in settings.parts:
        points = [
            CostPoint(head, n, settings.batch_size, settings.threads)
            for head in TIMED_HEADS
            for n in tasks
        ]
        # One at a time, and never from the store: times depend on the machine's state.
        costs = results_of(points, run_cells(points, None, None, partial(_say_cost, say)))
        _write_table(out / "cost.csv", map(asdict, costs))
        _save(out / "cost.png", [partial(plot_step_time, costs), partial(plot_memory, costs)])
        _report_cost(costs, say)
    if "accuracy" in settings.parts:
        found = measure_accuracy(
            settings.accuracy,
            tasks,
            settings.data,
            jobs=settings.jobs,
            store=out / "cells",
            report=partial(_say_accuracy, say),
        )
        means = summarise(found)
        _write_table(out / "accuracy_runs.csv", map(asdict, found))
        _write_table(out / "accuracy.csv", (point.as_row() for point in means))
        draw = [partial(plot_accuracy, means)]
        if {"linear"} < {point.head for point in means}:
            draw.append(partial(plot_accuracy_difference, means))
        _save(out / "accuracy.png", draw)
        _report_accuracy(means, settings.accuracy, say)


def _say_accuracy(say: Say, cell: Cell, found: Any, done: int, all_: int) -> None:
    result = found.error if isinstance(found, Failure) else f"{100 * found.validation:.1f}"
    say(f"{done:3d} of {all_}: {cell.label}: validation {result}")


def _say_cost(say: Say, cell: Cell, found: Any, *_: int) -> None:
    if isinstance(found, StepCost):
        say(
            f"{found.head:17s} T = {found.tasks:5d}: step {found.step_ms:9.2f} ms, peak "
            f"{found.peak_mb:7.1f} MB"
        )


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


def _write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, as_csv(rows))


def _save(path: Path, draw: Sequence[Callable[["Axes"], "Axes"]]) -> None:
    """One figure with an axes per function, side by side."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(5.4 * len(draw), 4.4))
        for ax, function in zip(figure.subplots(1, len(draw), squeeze=False)[0], draw, strict=True):
            function(ax)
        save_figure(figure, path)
