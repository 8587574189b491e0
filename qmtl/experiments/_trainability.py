"""Trainability: the variance of the gradient against wires, layers and number of tasks."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from qmtl._io import write_csv
from qmtl._sections import Count, Section, Seed
from qmtl.circuit import (
    Angle,
    AngleEncoding,
    ExpectationZ,
    Gate,
    GateSequence,
    HeadCircuit,
    IdentityAnsatz,
    PauliStrings,
    Probabilities,
    Readout,
    RotationAnsatz,
)
from qmtl.errors import check_rows, check_type, unknown_name
from qmtl.experiments._statistics import Fit, exponential_rate, power_law
from qmtl.experiments._sweep import Cell, CellStore, Workers, results_of, run_cells
from qmtl.heads import INITIAL_STD
from qmtl.plotting import axes_or_new, legend_below, line_look, number_axis, panels, save_figure
from qmtl.simulators import ANGLE_MAPS, LightConeSimulator
from qmtl.tasks import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

READOUTS = {
    "local": "local: Z on one wire",
    "global-string": "global: Z⊗…⊗Z",
    "global-projector": "global: |0…0⟩⟨0…0|",
}
INITIALS = {"uniform": "weights and angles uniform", "default": "default initial weights"}
SHALLOW = 2
# A ring with fewer registers of two wires has not the six wires of the default light cone.
WHOLE_CONE = 3
RATE_KEYS = ("readout", "initial", "entangler", "block_layers", "weight")
XLABELS = {"wires": "wires n", "tasks": "tasks T"}
Say = Callable[[str], None]
# Title, study and entangler of a panel; its number of block layers, or None if they vary.
Panel = tuple[str, str, str, int | None]


@dataclass(frozen=True)
class Case:
    """One circuit whose gradient is sampled, with `tasks` registers side by side.

    `study` is the quantity that is varied. The `readout` ``local`` is Z on the register's first
    wire, ``global-string`` is Z⊗…⊗Z on all of its wires, ``global-projector`` is the probability of
    |0…0⟩. The `initial` distribution ``uniform`` draws every angle and weight from [0, 2π);
    ``default`` draws weights as `QuantumHead` does, and angles π·tanh(x/2) with standard normal x.
    `entangler` is the block's entangler; the encoding has the default entangler.
    """

    study: str
    readout: str
    initial: str
    entangler: str
    wires: int
    block_layers: int
    encoding_layers: int = 2
    tasks: int = 1

    def observable(self) -> Readout:
        """Return the readout of each register."""
        choices: dict[str, Readout] = {
            "local": ExpectationZ(1),
            "global-string": PauliStrings(("Z" * self.wires,)),
            "global-projector": Probabilities(2),
        }
        if self.readout not in choices:
            raise unknown_name("readout", self.readout, choices)
        return choices[self.readout]

    def circuit(self) -> HeadCircuit:
        """Return the head circuit, with binary tasks (for the projector, tasks of two classes)."""
        readout = self.observable()
        make: Any = Task.binary if readout.n_outputs == 1 else partial(Task.multiclass, n_classes=2)
        made = [make(f"t{i}") for i in range(self.tasks)]
        return HeadCircuit(
            made,
            AngleEncoding(n_layers=self.encoding_layers),
            RotationAnsatz(self.block_layers, self.entangler),
            wires_per_task=self.wires,
            readouts={task.name: readout for task in made},
        )


class TrainabilitySettings(Section):
    """Settings of the sampling.

    Attributes:
        wires: numbers of wires of a single register. The studies of layers use the middle number.
        layers: numbers of layers of the block, and of the encoding. The study of wires has blocks
            of 2 layers and of the largest number given here.
        tasks: numbers of tasks with two wires each.
        samples: number of random draws per circuit.
        seed: seed of the draws.
        entanglers: entanglers of the block, by name.
    """

    wires: tuple[Annotated[int, Field(ge=2)], ...] = Field((2, 4, 6, 8, 10), min_length=1)
    layers: tuple[Count, ...] = Field((1, 2, 4, 8, 16, 32), min_length=1)
    tasks: tuple[Count, ...] = Field((1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024), min_length=1)
    samples: int = Field(200, ge=2)
    seed: Seed = 0
    entanglers: tuple[Literal["cz_ring", "all_to_all"], ...] = Field(
        ("cz_ring", "all_to_all"), min_length=1
    )


def cases(settings: TrainabilitySettings) -> Iterator[Case]:
    """Yield the circuits of all four studies, one after another."""
    deep = max(settings.layers)
    middle = sorted(settings.wires)[len(settings.wires) // 2]
    for initial in INITIALS:
        for readout in READOUTS:
            for entangler in settings.entanglers:
                for layers in sorted({SHALLOW, deep}):
                    for wires in settings.wires:
                        yield Case("wires", readout, initial, entangler, wires, layers)
                for layers in settings.layers:
                    yield Case("block layers", readout, initial, entangler, middle, layers)
            for layers in settings.layers:
                yield Case("encoding layers", readout, initial, "cz_ring", middle, SHALLOW, layers)
        for readout in ("local", "global-string"):
            for tasks in settings.tasks:
                yield Case("tasks", readout, initial, "cz_ring", 2, SHALLOW, tasks=tasks)


@dataclass(frozen=True)
class GradientVariance:
    """The sampled variance of one weight's gradient, with its standard error.

    The gradient is that of the first task's value (in [-1, 1] or [0, 1]). The weight ``block``
    belongs to the first RY of the task's block on its first wire, and ``encoding`` to the
    encoding's first trainable rotation on this wire.
    """

    case: Case
    weight: str
    samples: int
    variance: float
    error: float

    def as_row(self) -> dict[str, Any]:
        """Return flat fields for a table."""
        return vars(self.case) | {key: own for key, own in vars(self).items() if key != "case"}


def gradient_variance(case: Case, *, samples: int = 200, seed: int = 0) -> list[GradientVariance]:
    """Sample the gradient of a block weight, and of an encoding weight if there is one.

    If the variance falls exponentially with the number of wires, gradients at a random start are
    too small for training (a barren plateau). Readouts over all wires have this problem, and so has
    any readout of a deep block that mixes all wires. Local readouts of a partitioned circuit have
    light cones of constant size, so that their variance does not depend on the number of tasks.

    Raises:
        InvalidInputError: for an unknown readout or initial distribution.
        CircuitTooLargeError: if the cone does not fit in memory.

    Example:
        >>> case = Case("wires", "local", "uniform", "cz_ring", wires=2, block_layers=2)
        >>> [(found.weight, 0 < found.variance < 0.5) for found in gradient_variance(case)]
        [('block', True), ('encoding', True)]

    References:
        McClean et al., arXiv:1803.11173; Cerezo et al., arXiv:2001.00550.
    """
    if case.initial not in INITIALS:
        raise unknown_name("initial distribution", case.initial, INITIALS)
    circuit = case.circuit()
    # With weights as further inputs, one batch holds all draws.
    drawn = _with_weights_as_inputs(circuit, case)
    inputs = _draw(circuit, case.initial, samples, seed).requires_grad_()
    # The rewritten circuit has no weights, but simulators require the vectors.
    empty = {name: inputs.new_empty(0) for name in ("encoding", "t0")}
    values = LightConeSimulator().expectation_values(drawn, inputs, empty, ["t0"])["t0"]
    (gradients,) = torch.autograd.grad(values[:, 0].sum(), inputs)
    columns = _columns(circuit)
    own = gradients[:, list(columns.values())]
    variances = own.var(dim=0)
    fourth = (own - own.mean(dim=0)).pow(4).mean(dim=0)
    errors = ((fourth - (samples - 3) / (samples - 1) * variances**2) / samples).sqrt()
    return [
        GradientVariance(case, weight, samples, variance, error)
        for weight, variance, error in zip(
            columns, variances.tolist(), errors.tolist(), strict=True
        )
    ]


@dataclass(frozen=True)
class Gradients:
    """The gradient variances of one circuit."""

    found: tuple[GradientVariance, ...]


@dataclass(frozen=True)
class VarianceCell(Cell):
    """The sampling of one circuit's gradients."""

    case: Case
    samples: int
    seed: int
    finds: ClassVar[type] = Gradients

    @property
    def label(self) -> str:
        one = self.case
        return (
            f"{one.study}, {one.readout}, {one.initial}, {one.entangler}, {one.wires} wires, "
            f"{one.block_layers} and {one.encoding_layers} layers, {one.tasks} tasks"
        )

    def run(self) -> Gradients:
        return Gradients(tuple(gradient_variance(self.case, samples=self.samples, seed=self.seed)))


