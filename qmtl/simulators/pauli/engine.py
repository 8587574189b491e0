"""A group's outputs by its polynomials in the Pauli basis: the engine for small cones.

`places` are members of a batch: the cones for the encoding's polynomials, the tasks for those of
the blocks, and for a Jacobian the pairs of a row and a cone that have a gradient.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.simulators.angles import sample_angles
from qmtl.simulators.autograd import Three, in_threads
from qmtl.simulators.pauli import kernel
from qmtl.simulators.pauli.polynomials import PRODUCT, Polynomials
from qmtl.simulators.pauli.program import PauliProgram
from qmtl.simulators.plan import Group
from qmtl.simulators.weight_table import WeightTable

__all__ = ["PauliEngine"]

Array = NDArray[Any]
# Bytes of a tile's registers: they and their adjoints should stay in a second-level cache.
TILE_BYTES = 2**17
FEWEST_LANES, MOST_LANES = 16, 128


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
        self.n_cones, self.n_tasks = group.n_cones, len(group.tasks)
        self._no_rows = np.empty((self.n_tasks, 0), np.int64)
        self.cone_table = WeightTable.of(group.encoding_slots)
        none = (np.zeros((self.n_cones, 0)), np.zeros((self.n_tasks, 0)))
        self.cone_constants, self.task_constants = map(_in_pairs, constants or none)
        self.task_table = WeightTable.of(group.block_slots, stride=group.n_weights)

    def angles(self, columns: Tensor, encoding: Tensor) -> Tensor:
        """The first input: the features themselves, or products of them, computed first."""
        if self.group.encoding_slots.rows[1]:
            return columns
        return sample_angles(self.group.encoding_slots, columns, encoding).flatten(0, 1)

    def forward(self, inputs: Three, keep: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs; the strings' expectation values and coefficients, cosines and sines."""
        rows, encoding, own = inputs
        cones, tasks = np.arange(self.n_cones), np.arange(self.n_tasks)
        sampled = _cosines_and_sines(rows)
        by_cone = _joined(self.cone_table.cosines_and_sines(encoding), self.cone_constants)
        by_task = _joined(self.task_table.cosines_and_sines(own), self.task_constants)
        expectations = _evaluate(self.program.encoding, cones, self.row_index, sampled, by_cone)
        found = _evaluate(self.program.block, tasks, self._no_rows, _none(by_task), by_task)
        coefficients = found.reshape(self.n_tasks, -1, self.program.n_terms)
        if self.program.mixing is not None:
            coefficients = self._mixing(own) @ coefficients
        # In the shared layout all tasks look at one cone.
        together = coefficients.reshape(self.n_cones, -1, self.program.n_terms)
        values = torch.bmm(together, expectations).reshape(self.n_tasks, -1, rows.shape[1])
        tables = (torch.from_numpy(table) for table in (sampled, by_cone, by_task))
        return values, (expectations, together, *tables) if keep else ()

    def pull_back(self, gradients: Tensor, inputs: Three, kept: Sequence[Tensor]) -> Three:
        """Gradients by the three inputs, for each row of a Jacobian."""
        rows, encoding, own = inputs
        expectations, together, *tables = kept
        sampled, by_cone, by_task = (table.numpy() for table in tables)
        n, per_cone = len(gradients), self.n_tasks // self.n_cones
        grouped = gradients.detach().reshape(n, self.n_cones, -1, rows.shape[1])
        # Only pairs with a gradient are run; NaN counts as one, since it must reach the result.
        row, cone = np.divmod(np.flatnonzero(grouped.numpy().any(axis=(2, 3))), self.n_cones)
        if len(row) == n * self.n_cones:
            chosen = grouped.flatten(0, 1)
        else:
            chosen = grouped[torch.from_numpy(row), torch.from_numpy(cone)]
        if n > 1 or len(cone) < self.n_cones:
            index = torch.from_numpy(cone)
            expectations, together = expectations[index], together[index]
        slopes = torch.bmm(together.mT, chosen)
        by_row, by_cone = _pulled_back(
            self.program.encoding, cone, self.row_index, sampled, by_cone, slopes
        )
        slopes = torch.bmm(chosen, expectations.mT)
        task = (cone[:, None] * per_cone + np.arange(per_cone)).ravel()
        slopes = slopes.reshape(len(task), self.program.n_outputs, self.program.n_terms)
        if self.program.mixing is not None:
            slopes = self._mixing(own).T @ slopes
        slopes = slopes.reshape(len(task), len(self.program.block.outputs), 1)
        _, by_task = _pulled_back(
            self.program.block, task, self._no_rows, _none(by_task), by_task, slopes
        )
        # The last columns are those of the constants.
        by_cone = by_cone[:, : self.cone_table.index.shape[1]]
        by_task = by_task[:, : self.task_table.index.shape[1]]
        by_weight = self.cone_table.scatter(by_cone, cone, row, n, encoding.numel())
        by_own = self.task_table.scatter(by_task, task, np.repeat(row, per_cone), n, own.numel())
        return (
            self._to_rows(by_row, cone, row, n, rows),
            torch.from_numpy(by_weight),
            torch.from_numpy(by_own).reshape(n, *own.shape),
        )

    def _to_rows(self, by_row: Tensor, cone: Array, row: Array, n: int, rows: Tensor) -> Tensor:
        target = torch.from_numpy(self.row_index[cone] + row[:, None] * len(rows))
        summed = rows.new_zeros(n * len(rows), rows.shape[1])
        summed.index_add_(0, target.flatten(), by_row.flatten(0, 1))
        return summed.reshape(n, *rows.shape)

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
        coefficients = torch.stack([v.expand(self.n_tasks) for v in found], 1)
        coefficients = coefficients.reshape(self.n_tasks, -1, program.n_terms)
        if program.mixing is not None:
            coefficients = self._mixing(third) @ coefficients
        together = coefficients.reshape(self.n_cones, -1, program.n_terms)
        outputs = together @ expectations
        return outputs.reshape(self.n_tasks, self.program.n_outputs, first.shape[1])

    def step_bytes(self, samples: int, itemsize: int) -> int:
        """Estimated bytes of a training step."""
        program = self.program
        registers = max(program.encoding.n_registers, program.block.n_registers)
        tile = registers * _lanes(registers, itemsize)
        strings = 3 * self.n_cones * program.n_terms * samples
        angles = (2 * self.n_cones * self.row_index.shape[1] + 4 * self.n_rows) * samples
        coefficients = 4 * self.n_tasks * len(program.block.outputs)
        threads = torch.get_num_threads()
        return int(2 * threads * tile + strings + angles + coefficients) * itemsize

    def step_operations(self, samples: int) -> int:
        """Floating-point operations of a training step, counted."""
        encoding = self.n_cones * samples * _operations(self.program.encoding)
        outputs = self.n_tasks * samples * 6 * self.program.n_outputs * self.program.n_terms
        return encoding + outputs + self.n_tasks * _operations(self.program.block)

    def _mixing(self, like: Tensor) -> Tensor:
        return torch.from_numpy(self.program.mixing).to(like)


