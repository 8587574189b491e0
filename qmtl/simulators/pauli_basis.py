"""The Pauli basis: operators on qubits as real coefficients, gates as real maps on them.

A one-wire state ρ is the four numbers tr(Pρ), P = I, X, Y, Z; an observable is the coefficients of
its expansion in the same operators, so that its expectation value is a dot product. Nothing is
complex: single precision stays single precision.
"""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["bond_tensor", "conjugate", "rotate", "z_coefficients"]

FloatArray = NDArray[np.float64]

# RY turns Z towards X, and so on around the cycle: (first, second) of P' = cos P - sin Q.
PLANES = {"RX": (2, 3), "RY": (3, 1), "RZ": (1, 2)}
PAULIS = np.array([[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
GATES = {
    "CNOT": np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]),
    "CZ": np.diag([1, 1, 1, -1]),
}


@cache
def bond_tensor(kind: str) -> FloatArray:
    r"""One wire's half of a controlled Pauli gate, shape (4, 4, 4): new Pauli, bond, old Pauli.

    A controlled gate is :math:`\sum_b P_b \otimes V^b`, so that on operators it is
    :math:`\sum_{bb'} (P_b \cdot P_{b'}) \otimes (V^b \cdot V^{b'})`. The pair (b, b') is taken in
    the basis of Hermitian matrices, in which both halves are real.

    Args:
        kind: ``"control"`` for the wire of the projectors; ``"X"`` or ``"Z"`` for that of V.

    Example:
        >>> cnot = np.einsum("paq,ras->prqs", bond_tensor("control"), bond_tensor("X"))
        >>> [int(i) for i in np.argwhere(cnot[:, :, 1, 0])[0]]  # X on the control becomes XX
        [1, 1]
    """
    if kind == "control":
        halves = np.array([[[1, 0], [0, 0]], [[0, 0], [0, 1]]], dtype=complex)
    else:
        halves = PAULIS[[0, "IXYZ".index(kind)]]
    # The 1/2 of the expansion is exact in any precision; 1/sqrt(2) on both wires would make the
    # trace drift along a chain of thousands.
    pairs = PAULIS.conj() if kind == "control" else PAULIS / 2
    maps = np.einsum("abc,bij,qjk,clk->aqil", pairs, halves, PAULIS, halves.conj())
    return np.ascontiguousarray(np.einsum("pli,aqil->paq", PAULIS, maps).real / 2)


@cache
def _conjugation(name: str) -> FloatArray:
    """Coefficients of U† P U for the pairs of Paulis, shape (16, 16)."""
    pairs = np.einsum("aij,bkl->abikjl", PAULIS, PAULIS).reshape(16, 4, 4)
    turned = GATES[name].T @ pairs @ GATES[name]
    return np.ascontiguousarray(np.einsum("pij,qji->pq", pairs, turned).real / 4)


def rotate(values: Tensor, name: str, angle: Tensor | None, axis: int) -> Tensor:
    """A one-wire gate on the wire whose Paulis are along `axis`.

    Args:
        values: numbers tr(Pρ) before the gate; for an observable taken backwards through the gate,
            its coefficients, with the angle negated.
        name: ``"RX"``, ``"RY"``, ``"RZ"`` or ``"Hadamard"``.
        angle: in radians, broadcast over the other axes; None for Hadamard.
        axis: position of the wire's axis.

    Example:
        >>> zero = torch.tensor([1.0, 0.0, 0.0, 1.0])
        >>> rotate(zero, "RY", torch.tensor(torch.pi / 2), 0).round(decimals=6) + 0
        tensor([1., 1., 0., 0.])
    """
    parts = list(values.unbind(axis))
    if angle is None:
        parts = [parts[0], parts[3], -parts[2], parts[1]]
    else:
        first, second = PLANES[name]
        cos, sin = angle.cos(), angle.sin()
        a, b = parts[first], parts[second]
        parts[first], parts[second] = cos * a - sin * b, cos * b + sin * a
    return torch.stack(torch.broadcast_tensors(*parts), axis)


def conjugate(values: Tensor, name: str, axes: tuple[int, int]) -> Tensor:
    """A CNOT or CZ on the wires whose Paulis are along `axes`; it is its own inverse."""
    front = values.movedim(axes, (0, 1))
    turned = torch.from_numpy(_conjugation(name)).to(values) @ front.reshape(16, -1)
    return turned.reshape(front.shape).movedim((0, 1), axes)


def z_coefficients(diagonals: FloatArray) -> FloatArray:
    """Coefficients of the Z-strings of diagonal observables, by a Walsh-Hadamard transform.

    Args:
        diagonals: shape (observables, 2^n), the first wire the most significant bit.

    Returns:
        Shape (observables, 2, …, 2): index 1 on a wire is Z, 0 is I.

    Example:
        >>> z_coefficients(np.array([[1.0, 0.0]]))  # |0><0| = (I + Z) / 2
        array([[0.5, 0.5]])
    """
    n_wires = diagonals.shape[1].bit_length() - 1
    values = diagonals.reshape(-1, *[2] * n_wires)
    for axis in range(1, n_wires + 1):
        zero, one = np.moveaxis(values, axis, 0)
        values = np.stack([zero + one, zero - one], axis) / 2
    return values
