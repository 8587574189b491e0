"""The engine for small cones: a group's outputs as polynomials in the Pauli basis."""

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.simulators._engine import Array, Engine, Inputs
from qmtl.simulators._pauli._polynomials import DIFFERENCE, PRODUCT, Polynomials
from qmtl.simulators._pauli._program import PauliProgram
from qmtl.simulators._plan import Group

# The kernel's inputs: numbers of lanes in a tile of cones and in a tile of members; tables of the
# encoding, the block and the mixing; constants of cones and of members.
_Table = tuple[Array, Array, Array, Array]
_Tables = tuple[tuple[int, int], tuple[_Table, _Table, Array], tuple[Array, Array]]

# Bytes of a tile's registers, which should fit into a second-level cache with their adjoints.
TILE_BYTES = 2**18
FEWEST_LANES, MOST_LANES = 16, 256


class PauliEngine(Engine):
    """Evaluates a group's program in the compiled kernels.

    Args:
        group: the group of cones.
        program: the cones' polynomials.
        constants: the values of the polynomials' constants, as two arrays: (cones, constants) for
            the encoding, and (members, constants) for the block. None for no constants.
    """

    name: ClassVar[str] = "Pauli strings"
    wants: ClassVar[str] = "whole"
    has_kernels: ClassVar[bool] = True

    def __init__(
        self,
        group: Group,
        program: PauliProgram,
        constants: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    ) -> None:
        super().__init__(group.columns)
        self.group, self.program = group, program
        sampled, fixed = (group.encoding.rows[:, own] for own in group.structure.distinct_slots)
        own = group.block.rows[:, group.structure.block_slots[1]]
        self.sampled, self.fixed, self.own = map(_unsigned, (sampled, fixed, own))
        self.per_cone = group.n_members // group.n_cones
        # In the shared layout all tasks use one cone.
        self.outputs = _unsigned(group.columns.reshape(group.n_cones, -1))
        # The last array has no angle: those of a block do not depend on the sample.
        self._index = (
            self.sampled,
            self.fixed,
            self.own,
            self.outputs,
            np.empty((1, 0), np.uint64),
        )
        none = (np.zeros((group.n_cones, 0)), np.zeros((group.n_members, 0)))
        self._constants = constants or none
        self._operations = group.n_members * _operations(program.block)
        self._per_sample = group.n_cones * _operations(program.encoding)
        self._per_sample += 6 * group.columns.size * program.n_terms
        self._kept: dict[Any, _Tables] = {}

    def _tables(self, dtype: np.dtype[Any]) -> _Tables:
        """Return the kernel's tables with numbers of this type."""
        tables = self._kept.get(dtype)
        if tables is None:
            program = self.program
            mixing = np.eye(self.columns.shape[1]) if program.mixing is None else program.mixing
            tables_of = _table(program.encoding), _table(program.block)
            programs = (*tables_of, np.ascontiguousarray(mixing, dtype))
            by_cone, by_task = (np.ascontiguousarray(c, dtype) for c in self._constants)
            sizes = (program.encoding.n_registers, program.block.n_registers)
            first, second = (_lanes(size, dtype.itemsize) for size in sizes)
            tables = self._kept[dtype] = (first, second), programs, (by_cone, by_task)
        return tables

    @cached_property
    def _kernels(self) -> tuple[Any, ...]:
        # Importing numba takes a while, and so would checking for it in each step.
        from qmtl.simulators._kernels import add_at, n_threads, run_items
        from qmtl.simulators._pauli._kernels import walk

        return walk, run_items, n_threads, add_at

    def forward(self, inputs: Inputs, values: Array) -> Any:
        """Write the outputs, and return the coefficients of the strings."""
        walk, run_items, *_ = self._kernels
        lanes, programs, constants = self._tables(values.dtype)
        coefficients = np.zeros((*self.outputs.shape, self.program.n_terms), values.dtype)
        rest = (lanes, programs, self._index, constants, inputs.whole, coefficients, values)
        work = (self._operations + self._per_sample * len(values)) / 3
        # The forward pass has no gradients to add.
        none = coefficients, inputs.sampled, inputs.fixed
        run_items(walk, len(self.outputs), work, False, False, *rest, *none)
        return coefficients

    def pull_back(
        self, inputs: Inputs, kept: Any, gradients: Array, by_sampled: Array, by_fixed: Array
    ) -> None:
        walk, run_items, n_threads, add_at = self._kernels
        lanes, programs, constants = self._tables(gradients.dtype)
        index = self._index
        # Usually all outputs have a gradient, and one sample is enough to see that.
        if np.count_nonzero(gradients[0]) < gradients.shape[1]:
            # NaN counts as a gradient that is not zero, so that it reaches the result.
            counts: Array = np.asarray(gradients.any(axis=0))[self.outputs]
            cones = np.flatnonzero(counts.any(axis=1))
            if not len(cones):
                return
            members = (cones[:, None] * self.per_cone + np.arange(self.per_cone)).ravel()
            sampled, fixed, own, outputs, none = index
            index = sampled[cones], fixed[cones], own[members], outputs[cones], none
            constants, kept = (constants[0][cones], constants[1][members]), kept[cones]
            if self.per_cone > 1:
                # Outputs without a gradient are ignored, even if they are not finite.
                kept[~counts[cones]] = 0
        n, work = len(index[3]), (self._operations + self._per_sample * len(gradients)) * 2 / 3
        sampled, fixed, own, *_ = index
        targets, apart = (by_sampled, by_fixed), n_threads(n, work) > 1
        if apart:
            # Threads must not write to the same array: each cone gets separate gradients, which are
            # then added in order.
            shapes = (sampled.size, len(gradients)), (fixed.size + own.size,)
            targets = np.zeros(shapes[0], gradients.dtype), np.zeros(shapes[1], gradients.dtype)
        rest = (lanes, programs, index, constants, inputs.whole, kept, gradients)
        run_items(walk, n, work, True, apart, *rest, np.zeros_like(kept), *targets)
        if apart:
            add_at(by_sampled, sampled, targets[0].reshape(*sampled.shape, len(gradients)))
            for places, found in zip((fixed, own), np.split(targets[1], [fixed.size]), strict=True):
                add_at(by_fixed[:, None], places, found.reshape(*places.shape, 1))

    def torch_values(self, sampled: Tensor, fixed: Tensor, members: slice = slice(None)) -> Tensor:
        program, group = self.program, self.group
        angles = [*_rows(sampled, self.sampled), *(a[:, None] for a in _rows(fixed, self.fixed))]
        constants = [_constant(c[:, None], sampled) for c in self._constants[0].T]
        found = program.encoding.evaluate(angles, sampled, constants)
        shape = (group.n_cones, sampled.shape[1])
        strings = torch.stack([value.expand(shape) for value in found], 1)
        own = [_constant(c, fixed) for c in self._constants[1].T]
        found = program.block.evaluate(_rows(fixed, self.own), fixed, own)
        coefficients = torch.stack([value.expand(group.n_members) for value in found], 1)
        coefficients = coefficients.reshape(group.n_members, -1, program.n_terms)
        if program.mixing is not None:
            coefficients = torch.from_numpy(program.mixing).to(fixed) @ coefficients
        outputs = coefficients.reshape(group.n_cones, -1, program.n_terms) @ strings
        return outputs.reshape(*self.columns.shape, sampled.shape[1])

    def step_bytes(self, samples: int, itemsize: int) -> int:
        angles = (self.sampled.size + 4 * (int(self.sampled.max(initial=0)) + 1)) * samples
        slopes = 3 * self.group.n_members * len(self.program.block.outputs)
        registers = max(p.n_registers for p in (self.program.encoding, self.program.block))
        tiles = torch.get_num_threads() * 2 * registers * _lanes(registers, itemsize)
        outputs = 4 * self.columns.size * samples
        return int(angles + slopes + tiles + outputs) * itemsize

    def step_operations(self, samples: int) -> int:
        return self._operations + samples * self._per_sample


