"""Robustness: the effect of noise on a trained model, and on untrained heads of many shapes."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from qmtl._html import number
from qmtl._io import print_table, write_csv, write_json
from qmtl.circuit import AngleEncoding, HeadCircuit, RotationAnsatz
from qmtl.data import Split
from qmtl.errors import InvalidInputError, check_rows, unknown_name
from qmtl.experiments._recipe import NoiseSection
from qmtl.experiments._run_folder import Run
from qmtl.heads import QuantumHead
from qmtl.model import MultiTaskModel
from qmtl.noise import DeviceNoise
from qmtl.plotting import COLOURS, MARKERS, axes_or_new, legend_below, panels, plain, save_figure
from qmtl.simulators import LightConeSimulator, NoisySimulator, ShotSimulator, Simulator
from qmtl.tasks import Task
from qmtl.training import LOWER_IS_BETTER, evaluate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NONE = "none"
METHODS = ("richardson", "linear", "exponential")  # of extrapolation to zero noise
LEAST_RANGE = 0.05  # of an axis of scores: few rows that change must not look like a collapse
NoiseOf = Callable[[int], DeviceNoise]
# The study of untrained heads varies one of these keys at a time; `DESIGN` sets the others.
STUDY: dict[str, tuple[Any, ...]] = {
    "tasks": (2, 4, 8, 16, 32, 64, 128),
    "encoding layers": (1, 2, 3),
    "block layers": (1, 2, 4, 8),
    "entangler": ("none", "cz_line", "cz_ring", "cnot_ring"),
}
DESIGN: dict[str, Any] = {
    "tasks": 8,
    "encoding layers": 2,
    "block layers": 2,
    "entangler": "cz_ring",
}


@dataclass(frozen=True)
class UnderNoise:
    """A model's metrics under noise of one strength, by task and name.

    The metric ``deviation`` says how much noise changes the circuit's outputs: the root mean
    square, over samples and outputs, of noisy minus exact output. `method` is the name of the
    zero-noise extrapolation, or ``"none"``.
    """

    scale: float
    method: str
    metrics: Mapping[str, Mapping[str, float]]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per task and metric."""
        about = {"scale": self.scale, "extrapolation": self.method}
        return [
            about | {"task": task, "metric": metric, "value": value}
            for task, values in self.metrics.items()
            for metric, value in values.items()
        ]


def evaluate_under_noise(
    model: MultiTaskModel,
    split: Split,
    noise: DeviceNoise,
    scales: Sequence[float],
    *,
    shots: int | None = None,
    extrapolate: str | None = None,
    seed: int = 0,
) -> list[UnderNoise]:
    """Evaluate a model under noise of several strengths; scale 1 is the given noise.

    `shots` is the number of measurements per sample and strength, drawn from `seed`; None gives
    exact values. `extrapolate` is a method of zero-noise extrapolation (``richardson``, ``linear``
    or ``exponential``). It uses the scales of at least 1, which a device can reach, and adds an
    entry with scale 1. The model does not change.

    Raises:
        InvalidInputError: for a head without a circuit, or fewer than two scales for the
            extrapolation.

    Example:
        >>> import qmtl
        >>> data = qmtl.data.digits(tasks=["parity"])
        >>> circuit = qmtl.HeadCircuit(data.tasks)
        >>> encoder = qmtl.encoders.MLP(64, out_features=circuit.n_features, seed=0)
        >>> model = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
        >>> noise = DeviceNoise.uniform(0.001, 0.01, 0.02)
        >>> found = evaluate_under_noise(model, data.test, noise, [0, 1])
        >>> [round(one.metrics["parity"]["deviation"], 2) > 0 for one in found]
        [False, True]
    """
    if not isinstance(model.head, QuantumHead):
        kind = type(model.head).__name__
        raise InvalidInputError(f"noise needs a model with a quantum head, got a {kind}")

    def simulator(scale: float) -> Simulator:
        base: Simulator = NoisySimulator(noise.scaled(scale)) if scale else LightConeSimulator()
        return base if shots is None else ShotSimulator(base, shots, seed)

    runs = [(scale, NONE, simulator(scale)) for scale in scales]
    if extrapolate is not None:
        amplified = {scale: simulator(scale) for scale in sorted(scales) if scale >= 1}
        if len(amplified) < 2:
            raise InvalidInputError(
                f"extrapolation needs at least two scales of 1 or more, got {list(scales)}"
            )
        runs.append((1.0, extrapolate, ExtrapolatedSimulator(amplified, extrapolate)))
    ideal = _values(model, split, LightConeSimulator())
    found = []
    for scale, method, one in runs:
        under = MultiTaskModel(model.encoder, model.head.with_simulator(one))
        under.load_state_dict(model.state_dict())
        metrics = evaluate(under, split)
        values = _values(model, split, one)
        for name, own in metrics.items():
            own["deviation"] = float((values[name] - ideal[name]).square().mean().sqrt())
        found.append(UnderNoise(scale, method, metrics))
    return found


