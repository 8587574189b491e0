"""Parameter shift: gradients of a head circuit from measurements at shifted angles.

An output is A + B cos θ + C sin θ in the angle θ of each rotation, whatever noise follows it, so
that its derivative is half the difference of the outputs at θ + π/2 and θ - π/2. Every rotation is
shifted by itself; the chain rule from there to features and weights is torch's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import pi
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qmtl.circuit.gates import ROTATIONS, Angle, Gate
from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.errors import InvalidInputError
from qmtl.simulators.extrapolation import ExtrapolatedSimulator
from qmtl.simulators.noisy import NoisySimulator
from qmtl.simulators.simulator import Simulator

__all__ = ["ShiftPlan", "check_shiftable", "shift_plan", "shifted_outputs"]

# From angles (rows, rotations) to a task's outputs from shots (rows, n_outputs).
Sampled = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class _Encoding:
    """An encoding that is given gate by gate."""

    given: tuple[Gate, ...]
    rotations: int

    def n_features(self, n_wires: int) -> int:
        return self.rotations

    def n_weights(self, n_wires: int) -> int:
        return 0

    def gates(self, n_wires: int) -> list[Gate]:
        return list(self.given)


@dataclass(frozen=True)
class _Block:
    """A task's block that is given gate by gate, on the wires of its register."""

    given: tuple[Gate, ...]

    def n_weights(self, n_wires: int, read: Sequence[int]) -> int:
        return 0

    def gates(self, n_wires: int, read: Sequence[int]) -> list[Gate]:
        return list(self.given)


@dataclass(frozen=True)
class ShiftPlan:
    """A circuit whose rotations have angles of their own.

    Attributes:
        circuit: the same gates; its feature i is the angle of the i-th rotation.
        angles: what each rotation's angle is made of, in the circuit given.
        needed: for each task, the rotations that its outputs may depend on.
    """

    circuit: HeadCircuit
    angles: tuple[Angle, ...]
    needed: dict[str, tuple[int, ...]]

    def values(self, angles: Tensor, weights: Any) -> Tensor:
        """The angle of each rotation, shape (batch, rotations), differentiable."""
        columns = []
        for angle in self.angles:
            value = angles.new_full((len(angles),), angle.constant)
            for feature in angle.features:
                value = value * angles[:, feature]
            if angle.weight is not None:
                value = value * weights[angle.owner][angle.weight]
            columns.append(value)
        return torch.stack(columns, 1) if columns else angles.new_zeros(len(angles), 0)

    def shifts(self, tasks: Sequence[str]) -> int:
        """Circuits that the gradients of these tasks take for each sample."""
        if self.circuit.layout == "shared":
            return 2 * sum(len(self.needed[task]) for task in tasks)
        return 2 * len({i for task in tasks for i in self.needed[task]})


def shift_plan(circuit: HeadCircuit) -> ShiftPlan:
    """The plan of a circuit.

    Example:
        >>> from qmtl import Task
        >>> plan = shift_plan(HeadCircuit([Task.binary("a"), Task.binary("b")]))
        >>> len(plan.angles), len(plan.needed["a"]), plan.shifts(["a"])
        (24, 18, 36)

    References:
        Mitarai et al., arXiv:1803.00745; Schuld et al., arXiv:1811.11184.
    """
    angles: list[Angle] = []

    def freed(gates: Sequence[Gate]) -> tuple[Gate, ...]:
        found = []
        for gate in gates:
            if gate.angle is not None:
                angles.append(gate.angle)
                gate = replace(gate, angle=Angle(features=(len(angles) - 1,)))
            found.append(gate)
        return tuple(found)

    encoding = freed(circuit.encoding_gates)
    blocks = {name: freed(circuit.block_gates(name)) for name in circuit.registers}
    shared = circuit.layout == "shared"
    sizes = {name: len(register.wires) for name, register in circuit.registers.items()}
    twin = HeadCircuit(
        list(circuit.tasks),
        _Encoding(encoding, len(angles)),
        {name: _Block(_local(circuit, name, gates)) for name, gates in blocks.items()},
        layout=circuit.layout,
        n_wires=circuit.n_wires if shared else None,
        wires_per_task=None if shared else sizes,
        readouts={name: register.readout for name, register in circuit.registers.items()},
    )
    needed = {name: _needed(circuit, name, (*encoding, *blocks[name])) for name in blocks}
    return ShiftPlan(twin, tuple(angles), needed)


