"""The compiled kernel: runs cones forwards and backwards through their circuit, tile by tile.

The kernel interprets a small table of operations. So numba compiles it once per precision, for all
circuits. A tile holds one cone's state for some samples, with one row of samples for each real
number: the real parts of all amplitudes, then their imaginary parts. Inner loops run over samples
and vectorise, and a tile stays in the first cache levels from |0…0⟩ to its outputs.

In real numbers every rotation mixes pairs of rows, chosen by `_pair`, by half its angle. A layer of
diagonal gates rotates the real and imaginary parts of each amplitude by an angle of that amplitude.
The backward pass carries the adjoint state ∂L/∂(rows). For each operation it first adds the
derivative with respect to the angle, which follows from the operation's output and its generator;
then it undoes the operation on state and adjoint. So no intermediate state is stored.

`_program` writes the tables. The columns of ``ops`` are: the kind; the stride of the wire; the slot
of the angle; the mask of the wires of a Z that depends on the sample (SAMPLE); the source of the
angle; and the number of pairs of rows to mix. For a PHASE, the columns after the kind are: the
number of bits by which to shift an amplitude's index to find its entry; the first term and one past
the last term (slot and mask, in ``terms``); the source of their angles; and its row of ``signs``.
The first ``n_starts`` operations make the product state: they act on the few rows that are not zero
yet, and need not be undone. Angles are given as cosines and sines of half angles.
"""

import math

import numpy as np
from numba import uint64

from qmtl.simulators._amplitudes._program import CONSTANT, PHASE, RY, SAMPLE, TASK, Z
from qmtl.simulators._kernels import kernel

ROOT_HALF = math.sqrt(0.5)


@kernel
def _odd(bits):
    """Return whether an odd number of bits is set."""
    for shift in (32, 16, 8, 4, 2, 1):
        bits ^= bits >> shift
    return (bits & 1) == 1


@kernel
def _pair(kind, stride, mask, size, p):
    """Return the rows x and y that a rotation replaces by c·x - s·y and s·x + c·y."""
    if kind == Z:
        return (p, p + size) if _odd(p & mask) else (p + size, p)
    half = size >> 1
    q = p - half if p >= half else p
    a = ((q & -stride) << 1) | (q & (stride - 1))
    b = a + stride
    if kind == RY:
        return (a, b) if p < half else (a + size, b + size)
    return (b + size, a) if p < half else (a + size, b)


@kernel
def _load(op, row, angles, index, where, low, n, c, d, terms, signs, table):
    """Load an operation's cosines and sines: by sample into c and d, or by amplitude in `table`."""
    cos, sin, fcos, fsin = angles
    if op[0] == PHASE:
        size = table.shape[1] >> op[1]
        for a in range(size):
            table[0, a] = signs[op[6], a]
            table[1, a] = 0
        for t in range(op[2], op[3]):
            place = index[where, terms[t, 0]]
            x, y = fcos[place], fsin[place]
            for a in range(size):
                z = y if _odd(a & terms[t, 1]) else -y
                re, im = table[0, a], table[1, a]
                table[0, a] = re * x - im * z
                table[1, a] = re * z + im * x
    elif op[4] == SAMPLE:
        for s in range(n):
            c[s] = cos[row, low + s]
            d[s] = sin[row, low + s]
    else:
        x, y = c.dtype.type(ROOT_HALF), c.dtype.type(ROOT_HALF)
        if op[4] != CONSTANT:
            place = index[where, op[2]]
            x, y = fcos[place], fsin[place]
        for s in range(n):
            c[s] = x
            d[s] = y


@kernel
def _turn(state, op, c, d, table, n, size, sign, pairs):
    """Apply an operation (`sign` 1) or its inverse (`sign` -1) to the first `pairs` pairs."""
    if op[0] == PHASE and op[2] == op[3]:
        for r in range(2 * size):
            x = table[0, (r & (size - 1)) >> op[1]]
            for s in range(n):
                state[r, s] *= x
    elif op[0] == PHASE:
        for a in range(size):
            x, y = table[0, a >> op[1]], table[1, a >> op[1]] * sign
            for s in range(n):
                re, im = state[a, s], state[a + size, s]
                state[a, s] = re * x - im * y
                state[a + size, s] = re * y + im * x
    else:
        for p in range(pairs):
            i, j = _pair(op[0], op[1], op[3], size, p)
            for s in range(n):
                x, y, z = state[i, s], state[j, s], d[s] * sign
                state[i, s] = c[s] * x - z * y
                state[j, s] = z * x + c[s] * y


@kernel
def _derive(state, adjoint, op, terms, n, size, g, slope, target):
    """Differentiate with respect to an operation's angle.

    A rotation writes a number per sample to `g`. PHASE adds a number per term, summed over samples,
    to `target`.
    """
    half = g.dtype.type(0.5)
    if op[0] == PHASE:
        entries = size >> op[1]
        for a in range(entries):
            slope[a] = 0
        for a in range(size):
            total = slope.dtype.type(0)
            for s in range(n):
                total += adjoint[a + size, s] * state[a, s] - adjoint[a, s] * state[a + size, s]
            slope[a >> op[1]] += total
        for t in range(op[2], op[3]):
            total = slope.dtype.type(0)
            for a in range(entries):
                total += slope[a] if _odd(a & terms[t, 1]) else -slope[a]
            target[terms[t, 0]] += total * half
    else:
        for s in range(n):
            g[s] = 0
        for p in range(size):
            i, j = _pair(op[0], op[1], op[3], size, p)
            for s in range(n):
                g[s] += adjoint[j, s] * state[i, s] - adjoint[i, s] * state[j, s]
        for s in range(n):
            g[s] *= half


