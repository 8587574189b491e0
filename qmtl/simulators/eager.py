"""A group's outputs by plain torch operations: for GPUs, function transforms, and as reference."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from qmtl.simulators.angles import by_slot, fixed_angles, sample_angles
from qmtl.simulators.engine import ALL, Needs, Three
from qmtl.simulators.plan import Group
from qmtl.simulators.statevector import apply_layers, encode, to_complex

__all__ = ["EagerEngine", "eager_values"]

# A block's unitary is built when it has at most so many columns.
LARGEST_UNITARY = 64


class EagerEngine:
    """Evaluates a group by torch operations on state vectors; an `Engine`.

    Its inputs are the features (features, samples), the encoding's weights, and the tasks' weights
    (tasks, n_weights). Used directly, torch's autograd makes the gradients.
    """

    name: ClassVar[str] = "state vectors by torch"
    is_differentiable: ClassVar[bool] = True

    def __init__(self, group: Group) -> None:
        self.group = group

    def angles(self, columns: Tensor, encoding: Tensor) -> Tensor:
        """The first input: the features."""
        return columns

    def eager(self, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        """Outputs, shape (members, n_outputs, samples)."""
        group = self.group
        sample = sample_angles(group.encoding_slots, first, second)
        block_sample = sample_angles(group.block_slots, first, third)
        block = by_slot(group.block_slots, block_sample, fixed_angles(group.block_slots, third))
        return eager_values(group, sample, fixed_angles(group.encoding_slots, second), block)

    def forward(self, inputs: Three, keep: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The same without a graph."""
        with torch.no_grad():
            return self.eager(*inputs), ()

    def pull_back(
        self, gradients: Tensor, inputs: Three, kept: Sequence[Tensor], needs: Needs = ALL
    ) -> Three:
        """Gradients by the three inputs, for each row of a Jacobian."""
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in inputs]
            values = self.eager(*leaves)
            rows = [
                torch.autograd.grad(values, leaves, row, retain_graph=True, materialize_grads=True)
                for row in gradients
            ]
        first, second, third = (torch.stack(column) for column in zip(*rows, strict=True))
        return first, second, third

    def step_bytes(self, samples: int, itemsize: int) -> int:
        """Estimated bytes of a training step."""
        # Autograd keeps about two states per operation for the backward pass.
        states = 2 * itemsize * self.group.amplitudes * samples
        return states * (2 * self.group.steps + 4)

    def step_operations(self, samples: int) -> int:
        """Estimated floating-point operations of a training step."""
        return 28 * (self.group.steps + 2) * self.group.amplitudes * samples


def eager_values(
    group: Group, sample: Tensor, cone_fixed: Tensor, block: Sequence[Tensor]
) -> Tensor:
    """Outputs of a group, shape (members, n_outputs, samples).

    Args:
        group: the tasks.
        sample: the encoding's angles that depend on the sample, shape (cones, slots, samples).
        cone_fixed: the encoding's other angles, shape (cones, slots).
        block: the block's angles, one tensor (tasks, samples or 1) per slot.
    """
    samples = sample.shape[2]
    angles = by_slot(group.encoding_slots, sample, cone_fixed)
    state = encode(group.encoding, angles, group.n_wires, sample)
    state = state.expand(group.n_cones, -1, -1, samples)
    state = _apply_block(group, state, block)
    readout = torch.from_numpy(group.readout).to(sample)
    rest = 2**group.n_wires // readout.shape[1] * state.shape[2]
    probabilities = state.square().reshape(len(state), readout.shape[1], rest, samples).sum(2)
    return (readout @ probabilities).expand(len(group.members), -1, -1)


def _apply_block(group: Group, state: Tensor, angles: Sequence[Tensor]) -> Tensor:
    """The tasks' blocks on the encoded states.

    Where the block is the same for all samples and has fewer columns than there are amplitudes
    beside it, its unitary is built once and applied as one batched product.
    """
    n_members, samples = len(group.members), state.shape[3]
    if not group.block:
        return state
    dim, rest = 2**group.n_inner, 2 ** (group.n_wires - group.n_inner)
    fixed = all(angle.shape[-1] == 1 for angle in angles)
    if not fixed or dim > rest * samples or dim > LARGEST_UNITARY:
        return apply_layers(state.expand(n_members, -1, -1, -1), group.block, angles, group.n_wires)
    identity = torch.eye(dim, dtype=state.dtype, device=state.device)[None, :, None, :]
    unitary = apply_layers(identity, group.block, angles, group.n_inner)
    # Without angles it is one for all tasks.
    unitary = unitary.expand(n_members, -1, -1, -1)
    cones, _, parts, _ = state.shape
    columns = state.reshape(cones, dim, rest * parts * samples)
    shape = (n_members, dim * rest, parts, samples)
    real = torch.matmul(unitary[:, :, 0], columns).reshape(shape)
    if unitary.shape[2] == 1:
        return real
    imaginary = torch.matmul(unitary[:, :, 1], columns).reshape(shape)
    real = to_complex(real)
    if parts == 1:
        return real + torch.cat([torch.zeros_like(imaginary), imaginary], 2)
    re, im = imaginary.unbind(2)
    return real + torch.stack([-im, re], 2)