def decay_rates(found: Sequence[GradientVariance]) -> dict[tuple[str, str, str, int, str], Fit]:
    """Fit the rates at which the variance changes with wires, as 2^(slope · wires), by `RATE_KEYS`.

    Series with fewer than two positive variances are left out.
    """
    import pandas as pd

    table = pd.DataFrame([one.as_row() for one in found])
    series = table[(table.study == "wires") & (table.variance > 0)]
    return {
        key: exponential_rate(own.wires.tolist(), own.variance.tolist())
        for key, own in series.groupby(list(RATE_KEYS), sort=False)
        if len(own) > 1
    }


def _with_weights_as_inputs(circuit: HeadCircuit, case: Case) -> HeadCircuit:
    """Return the first task's circuit with all its weights as further features."""
    first = {"encoding": circuit.n_features}
    first["t0"] = circuit.n_features + circuit.n_encoding_weights

    def as_input(gate: Gate) -> Gate:
        angle = gate.angle
        if angle is None or angle.weight is None:
            return gate
        column = first[angle.owner] + angle.weight
        return replace(gate, angle=Angle((*angle.features, column), constant=angle.constant))

    given = GateSequence.of(circuit.n_wires, map(as_input, circuit.gates("t0")))
    # All other wires form a second register, whose outputs are not computed.
    wires = {"t0": case.wires, "rest": circuit.n_wires - case.wires}
    return HeadCircuit(
        [circuit.task("t0"), *([Task.binary("rest")] if wires["rest"] else [])],
        given,
        IdentityAnsatz(),
        wires_per_task={name: count for name, count in wires.items() if count},
        readouts={"t0": case.observable()},
    )


