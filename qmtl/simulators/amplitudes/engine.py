"""A group's outputs by its state vectors in the compiled kernel: the engine for larger cones."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from qmtl.simulators.amplitudes.program import Program
from qmtl.simulators.amplitudes.work import Angles, Array, ProgramTables, Work, working_bytes
from qmtl.simulators.angles import by_slot, sample_angles
from qmtl.simulators.compilation import Kernel, words
from qmtl.simulators.eager import eager_values
from qmtl.simulators.engine import ALL, Needs, Three, no_gradient
from qmtl.simulators.weight_table import WeightTable

__all__ = ["AmplitudeEngine"]

# A thread for less costs more than it saves.
NUMBERS_PER_THREAD = 2**17
KERNEL = Kernel("qmtl.simulators.amplitudes.kernel")


class AmplitudeEngine:
    """Evaluates a group's program in the compiled kernel; an `Engine`.

    Its inputs are the sample-dependent angles (rows, samples), the encoding's weights, and the
    tasks' weights (tasks, n_weights).

    Args:
        program: the group's tables.
    """

    name: ClassVar[str] = "state vectors"
    is_differentiable: ClassVar[bool] = False

    def __init__(self, program: Program) -> None:
        self.program, self.group = program, program.group
        self.cone_table = WeightTable.of(self.group.encoding_slots)
        self.task_table = WeightTable.of(self.group.block_slots, stride=self.group.n_weights)
        self._tables = {
            kind: ProgramTables(program, kind) for kind in (torch.float32, torch.float64)
        }
        self._cones = np.arange(self.group.n_cones)

    def angles(self, columns: Tensor, encoding: Tensor) -> Tensor:
        """The first input: the features themselves, or products of them, computed first."""
        if self.group.encoding_slots.rows[1]:
            return columns
        return sample_angles(self.group.encoding_slots, columns, encoding).flatten(0, 1)

    def forward(self, inputs: Three, keep: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs; the final states if they are to be kept and not too many, and the angles."""
        rows, encoding, own = inputs
        work = Work(self.program, rows.shape[1], rows.dtype)
        cone = self.cone_table.cosines_and_sines(encoding, half=True)
        angles = work.angles(rows, cone, self.task_table.cosines_and_sines(own, half=True))
        items = work.items(self._cones, self._cones, np.zeros_like(self._cones))
        keep = keep and len(items) <= work.kept_at_once
        if not keep:
            items[:, 4] = -1
        values, states = work.new_values(), work.new_states(len(items) if keep else 0)
        self._run(work, items, angles, states, values)
        return values[0, ..., : work.samples], (states, *angles)

    def pull_back(
        self, gradients: Tensor, inputs: Three, kept: Sequence[Tensor], needs: Needs = ALL
    ) -> Three:
        """Gradients by the three inputs, for each row of a Jacobian.

        Only pairs of a row and a cone with a gradient are run, each into a place of its own.
        """
        rows, encoding, own = inputs
        states, angles = kept[0], Angles(*kept[1:])
        work, group, n = Work(self.program, rows.shape[1], rows.dtype), self.group, len(gradients)
        padded = work.padded_to_tiles(gradients.detach())
        # NaN counts: it must reach the result.
        wanted = (padded != 0).flatten(2).any(2)
        pairs = wanted.reshape(n, group.n_cones, -1).any(2).flatten().nonzero().flatten().numpy()
        row, cone = pairs // group.n_cones, pairs % group.n_cones
        per_cone = len(group.members) // group.n_cones
        n_cone, n_task = self.cone_table.index.shape[1], self.task_table.index.shape[1]
        new = partial(torch.zeros, dtype=rows.dtype, device="cpu")
        index = self._tables[rows.dtype].index
        by_sample = new(len(pairs), index.shape[1], work.padded)
        by_cone = new(work.n_tiles, len(pairs), n_cone)
        by_task = new(work.n_tiles, len(pairs) * per_cone, n_task)
        items = work.items(cone, np.arange(len(pairs)), row)
        targets = (wanted, by_sample, by_cone, by_task)
        self._run_back(work, items, angles, states, padded, targets)
        task = (cone[:, None] * per_cone + np.arange(per_cone)).ravel()
        own_row = np.repeat(row, per_cone)
        by_weight = self.cone_table.scatter(by_cone.sum(0).numpy(), cone, row, n, encoding.numel())
        by_own = self.task_table.scatter(by_task.sum(0).numpy(), task, own_row, n, own.numel())
        by_rows = no_gradient(n, rows)
        if needs[0]:
            target = torch.from_numpy(row[:, None] * len(rows)) + index[torch.from_numpy(cone)]
            summed = rows.new_zeros(n * len(rows), work.samples)
            summed.index_add_(0, target.flatten(), by_sample[..., : work.samples].flatten(0, 1))
            by_rows = summed.reshape(n, *rows.shape)
        found = torch.from_numpy(by_own).reshape(n, *own.shape)
        return by_rows, torch.from_numpy(by_weight), found

    def eager(self, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        """The same by torch operations."""
        group = self.group
        sample = first[torch.from_numpy(group.encoding_slots.rows[0]).to(first.device)]
        task_fixed = self.task_table.angles(third)
        none = task_fixed.new_zeros(len(group.members), 0, 1)
        block = by_slot(group.block_slots, none, task_fixed)
        return eager_values(group, sample, self.cone_table.angles(second), block)

    def step_bytes(self, samples: int, itemsize: int) -> int:
        """Estimated bytes of a training step."""
        return working_bytes(self.group, samples, itemsize)

    def step_operations(self, samples: int) -> int:
        """Estimated floating-point operations of a training step."""
        return 28 * (self.group.steps + 2) * self.group.amplitudes * samples

    def _run(
        self, work: Work, items: Array, angles: Angles, states: Tensor, values: Tensor
    ) -> None:
        none = values.new_empty(0, 0, 0)
        rest = (torch.empty(0, 0, dtype=torch.bool, device="cpu"), none, none, none)
        self._run_kernel(work, items, angles, states, values, rest, back=False)

    def _run_back(
        self,
        work: Work,
        items: Array,
        angles: Angles,
        states: Tensor,
        gradients: Tensor,
        targets: tuple[Tensor, ...],
    ) -> None:
        if not len(items):
            return
        if len(states):
            self._run_kernel(work, items, angles, states, gradients, targets, back=True)
            return
        # The states were too many to keep: compute some again, take them back, and so on.
        values, again = work.new_values(), work.new_states(min(len(items), work.kept_at_once))
        for begin in range(0, len(items), len(again)):
            part = items[begin : begin + len(again)]
            part[:, 4] = np.arange(len(part))
            # Outputs have one row, whatever row of the Jacobian the states are for.
            self._run(work, part * (1, 1, 1, 0, 1), angles, again, values)
            self._run_back(work, part, angles, again, gradients, targets)

    def _run_kernel(
        self,
        work: Work,
        items: Array,
        angles: Angles,
        states: Tensor,
        values: Tensor,
        rest: Sequence[Tensor],
        *,
        back: bool,
    ) -> None:
        tables = self._tables[work.torch_dtype]
        arrays: tuple[Array | Tensor, ...] = (items, *angles, states, values, *rest)
        table = [*work.head, int(back), *tables.words, *words(*arrays)]
        fewest = max(1, NUMBERS_PER_THREAD // work.numbers)
        dtype, own = angles.cos.numpy().dtype, (work.numbers,)
        KERNEL.call(dtype, len(items), own, table, (tables, *arrays), fewest).run()
