"""Parts of the compiled kernel between a batch, samples first, and its tiles, samples last.

Blocks of rows are turned round in a thread's own registers, which stay in the first-level cache.
"""

import math

import numpy as np
from numba import int32, types, uint64

from qmtl.simulators.kernel_parts import fused, nearest, part

__all__ = ["add_rows", "cosines_and_sines"]


def _series(first, real):
    """Taylor's, of a cosine (`first` = 0) or a sine over its angle (1), by powers of squares."""
    return tuple(real((-1) ** k / math.factorial(2 * k + first)) for k in range(9))


def _right_angle(real):
    """Half of pi as a sum of three numbers."""
    if real is np.float64:
        # The second is what math.pi / 2 lacks; the third is what both lack.
        return math.pi / 2, math.cos(math.pi / 2), -1.4973849048591833e-33
    first = real(math.pi / 2)
    second = real(math.pi / 2 - float(first))
    return first, second, real(math.pi / 2 - float(first) - float(second))


def cosines_and_sines(kind):
    """The part that writes cosines and sines of a block of rows.

    Angles are taken modulo a right angle, with no rounding before the last bits, and Taylor's
    series does the rest: for moderate angles, in a loop that vectorises; large ones are left to C.
    """
    real = np.float32 if kind is types.float32 else np.float64
    c, d = _series(0, real), _series(1, real)
    is_double = real is np.float64
    p, q, rest = _right_angle(real)
    per_right_angle = real(2 / math.pi)
    # Right angles must be counted without an error.
    largest = real(2**24 if is_double else 2**13)

    @part
    def write(registers, item, angles, by_sample, by_row, cosines, sines):
        begin, end, low, n = item[0], item[1], item[2], item[3] - item[2]
        for s in range(n):
            for r in range(begin, end):
                registers[r - begin, s] = angles[(low + s) * by_sample + r * by_row]
        for r in range(begin, end):
            moderate = True
            for s in range(n):
                moderate &= abs(registers[r - begin, s]) <= largest
            if not moderate:
                for s in range(n):
                    cosines[r, low + s] = math.cos(registers[r - begin, s])
                    sines[r, low + s] = math.sin(registers[r - begin, s])
                continue
            for s in range(n):
                x = registers[r - begin, s]
                turns = nearest(x * per_right_angle)
                x = fused(turns, -rest, fused(turns, -q, fused(turns, -p, x)))
                y = x * x
                even, odd = c[5], d[5]
                if is_double:
                    even = ((c[8] * y + c[7]) * y + c[6]) * y + even
                    odd = ((d[8] * y + d[7]) * y + d[6]) * y + odd
                even = ((((even * y + c[4]) * y + c[3]) * y + c[2]) * y + c[1]) * y + c[0]
                odd = ((((odd * y + d[4]) * y + d[3]) * y + d[2]) * y + d[1]) * y * x + x
                quarter = int32(turns)
                swapped = (quarter & 1) == 1
                upper, lower = odd if swapped else even, even if swapped else odd
                cosines[r, low + s] = -upper if (quarter + 1) & 2 else upper
                sines[r, low + s] = -lower if quarter & 2 else lower

    return write


@part
def add_rows(registers, item, order, bounds, by_angle, by_sample, by_row, gradient):
    """Gradients by a block of rows: sums over the angles that each of them is."""
    begin, end, low, n = item[0], item[1], item[2], item[3] - item[2]
    for r in range(begin, end):
        row = r - begin
        for s in range(n):
            registers[row, s] = 0
        for q in range(bounds[r], bounds[r + uint64(1)]):
            angle = order[q]
            for s in range(n):
                registers[row, s] += by_angle[angle, low + s]
    for s in range(n):
        for r in range(begin, end):
            gradient[(low + s) * by_sample + r * by_row] = registers[r - begin, s]
