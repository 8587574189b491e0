"""The compiled kernels: polynomials and their gradients, for many places and samples.

A place is one member of a batch with angles of its own: a light cone, or a task's block. A tile is
a few places times some samples, flattened to lanes. Its registers, one row of lanes each, stay in
the cache while the operations run over them. The gradient runs the operations again and then
backwards, so that nothing but the angles is read from memory.

Registers hold 1, then a cosine and a sine for each angle (those of the samples first), then
constants, then what each operation writes: x·y (kind 0), x·y + z·w (1) or x·y - z·w (2). All
indices are unsigned: see `kernel`.
"""

import numpy as np
from numba import uint64

from qmtl.simulators._kernels import kernel

__all__ = ["accumulate", "backward", "forward"]


@kernel
def _load(registers, places, begin, end, low, n, sampled, fixed, constants, angles):
    """A tile's angles and constants."""
    cos, sin, fcos, fsin = angles
    for s in range((end - begin) * n):
        registers[0, s] = 1
    first = 1 + 2 * sampled.shape[1]
    last = first + 2 * fixed.shape[1]
    for q in range(begin, end):
        lane, p = (q - begin) * n, places[q]
        for i in range(sampled.shape[1]):
            row, c, d = sampled[p, i], uint64(1 + 2 * i), uint64(2 + 2 * i)
            for s in range(n):
                registers[c, lane + s] = cos[row, low + s]
                registers[d, lane + s] = sin[row, low + s]
        for i in range(fixed.shape[1]):
            row, c, d = fixed[p, i], uint64(first + 2 * i), uint64(first + 2 * i + 1)
            x, y = fcos[row], fsin[row]
            for s in range(n):
                registers[c, lane + s] = x
                registers[d, lane + s] = y
        for i in range(constants.shape[1]):
            c, x = uint64(last + i), constants[p, i]
            for s in range(n):
                registers[c, lane + s] = x


@kernel
def _forwards(registers, ops, lanes):
    """All operations on a tile."""
    for k in range(len(ops)):
        x, y, z, w, out = ops[k, 1], ops[k, 2], ops[k, 3], ops[k, 4], ops[k, 5]
        if ops[k, 0] == 0:
            for s in range(lanes):
                registers[out, s] = registers[x, s] * registers[y, s]
        else:
            sign = registers[0, 0] if ops[k, 0] == 1 else -registers[0, 0]
            for s in range(lanes):
                registers[out, s] = (
                    registers[x, s] * registers[y, s] + sign * registers[z, s] * registers[w, s]
                )


@kernel
def _backwards(registers, adjoint, ops, n_angles, lanes):
    """Gradients with respect to all registers, from those of the outputs.

    Those with respect to the angles are where their cosines are.
    """
    for k in range(len(ops) - 1, -1, -1):
        x, y, z, w, out = ops[k, 1], ops[k, 2], ops[k, 3], ops[k, 4], ops[k, 5]
        for s in range(lanes):
            given = adjoint[out, s]
            adjoint[x, s] += given * registers[y, s]
            adjoint[y, s] += given * registers[x, s]
        if ops[k, 0] != 0:
            sign = registers[0, 0] if ops[k, 0] == 1 else -registers[0, 0]
            for s in range(lanes):
                given = sign * adjoint[out, s]
                adjoint[z, s] += given * registers[w, s]
                adjoint[w, s] += given * registers[z, s]
    for a in range(n_angles):
        c, d = uint64(1 + 2 * a), uint64(2 + 2 * a)
        for s in range(lanes):
            adjoint[c, s] = adjoint[d, s] * registers[c, s] - adjoint[c, s] * registers[d, s]


