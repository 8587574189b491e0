"""The compiled kernel: evaluates polynomials, and their gradients, for many places and samples.

A place is one member of a batch with angles of its own (a light cone, or a task); its angles are
partly per sample and partly fixed. A tile is a few places times some samples, flattened to lanes:
its registers, one row of lanes each, stay in the cache while the operations run over them. The
gradient runs the operations again and then backwards; nothing but the angles is read from memory.

It is one function, compiled once per precision and kept on disk. Indices are unsigned where loops
over lanes use them: a negative one would count from the end, and such loops do not vectorise. This
file knows no torch.
"""

from numba import uint64

from qmtl.simulators.kernel_parts import argument, array, count, part, reached, take
from qmtl.simulators.pauli.kernel_samples import add_rows, cosines_and_sines

__all__ = ["program"]

# Places of counters: blocks of rows begun and done, tiles done, blocks begun.
BEFORE, BEFORE_DONE, DONE, AFTER = 68, 69, 70, 71
# How often a thread looks whether the others are done, some 0.1 ms: one that is not running, of
# more threads than cores, would keep it waiting for long.
PATIENCE = 2**17


@part
def _load(registers, begin, end, low, n, places, rows, cosines, sines, fixed):
    """A tile's constants, cosines and sines; fixed angles come after those of the samples."""
    first = 1 + 2 * rows.shape[1]
    for s in range((end - begin) * n):
        registers[0, s] = 1
    for p in range(begin, end):
        lane, place = (p - begin) * n, places[p]
        for i in range(rows.shape[1]):
            row, c, d = rows[place, i], uint64(1 + 2 * i), uint64(2 + 2 * i)
            for s in range(n):
                registers[c, lane + s] = cosines[row, low + s]
                registers[d, lane + s] = sines[row, low + s]
        for i in range(fixed.shape[2]):
            c, d = uint64(first + 2 * i), uint64(first + 2 * i + 1)
            cosine, sine = fixed[0, place, i], fixed[1, place, i]
            for s in range(n):
                registers[c, lane + s] = cosine
                registers[d, lane + s] = sine


@part
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


@part
def _backwards(registers, adjoint, ops, lanes):
    """Gradients by all registers, from those by the outputs."""
    for k in range(len(ops) - 1, -1, -1):
        x, y, z, w, out = ops[k, 1], ops[k, 2], ops[k, 3], ops[k, 4], ops[k, 5]
        # A loop for each register, since two of them may be the same one.
        for s in range(lanes):
            adjoint[x, s] += adjoint[out, s] * registers[y, s]
        for s in range(lanes):
            adjoint[y, s] += adjoint[out, s] * registers[x, s]
        if ops[k, 0] != 0:
            sign = registers[0, 0] if ops[k, 0] == 1 else -registers[0, 0]
            for s in range(lanes):
                adjoint[z, s] += sign * adjoint[out, s] * registers[w, s]
            for s in range(lanes):
                adjoint[w, s] += sign * adjoint[out, s] * registers[z, s]


@part
def _unload(registers, adjoint, begin, end, low, n, chunk, by_angle, by_fixed):
    """Gradients by the angles, from those by their cosines and sines."""
    sampled = by_angle.shape[1]
    for a in range(sampled + by_fixed.shape[2]):
        c, d = uint64(1 + 2 * a), uint64(2 + 2 * a)
        for s in range((end - begin) * n):
            # The place of the cosine's adjoint takes the slope.
            adjoint[c, s] = adjoint[d, s] * registers[c, s] - adjoint[c, s] * registers[d, s]
        for p in range(begin, end):
            lane = (p - begin) * n
            if a < sampled:
                for s in range(n):
                    by_angle[p, a, low + s] = adjoint[c, lane + s]
            else:
                total = registers.dtype.type(0)
                for s in range(n):
                    total += adjoint[c, lane + s]
                by_fixed[chunk, p, uint64(a - sampled)] = total


@part
def _begin(adjoint, begin, end, low, n, outputs, signs, values, coefficients, sums):
    """Gradients by the registers: zero, but for those by the outputs or by their sums."""
    for r in range(adjoint.shape[0]):
        for s in range((end - begin) * n):
            adjoint[r, s] = 0
    for p in range(begin, end):
        lane = (p - begin) * n
        for j in range(outputs.shape[0]):
            out = outputs[j]
            if sums.shape[1] == 0:
                sign = signs[j]
                for s in range(n):
                    adjoint[out, lane + s] += sign * values[p, j, low + s]
            for k in range(sums.shape[1]):
                factor = signs[j] * coefficients[p, k, j]
                for s in range(n):
                    adjoint[out, lane + s] += factor * sums[p, k, low + s]


