"""Pauli transfer matrices: gates and channels as real linear maps of the numbers tr(Pρ).

Rows and columns are Pauli strings as numbers in base 4, first wire first: I 0, X 1, Y 2, Z 3. Row P
of a gate holds the coefficients of U† P U. So the matrix moves a state's numbers forwards, and its
transpose moves an observable's coefficients backwards. All numbers are real, in the precision of
the input.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.noise import CHANNEL, DAMPING
from qmtl.simulators._cones import Op
from qmtl.simulators._pauli._strings import Pauli, after_clifford, rotated, written

FloatArray = NDArray[np.float64]
Z, IDENTITY = 3, 0
PAULIS = np.array([[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])


def channel_matrices(numbers: FloatArray, n_wires: int) -> FloatArray:
    """Return the matrices (channels, 4^n, 4^n) of channels, each a row of factors and a shift."""
    strings = np.arange(4**n_wires)
    matrices = np.zeros((len(numbers), 4**n_wires, 4**n_wires))
    matrices[:, strings, strings] = numbers[:, : 4**n_wires]
    if n_wires == 1:
        matrices[:, Z, IDENTITY] = numbers[:, -1]
    return matrices


@cache
def gate_matrix(name: str, n_wires: int) -> FloatArray:
    """Return the matrix of a gate without an angle."""
    op = Op(name, tuple(range(n_wires)), None)
    matrix = np.zeros((4**n_wires, 4**n_wires))
    for row in range(len(matrix)):
        string, sign = after_clifford(op, _string(row, n_wires))
        matrix[row, written(op.wires, string)] = sign
    return matrix


@cache
def rotation_matrices(name: str, n_wires: int) -> FloatArray:
    """Return a rotation's three matrices: the constant, cosine and sine coefficients."""
    op = Op(name, tuple(range(n_wires)), 0)
    found = np.zeros((3, 4**n_wires, 4**n_wires))
    for row in range(4**n_wires):
        partner = rotated(op, _string(row, n_wires))
        found[0 if partner is None else 1, row, row] = 1
        if partner is not None:
            found[2, row, written(op.wires, partner[0])] = partner[1]
    return found


def matrices_of(op: Op, numbers: FloatArray | None = None) -> FloatArray:
    """Return a gate's matrix, a rotation's three, or one matrix per row of a channel's numbers.

    Without numbers, a channel's matrix is 1 at every entry that can be non-zero.
    """
    n = len(op.wires)
    if op.name in (CHANNEL, DAMPING):
        if numbers is None:
            numbers = np.ones((1, 4**n + 1))
            numbers[0, -1] = op.name == DAMPING
        return channel_matrices(numbers, n)
    return gate_matrix(op.name, n)[None] if op.slot is None else rotation_matrices(op.name, n)


def applied(
    values: Tensor,
    name: str,
    axes: Sequence[int],
    angle: Tensor | None = None,
    *,
    backwards: bool = False,
) -> Tensor:
    """Apply a gate on the wires along `axes`; the angle is broadcast over the last axes.

    `values` are the numbers of a state or, backwards, the coefficients of an observable.
    """
    n, front = len(axes), values.movedim(tuple(axes), tuple(range(len(axes))))
    flat = front.reshape(4**n, -1)

    def product(matrix: FloatArray) -> Tensor:
        found = torch.from_numpy(matrix.T.copy() if backwards else matrix).to(values) @ flat
        return found.reshape(front.shape)

    if angle is None:
        found = product(gate_matrix(name, n))
    else:
        rest, cosine, sine = rotation_matrices(name, n)
        found = product(rest) + angle.cos() * product(cosine) + angle.sin() * product(sine)
    return found.movedim(tuple(range(n)), tuple(axes))


@cache
def half_of_gate(kind: str) -> FloatArray:
    r"""Return one wire's half of a controlled Pauli gate: (new Pauli, bond, old Pauli).

    `kind` is ``"control"`` for the wire with the projectors, ``"X"`` or ``"Z"`` for the wire with
    V. The gate is :math:`\sum_b P_b \otimes V^b`, on operators
    :math:`\sum_{bb'} (P_b \cdot P_{b'}) \otimes (V^b \cdot V^{b'})`. The pair (b, b') is expressed
    in the basis of Hermitian matrices, in which both halves are real.
    """
    if kind == "control":
        halves = np.array([[[1, 0], [0, 0]], [[0, 0], [0, 1]]], dtype=complex)
    else:
        halves = PAULIS[[0, "IXYZ".index(kind)]]
    # The factor 1/2 of the expansion is exact in any precision. With 1/sqrt(2) on both wires, the
    # trace would drift along a chain of thousands of wires.
    pairs = PAULIS.conj() if kind == "control" else PAULIS / 2
    maps = np.einsum("abc,bij,qjk,clk->aqil", pairs, halves, PAULIS, halves.conj())
    return np.ascontiguousarray(np.einsum("pli,aqil->paq", PAULIS, maps).real / 2)


def _string(number: int, n_wires: int) -> Pauli:
    x = z = 0
    for wire in range(n_wires):
        letter = number >> 2 * (n_wires - 1 - wire) & 3
        x |= (letter in (1, 2)) << wire
        z |= (letter in (2, 3)) << wire
    return x, z
