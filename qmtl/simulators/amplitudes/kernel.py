"""The compiled kernel: takes cones through their circuit and back, tile by tile of samples.

Two numba functions interpret a small table of operations, so that they are compiled once per
precision, are kept on disk, and serve every circuit. A tile holds the amplitudes of one cone for
some samples, laid out ``[part][amplitude][sample]``: inner loops run over samples and vectorise,
and a tile stays in the first cache levels from its product state to its outputs.

Backwards, the adjoint state is λ = ∂L/∂Re ψ + i ∂L/∂Im ψ. Every operation first adds its angle's
derivative (its generator between λ and ψ, on its output) and is then undone on both; nothing is
stored in between. This file knows no torch; `compiled` prepares its arrays.

Tables (`program` writes them). ``ops`` has the columns kind; stride of the wire (of a phase: by how
many bits an amplitude's number is shifted to find its entry); slot (of a phase: its first term);
mask (of a phase: after its last term); source of the angle (0: the cone's, 1: the task's); whether
a phase has angles, or only signs. ``terms`` has the columns slot, or -1 for a CZ, and mask. The
first ``n_starts`` operations make the product state: they are rows of ``starts`` (one per wire:
kind, slot) again, as rotations, for the derivative. Angles come as cosines and sines of their
halves.
"""

import numpy as np

from qmtl.simulators.compilation import kernel, part

__all__ = [
    "HADAMARD",
    "PHASE",
    "RX",
    "RX_FIXED",
    "RY",
    "RY_FIXED",
    "SAMPLE_PHASE",
    "START_FIXED",
    "START_HADAMARD",
    "START_SAMPLE",
    "START_ZERO",
    "backward",
    "forward",
]

RY, RY_FIXED, RX, RX_FIXED, HADAMARD, PHASE, SAMPLE_PHASE = range(7)
START_ZERO, START_SAMPLE, START_FIXED, START_HADAMARD = range(4)
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
    for p in range(source.shape[0]):
        for a in range(source.shape[1]):
            for s in range(source.shape[2]):
                target[p, a, s] = source[p, a, s]


@part
def _product(state, starts, cone, rows, cos, sin, fixed, first, tile):
    """The product state of the first layer, real, built wire by wire in place."""
    one = cos[0, 0] * 0 + 1
    for s in range(tile):
        state[0, 0, s] = one
    for wire in range(len(starts)):
        kind, slot = starts[wire, 0], starts[wire, 1]
        x, y = one, one * 0
        if kind == START_FIXED:
            x, y = fixed[0, cone, slot], fixed[1, cone, slot]
        elif kind == START_HADAMARD:
            x, y = one * ROOT_HALF, one * ROOT_HALF
        for a in range((1 << wire) - 1, -1, -1):
            if kind == START_SAMPLE:
                row = rows[cone, slot]
                for s in range(tile):
                    value = state[0, a, s]
                    state[0, 2 * a + 1, s] = value * sin[row, first + s]
                    state[0, 2 * a, s] = value * cos[row, first + s]
            else:
                for s in range(tile):
                    value = state[0, a, s]
                    state[0, 2 * a + 1, s] = value * y
                    state[0, 2 * a, s] = value * x
    for a in range(state.shape[1]):
        for s in range(tile):
            state[1, a, s] = 0


@part
def _load(op, cone, rows, cos, sin, fixed, where, first, tile, c, d, terms, table):
    """Cosines and sines of an operation: by sample into c and d, or by amplitude into the table."""
    kind, slot = op[0], op[2]
    if kind == RY_FIXED or kind == RX_FIXED:
        for s in range(tile):
            c[s] = fixed[0, where, slot]
            d[s] = fixed[1, where, slot]
    elif kind == RY or kind == RX or kind == SAMPLE_PHASE:
        row = rows[cone, slot]
        for s in range(tile):
            c[s] = cos[row, first + s]
            d[s] = sin[row, first + s]
    elif kind == PHASE:
        size = table.shape[1] >> op[1]
        for a in range(size):
            table[0, a] = 1
            table[1, a] = 0
        for t in range(op[2], op[3]):
            mask = terms[t, 1]
            if terms[t, 0] < 0:
                for a in range(size):
                    if a & mask == mask:
                        table[0, a] = -table[0, a]
                        table[1, a] = -table[1, a]
                continue
            x, y = fixed[0, where, terms[t, 0]], fixed[1, where, terms[t, 0]]
            for a in range(size):
                z = y if _odd(a & mask) else -y
                re, im = table[0, a], table[1, a]
                table[0, a] = re * x - im * z
                table[1, a] = re * z + im * x


