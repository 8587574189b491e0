"""Parameter shift: gradients of a head circuit from measurements at shifted angles.

Each output is A + B cos θ + C sin θ in the angle θ of each rotation, for any noise after the
rotation. So the derivative is half the difference of the outputs at θ + π/2 and θ - π/2. Every
rotation is shifted separately; torch applies the chain rule from angles to features and weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import pi
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from qmtl.circuit import Angle, Ansatz, Gate, HeadCircuit, Walk, elementary, gates_by_wire, rebuilt
from qmtl.errors import InvalidInputError
from qmtl.simulators._angles import AngleTable, TableBuilder, angle_columns

# A function from angles (rows, rotations) to some tasks' measured outputs (rows, outputs).
Measured = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Given:
    """An encoding, or a task's block on its register, that consists of given gates."""

    given: tuple[Gate, ...]
    rotations: int = 0

    def n_features(self, n_wires: int) -> int:
        return self.rotations

    def n_weights(self, n_wires: int, read: Sequence[int] = ()) -> int:
        return 0

    def gates(self, n_wires: int, read: Sequence[int] = ()) -> list[Gate]:
        return list(self.given)


@dataclass(frozen=True)
class ShiftPlan:
    """A copy of a circuit in which every rotation has a separate angle.

    Attributes:
        circuit: a circuit with the same gates, in which feature i is the angle of the i-th
            rotation.
        needed: for each task, the rotations that its outputs may depend on.
        table: table of the rotations' angles.
        rows: row of each rotation in the table; sampled angles come first.
    """

    circuit: HeadCircuit
    needed: dict[str, tuple[int, ...]]
    table: AngleTable
    rows: NDArray[np.int64]

    def angles(self, angles: Tensor, weights: Tensor) -> Tensor:
        """Return the angle of each rotation, shape (batch, rotations), differentiable.

        Args:
            angles: encoding angles in radians, shape (batch, n_features).
            weights: all weights of the circuit in one flat vector.
        """
        fixed = self.table.fixed(weights).expand(len(angles), -1)
        found = torch.cat([self.table.sampled(angles, weights).T, fixed], dim=1)
        return found[:, torch.from_numpy(self.rows).to(angles.device)]

    def shifts(self, tasks: Sequence[str]) -> int:
        """Return the number of circuits per sample for the gradients of these tasks."""
        if self.circuit.layout == "shared":
            return 2 * sum(len(self.needed[task]) for task in tasks)
        return 2 * len({i for task in tasks for i in self.needed[task]})

    def reach(self, tasks: Sequence[str]) -> Tensor:
        """Return which outputs each rotation can change, shape (rotations, outputs)."""
        found = []
        for task in tasks:
            n_outputs = self.circuit.register(task).readout.n_outputs
            found.append(torch.zeros(self.circuit.n_features, n_outputs))
            found[-1][list(self.needed[task])] = 1
        return torch.cat(found, 1)


@lru_cache(maxsize=16)
def shift_plan(circuit: HeadCircuit) -> ShiftPlan:
    """Return the plan of a circuit's shifts.

    Example:
        >>> from qmtl import Task
        >>> plan = shift_plan(HeadCircuit([Task.binary("a"), Task.binary("b")]))
        >>> plan.circuit.n_features, len(plan.needed["a"]), plan.shifts(["a"])
        (24, 18, 36)

    References:
        Mitarai et al., arXiv:1803.00745; Schuld et al., arXiv:1811.11184.
    """
    angles: list[Angle] = []

    def freed(owner: str, gates: Sequence[Gate]) -> tuple[Gate, ...]:
        found = []
        for gate in gates:
            if gate.angle is not None:
                angles.append(replace(gate.angle, owner=owner))
                gate = replace(gate, angle=Angle(features=(len(angles) - 1,)))
            found.append(gate)
        return tuple(found)

    encoding = freed("encoding", circuit.encoding_gates)
    blocks: dict[str, Ansatz] = {}
    for name, register in circuit.registers.items():
        n = len(register.wires)
        own = elementary(circuit.ansatz(name).gates(n, register.readout.read_wires(n)))
        blocks[name] = _Given(freed(name, own))
    twin = rebuilt(circuit, _Given(encoding, len(angles)), blocks)
    builder = TableBuilder()
    added = builder.add(angle_columns(angles, circuit.weight_slices).at(None))
    table = builder.finish()
    rows = added.rows[0] + np.where(added.is_sampled, 0, table.n_sampled)
    index = gates_by_wire(encoding)
    needed = {}
    for name, register in circuit.registers.items():
        block = twin.block_gates(name)
        read = register.readout.read_wires(len(register.wires))
        # Keep gates that cancel: their noise may change the outputs.
        walk = Walk([register.wires[i] for i in read], commuting=False)
        kept = [block[i] for i in walk.back_through(block, gates_by_wire(block))]
        kept += [encoding[i] for i in walk.back_through(encoding, index)]
        needed[name] = tuple(sorted(g.angle.features[0] for g in kept if g.angle is not None))
    return ShiftPlan(twin, needed, table, rows)


def shifted_values(
    plan: ShiftPlan, tasks: Sequence[str], angles: Tensor, values: Tensor, measured: Measured
) -> Tensor:
    """Return `values` with gradients by the parameter-shift rule, for torch's backward pass.

    Args:
        plan: plan of the circuit.
        tasks: tasks of the outputs.
        angles: angles of the rotations, shape (batch, rotations); see `ShiftPlan.angles`.
        values: the outputs at these angles, side by side, shape (batch, outputs).
        measured: function that measures the same outputs at other angles.
    """
    found: Tensor = _Shifted.apply(angles, values, plan.reach(tasks), measured)
    return found


class _Shifted(torch.autograd.Function):
    """Passes measured outputs on; the backward pass measures at shifted angles."""

    @staticmethod
    def forward(
        ctx: Any, angles: Tensor, values: Tensor, reach: Tensor, measured: Measured
    ) -> Tensor:
        ctx.save_for_backward(angles)
        ctx.rest = reach, measured
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (angles,), (reach, measured) = ctx.saved_tensors, ctx.rest
        try:
            used = gradient.detach().ne(0).any(0).tolist()
        except RuntimeError:
            raise InvalidInputError(
                "parameter shift with shots cannot compute a batch of gradients: use a scalarizer, "
                "or one row of the Jacobian at a time"
            ) from None
        reach, slopes = reach.to(angles), torch.zeros_like(angles)
        columns = reach[:, used].any(1).nonzero()[:, 0]
        if len(columns):
            one = torch.eye(angles.shape[1]).to(angles)[columns] * (pi / 2)
            rows = angles[:, None, None] + torch.stack([one, -one], 1)
            outputs = measured(rows.reshape(-1, angles.shape[1]))
            plus, minus = outputs.reshape(len(angles), len(columns), 2, -1).unbind(2)
            # Outputs that a rotation cannot change differ by shot noise only: drop the difference.
            halves = (plus - minus) / 2 * reach[columns]
            slopes[:, columns] = (halves * gradient[:, None]).sum(-1)
        return slopes, None, None, None
