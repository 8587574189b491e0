"""Trainability: the variance of the gradient against wires, layers and number of tasks.

Where the variance falls exponentially with the number of wires, gradient descent from a random
start finds nothing to follow (a barren plateau). It does for readouts over all wires, and for any
readout once the block is deep and mixes all wires; a partitioned circuit with local readouts has
cones of constant size, and so a variance that does not change with the number of tasks.

References:
    McClean et al., arXiv:1803.11173; Cerezo et al., arXiv:2001.00550.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from qmtl.circuit import Angle, Gate, HeadCircuit, IdentityAnsatz
from qmtl.errors import unknown_name
from qmtl.experiments._fits import Fit, exponential_rate
from qmtl.experiments._trainability_cases import (
    INITIALS,
    READOUTS,
    Case,
    TrainabilitySettings,
    cases,
    readout_of,
)
from qmtl.heads import INITIAL_STD
from qmtl.simulators import ANGLE_MAPS, LightConeSimulator
from qmtl.tasks import Task

__all__ = [
    "INITIALS",
    "READOUTS",
    "Case",
    "GradientVariance",
    "TrainabilitySettings",
    "cases",
    "decay_rates",
    "gradient_variance",
]


@dataclass(frozen=True)
class GradientVariance:
    """The sampled variance of one weight's gradient.

    Attributes:
        case: the circuit.
        weight: ``block``: of the first RY of the task's block on its first wire; ``encoding``: of
            the first trainable rotation of the encoding on that wire.
        samples: random draws of all angles and weights.
        variance: of the derivative of the readout's value (in [-1, 1] or [0, 1]) by the weight.
        error: standard error of that estimate.
    """

    case: Case
    weight: str
    samples: int
    variance: float
    error: float

    def as_row(self) -> dict[str, Any]:
        """Flat fields, for a table."""
        own = {name: getattr(self, name) for name in ("weight", "samples", "variance", "error")}
        return asdict(self.case) | own


def gradient_variance(case: Case, *, samples: int = 200, seed: int = 0) -> list[GradientVariance]:
    """Sample the gradient of a block weight, and of an encoding weight if there is one.

    All draws are one batch: the circuit is rewritten so that its weights are inputs too, which
    one forward and one backward pass differentiate for every draw.

    Args:
        case: the circuit.
        samples: random draws.
        seed: of the draws.

    Raises:
        InvalidInputError: for an unknown readout or initial distribution.
        CircuitTooLargeError: if the cone does not fit in memory.

    Example:
        >>> case = Case("wires", "local", "uniform", "cz_ring", wires=2, block_layers=2)
        >>> [(found.weight, 0 < found.variance < 0.5) for found in gradient_variance(case)]
        [('block', True), ('encoding', True)]
    """
    if case.initial not in INITIALS:
        raise unknown_name("initial distribution", case.initial, INITIALS)
    circuit = case.circuit()
    drawn = _with_weights_as_inputs(circuit, case)
    inputs = _draw(circuit, case.initial, samples, seed).requires_grad_()
    # No weight is left, but the contract asks for the vectors.
    empty = {name: inputs.new_empty(0) for name in ("encoding", "t0")}
    values = LightConeSimulator().expectation_values(drawn, inputs, empty, ["t0"])["t0"]
    (gradients,) = torch.autograd.grad(values[:, 0].sum(), inputs)
    found = []
    for weight, column in _columns(circuit).items():
        own = gradients[:, column] - gradients[:, column].mean()
        variance = float(own.square().sum() / (samples - 1))
        error = math.sqrt(max(0.0, float(own.pow(4).mean()) - variance**2) / samples)
        found.append(GradientVariance(case, weight, samples, variance, error))
    return found


def decay_rates(found: Sequence[GradientVariance]) -> dict[tuple[str, str, str, int, str], Fit]:
    """Rates of the variance with wires: it changes as 2^(slope · wires).

    Returns:
        (readout, initial, entangler, block layers, weight) to the fit. A slope of -1 halves the
        variance with each wire. Series with fewer than two positive variances are left out.
    """
    grouped: dict[tuple[str, str, str, int, str], dict[int, float]] = {}
    for one in found:
        case = one.case
        if case.study == "wires" and one.variance > 0:
            key = (case.readout, case.initial, case.entangler, case.block_layers, one.weight)
            grouped.setdefault(key, {})[case.wires] = one.variance
    return {
        key: exponential_rate(list(series), list(series.values()))
        for key, series in grouped.items()
        if len(series) > 1
    }


@dataclass(frozen=True)
class _Given:
    """An encoding that is a given list of gates, all of whose angles are inputs."""

    given: tuple[Gate, ...]
    n_inputs: int

    def n_features(self, n_wires: int) -> int:
        return self.n_inputs

    def n_weights(self, n_wires: int) -> int:
        return 0

    def gates(self, n_wires: int) -> list[Gate]:
        return list(self.given)


def _with_weights_as_inputs(circuit: HeadCircuit, case: Case) -> HeadCircuit:
    """The first task's circuit; inputs are features, encoding weights and the task's weights."""
    first = {"encoding": circuit.n_features}
    first["t0"] = circuit.n_features + circuit.n_encoding_weights

    def as_input(gate: Gate) -> Gate:
        angle = gate.angle
        if angle is None or angle.weight is None:
            return gate
        column = first[angle.owner] + angle.weight
        return replace(gate, angle=Angle((*angle.features, column), constant=angle.constant))

    given = tuple(as_input(gate) for gate in circuit.gates("t0"))
    # Whatever lies beside the first register is one more, which is never asked for.
    rest = circuit.n_wires - case.wires
    tasks = [circuit.task("t0"), *([Task.binary("rest")] if rest else [])]
    return HeadCircuit(
        tasks,
        _Given(given, first["t0"] + circuit.n_weights("t0")),
        IdentityAnsatz(),
        wires_per_task={"t0": case.wires} | ({"rest": rest} if rest else {}),
        readouts={"t0": readout_of(case.readout, case.wires)},
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
    """The inputs whose gradients are looked at, by the name of the weight."""
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