@part
def _apply(state, op, c, d, table, tile, sign):
    """One operation (`sign` 1) or its inverse (`sign` -1)."""
    kind, stride, size = op[0], op[1], state.shape[1]
    if kind == PHASE and op[5] == 0:
        for a in range(size):
            x = table[0, a >> stride]
            for s in range(tile):
                state[0, a, s] *= x
                state[1, a, s] *= x
    elif kind == PHASE:
        for a in range(size):
            x, y = table[0, a >> stride], table[1, a >> stride] * sign
            for s in range(tile):
                re, im = state[0, a, s], state[1, a, s]
                state[0, a, s] = re * x - im * y
                state[1, a, s] = re * y + im * x
    elif kind == SAMPLE_PHASE:
        for a in range(size):
            flip = sign if _odd(a & op[3]) else -sign
            for s in range(tile):
                re, im, y = state[0, a, s], state[1, a, s], d[s] * flip
                state[0, a, s] = re * c[s] - im * y
                state[1, a, s] = re * y + im * c[s]
    else:
        half = c[0] * 0 + ROOT_HALF
        for pair in range(size // 2):
            a = ((pair & -stride) << 1) | (pair & (stride - 1))
            b = a + stride
            if kind == RY or kind == RY_FIXED:
                for p in range(2):
                    for s in range(tile):
                        x, y, z = state[p, a, s], state[p, b, s], d[s] * sign
                        state[p, a, s] = c[s] * x - z * y
                        state[p, b, s] = z * x + c[s] * y
            elif kind == HADAMARD:
                for p in range(2):
                    for s in range(tile):
                        x, y = state[p, a, s], state[p, b, s]
                        state[p, a, s] = (x + y) * half
                        state[p, b, s] = (x - y) * half
            else:
                for s in range(tile):
                    z = d[s] * sign
                    xr, xi = state[0, a, s], state[1, a, s]
                    yr, yi = state[0, b, s], state[1, b, s]
                    state[0, a, s] = c[s] * xr + z * yi
                    state[1, a, s] = c[s] * xi - z * yr
                    state[0, b, s] = c[s] * yr + z * xi
                    state[1, b, s] = c[s] * yi - z * xr


@part
def _derive_phase(state, adjoint, op, terms, tile, gradient, slope):
    """Derivatives by the angles of a phase, into their slots of `gradient`."""
    size = len(slope) >> op[1]
    for a in range(size):
        slope[a] = 0
    for a in range(state.shape[1]):
        total = slope[0] * 0
        for s in range(tile):
            total += adjoint[1, a, s] * state[0, a, s] - adjoint[0, a, s] * state[1, a, s]
        slope[a >> op[1]] += total
    for t in range(op[2], op[3]):
        if terms[t, 0] >= 0:
            total = slope[0] * 0
            for a in range(size):
                total += slope[a] if _odd(a & terms[t, 1]) else -slope[a]
            gradient[terms[t, 0]] += total / 2


@part
def _derive(state, adjoint, op, tile, g):
    """The derivative by a rotation's angle, from its output, for each sample."""
    kind, stride, size = op[0], op[1], state.shape[1]
    for s in range(tile):
        g[s] = 0
    if kind == SAMPLE_PHASE:
        for a in range(size):
            flip = 1 if _odd(a & op[3]) else -1
            for s in range(tile):
                slope = adjoint[1, a, s] * state[0, a, s] - adjoint[0, a, s] * state[1, a, s]
                g[s] += flip * slope
    else:
        for pair in range(size // 2):
            a = ((pair & -stride) << 1) | (pair & (stride - 1))
            b = a + stride
            if kind == RY or kind == RY_FIXED:
                for s in range(tile):
                    g[s] += (
                        adjoint[0, b, s] * state[0, a, s]
                        - adjoint[0, a, s] * state[0, b, s]
                        + adjoint[1, b, s] * state[1, a, s]
                        - adjoint[1, a, s] * state[1, b, s]
                    )
            else:
                for s in range(tile):
                    g[s] += (
                        adjoint[0, a, s] * state[1, b, s]
                        - adjoint[1, a, s] * state[0, b, s]
                        + adjoint[0, b, s] * state[1, a, s]
                        - adjoint[1, b, s] * state[0, a, s]
                    )
    for s in range(tile):
        g[s] /= 2


@part
def _read(state, readout, values, first, tile, p):
    """A task's outputs from its final state, into ``values[output, sample]``."""
    rest = state.shape[1] // readout.shape[1]
    for j in range(readout.shape[0]):
        for s in range(tile):
            values[j, first + s] = 0
    for b in range(readout.shape[1]):
        for s in range(tile):
            p[s] = 0
        for k in range(b * rest, (b + 1) * rest):
            for s in range(tile):
                p[s] += state[0, k, s] * state[0, k, s] + state[1, k, s] * state[1, k, s]
        for j in range(readout.shape[0]):
            if readout[j, b] != 0:
                for s in range(tile):
                    values[j, first + s] += readout[j, b] * p[s]


@part
def _read_back(state, adjoint, readout, gradient, first, tile, p):
    """The adjoint of a task's final state."""
    rest = state.shape[1] // readout.shape[1]
    for b in range(readout.shape[1]):
        for s in range(tile):
            p[s] = 0
        for j in range(readout.shape[0]):
            if readout[j, b] != 0:
                for s in range(tile):
                    p[s] += 2 * readout[j, b] * gradient[j, first + s]
        for k in range(b * rest, (b + 1) * rest):
            for s in range(tile):
                adjoint[0, k, s] = p[s] * state[0, k, s]
                adjoint[1, k, s] = p[s] * state[1, k, s]


@kernel
def forward(
    items, starts, ops, n_starts, n_shared, terms, readout, rows, cos, sin, cone_fixed, task_fixed,
    tile, values, states,
):  # fmt: skip
    """Outputs of the work items (cone, first sample, place, row, kept state).

    Outputs go into ``values[task, output, sample]``; place and row are for the backward pass, for
    which the row `kept state` of `states` (unless it is -1) gets the states it starts from.

    The first `n_shared` operations run once per cone. If tasks share cones, the others run once per
    task on a copy of the cone's state.
    """
    size = 1 << len(starts)
    per_cone = values.shape[0] // rows.shape[0]
    buffers = np.empty((2 if per_cone > 1 else 1, 2, size, tile), cos.dtype)
    table = np.empty((2, size), cos.dtype)
    c, d, p = np.empty(tile, cos.dtype), np.empty(tile, cos.dtype), np.empty(tile, cos.dtype)
    for i in range(len(items)):
        cone, first = items[i, 0], items[i, 1]
        _product(buffers[0], starts, cone, rows, cos, sin, cone_fixed, first, tile)
        for run in range(1 if per_cone == 1 else 1 + per_cone):
            task = cone if per_cone == 1 else cone * per_cone + run - 1
            state = buffers[0 if run == 0 else 1]
            if run > 0:
                _copy(state, buffers[0])
            for k in range(n_starts if run == 0 else n_shared, n_shared if run == 0 else len(ops)):
                op = ops[k]
                fixed, where = (cone_fixed, cone) if op[4] == 0 else (task_fixed, task)
                _load(op, cone, rows, cos, sin, fixed, where, first, tile, c, d, terms, table)
                _apply(state, op, c, d, table, tile, 1)
            if items[i, 4] >= 0:
                _copy(states[items[i, 4], run], state)
            if run > 0 or per_cone == 1:
                _read(state, readout, values[task], first, tile, p)


@kernel
def backward(
    items, starts, ops, n_starts, n_shared, terms, readout, rows, cos, sin, cone_fixed, task_fixed,
    tile, states, wanted, gradient, row_grad, cone_grad, task_grad,
):  # fmt: skip
    """Gradients of the work items (cone, first sample, place, row of the Jacobian, kept state).

    Every item adds to places of its own, so that no order of items matters. Shapes: gradient
    (rows of the Jacobian, tasks, outputs, samples), and `wanted` whether any of a task's is not
    zero; row_grad (places, sample slots, samples);
    cone_grad (tiles, places, slots); task_grad (tiles, places · tasks per cone, slots).
    """
    size = 1 << len(starts)
    per_cone = gradient.shape[1] // rows.shape[0]
    both, whole = np.empty((2, 2, size, tile), cos.dtype), np.empty((2, size, tile), cos.dtype)
    state, adjoint = both[0], both[1]
    table, slope = np.empty((2, size), cos.dtype), np.empty(size, cos.dtype)
    c, d, g = np.empty(tile, cos.dtype), np.empty(tile, cos.dtype), np.empty(tile, cos.dtype)
    p = np.empty(tile, cos.dtype)
    for i in range(len(items)):
        cone, first, place, row = items[i, 0], items[i, 1], items[i, 2], items[i, 3]
        n = first // tile
        active = False
        # The tasks' own operations, if they share the cone, and last those of the cone.
        for run in range(1 if per_cone == 1 else 1 + per_cone):
            last = per_cone == 1 or run == per_cone
            own = 0 if last else run
            task = cone if per_cone == 1 else cone * per_cone + own
            begin, end = (0, n_shared) if last else (n_shared, len(ops))
            _copy(state, states[items[i, 4], 0 if last else 1 + own])
            if last and per_cone > 1:
                if not active:
                    continue
                _copy(adjoint, whole)
            elif not wanted[row, task]:
                continue
            else:
                _read_back(state, adjoint, readout, gradient[row, task], first, tile, p)
            for k in range(end - 1, begin - 1, -1):
                op = ops[k]
                kind = op[0]
                fixed, where = (cone_fixed, cone) if op[4] == 0 else (task_fixed, task)
                target = cone_grad[n, place] if op[4] == 0 else task_grad[n, place * per_cone + own]
                if kind == PHASE and op[5] != 0:
                    _derive_phase(state, adjoint, op, terms, tile, target, slope)
                elif kind != HADAMARD and kind != PHASE:
                    _derive(state, adjoint, op, tile, g)
                    total = g[0] * 0
                    if kind == RY_FIXED or kind == RX_FIXED:
                        for s in range(tile):
                            total += g[s]
                        target[op[2]] += total
                    else:
                        for s in range(tile):
                            row_grad[place, op[2], first + s] += g[s]
                if k >= n_starts:
                    _load(op, cone, rows, cos, sin, fixed, where, first, tile, c, d, terms, table)
                    for which in range(2):
                        _apply(both[which], op, c, d, table, tile, -1)
            if not last:
                for part in range(2):
                    for a in range(size):
                        for s in range(tile):
                            sofar = whole[part, a, s] if active else c[0] * 0
                            whole[part, a, s] = sofar + adjoint[part, a, s]
                active = True
