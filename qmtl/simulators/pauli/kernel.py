"""The compiled kernel: evaluates polynomials, and their gradients, for many places and samples.

A place is one member of a batch with angles of its own (a light cone, or a task); its angles are
partly per sample and partly fixed. A tile is a few places times some samples, flattened to lanes:
its registers, one row of lanes each, stay in the cache while the operations run over them. The
gradient runs the operations again and then backwards; nothing but the angles is read from memory.

It is one function, compiled once per precision and kept on disk. This file knows no torch.
"""

from numba import int64

from qmtl.simulators.kernel_parts import array, part, take

__all__ = ["program"]


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


@part
def _begin(adjoint, item, outputs, signs, values, coefficients, sums):
    """Gradients by the registers: zero, but for those by the outputs or by their sums."""
    begin, end, low, n = item[0], item[1], item[2], item[3] - item[2]
    for r in range(adjoint.shape[0]):
        for s in range((end - begin) * n):
            adjoint[r, s] = 0
    for p in range(begin, end):
        lane = (p - begin) * n
        for j in range(outputs.shape[0]):
            if sums.shape[1] == 0:
                for s in range(n):
                    adjoint[outputs[j], lane + s] += signs[j] * values[p, j, low + s]
            for k in range(sums.shape[1]):
                factor = signs[j] * coefficients[p, k, j]
                for s in range(n):
                    adjoint[outputs[j], lane + s] += factor * sums[p, k, low + s]


@part
def _end(registers, item, outputs, signs, values):
    """The outputs' values."""
    begin, end, low, n = item[0], item[1], item[2], item[3] - item[2]
    for p in range(begin, end):
        lane = (p - begin) * n
        for j in range(outputs.shape[0]):
            for s in range(n):
                values[p, j, low + s] = signs[j] * registers[outputs[j], lane + s]


def program(real):
    """The kernel for a precision.

    It writes values of the polynomials, or (if `back`) the gradients by their angles.

    Items are tiles: first place, last, first sample, last, chunk of samples. ``places[p]`` is the
    row of `fixed`, and of `rows`, which says which row of `sampled` each angle is; both hold
    cosines and sines. ``values[place, polynomial, sample]`` is written. Backwards these are the
    gradient to start from; or, if there are any, ``sums[place, k, sample]`` are, the gradients by
    sums of the polynomials with ``coefficients[place, k, polynomial]``. Then ``row_gradient[place,
    angle, sample]`` is written, and ``fixed_gradient[chunk, place, angle]``, summed over the
    samples of a chunk.
    """

    def run(words):
        own = array(words[3], (words[4], 2, words[6], words[7]), real)
        ops = array(words[8], (words[9], 5), int64)
        outputs = array(words[11], (words[12],), int64)
        signs = array(words[13], (words[14],), real)
        rows = array(words[15], (words[16], words[17]), int64)
        items = array(words[18], (words[19], 5), int64)
        places = array(words[21], (words[22],), int64)
        sampled = array(words[23], (2, words[25], words[26]), real)
        fixed = array(words[27], (2, words[29], words[30]), real)
        values = array(words[31], (words[32], words[33], words[34]), real)
        back = words[35]
        row_gradient = array(words[36], (words[37], words[38], words[39]), real)
        fixed_gradient = array(words[40], (words[41], words[42], words[43]), real)
        coefficients = array(words[44], (words[45], words[46], words[47]), real)
        sums = array(words[48], (words[49], words[50], words[51]), real)
        thread = take(words, 0)
        registers, adjoint = own[thread, 0], own[thread, 1]
        i = take(words, 1)
        while i < words[2]:
            item = items[i]
            lanes = (item[1] - item[0]) * (item[3] - item[2])
            _load(registers, item, places, rows, sampled, fixed)
            _forwards(registers, ops, lanes)
            if back:
                _begin(adjoint, item, outputs, signs, values, coefficients, sums)
                _backwards(registers, adjoint, ops, lanes)
                _unload(registers, adjoint, item, row_gradient, fixed_gradient)
            else:
                _end(registers, item, outputs, signs, values)
            i = take(words, 1)

    return run
