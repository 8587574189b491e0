"""Plots of scaling: parameters, cost and accuracy against the number of tasks."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qmtl.experiments._plotting import COLOURS, look
from qmtl.experiments._scaling import HeadCount, counted_head, crossover
from qmtl.experiments._scaling_accuracy import AccuracyPoint
from qmtl.experiments._scaling_cost import StepCost
from qmtl.plotting import number_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "plot_accuracy",
    "plot_accuracy_difference",
    "plot_memory",
    "plot_parameters",
    "plot_step_time",
]

TITLES = {
    "matched": "representation grows with T (2 T features)",
    "fixed": "representation of 8 features for any T",
}
# Smaller differences are pages that the system happened to hand out.
LEAST_MB = 1.0


def plot_parameters(counts: Sequence[HeadCount], rule: str, ax: "Axes") -> "Axes":
    """Head parameters against tasks, log-log, with the crossovers of the quantum head marked."""
    shown = [count for count in counts if count.rule == rule]
    largest = max(count.tasks for count in shown)
    for head in dict.fromkeys(count.head for count in shown):
        own = [count for count in shown if count.head == head]
        ax.plot(
            [count.tasks for count in own],
            [count.parameters for count in own],
            # Rivals with as many parameters as the quantum head lie under its line.
            label=f"{head}: {own[0].formula}",
            markersize=5,
            zorder=3 if head == "quantum" else 2,
            **_look(head),
        )
        if head != "quantum":
            _mark_crossover(ax, head, rule, largest)
    _tasks_axis(ax, [count.tasks for count in shown])
    ax.set_yscale("log")
    ax.set_ylabel("trained head parameters")
    ax.set_title(TITLES[rule])
    ax.legend(loc="upper left", fontsize=9)
    return ax


def _mark_crossover(ax: "Axes", head: str, rule: str, largest: int) -> None:
    """An arrow to where the order of the quantum head and a rival changes for good."""
    found = crossover(counted_head(head, rule))
    if not 1 < found.tasks <= largest or found.smaller == "neither":
        return
    first, second = ("quantum", head) if found.smaller == "quantum" else (head, "quantum")
    ax.annotate(
        f"{first} smaller than {second}\nfrom T = {found.tasks}",
        (found.tasks, counted_head("quantum", rule).closed_form(found.tasks)),
        xytext=(20, -45),
        textcoords="offset points",
        ha="left",
        fontsize=9,
        arrowprops={"arrowstyle": "->", "color": "0.3"},
    )


def plot_step_time(costs: Sequence[StepCost], ax: "Axes") -> "Axes":
    """Median step time against tasks, with the fastest and slowest step as bars."""
    for head, own in _by_head(costs).items():
        below = [c.step_ms - c.fastest_ms for c in own]
        above = [c.slowest_ms - c.step_ms for c in own]
        ax.errorbar(
            [c.tasks for c in own],
            [c.step_ms for c in own],
            yerr=[below, above],
            label=head,
            elinewidth=0.8,
            markersize=5,
            **_look(head),
        )
    _tasks_axis(ax, [c.tasks for c in costs])
    ax.set_yscale("log")
    ax.set_ylabel("training step (ms)")
    ax.set_title(f"batch {costs[0].batch_size}, {_threads(costs[0].threads)}")
    ax.legend(fontsize=9)
    return ax


def plot_memory(costs: Sequence[StepCost], ax: "Axes") -> "Axes":
    """Peak memory above that before the head was built; points below 1 MB are left out."""
    for head, own in _by_head(costs).items():
        kept = [c for c in own if not math.isnan(c.peak_mb) and c.peak_mb >= LEAST_MB]
        ax.plot(
            [c.tasks for c in kept],
            [c.peak_mb for c in kept],
            label=head,
            markersize=5,
            **_look(head),
        )
    _tasks_axis(ax, [c.tasks for c in costs])
    ax.set_yscale("log")
    ax.set_ylabel("peak memory of head and step (MB)")
    ax.set_title("above the process before it")
    return ax


def plot_accuracy(points: Sequence[AccuracyPoint], ax: "Axes") -> "Axes":
    """Mean test score over tasks against tasks, with 95% intervals over seeds."""
    heads = list(dict.fromkeys(point.head for point in points))
    for position, head in enumerate(heads):
        own = [point for point in points if point.head == head]
        # Side by side, so that no interval hides another.
        shift = 1.03 ** (2 * position - len(heads) + 1)
        ax.errorbar(
            [point.tasks * shift for point in own],
            [100 * point.test.mean for point in own],
            yerr=[100 * _bar(point.test.half_width) for point in own],
            label=head,
            capsize=3,
            markersize=5,
            **look(head),
        )
    sizes = sorted({point.tasks for point in points})
    _tasks_axis(ax, sizes)
    ax.set_ylabel(f"test {points[0].metric} × 100, mean over tasks")
    ax.set_title(f"{points[0].data}, {max(p.test.n for p in points)} seeds, 95% intervals")
    ax.legend(fontsize=9)
    return ax


def plot_accuracy_difference(points: Sequence[AccuracyPoint], ax: "Axes") -> "Axes":
    """Difference from the dense linear head, seed by seed, with 95% intervals."""
    heads = [h for h in dict.fromkeys(point.head for point in points) if h != "linear"]
    for position, head in enumerate(heads):
        own = [point for point in points if point.head == head]
        shift = 1.03 ** (2 * position - len(heads) + 1)
        ax.errorbar(
            [point.tasks * shift for point in own],
            [100 * point.ahead_of_linear.mean for point in own],
            yerr=[100 * _bar(point.ahead_of_linear.half_width) for point in own],
            label=head,
            capsize=3,
            markersize=5,
            **look(head),
        )
    ax.axhline(0, color="0.4", linewidth=1)
    _tasks_axis(ax, sorted({point.tasks for point in points}))
    ax.set_ylabel(f"difference from linear ({points[0].metric} × 100)")
    ax.set_title("paired by seed")
    ax.legend(fontsize=9)
    return ax


def _tasks_axis(ax: "Axes", tasks: Sequence[int]) -> None:
    number_axis(ax, tasks)
    ax.set_xlabel("tasks T")


def _by_head(costs: Sequence[StepCost]) -> dict[str, list[StepCost]]:
    grouped: dict[str, list[StepCost]] = {}
    for cost in costs:
        grouped.setdefault(cost.head, []).append(cost)
    return grouped


def _look(head: str) -> dict[str, Any]:
    """A fused head looks like its plain one, dashed."""
    plain = head.removesuffix("-fused")
    found = look(plain) | {"linestyle": "-" if plain == head else "--"}
    # The palette has fewer colours than there are heads: these two are the quantum head's rivals
    # in one plot.
    return found | ({"color": COLOURS[2]} if head == "shared-vqc" else {})


def _bar(half_width: float) -> float:
    return 0.0 if math.isnan(half_width) else half_width


def _threads(n: int) -> str:
    return "1 thread" if n == 1 else f"{n} threads"
