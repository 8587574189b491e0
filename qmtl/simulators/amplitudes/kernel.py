"""The compiled kernel: takes cones through their circuit and back, tile by tile of samples.

It interprets a small table of operations, so that it is compiled once per precision, is kept on
disk, and serves every circuit. A tile holds one cone's state for some samples, one row of samples
for each real number: the real parts of all amplitudes, then their imaginary parts. Inner loops run
over samples and vectorise, and a tile stays in the first cache levels from |0…0⟩ to its outputs.

In real numbers every rotation turns pairs of rows by half its angle; `_pair` says which. A layer of
diagonal gates turns the two parts of each amplitude by an angle of its own. Backwards, the adjoint
state is ∂L/∂(rows): every operation first adds its angle's derivative, which its generator gives
from its output, and is then undone on state and adjoint together; nothing is stored in between.

Tables (`program` writes them). ``ops`` has the columns kind; stride of the wire; slot of the angle;
mask of the wires of a SAMPLE-dependent Z; source of the angle; how many pairs of rows to turn. A
PHASE has, after the kind, by how many bits an amplitude's number is shifted to find its entry; its
first and after its last term (slot and mask, in ``terms``); the source of their angles; and, last,
its row of ``signs``. The first ``n_starts`` operations make the product state: they turn the few
rows that are not zero yet, and need not be undone. Angles come as cosines and sines of their
halves. This file knows no torch.
"""

import numpy as np

from qmtl.simulators.compilation import kernel, part

__all__ = ["CONE", "CONSTANT", "PHASE", "RX", "RY", "SAMPLE", "TASK", "Z", "run"]

# Kinds of operation.
RY, RX, Z, PHASE = range(4)
# Sources of an angle: the sample, the cone's table, the task's table, or a quarter turn.
SAMPLE, CONE, TASK, CONSTANT = range(4)
ROOT_HALF = np.sqrt(0.5)


@part
def _odd(number):
    odd = False
    while number:
        odd = not odd
        number &= number - 1
    return odd


@part
def _copy(target, source):
    # Slices would do, but numba compiles their checks and messages for seconds.
    for r in range(source.shape[0]):
        for s in range(source.shape[1]):
            target[r, s] = source[r, s]


@part
def _pair(kind, stride, mask, size, p):
    """The rows x and y that a rotation takes to c·x - s·y and s·x + c·y."""
    if kind == Z:
        return (p, p + size) if _odd(p & mask) else (p + size, p)
    half = size >> 1
    q = p - half if p >= half else p
    a = ((q & -stride) << 1) | (q & (stride - 1))
    b = a + stride
    if kind == RY:
        return (a, b) if p < half else (a + size, b + size)
    return (b + size, a) if p < half else (a + size, b)


@part
def _load(op, row, cos, sin, fixed, where, first, tile, c, d, terms, signs, table):
    """Cosines and sines of an operation: by sample into c and d, or by amplitude into the table."""
    if op[0] == PHASE:
        size = table.shape[1] >> op[1]
        for a in range(size):
            table[0, a] = signs[op[6], a]
            table[1, a] = 0
        for t in range(op[2], op[3]):
            x, y = fixed[0, where, terms[t, 0]], fixed[1, where, terms[t, 0]]
            for a in range(size):
                z = y if _odd(a & terms[t, 1]) else -y
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
def _apply(state, op, c, d, table, tile, size, sign, pairs):
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
def _derive(state, adjoint, op, terms, tile, size, g, slope, target):
    """The derivative by an angle, from its output: by sample into g, or by slot into the target."""
    if op[0] == PHASE:
        entries = size >> op[1]
        for a in range(entries):
            slope[a] = 0
        for a in range(size):
            total = slope[0] * 0
            for s in range(tile):
                total += adjoint[a + size, s] * state[a, s] - adjoint[a, s] * state[a + size, s]
            slope[a >> op[1]] += total
        for t in range(op[2], op[3]):
            total = slope[0] * 0
            for a in range(entries):
                total += slope[a] if _odd(a & terms[t, 1]) else -slope[a]
            target[terms[t, 0]] += total / 2
    else:
        for s in range(tile):
            g[s] = 0
        for p in range(size):
            i, j = _pair(op[0], op[1], op[3], size, p)
            for s in range(tile):
                g[s] += adjoint[j, s] * state[i, s] - adjoint[i, s] * state[j, s]
        for s in range(tile):
            g[s] /= 2


