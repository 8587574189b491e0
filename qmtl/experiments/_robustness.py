"""Robustness: the effect of noise on a trained model, and on untrained heads of many shapes."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from qmtl.circuit import AngleEncoding, HeadCircuit, RotationAnsatz
from qmtl.data import Split
from qmtl.errors import InvalidInputError
from qmtl.experiments._extrapolation import ExtrapolatedSimulator
from qmtl.heads import QuantumHead
from qmtl.model import MultiTaskModel
from qmtl.noise import DeviceNoise
from qmtl.simulators import LightConeSimulator, NoisySimulator, ShotSimulator, Simulator
from qmtl.tasks import Task
from qmtl.training import evaluate

__all__ = [
    "HeadRobustness",
    "StudySettings",
    "UnderNoise",
    "evaluate_under_noise",
    "study",
]

NONE = "none"


@dataclass(frozen=True)
class UnderNoise:
    """A model's metrics under noise of one strength.

    Attributes:
        scale: strength of the noise.
        method: of zero-noise extrapolation; ``"none"`` without it.
        metrics: task → metric → value. ``deviation`` is the root mean square over samples and
            outputs of the difference of Z values or probabilities from those without noise.
    """

    scale: float
    method: str
    metrics: Mapping[str, Mapping[str, float]]

    def rows(self) -> list[dict[str, Any]]:
        """One row per task and metric."""
        return [
            {
                "scale": self.scale,
                "extrapolation": self.method,
                "task": task,
                "metric": metric,
                "value": value,
            }
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
    """Evaluate a model under noise of several strengths.

    Args:
        model: with a quantum head; the model and its simulator stay unchanged.
        split: the rows.
        noise: of strength 1.
        scales: strengths.
        shots: measurements per sample and strength; None for exact values.
        extrapolate: method of zero-noise extrapolation from the scales of at least 1, which a
            device can reach; None for none. It adds one entry, of scale 1.
        seed: of the shots.

    Raises:
        InvalidInputError: for a head without a circuit, or fewer than two scales to extrapolate.

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
    """Expectation values or probabilities of each row, by task."""
    model.eval()
    head = model.head.with_simulator(simulator)
    reference = next(model.parameters())
    parts = [
        head.expectation_values(head.angles(model.encoder(chunk.to(reference))))
        for chunk in split.inputs.split(256)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class StudySettings:
    """The heads to study: one number varies, the others are those of the default design.

    Attributes:
        tasks: numbers of binary tasks of two wires each.
        layers: numbers of encoding layers.
        block_layers: numbers of block layers.
        entanglers: of encoding and block.
        samples: random angles per head.
        seed: of angles and weights.
    """

    tasks: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128)
    layers: tuple[int, ...] = (1, 2, 3)
    block_layers: tuple[int, ...] = (1, 2, 4, 8)
    entanglers: tuple[str, ...] = ("none", "cz_line", "cz_ring", "cnot_ring")
    samples: int = 100
    seed: int = 0


@dataclass(frozen=True)
class HeadRobustness:
    """The effect of noise on one untrained head, at random angles and initial weights.

    Attributes:
        varied: which number of the design is varied.
        value: its value.
        deviation: root mean square of the difference of Z values from those without noise.
        signal: slope of the Z values under noise against those without, by least squares: the share
            of the signal that is left.
        two_qubit_depth: of the circuit.
    """

    varied: str
    value: int | str
    deviation: float
    signal: float
    two_qubit_depth: int

    def as_row(self) -> dict[str, Any]:
        """For a table."""
        return asdict(self)


def study(
    noise: Callable[[int], DeviceNoise], settings: StudySettings | None = None
) -> list[HeadRobustness]:
    """Robustness of heads against tasks, depth and entangler.

    Args:
        noise: number of wires to the noise.
        settings: which heads.

    Example:
        >>> settings = StudySettings((2, 4), (), (), (), samples=4)
        >>> [one.value for one in study(lambda n: DeviceNoise.uniform(readout=0.1), settings)]
        [2, 4]
    """
    chosen = settings or StudySettings()
    designs: list[tuple[str, int | str, HeadCircuit]] = []
    designs += [("tasks", n, _circuit(n)) for n in chosen.tasks]
    designs += [("encoding layers", n, _circuit(layers=n)) for n in chosen.layers]
    designs += [("block layers", n, _circuit(block_layers=n)) for n in chosen.block_layers]
    designs += [("entangler", name, _circuit(entangler=name)) for name in chosen.entanglers]
    return [
        _robustness(varied, value, circuit, noise(circuit.n_wires), chosen)
        for varied, value, circuit in designs
    ]


def _circuit(
    tasks: int = 8, layers: int = 2, block_layers: int = 2, entangler: str = "cz_ring"
) -> HeadCircuit:
    return HeadCircuit(
        [Task.binary(f"t{i}") for i in range(tasks)],
        AngleEncoding(n_layers=layers, entangler=entangler),
        RotationAnsatz(n_layers=block_layers, entangler=entangler),
    )


def _robustness(
    varied: str, value: int | str, circuit: HeadCircuit, noise: DeviceNoise, settings: StudySettings
) -> HeadRobustness:
    head = QuantumHead(circuit, seed=settings.seed).double()
    generator = torch.Generator().manual_seed(settings.seed)
    shape = (settings.samples, circuit.n_features)
    angles = (2 * torch.rand(shape, dtype=torch.float64, generator=generator) - 1) * math.pi
    with torch.no_grad():
        ideal, noisy = (
            torch.cat(list(head.with_simulator(one).expectation_values(angles).values()), 1)
            for one in (LightConeSimulator(), NoisySimulator(noise))
        )
    return HeadRobustness(
        varied,
        value,
        float((noisy - ideal).square().mean().sqrt()),
        float((noisy * ideal).sum() / ideal.square().sum()),
        circuit.two_qubit_depth,
    )