def _operations(polynomials: Polynomials) -> int:
    """Operations of the polynomials and of their gradient, which computes them again."""
    sums = int((polynomials.ops[:, 0] != PRODUCT).sum())
    products = len(polynomials.ops) - sums
    return 2 * (products + 3 * sums) + 4 * products + 8 * sums


def _cosines_and_sines(rows: Tensor) -> Array:
    """Shape (2, rows, samples)."""
    # An encoding without features still has one row of samples.
    angles = rows.detach() if len(rows) else rows.detach().new_zeros(1, rows.shape[1])
    return torch.stack([angles.cos(), angles.sin()]).numpy()


def _in_pairs(constants: Array) -> Array:
    """Constants in the places of cosines and sines, shape (2, places, pairs)."""
    padded = np.pad(constants, ((0, 0), (0, constants.shape[1] % 2)))
    return padded.reshape(len(constants), -1, 2).transpose(2, 0, 1)


def _joined(angles: Array, constants: Array) -> Array:
    """Cosines and sines of angles, and then constants; the angles alone if there are none."""
    if not constants.shape[2]:
        return angles
    return np.concatenate([angles, constants.astype(angles.dtype)], axis=2)


def _none(like: Array) -> Array:
    """The place of sampled cosines and sines where nothing depends on the sample."""
    return np.zeros((2, 1, 1), like.dtype)


def _lanes(n_registers: int, itemsize: int) -> int:
    """Lanes of a tile."""
    fitting = TILE_BYTES // (n_registers * itemsize)
    return max(FEWEST_LANES, min(MOST_LANES, fitting // 16 * 16))


@lru_cache(maxsize=16)
def _tiles(n_registers: int, places: int, samples: int, itemsize: int) -> tuple[Array, int]:
    """Work items (first place, last, first sample, last, chunk of samples) and their lanes."""
    lanes = _lanes(n_registers, itemsize)
    chunk = min(samples, lanes)
    several = lanes // chunk
    low = np.arange(0, samples, chunk)
    begin = np.arange(0, places, several)
    grid = np.empty((len(begin), len(low), 5), np.int64)
    grid[..., 0], grid[..., 1] = begin[:, None], np.minimum(begin + several, places)[:, None]
    grid[..., 2], grid[..., 3] = low, np.minimum(low + chunk, samples)
    grid[..., 4] = np.arange(len(low))
    return grid.reshape(-1, 5), lanes


def _evaluate(
    polynomials: Polynomials,
    places: Array,
    rows: Array,
    sampled: Array,
    fixed: Array,
) -> Tensor:
    """Values of the polynomials, shape (places, polynomials, samples)."""
    samples = sampled.shape[2]
    items, width = _tiles(polynomials.n_registers, len(places), samples, fixed.itemsize)
    values = np.empty((len(places), len(polynomials.outputs), samples), fixed.dtype)
    none = np.empty((0, 0, 0), fixed.dtype)
    tables = (polynomials.ops, polynomials.outputs, polynomials.signs)
    arguments = (places, rows, sampled, fixed, *tables, values, False, none, none)
    in_threads(kernel.run, items, width, *arguments)
    return torch.from_numpy(values)


def _pulled_back(
    polynomials: Polynomials,
    places: Array,
    rows: Array,
    sampled: Array,
    fixed: Array,
    gradient: Tensor,
) -> tuple[Tensor, Array]:
    """Gradients by the angles per sample (places, angles, samples), and by the fixed ones."""
    samples = sampled.shape[2]
    items, width = _tiles(polynomials.n_registers, len(places), samples, fixed.itemsize)
    by_row = np.empty((len(places), rows.shape[1], samples), fixed.dtype)
    n_chunks = int(items[-1, 4]) + 1 if len(items) else 0
    by_fixed = np.empty((n_chunks, len(places), fixed.shape[2]), fixed.dtype)
    tables = (polynomials.ops, polynomials.outputs, polynomials.signs)
    start = gradient.contiguous().numpy()
    arguments = (places, rows, sampled, fixed, *tables, start, True, by_row, by_fixed)
    in_threads(kernel.run, items, width, *arguments)
    return torch.from_numpy(by_row), by_fixed[0] if n_chunks == 1 else by_fixed.sum(0)
