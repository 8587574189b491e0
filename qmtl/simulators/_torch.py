"""A group's outputs by plain torch operations: for GPUs, function transforms, and as reference.

A state has shape ``(cones, amplitudes, parts, samples)``: `parts` is 1 while all amplitudes are
real and 2 (real, imaginary) afterwards, so that real gates cost half and float32 stays float32.
Samples come last: every operation is a long contiguous loop over them. Only differentiable,
out-of-place torch operations are used, so autograd, ``vmap`` and double backward work.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.simulators._angles import AngleRows
from qmtl.simulators._cones import Layer, Op
from qmtl.simulators._engine import Engine
from qmtl.simulators._plan import Group

__all__ = ["TorchEngine"]

# A block's unitary is built when it has at most so many columns.
LARGEST_UNITARY = 64

# The angle of each slot, shape (cones, samples or 1).
Angles = Sequence[Tensor]

# A 2x2 matrix as ((m00, m01), (m10, m11)); an entry is (real, imaginary or None), each broadcast
# over (cones, samples), samples being 1 where the angle does not depend on the sample.
Entry = tuple[Tensor, Tensor | None]
Matrix = tuple[tuple[Entry, Entry], tuple[Entry, Entry]]


def _multiply(a: Entry, b: Entry) -> Entry:
    (ar, ai), (br, bi) = a, b
    if bi is None:
        return ar * br, None if ai is None else ai * br
    if ai is None:
        return ar * br, ar * bi
    return ar * br - ai * bi, ar * bi + ai * br


def _add(a: Entry, b: Entry) -> Entry:
    (ar, ai), (br, bi) = a, b
    if ai is None or bi is None:
        return ar + br, ai if bi is None else bi
    return ar + br, ai + bi


def _gate_matrix(name: str, angle: Tensor | None, like: Tensor) -> Matrix:
    if name == "Hadamard":
        h = like.new_full((1, 1), 0.5**0.5)
        return ((h, None), (h, None)), ((h, None), (-h, None))
    assert angle is not None
    cos, sin = torch.cos(angle / 2), torch.sin(angle / 2)
    if name == "RY":
        return ((cos, None), (-sin, None)), ((sin, None), (cos, None))
    zero = torch.zeros_like(cos)
    return ((cos, None), (zero, -sin)), ((zero, -sin), (cos, None))  # RX


def _compose(later: Matrix, earlier: Matrix) -> Matrix:
    def entry(i: int, j: int) -> Entry:
        return _add(_multiply(later[i][0], earlier[0][j]), _multiply(later[i][1], earlier[1][j]))

    return (entry(0, 0), entry(0, 1)), (entry(1, 0), entry(1, 1))


def _one_wire_matrices(
    ops: Sequence[Op], angles: Sequence[Tensor], like: Tensor
) -> dict[int, Matrix]:
    """The product of each wire's gates in a layer."""
    matrices: dict[int, Matrix] = {}
    for op in ops:
        matrix = _gate_matrix(op.name, None if op.slot is None else angles[op.slot], like)
        wire = op.wires[0]
        matrices[wire] = _compose(matrix, matrices[wire]) if wire in matrices else matrix
    return matrices


def _to_complex(state: Tensor) -> Tensor:
    """The state with an imaginary part (zero if it had none)."""
    return state if state.shape[2] == 2 else torch.cat([state, torch.zeros_like(state)], dim=2)


def _rotate_quarter(state: Tensor, parts: int) -> Tensor:
    """I times the state; `parts` is the position of the parts' axis."""
    real, imaginary = state.unbind(parts)
    return torch.stack([-imaginary, real], parts)


def _scale(entry: Entry, amplitudes: Tensor) -> Tensor:
    """Entry times amplitudes of shape (cones, left, right, parts, samples)."""
    real, imaginary = (None if p is None else p[:, None, None, None, :] for p in entry)
    assert real is not None
    scaled = real * amplitudes
    return scaled if imaginary is None else scaled + imaginary * _rotate_quarter(amplitudes, 3)


def _apply_matrix(state: Tensor, matrix: Matrix, wire: int, n_wires: int) -> Tensor:
    if any(entry[1] is not None for row in matrix for entry in row):
        state = _to_complex(state)
    cones, _, parts, samples = state.shape
    split = state.reshape(cones, 2**wire, 2, 2 ** (n_wires - 1 - wire), parts, samples)
    zero, one = split[:, :, 0], split[:, :, 1]
    rows = [_scale(row[0], zero) + _scale(row[1], one) for row in matrix]
    shape = (max(cones, rows[0].shape[0]), 2**n_wires, parts, rows[0].shape[-1])
    return torch.stack(rows, 2).reshape(shape)


