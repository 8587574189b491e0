"""Time and memory of a training step against the number of tasks, each in its own process.

``python -m`` runs this module as that process, which reads a point and writes its cost as JSON.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import psutil
import torch

from qmtl.errors import QmtlError, check_integer, check_rows, unknown_name
from qmtl.experiments._build import head_look
from qmtl.experiments._scaling_parameters import by_head, circuit_for, tasks_axis
from qmtl.experiments._statistics import power_law
from qmtl.experiments._sweep import Cell
from qmtl.heads import HeadType, build_head
from qmtl.plotting import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_STEPS, MOST_STEPS, SECONDS = 5, 50, 0.5
# With fewer tasks, a step's fixed cost dominates.
FIT_FROM = 128
# Smaller differences in memory are noise of the operating system's paging.
LEAST_MB = 1.0
CHILD = "qmtl.experiments._scaling_cost"
TIMED_HEADS: tuple[HeadType, ...] = ("quantum", "linear", "local-cone")


@dataclass(frozen=True)
class StepCost:
    """Measured cost of one step.

    `first_ms` is the time of the first step, including the plan, in a process that has run a
    smaller head before. The other times are the median, shortest and longest of the next `steps`.
    `peak_mb` is the peak of resident memory minus the memory before the head was built, in 10^6
    bytes; NaN if the system does not report it.
    """

    head: str
    tasks: int
    batch_size: int
    threads: int
    first_ms: float
    step_ms: float
    fastest_ms: float
    slowest_ms: float
    steps: int
    peak_mb: float


@dataclass(frozen=True)
class CostPoint(Cell):
    """The step to time: forward and backward passes of a head of the matched rule.

    Attributes:
        head: one of `TIMED_HEADS`.
        tasks: number of binary tasks.
        batch_size: number of rows per step.
        threads: number of threads of torch and of the compiled kernel.
    """

    head: HeadType
    tasks: int
    batch_size: int = 32
    threads: int = 1
    finds: ClassVar[type] = StepCost
    """The class of the result."""

    def __post_init__(self) -> None:
        if self.head not in TIMED_HEADS:
            raise unknown_name("head to time:", self.head, TIMED_HEADS)
        for name in ("tasks", "batch_size", "threads"):
            object.__setattr__(self, name, check_integer(name, getattr(self, name)))

    @property
    def label(self) -> str:
        return f"{self.head}, T = {self.tasks}"

    def run(self) -> StepCost:
        return measure_cost(self)


def measure_cost(point: CostPoint) -> StepCost:
    """Time a head's training step in a separate process, so that its peak memory is its own.

    A step is the head's forward pass on random features, the mean squared logit, and the backward
    pass to all parameters and to the features, as an encoder before the head would need.

    Raises:
        QmtlError: if the process fails; the error gives its last line.
    """
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, "-m", CHILD],
        input=json.dumps(asdict(point)),
        env=os.environ | dict.fromkeys(variables, str(point.threads)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise QmtlError(
            f"timing {point.head} with {point.tasks} tasks ended with status {done.returncode}: "
            f"{last}"
        )
    return StepCost(**json.loads(done.stdout.splitlines()[-1]))


def _run(point: CostPoint) -> StepCost:
    torch.set_num_threads(point.threads)
    torch.manual_seed(0)
    # Run a smaller head first, so that imports and compilation are not part of the measured steps.
    for _ in zip(_steps(point.head, 4, point.batch_size), range(3), strict=False):
        pass
    before = _restart_peak()
    steps = _steps(point.head, point.tasks, point.batch_size)
    first = next(steps)
    times: list[float] = []
    while len(times) < LEAST_STEPS or (len(times) < MOST_STEPS and sum(times) < 1e3 * SECONDS):
        times.append(next(steps))
    return StepCost(
        **asdict(point),
        first_ms=first,
        step_ms=statistics.median(times),
        fastest_ms=min(times),
        slowest_ms=max(times),
        steps=len(times),
        peak_mb=(_peak() - before) / 1e6,
    )


def _steps(name: HeadType, n_tasks: int, batch_size: int) -> Iterator[float]:
    """Time training steps without end; yield milliseconds."""
    circuit = circuit_for("matched", n_tasks)
    head = build_head(name, circuit)
    features = torch.randn(batch_size, circuit.n_features, requires_grad=True)
    while True:
        start = time.perf_counter()
        head.zero_grad()
        features.grad = None
        head(features, joined=True).square().mean().backward()
        yield 1e3 * (time.perf_counter() - start)


def _restart_peak() -> float:
    """Return the resident bytes now, and reset the peak where Linux allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak()
    return float(psutil.Process().memory_info().rss)


def _peak() -> float:
    """Return the peak of this process's resident memory in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (line for line in status.read_text().splitlines() if "VmHWM:" in line)
        return 1024.0 * int(line.split()[1])
    try:
        import resource
    except ImportError:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


def plot_step_time(costs: Sequence[StepCost], ax: "Axes | None" = None) -> "Axes":
    """Plot median step time against tasks, with the fastest and slowest step as bars."""
    check_rows("costs", costs, StepCost)
    ax = axes_or_new(ax)
    for head, own in by_head(costs).items():
        ax.errorbar(
            [c.tasks for c in own],
            [c.step_ms for c in own],
            yerr=[[c.step_ms - c.fastest_ms for c in own], [c.slowest_ms - c.step_ms for c in own]],
            label=head,
            elinewidth=0.8,
            markersize=5,
            **head_look(head),
        )
    tasks_axis(ax, [c.tasks for c in costs])
    ax.set_yscale("log")
    ax.set_ylabel("training step (ms)")
    ax.set_title(
        f"batch {costs[0].batch_size}, {costs[0].threads} thread{'s' * (costs[0].threads > 1)}"
    )
    return ax


def plot_memory(costs: Sequence[StepCost], ax: "Axes | None" = None) -> "Axes":
    """Plot peak memory minus the memory before the head was built; omit less than 1 MB."""
    check_rows("costs", costs, StepCost)
    ax = axes_or_new(ax)
    for head, own in by_head(costs).items():
        kept = [c for c in own if c.peak_mb >= LEAST_MB]
        ax.plot(
            [c.tasks for c in kept],
            [c.peak_mb for c in kept],
            label=head,
            markersize=5,
            **head_look(head),
        )
    tasks_axis(ax, [c.tasks for c in costs])
    ax.set_yscale("log")
    ax.set_ylabel("peak memory of head and step (MB)")
    ax.set_title("without the process as it was before the head")
    return ax


def tell_cost(costs: Sequence[StepCost], say: Callable[[str], None]) -> None:
    """Say how each head's step time grows with the number of tasks."""
    for head, own in by_head([cost for cost in costs if cost.tasks >= FIT_FROM]).items():
        if len(own) > 1:
            fit = power_law([cost.tasks for cost in own], [cost.step_ms for cost in own])
            say(f"{head:17s} step time from T = {FIT_FROM}: exponent {fit}")


if __name__ == "__main__":
    print(json.dumps(asdict(_run(CostPoint(**json.load(sys.stdin))))))
