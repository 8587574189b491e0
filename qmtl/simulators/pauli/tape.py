"""Polynomials run by the compiled kernel, for a batch of places and samples."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.simulators.compilation import Call, Form, Kernel
from qmtl.simulators.pauli.polynomials import PRODUCT, Polynomials
from qmtl.simulators.threads import thread_count

__all__ = ["PullBack", "Tape"]

Array = NDArray[Any]
KERNEL = Kernel("qmtl.simulators.pauli.kernel")
# Bytes of a tile's registers: they and their adjoints should stay in a second-level cache.
TILE_BYTES = 2**17
FEWEST_LANES, MOST_LANES = 16, 128
# Rows that are turned round together: the numbers of a cache line.
MOST_ROWS = 16
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
        # With the register that each writes.
        first = polynomials.n_registers - len(polynomials.ops)
        ops = np.insert(polynomials.ops, 5, first + np.arange(len(polynomials.ops)), axis=1)
        self._tables = {
            kind: (ops, polynomials.outputs, polynomials.signs.astype(dtype), rows)
            for kind, dtype in kinds.items()
        }
        self._form = lru_cache(maxsize=FORMS)(self._new_form)

    def values(self, rows: Tensor | None, fixed: Tensor) -> "Values":
        """Values of the polynomials, still to be run.

        Args:
            rows: the sampled angles in radians, shape (rows, samples), of any strides; None if
                there are none.
            fixed: cosines and sines, shape (2, places, angles).
        """
        places = self._everywhere
        angles = fixed.new_empty((0, 1)) if rows is None else rows.detach()
        sampled = fixed.new_empty((2, *angles.shape))
        found = fixed.new_empty((len(self.rows), self._n_values, angles.shape[1]))
        form = self._form("values", _sizes(places, angles, fixed), torch.get_num_threads())
        call = form.call(places, sampled, fixed, found, angles)
        return Values(call, found, sampled)

    def pull_back(
        self,
        places: Array | None,
        sampled: Tensor,
        fixed: Tensor,
        gradient: Tensor,
        coefficients: Tensor | None = None,
        like: Tensor | None = None,
    ) -> "PullBack":
        """Gradients by the angles, still to be run.

        Args:
            places: which of the places to run; None for all.
            sampled: cosines and sines, shape (2, rows, samples).
            fixed: cosines and sines, shape (2, places, angles).
            gradient: by the values; with `coefficients`, by sums of them (places, sums, samples).
            coefficients: of these sums, shape (places, sums, polynomials).
            like: the sampled angles; with them, their gradients are summed over all places.
        """
        run = self._everywhere if places is None else torch.from_numpy(places)
        by_angle = fixed.new_empty((len(run), self.rows.shape[1], sampled.shape[2]))
        n_chunks = _tiles(self._n_registers, len(run), sampled.shape[2], fixed.itemsize).n_chunks
        by_fixed = fixed.new_empty((n_chunks, len(run), fixed.shape[2]))
        start, sums = gradient.contiguous(), gradient.shape[1]
        kind = "gradient" if coefficients is None else f"gradient of {sums} sums"
        # In the order of the angles, whose gradient autograd then need not turn round.
        by_row = sampled.new_empty((0, 1)) if like is None else torch.empty_like(like)
        sizes = _sizes(run, sampled[0] if like is None else by_row, fixed)
        last = () if like is None else (by_row,)
        form = self._form(kind + " by row" * len(last), sizes, torch.get_num_threads())
        if coefficients is None:
            call = form.call(run, sampled, fixed, start, by_angle, by_fixed, *last)
        else:
            used = (by_angle, by_fixed, coefficients.contiguous(), start, *last)
            call = form.call(run, sampled, fixed, *used)
        return PullBack(call, by_angle, by_fixed, by_row)

    def n_threads(self, samples: int, itemsize: int) -> int:
        """Threads that the kernel runs in for all places."""
        tiles = _tiles(self._n_registers, len(self.rows), samples, itemsize)
        return thread_count(len(tiles.items))

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

    def _new_form(self, kind: str, sizes: "Sizes", n_threads: int) -> Form:
        """The kernel's call for arrays of these sizes.

        Args:
            kind: of values, of their gradient, or of the gradient of so many sums.
            sizes: of its arrays.
            n_threads: of torch, which the form depends on.
        """
        n, rows, samples, dtype = sizes.places, sizes.rows, sizes.samples, sizes.dtype
        m, tiles = self._n_values, _tiles(self._n_registers, n, samples, dtype.itemsize)
        pairs = ((n,), (2, rows, samples), (2, sizes.all_places, sizes.angles))
        by_angle = (n, self.rows.shape[1], samples)
        found = (1, by_angle, (tiles.n_chunks, n, sizes.angles))
        # What is not looked at is empty: gradients, coefficients or sums.
        unused = (0, n, 0, m, 0, n, 0, samples)
        rest: tuple[int | tuple[int, ...], ...]
        if kind == "values":
            rest = ((n, m, samples), 0, 0, *by_angle, 0, 0, n, sizes.angles, *unused)
        elif "sums" not in kind:
            rest = ((n, m, samples), *found, *unused)
        else:
            sums = int(kind.split()[2])
            rest = (0, n, m, samples, *found, (n, sums, m), (n, sums, samples))
        arguments = (*self._tables[dtype], tiles.items, *pairs, *rest)
        own_memory = (2, self._n_registers, tiles.lanes)
        arguments = (*arguments, *self._by_row(kind, sizes, tiles.lanes))
        return Form(KERNEL, dtype, len(tiles.items), own_memory, arguments)

    def _by_row(
        self, kind: str, sizes: "Sizes", lanes: int
    ) -> tuple[int | Array | tuple[int, ...], ...]:
        """What the kernel does before and after its tiles, which has a block of rows as an item."""
        low = np.arange(0, sizes.samples, lanes)
        height = min(MOST_ROWS, self._n_registers)
        begin = np.arange(0, sizes.rows, height)
        blocks = _grid(begin, sizes.rows, height, low, sizes.samples, lanes)
        none, numbers = np.empty((0, 5), np.int64), (sizes.rows * sizes.samples,)
        strides, counters = (sizes.by_sample, sizes.by_row), (0, 0, 0, 0)
        if kind == "values":
            # Rows that no place looks at may be many.
            used = np.isin(blocks[:, 0] // height, np.unique(self.rows) // height)
            rest = (0, 0, 0, 0, 0, 0)
            return (*strides, blocks[used], numbers, none, *rest, *counters)
        if not kind.endswith("by row"):
            return (*strides, none, 0, 0, none, 0, 0, 0, 0, 0, 0, *counters)
        flat = self.rows.ravel()
        bounds = np.searchsorted(np.sort(flat), np.arange(sizes.rows + 1))
        order = np.argsort(flat, kind="stable")
        return (*strides, none, 0, 0, blocks, numbers, order, bounds, *counters)


class Sizes(NamedTuple):
    """Sizes of a call's arrays.

    Attributes:
        places: how many are run.
        rows: of sampled angles.
        samples: of each.
        by_sample: how far two samples of a row are apart in memory.
        by_row: how far two rows are apart.
        all_places: how many the fixed angles are of.
        angles: fixed ones.
        dtype: the precision.
    """

    places: int
    rows: int
    samples: int
    by_sample: int
    by_row: int
    all_places: int
    angles: int
    dtype: torch.dtype


class Values(NamedTuple):
    """Values of a tape's polynomials, that `call` computes.

    Attributes:
        call: of the kernel.
        found: the values, shape (places, polynomials, samples).
        sampled: cosines and sines of the sampled angles, shape (2, rows, samples).
    """

    call: Call
    found: Tensor
    sampled: Tensor


class PullBack(NamedTuple):
    """Gradients by a tape's angles, that `call` computes.

    Attributes:
        call: of the kernel.
        by_angle: gradients by the angles per sample, shape (places, angles, samples).
        by_chunk: by the fixed ones, shape (chunks of samples, places, angles).
        by_row: by the sampled angles (rows, samples), where these were given.
    """

    call: Call
    by_angle: Tensor
    by_chunk: Tensor
    by_row: Tensor

    def by_fixed(self) -> Array:
        """Gradients by the fixed angles, shape (places, angles), once it has run."""
        found: Array = self.by_chunk.numpy()
        whole: Array = found[0] if len(found) == 1 else found.sum(0)
        return whole


def _sizes(places: Tensor, rows: Tensor, fixed: Tensor) -> Sizes:
    _, all_places, angles = fixed.shape
    n_rows, samples = rows.shape
    by_row, by_sample = rows.stride()
    return Sizes(len(places), n_rows, samples, by_sample, by_row, all_places, angles, fixed.dtype)


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
    items = _grid(np.arange(0, places, several), places, several, low, samples, chunk)
    return Tiles(items, lanes, len(low) if places else 0)


def _grid(begin: Array, end: int, step: int, low: Array, high: int, chunk: int) -> Array:
    """Items that begin at each of these and of those, with the numbers of the latter."""
    grid = np.empty((len(begin), len(low), 5), np.int64)
    grid[..., 0], grid[..., 1] = begin[:, None], np.minimum(begin + step, end)[:, None]
    grid[..., 2], grid[..., 3] = low, np.minimum(low + chunk, high)
    grid[..., 4] = np.arange(len(low))
    return grid.reshape(-1, 5)
