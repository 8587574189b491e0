"""The kernel's steps on a tile; see `kernel` for what they work on."""

import math

from numba import uint64

from qmtl.simulators.amplitudes.program import CONSTANT, PHASE, RY, SAMPLE, Z
from qmtl.simulators.kernel_parts import odd, part

__all__ = ["add", "derive", "keep", "load", "read", "start", "turn"]

ROOT_HALF = math.sqrt(0.5)


@part
def _pair(kind, stride, mask, size, p):
    """The rows x and y that a rotation takes to c·x - s·y and s·x + c·y."""
    if kind == Z:
        return (p, p + size) if odd(p & mask) else (p + size, p)
    half = size >> 1
    q = p - half if p >= half else p
    a = ((q & -stride) << 1) | (q & (stride - 1))
    b = a + stride
    if kind == RY:
        return (a, b) if p < half else (a + size, b + size)
    return (b + size, a) if p < half else (a + size, b)


@part
def load(op, row, cos, sin, fixed, where, first, tile, c, d, terms, signs, table):
    """Cosines and sines of an operation: by sample into c and d, or by amplitude into the table."""
    if op[0] == PHASE:
        size = table.shape[1] >> op[1]
        for a in range(size):
            table[0, a] = signs[op[6], a]
            table[1, a] = 0
        for t in range(op[2], op[3]):
            x, y = fixed[0, where, terms[t, 0]], fixed[1, where, terms[t, 0]]
            for a in range(size):
                z = y if odd(a & terms[t, 1]) else -y
                re, im = table[0, a], table[1, a]
                table[0, a] = re * x - im * z
                table[1, a] = re * z + im * x
    elif op[4] == SAMPLE:
        for s in range(tile):
            c[s] = cos[row, first + s]
            d[s] = sin[row, first + s]
    else:
        x, y = c.dtype.type(ROOT_HALF), c.dtype.type(ROOT_HALF)
        if op[4] != CONSTANT:
            x, y = fixed[0, where, op[2]], fixed[1, where, op[2]]
        for s in range(tile):
            c[s] = x
            d[s] = y


@part
def turn(state, op, c, d, table, tile, size, sign, pairs):
    """One operation (`sign` 1) or its inverse (`sign` -1) on the first `pairs` pairs of rows."""
    if op[0] == PHASE and op[2] == op[3]:
        for r in range(2 * size):
            x = table[0, (r & (size - 1)) >> op[1]]
            for s in range(tile):
                state[r, s] *= x
    elif op[0] == PHASE:
        for a in range(size):
            x, y = table[0, a >> op[1]], table[1, a >> op[1]] * sign
            for s in range(tile):
                re, im = state[a, s], state[a + size, s]
                state[a, s] = re * x - im * y
                state[a + size, s] = re * y + im * x
    else:
        for p in range(pairs):
            i, j = _pair(op[0], op[1], op[3], size, p)
            for s in range(tile):
                x, y, z = state[i, s], state[j, s], d[s] * sign
                state[i, s] = c[s] * x - z * y
                state[j, s] = z * x + c[s] * y


@part
def derive(state, adjoint, op, terms, tile, size, g, slope, target):
    """The derivative by an angle, from its output: by sample into g, or by slot into the target."""
    if op[0] == PHASE:
        entries = size >> op[1]
        for a in range(entries):
            slope[a] = 0
        for a in range(size):
            total = slope.dtype.type(0)
            for s in range(tile):
                total += adjoint[a + size, s] * state[a, s] - adjoint[a, s] * state[a + size, s]
            slope[a >> op[1]] += total
        for t in range(op[2], op[3]):
            total = slope.dtype.type(0)
            for a in range(entries):
                total += slope[a] if odd(a & terms[t, 1]) else -slope[a]
            target[terms[t, 0]] += total * slope.dtype.type(0.5)
    else:
        for s in range(tile):
            g[s] = 0
        for p in range(size):
            i, j = _pair(op[0], op[1], op[3], size, p)
            for s in range(tile):
                g[s] += adjoint[j, s] * state[i, s] - adjoint[i, s] * state[j, s]
        half = g.dtype.type(0.5)
        for s in range(tile):
            g[s] *= half


@part
def read(state, adjoint, readout, values, first, tile, size, p, back):
    """A task's outputs from its final state; or its adjoint, from the gradient in their place."""
    rest = size // readout.shape[1]
    for b in range(readout.shape[1]):
        for s in range(tile):
            p[s] = 0
        if back:
            for j in range(readout.shape[0]):
                twice = readout[j, b] + readout[j, b]
                for s in range(tile):
                    p[s] += twice * values[j, first + s]
        for k in range(b * rest, (b + 1) * rest):
            for r in range(k, 2 * size, size):
                for s in range(tile):
                    if back:
                        adjoint[r, s] = p[s] * state[r, s]
                    else:
                        p[s] += state[r, s] * state[r, s]
        if not back:
            for j in range(readout.shape[0]):
                factor = readout[j, b]
                for s in range(tile):
                    if b:
                        values[j, first + s] += factor * p[s]
                    else:
                        values[j, first + s] = factor * p[s]


@part
def start(state, adjoint, whole, kept, own, back, read):
    """The states to begin with: |0…0⟩ or the cone's; backwards, where they ended."""
    # Slices would do, but numba compiles their checks and messages for seconds.
    for r in range(state.shape[0]):
        for s in range(uint64(state.shape[1])):
            if back:
                state[r, s] = kept[r, s]
            elif own:
                state[r, s] = whole[r, s]
            else:
                state[r, s] = r == 0
            if back and not read:
                adjoint[r, s] = whole[r, s]


@part
def keep(state, adjoint, whole, kept, keeps, back, read, active):
    """What the other turns, or the pass backwards, will ask for."""
    for r in range(state.shape[0]):
        for s in range(uint64(state.shape[1])):
            if keeps:
                kept[r, s] = state[r, s]
            if not back and not read:
                whole[r, s] = state[r, s]
            if back and read and whole.shape[0]:
                whole[r, s] = whole[r, s] + adjoint[r, s] if active else adjoint[r, s]


@part
def add(target, row, slot, g, by_sample, first):
    """Add a rotation's derivative where it belongs."""
    if by_sample:
        for s in range(uint64(g.shape[0])):
            row[first + s] += g[s]
    else:
        total = g.dtype.type(0)
        for s in range(uint64(g.shape[0])):
            total += g[s]
        target[slot] += total