@kernel
def forward(first, last, lanes, cones, programs, index, constants, angles, coefficients, values):
    """Outputs ``values[sample, columns[cone, k]]`` of the cones from `first` to `last`.

    The cosines and sines of a cone's angles are ``cos[sampled[cone, i], sample]`` and
    ``fcos[fixed[cone, i]]``; those of a block are ``fcos[own[member, i]]``. An output is the sum of
    the strings' expectation values with ``coefficients[cone, k]``, which are kept for `backward`.
    """
    (ops, outputs, signs), (block_ops, block_outputs, block_signs), mixing = programs
    sampled, fixed, own, columns = index
    samples, n_cones = angles[0].shape[1], sampled.shape[0]
    per_cone, n_terms = own.shape[0] // n_cones, len(outputs)
    none, n_outputs = np.empty((1, 0), np.uint64), columns.shape[1] // per_cone
    members = np.empty(own.shape[0], np.uint64)
    for q in range(first * per_cone, last * per_cone):
        members[q] = q
    height = 1 + 2 * own.shape[1] + constants[1].shape[1] + block_ops.shape[0]
    registers = np.empty((height, lanes[1]), values.dtype)
    for start in range(first * per_cone, last * per_cone, lanes[1]):
        begin, end = uint64(start), uint64(min(start + lanes[1], last * per_cone))
        _load(registers, members, begin, end, uint64(0), uint64(1), none, own, constants[1], angles)
        _forwards(registers, block_ops, end - begin)
        if mixing.shape[0]:
            for q in range(begin, end):
                cone, row = q // per_cone, q % per_cone * n_outputs
                for k in range(n_outputs):
                    for j in range(n_terms):
                        total = values.dtype.type(0)
                        for m in range(mixing.shape[1]):
                            out = uint64(m * n_terms + j)
                            factor = mixing[k, m] * block_signs[out]
                            total += factor * registers[block_outputs[out], q - begin]
                        coefficients[cone, row + k, j] = total
        else:
            for j in range(len(block_outputs)):
                out, sign = block_outputs[j], block_signs[j]
                k, term = uint64(j // n_terms), uint64(j % n_terms)
                for q in range(begin, end):
                    cone, row = q // per_cone, q % per_cone * n_outputs
                    coefficients[cone, row + k, term] = sign * registers[out, q - begin]
    height = 1 + 2 * (sampled.shape[1] + fixed.shape[1]) + constants[0].shape[1] + ops.shape[0]
    registers = np.empty((height, lanes[0]), values.dtype)
    total_of = np.empty(lanes[0], values.dtype)
    chunk = min(samples, lanes[0])
    several = lanes[0] // chunk
    for start in range(first, last, several):
        begin, end = uint64(start), uint64(min(start + several, last))
        for at in range(0, samples, chunk):
            low = uint64(at)
            n = uint64(min(at + chunk, samples)) - low
            _load(registers, cones, begin, end, low, n, sampled, fixed, constants[0], angles)
            _forwards(registers, ops, (end - begin) * n)
            for q in range(begin, end):
                lane, p = (q - begin) * n, cones[q]
                for k in range(columns.shape[1]):
                    for s in range(n):
                        total_of[s] = 0
                    for j in range(n_terms):
                        out, factor = outputs[j], signs[j] * coefficients[p, k, j]
                        for s in range(n):
                            total_of[s] += factor * registers[out, lane + s]
                    column = columns[p, k]
                    for s in range(n):
                        values[low + s, column] = total_of[s]


@kernel
def accumulate(cones, index, found, of_sampled, of_fixed):
    """Add what `backward` found to the gradients of each angle, in the order of the cones."""
    by_sampled, by_fixed, by_own = found
    sampled, fixed, own, _ = index
    per_cone = own.shape[0] // sampled.shape[0]
    samples = uint64(of_sampled.shape[1])
    for q in range(len(cones)):
        p = cones[q]
        for i in range(sampled.shape[1]):
            row = sampled[p, i]
            for s in range(samples):
                of_sampled[row, s] += by_sampled[q, i, s]
        for i in range(fixed.shape[1]):
            of_fixed[fixed[p, i]] += by_fixed[q, i]
        for m in range(per_cone):
            member = p * uint64(per_cone) + uint64(m)
            for i in range(own.shape[1]):
                of_fixed[own[member, i]] += by_own[q * per_cone + m, i]


@kernel
def backward(
    first, last, lanes, cones, programs, index, constants, angles, coefficients, gradients,
    found, of_sampled, of_fixed,
):  # fmt: skip
    """Gradients of `forward` with respect to the angles, from ``gradients[sample, column]``.

    What is found for the q-th of the `cones` is ``by_sampled[q, i, sample]`` and
    ``by_fixed[q, i]``, and ``by_own[member, i]`` for its members, one after the other. If these
    are all cones, it is accumulated, too.
    """
    by_sampled, by_fixed, by_own = found
    (ops, outputs, signs), (block_ops, block_outputs, block_signs), mixing = programs
    sampled, fixed, own, columns = index
    samples, n_cones = angles[0].shape[1], sampled.shape[0]
    per_cone, n_terms = own.shape[0] // n_cones, len(outputs)
    n_sampled, n_angles = sampled.shape[1], sampled.shape[1] + fixed.shape[1]
    height = 1 + 2 * n_angles + constants[0].shape[1] + ops.shape[0]
    registers = np.empty((height, lanes[0]), gradients.dtype)
    adjoint = np.empty((height, lanes[0]), gradients.dtype)
    given = np.empty(lanes[0], gradients.dtype)
    by_term = np.empty((last - first, columns.shape[1], n_terms), gradients.dtype)
    chunk = min(samples, lanes[0])
    several = lanes[0] // chunk
    for start in range(first, last, several):
        begin, end = uint64(start), uint64(min(start + several, last))
        for at in range(0, samples, chunk):
            low = uint64(at)
            n = uint64(min(at + chunk, samples)) - low
            width = (end - begin) * n
            _load(registers, cones, begin, end, low, n, sampled, fixed, constants[0], angles)
            _forwards(registers, ops, width)
            for r in range(height):
                for s in range(width):
                    adjoint[r, s] = 0
            for q in range(begin, end):
                lane, p = (q - begin) * n, cones[q]
                for k in range(columns.shape[1]):
                    column = columns[p, k]
                    for s in range(n):
                        given[s] = gradients[low + s, column]
                    for j in range(n_terms):
                        out, sign = outputs[j], signs[j]
                        factor, total = sign * coefficients[p, k, j], gradients.dtype.type(0)
                        for s in range(n):
                            adjoint[out, lane + s] += factor * given[s]
                            total += given[s] * registers[out, lane + s]
                        place = q - uint64(first)
                        by_term[place, k, j] = sign * total + (by_term[place, k, j] if at else 0)
            _backwards(registers, adjoint, ops, n_angles, width)
            for q in range(begin, end):
                lane = (q - begin) * n
                for i in range(n_sampled):
                    c = uint64(1 + 2 * i)
                    for s in range(n):
                        by_sampled[q, i, low + s] = adjoint[c, lane + s]
                for i in range(n_sampled, n_angles):
                    c, total = uint64(1 + 2 * i), gradients.dtype.type(0)
                    for s in range(n):
                        total += adjoint[c, lane + s]
                    by_fixed[q, i - n_sampled] = total + (by_fixed[q, i - n_sampled] if at else 0)
    none, n_outputs = np.empty((1, 0), np.uint64), columns.shape[1] // per_cone
    first_member = first * per_cone
    members = np.empty(by_own.shape[0], np.uint64)
    for q in range(first_member, last * per_cone):
        members[q] = cones[q // per_cone] * uint64(per_cone) + uint64(q % per_cone)
    height = 1 + 2 * own.shape[1] + constants[1].shape[1] + block_ops.shape[0]
    registers = np.empty((height, lanes[1]), gradients.dtype)
    adjoint = np.empty((height, lanes[1]), gradients.dtype)
    for start in range(first_member, last * per_cone, lanes[1]):
        begin, end = uint64(start), uint64(min(start + lanes[1], last * per_cone))
        _load(registers, members, begin, end, uint64(0), uint64(1), none, own, constants[1], angles)
        _forwards(registers, block_ops, end - begin)
        for r in range(height):
            for s in range(end - begin):
                adjoint[r, s] = 0
        for j in range(len(block_outputs)):
            out, sign = block_outputs[j], block_signs[j]
            m, term = uint64(j // n_terms), uint64(j % n_terms)
            for q in range(begin, end):
                cone, row = q // per_cone - first, q % per_cone * n_outputs
                total = gradients.dtype.type(0)
                if mixing.shape[0]:
                    for k in range(n_outputs):
                        total += mixing[k, m] * by_term[cone, row + k, term]
                else:
                    total = by_term[cone, row + m, term]
                adjoint[out, q - begin] += sign * total
        _backwards(registers, adjoint, block_ops, own.shape[1], end - begin)
        for i in range(own.shape[1]):
            c = uint64(1 + 2 * i)
            for q in range(begin, end):
                by_own[q, i] = adjoint[c, q - begin]
    if last - first == len(cones):
        accumulate(cones, index, found, of_sampled, of_fixed)
