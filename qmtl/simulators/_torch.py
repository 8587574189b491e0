"""A group's outputs by torch operations: for GPUs, function transforms, and as a reference.

A state has shape ``(parts, cones, amplitudes, samples)``. The parts are the real part and, after
the first complex gate, the imaginary part. So real gates cost half, and export to formats without
complex numbers, such as ONNX, is possible. Samples come last, so that every operation is a long
contiguous loop over them. All torch operations are differentiable and out-of-place, so that
autograd, ``vmap`` and double backward work. No operation depends on the number of samples, so that
an exported program takes any batch size.
"""

from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.simulators._cones import Layer, Op
from qmtl.simulators._engine import Engine
from qmtl.simulators._plan import Group

# A block's unitary is built if it has at most this many columns.
LARGEST_UNITARY = 64

# The angle of each slot, shape (cones, samples or 1).
Angles = Sequence[Tensor]

# A 2x2 matrix. All entries have the same shape (parts, cones, samples), with 1 sample if the angle
# is equal for all samples.
Matrix = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def _times(left: Tensor, right: Tensor) -> Tensor:
    """Multiply complex numbers, whose real and imaginary parts are the first axis."""
    if len(left) == 1 or len(right) == 1:
        return left * right
    turned = torch.stack([-left[1], left[0]])
    return left * right[0] + turned * right[1]


def _is_fixed(angle: Tensor) -> bool:
    """Return whether an angle is equal for all samples; a symbolic batch counts as several."""
    samples = angle.shape[-1]
    return type(samples) is int and samples == 1


def _gate_matrix(op: Op, angles: Angles, like: Tensor) -> Matrix:
    if op.slot is None:  # a Hadamard
        h = like.new_full((1, 1, 1), 0.5**0.5)
        return (h, h), (h, -h)
    half = angles[op.slot] / 2
    cos, sin = torch.cos(half), torch.sin(half)
    if op.name == "RY":
        return (cos[None], -sin[None]), (sin[None], cos[None])
    zero = torch.zeros_like(sin)
    cos, turned = torch.stack([cos, zero]), torch.stack([zero, -sin])
    return (cos, turned), (turned, cos)  # RX


def _one_wire_matrices(ops: Sequence[Op], angles: Angles, like: Tensor) -> dict[int, Matrix]:
    """Return the product of the gates on each wire in a layer."""
    matrices: dict[int, Matrix] = {}
    for op in ops:
        matrix = _gate_matrix(op, angles, like)
        if op.wires[0] in matrices:
            (e, f), (g, h) = matrices[op.wires[0]]
            (a, b), (c, d) = matrix
            matrix = (
                (_times(a, e) + _times(b, g), _times(a, f) + _times(b, h)),
                (_times(c, e) + _times(d, g), _times(c, f) + _times(d, h)),
            )
        matrices[op.wires[0]] = matrix
    return matrices


def _apply_matrix(state: Tensor, matrix: Matrix, wire: int, n_wires: int) -> Tensor:
    parts, cones, _, samples = state.shape
    split = state.reshape(parts, cones, 2**wire, 2, 2 ** (n_wires - 1 - wire), samples)
    zero, one = split.unbind(3)
    rows = [_times(zero, a[:, :, None, None]) + _times(one, b[:, :, None, None]) for a, b in matrix]
    return torch.stack(rows, 3).flatten(2, 4)


@lru_cache(maxsize=256)
def signs_of(wires: tuple[tuple[int, ...], ...], n_wires: int, *, flips: bool) -> NDArray[np.int8]:
    """Return the signs of Z-strings, one row each; with `flips`, one row with the sign of all CZs.

    The result is cached, so it is a numpy array: a tensor must not outlive a transform of
    `torch.func`.
    """
    states = np.arange(2**n_wires)

    def bit(wire: int) -> NDArray[np.int8]:
        return (states >> (n_wires - 1 - wire) & 1).astype(np.int8)

    if flips:
        rows = [reduce(np.bitwise_xor, (bit(a) & bit(b) for a, b in wires))]
    else:
        rows = [reduce(np.bitwise_xor, map(bit, product)) for product in wires]
    signs: NDArray[np.int8] = 1 - 2 * np.stack(rows)
    return signs