@lru_cache(maxsize=256)
def _signs(wires: tuple[tuple[int, ...], ...], n_wires: int) -> NDArray[np.int8]:
    """Eigenvalues of products of Z, one row per tuple of wires, shape (products, 2^n_wires).

    Not a tensor: one made inside a transform of `torch.func` must not be kept.
    """
    states = np.arange(2**n_wires)
    rows = []
    for product in wires:
        odd = np.zeros_like(states)
        for wire in product:
            odd ^= states >> (n_wires - 1 - wire)
        rows.append((1 - 2 * (odd & 1)).astype(np.int8))
    return np.stack(rows)


@lru_cache(maxsize=256)
def _flip_signs(pairs: tuple[tuple[int, ...], ...], n_wires: int) -> NDArray[np.int8]:
    """Diagonal of a product of CZs, shape (2^n_wires,)."""
    states = np.arange(2**n_wires)
    odd = np.zeros_like(states)
    for a, b in pairs:
        odd ^= (states >> (n_wires - 1 - a)) & (states >> (n_wires - 1 - b))
    signs: NDArray[np.int8] = (1 - 2 * (odd & 1)).astype(np.int8)
    return signs


def _apply_phases(state: Tensor, layer: Layer, angles: Angles, n_wires: int) -> Tensor:
    """Multiply by the layer's diagonal: signs of the CZs, then exp(-i Σ angle · sign / 2)."""
    flips = tuple(op.wires for op in layer.ops if op.name == "CZ")
    if flips:
        signs = torch.from_numpy(_flip_signs(flips, n_wires)).to(state)
        state = state * signs[None, :, None, None]
    rotations = [op for op in layer.ops if op.slot is not None]
    if not rotations:
        return state
    phase: Tensor | None = None
    for fixed in (True, False):
        # Angles that are equal for all samples are summed apart: theirs is a small product.
        chosen = [op for op in rotations if (angles[_slot(op)].shape[-1] == 1) == fixed]
        if chosen:
            products = _signs(tuple(op.wires for op in chosen), n_wires)
            signs = torch.from_numpy(products).to(state)
            halves = torch.stack([angles[_slot(op)] for op in chosen], 1) * -0.5
            part = signs.T @ halves
            phase = part if phase is None else phase + part
    assert phase is not None
    cos, sin = torch.cos(phase)[:, :, None], torch.sin(phase)[:, :, None]
    if state.shape[2] == 1:
        return torch.cat([state * cos, state * sin], dim=2)
    return state * cos + _rotate_quarter(state, 2) * sin


def _slot(op: Op) -> int:
    assert op.slot is not None
    return op.slot


def _apply_layers(
    state: Tensor, layers: Sequence[Layer], angles: Sequence[Tensor], n_wires: int
) -> Tensor:
    """Run layers on a state of shape (cones, 2^n_wires, parts, samples).

    Args:
        state: the amplitudes, wire 0 the most significant bit.
        layers: what to apply, in order.
        angles: one tensor (cones, samples or 1) per slot, in radians.
        n_wires: number of wires of the state.
    """
    for layer in layers:
        if layer.diagonal:
            state = _apply_phases(state, layer, angles, n_wires)
        else:
            for wire, matrix in _one_wire_matrices(layer.ops, angles, state).items():
                state = _apply_matrix(state, matrix, wire, n_wires)
    return state


def _product_state(
    ops: Sequence[Op], angles: Sequence[Tensor], n_wires: int, like: Tensor
) -> Tensor:
    """The state after a first layer of one-wire gates on |0…0>, built wire by wire."""
    matrices = _one_wire_matrices(ops, angles, like)
    state = like.new_ones((1, 1, 1, 1))
    for wire in range(n_wires):
        if wire not in matrices:
            state = torch.stack([state, torch.zeros_like(state)], 2).flatten(1, 2)
            continue
        column = [row[0] for row in matrices[wire]]
        if any(imaginary is not None for _, imaginary in column):
            state = _to_complex(state)
        spread = state[:, :, None]
        state = torch.stack([_scale(entry, spread)[:, :, 0] for entry in column], 2).flatten(1, 2)
    return state


def _encode(
    layers: Sequence[Layer], angles: Sequence[Tensor], n_wires: int, like: Tensor
) -> Tensor:
    """The encoded states, shape (cones or 1, 2^n_wires, parts, samples or 1)."""
    if layers and not layers[0].diagonal:
        state = _product_state(layers[0].ops, angles, n_wires, like)
        return _apply_layers(state, layers[1:], angles, n_wires)
    return _apply_layers(_product_state((), (), n_wires, like), layers, angles, n_wires)