@part
def _end(registers, begin, end, low, n, outputs, signs, values):
    """The outputs' values."""
    for p in range(begin, end):
        lane = (p - begin) * n
        for j in range(outputs.shape[0]):
            out, sign = outputs[j], signs[j]
            for s in range(n):
                values[p, j, low + s] = sign * registers[out, lane + s]


def program(real):
    """The kernel for a precision.

    It writes values of the polynomials, or (if `back`) the gradients by their angles.

    Items are tiles: first place, last, first sample, last, chunk of samples. ``places[p]`` is the
    row of `fixed`, and of `rows`, which says which row of `sampled` each angle is; both hold
    cosines and sines. ``values[place, polynomial, sample]`` is written. Backwards these are the
    gradient to start from; or, if there are any, ``sums[place, k, sample]`` are, the gradients by
    sums of the polynomials with ``coefficients[place, k, polynomial]``. Then ``by_angle[place *
    angle, sample]`` is written, and ``by_fixed[chunk, place, angle]``, summed over the samples of a
    chunk.

    Before the tiles come blocks of rows, first and last row, first and last sample: `sampled` is
    written from `angles`, whose numbers are `by_sample` and `by_row` apart. After them come others:
    `gradient`, apart in the same way, takes sums over the angles that each row is, which `order`
    lists between `bounds`. Threads wait for one another in between, but not for long: the one that
    is done last goes on in any case, and callers wait for all threads.
    """
    write, size = cosines_and_sines(real), real.bitwidth // 8

    def run(words):
        own = argument(words, 3, 4, real)
        ops = argument(words, 8, 2, uint64)
        outputs = argument(words, 11, 1, uint64)
        signs = argument(words, 13, 1, real)
        rows = argument(words, 15, 2, uint64)
        items = argument(words, 18, 2, uint64)
        places = argument(words, 21, 1, uint64)
        # By addresses of their own: else the compiler cannot tell that they never overlap.
        cosines = array(words[23], (words[25], words[26]), real)
        sines = array(words[23] + words[25] * words[26] * size, (words[25], words[26]), real)
        fixed = argument(words, 27, 3, real)
        values = argument(words, 31, 3, real)
        back = words[35]
        by_angle = argument(words, 36, 3, real)
        by_fixed = argument(words, 40, 3, real)
        coefficients = argument(words, 44, 3, real)
        sums = argument(words, 48, 3, real)
        by_sample, by_row = uint64(words[52]), uint64(words[53])
        before = argument(words, 54, 2, uint64)
        angles = argument(words, 57, 1, real)
        after = argument(words, 59, 2, uint64)
        gradient = argument(words, 62, 1, real)
        order = argument(words, 64, 1, uint64)
        bounds = argument(words, 66, 1, uint64)
        thread = take(words, 0)
        registers, adjoint = own[thread, 0], own[thread, 1]
        i = take(words, BEFORE)
        while i < len(before):
            begin, end, low = before[i, 0], before[i, 1], before[i, 2]
            n = before[i, 3] - low
            write(registers, begin, end, low, n, angles, by_sample, by_row, cosines, sines)
            count(words, BEFORE_DONE)
            i = take(words, BEFORE)
        tries = 0
        while not reached(words, BEFORE_DONE, len(before)):
            tries += 1
            if tries > PATIENCE:
                return
        i = take(words, 1)
        while i < words[2]:
            begin, end, low, chunk = items[i, 0], items[i, 1], items[i, 2], items[i, 4]
            n = items[i, 3] - low
            lanes = (end - begin) * n
            _load(registers, begin, end, low, n, places, rows, cosines, sines, fixed)
            _forwards(registers, ops, lanes)
            if back:
                _begin(adjoint, begin, end, low, n, outputs, signs, values, coefficients, sums)
                _backwards(registers, adjoint, ops, lanes)
                _unload(registers, adjoint, begin, end, low, n, chunk, by_angle, by_fixed)
            else:
                _end(registers, begin, end, low, n, outputs, signs, values)
            count(words, DONE)
            i = take(words, 1)
        if len(after) == 0:
            return
        tries = 0
        while not reached(words, DONE, words[2]):
            tries += 1
            if tries > PATIENCE:
                return
        flat = array(words[36], (words[37] * words[38], words[39]), real)
        i = take(words, AFTER)
        while i < len(after):
            begin, end, low = after[i, 0], after[i, 1], after[i, 2]
            n = after[i, 3] - low
            add_rows(
                registers, begin, end, low, n, order, bounds, flat, by_sample, by_row, gradient
            )
            i = take(words, AFTER)

    return run
