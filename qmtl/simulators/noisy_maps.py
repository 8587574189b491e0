"""Gates and channels as real matrices on the numbers tr(Pρ), P the Pauli strings on their wires.

Row and column are strings in base 4, first wire first: I 0, X 1, Y 2, Z 3. Row P of a gate holds
the strings of U† P U. A rotation's matrix is A + cos θ · B + sin θ · C.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from qmtl.noise import Channel
from qmtl.simulators.layers import Op
from qmtl.simulators.pauli.strings import Pauli, after_clifford, rotated, written
from qmtl.simulators.pauli.walk import CHANNEL, DAMPING

__all__ = ["channel_matrix", "gate_matrix", "pattern", "rotation_matrices"]

FloatArray = NDArray[np.float64]
Z, IDENTITY = 3, 0


def channel_matrix(channel: Channel) -> FloatArray:
    """The matrix of a noise channel.

    Example:
        >>> channel_matrix(Channel.amplitude_damping(0.36)).tolist()[3]
        [0.36, 0.0, 0.0, 0.64]
    """
    matrix = np.diag(channel.factors)
    if channel.shift:
        matrix[Z, IDENTITY] = channel.shift
    return matrix


@cache
def gate_matrix(name: str, n_wires: int) -> FloatArray:
    """The matrix of a gate without an angle.

    Example:
        >>> int(gate_matrix("CZ", 2)[1].argmax())  # IX comes from ZX: Z 3, X 1
        13
    """
    op = Op(name, tuple(range(n_wires)), None)
    matrix = np.zeros((4**n_wires, 4**n_wires))
    for row in range(len(matrix)):
        string, sign = after_clifford(op, _string(row, n_wires))
        matrix[row, written(op.wires, string)] = sign
    return matrix


@cache
def rotation_matrices(name: str, n_wires: int) -> FloatArray:
    """The three matrices of a rotation: the rest, and what goes with cosine and sine.

    Example:
        >>> rest, cosine, sine = rotation_matrices("RY", 1)
        >>> sine[3].tolist()  # Z becomes cos Z - sin X
        [0.0, -1.0, 0.0, 0.0]
    """
    op = Op(name, tuple(range(n_wires)), 0)
    found = np.zeros((3, 4**n_wires, 4**n_wires))
    for row in range(4**n_wires):
        partner = rotated(op, _string(row, n_wires))
        found[0 if partner is None else 1, row, row] = 1
        if partner is not None:
            found[2, row, written(op.wires, partner[0])] = partner[1]
    return found


@cache
def pattern(name: str, n_wires: int, *, has_angle: bool) -> NDArray[np.bool_]:
    """Where an operation's matrix may be other than zero."""
    found: NDArray[np.bool_]
    if name in (CHANNEL, DAMPING):
        found = np.eye(4**n_wires, dtype=bool)
        if name == DAMPING:
            found[Z, IDENTITY] = True
    elif has_angle:
        found = (rotation_matrices(name, n_wires) != 0).any(axis=0)
    else:
        found = gate_matrix(name, n_wires) != 0
    return found


def _string(number: int, n_wires: int) -> Pauli:
    x = z = 0
    for wire in range(n_wires):
        letter = number >> 2 * (n_wires - 1 - wire) & 3
        x |= (letter in (1, 2)) << wire
        z |= (letter in (2, 3)) << wire
    return x, z
