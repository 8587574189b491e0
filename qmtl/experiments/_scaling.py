"""``qmtl scaling``: measure costs and accuracy against tasks; write tables and plots."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from qmtl._io import write_csv
from qmtl._sections import Count, Section
from qmtl.experiments._scaling_accuracy import (
    AccuracySettings,
    measure_accuracy,
    plot_accuracy,
    plot_accuracy_difference,
    summarise,
    tell_accuracy,
)
from qmtl.experiments._scaling_cost import (
    TIMED_HEADS,
    CostPoint,
    StepCost,
    plot_memory,
    plot_step_time,
    tell_cost,
)
from qmtl.experiments._scaling_parameters import (
    DESIGNS,
    HEADS,
    circuit_size,
    count_head,
    plot_parameters,
    tell_parameters,
)
from qmtl.experiments._sweep import Cell, Failure, results_of, run_cells
from qmtl.plotting import panels, save_figure

Part = Literal["parameters", "cost", "accuracy"]
SIZE = (5.4, 4.4)
Say = Callable[[str], None]


class ScalingSettings(Section):
    """Settings of ``qmtl scaling``.

    Attributes:
        tasks: numbers of binary tasks.
        parts: the parts to run.
        data: folder of chest X-rays for the accuracy part; None for digits.
        accuracy: settings of the accuracy part.
        batch_size, threads: numbers of rows and of threads of a timed step.
        jobs: number of processes that train for the accuracy part.
    """

    tasks: tuple[Count, ...] = Field((2, 4, 8, 16, 32, 64, 128, 256, 512, 1024), min_length=1)
    parts: tuple[Part, ...] = get_args(Part)
    data: str | None = None
    accuracy: AccuracySettings = AccuracySettings()
    batch_size: Count = 32
    threads: Count = 1
    jobs: Count = 1


def run_scaling(settings: ScalingSettings, out: Path, say: Say = print) -> None:
    """Measure, write CSV files and plots into the existing folder `out`, and call `say` with text.

    New tables and plots replace those of an earlier run. Training runs that the subfolder ``cells``
    stores are not repeated.

    Raises:
        QmtlError: if a step could not be timed, or a training run failed.
    """
    tasks = sorted(set(settings.tasks))
    if "parameters" in settings.parts:
        counts = [count_head(head, n) for head in HEADS for n in tasks]
        circuits = [circuit_size(rule, n) for rule in DESIGNS for n in tasks]
        write_csv(out / "parameters.csv", map(asdict, counts))
        write_csv(out / "circuits.csv", map(asdict, circuits))
        draw = [partial(plot_parameters, counts, rule) for rule in DESIGNS]
        save_figure(panels(draw, len(draw), SIZE), out / "parameters.png")
        tell_parameters(counts, circuits, say)
    if "cost" in settings.parts:
        points = [
            CostPoint(head, n, settings.batch_size, settings.threads)
            for head in TIMED_HEADS
            for n in tasks
        ]
        # One at a time and without a store, because times depend on the machine's load.
        costs = results_of(points, run_cells(points, None, None, partial(_say_cost, say)))
        write_csv(out / "cost.csv", map(asdict, costs))
        draw = [partial(plot_step_time, costs), partial(plot_memory, costs)]
        save_figure(panels(draw, 2, SIZE), out / "cost.png")
        tell_cost(costs, say)
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
        write_csv(out / "accuracy_runs.csv", map(asdict, found))
        write_csv(out / "accuracy.csv", (point.as_row() for point in means))
        draw = [partial(plot_accuracy, means)]
        if {"linear"} < {point.head for point in means}:
            draw.append(partial(plot_accuracy_difference, means))
        save_figure(panels(draw, len(draw), SIZE), out / "accuracy.png")
        tell_accuracy(means, settings.accuracy, say)
        most = means[-1].tasks
        if most < tasks[-1]:
            say(f"accuracy of at most T = {most} tasks, which stands for all larger numbers")


def _say_accuracy(say: Say, cell: Cell, found: Any, done: int, all_: int) -> None:
    result = found.error if isinstance(found, Failure) else f"{100 * found.validation:.1f}"
    say(f"{done:3d} of {all_}: {cell.label}: validation {result}")


def _say_cost(say: Say, cell: Cell, found: Any, *_: int) -> None:
    if isinstance(found, StepCost):
        say(
            f"{found.head:17s} T = {found.tasks:5d}: step {found.step_ms:9.2f} ms, peak "
            f"{found.peak_mb:7.1f} MB"
        )