@kernel
def _read(state, adjoint, readout, columns, values, low, n, size, p, back):
    """Read a task's outputs from the final state; if `back`, turn gradients into an adjoint."""
    rest = size // readout.shape[1]
    for b in range(readout.shape[1]):
        for s in range(n):
            p[s] = 0
        if back:
            for j in range(readout.shape[0]):
                twice, column = readout[j, b] + readout[j, b], columns[j]
                for s in range(n):
                    p[s] += twice * values[low + s, column]
        for k in range(b * rest, (b + 1) * rest):
            for r in range(k, 2 * size, size):
                for s in range(n):
                    if back:
                        adjoint[r, s] = p[s] * state[r, s]
                    else:
                        p[s] += state[r, s] * state[r, s]
        if not back:
            for j in range(readout.shape[0]):
                factor, column = readout[j, b], columns[j]
                for s in range(n):
                    if b:
                        values[low + s, column] += factor * p[s]
                    else:
                        values[low + s, column] = factor * p[s]


@kernel
def walk(
    first, last, back, sizes, program, index, angles, cones, wanted, states, values, by_sampled,
    by_cone, by_task,
):  # fmt: skip
    """Compute outputs of the items from `first` to `last`, or (if `back`) their gradients.

    An item is one of the `cones` together with a tile of samples. The forward pass writes outputs
    to ``values[sample, columns[task, output]]``, and final states to `states` if there is room. The
    backward pass starts from these states. Then `values` holds the gradients, which are zero except
    for `wanted` tasks, and the q-th cone adds to ``by_sampled[q, slot, sample]``,
    ``by_cone[tile, q, slot]`` and ``by_task[tile, q · tasks per cone + task, slot]``.

    The first `n_shared` operations run once per cone. If tasks share cones, the other operations
    run once per task: in the forward pass after the shared ones, on copies of the cone's state; in
    the backward pass before the shared ones, with the adjoints summed.
    """
    size, lanes, n_shared, n_starts = sizes
    ops, terms, signs, readout = program
    sampled, cone_fixed, task_fixed, columns = index
    samples = angles[0].shape[1]
    tiles = (samples + lanes - 1) // lanes
    per_cone = columns.shape[0] // sampled.shape[0]
    runs = 1 if per_cone == 1 else 1 + per_cone
    both = np.empty((2, 2 * size, lanes), values.dtype)
    state, adjoint = both[0], both[1]
    vectors = np.empty((3, lanes), values.dtype)
    c, d, g = vectors[0], vectors[1], vectors[2]
    tables = np.empty((3, size), values.dtype)
    slope = tables[2]
    whole = np.empty((2 * size if per_cone > 1 else 0, lanes), values.dtype)
    one = values.dtype.type(1)
    for item in range(first, last):
        place, tile = item // tiles, item % tiles
        cone, low = cones[place], uint64(tile * lanes)
        n = uint64(min(lanes, samples - tile * lanes))
        active = False
        for round_ in range(runs):
            # Round 0 runs the cone's operations, the other rounds those of the tasks. The backward
            # pass runs round 0 last.
            own_round = runs - 1 - round_ if back else round_
            which = max(own_round - 1, 0)
            task = cone * per_cone + which
            begin, end = n_shared if own_round else 0, len(ops) if own_round else n_shared
            reads = own_round > 0 or per_cone == 1
            if back and ((reads and not wanted[task]) or (not reads and not active)):
                continue
            keeps = not back and len(states) > 0
            kept = cone * tiles + tile
            for r in range(2 * size):
                for s in range(n):
                    if back:
                        state[r, s] = states[kept, own_round, r, s]
                    elif own_round:
                        state[r, s] = whole[r, s]
                    else:
                        state[r, s] = r == 0
                    if back and not reads:
                        adjoint[r, s] = whole[r, s]
            # The readout is one more step after the last operation.
            for step in range(begin, end + 1):
                k = begin + end - step if back else step
                if k == end:
                    if reads:
                        _read(state, adjoint, readout, columns[task], values, low, n, size, g, back)
                    continue
                op = ops[k]
                of_task = op[4] == TASK
                fixed, where = (task_fixed, task) if of_task else (cone_fixed, cone)
                row = sampled[cone, op[2]] if op[4] == SAMPLE and op[0] != PHASE else 0
                _load(op, row, angles, fixed, where, low, n, c, d, terms, signs, tables)
                if back and op[4] != CONSTANT and (op[0] != PHASE or op[2] < op[3]):
                    target = (
                        by_task[tile, place * per_cone + which] if of_task else by_cone[tile, place]
                    )
                    _derive(state, adjoint, op, terms, n, size, g, slope, target)
                    if op[0] != PHASE and op[4] == SAMPLE:
                        for s in range(n):
                            by_sampled[place, op[2], low + s] += g[s]
                    elif op[0] != PHASE:
                        total = values.dtype.type(0)
                        for s in range(n):
                            total += g[s]
                        target[op[2]] += total
                if not back or k >= n_starts:
                    pairs = size if back else op[5]
                    for half in range(2 if back else 1):
                        _turn(both[half], op, c, d, tables, n, size, -one if back else one, pairs)
            for r in range(2 * size):
                for s in range(n):
                    if keeps:
                        states[kept, own_round, r, s] = state[r, s]
                    if not back and not reads:
                        whole[r, s] = state[r, s]
                    if back and reads and per_cone > 1:
                        whole[r, s] = whole[r, s] + adjoint[r, s] if active else adjoint[r, s]
            active = active or (back and reads)
