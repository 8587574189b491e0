"""Zero-noise extrapolation: estimates without noise from outputs at several noise strengths."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from qmtl.circuit import HeadCircuit
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.simulators import Simulator

METHODS = ("richardson", "linear", "exponential")


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
