"""The whole of ``qmtl noise``: evaluate or study, write tables and plots, and show the result."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmtl._io import as_csv, write_json, write_text
from qmtl.experiments._robustness import (
    NONE,
    HeadRobustness,
    StudySettings,
    UnderNoise,
    evaluate_under_noise,
    study,
)
from qmtl.experiments._run import Run
from qmtl.noise import DeviceNoise
from qmtl.plotting import COLOURS, MARKERS, legend_below, plain, save_figure, style
from qmtl.tasks import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_signal", "plot_under_noise", "run_robustness", "run_study"]

NoiseOf = Callable[[int], DeviceNoise]


def run_robustness(
    path: Path,
    noise: NoiseOf,
    out: Path,
    scales: Sequence[float],
    *,
    split: str = "test",
    shots: int | None = None,
    extrapolate: str | None = None,
    seed: int = 0,
    source: Mapping[str, Any] | None = None,
) -> list[UnderNoise]:
    """Evaluate a run under noise; write ``noise.csv`` and ``noise.png``, and print a table.

    ``noise.json`` in the same folder holds the noise and the settings.

    Args:
        path: the run directory.
        noise: number of wires to the noise of strength 1.
        out: folder for the files; made if needed.
        scales: see `evaluate_under_noise`.
        split: the rows to evaluate on.
        shots: see `evaluate_under_noise`.
        extrapolate: see `evaluate_under_noise`.
        seed: of the shots.
        source: what the noise is, in words or numbers.
    """
    run = Run.read(path)
    data, model = run.load_data(split), run.load_model()
    circuit = getattr(model.head, "circuit", None)
    found = evaluate_under_noise(
        model,
        data.splits[split],
        DeviceNoise() if circuit is None else noise(circuit.n_wires),
        scales,
        shots=shots,
        extrapolate=extrapolate,
        seed=seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "noise.csv", as_csv(row for one in found for row in one.rows()))
    how = {"split": split, "rows": len(data.splits[split]), "shots": shots, "seed": seed}
    write_json(out / "noise.json", {"noise": dict(source or {})} | how)
    save_figure(_draw_run(model.tasks, found), out / "noise.png")
    _show_run(f"{path}: {split}, {len(data.splits[split])} rows", model.tasks, found)
    return found


def run_study(
    noise: NoiseOf, out: Path, seed: int = 0, settings: StudySettings | None = None
) -> list[HeadRobustness]:
    """Study heads of many shapes; write ``study.csv`` and ``study.png``, and print a table."""
    found = study(noise, settings or StudySettings(seed=seed))
    write_text(out / "study.csv", as_csv(one.as_row() for one in found))
    save_figure(_draw_study(found), out / "study.png")
    _show_study(found)
    return found


def _name(one: UnderNoise) -> str:
    return f"×{one.scale:g}" if one.method == NONE else one.method


def _show_run(title: str, tasks: Sequence[Task], found: Sequence[UnderNoise]) -> None:
    from rich.console import Console
    from rich.table import Table

    caption = "deviation: root mean square of what noise changes in the measured values"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("task")
    table.add_column("metric")
    for one in found:
        table.add_column(_name(one), justify="right")
    for task in tasks:
        for metric in (task.main_metric, "loss", "deviation"):
            cells = [f"{one.metrics[task.name][metric]:.4f}" for one in found]
            table.add_row(task.name, metric, *cells)
        table.add_section()
    Console(markup=False, emoji=False).print(table)


def _show_study(found: Sequence[HeadRobustness]) -> None:
    from rich.console import Console
    from rich.table import Table

    caption = (
        "deviation: root mean square of what noise changes in the Z values; signal left: their "
        "slope against those without noise"
    )
    table = Table(
        title="noise on untrained heads", title_justify="left",
        caption=caption, caption_justify="left",
    )  # fmt: skip
    for name in ("varied", "value", "two-qubit depth", "deviation", "signal left"):
        table.add_column(name, justify="left" if name == "varied" else "right")
    for one in found:
        numbers = (str(one.two_qubit_depth), f"{one.deviation:.4f}", f"{one.signal:.4f}")
        table.add_row(one.varied, str(one.value), *numbers)
    Console(markup=False, emoji=False).print(table)


def _draw_run(tasks: Sequence[Task], found: Sequence[UnderNoise]) -> "Figure":
    """A panel per task: its main metric against the strength of the noise."""
    from matplotlib.figure import Figure

    columns = min(4, len(tasks))
    rows = -(-len(tasks) // columns)
    with style():
        figure = Figure(figsize=(3.2 * columns, 2.8 * rows))
        axes = figure.subplots(rows, columns, squeeze=False)
        for ax in axes.flat[len(tasks) :]:
            ax.set_axis_off()
        for task, ax in zip(tasks, axes.flat, strict=False):
            plot_under_noise(found, task.name, task.main_metric, ax)
    return figure


def _draw_study(found: Sequence[HeadRobustness]) -> "Figure":
    """A panel per number that is varied: the share of the signal that is left."""
    from matplotlib.figure import Figure

    panels = dict.fromkeys(one.varied for one in found)
    with style():
        figure = Figure(figsize=(3.2 * len(panels), 2.8))
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for varied, ax in zip(panels, axes, strict=True):
            plot_signal(found, varied, ax)
            ax.label_outer()
    return figure


def plot_under_noise(found: Sequence[UnderNoise], task: str, metric: str, ax: "Axes") -> "Axes":
    """A task's metric against the strength of the noise, and what extrapolation to none gives.

    Args:
        found: what `evaluate_under_noise` returned.
        task: its name.
        metric: one of its metrics, or ``"deviation"``.
        ax: where to draw.

    Example:
        >>> from matplotlib.figure import Figure
        >>> found = [UnderNoise(s, "none", {"a": {"f1": 1 - s / 9}}) for s in (0, 1, 2)]
        >>> plot_under_noise(found, "a", "f1", Figure().subplots()).get_ylabel()
        'f1'
    """
    plain_ones = sorted((one for one in found if one.method == NONE), key=lambda one: one.scale)
    scales = [one.scale for one in plain_ones]
    values = [one.metrics[task][metric] for one in plain_ones]
    ax.plot(scales, values, marker="o", color=COLOURS[0], label="under noise")
    mitigated = [one for one in found if one.method != NONE]
    for number, one in enumerate(mitigated, start=1):
        (point,) = ax.plot(0, one.metrics[task][metric], label=f"{one.method} extrapolation")
        point.set(marker=MARKERS[number], color=COLOURS[number], linestyle="none")
    if mitigated:
        legend_below(ax)
    ax.set_title(plain(task, 24))
    ax.set_xlabel("strength of the noise (×)")
    ax.set_ylabel(metric)
    return ax


def plot_signal(found: Sequence[HeadRobustness], varied: str, ax: "Axes") -> "Axes":
    """The share of the signal that noise leaves of heads that differ in one number.

    Args:
        found: what `study` returned.
        varied: that number; other entries are left out.
        ax: where to draw.

    Example:
        >>> from matplotlib.figure import Figure
        >>> found = [HeadRobustness("tasks", n, 0.1, 0.9, 2) for n in (2, 4)]
        >>> plot_signal(found, "tasks", Figure().subplots()).get_xlabel()
        'tasks'
    """
    own = [one for one in found if one.varied == varied]
    # Values are few and far apart: as words, at even distances.
    ax.plot([str(one.value) for one in own], [one.signal for one in own], marker="o")
    ax.set_xlabel(varied)
    ax.set_ylabel("share of the signal left")
    return ax
