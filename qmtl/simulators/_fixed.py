"""FixedCircuit: a circuit with fixed weights, as a few products of real matrices.

A rotation by a sample's angle is a phase in the basis in which its axis is Z. One matrix, computed
in double precision, combines all gates between two layers of these phases. So an exported circuit
has about a dozen operations for each layer that loads features, for any number of gates. It has no
complex numbers, because inference formats lack them.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from qmtl.circuit import HeadCircuit
from qmtl.errors import CircuitTooLargeError
from qmtl.simulators._angles import AngleTable
from qmtl.simulators._cones import Layer, Op
from qmtl.simulators._contract import cause_of_size
from qmtl.simulators._plan import Group, Structure, build_plan
from qmtl.simulators._torch import apply_layers, signs_of

MOST_NUMBERS = 2**25
"""Numbers that the matrices of a `FixedCircuit` may have: 128 MB in single precision."""


class FixedCircuit(nn.Module):
    """A circuit with fixed weights, for inference.

    Each cone of n wires has a real matrix of (2·2ⁿ)² numbers for each layer that loads features.
    The matrices may have at most `MOST_NUMBERS` numbers in all: enough for 1,024 tasks on cones of
    six wires, or two on cones of eleven.

    Args:
        circuit: the head circuit.
        weights: all weights of the circuit in one flat vector; the module computes in their type.

    Shape:
        angles (batch, n_features), in radians, to the outputs of all tasks side by side, (batch,
        outputs): Z values or probabilities.

    Raises:
        CircuitTooLargeError: if the matrices would be too large; no matrix is made before.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> circuit = HeadCircuit([Task.binary("a"), Task.binary("b")])
        >>> FixedCircuit(circuit, torch.zeros(circuit.n_circuit_weights))(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    weights: Tensor
    """All weights of the circuit, flat."""
    order: Tensor
    """The index of each output among the outputs of all groups."""

    def __init__(self, circuit: HeadCircuit, weights: Tensor) -> None:
        super().__init__()
        plan = build_plan(circuit, list(circuit.registers))
        self._check_size(circuit, plan.groups)
        self.table = plan.table
        self.register_buffer("weights", weights.detach().clone())
        columns = torch.cat([torch.from_numpy(group.columns).flatten() for group in plan.groups])
        self.register_buffer("order", columns.argsort())
        groups = [_FixedGroup(group, plan.table, self.weights) for group in plan.groups]
        self.groups = nn.ModuleList(groups)

    def _check_size(self, circuit: HeadCircuit, groups: tuple[Group, ...]) -> None:
        sizes = [_numbers(group) for group in groups]
        if sum(sizes) <= MOST_NUMBERS:
            return
        group = groups[max(range(len(sizes)), key=sizes.__getitem__)]
        task, wires = group.tasks[0], group.structure.n_wires
        # A matrix on n wires has as many numbers as 2n wires have amplitudes.
        cause = cause_of_size(circuit, task, 2 * wires, 2 * group.structure.n_inner)
        raise CircuitTooLargeError(
            f"the program of this circuit would have {sum(sizes):.2g} numbers, at most "
            f"{MOST_NUMBERS:,} are made; the cone of task {task!r} has {wires} of "
            f"{circuit.n_wires} wires and {_numbers(group) // group.n_members:.2g} numbers. {cause}"
        )

    def forward(self, angles: Tensor) -> Tensor:
        """Return the outputs of all tasks side by side."""
        sampled = self.table.sampled(angles, self.weights)
        values = torch.cat([group(sampled).flatten(0, 1) for group in self.groups])
        return values[self.order].T


class _Step:
    """Gates that are equal for all samples, then phases by the samples' angles.

    Attributes:
        gates: layers of the fixed gates.
        phases: wires and slot of each sampled angle.
        back: gates after the phases, which turn wires back into the computational basis.
    """

    def __init__(self, gates: Sequence[Op] = ()) -> None:
        self.gates = [Layer(False, tuple(gates))]
        self.phases: list[tuple[tuple[int, ...], int]] = []
        self.back: list[Op] = []

    def touches(self, wires: tuple[int, ...], *, diagonal: bool) -> bool:
        """Return whether a gate on these wires must come after the phases."""
        turned = {op.wires[0] for op in self.back}
        return not turned.union(() if diagonal else self._moving).isdisjoint(wires)

    @property
    def _moving(self) -> set[int]:
        return {wire for wires, _ in self.phases for wire in wires}

    def add(self, op: Op, *, diagonal: bool) -> None:
        """Add a gate before the phases."""
        if self.gates[-1].diagonal == diagonal:
            self.gates[-1] = Layer(diagonal, (*self.gates[-1].ops, op))
        else:
            self.gates.append(Layer(diagonal, (op,)))


def _steps(structure: Structure) -> list[_Step]:
    """Return a cone's gates as steps; the last step has no phases.

    Slots are numbered anew: the encoding's, then the block's, then one for π/2 and one for -π/2.
    """
    of_encoding, of_block = structure.encoding_slots, structure.block_slots
    start = sum(map(len, of_encoding))
    quarter = start + sum(map(len, of_block))
    moving = {*of_encoding[0], *(start + slot for slot in of_block[0])}
    steps = [_Step()]
    for first, layers in ((0, structure.encoding), (start, structure.block)):
        for layer in layers:
            for given in layer.ops:
                op = given if given.slot is None else replace(given, slot=first + given.slot)
                if steps[-1].touches(op.wires, diagonal=layer.diagonal):
                    steps.append(_Step(steps[-1].back))
                if op.slot is None or op.slot not in moving:
                    steps[-1].add(op, diagonal=layer.diagonal)
                    continue
                if not layer.diagonal:
                    # RY = RX(-π/2) RZ RX(π/2), and RX = RY(π/2) RZ RY(-π/2).
                    other, sign = ("RX", 0) if op.name == "RY" else ("RY", 1)
                    steps[-1].add(Op(other, op.wires, quarter + sign), diagonal=False)
                    steps[-1].back.append(Op(other, op.wires, quarter + 1 - sign))
                steps[-1].phases.append((op.wires, op.slot))
    return [*steps, _Step(steps[-1].back)] if steps[-1].phases else steps


def _numbers(group: Group) -> int:
    """Count the numbers of a group's matrices; the first step is a state and not a matrix."""
    n_matrices = max(1, len(_steps(group.structure)) - 1)
    return group.n_members * n_matrices << 2 * (group.structure.n_wires + 1)


class _FixedGroup(nn.Module):
    """The cones of a group: from sampled angles (angles, batch) to (members, n_outputs, batch)."""

    readout: Tensor

    def __init__(self, group: Group, table: AngleTable, weights: Tensor) -> None:
        super().__init__()
        structure, exact = group.structure, weights.double().cpu()
        parts = (group.encoding, group.block)
        given = exact.new_zeros(table.n_sampled, 1), table.fixed(exact)
        angles = [angle for part in parts for angle in part.angles(*given)]
        angles += [exact.new_full((1, 1), sign * math.pi / 2) for sign in (1, -1)]
        rows = [torch.from_numpy(own) for part in parts for own in part.rows.T]
        steps = _steps(structure)
        self.n_steps, self.n_members = len(steps), group.n_members
        for number, step in enumerate(steps):
            matrix = _matrix(step.gates, angles, structure.n_wires, first=number == 0)
            self.register_buffer(f"matrix_{number}", matrix.to(weights))
            if step.phases:
                wires = tuple(wires for wires, _ in step.phases)
                signs = signs_of(wires, structure.n_wires, flips=False)
                chosen = torch.broadcast_tensors(*(rows[slot] for _, slot in step.phases))
                self.register_buffer(f"halves_{number}", torch.tensor(signs.T / -2).to(weights))
                self.register_buffer(f"rows_{number}", torch.stack(chosen, 1).to(weights.device))
        readout = torch.tensor(structure.readout, dtype=exact.dtype)
        readout = readout.repeat_interleave(2**structure.n_wires // readout.shape[1], dim=1)
        # For the squares of the real parts, then of the imaginary parts.
        self.register_buffer("readout", torch.cat([readout, readout], 1).to(weights))

    def forward(self, sampled: Tensor) -> Tensor:
        state = self.get_buffer("matrix_0")
        for number in range(self.n_steps - 1):
            angles = sampled[self.get_buffer(f"rows_{number}")]
            phases = self.get_buffer(f"halves_{number}") @ angles
            cos, sin = phases.cos(), phases.sin()
            real, imaginary = state.chunk(2, dim=1)
            turned = [real * cos - imaginary * sin, real * sin + imaginary * cos]
            state = self.get_buffer(f"matrix_{number + 1}") @ torch.cat(turned, dim=1)
        values: Tensor = self.readout @ state.square()
        return values.expand(self.n_members, -1, sampled.shape[1])


def _matrix(
    gates: Sequence[Layer], angles: Sequence[Tensor], n_wires: int, *, first: bool
) -> Tensor:
    """Return gates as a real matrix, (cones, 2 · 2ⁿ, 2 · 2ⁿ); if `first`, as a state."""
    columns = 1 if first else 2**n_wires
    start = torch.eye(2**n_wires, columns, dtype=torch.float64)[None, None]
    numbers = apply_layers(start, gates, angles, n_wires)
    real, imaginary = numbers if len(numbers) == 2 else (numbers[0], torch.zeros_like(numbers[0]))
    if first:
        return torch.cat([real, imaginary], 1)
    upper, lower = torch.cat([real, -imaginary], 2), torch.cat([imaginary, real], 2)
    return torch.cat([upper, lower], 1)
