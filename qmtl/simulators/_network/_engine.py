"""A group's outputs by vectors of the numbers tr(Pρ): the engine for large noisy cones.

Steps are products of small matrices with vectors, for several cones and samples at a time. A
backward pass computes each chunk again, so that memory is bounded whatever the batch.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.simulators._angles import AngleRows
from qmtl.simulators._cones import Op
from qmtl.simulators._engine import Array, Engine, Inputs
from qmtl.simulators._network._program import GONE, Contraction, MatrixStep, numbers, swapped
from qmtl.simulators._pauli._walk import CHANNEL, DAMPING
from qmtl.simulators._transfer import channel_matrices, gate_matrix, rotation_matrices

__all__ = ["CHUNK_BYTES", "Channels", "ChunkedEngine", "NetworkEngine", "angles_of"]

# Bytes of a chunk: beyond, larger chunks are no faster.
CHUNK_BYTES = 2**26
# A constant matrix per cone (cones or 1, rows, columns), or a rotation's three matrices and slot.
Part = tuple[tuple[Tensor, ...], int | None]
# A vector: its wires, and numbers of shape (cones, samples or 1, letters of each wire).
Vector = tuple[tuple[int, ...], Tensor]


def angles_of(
    rows: AngleRows, sampled: Tensor, fixed: Tensor, members: slice = slice(None)
) -> list[Tensor]:
    """The angle of each slot, shape (members, samples or 1)."""
    assert rows.rows is not None
    found = []
    for moving, own in zip(rows.is_sampled, rows.rows[members].T, strict=True):
        index = torch.from_numpy(np.ascontiguousarray(own)).to(sampled.device)
        found.append(sampled[index] if moving else fixed[index][:, None])
    return found


class ChunkedEngine(Engine):
    """An engine of torch operations that runs some members and samples at a time.

    Args:
        columns: columns of the members' outputs among the plan's, shape (members, n_outputs).
        most_bytes: of a chunk, as far as one sample of one member allows.
    """

    def __init__(self, columns: NDArray[np.int64], most_bytes: int) -> None:
        super().__init__(columns)
        self.most_bytes = most_bytes

    @abstractmethod
    def lane_bytes(self, itemsize: int) -> int:
        """Estimated bytes that one sample of one member takes in a training step."""

    @abstractmethod
    def values_of(self, sampled: Tensor, fixed: Tensor, members: slice) -> Tensor:
        """Outputs of some members; see `Engine.torch_values`."""

    def torch_values(self, sampled: Tensor, fixed: Tensor) -> Tensor:
        """Outputs, shape (members, n_outputs, batch), by differentiable torch operations."""
        return self.values_of(sampled, fixed, slice(0, len(self.columns)))

    def step_bytes(self, samples: int, itemsize: int) -> int:
        """Estimated bytes of a training step."""
        lanes = min(len(self.columns) * samples, self._lanes(itemsize))
        return lanes * self.lane_bytes(itemsize) + 4 * self.columns.size * samples * itemsize

    def _lanes(self, itemsize: int) -> int:
        return max(1, self.most_bytes // self.lane_bytes(itemsize))

    def _chunks(self, samples: int, itemsize: int) -> Iterator[tuple[slice, slice]]:
        lanes, n = self._lanes(itemsize), len(self.columns)
        width = max(1, min(lanes, samples))
        height = max(1, lanes // width)
        for member in range(0, n, height):
            for low in range(0, samples, width):
                yield slice(member, min(member + height, n)), slice(low, min(low + width, samples))

    def forward(self, inputs: Inputs, values: Array) -> Any:
        """Write the outputs; a single chunk keeps its graph."""
        chunks = list(self._chunks(len(values), values.itemsize))
        kept = None
        for members, part in chunks:
            with torch.set_grad_enabled(len(chunks) == 1):
                leaves, found = self._graph(inputs, members, part)
            values[part, self.columns[members].ravel()] = found.detach().numpy()
            kept = leaves, found
        return kept if len(chunks) == 1 else None

    def pull_back(
        self, inputs: Inputs, kept: Any, gradients: Array, by_sampled: Array, by_fixed: Array
    ) -> None:
        """Add the gradients; several chunks are computed again, one after the other."""
        for members, part in self._chunks(len(gradients), gradients.itemsize):
            chosen = gradients[part, self.columns[members].ravel()]
            # NaN counts as a gradient, since it must reach the result.
            if not chosen.any():
                continue
            with torch.enable_grad():
                leaves, values = kept or self._graph(inputs, members, part)
            # Outputs may depend on no angle at all.
            if values.requires_grad:
                # There may be several gradients of what was kept.
                first, second = torch.autograd.grad(
                    values, leaves, torch.from_numpy(chosen), materialize_grads=True,
                    retain_graph=kept is not None,
                )  # fmt: skip
                by_sampled[:, part] += first.numpy()
                by_fixed += second.numpy()

    def _graph(self, inputs: Inputs, members: slice, part: slice) -> tuple[list[Tensor], Tensor]:
        """Angles of a chunk, and outputs (samples, members' outputs) computed from them."""
        numbers = inputs.sampled[:, part], inputs.fixed
        leaves = [torch.from_numpy(own).requires_grad_() for own in numbers]
        return leaves, self.values_of(leaves[0], leaves[1], members).flatten(0, 1).T


class Channels(NamedTuple):
    """The channels of a group's cones.

    Attributes:
        index: which channel each of a cone's is, shape (members, channels of a cone).
        numbers: of all channels; see `channel_matrices`.
    """

    index: NDArray[np.int64]
    numbers: NDArray[np.float64]


class NetworkEngine(ChunkedEngine):
    """Evaluates noisy cones of one structure by vectors of Pauli strings.

    Args:
        columns: columns of the members' outputs among the plan's, shape (members, n_outputs).
        ops: of the cones, on local wires; slots number the angles, and for channels the channels.
        programs: how they are contracted.
        angles: of the slots, one after the other.
        channels: of each cone.
        mixing: how the strings make the outputs; None if each output is one of them.
        most_bytes: of a chunk, as far as one sample of one cone allows.
    """

    name: ClassVar[str] = "vectors of Pauli strings"

    def __init__(
        self,
        columns: NDArray[np.int64],
        ops: Sequence[Op],
        programs: Sequence[Contraction],
        angles: Sequence[AngleRows],
        channels: Channels,
        mixing: NDArray[np.float64] | None,
        most_bytes: int = CHUNK_BYTES,
    ) -> None:
        super().__init__(columns, most_bytes)
        self.programs = programs
        self._mixing = None if mixing is None else torch.from_numpy(mixing)
        self._parts = [[_parts(s, ops, channels) for s in one.steps] for one in programs]
        # For each slot, whether it depends on the sample, and its rows in the table.
        self._slots = [
            (bool(sampled), torch.from_numpy(np.ascontiguousarray(rows)))
            for part in angles
            if part.rows is not None and part.rows.size
            for sampled, rows in zip(part.is_sampled, part.rows.T, strict=True)
        ]

    def lane_bytes(self, itemsize: int) -> int:
        """Vectors and matrices, and their gradients."""
        return max(1, 2 * sum(program.kept for program in self.programs)) * itemsize

    def step_operations(self, samples: int) -> int:
        """Estimated floating-point operations of a training step."""
        products = sum(program.operations for program in self.programs)
        return 6 * products * len(self.columns) * samples

    def values_of(self, sampled: Tensor, fixed: Tensor, members: slice) -> Tensor:
        """Outputs of some members; see `Engine.torch_values`."""
        angles = [
            sampled[rows[members].to(sampled.device)]
            if moving
            else fixed[rows[members].to(fixed.device)][:, None]
            for moving, rows in self._slots
        ]
        found = [
            _expectations(program, parts, angles, members, sampled)
            for program, parts in zip(self.programs, self._parts, strict=True)
        ]
        shape = (members.stop - members.start, -1, sampled.shape[1])
        strings = torch.cat([part.expand(shape) for part in found], 1)
        return strings if self._mixing is None else self._mixing.to(strings) @ strings


def _parts(step: MatrixStep, ops: Sequence[Op], channels: Channels) -> list[Part]:
    """A step's matrices, those that are constant multiplied together for each cone."""
    found: list[tuple[NDArray[np.float64], int | None]] = []
    for position in step.ops:
        op, slot = ops[position], None
        n = len(op.wires)
        if op.name in (CHANNEL, DAMPING):
            matrices = channel_matrices(channels.numbers[channels.index[:, op.slot]], n)
        elif op.slot is None:
            matrices = gate_matrix(op.name, n)[None]
        else:
            matrices, slot = rotation_matrices(op.name, n), op.slot
        if op.wires != step.wires:
            matrices = swapped(matrices)
        if slot is None and found and found[-1][1] is None:
            matrices = matrices @ found.pop()[0]
        found.append((matrices, slot))
    # Only the rows and columns that are wanted, of the last and of the first.
    found[0] = found[0][0][..., numbers(step.before)], found[0][1]
    found[-1] = found[-1][0][..., numbers(step.after), :], found[-1][1]
    return [
        (tuple(torch.from_numpy(np.ascontiguousarray(m)) for m in ((x,) if s is None else x)), s)
        for x, s in found
    ]


def _matrix(
    parts: Sequence[Part], angles: Sequence[Tensor], members: slice, like: Tensor
) -> Tensor:
    """The matrix of a step, shape (cones or 1, samples or 1, rows, columns)."""
    found: Tensor | None = None
    for matrices, slot in parts:
        if slot is None:
            own = matrices[0] if len(matrices[0]) == 1 else matrices[0][members]
            matrix = own.to(like)[:, None]
        else:
            rest, cosine, sine = (m.to(like) for m in matrices)
            angle = angles[slot][..., None, None]
            matrix = rest + angle.cos() * cosine + angle.sin() * sine
        found = matrix if found is None else matrix @ found
    assert found is not None
    return found


def _expectations(
    program: Contraction,
    parts: Sequence[Sequence[Part]],
    angles: Sequence[Tensor],
    members: slice,
    like: Tensor,
) -> Tensor:
    """Expectation values of a program's strings, shape (cones or 1, strings, samples or 1)."""
    if set(program.places) == {-1}:
        return like.new_zeros(1, len(program.places), 1)
    none: Vector = ((), like.new_ones(1, 1))
    vectors: dict[int, Vector] = {}
    for wire, letters in enumerate(program.start):
        if letters != GONE:
            vectors[wire] = ((wire,), like.new_ones(1, 1, len(letters)))
    for step, own in zip(program.steps, parts, strict=True):
        matrix = _matrix(own, angles, members, like)
        wires, values = _applied(step, matrix, _joined(vectors, step.wires, none))
        for wire in step.wires:
            vectors.pop(wire, None)
        vectors |= dict.fromkeys(wires, (wires, values))
    read = [wire for wire, _ in program.read]
    wires, values = _joined(vectors, read, none)
    values = values.permute(0, 1, *(2 + wires.index(wire) for wire in read))
    values = values.reshape(*values.shape[:2], prod(values.shape[2:]))
    # A string that is always zero has no place; any finite number will do.
    places = torch.tensor(program.places, device=like.device)
    return (values[..., places.clamp(min=0)] * (places >= 0)).mT


def _joined(vectors: dict[int, Vector], wires: Sequence[int], none: Vector) -> Vector:
    """The product of the vectors that some wires are in."""
    found = none
    for wire in wires:
        vector = vectors.get(wire)
        if vector is None or wire in found[0]:
            continue
        if not found[0]:
            found = vector
            continue
        (ours, a), (others, b) = found, vector
        left = a.reshape(*a.shape, *[1] * len(others))
        right = b.reshape(*b.shape[:2], *[1] * len(ours), *b.shape[2:])
        found = (*ours, *others), left * right
    return found


def _applied(step: MatrixStep, matrix: Tensor, vector: Vector) -> Vector:
    """A step's matrix on a vector that has all its wires."""
    wires, values = vector
    own = [wire for wire in step.wires if wire in wires]
    rest = [wire for wire in wires if wire not in own]
    order = (2 + wires.index(wire) for wire in (*own, *rest))
    values = values.permute(0, 1, *order)
    sizes = values.shape[2 + len(own) :]
    columns = values.reshape(*values.shape[:2], matrix.shape[-1], prod(sizes))
    found = matrix @ columns
    kept = [(w, len(a)) for w, a in zip(step.wires, step.after, strict=True) if a != GONE]
    shape = (*found.shape[:2], *(size for _, size in kept), *sizes)
    return (*(wire for wire, _ in kept), *rest), found.reshape(shape)
