"""Polynomials run by the compiled kernel, for a batch of places and samples."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.simulators.compilation import Call, Form, Kernel
from qmtl.simulators.pauli.polynomials import PRODUCT, Polynomials

__all__ = ["PullBack", "Tape"]

Array = NDArray[Any]
KERNEL = Kernel("qmtl.simulators.pauli.kernel")
# Bytes of a tile's registers: they and their adjoints should stay in a second-level cache.
TILE_BYTES = 2**17
FEWEST_LANES, MOST_LANES = 16, 128
# Batches and Jacobians of so many sizes are remembered.
FORMS = 32


class Tape:
    """Polynomials and where their angles come from.

    Args:
        polynomials: what to evaluate.
        rows: which row of the sampled angles each angle is, for each place (places, angles); the
            polynomials' other angles are fixed.
    """

    def __init__(self, polynomials: Polynomials, rows: Array) -> None:
        self.polynomials, self.rows = polynomials, rows
        self._everywhere = torch.from_numpy(np.arange(len(rows)))
        self._n_registers = polynomials.n_registers
        kinds: dict[torch.dtype, np.dtype[Any]]
        kinds = {torch.float32: np.dtype("float32"), torch.float64: np.dtype("float64")}
        self._tables = {
            kind: (polynomials.ops, polynomials.outputs, polynomials.signs.astype(dtype), rows)
            for kind, dtype in kinds.items()
        }
        self._form = lru_cache(maxsize=FORMS)(self._new_form)

    def values(self, sampled: Tensor, fixed: Tensor) -> tuple[Call, Tensor]:
        """Values of the polynomials (places, polynomials, samples), and what computes them.

        Args:
            sampled: cosines and sines, shape (2, rows, samples).
            fixed: cosines and sines, shape (2, places, angles).
        """
        places = self._everywhere
        values = fixed.new_empty((len(self.rows), self._n_values, sampled.shape[2]))
        form = self._form("values", *_sizes(places, sampled, fixed), torch.get_num_threads())
        return form.call(places, sampled, fixed, values, values, values), values

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
        run = self._everywhere if places is None else torch.from_numpy(places)
        by_row = fixed.new_empty((len(run), self.rows.shape[1], sampled.shape[2]))
        n_chunks = _tiles(self._n_registers, len(run), sampled.shape[2], fixed.itemsize).n_chunks
        by_fixed = fixed.new_empty((n_chunks, len(run), fixed.shape[2]))
        start, sums = gradient.contiguous(), gradient.shape[1]
        kind = "gradient" if coefficients is None else f"gradient of {sums} sums"
        form = self._form(kind, *_sizes(run, sampled, fixed), torch.get_num_threads())
        used = (by_row, by_fixed)
        if coefficients is None:
            call = form.call(run, sampled, fixed, start, *used)
        else:
            call = form.call(run, sampled, fixed, *used, coefficients.contiguous(), start)
        return PullBack(call, *used)

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

    @property
    def _n_values(self) -> int:
        return len(self.polynomials.outputs)

    def _new_form(
        self, kind: str, sizes: tuple[int, ...], dtype: torch.dtype, n_threads: int
    ) -> Form:
        """The kernel's call for arrays of these sizes.

        Args:
            kind: of values, of their gradient, or of the gradient of sums.
            sizes: places, rows, samples, and how many places and angles the fixed ones have.
            dtype: the precision.
            n_threads: of torch, which the form depends on.
        """
        n, rows, samples, all_places, angles = sizes
        m, tiles = self._n_values, _tiles(self._n_registers, n, samples, dtype.itemsize)
        batch = (tiles.items, (n,), (2, rows, samples), (2, all_places, angles))
        found = (1, (n, self.rows.shape[1], samples), (tiles.n_chunks, n, angles))
        # What is not looked at is empty: gradients, coefficients or sums.
        unused = (0, n, 0, m, 0, n, 0, samples)
        rest: tuple[int | tuple[int, ...], ...]
        if kind == "values":
            own = (n, m, samples)
            rest = (own, 0, own, own, *unused)
        elif kind == "gradient":
            rest = ((n, m, samples), *found, *unused)
        else:
            sums = int(kind.split()[2])
            rest = (0, n, m, samples, *found, (n, sums, m), (n, sums, samples))
        own_memory = (2, self._n_registers, tiles.lanes)
        arguments = (*self._tables[dtype], *batch, *rest)
        return Form(KERNEL, dtype, len(tiles.items), own_memory, arguments)


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


def _sizes(places: Tensor, sampled: Tensor, fixed: Tensor) -> tuple[tuple[int, ...], torch.dtype]:
    _, rows, samples = sampled.shape
    _, all_places, angles = fixed.shape
    return (len(places), rows, samples, all_places, angles), fixed.dtype


def _lanes(n_registers: int, itemsize: int) -> int:
    """Lanes of a tile."""
    fitting = TILE_BYTES // (n_registers * itemsize)
    return max(FEWEST_LANES, min(MOST_LANES, fitting // 16 * 16))


class Tiles(NamedTuple):
    """How a kernel's work is cut.

    Attributes:
        items: first place, last, first sample, last, and chunk of samples.
        lanes: of a tile.
        n_chunks: chunks of samples.
    """

    items: Array
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
    return Tiles(items, lanes, len(low) if places else 0)