def _draw(circuit: HeadCircuit, initial: str, samples: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    sizes = (circuit.n_features, circuit.n_encoding_weights, circuit.n_weights("t0"))
    if initial == "uniform":
        shape = (samples, sum(sizes))
        return 2 * math.pi * torch.rand(shape, generator=generator, dtype=torch.float64)
    features, encoding, block = (
        torch.randn(samples, size, generator=generator, dtype=torch.float64) for size in sizes
    )
    parts = [ANGLE_MAPS["tanh"](features), INITIAL_STD["encoding"] * encoding]
    return torch.cat([*parts, INITIAL_STD["block"] * block], dim=1)


def _columns(circuit: HeadCircuit) -> dict[str, int]:
    """Return the input column of each weight whose gradient is sampled, by name."""
    block = next(
        gate.angle.weight
        for gate in circuit.block_gates("t0")
        if gate.name == "RY" and gate.wires == (0,) and gate.angle is not None
    )
    assert block is not None
    columns = {"block": circuit.n_features + circuit.n_encoding_weights + block}
    if circuit.n_encoding_weights:
        # The first trainable rotation of the first layer acts on the first wire.
        columns["encoding"] = circuit.n_features
    return columns


def run_trainability(
    settings: TrainabilitySettings, out: Path, workers: Workers | None = None, say: Say = print
) -> None:
    """Sample every circuit, write CSV files and plots into the existing folder `out`, and say text.

    New files replace those of an earlier run. Circuits with samples in the subfolder ``cells`` are
    not sampled again. Without workers, circuits run one after another.

    Raises:
        QmtlError: if a circuit could not be sampled.
    """
    cells = [VarianceCell(case, settings.samples, settings.seed) for case in cases(settings)]
    sampled = results_of(cells, run_cells(cells, CellStore(out / "cells"), workers))
    found = [one for gradients in sampled for one in gradients.found]
    write_csv(out / "variance.csv", (one.as_row() for one in found))
    rates = decay_rates(found)
    rows = [
        dict(zip(RATE_KEYS, key, strict=True))
        | {"rate_per_wire": fit.slope, "error": fit.error, "points": fit.n}
        for key, fit in rates.items()
    ]
    write_csv(out / "rates.csv", rows)
    blocks = [one for one in found if one.weight == "block"]
    for name, shown in _figures(settings).items():
        save_figure(_figure(blocks, shown), out / f"{name}.png")
    say(
        f"variance of a block weight's gradient over {settings.samples} draws, as 2^(rate · "
        f"wires): a rate of -1 halves it with each wire"
    )
    for (readout, initial, entangler, layers, weight), fit in rates.items():
        if weight == "block":
            say(f"{initial:8s} {readout:17s} {layers:3d} layers {entangler:11s} rate {fit}")
    _tell_tasks(blocks, say)


def _tell_tasks(blocks: Sequence[GradientVariance], say: Say) -> None:
    import pandas as pd

    table = pd.DataFrame([one.as_row() for one in blocks])
    wanted = (table.study == "tasks") & (table.tasks >= WHOLE_CONE)
    for (initial, readout), own in table[wanted].groupby(["initial", "readout"], sort=False):
        if len(own) > 1:
            fit = power_law(own.tasks.tolist(), own.variance.tolist())
            say(
                f"{initial:8s} {readout:17s} on a register of 2 wires, T = "
                f"{own.tasks.iloc[0]} to {own.tasks.iloc[-1]}: variance as T^({fit})"
            )


def _figures(settings: TrainabilitySettings) -> dict[str, list[Panel]]:
    deep = max(settings.layers)
    return {
        "wires": [
            (f"block of {SHALLOW} layers, CZ ring", "wires", "cz_ring", SHALLOW),
            (f"{deep} layers, CZ ring", "wires", "cz_ring", deep),
            (f"{deep} layers, all to all", "wires", "all_to_all", deep),
        ],
        "layers": [
            ("block, CZ ring", "block layers", "cz_ring", None),
            ("block, all to all", "block layers", "all_to_all", None),
            ("encoding", "encoding layers", "cz_ring", None),
        ],
        "tasks": [("read on a register of 2 wires", "tasks", "cz_ring", None)],
    }


def _figure(found: Sequence[GradientVariance], shown: Sequence[Panel]) -> "Figure":
    """Draw a row of panels for each initial distribution, or one row if there is one panel."""
    draw = []
    for initial, (title, study, entangler, layers) in product(INITIALS, shown):
        wanted = (initial, study, entangler)
        own = [
            one
            for one in found
            if (one.case.initial, one.case.study, one.case.entangler) == wanted
            and layers in (None, one.case.block_layers)
        ]
        if not own:  # of an entangler that was not asked for
            continue
        varied = attrgetter(f"case.{study.replace(' ', '_')}")
        xlabel, whole = XLABELS.get(study, study), f"{title}\n{INITIALS[initial]}"
        draw.append(partial(plot_variance, own, against=varied, xlabel=xlabel, title=whole))
    columns = len(draw) // len(INITIALS) if len(shown) > 1 else len(INITIALS)
    figure = panels(draw, columns, (4.3, 3.5), sharey=True)
    for number, ax in enumerate(figure.axes):
        if number % columns:
            ax.set_ylabel("")
    return figure


def plot_variance(
    found: Sequence[GradientVariance],
    ax: "Axes | None" = None,
    *,
    against: Callable[[GradientVariance], int],
    xlabel: str,
    title: str,
) -> "Axes":
    """Draw one line per readout, with bars of two standard errors, on a log scale.

    Args:
        found: variances of one weight that differ in readout and in one number.
        ax: axes to draw on; None for those of a new figure.
        against: function that returns that number.
        xlabel: name of that number; for ``wires n``, the axis is linear.
        title: title of the axes.
    """
    check_rows("found", found, GradientVariance)
    check_type("against", against, Callable)  # type: ignore[arg-type]
    ax = axes_or_new(ax)
    for number, (readout, label) in enumerate(READOUTS.items()):
        own = [one for one in found if one.case.readout == readout and one.variance > 0]
        if not own:
            continue
        for fit in decay_rates(own).values():
            label += f" (2^({fit.slope:.2f} n))"
        ax.errorbar(
            [against(one) for one in own],
            [one.variance for one in own],
            # A log axis cannot show a bar that reaches zero.
            yerr=np.transpose([(min(2 * o.error, 0.9 * o.variance), 2 * o.error) for o in own]),
            label=label,
            markersize=4,
            capsize=2,
            elinewidth=0.8,
            **line_look(number),
        )
    ax.set_yscale("log", base=2)
    number_axis(ax, [against(one) for one in found], log=xlabel != XLABELS["wires"])
    ax.set_xlabel(xlabel)
    ax.set_ylabel("variance of the gradient (1/rad²)")
    ax.set_title(title, fontsize=10)
    legend_below(ax, fontsize=7.5)
    return ax