def _local(circuit: HeadCircuit, task: str, gates: Sequence[Gate]) -> tuple[Gate, ...]:
    place = {wire: i for i, wire in enumerate(circuit.register(task).wires)}
    return tuple(replace(gate, wires=tuple(place[w] for w in gate.wires)) for gate in gates)


def _needed(circuit: HeadCircuit, task: str, gates: Sequence[Gate]) -> tuple[int, ...]:
    """Rotations within reach of the outputs, gates that cancel included: noise may tell them."""
    register = circuit.register(task)
    support = {register.wires[i] for i in register.readout.read_wires(len(register.wires))}
    found = []
    for gate in reversed(gates):
        if support.isdisjoint(gate.wires):
            continue
        support.update(gate.wires)
        if gate.angle is not None:
            found.append(gate.angle.features[0])
    return tuple(sorted(found))


def shifted_outputs(
    plan: ShiftPlan, angles: Tensor, values: dict[str, Tensor], sampled: Sampled
) -> dict[str, Tensor]:
    """Outputs from shots with gradients by parameter shift, which take shots of their own.

    Args:
        plan: of the circuit.
        angles: of the rotations, shape (batch, rotations).
        values: the outputs at these angles.
        sampled: outputs from shots at others.
    """
    return {
        name: _Shifted.apply(angles, value.detach(), name, plan.needed[name], sampled)
        for name, value in values.items()
    }


class _Shifted(torch.autograd.Function):
    """A task's sampled outputs; the backward pass samples at shifted angles."""

    @staticmethod
    def forward(
        ctx: Any,
        angles: Tensor,
        values: Tensor,
        task: str,
        needed: tuple[int, ...],
        sampled: Sampled,
    ) -> Tensor:
        ctx.save_for_backward(angles)
        ctx.task, ctx.needed, ctx.sampled = task, needed, sampled
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch._C._functorch.is_legacy_batchedtensor(gradient):
            raise InvalidInputError(
                "parameter shift with shots has no gradients in batches: take a scalarizer, or one "
                "row of the Jacobian at a time"
            )
        (angles,) = ctx.saved_tensors
        slopes = torch.zeros_like(angles)
        if ctx.needed and bool(gradient.any()):
            columns = torch.tensor(ctx.needed, device=angles.device)
            one = torch.eye(angles.shape[1]).to(angles)[columns] * (pi / 2)
            rows = angles[:, None, None] + torch.stack([one, -one], 1)
            rows = rows.reshape(-1, angles.shape[1])
            outputs = ctx.sampled(ctx.task, rows).reshape(len(angles), len(columns), 2, -1)
            halves = (outputs[:, :, 0] - outputs[:, :, 1]) / 2
            slopes[:, columns] = (halves * gradient[:, None]).sum(-1)
        return slopes, None, None, None, None


def check_shiftable(base: Simulator) -> None:
    """Raise `InvalidInputError` for a simulator whose outputs the rule does not hold for."""
    if isinstance(base, ExtrapolatedSimulator):
        raise InvalidInputError(
            "parameter shift needs outputs of one circuit, not extrapolated ones: take "
            "gradient='exact'"
        )
    if not isinstance(base, NoisySimulator):
        return
    stretched = [
        key
        for key, error in base.noise.coherent.items()
        if error.relative and (key if isinstance(key, str) else key[0]) in ROTATIONS
    ]
    if stretched:
        raise InvalidInputError(
            f"parameter shift needs rotations by the angle itself, the noise stretches {stretched} "
            f"(CoherentError.relative): take gradient='exact'"
        )