def _apply_phases(state: Tensor, layer: Layer, angles: Angles, n_wires: int) -> Tensor:
    """Multiply by the layer's diagonal: signs of the CZs, then exp(-i Σ angle · sign / 2)."""
    flips = tuple(op.wires for op in layer.ops if op.name == "CZ")
    if flips:
        signs = torch.from_numpy(signs_of(flips, n_wires, flips=True)).to(state.device)
        state = state * signs.T
    rotations = [(op.wires, angles[op.slot]) for op in layer.ops if op.slot is not None]
    if not rotations:
        return state
    phase: Tensor | float = 0.0
    # Angles that are equal for all samples need only a small product.
    for fixed in (True, False):
        chosen = [(wires, a) for wires, a in rotations if _is_fixed(a) == fixed]
        if chosen:
            # An angle may be common to all cones, or each cone may have its own.
            halves = torch.stack(torch.broadcast_tensors(*(a for _, a in chosen)), 1) * -0.5
            products = tuple(wires for wires, _ in chosen)
            signs = torch.from_numpy(signs_of(products, n_wires, flips=False))
            phase = phase + signs.to(halves).T @ halves
    assert isinstance(phase, Tensor)
    return _times(state, torch.stack([torch.cos(phase), torch.sin(phase)]))


def apply_layers(state: Tensor, layers: Sequence[Layer], angles: Angles, n_wires: int) -> Tensor:
    """Run layers on a state of shape (parts, cones, 2^n_wires, samples), wire 0 first."""
    for layer in layers:
        if layer.diagonal:
            state = _apply_phases(state, layer, angles, n_wires)
        else:
            for wire, matrix in _one_wire_matrices(layer.ops, angles, state).items():
                state = _apply_matrix(state, matrix, wire, n_wires)
    return state


def _encode(layers: Sequence[Layer], angles: Angles, n_wires: int, like: Tensor) -> Tensor:
    """Return the encoded states, shape (parts, cones or 1, 2^n_wires, samples or 1)."""
    # A first layer of one-wire gates makes a product state, which is built wire by wire.
    first = layers[0].ops if layers and not layers[0].diagonal else ()
    matrices = _one_wire_matrices(first, angles, like)
    state = like.new_ones((1, 1, 1, 1))
    for wire in range(n_wires):
        if wire in matrices:
            column = [_times(state, row[0][:, :, None]) for row in matrices[wire]]
        else:
            column = [state, torch.zeros_like(state)]
        state = torch.stack(column, 3).flatten(2, 3)
    return apply_layers(state, layers[1:] if first else layers, angles, n_wires)


class TorchEngine(Engine):
    """Evaluates a group by torch operations on state vectors.

    Args:
        group: the group of cones, with a state for each task.
    """

    name: ClassVar[str] = "state vectors by torch"

    def __init__(self, group: Group) -> None:
        super().__init__(group.columns)
        self.group = group

    def torch_values(self, sampled: Tensor, fixed: Tensor, members: slice = slice(None)) -> Tensor:
        group, structure = self.group, self.group.structure
        samples, n_wires = sampled.shape[1], structure.n_wires
        angles = group.encoding.angles(sampled, fixed)
        state = _encode(structure.encoding, angles, n_wires, sampled)
        state = state.expand(-1, group.n_cones, -1, samples)
        state = self._apply_block(state, group.block.angles(sampled, fixed))
        readout = sampled.new_tensor(structure.readout)
        n_read = readout.shape[1]
        weights = sum((part.square() for part in state[1:]), state[0].square())
        weights = weights.reshape(len(weights), n_read, 2**n_wires // n_read, samples).sum(2)
        return (readout @ weights).expand(group.n_members, -1, -1)

    def _apply_block(self, state: Tensor, angles: Angles) -> Tensor:
        """Apply the tasks' blocks to the encoded states.

        If the block is the same for all samples and has fewer columns than there are other
        amplitudes, its unitary is built once and applied as one batched product.
        """
        structure, n_members, samples = self.group.structure, self.group.n_members, state.shape[3]
        dim, rest = 2**structure.n_inner, 2 ** (structure.n_wires - structure.n_inner)
        if not structure.block:
            return state
        few = type(samples) is int and dim > rest * samples
        if few or dim > LARGEST_UNITARY or not all(map(_is_fixed, angles)):
            state = state.expand(-1, n_members, -1, -1)
            return apply_layers(state, structure.block, angles, structure.n_wires)
        identity = torch.eye(dim, dtype=state.dtype, device=state.device)[None, None]
        unitary = apply_layers(identity, structure.block, angles, structure.n_inner)
        # Without angles, one unitary serves all tasks.
        unitary = unitary.expand(-1, n_members, -1, -1)
        columns = state.reshape(*state.shape[:2], dim, rest * samples)
        if len(unitary) == 1 or len(columns) == 1:
            return unitary @ columns
        turned = torch.stack([-columns[1], columns[0]])
        return unitary[0] @ columns + unitary[1] @ turned

    def step_bytes(self, samples: int, itemsize: int) -> int:
        # Autograd keeps about two states per operation for the backward pass.
        states = 2 * itemsize * self.group.amplitudes * samples
        return states * (2 * self.group.structure.steps + 4)

    def step_operations(self, samples: int) -> int:
        return 28 * (self.group.structure.steps + 2) * self.group.amplitudes * samples
