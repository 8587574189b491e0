"""Parts of the compiled kernel between a batch, samples first, and its tiles, samples last.

Blocks of rows are turned round in a thread's own registers, which stay in the first-level cache.
"""

import math

import numpy as np
from numba import int32, types, uint64

from qmtl.simulators.kernel_parts import fused, horner, nearest, part

__all__ = ["add_rows", "cosines_and_sines"]


def _series(first, real):
    """Taylor's, of a cosine (`first` = 0) or a sine over its angle (1), by powers of squares."""
    terms = 9 if real is np.float64 else 6
    return tuple(real((-1) ** k / math.factorial(2 * k + first)) for k in range(terms))


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
    even_powers, odd_powers = _series(0, real), _series(1, real)[1:]
    p, q, rest = _right_angle(real)
    per_right_angle = real(2 / math.pi)
    # Right angles must be counted without an error.
    largest = real(2**24 if real is np.float64 else 2**13)

    @part
    def write(registers, begin, end, low, n, angles, by_sample, by_row, cosines, sines):
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
                even = horner(even_powers, y)
                odd = horner(odd_powers, y) * y * x + x
                quarter = int32(turns)
                swapped = (quarter & 1) == 1
                upper, lower = odd if swapped else even, even if swapped else odd
                cosines[r, low + s] = -upper if (quarter + 1) & 2 else upper
                sines[r, low + s] = -lower if quarter & 2 else lower

    return write


@part
def add_rows(registers, begin, end, low, n, order, bounds, by_angle, by_sample, by_row, gradient):
    """Gradients by a block of rows: sums over the angles that each of them is."""
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
