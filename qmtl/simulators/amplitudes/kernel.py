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

from numba import boolean, int8, int64, uint64

from qmtl.simulators.amplitudes.kernel_steps import add, derive, keep, load, read, start, turn
from qmtl.simulators.amplitudes.program import CONSTANT, PHASE, SAMPLE, TASK
from qmtl.simulators.kernel_parts import argument, array, take

__all__ = ["program"]


def program(real):
    """The kernel for a precision: outputs of work items, or (if `back`) their gradients.

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
    itemsize = real.bitwidth // 8

    def run(words):
        size, lanes, n_shared, n_starts = words[6], words[7], words[8], words[9]
        tile, back = uint64(lanes), words[10] != 0
        ops = argument(words, 11, 2, int64)
        terms = argument(words, 14, 2, int64)
        signs = argument(words, 17, 2, int8)
        readout = argument(words, 20, 2, real)
        rows = argument(words, 23, 2, int64)
        items = argument(words, 26, 2, int64)
        cos = argument(words, 29, 2, real)
        sin = argument(words, 32, 2, real)
        cone_fixed = argument(words, 35, 3, real)
        task_fixed = argument(words, 39, 3, real)
        states = argument(words, 43, 4, real)
        values = argument(words, 48, 4, real)
        wanted = argument(words, 53, 2, boolean)
        row_grad = argument(words, 56, 3, real)
        cone_grad = argument(words, 60, 3, real)
        task_grad = argument(words, 64, 3, real)
        per_cone = values.shape[1] // rows.shape[0]
        runs = 1 if per_cone == 1 else 1 + per_cone
        own = words[3] + take(words, 0) * words[5] * itemsize
        both = array(own, (2, 2 * size, lanes), real)
        state, adjoint = both[0], both[1]
        vectors = array(own + 4 * size * lanes * itemsize, (3, lanes), real)
        c, d, g = vectors[0], vectors[1], vectors[2]
        tables = array(own + (4 * size + 3) * lanes * itemsize, (3, size), real)
        slope = tables[2]
        shared = 2 * size if per_cone > 1 else 0
        whole = array(own + ((4 * size + 3) * lanes + 3 * size) * itemsize, (shared, lanes), real)
        i = take(words, 1)
        while i < words[2]:
            cone, first, place, row = items[i, 0], uint64(items[i, 1]), items[i, 2], items[i, 3]
            active = False
            for round_ in range(runs):
                # Round 0 is the cone's own operations, the others are the tasks'; backwards, last.
                own_round = runs - 1 - round_ if back else round_
                # Of its cone's tasks; numba's `max` is a function to be compiled, too.
                which = own_round - 1 if own_round else 0
                task = cone * per_cone + which
                begin, end = n_shared if own_round else 0, len(ops) if own_round else n_shared
                reads = own_round > 0 or per_cone == 1
                if back and ((reads and not wanted[row, task]) or (not reads and not active)):
                    continue
                keeps = not back and items[i, 4] >= 0
                kept = states[items[i, 4] if back or keeps else 0, own_round]
                start(state, adjoint, whole, kept, own_round, back, reads)
                # The readout comes after the last operation.
                for step in range(begin, end + 1):
                    k = begin + end - step if back else step
                    if k == end:
                        if reads:
                            outputs = values[row, task]
                            read(state, adjoint, readout, outputs, first, tile, size, g, back)
                        continue
                    op = ops[k]
                    fixed, where = (task_fixed, task) if op[4] == TASK else (cone_fixed, cone)
                    angle = rows[cone, op[2]] if op[4] == SAMPLE and op[0] != PHASE else 0
                    load(op, angle, cos, sin, fixed, where, first, tile, c, d, terms, signs, tables)
                    if back and op[4] != CONSTANT and (op[0] != PHASE or op[2] < op[3]):
                        target = cone_grad[first // tile, place]
                        if op[4] == TASK:
                            target = task_grad[first // tile, place * per_cone + which]
                        derive(state, adjoint, op, terms, tile, size, g, slope, target)
                        if op[0] != PHASE:
                            by_sample = op[4] == SAMPLE
                            by_row = row_grad[place, op[2] if by_sample else 0]
                            add(target, by_row, op[2], g, by_sample, first)
                    if not back or k >= n_starts:
                        pairs = size if back else op[5]
                        # An integer would take the loop to double precision.
                        sign = real(-1 if back else 1)
                        for half in range(2 if back else 1):
                            turn(both[half], op, c, d, tables, tile, size, sign, pairs)
                keep(state, adjoint, whole, kept, keeps, back, reads, active)
                active = active or (back and reads)
            i = take(words, 1)

    return run
