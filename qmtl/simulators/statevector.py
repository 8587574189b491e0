"""Torch operations on batches of small state vectors, in real arithmetic.

A state has shape ``(cones, amplitudes, parts, samples)``: `parts` is 1 while all amplitudes are
real and 2 (real, imaginary) afterwards, so that real gates cost half and float32 stays float32.
Samples come last: every operation is a long contiguous loop over them. Only differentiable,
out-of-place torch operations are used, so autograd, ``vmap`` and double backward work.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.simulators.layers import Layer, Op

__all__ = ["Matrix", "apply_layers", "encode", "one_wire_matrices", "to_complex"]

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


def one_wire_matrices(
    ops: Sequence[Op], angles: Sequence[Tensor], like: Tensor
) -> dict[int, Matrix]:
    """The product of each wire's gates in a layer."""
    matrices: dict[int, Matrix] = {}
    for op in ops:
        matrix = _gate_matrix(op.name, None if op.slot is None else angles[op.slot], like)
        wire = op.wires[0]
        matrices[wire] = _compose(matrix, matrices[wire]) if wire in matrices else matrix
    return matrices


def to_complex(state: Tensor) -> Tensor:
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
        state = to_complex(state)
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


def _apply_phases(state: Tensor, layer: Layer, angles: Sequence[Tensor], n_wires: int) -> Tensor:
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


def apply_layers(
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
            for wire, matrix in one_wire_matrices(layer.ops, angles, state).items():
                state = _apply_matrix(state, matrix, wire, n_wires)
    return state


def _product_state(
    ops: Sequence[Op], angles: Sequence[Tensor], n_wires: int, like: Tensor
) -> Tensor:
    """The state after a first layer of one-wire gates on |0…0>, built wire by wire."""
    matrices = one_wire_matrices(ops, angles, like)
    state = like.new_ones((1, 1, 1, 1))
    for wire in range(n_wires):
        if wire not in matrices:
            state = torch.stack([state, torch.zeros_like(state)], 2).flatten(1, 2)
            continue
        column = [row[0] for row in matrices[wire]]
        if any(imaginary is not None for _, imaginary in column):
            state = to_complex(state)
        spread = state[:, :, None]
        state = torch.stack([_scale(entry, spread)[:, :, 0] for entry in column], 2).flatten(1, 2)
    return state


def encode(layers: Sequence[Layer], angles: Sequence[Tensor], n_wires: int, like: Tensor) -> Tensor:
    """The encoded states, shape (cones or 1, 2^n_wires, parts, samples or 1)."""
    if layers and not layers[0].diagonal:
        state = _product_state(layers[0].ops, angles, n_wires, like)
        return apply_layers(state, layers[1:], angles, n_wires)
    return apply_layers(_product_state((), (), n_wires, like), layers, angles, n_wires)