@torch.no_grad()
def _values(model: MultiTaskModel, split: Split, simulator: Simulator) -> dict[str, Tensor]:
    """Return each task's expectation values or probabilities, with one row per sample."""
    head = model.head.with_simulator(simulator)
    parts = [
        head.expectation_values(head.angles(model.features(chunk)))
        for chunk in split.inputs.split(256)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class HeadRobustness:
    """The effect of noise on one untrained head, at random angles and initial weights.

    `deviation` is the root mean square of the change of Z values by the noise. `signal` is the
    share of the signal that is left: the least-squares slope of noisy against exact Z values.
    """

    varied: str
    value: int | str
    deviation: float
    signal: float
    two_qubit_depth: int


def robustness(
    varied: str, value: Any, noise: NoiseOf, samples: int = 100, seed: int = 0
) -> HeadRobustness:
    """Compare a head that differs from `DESIGN` in one value with itself under noise."""
    design = DESIGN | {varied: value}
    circuit = HeadCircuit(
        [Task.binary(f"t{i}") for i in range(design["tasks"])],
        AngleEncoding(n_layers=design["encoding layers"], entangler=design["entangler"]),
        RotationAnsatz(n_layers=design["block layers"], entangler=design["entangler"]),
    )
    head = QuantumHead(circuit, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    shape = (samples, circuit.n_features)
    angles = (2 * torch.rand(shape, dtype=torch.float64, generator=generator) - 1) * math.pi
    simulators = (LightConeSimulator(), NoisySimulator(noise(circuit.n_wires)))
    with torch.no_grad():
        ideal, noisy = (
            torch.cat(list(head.with_simulator(one).expectation_values(angles).values()), 1)
            for one in simulators
        )
    return HeadRobustness(
        varied,
        value,
        float((noisy - ideal).square().mean().sqrt()),
        float((noisy * ideal).sum() / ideal.square().sum()),
        circuit.two_qubit_depth,
    )


def run_robustness(
    path: Path,
    noise: NoiseSection,
    out: Path,
    scales: Sequence[float],
    *,
    split: str = "test",
    shots: int | None = None,
    extrapolate: str | None = None,
    seed: int = 0,
) -> list[UnderNoise]:
    """Evaluate a run under noise; write ``noise.csv`` and ``noise.png``, and print a table.

    This function creates the folder `out` if needed, and records noise and settings there in
    ``noise.json``. For the arguments see `evaluate_under_noise`.
    """
    run = Run.read(path)
    rows, model = run.load_data(split).splits[split], run.load_model()
    out.mkdir(parents=True, exist_ok=True)
    circuit = getattr(model.head, "circuit", None)
    found = evaluate_under_noise(
        model,
        rows,
        DeviceNoise() if circuit is None else noise.device_noise(circuit.n_wires),
        scales,
        shots=shots,
        extrapolate=extrapolate,
        seed=seed,
    )
    write_csv(out / "noise.csv", (row for one in found for row in one.rows()))
    source = noise.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    how = {"split": split, "rows": len(rows), "shots": shots, "seed": seed}
    write_json(out / "noise.json", {"noise": source} | how)
    draw = [partial(plot_under_noise, found, task.name, task.main_metric) for task in model.tasks]
    save_figure(panels(draw, min(4, len(draw)), (3.2, 2.8)), out / "noise.png")
    _show_run(f"{path}: {split}, {len(rows)} rows", model.tasks, found)
    return found


def run_study(
    noise: NoiseOf,
    out: Path,
    seed: int = 0,
    study: Mapping[str, Sequence[Any]] = STUDY,
    samples: int = 100,
) -> list[HeadRobustness]:
    """Study untrained heads of many shapes, at random angles; print a table.

    Write ``study.csv`` and ``study.png``. For each key, `study` has the values to try.
    """
    found = [
        robustness(varied, value, noise, samples, seed)
        for varied, values in study.items()
        for value in values
    ]
    write_csv(out / "study.csv", map(asdict, found))
    draw = [partial(plot_signal, found, varied) for varied in study]
    figure = panels(draw, len(draw), (3.2, 2.8), sharey=True)
    for ax in figure.axes:
        ax.label_outer()
    save_figure(figure, out / "study.png")
    rows = [
        (one.varied, one.value, one.two_qubit_depth, f"{one.deviation:.4f}", f"{one.signal:.4f}")
        for one in found
    ]
    columns = ("varied", "value", "two-qubit depth", "deviation", "signal left")
    caption = (
        "deviation: root mean square of what noise changes in the Z values; signal left: their "
        "slope against those without noise"
    )
    print_table(columns, rows, title="noise on untrained heads", caption=caption)
    return found


def _show_run(title: str, tasks: Sequence[Task], found: Sequence[UnderNoise]) -> None:
    rows = [
        (task.name, metric, *(number(one.metrics[task.name][metric]) for one in found))
        for task in tasks
        for metric in (task.main_metric, "loss", "deviation")
    ]
    names = [f"×{one.scale:g}" if one.method == NONE else one.method for one in found]
    caption = "deviation: root mean square of what noise changes in the measured values"
    print_table(("task", "metric", *names), rows, title=title, caption=caption)


def plot_under_noise(
    found: Sequence[UnderNoise], task: str, metric: str, ax: "Axes | None" = None
) -> "Axes":
    """Plot a task's metric (or ``"deviation"``) against the strength of the noise.

    Values of zero-noise extrapolation are drawn at zero.

    Example:
        >>> from matplotlib.figure import Figure
        >>> found = [UnderNoise(s, "none", {"a": {"f1": 1 - s / 9}}) for s in (0, 1, 2)]
        >>> plot_under_noise(found, "a", "f1", Figure().subplots()).get_ylabel()
        'f1'
    """
    check_rows("found", found, UnderNoise)
    metrics = found[0].metrics
    if task not in metrics:
        raise unknown_name("task", task, metrics)
    if metric not in metrics[task]:
        raise unknown_name(f"metric of task {task!r}:", metric, metrics[task])
    ax = axes_or_new(ax)
    plain_ones = sorted((one for one in found if one.method == NONE), key=lambda one: one.scale)
    scales = [one.scale for one in plain_ones]
    values = [one.metrics[task][metric] for one in plain_ones]
    ax.plot(scales, values, marker="o", color=COLOURS[0], label="under noise")
    mitigated = [one for one in found if one.method != NONE]
    for place, one in enumerate(mitigated, start=1):
        (point,) = ax.plot(0, one.metrics[task][metric], label=f"{one.method} extrapolation")
        point.set(marker=MARKERS[place], color=COLOURS[place], linestyle="none")
    if mitigated:
        legend_below(ax)
    ax.set(title=plain(task, 24), xlabel="strength of the noise (×)", ylabel=metric)
    low, high = ax.get_ylim()
    if high - low < LEAST_RANGE and metric not in ("deviation", *LOWER_IS_BETTER):
        middle = (low + high) / 2
        ax.set_ylim(middle - LEAST_RANGE / 2, middle + LEAST_RANGE / 2)
    return ax


def plot_signal(found: Sequence[HeadRobustness], varied: str, ax: "Axes | None" = None) -> "Axes":
    """Plot the share of the signal that remains under noise, for heads that differ in `varied`.

    Example:
        >>> from matplotlib.figure import Figure
        >>> found = [HeadRobustness("tasks", n, 0.1, 0.9, 2) for n in (2, 4)]
        >>> plot_signal(found, "tasks", Figure().subplots()).get_xlabel()
        'tasks'
    """
    check_rows("found", found, HeadRobustness)
    if varied not in (names := {one.varied for one in found}):
        raise unknown_name("varied:", varied, names)
    ax = axes_or_new(ax)
    own = [one for one in found if one.varied == varied]
    # As texts, the few and uneven values have equal distances on the axis.
    ax.plot([str(one.value) for one in own], [one.signal for one in own], marker="o")
    ax.set(xlabel=varied, ylabel="share of the signal left")
    return ax


def extrapolated(
    scales: Sequence[float], values: Tensor, method: str = "richardson", floor: Tensor | float = 0.0
) -> Tensor:
    """Estimate values without noise from values at distinct, positive strengths, (scales, ...).

    ``"richardson"`` is the polynomial through all points, ``"linear"`` the least-squares line.
    ``"exponential"`` is a decay to `floor` (0 for Z-strings, 2^-k for probabilities), fitted by a
    line through logarithms; it falls back to ``"linear"`` unless all values are above the floor or
    all are below. See Temme, Bravyi and Gambetta, arXiv:1612.02058; Giurgica-Tiron et al.,
    arXiv:2005.10921.
    """
    if method not in METHODS:
        raise unknown_name("extrapolation method", method, METHODS)
    if len(scales) < 2 or len(set(scales)) < len(scales) or not min(scales) > 0:
        raise InvalidInputError(
            f"extrapolation needs two or more distinct, positive scales, got {list(scales)}"
        )
    if method == "richardson":
        return _combined(_richardson(scales), values)
    line = _combined(_line(scales), values)
    if method == "linear":
        return line
    above = values - floor
    decays = (above > 0).all(0) | (above < 0).all(0)
    sizes = torch.where(decays, above, 1.0).abs()
    start = _combined(_line(scales), sizes.log()).exp()
    return torch.where(decays, floor + above[0].sign() * start, line)


def _combined(weights: Sequence[float], values: Tensor) -> Tensor:
    combined: Tensor = torch.tensordot(values.new_tensor(weights), values, dims=1)
    return combined


def _richardson(scales: Sequence[float]) -> list[float]:
    """Return the weights of Lagrange's interpolation at zero."""
    return [prod(b / (b - a) for b in scales if b != a) for a in scales]


def _line(scales: Sequence[float]) -> list[float]:
    """Return weights that give the intercept of the least-squares line."""
    mean = sum(scales) / len(scales)
    spread = sum((scale - mean) ** 2 for scale in scales)
    return [1 / len(scales) - mean * (scale - mean) / spread for scale in scales]


class ExtrapolatedSimulator(Simulator):
    """A simulator that extrapolates every output to zero noise, sample by sample.

    It takes a simulator for each noise strength. Extrapolated probabilities may lie outside [0, 1].
    """

    follows_shift_rule: ClassVar[bool] = False

    def __init__(self, simulators: Mapping[float, Simulator], method: str = "richardson") -> None:
        self.simulators = dict(simulators)
        self.method = method
        extrapolated(list(self.simulators), torch.ones(len(self.simulators)), method)

    def values(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Tensor,
        tasks: Sequence[str] | None = None,
    ) -> Tensor:
        found = [one.values(circuit, angles, weights, tasks) for one in self.simulators.values()]
        floors: list[float] = []
        for task in circuit.registers if tasks is None else tasks:
            register = circuit.register(task)
            floor = 2.0 ** -len(register.wires) if register.readout.is_probability else 0.0
            floors += [floor] * register.readout.n_outputs
        limit = found[0].new_tensor(floors)
        return extrapolated(list(self.simulators), torch.stack(found), self.method, limit)

    def __repr__(self) -> str:
        return f"ExtrapolatedSimulator(scales={list(self.simulators)}, method={self.method!r})"
