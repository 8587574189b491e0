"""Polynomials run by the compiled kernel, for a batch of places and samples."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.simulators.compilation import Call, Kernel, words
from qmtl.simulators.pauli.polynomials import PRODUCT, Polynomials

__all__ = ["PullBack", "Tape"]

Array = NDArray[Any]
KERNEL = Kernel("qmtl.simulators.pauli.kernel")
# Bytes of a tile's registers: they and their adjoints should stay in a second-level cache.
TILE_BYTES = 2**17
FEWEST_LANES, MOST_LANES = 16, 128


class Tape:
    """Polynomials and where their angles come from.

    Args:
        polynomials: what to evaluate.
        rows: which row of the sampled angles each angle is, for each place (places, angles); the
            polynomials' other angles are fixed.
    """

    def __init__(self, polynomials: Polynomials, rows: Array) -> None:
        self.polynomials, self.rows = polynomials, rows
        self._everywhere = np.arange(len(rows))
        self._words_everywhere = words(self._everywhere)
        self._n_registers = polynomials.n_registers
        kinds: dict[torch.dtype, np.dtype[Any]]
        kinds = {torch.float32: np.dtype("float32"), torch.float64: np.dtype("float64")}
        self._signs = {kind: polynomials.signs.astype(dtype) for kind, dtype in kinds.items()}
        self._tables = {
            kind: (dtype, words(polynomials.ops, polynomials.outputs, self._signs[kind], rows))
            for kind, dtype in kinds.items()
        }

    def values(self, sampled: Tensor, fixed: Tensor) -> tuple[Call, Tensor]:
        """Values of the polynomials (places, polynomials, samples), and what computes them.

        Args:
            sampled: cosines and sines, shape (2, rows, samples).
            fixed: cosines and sines, shape (2, places, angles).
        """
        shape = (len(self.rows), len(self.polynomials.outputs), sampled.shape[2])
        values = fixed.new_empty(shape)
        own = words(values)
        # No gradients, no coefficients and no sums: none of these is looked at.
        rest = [*own, 0, *own, *own, 0, shape[0], 0, shape[1], 0, shape[0], 0, shape[2]]
        call = self._call(self._everywhere, sampled, fixed, rest, (values,))
        return call, values

    def pull_back(
        self,
        places: Array | None,
        sampled: Tensor,
        fixed: Tensor,
        gradient: Tensor,
        coefficients: Tensor | None = None,
    ) -> "PullBack":
        """Gradients by the angles, still to be run.

        Args:
            places: which of the places to run; None for all.
            sampled: cosines and sines, shape (2, rows, samples).
            fixed: cosines and sines, shape (2, places, angles).
            gradient: by the values; with `coefficients`, by sums of them (places, sums, samples).
            coefficients: of these sums, shape (places, sums, polynomials).
        """
        places = self._everywhere if places is None else places
        samples = sampled.shape[2]
        by_row = fixed.new_empty((len(places), self.rows.shape[1], samples))
        n_chunks = _tiles(self._n_registers, len(places), samples, fixed.itemsize).n_chunks
        by_fixed = fixed.new_empty((n_chunks, len(places), fixed.shape[2]))
        start = gradient.contiguous()
        found = [1, *words(by_row, by_fixed)]
        n, m = len(places), len(self.polynomials.outputs)
        if coefficients is None:
            rest = [*words(start), *found, 0, n, 0, m, 0, n, 0, samples]
        else:
            coefficients = coefficients.contiguous()
            rest = [0, n, m, samples, *found, *words(coefficients, start)]
        used = (start, by_row, by_fixed, coefficients)
        return PullBack(self._call(places, sampled, fixed, rest, used), by_row, by_fixed)

    def working_bytes(self, itemsize: int) -> int:
        """Bytes that a thread works in."""
        registers = self.polynomials.n_registers
        return 2 * registers * _lanes(registers, itemsize) * itemsize

    @property
    def operations(self) -> int:
        """Operations of the polynomials and of their gradient, which computes them again."""
        ops = self.polynomials.ops
        sums = int((ops[:, 0] != PRODUCT).sum())
        products = len(ops) - sums
        return 2 * (products + 3 * sums) + 4 * products + 8 * sums

    def _call(
        self,
        places: Array,
        sampled: Tensor,
        fixed: Tensor,
        rest: list[int],
        used: tuple[object, ...],
    ) -> Call:
        tiles = _tiles(self._n_registers, len(places), sampled.shape[2], fixed.itemsize)
        own, (dtype, table) = (2, self._n_registers, tiles.lanes), self._tables[fixed.dtype]
        # Asking arrays for their addresses takes as long as small kernels.
        where = self._words_everywhere if places is self._everywhere else words(places)
        batch = [*table, *tiles.words, *where, *words(sampled, fixed), *rest]
        # The tape and the tiles, too: the table has the addresses of their arrays.
        held = (self, tiles, places, sampled, fixed, *used)
        return KERNEL.call(dtype, len(tiles.items), own, batch, held)


class PullBack(NamedTuple):
    """Gradients by a tape's angles, that `call` computes.

    Attributes:
        call: of the kernel.
        by_row: gradients by the angles per sample, shape (places, angles, samples).
        by_chunk: by the fixed ones, shape (chunks of samples, places, angles).
    """

    call: Call
    by_row: Tensor
    by_chunk: Tensor

    def by_fixed(self) -> Array:
        """Gradients by the fixed angles, shape (places, angles), once it has run."""
        found: Array = self.by_chunk.numpy()
        whole: Array = found[0] if len(found) == 1 else found.sum(0)
        return whole


def _lanes(n_registers: int, itemsize: int) -> int:
    """Lanes of a tile."""
    fitting = TILE_BYTES // (n_registers * itemsize)
    return max(FEWEST_LANES, min(MOST_LANES, fitting // 16 * 16))


class Tiles(NamedTuple):
    """How a kernel's work is cut.

    Attributes:
        items: first place, last, first sample, last, and chunk of samples.
        words: of the items, for the kernel.
        lanes: of a tile.
        n_chunks: chunks of samples.
    """

    items: Array
    words: list[int]
    lanes: int
    n_chunks: int


@lru_cache(maxsize=64)
def _tiles(n_registers: int, places: int, samples: int, itemsize: int) -> Tiles:
    lanes = _lanes(n_registers, itemsize)
    chunk = min(samples, lanes)
    several = lanes // chunk
    low = np.arange(0, samples, chunk)
    begin = np.arange(0, places, several)
    grid = np.empty((len(begin), len(low), 5), np.int64)
    grid[..., 0], grid[..., 1] = begin[:, None], np.minimum(begin + several, places)[:, None]
    grid[..., 2], grid[..., 3] = low, np.minimum(low + chunk, samples)
    grid[..., 4] = np.arange(len(low))
    items = grid.reshape(-1, 5)
    return Tiles(items, words(items), lanes, len(low) if places else 0)