@part
def _read(state, adjoint, readout, values, first, tile, size, p, back):
    """A task's outputs from its final state; or its adjoint, from the gradient in their place."""
    rest = size // readout.shape[1]
    for b in range(readout.shape[1]):
        for s in range(tile):
            p[s] = 0
        if back:
            for j in range(readout.shape[0]):
                for s in range(tile):
                    p[s] += 2 * readout[j, b] * values[j, first + s]
        for k in range(b * rest, (b + 1) * rest):
            for r in range(k, 2 * size, size):
                for s in range(tile):
                    if back:
                        adjoint[r, s] = p[s] * state[r, s]
                    else:
                        p[s] += state[r, s] * state[r, s]
        if not back:
            for j in range(readout.shape[0]):
                for s in range(tile):
                    sofar = values[j, first + s] if b else p[s] * 0
                    values[j, first + s] = sofar + readout[j, b] * p[s]


@kernel
def run(
    items, n_wires, ops, n_starts, n_shared, terms, signs, readout, rows, cos, sin, cone_fixed,
    task_fixed, tile, states, values, back, wanted, row_grad, cone_grad, task_grad,
):  # fmt: skip
    """Outputs of the work items, or (if `back`) their gradients.

    Items are (cone, first sample, place, row of the Jacobian, kept state). Forwards outputs go into
    ``values[0, task, output, sample]``, and final states into the row `kept state` of `states`
    (unless it is -1). Backwards these states are where it starts, ``values[row]`` is the gradient
    (for tasks in ``wanted[row]`` only, the others' being zero), and every item adds to places of
    its own, so that no order of items matters: row_grad (places, sample slots, samples), cone_grad
    (tiles, places, slots), task_grad (tiles, places · tasks per cone, slots).

    The first `n_shared` operations run once per cone. If tasks share cones, the others run once per
    task: forwards after them on copies of the cone's state, backwards before them, the adjoints
    being summed up.
    """
    size = 1 << n_wires
    per_cone = values.shape[1] // rows.shape[0]
    runs = 1 if per_cone == 1 else 1 + per_cone
    both = np.empty((2, 2 * size, tile), cos.dtype)
    whole = np.empty((2 * size if per_cone > 1 else 0, tile), cos.dtype)
    state, adjoint = both[0], both[1]
    table, slope = np.empty((2, size), cos.dtype), np.empty(size, cos.dtype)
    c, d, g = np.empty(tile, cos.dtype), np.empty(tile, cos.dtype), np.empty(tile, cos.dtype)
    for i in range(len(items)):
        cone, first, place, row = items[i, 0], items[i, 1], items[i, 2], items[i, 3]
        active = False
        for turn in range(runs):
            # Turn 0 is the cone's own operations and the others are the tasks'; backwards, last.
            own = runs - 1 - turn if back else turn
            task = cone if per_cone == 1 else cone * per_cone + max(own - 1, 0)
            begin, end = n_shared if own else 0, len(ops) if own else n_shared
            read = own > 0 or per_cone == 1
            if back:
                if (read and not wanted[row, task]) or (not read and not active):
                    continue
                _copy(state, states[items[i, 4], own])
                if not read:
                    _copy(adjoint, whole)
            elif own:
                _copy(state, whole)
            else:
                for r in range(2 * size):
                    for s in range(tile):
                        state[r, s] = r == 0
            if back and read:
                _read(state, adjoint, readout, values[row, task], first, tile, size, g, True)
            for step in range(begin, end):
                k = begin + end - 1 - step if back else step
                op = ops[k]
                fixed, where = (task_fixed, task) if op[4] == TASK else (cone_fixed, cone)
                angle = rows[cone, op[2]] if op[4] == SAMPLE and op[0] != PHASE else 0
                _load(op, angle, cos, sin, fixed, where, first, tile, c, d, terms, signs, table)
                if back and op[4] != CONSTANT and (op[0] != PHASE or op[2] < op[3]):
                    n = first // tile
                    target = cone_grad[n, place]
                    if op[4] == TASK:
                        target = task_grad[n, place * per_cone + max(own - 1, 0)]
                    _derive(state, adjoint, op, terms, tile, size, g, slope, target)
                    if op[0] != PHASE and op[4] == SAMPLE:
                        for s in range(tile):
                            row_grad[place, op[2], first + s] += g[s]
                    elif op[0] != PHASE:
                        total = g[0] * 0
                        for s in range(tile):
                            total += g[s]
                        target[op[2]] += total
                if not back or k >= n_starts:
                    pairs = size if back else op[5]
                    for which in range(2 if back else 1):
                        _apply(both[which], op, c, d, table, tile, size, -1 if back else 1, pairs)
            if not back:
                if items[i, 4] >= 0:
                    _copy(states[items[i, 4], own], state)
                if read:
                    _read(state, adjoint, readout, values[0, task], first, tile, size, g, False)
                else:
                    _copy(whole, state)
            elif read and per_cone > 1:
                for r in range(2 * size):
                    for s in range(tile):
                        sofar = whole[r, s] if active else c[0] * 0
                        whole[r, s] = sofar + adjoint[r, s]
                active = True
