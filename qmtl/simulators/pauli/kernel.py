"""The compiled kernel: evaluates polynomials, and their gradients, for many places and samples.

A place is one member of a batch with angles of its own (a light cone, or a task); its angles are
partly per sample and partly fixed. A tile is a few places times some samples, flattened to lanes:
its registers, one row of lanes each, stay in the cache while the operations run over them. The
gradient runs the operations again and then backwards; nothing but the angles is read from memory.

It is one function, compiled once per precision and kept on disk. This file knows no torch.
"""

import numpy as np

from qmtl.simulators.compilation import kernel, part

__all__ = ["run"]


@part
def _load(registers, item, places, rows, sampled, fixed):
    """A tile's constants, cosines and sines; fixed angles come after those of the samples."""
    begin, end, low, high = item[0], item[1], item[2], item[3]
    n, first = high - low, 1 + 2 * rows.shape[1]
    for s in range((end - begin) * n):
        registers[0, s] = 1
    for p in range(begin, end):
        lane = (p - begin) * n
        for i in range(rows.shape[1]):
            row = rows[places[p], i]
            for s in range(n):
                registers[1 + 2 * i, lane + s] = sampled[0, row, low + s]
                registers[2 + 2 * i, lane + s] = sampled[1, row, low + s]
        for i in range(fixed.shape[2]):
            c, d = fixed[0, places[p], i], fixed[1, places[p], i]
            for s in range(n):
                registers[first + 2 * i, lane + s] = c
                registers[first + 2 * i + 1, lane + s] = d


@part
def _forwards(registers, ops, lanes):
    """All operations on a tile."""
    first = registers.shape[0] - len(ops)
    for k in range(len(ops)):
        x, y, z, w = ops[k, 1], ops[k, 2], ops[k, 3], ops[k, 4]
        if ops[k, 0] == 0:
            for s in range(lanes):
                registers[first + k, s] = registers[x, s] * registers[y, s]
        else:
            sign = registers[0, 0] if ops[k, 0] == 1 else -registers[0, 0]
            for s in range(lanes):
                registers[first + k, s] = (
                    registers[x, s] * registers[y, s] + sign * registers[z, s] * registers[w, s]
                )


@part
def _backwards(registers, adjoint, ops, lanes):
    """Gradients by all registers, from those by the outputs."""
    first = registers.shape[0] - len(ops)
    for k in range(len(ops) - 1, -1, -1):
        x, y, z, w = ops[k, 1], ops[k, 2], ops[k, 3], ops[k, 4]
        # A loop for each register, since two of them may be the same one.
        for s in range(lanes):
            adjoint[x, s] += adjoint[first + k, s] * registers[y, s]
        for s in range(lanes):
            adjoint[y, s] += adjoint[first + k, s] * registers[x, s]
        if ops[k, 0] != 0:
            sign = registers[0, 0] if ops[k, 0] == 1 else -registers[0, 0]
            for s in range(lanes):
                adjoint[z, s] += sign * adjoint[first + k, s] * registers[w, s]
            for s in range(lanes):
                adjoint[w, s] += sign * adjoint[first + k, s] * registers[z, s]


@part
def _unload(registers, adjoint, item, row_gradient, fixed_gradient):
    """Gradients by the angles, from those by their cosines and sines."""
    begin, end, low, n = item[0], item[1], item[2], item[3] - item[2]
    sampled = row_gradient.shape[1]
    for a in range(sampled + fixed_gradient.shape[2]):
        c, d = 1 + 2 * a, 2 + 2 * a
        for s in range((end - begin) * n):
            # The place of the cosine's adjoint takes the slope.
            adjoint[c, s] = adjoint[d, s] * registers[c, s] - adjoint[c, s] * registers[d, s]
        for p in range(begin, end):
            lane = (p - begin) * n
            if a < sampled:
                for s in range(n):
                    row_gradient[p, a, low + s] = adjoint[c, lane + s]
            else:
                total = registers[0, 0] * 0
                for s in range(n):
                    total += adjoint[c, lane + s]
                fixed_gradient[item[4], p, a - sampled] = total


@kernel
def run(
    items, width, places, rows, sampled, fixed, ops, outputs, signs, values, back,
    row_gradient, fixed_gradient,
):  # fmt: skip
    """Values of the polynomials, or (if `back`) the gradients by their angles.

    Items are tiles of at most `width` lanes: first place, last, first sample, last, chunk of
    samples. ``places[p]`` is the row of `fixed`, and of `rows`, which says which row of `sampled`
    each angle is; both hold cosines and sines. ``values[place, polynomial, sample]`` is written, or
    is the gradient to start from; then ``row_gradient[place, angle, sample]`` is written, and
    ``fixed_gradient[chunk, place, angle]``, summed over the samples of a chunk.
    """
    n_registers = 1 + 2 * (rows.shape[1] + fixed.shape[2]) + len(ops)
    registers = np.empty((n_registers, width), fixed.dtype)
    adjoint = np.empty((n_registers if back else 0, width), fixed.dtype)
    for i in range(len(items)):
        item = items[i]
        begin, end, low, n = item[0], item[1], item[2], item[3] - item[2]
        _load(registers, item, places, rows, sampled, fixed)
        _forwards(registers, ops, (end - begin) * n)
        if not back:
            for p in range(begin, end):
                for j in range(len(outputs)):
                    sign, lane = signs[j] * registers[0, 0], (p - begin) * n
                    for s in range(n):
                        values[p, j, low + s] = sign * registers[outputs[j], lane + s]
            continue
        for r in range(n_registers):
            for s in range((end - begin) * n):
                adjoint[r, s] = 0
        for p in range(begin, end):
            for j in range(len(outputs)):
                sign, lane = signs[j] * registers[0, 0], (p - begin) * n
                for s in range(n):
                    adjoint[outputs[j], lane + s] += sign * values[p, j, low + s]
        _backwards(registers, adjoint, ops, (end - begin) * n)
        _unload(registers, adjoint, item, row_gradient, fixed_gradient)
