"""ShotSimulator: what finitely many measurements give, on top of any exact simulator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.errors import InvalidInputError, unknown_name
from qmtl.simulators.distributions import distribution_circuit, output_matrix
from qmtl.simulators.parameter_shift import ShiftPlan, check_shiftable, shift_plan, shifted_outputs
from qmtl.simulators.simulator import Simulator, check_inputs

__all__ = ["Estimate", "ShotSimulator"]

CACHED_CIRCUITS = 16
GRADIENTS = ("exact", "parameter-shift")


@dataclass(frozen=True)
class Estimate:
    """A task's outputs as estimated from shots.

    Attributes:
        values: shape (batch, n_outputs).
        errors: their standard errors, from the spread of the shots themselves: 0 where all shots
            agree, NaN for a single shot. Same shape.
    """

    values: Tensor
    errors: Tensor


class ShotSimulator:
    """Outputs estimated from a number of measurements (shots), as a device gives them.

    For each sample, a task's Z values and probabilities come from the same bit strings, drawn from
    the joint distribution of all wires that the task reads; tasks and samples are independent.

    Values are those of the shots. Their gradients are one of two estimates:

    * ``"exact"``: the exact gradients of the outputs' means, at no cost in shots
      (straight-through: for a loss that is not linear in the outputs, its slope is taken at the
      sampled values);
    * ``"parameter-shift"``: what a device would give. The derivative by each rotation's angle is
      half the difference of the outputs at that angle plus and minus π/2, each from `shots`
      measurements of its own; the chain rule goes on from there to features and weights. It has no
      bias, and a variance that falls as 1/shots. A backward pass measures two circuits per
      rotation and sample: `executions` tells how many that makes.

    Args:
        base: an exact simulator, such as `LightConeSimulator` or `NoisySimulator`.
        shots: measurements per sample, and in each shifted circuit.
        seed: of a stream of random numbers that every call goes on with. None draws from torch's
            global generator, which training seeds in each epoch, so that runs resume.
        gradient: ``"exact"`` or ``"parameter-shift"``.

    Raises:
        InvalidInputError: for shots that are no integer >= 1, a base that is sampled itself, an
            unknown gradient, or one whose rule does not hold: parameter shift under noise that
            makes rotations turn by another factor than 1, or through an extrapolation.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> from qmtl.simulators import LightConeSimulator
        >>> circuit = HeadCircuit([Task.binary("a")])
        >>> weights = {"encoding": torch.zeros(2), "a": torch.zeros(6)}
        >>> angles = torch.tensor([[1.0, 0.0]])
        >>> simulator = ShotSimulator(LightConeSimulator(), shots=100, seed=0)
        >>> estimate = simulator.estimate(circuit, angles, weights)["a"]
        >>> bool((estimate.values - torch.cos(2 * angles[:, :1])).abs() < 4 * estimate.errors)
        True
    """

    def __init__(
        self, base: Simulator, shots: int, seed: int | None = None, gradient: str = "exact"
    ) -> None:
        if not isinstance(base, Simulator) or isinstance(base, ShotSimulator):
            raise InvalidInputError(f"base must be an exact simulator, got {base!r}")
        shots = _integer("shots", shots, 1)
        seed = None if seed is None else _integer("seed", seed, 0)
        if gradient not in GRADIENTS:
            raise unknown_name("gradient", gradient, GRADIENTS)
        if gradient == "parameter-shift":
            check_shiftable(base)
        self.gradient = gradient
        self.base = base
        self.shots = shots
        self.seed = seed
        self._random = None if seed is None else np.random.default_rng(seed)
        self._lock = Lock()
        self._prepare = lru_cache(maxsize=CACHED_CIRCUITS)(_prepared)
        self._shifts = lru_cache(maxsize=CACHED_CIRCUITS)(shift_plan)

    def expectation_values(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Mapping[str, Tensor],
        tasks: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Each task's outputs from shots, shape (batch, n_outputs); see `Simulator`."""
        chosen = check_inputs(circuit, angles, weights, tasks)
        if self.gradient == "exact":
            return self._sampled(circuit, angles, weights, chosen)
        with torch.no_grad():
            values = self._sampled(circuit, angles, weights, chosen)
        plan = self._plan(circuit)
        none = {name: angles.new_zeros(0) for name in weights}

        def sampled(task: str, rows: Tensor) -> Tensor:
            with torch.no_grad():
                return self._sampled(plan.circuit, rows, none, (task,))[task]

        return shifted_outputs(plan, plan.values(angles, weights), values, sampled)

    def executions(
        self, circuit: HeadCircuit, batch_size: int = 1, tasks: Sequence[str] | None = None
    ) -> tuple[int, int]:
        """Measurements that a device would make for the values, and for their gradients.

        Circuits times shots; in the partitioned layout one circuit serves all tasks.

        Example:
            >>> from qmtl import HeadCircuit, Task
            >>> from qmtl.simulators import LightConeSimulator
            >>> circuit = HeadCircuit([Task.binary("a"), Task.binary("b")])
            >>> shifted = ShotSimulator(LightConeSimulator(), 1000, gradient="parameter-shift")
            >>> shifted.executions(circuit, batch_size=32)  # 24 rotations, each shifted twice
            (32000, 1536000)
        """
        chosen = list(circuit.registers) if tasks is None else list(tasks)
        several = len(chosen) if circuit.layout == "shared" else min(1, len(chosen))
        shifted = self._plan(circuit).shifts(chosen) if self.gradient != "exact" else 0
        return several * batch_size * self.shots, shifted * batch_size * self.shots

    def _plan(self, circuit: HeadCircuit) -> ShiftPlan:
        with self._lock:
            return self._shifts(circuit)

    def _sampled(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Mapping[str, Tensor],
        chosen: tuple[str, ...],
    ) -> dict[str, Tensor]:
        """Outputs from shots, with the exact gradients of their means."""
        likely, matrices = self._distributions(circuit, angles, weights, chosen)
        counts = self._draw(likely)
        outputs = {}
        for name in chosen:
            matrix = matrices[name].to(angles)
            sampled = torch.from_numpy(counts[name] / self.shots).to(angles) @ matrix.T
            outputs[name] = _StraightThrough.apply(likely[name] @ matrix.T, sampled)
        return outputs

    def counts(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Mapping[str, Tensor],
        tasks: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """How often each bit string was drawn, shape (batch, 2^wires read), int64.

        Bit strings are of the wires that the task's readout reads, the first most significant.
        """
        chosen = check_inputs(circuit, angles, weights, tasks)
        likely, _ = self._distributions(circuit, angles, weights, chosen)
        return {name: torch.from_numpy(n) for name, n in self._draw(likely).items()}

    def estimate(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Mapping[str, Tensor],
        tasks: Sequence[str] | None = None,
    ) -> dict[str, Estimate]:
        """Each task's outputs from shots, with standard errors and without gradients."""
        drawn = self.counts(circuit, angles, weights, tasks)
        _, matrices = self._prepare(circuit)
        return {name: self._estimate(n, matrices[name], angles) for name, n in drawn.items()}

    def _estimate(self, counts: Tensor, matrix: Tensor, angles: Tensor) -> Estimate:
        shares = counts.to(torch.float64) / self.shots
        values = shares @ matrix.T
        # One shot's variance; a pass over the deviations keeps digits that a difference would lose.
        spread = (shares[:, None] * (matrix - values[..., None]).square()).sum(-1)
        rest = self.shots - 1
        errors = (spread / rest).sqrt() if rest else torch.full_like(spread, torch.nan)
        values, errors = (part.to(angles) for part in (values, errors))
        return Estimate(values, errors)

    def _distributions(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Mapping[str, Tensor],
        chosen: tuple[str, ...],
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if torch._C._are_functorch_transforms_active():
            raise InvalidInputError(
                "shots cannot be drawn within vmap or torch.func's transforms; give the whole batch"
            )
        with self._lock:
            twin, matrices = self._prepare(circuit)
        return self.base.expectation_values(twin, angles, weights, chosen), matrices

    def _draw(self, likely: Mapping[str, Tensor]) -> dict[str, NDArray[np.int64]]:
        """Counts of each task; tasks with equally many bit strings are drawn in one call."""
        sizes: dict[int, list[str]] = {}
        for name, probabilities in likely.items():
            sizes.setdefault(probabilities.shape[1], []).append(name)
        counts: dict[str, NDArray[np.int64]] = {}
        with self._lock:
            random = self._random
            if random is None:
                random = np.random.default_rng(int(torch.randint(2**62, ())))
            for names in sizes.values():
                shares = torch.stack([likely[name].detach() for name in names])
                # Rounding leaves probabilities that are negative or do not add up to 1.
                exact = np.clip(shares.cpu().double().numpy(), 0, None)
                exact /= exact.sum(axis=-1, keepdims=True)
                counts |= dict(zip(names, random.multinomial(self.shots, exact), strict=True))
        return counts

    def __getstate__(self) -> dict[str, Any]:
        # The stream goes on where it is, in a copy too.
        return {
            "settings": (self.base, self.shots, self.seed, self.gradient),
            "random": self._random,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["settings"])  # type: ignore[misc]
        self._random = state["random"]

    def __repr__(self) -> str:
        shifts = "" if self.gradient == "exact" else f", gradient={self.gradient!r}"
        return f"ShotSimulator({self.base!r}, shots={self.shots}, seed={self.seed}{shifts})"


def _prepared(circuit: HeadCircuit) -> tuple[HeadCircuit, dict[str, Tensor]]:
    matrices = {name: output_matrix(register) for name, register in circuit.registers.items()}
    return distribution_circuit(circuit), matrices


class _StraightThrough(torch.autograd.Function):
    """Sampled values with the gradient of the exact ones."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, sampled: Tensor) -> Tensor:
        return sampled.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _integer(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InvalidInputError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)