def _unsigned(index: Any) -> Array:
    return np.ascontiguousarray(index, np.uint64)


def _table(polynomials: Polynomials) -> _Table:
    """Return the kernel's tables.

    They are: each operation with the register that it writes; the outputs' registers and signs; for
    the gradient, a row (operand, result, other operand, is subtracted, is first) for each operand
    in order, where the first row of a register overwrites it; and the registers to clear before.
    """
    first = polynomials.n_registers - len(polynomials.ops)
    ops = np.insert(polynomials.ops, 5, first + np.arange(len(polynomials.ops)), axis=1)
    slopes, seen = [], set(polynomials.outputs.tolist())
    cleared = seen | set(range(1, 1 + 2 * polynomials.n_angles))
    for kind, x, y, z, w, result in ops[::-1].tolist():
        less = kind == DIFFERENCE
        for place, other, sign in ((x, y, 0), (y, x, 0), (z, w, less), (w, z, less)):
            # The 1 and the constants need no gradient.
            if 0 < place <= 2 * polynomials.n_angles or place >= first:
                slopes.append((place, result, other, sign, place not in seen))
                seen.add(place)
    cleared -= {row[0] for row in slopes if row[4]}
    outputs = np.stack([polynomials.outputs, polynomials.signs], axis=1)
    gradient = np.array(slopes, int).reshape(-1, 5)
    return _unsigned(ops), outputs, _unsigned(gradient), _unsigned(sorted(cleared))


def _lanes(n_registers: int, itemsize: int) -> int:
    fitting = TILE_BYTES // (n_registers * itemsize)
    return max(FEWEST_LANES, min(MOST_LANES, fitting // 16 * 16))


def _operations(polynomials: Polynomials) -> int:
    """Count the operations of forward and backward pass, which runs the forward pass again."""
    return 6 * len(polynomials.ops) + 8 * int((polynomials.ops[:, 0] != PRODUCT).sum())


def _rows(values: Tensor, index: Array) -> list[Tensor]:
    places = torch.from_numpy(index.astype(np.int64).T.copy()).to(values.device)
    return list(values[places].unbind())


def _constant(numbers: Array, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers)).to(like)
