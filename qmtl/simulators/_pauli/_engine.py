"""The engine for small cones: a group's outputs as polynomials in the Pauli basis."""

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.simulators._engine import Array, Engine, Inputs
from qmtl.simulators._pauli._polynomials import PRODUCT, Polynomials
from qmtl.simulators._pauli._program import PauliProgram
from qmtl.simulators._plan import Group

__all__ = ["PauliEngine"]

# The kernel's inputs: numbers of lanes in a tile of cones and in a tile of members; tables of the
# encoding, the block and the mixing; constants of cones and of members.
_Table = tuple[Array, Array, Array]
_Tables = tuple[tuple[int, int], tuple[_Table, _Table, Array], tuple[Array, Array]]

# Bytes of a tile's registers: with their adjoints they should fit into a second-level cache.
TILE_BYTES = 2**18
FEWEST_LANES, MOST_LANES = 16, 256


class PauliEngine(Engine):
    """Evaluates a group's program in the compiled kernels.

    Args:
        group: the group of cones.
        program: the cones' polynomials.
        constants: values of the polynomials' constants for each cone (cones, constants), and for
            each member (members, constants); None if there are none.
    """

    name: ClassVar[str] = "Pauli strings"
    wants: ClassVar[str] = "whole"

    def __init__(
        self,
        group: Group,
        program: PauliProgram,
        constants: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    ) -> None:
        super().__init__(group.columns)
        self.group, self.program = group, program
        slots, block_slots = group.structure.distinct_slots, group.structure.block_slots
        self.sampled = _unsigned(group.encoding.rows[:, slots[0]])
        self.fixed = _unsigned(group.encoding.rows[:, slots[1]])
        self.own = _unsigned(group.block.rows[:, block_slots[1]])
        self.per_cone = group.n_members // group.n_cones
        # In the shared layout all tasks use one cone.
        self.outputs = _unsigned(group.columns.reshape(group.n_cones, -1))
        self._index = (self.sampled, self.fixed, self.own, self.outputs)
        none = (np.zeros((group.n_cones, 0)), np.zeros((group.n_members, 0)))
        self._constants = constants or none
        self._operations = group.n_members * _operations(program.block)
        self._per_sample = group.n_cones * _operations(program.encoding)
        self._per_sample += 6 * group.columns.size * program.n_terms
        self._kept: dict[Any, _Tables] = {}

    def _tables(self, dtype: np.dtype[Any]) -> _Tables:
        """The kernel's tables in one precision."""
        tables = self._kept.get(dtype)
        if tables is None:
            program = self.program
            mixing = np.eye(self.columns.shape[1]) if program.mixing is None else program.mixing
            programs = (
                _table(program.encoding, dtype),
                _table(program.block, dtype),
                np.ascontiguousarray(mixing, dtype),
            )
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
        index, n = self._index, len(self.outputs)
        rest = (lanes, programs, index, index[:3], constants, inputs.whole, coefficients, values)
        work = (self._operations + self._per_sample * len(values)) / 3
        # The forward pass has no gradients to add.
        run_items(walk, n, work, False, *rest, inputs.sampled, inputs.fixed)
        return coefficients

    def pull_back(
        self, inputs: Inputs, kept: Any, gradients: Array, by_sampled: Array, by_fixed: Array
    ) -> None:
        """Add the gradients of the cones that have an output with a gradient."""
        walk, run_items, n_threads, add_at = self._kernels
        lanes, programs, constants = self._tables(gradients.dtype)
        index = self._index
        # Usually all outputs have a gradient, which a single sample can show.
        if np.count_nonzero(gradients[0]) < gradients.shape[1]:
            # NaN counts as a gradient: it must reach the result.
            counts: Array = np.asarray(gradients.any(axis=0))[self.outputs]
            cones = np.flatnonzero(counts.any(axis=1))
            if not len(cones):
                return
            members = (cones[:, None] * self.per_cone + np.arange(self.per_cone)).ravel()
            sampled, fixed, own, outputs = index
            index = sampled[cones], fixed[cones], own[members], outputs[cones]
            constants, kept = (constants[0][cones], constants[1][members]), kept[cones]
            if self.per_cone > 1:
                # Outputs without a gradient are ignored, even if they are not finite.
                kept[~counts[cones]] = 0
        n, work = len(index[3]), (self._operations + self._per_sample * len(gradients)) * 2 / 3
        into, targets = index[:3], (by_sampled, by_fixed)
        is_shared = n_threads(n, work) > 1
        if is_shared:
            # Threads must not write to the same place, so each cone has its own; the cones'
            # gradients are then added in order.
            sampled, fixed, own = (np.arange(p.size, dtype=p.dtype).reshape(p.shape) for p in into)
            into = sampled, fixed, own + np.uint64(fixed.size)
            targets = (
                np.zeros((sampled.size, len(gradients)), gradients.dtype),
                np.zeros(fixed.size + own.size, gradients.dtype),
            )
        rest = (lanes, programs, index, into, constants, inputs.whole, kept, gradients, *targets)
        run_items(walk, n, work, True, *rest)
        if is_shared:
            column = by_fixed[:, None]
            add_at(by_sampled, index[0], targets[0].reshape(*sampled.shape, len(gradients)))
            for places, found in zip(index[1:3], into[1:], strict=True):
                add_at(column, places, targets[1][found][..., None])

    def torch_values(self, sampled: Tensor, fixed: Tensor, members: slice = slice(None)) -> Tensor:
        """The outputs, computed by torch operations."""
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
        """Estimated bytes of a training step."""
        angles = (self.sampled.size + 4 * (int(self.sampled.max(initial=0)) + 1)) * samples
        slopes = 3 * self.group.n_members * len(self.program.block.outputs)
        registers = max(p.n_registers for p in (self.program.encoding, self.program.block))
        tiles = torch.get_num_threads() * 2 * registers * _lanes(registers, itemsize)
        outputs = 4 * self.columns.size * samples
        return int(angles + slopes + tiles + outputs) * itemsize

    def step_operations(self, samples: int) -> int:
        """Number of floating-point operations of a training step."""
        return self._operations + samples * self._per_sample


def _unsigned(index: Any) -> Array:
    return np.ascontiguousarray(index, np.uint64)


def _table(polynomials: Polynomials, dtype: np.dtype[Any]) -> tuple[Array, Array, Array]:
    """Operations with the register that each writes, registers of the outputs, and their signs."""
    first = polynomials.n_registers - len(polynomials.ops)
    ops = np.insert(polynomials.ops, 5, first + np.arange(len(polynomials.ops)), axis=1)
    return _unsigned(ops), _unsigned(polynomials.outputs), polynomials.signs.astype(dtype)


def _lanes(n_registers: int, itemsize: int) -> int:
    """Number of lanes of a tile."""
    fitting = TILE_BYTES // (n_registers * itemsize)
    return max(FEWEST_LANES, min(MOST_LANES, fitting // 16 * 16))


def _operations(polynomials: Polynomials) -> int:
    """Operations of the polynomials and of their gradient, which computes them again."""
    sums = int((polynomials.ops[:, 0] != PRODUCT).sum())
    products = len(polynomials.ops) - sums
    return 2 * (products + 3 * sums) + 4 * products + 8 * sums


def _rows(values: Tensor, index: Array) -> list[Tensor]:
    places = torch.from_numpy(index.astype(np.int64).T.copy()).to(values.device)
    return list(values[places].unbind())


def _constant(numbers: Array, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers)).to(like)
