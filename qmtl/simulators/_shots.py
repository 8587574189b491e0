"""ShotSimulator: outputs estimated from shots of any exact simulator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.compiler import is_exporting

from qmtl.circuit import ROTATIONS, HeadCircuit, distribution_circuit, output_matrix
from qmtl.errors import InvalidInputError, check_integer, unknown_name
from qmtl.simulators._contract import (
    Simulator,
    check_angles,
    check_weights,
    joined_weights,
    output_layout,
)
from qmtl.simulators._explain import Explanation
from qmtl.simulators._noisy import NoisySimulator
from qmtl.simulators._parameter_shift import shift_plan, shifted_values

GRADIENTS = ("exact", "parameter-shift")


@dataclass(frozen=True)
class Estimate:
    """A task's outputs, estimated from shots.

    Attributes:
        values: estimated outputs, shape (batch, n_outputs).
        errors: their standard errors, from the spread of the shots, in the same shape: 0 if all
            shots agree, NaN for a single shot.
    """

    values: Tensor
    errors: Tensor


class ShotSimulator(Simulator):
    """Outputs estimated from a number of measurements (shots), as on a device.

    For each sample, a task's Z values and probabilities come from the same bit strings, drawn from
    the joint distribution of all wires that the task reads; tasks and samples are independent.

    Values are estimates from the shots. `gradient` chooses their gradients:

    * ``"exact"``: the exact gradients of the outputs' means, without further shots
      (straight-through: the slope of the loss is taken at the sampled values);
    * ``"parameter-shift"``: the gradients that a device would give. The derivative with respect to
      a rotation's angle is half the difference of the outputs at that angle plus and minus π/2,
      each from `shots` new measurements; the chain rule then gives features and weights. These
      derivatives have no bias, and a variance that falls as 1/shots. A backward pass measures two
      circuits per rotation and sample; `executions` counts the measurements.

    Args:
        base: an exact simulator, such as `LightConeSimulator` or `NoisySimulator`.
        shots: measurements per sample, and in each shifted circuit.
        seed: seed of a random stream that all calls share. None draws from torch's global
            generator; training seeds this generator in each epoch, so that a resumed run draws the
            same numbers.
        gradient: ``"exact"`` or ``"parameter-shift"``.

    Raises:
        InvalidInputError: for shots that are not an integer >= 1, a base that itself samples, an
            unknown gradient, or a base to which parameter shift does not apply: one that
            extrapolates, or whose noise multiplies rotation angles by a factor.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> from qmtl.simulators import LightConeSimulator
        >>> circuit = HeadCircuit([Task.binary("a")])
        >>> weights, angles = torch.zeros(circuit.n_circuit_weights), torch.tensor([[1.0, 0.0]])
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
        if gradient not in GRADIENTS:
            raise unknown_name("gradient", gradient, GRADIENTS)
        if gradient == "parameter-shift":
            _check_shiftable(base)
        self.gradient = gradient
        self.base = base
        given: list[Any] = [shots, seed]
        shots, seed = (int(v) if isinstance(v, np.integer) else v for v in given)
        self.shots = check_integer("shots", shots)
        if shots >= 2**63:  # NumPy counts in 64 bits
            raise InvalidInputError(f"shots must be less than 2**63, got {shots}")
        self.seed = None if seed is None else check_integer("seed", seed, 0)
        self._random = None if seed is None else np.random.default_rng(self.seed)

    def values(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Tensor,
        tasks: Sequence[str] | None = None,
    ) -> Tensor:
        chosen = check_angles(circuit, angles, tasks)
        check_weights(circuit, weights, angles)
        if self.gradient == "exact":
            return self._sampled(circuit, angles, weights, chosen)
        with torch.no_grad():
            values = self._sampled(circuit, angles, weights, chosen)
        plan = shift_plan(circuit)
        turned, none = plan.angles(angles, weights), angles.new_zeros(0)
        found = [angles.new_zeros(len(angles), 0)]
        # Measure tasks separately, so that each task shifts only the rotations of its cone.
        parts = values.split(output_layout(circuit, chosen).sizes, dim=1)
        for task, own in zip(chosen, parts, strict=True):

            def measured(rows: Tensor, task: str = task) -> Tensor:
                return self._sampled(plan.circuit, rows, none, (task,))

            found.append(shifted_values(plan, [task], turned, own, measured))
        return torch.cat(found, dim=1)

    def executions(
        self, circuit: HeadCircuit, batch_size: int = 1, tasks: Sequence[str] | None = None
    ) -> tuple[int, int]:
        """Count a device's measurements, circuits times shots, for the values and for gradients.

        In the partitioned layout one circuit serves all tasks.

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
        shifted = 0 if self.gradient == "exact" else shift_plan(circuit).shifts(chosen)
        return several * batch_size * self.shots, shifted * batch_size * self.shots

    def counts(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Tensor | Mapping[str, Tensor],
        tasks: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Return how often each bit string was drawn, int64, shape (batch, 2^read wires).

        Bit strings cover the wires that the task's readout reads, the first wire as the most
        significant bit. The arguments are those of `Simulator.expectation_values`.
        """
        chosen = check_angles(circuit, angles, tasks)
        flat = joined_weights(circuit, weights, chosen, angles)
        _, counts = self._drawn(circuit, angles, flat, chosen)
        return {name: torch.from_numpy(n) for name, n in counts.items()}

    def estimate(
        self,
        circuit: HeadCircuit,
        angles: Tensor,
        weights: Tensor | Mapping[str, Tensor],
        tasks: Sequence[str] | None = None,
    ) -> dict[str, Estimate]:
        """Return each task's outputs from shots, with standard errors and without gradients."""
        found, rest = {}, self.shots - 1
        for name, counts in self.counts(circuit, angles, weights, tasks).items():
            matrix = torch.from_numpy(output_matrix(circuit.register(name)))
            shares = counts.double() / self.shots
            values = shares @ matrix.T
            # The variance of one shot, from squared deviations: a difference of means loses digits.
            spread = (shares[:, None] * (matrix - values[..., None]).square()).sum(-1)
            errors = (spread / rest).sqrt() if rest else torch.full_like(spread, torch.nan)
            found[name] = Estimate(values.to(angles), errors.to(angles))
        return found

    def explain(
        self, circuit: HeadCircuit, batch_size: int, dtype: torch.dtype = torch.float32
    ) -> Explanation:
        """Return the cost of a training step on the exact simulator `base`."""
        return self.base.explain(circuit, batch_size, dtype)

    def to_dict(self) -> dict[str, Any]:
        drawn = {"shots": self.shots, "seed": self.seed, "gradient": self.gradient}
        return {"type": "shots", "base": self.base.to_dict(), **drawn}

    def _sampled(
        self, circuit: HeadCircuit, angles: Tensor, weights: Tensor, chosen: Sequence[str]
    ) -> Tensor:
        """Draw outputs from shots, side by side, with the exact gradients of their means."""
        likely, counts = self._drawn(circuit, angles, weights, chosen)
        outputs = [angles.new_zeros(len(angles), 0)]
        for name in chosen:
            matrix = torch.from_numpy(output_matrix(circuit.register(name))).to(angles).T
            exact = likely[name] @ matrix
            sampled = torch.from_numpy(counts[name] / self.shots).to(angles) @ matrix
            # Straight-through: the bracket is zero, but has the exact gradient.
            outputs.append(sampled + (exact - exact.detach()))
        return torch.cat(outputs, dim=1)

    def _drawn(
        self, circuit: HeadCircuit, angles: Tensor, weights: Tensor, chosen: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, NDArray[np.int64]]]:
        """Return each task's distribution over bit strings, and how often each was drawn."""
        if any(torch.func.debug_unwrap(tensor) is not tensor for tensor in (angles, weights)):
            raise InvalidInputError(
                "shots cannot be drawn within vmap or torch.func's transforms; give the whole batch"
            )
        if is_exporting():
            raise InvalidInputError(
                "shots cannot be exported; export the model with an exact simulator: "
                "model.with_simulator('lightcone')"
            )
        likely = self.base.expectation_values(
            distribution_circuit(circuit), angles, weights, chosen
        )
        random = self._random
        if random is None:
            random = np.random.default_rng(int(torch.randint(2**62, ())))
        # Tasks with the same number of bit strings are drawn in one call.
        sizes: dict[int, list[str]] = {}
        for name, probabilities in likely.items():
            sizes.setdefault(probabilities.shape[1], []).append(name)
        counts: dict[str, NDArray[np.int64]] = {}
        for names in sizes.values():
            shares = torch.stack([likely[name].detach() for name in names])
            # Rounding leaves probabilities that are negative or do not add up to 1.
            exact = np.clip(shares.cpu().double().numpy(), 0, None)
            exact /= exact.sum(axis=-1, keepdims=True)
            counts |= dict(zip(names, random.multinomial(self.shots, exact), strict=True))
        return likely, counts

    def __repr__(self) -> str:
        shifts = "" if self.gradient == "exact" else f", gradient={self.gradient!r}"
        return f"ShotSimulator({self.base!r}, shots={self.shots}, seed={self.seed}{shifts})"


def _check_shiftable(base: Simulator) -> None:
    """Raise `InvalidInputError` if parameter shift does not apply to a simulator's outputs."""
    if not base.follows_shift_rule:
        raise InvalidInputError(
            f"parameter shift needs outputs of a single circuit, but {base!r} computes each output "
            f"from several circuits, as extrapolation does: use gradient='exact'"
        )
    coherent = base.noise.coherent if isinstance(base, NoisySimulator) else {}
    stretched = [
        key
        for key, error in coherent.items()
        if error.relative and (key if isinstance(key, str) else key[0]) in ROTATIONS
    ]
    if stretched:
        raise InvalidInputError(
            f"parameter shift needs rotations by the exact angle, but the noise rescales angles of "
            f"{stretched} (CoherentError.relative): use gradient='exact'"
        )