class TorchEngine(Engine):
    """Evaluates a group by torch operations on state vectors.

    Args:
        group: the cones.
    """

    name: ClassVar[str] = "state vectors by torch"

    def __init__(self, group: Group) -> None:
        super().__init__(group.columns)
        self.group = group

    def torch_values(self, sampled: Tensor, fixed: Tensor) -> Tensor:
        """Outputs, shape (members, n_outputs, batch)."""
        group, structure = self.group, self.group.structure
        samples, n_wires = sampled.shape[1], structure.n_wires
        angles = _by_slot(group.encoding, structure.encoding_slots, sampled, fixed)
        state = _encode(structure.encoding, angles, n_wires, sampled)
        state = state.expand(group.n_cones, -1, -1, samples)
        block = _by_slot(group.block, structure.block_slots, sampled, fixed)
        parts = [block] if group.joint is None else _apart(group, block)
        found = []
        for part in parts:
            end = self._apply_block(state, part)
            readout = sampled.new_tensor(structure.readout)
            rest = 2**n_wires // readout.shape[1] * end.shape[2]
            weights = end.square().reshape(len(end), readout.shape[1], rest, samples).sum(2)
            found.append((readout @ weights).expand(group.n_members, -1, -1))
        if group.joint is None:
            return found[0]
        owner = group.joint[0].tolist()
        return torch.stack([found[task][:, i] for i, task in enumerate(owner)], 1)

    def _apply_block(self, state: Tensor, angles: Angles) -> Tensor:
        """The tasks' blocks on the encoded states.

        Where the block is the same for all samples and has fewer columns than there are amplitudes
        beside it, its unitary is built once and applied as one batched product.
        """
        structure, n_members, samples = self.group.structure, self.group.n_members, state.shape[3]
        if not structure.block:
            return state
        dim, rest = 2**structure.n_inner, 2 ** (structure.n_wires - structure.n_inner)
        fixed = all(angle.shape[-1] == 1 for angle in angles)
        if not fixed or dim > rest * samples or dim > LARGEST_UNITARY:
            state = state.expand(n_members, -1, -1, -1)
            return _apply_layers(state, structure.block, angles, structure.n_wires)
        identity = torch.eye(dim, dtype=state.dtype, device=state.device)[None, :, None, :]
        unitary = _apply_layers(identity, structure.block, angles, structure.n_inner)
        # Without angles it is one for all tasks.
        unitary = unitary.expand(n_members, -1, -1, -1)
        cones, _, parts, _ = state.shape
        columns = state.reshape(cones, dim, rest * parts * samples)
        shape = (n_members, dim * rest, parts, samples)
        real = torch.matmul(unitary[:, :, 0], columns).reshape(shape)
        if unitary.shape[2] == 1:
            return real
        imaginary = torch.matmul(unitary[:, :, 1], columns).reshape(shape)
        real = _to_complex(real)
        if parts == 1:
            return real + torch.cat([torch.zeros_like(imaginary), imaginary], 2)
        re, im = imaginary.unbind(2)
        return real + torch.stack([-im, re], 2)

    def step_bytes(self, samples: int, itemsize: int) -> int:
        """Estimated bytes of a training step."""
        # Autograd keeps about two states per operation for the backward pass.
        states = 2 * itemsize * self.group.amplitudes * samples
        return states * (2 * self.group.structure.steps + 4)

    def step_operations(self, samples: int) -> int:
        """Estimated floating-point operations of a training step."""
        return 28 * (self.group.structure.steps + 2) * self.group.amplitudes * samples


def _by_slot(
    rows: AngleRows,
    slots: tuple[tuple[int, ...], tuple[int, ...]],
    sampled: Tensor,
    fixed: Tensor,
) -> list[Tensor]:
    """The angle of each slot, in the order of slots."""
    assert rows.rows is not None
    places = torch.from_numpy(rows.rows).to(sampled.device)
    found: dict[int, Tensor] = {}
    for slot in slots[0]:
        found[slot] = sampled[places[:, slot]]
    for slot in slots[1]:
        found[slot] = fixed[places[:, slot]][:, None]
    return [found[slot] for slot in range(len(found))]


def _apart(group: Group, angles: Angles) -> list[list[Tensor]]:
    """For each of several tasks on one state the block's angles, with the others' zero.

    A task's outputs do not depend on the others' blocks, not even where these are not finite.
    """
    assert group.joint is not None
    of_output, of_angle = group.joint
    fixed = dict(zip(group.structure.block_slots[1], of_angle.tolist(), strict=True))
    return [
        [a if fixed.get(i, task) == task else torch.zeros_like(a) for i, a in enumerate(angles)]
        for task in range(int(of_output.max(initial=-1)) + 1)
    ]
