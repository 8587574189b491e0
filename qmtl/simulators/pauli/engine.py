"""A group's outputs by its polynomials in the Pauli basis: the engine for small cones.

`places` are members of a batch: the cones for the encoding's polynomials, the tasks for those of
the blocks, and for a Jacobian the pairs of a row and a cone that have a gradient.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.simulators.angles import sample_angles
from qmtl.simulators.engine import ALL, Needs, Three, no_gradient
from qmtl.simulators.pauli.program import PauliProgram
from qmtl.simulators.pauli.tables import in_pairs, joined, products
from qmtl.simulators.pauli.tape import PullBack, Tape, Values
from qmtl.simulators.plan import Group
from qmtl.simulators.threads import Background
from qmtl.simulators.weight_table import WeightTable

__all__ = ["PauliEngine"]

Array = NDArray[Any]
NONE = np.empty(0, np.int64)


class Pairs(NamedTuple):
    """Rows of a Jacobian and cones that have a gradient together.

    Attributes:
        row: the row of each pair.
        cone: its cone.
        n: how many rows there are.
        is_whole: whether these are all cones, in one row; `row` and `cone` do not say so then.
    """

    row: Array
    cone: Array
    n: int
    is_whole: bool


class PauliEngine:
    """Evaluates a group's program in the compiled kernel; an `Engine`.

    Its inputs are the sample-dependent angles (rows, samples), the encoding's weights, and the
    tasks' weights (tasks, n_weights).

    Args:
        group: the tasks.
        program: their polynomials.
        constants: what the polynomials' constants are for each cone (cones, constants), and for
            each task (tasks, constants); None if there are none.
    """

    name: ClassVar[str] = "Pauli strings"
    is_differentiable: ClassVar[bool] = False

    def __init__(
        self,
        group: Group,
        program: PauliProgram,
        constants: tuple[Array, Array] | None = None,
    ) -> None:
        self.group, self.program = group, program
        self.row_index = group.encoding_slots.rows[0]
        self.n_rows = int(self.row_index.max(initial=-1)) + 1
        self.n_cones, self.n_members = group.n_cones, len(group.members)
        self.encoding = Tape(program.encoding, self.row_index)
        self.block = Tape(program.block, np.empty((self.n_members, 0), np.int64))
        self.cone_table = WeightTable.of(group.encoding_slots)
        none = (np.zeros((self.n_cones, 0)), np.zeros((self.n_members, 0)))
        self.cone_constants, self.task_constants = map(in_pairs, constants or none)
        self.task_table = WeightTable.of(group.block_slots, stride=group.n_weights)

    def angles(self, columns: Tensor, encoding: Tensor) -> Tensor:
        """The first input: the features themselves, or products of them, computed first."""
        if self.group.encoding_slots.rows[1]:
            return columns
        return sample_angles(self.group.encoding_slots, columns, encoding).flatten(0, 1)

    def n_threads(self, samples: int, itemsize: int) -> int:
        """How many threads so many samples are worth."""
        return self.encoding.n_threads(samples, itemsize)

    def begin(self, rows: Tensor, encoding: Tensor) -> "Begun":
        """The strings' expectation values, on their way."""
        fixed = joined(self.cone_table.cosines_and_sines(encoding), self.cone_constants)
        values = self.encoding.values(rows, fixed)
        return Begun(fixed, values, values.call.start())

    def forward(
        self, inputs: Three, keep: bool, begun: "Begun | None" = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs; the strings' expectation values and coefficients, cosines and sines."""
        rows, encoding, own = inputs
        begun = begun or self.begin(rows, encoding)
        by_task = joined(self.task_table.cosines_and_sines(own), self.task_constants)
        block = self.block.values(None, by_task)
        block.call.run()
        coefficients = block.found.reshape(self.n_members, -1, self.program.n_terms)
        if self.program.mixing is not None:
            coefficients = self._mixing(own) @ coefficients
        # In the shared layout all tasks look at one cone.
        together = coefficients.reshape(self.n_cones, -1, self.program.n_terms)
        begun.finish()
        strings = begun.values.found
        values = products(together, strings).reshape(self.n_members, -1, rows.shape[1])
        kept = (strings, together, begun.values.sampled, begun.fixed, by_task)
        return values, kept if keep else ()

    def pull_back(
        self, gradients: Tensor, inputs: Three, kept: Sequence[Tensor], needs: Needs = ALL
    ) -> Three:
        """Gradients by the three inputs, for each row of a Jacobian."""
        chosen, kept, pairs = self._pairs(gradients, kept)
        rows, encoding, own = inputs
        by_own = self._by_own(chosen, kept, pairs, own) if needs[2] else no_gradient(pairs.n, own)
        if not (needs[0] or needs[1]):
            return no_gradient(pairs.n, rows), no_gradient(pairs.n, encoding), by_own
        work = self._work(chosen, kept, pairs, rows if needs[0] else None)
        work.call.run()
        return (*self._by_encoding(work, pairs, inputs, needs[0]), by_own)

    def start(
        self, gradient: Tensor, inputs: Three, kept: Sequence[Tensor], needs: Needs
    ) -> tuple[Three, Callable[[], None]]:
        """Gradients, those by rows and encoding still NaN, and what waits for these, which other
        threads compute meanwhile.
        """
        chosen, kept, pairs = self._pairs(gradient[None], kept)
        work = self._work(chosen, kept, pairs, inputs[0] if needs[0] else None)
        # Threads write the gradient by rows where it belongs, if they can.
        in_place = needs[0] and pairs.is_whole
        by_rows = work.by_row if in_place else torch.empty_like(inputs[0])
        late = (by_rows, torch.empty_like(inputs[1]))
        for tensor in late:
            tensor.fill_(torch.nan)
        background = work.call.start()
        by_own = self._by_own(chosen, kept, pairs, inputs[2])[0]
        # Without their graph, of which what waits is a part.
        inputs = (inputs[0].detach(), inputs[1].detach(), inputs[2].detach())

        def finish() -> None:
            background.finish()
            found = self._by_encoding(work, pairs, inputs, needs[0])
            for place, part in list(zip(late, found, strict=True))[in_place:]:
                place.copy_(part[0])

        return (*late, by_own), finish

    def _pairs(
        self, gradients: Tensor, kept: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor], Pairs]:
        """Only pairs with a gradient are run; NaN counts as one, since it must reach the result."""
        n, samples = len(gradients), gradients.shape[-1]
        # Gradients often come transposed, and products of such matrices are slow.
        grouped = gradients.detach().contiguous().reshape(n, self.n_cones, -1, samples)
        numbers = grouped.numpy()
        # Mostly all have one, which a single sample tells.
        if n == 1 and numbers[..., 0].any(axis=2).all():
            return grouped[0], kept, Pairs(NONE, NONE, 1, is_whole=True)
        with_gradient = numbers.any(axis=(2, 3))
        if n == 1 and with_gradient.all():
            return grouped[0], kept, Pairs(NONE, NONE, 1, is_whole=True)
        row, cone = np.divmod(np.flatnonzero(with_gradient), self.n_cones)
        if len(row) == n * self.n_cones:
            chosen = grouped.flatten(0, 1)
        else:
            chosen = grouped[torch.from_numpy(row), torch.from_numpy(cone)]
        if n > 1 or len(cone) < self.n_cones:
            index = torch.from_numpy(cone)
            kept = (kept[0][index], kept[1][index], *kept[2:])
        return chosen, kept, Pairs(row, cone, n, is_whole=False)

    def _by_own(self, chosen: Tensor, kept: Sequence[Tensor], pairs: Pairs, own: Tensor) -> Tensor:
        """Gradients by the tasks' weights, from those by the outputs of some cones."""
        row, task, per_cone = pairs.row, None, self.n_members // self.n_cones
        if not pairs.is_whole:
            task = (pairs.cone[:, None] * per_cone + np.arange(per_cone)).ravel()
            row = np.repeat(row, per_cone)
        slopes = products(chosen, kept[0].mT)
        slopes = slopes.reshape(-1, self.program.n_outputs, self.program.n_terms)
        if self.program.mixing is not None:
            slopes = self._mixing(own).T @ slopes
        slopes = slopes.reshape(-1, len(self.program.block.outputs), 1)
        none = slopes.new_empty((2, 0, 1))
        work = self.block.pull_back(task, none, kept[4], slopes)
        work.call.run()
        # The last columns are those of the constants.
        by_task = work.by_fixed()[:, : self.task_table.index.shape[1]]
        found = self.task_table.scatter(by_task, task, row, pairs.n, own.numel())
        return torch.from_numpy(found).reshape(pairs.n, *own.shape)

    def _work(
        self, chosen: Tensor, kept: Sequence[Tensor], pairs: Pairs, rows: Tensor | None
    ) -> PullBack:
        """What computes the gradients by the angles of the encoding, and by rows if it can."""
        cones, like = (None, rows) if pairs.is_whole else (pairs.cone, None)
        return self.encoding.pull_back(cones, kept[2], kept[3], chosen, kept[1], like)

    def _by_encoding(
        self, work: PullBack, pairs: Pairs, inputs: Three, by_sample: bool
    ) -> tuple[Tensor, Tensor]:
        """Gradients by features and encoding weights, from those by the angles."""
        rows, encoding, _ = inputs
        by_cone = work.by_fixed()[:, : self.cone_table.index.shape[1]]
        cones = None if pairs.is_whole else pairs.cone
        size = encoding.numel()
        by_weight = self.cone_table.scatter(by_cone, cones, pairs.row, pairs.n, size)
        if not by_sample:
            found = no_gradient(pairs.n, rows)
        elif pairs.is_whole:
            found = work.by_row[None]
        else:
            found = self._to_rows(work.by_angle, pairs, rows)
        return found, torch.from_numpy(by_weight)

    def _to_rows(self, by_angle: Tensor, pairs: Pairs, rows: Tensor) -> Tensor:
        """Sums over the cones that an angle is in."""
        target = torch.from_numpy(self.row_index[pairs.cone] + pairs.row[:, None] * len(rows))
        summed = rows.new_zeros(pairs.n * len(rows), rows.shape[1])
        summed.index_add_(0, target.flatten(), by_angle.flatten(0, 1))
        return summed.reshape(pairs.n, *rows.shape)

    def eager(self, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        """The same by torch operations."""
        sample = first[torch.from_numpy(self.row_index).to(first.device)]
        fixed = self.cone_table.angles(second)[..., None]
        program, shape = self.program, (self.n_cones, first.shape[1])
        constants = torch.from_numpy(self.cone_constants).to(first).movedim(0, 2).flatten(1)
        values = program.encoding.evaluate(
            [*sample.unbind(1), *fixed.unbind(1)], first, [c[:, None] for c in constants.unbind(1)]
        )
        expectations = torch.stack([v.expand(shape) for v in values], 1)
        constants = torch.from_numpy(self.task_constants).to(first).movedim(0, 2).flatten(1)
        found = program.block.evaluate(
            list(self.task_table.angles(third).unbind(1)), third, constants.unbind(1)
        )
        coefficients = torch.stack([v.expand(self.n_members) for v in found], 1)
        coefficients = coefficients.reshape(self.n_members, -1, program.n_terms)
        if program.mixing is not None:
            coefficients = self._mixing(third) @ coefficients
        together = coefficients.reshape(self.n_cones, -1, program.n_terms)
        outputs = together @ expectations
        return outputs.reshape(self.n_members, self.program.n_outputs, first.shape[1])

    def step_bytes(self, samples: int, itemsize: int) -> int:
        """Estimated bytes of a training step."""
        strings = 3 * self.n_cones * self.program.n_terms * samples
        angles = (2 * self.n_cones * self.row_index.shape[1] + 4 * self.n_rows) * samples
        coefficients = 4 * self.n_members * len(self.program.block.outputs)
        tiles = max(tape.working_bytes(itemsize) for tape in (self.encoding, self.block))
        return int(torch.get_num_threads() * tiles + (strings + angles + coefficients) * itemsize)

    def step_operations(self, samples: int) -> int:
        """Floating-point operations of a training step, counted."""
        encoding = self.n_cones * samples * self.encoding.operations
        outputs = self.n_members * samples * 6 * self.program.n_outputs * self.program.n_terms
        return encoding + outputs + self.n_members * self.block.operations

    def _mixing(self, like: Tensor) -> Tensor:
        return torch.from_numpy(self.program.mixing).to(like)


class Begun(NamedTuple):
    """Expectation values that threads compute.

    Attributes:
        fixed: cosines and sines of the angles that all samples share.
        values: the expectation values, and what they are computed from.
        background: the threads.
    """

    fixed: Tensor
    values: Values
    background: Background

    def finish(self) -> None:
        """Wait for the threads."""
        self.background.finish()
