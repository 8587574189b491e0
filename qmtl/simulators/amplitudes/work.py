"""The work of one call of the compiled kernel: its arrays, its items, and the bytes they take."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.simulators.amplitudes.program import Program
from qmtl.simulators.compilation import words
from qmtl.simulators.plan import Group

__all__ = ["Angles", "Array", "ProgramTables", "Work", "working_bytes"]

# Samples of a tile: with 64 amplitudes, state and adjoint fill about half of a first-level cache.
TILES = (8, 16, 32)
LARGEST_TILE_BYTES = 2**19
# Final states are kept for the backward pass up to this size; beyond it they are computed again.
KEPT_STATES_BYTES = 2**28
Array = NDArray[Any]


def _tile(samples: int, size: int, itemsize: int) -> int:
    """Samples of a tile: enough for long loops, few enough for the cache."""
    fitting = [t for t in TILES if 4 * itemsize * size * t <= LARGEST_TILE_BYTES] or TILES[:1]
    wanted = [t for t in fitting if t >= samples]
    return wanted[0] if wanted else fitting[-1]


def working_bytes(group: Group, samples: int, itemsize: int) -> int:
    """Bytes that a training step of a group takes, by the sizes of the arrays below."""
    size, slots = 1 << group.n_wires, len(group.encoding_slots.feature_slots)
    tile = _tile(samples, size, itemsize)
    padded = -(-samples // tile) * tile
    states_each = 1 if group.n_cones == len(group.members) else 1 + len(group.members)
    states = 2 * group.n_cones * states_each * size * padded * itemsize
    threads = torch.get_num_threads()
    # At least one item per thread is kept, and a thread works on three states.
    one = 2 * size * tile * itemsize
    kept = min(states, max(KEPT_STATES_BYTES, threads * states_each * one))
    angles = (3 * slots * group.n_cones + 2 * len(group.readout) * len(group.members)) * padded
    return kept + 4 * threads * one + angles * itemsize


class ProgramTables:
    """What the kernel reads in every call, and where it is in memory, which takes long to ask.

    Args:
        program: the group's tables.
        dtype: the precision.
    """

    def __init__(self, program: Program, dtype: torch.dtype) -> None:
        kind = np.dtype(str(dtype).removeprefix("torch."))
        index = program.group.encoding_slots.rows[0]
        readout = program.group.readout.astype(kind)
        self.index = torch.from_numpy(index)
        # Which must live as long as their addresses.
        self._arrays = (program.ops, program.terms, program.signs, readout, index)
        self.words = words(*self._arrays)


class Angles(NamedTuple):
    """Cosines and sines of half angles.

    Attributes:
        cos, sin: of those that depend on the sample, shape (rows, samples), padded to whole tiles.
        cone: both of the encoding's others, shape (2, cones, angles).
        task: both of the blocks', shape (2, tasks, angles).
    """

    cos: Tensor
    sin: Tensor
    cone: Tensor
    task: Tensor


class Work:
    """The arrays and work items of one call.

    Args:
        program: the group's tables.
        samples: how many there are.
        dtype: the precision.
    """

    def __init__(self, program: Program, samples: int, dtype: torch.dtype) -> None:
        self.program, self.samples, self.torch_dtype = program, samples, dtype
        self.tile = _tile(samples, 1 << program.group.n_wires, dtype.itemsize)
        self.n_tiles = -(-samples // self.tile)
        self.padded = self.n_tiles * self.tile

    def padded_to_tiles(self, values: Tensor) -> Tensor:
        """The values (..., samples) with zeros after them, their numbers in a row."""
        missing = self.padded - self.samples
        values = torch.nn.functional.pad(values, (0, missing)) if missing else values
        return values.contiguous()

    def angles(self, rows: Tensor, cone: Array, task: Array) -> Angles:
        """What the kernel reads of angles.

        Args:
            rows: sample-dependent angles, shape (rows, samples).
            cone: cosines and sines of the encoding's other half angles, shape (2, cones, angles).
            task: those of the blocks, shape (2, tasks, angles).
        """
        # An encoding without features still has one column of work.
        rows = rows.detach() if len(rows) else rows.new_zeros(1, self.samples)
        half = self.padded_to_tiles(rows / 2)
        return Angles(half.cos(), half.sin(), torch.from_numpy(cone), torch.from_numpy(task))

    @property
    def head(self) -> tuple[int, ...]:
        """The first of the kernel's words."""
        p = self.program
        return (1 << p.group.n_wires, self.tile, p.n_shared, p.n_starts)

    @property
    def numbers(self) -> int:
        """Numbers that a thread works in: states, vectors over samples and over amplitudes."""
        size = 1 << self.program.group.n_wires
        shared = 2 * size if self.states_each > 1 else 0
        return (4 * size + 3 + shared) * self.tile + 3 * size

    def items(self, cones: Array, places: Array, jacobian_rows: Array) -> Array:
        """Per cone and tile: cone, first sample, place, row of the Jacobian, kept state."""
        tiles = np.tile(np.arange(self.n_tiles), len(cones))
        cone, place, row = (np.repeat(a, self.n_tiles) for a in (cones, places, jacobian_rows))
        return np.stack([cone, tiles * self.tile, place, row, cone * self.n_tiles + tiles], axis=1)

    def new_states(self, n: int) -> Tensor:
        """Room for the states of `n` items: a cone's, and its tasks' if they share it."""
        size = 1 << self.program.group.n_wires
        return torch.empty(
            n, self.states_each, 2 * size, self.tile, dtype=self.torch_dtype, device="cpu"
        )

    @property
    def states_each(self) -> int:
        """States kept per item."""
        group = self.program.group
        per_cone = len(group.members) // group.n_cones
        return 1 if per_cone == 1 else 1 + per_cone

    def new_values(self) -> Tensor:
        """Room for the outputs (1, members, n_outputs, samples), padding included."""
        group = self.program.group
        shape = (1, len(group.members), len(group.readout), self.padded)
        return torch.empty(shape, dtype=self.torch_dtype, device="cpu")

    @property
    def kept_at_once(self) -> int:
        """How many items' states fit into what may be kept."""
        amplitudes = self.states_each << self.program.group.n_wires
        bytes_each = 2 * amplitudes * self.tile * self.torch_dtype.itemsize
        return max(torch.get_num_threads(), KEPT_STATES_BYTES // bytes_each)
