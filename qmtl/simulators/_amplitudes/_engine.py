"""The engine for larger cones: a group's outputs from state vectors in the compiled kernel."""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from qmtl.simulators._amplitudes._program import Program
from qmtl.simulators._engine import Array, Engine, Inputs
from qmtl.simulators._torch import TorchEngine

# Possible numbers of samples in a tile. With the largest and 64 amplitudes, state and adjoint fill
# about half of a first-level cache.
TILES = (8, 16, 32)
LARGEST_TILE_BYTES = 2**19


class AmplitudeEngine(Engine):
    """Evaluates a group's program in the compiled kernel.

    Args:
        program: tables of the group's operations.
    """

    name: ClassVar[str] = "state vectors"
    wants: ClassVar[str] = "half"
    has_kernels: ClassVar[bool] = True

    def __init__(self, program: Program) -> None:
        group = self.group = program.group
        super().__init__(group.columns)
        self.program = program
        slots, block_slots = group.structure.encoding_slots, group.structure.block_slots
        self.sampled = np.ascontiguousarray(group.encoding.rows[:, slots[0]])
        self.fixed = np.ascontiguousarray(group.encoding.rows[:, slots[1]])
        self.own = np.ascontiguousarray(group.block.rows[:, block_slots[1]])
        self.cones = np.arange(group.n_cones)
        self.per_cone = group.n_members // group.n_cones
        self.size = 1 << group.structure.n_wires
        self.states_each = 1 if self.per_cone == 1 else 1 + self.per_cone
        self._operations = 28 * (group.structure.steps + 2) * group.amplitudes
        self._index = (self.sampled, self.fixed, self.own, np.ascontiguousarray(group.columns))
        self._torch = TorchEngine(group)
        self._readouts: dict[np.dtype[Any], Array] = {}

    def _run(
        self, inputs: Inputs, cones: Array, wanted: Array, states: Array, values: Array,
        targets: tuple[Array, Array, Array] | None,
    ) -> None:  # fmt: skip
        from qmtl.simulators._amplitudes._kernels import walk
        from qmtl.simulators._kernels import run_items

        p, dtype, samples = self.program, values.dtype, len(values)
        readout = self._readouts.get(dtype)
        if readout is None:
            readout = self._readouts[dtype] = np.array(self.group.structure.readout, dtype)
        tile = _tile(samples, self.size, values.itemsize)
        back, none = targets is not None, np.empty((0, 0, 0), dtype)
        sizes = (self.size, tile, p.n_shared, p.n_starts)
        tables = (p.ops, p.terms, p.signs, readout)
        share = len(cones) / len(self.cones) * (2 if back else 1) / 3
        run_items(
            walk, len(cones) * -(-samples // tile), self._operations * samples * share, back,
            sizes, tables, self._index, inputs.half, cones, wanted, states, values,
            *(targets or (none, none, none)),
        )  # fmt: skip

    def forward(self, inputs: Inputs, values: Array) -> Any:
        """Write the outputs, and return the final states."""
        tile = _tile(len(values), self.size, values.itemsize)
        items = len(self.cones) * -(-len(values) // tile)
        states = np.empty((items, self.states_each, 2 * self.size, tile), values.dtype)
        self._run(inputs, self.cones, np.zeros(0, np.bool_), states, values, None)
        return states

    def pull_back(
        self, inputs: Inputs, kept: Any, gradients: Array, by_sampled: Array, by_fixed: Array
    ) -> None:
        from qmtl.simulators._kernels import add_at

        # NaN counts as a gradient that is not zero, so that it reaches the result.
        by_output: Array = np.asarray(gradients.any(axis=0))[self.columns]
        wanted: Array = np.asarray(by_output.any(axis=1))
        cones = self.cones[wanted.reshape(len(self.cones), -1).any(axis=1)]
        if not len(cones):
            return
        samples, dtype, n = len(gradients), gradients.dtype, len(cones)
        tiles = -(-samples // _tile(samples, self.size, dtype.itemsize))
        members = (cones[:, None] * self.per_cone + np.arange(self.per_cone)).ravel()
        own = np.zeros((n, self.sampled.shape[1], samples), dtype)
        by_cone = np.zeros((tiles, n, self.fixed.shape[1]), dtype)
        by_task = np.zeros((tiles, len(members), self.own.shape[1]), dtype)
        self._run(inputs, cones, wanted, kept, gradients, (own, by_cone, by_task))
        of_task = by_task.sum(axis=0)
        if self.group.joint is not None:
            # Weights of tasks without a gradient must get a gradient of exactly zero.
            of_output, of_angle = self.group.joint
            asked = np.zeros(int(of_output.max(initial=0)) + 1, np.bool_)
            asked[of_output[by_output[0]]] = True
            of_task *= asked[of_angle]
        add_at(by_sampled, self.sampled[cones], own)
        column = by_fixed[:, None]
        add_at(column, self.fixed[cones], by_cone.sum(axis=0)[..., None])
        add_at(column, self.own[members], of_task[..., None])

    def torch_values(self, sampled: Tensor, fixed: Tensor, members: slice = slice(None)) -> Tensor:
        return self._torch.torch_values(sampled, fixed)

    def step_bytes(self, samples: int, itemsize: int) -> int:
        size, tile = self.size, _tile(samples, self.size, itemsize)
        padded = -(-samples // tile) * tile
        states = 2 * len(self.cones) * self.states_each * size * padded
        angles = (3 * self.sampled.size + 2 * self.columns.size) * samples
        return (states + angles + torch.get_num_threads() * 8 * size * tile) * itemsize

    def step_operations(self, samples: int) -> int:
        return self._operations * samples


def _tile(samples: int, size: int, itemsize: int) -> int:
    """Return the number of samples in a tile, for long loops and tiles that fit into the cache."""
    fitting = [t for t in TILES if 4 * itemsize * size * t <= LARGEST_TILE_BYTES] or TILES[:1]
    wanted = [t for t in fitting if t >= samples]
    return wanted[0] if wanted else fitting[-1]
