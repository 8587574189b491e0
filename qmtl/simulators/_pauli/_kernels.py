"""The compiled kernels: polynomials and their gradients, for many places and samples.

A place is a light cone, or a task's block, with its angles. A tile is a few places times some
samples, flattened to lanes. The tile's registers, each a row of lanes, stay in the cache while the
operations run over them. The gradient runs the operations again and then backwards, so that only
the angles are read from memory.

Registers hold 1, then a cosine and a sine for each angle (sampled angles first), then constants,
then the results of the operations: x·y (kind 0), x·y + z·w (1) or x·y - z·w (2). All indices are
unsigned: see `kernel`.
"""

import numpy as np
from numba import uint64

from qmtl.simulators._kernels import kernel


@kernel
def _load(registers, begin, end, low, n, sampled, fixed, constants, angles):
    """Load a tile's angles and constants."""
    cos, sin, fcos, fsin = angles
    for s in range((end - begin) * n):
        registers[0, s] = 1
    first = 1 + 2 * sampled.shape[1]
    last = first + 2 * fixed.shape[1]
    for q in range(begin, end):
        lane = (q - begin) * n
        for i in range(sampled.shape[1]):
            row, c, d = sampled[q, i], uint64(1 + 2 * i), uint64(2 + 2 * i)
            for s in range(n):
                registers[c, lane + s] = cos[row, low + s]
                registers[d, lane + s] = sin[row, low + s]
        for i in range(fixed.shape[1]):
            row, c, d = fixed[q, i], uint64(first + 2 * i), uint64(first + 2 * i + 1)
            x, y = fcos[row], fsin[row]
            for s in range(n):
                registers[c, lane + s] = x
                registers[d, lane + s] = y
        for i in range(constants.shape[1]):
            c, x = uint64(last + i), constants[q, i]
            for s in range(n):
                registers[c, lane + s] = x


@kernel
def _forwards(registers, ops, lanes):
    """Run all operations on a tile."""
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
def _backwards(registers, adjoint, slopes, n_angles, lanes):
    """Turn the gradients of the outputs into gradients of all registers.

    Gradients with respect to the angles are stored in the registers of their cosines.
    """
    for k in range(len(slopes)):
        to, given, factor = slopes[k, 0], slopes[k, 1], slopes[k, 2]
        sign = -registers[0, 0] if slopes[k, 3] == 1 else registers[0, 0]
        if slopes[k, 4] == 1:
            for s in range(lanes):
                adjoint[to, s] = sign * adjoint[given, s] * registers[factor, s]
        else:
            for s in range(lanes):
                adjoint[to, s] += sign * adjoint[given, s] * registers[factor, s]
    for a in range(n_angles):
        c, d = uint64(1 + 2 * a), uint64(2 + 2 * a)
        for s in range(lanes):
            adjoint[c, s] = adjoint[d, s] * registers[c, s] - adjoint[c, s] * registers[d, s]


@kernel
def walk(
    first, last, back, apart, lanes, programs, index, constants, angles, coefficients, values,
    by_term, of_sampled, of_fixed,
):  # fmt: skip
    """Compute outputs ``values[sample, columns[cone, k]]``, or (if `back`) the angles' gradients.

    The cosines and sines of a cone's angles are ``cos[sampled[cone, i], sample]`` and
    ``fcos[fixed[cone, i]]``; those of a block are ``fcos[own[member, i]]``. An output is the sum of
    the strings' expectation values times ``coefficients[cone, k]``. The forward pass runs the
    blocks first, which give these coefficients; the backward pass runs the blocks last. Gradients
    are added at the angles' places. If threads need them `apart`, each angle of each cone has a
    separate place; the blocks' places follow those of the other fixed angles.
    """
    encoding, block, mixing = programs
    sampled, fixed, own, columns, none = index
    n_terms, per_cone = uint64(len(encoding[1])), own.shape[0] // sampled.shape[0]
    n_outputs = uint64(mixing.shape[0])
    line = np.empty((1, lanes[0]), values.dtype)
    for stage in range(2):
        is_block = (stage == 1) == back
        ops, outputs, slopes, cleared = block if is_block else encoding
        moving, still = (none, own) if is_block else (sampled, fixed)
        offset = fixed.size if is_block else 0
        numbers, each = (constants[1], per_cone) if is_block else (constants[0], 1)
        samples, room = (1, lanes[1]) if is_block else (angles[0].shape[1], lanes[0])
        n_moving, n_still = moving.shape[1], still.shape[1]
        height = 1 + 2 * (n_moving + n_still) + numbers.shape[1] + ops.shape[0]
        registers = np.empty((height, room), values.dtype)
        adjoint = np.empty((height if back else 0, room), values.dtype)
        chunk = min(samples, room)
        several = room // chunk
        sums = np.empty((several, n_still), values.dtype)
        for start in range(first * each, last * each, several):
            begin, end = uint64(start), uint64(min(start + several, last * each))
            for at in range(0, samples, chunk):
                low = uint64(at)
                n = uint64(min(at + chunk, samples)) - low
                _load(registers, begin, end, low, n, moving, still, numbers, angles)
                _forwards(registers, ops, (end - begin) * n)
                if back:
                    for k in range(len(cleared)):
                        row = cleared[k]
                        for s in range((end - begin) * n):
                            adjoint[row, s] = 0
                for q in range(begin, end):
                    lane, cone = (q - begin) * n, q // uint64(each)
                    row = (q - cone * uint64(each)) * n_outputs
                    if is_block:
                        for j in range(len(outputs)):
                            out, sign = uint64(outputs[j, 0]), values.dtype.type(outputs[j, 1])
                            m, term = uint64(j) // n_terms, uint64(j) % n_terms
                            for k in range(n_outputs):
                                factor = mixing[k, m] * sign
                                if back:
                                    adjoint[out, lane] += factor * by_term[cone, row + k, term]
                                else:
                                    found = factor * registers[out, lane]
                                    coefficients[cone, row + k, term] += found
                        continue
                    for k in range(columns.shape[1]):
                        column = columns[cone, k]
                        for s in range(n):
                            line[0, s] = values[low + s, column] if back else 0
                        for j in range(n_terms):
                            out, sign = uint64(outputs[j, 0]), values.dtype.type(outputs[j, 1])
                            factor = sign * coefficients[cone, k, j]
                            if back:
                                total = values.dtype.type(0)
                                for s in range(n):
                                    adjoint[out, lane + s] += factor * line[0, s]
                                    total += line[0, s] * registers[out, lane + s]
                                by_term[cone, k, j] += sign * total
                            else:
                                for s in range(n):
                                    line[0, s] += factor * registers[out, lane + s]
                        if not back:
                            for s in range(n):
                                values[low + s, column] = line[0, s]
                if back:
                    _backwards(registers, adjoint, slopes, n_moving + n_still, (end - begin) * n)
                    for q in range(begin, end):
                        lane = (q - begin) * n
                        for i in range(n_moving):
                            c = uint64(1 + 2 * i)
                            place = uint64(q * n_moving + i) if apart else moving[q, i]
                            for s in range(n):
                                of_sampled[place, low + s] += adjoint[c, lane + s]
                        for i in range(n_still):
                            c, total = uint64(1 + 2 * (n_moving + i)), values.dtype.type(0)
                            for s in range(n):
                                total += adjoint[c, lane + s]
                            sums[q - begin, i] = total + (sums[q - begin, i] if at else 0)
            if back:
                for q in range(begin, end):
                    for i in range(n_still):
                        place = uint64(offset + q * n_still + i) if apart else still[q, i]
                        of_fixed[place] += sums[q - begin, i]
