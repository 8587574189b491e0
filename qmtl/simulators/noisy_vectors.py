"""A group's outputs by vectors of the numbers tr(Pρ): the engine for large noisy cones.

Steps are products of small matrices with vectors, for several cones and samples at a time. A
backward pass computes each chunk again, so that memory is bounded whatever the batch.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmtl.simulators.angles import by_slot, fixed_angles, sample_angles
from qmtl.simulators.engine import ALL, Needs, Three
from qmtl.simulators.noisy_cones import NoisyCone
from qmtl.simulators.noisy_maps import channel_matrix, gate_matrix, rotation_matrices
from qmtl.simulators.noisy_vector_order import GONE, VectorStep
from qmtl.simulators.noisy_vector_program import (
    VectorProgram,
    numbers,
    swapped,
    vector_programs,
)
from qmtl.simulators.pauli.walk import CHANNEL, DAMPING
from qmtl.simulators.plan import Group
from qmtl.simulators.slots import SlotTable

__all__ = ["VectorEngine", "programs_of"]

# Bytes of a chunk: beyond, larger chunks are no faster.
CHUNK_BYTES = 2**26
# A constant matrix per cone, or a rotation: its name, whether it is the block's, and its slot.
Part = NDArray[np.float64] | tuple[str, bool, int, bool]
# A vector: its wires, and numbers of shape (cones, samples or 1, letters of each wire).
Vector = tuple[tuple[int, ...], Tensor]


def programs_of(cone: NoisyCone) -> tuple[VectorProgram, ...]:
    """The vector programs of a cone; one for each output where they run apart."""
    structure = cone.structure
    return vector_programs(
        (*structure.encoding, *structure.block),
        structure.strings,
        len(cone.wires),
        are_apart=structure.mixing is None,
    )


class VectorEngine:
    """Evaluates noisy cones of one structure by vectors; an `Engine`.

    Its inputs are the features (features, samples), the encoding's weights, and the tasks' weights
    (tasks, n_weights).

    Args:
        group: the tasks, with the angles of all operations.
        cones: their cones, of one structure.
        most_bytes: of a chunk, as far as one sample of one cone allows.
    """

    name: ClassVar[str] = "vectors of Pauli strings"
    is_differentiable: ClassVar[bool] = False

    def __init__(self, group: Group, cones: Sequence[NoisyCone], most_bytes: int) -> None:
        self.group = group
        self.programs = programs_of(cones[0])
        structure = cones[0].structure
        self.mixing = (
            None if structure.mixing is None else torch.tensor(structure.mixing, device="cpu")
        )
        self.n_outputs = len(structure.strings if self.mixing is None else structure.mixing or ())
        self._parts = [[_parts(step, cones) for step in program.steps] for program in self.programs]
        self.most_bytes = min(CHUNK_BYTES, most_bytes)

    def angles(self, columns: Tensor, encoding: Tensor) -> Tensor:
        """The first input: the features."""
        return columns

    def eager(self, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        """Outputs, shape (tasks, n_outputs, samples), by torch operations."""
        return self._values(first, second, third, slice(0, len(self.group.members)))

    def forward(self, inputs: Three, keep: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The same without a graph; nothing is kept."""
        columns, encoding, own = inputs
        found = columns.new_empty(len(own), self.n_outputs, columns.shape[1])
        with torch.no_grad():
            for cones, samples in self._chunks(columns):
                found[cones, :, samples] = self._values(
                    columns[:, samples], encoding, own[cones], cones
                )
        return found, ()

    def pull_back(
        self, gradients: Tensor, inputs: Three, kept: Sequence[Tensor], needs: Needs = ALL
    ) -> Three:
        """Gradients by the three inputs, for each row of a Jacobian."""
        columns, encoding, own = inputs
        n = len(gradients)
        by_column, by_weight, by_own = (tensor.new_zeros(n, *tensor.shape) for tensor in inputs)
        for cones, samples in self._chunks(columns):
            chosen = gradients[:, cones, :, samples].detach()
            # NaN counts as a gradient, since it must reach the result.
            rows = chosen.flatten(1).ne(0).any(1).nonzero()[:, 0].tolist()
            if not rows:
                continue
            with torch.enable_grad():
                first, second, third = leaves = [
                    part.detach().requires_grad_()
                    for part in (columns[:, samples], encoding, own[cones])
                ]
                values = self._values(first, second, third, cones)
                # Outputs may depend on no angle at all.
                for row in rows if values.requires_grad else ():
                    a, b, c = torch.autograd.grad(
                        values, leaves, chosen[row], retain_graph=True, materialize_grads=True
                    )
                    by_column[row, :, samples] += a
                    by_weight[row] += b
                    by_own[row, cones] += c
        return by_column, by_weight, by_own

    def step_bytes(self, samples: int, itemsize: int) -> int:
        """Estimated bytes of a training step."""
        group = self.group
        several = min(self._lanes(itemsize), len(group.members) * max(samples, 1))
        outputs = 2 * len(group.members) * self.n_outputs * samples * itemsize
        return int(several * self._bytes(itemsize) + outputs)

    def step_operations(self, samples: int) -> int:
        """Estimated floating-point operations of a training step, a second forward included."""
        forward = 2 * sum(program.operations for program in self.programs)
        return 4 * forward * len(self.group.members) * samples

    def _bytes(self, itemsize: int) -> int:
        """Of one sample of one cone; programs run one after the other, but their graphs stay."""
        return max(1, 2 * sum(program.kept for program in self.programs)) * itemsize

    def _lanes(self, itemsize: int) -> int:
        return max(1, self.most_bytes // self._bytes(itemsize))

    def _chunks(self, columns: Tensor) -> Iterator[tuple[slice, slice]]:
        """Cones and samples that run at a time."""
        n_cones, n_samples = len(self.group.members), columns.shape[1]
        lanes = self._lanes(columns.element_size())
        width = max(1, min(lanes, n_samples))
        height = max(1, lanes // width)
        for cone in range(0, n_cones, height):
            for sample in range(0, n_samples, width):
                yield (
                    slice(cone, min(cone + height, n_cones)),
                    slice(sample, min(sample + width, n_samples)),
                )

    def _values(self, columns: Tensor, encoding: Tensor, own: Tensor, cones: slice) -> Tensor:
        tables = [_rows(t, cones) for t in (self.group.encoding_slots, self.group.block_slots)]
        angles = [
            by_slot(table, sample_angles(table, columns, w), fixed_angles(table, w))
            for table, w in zip(tables, (encoding, own), strict=True)
        ]
        found = [
            _expectations(program, parts, angles, cones, columns)
            for program, parts in zip(self.programs, self._parts, strict=True)
        ]
        shape = (cones.stop - cones.start, -1, columns.shape[1])
        strings = torch.cat([part.expand(shape) for part in found], 1)
        return strings if self.mixing is None else self.mixing.to(strings) @ strings


def _rows(table: SlotTable, cones: slice) -> SlotTable:
    return SlotTable(table.features[cones], table.weights[cones], table.constants[cones])


def _parts(step: VectorStep, cones: Sequence[NoisyCone]) -> list[Part]:
    """A step's matrices, those that are constant multiplied together for each cone."""
    structure = cones[0].structure
    n_encoding = len(structure.encoding)
    parts: list[Part] = []
    for position in step.ops:
        in_block = position >= n_encoding
        ops = structure.block if in_block else structure.encoding
        op = ops[position - n_encoding if in_block else position]
        turned = op.wires != step.wires
        if op.name in (CHANNEL, DAMPING):
            slot = op.slot or 0
            found = np.stack([channel_matrix(cone.channels[slot]) for cone in cones])
            matrix = np.stack([swapped(one) for one in found]) if turned else found
        elif op.slot is None:
            one = gate_matrix(op.name, len(op.wires))
            matrix = (swapped(one) if turned else one)[None]
        else:
            parts.append((op.name, in_block, op.slot, turned))
            continue
        if parts and not isinstance(parts[-1], tuple):
            parts[-1] = matrix @ parts[-1]
        else:
            parts.append(matrix)
    return parts


def _matrix(
    step: VectorStep,
    parts: Sequence[Part],
    angles: Sequence[Sequence[Tensor]],
    cones: slice,
    like: Tensor,
) -> Tensor:
    """The matrix of a step, shape (cones or 1, samples or 1, rows, columns)."""
    rows, columns = numbers(step.after), numbers(step.before)
    found: Tensor | None = None
    for i, part in enumerate(parts):
        if isinstance(part, tuple):
            name, in_block, slot, turned = part
            three = rotation_matrices(name, len(step.wires))
            one = [swapped(m) for m in three] if turned else list(three)
        else:
            one = [part if len(part) == 1 else part[cones]]
        # Only the rows and columns that are wanted, of the last and of the first.
        one = [m[..., columns] for m in one] if i == 0 else one
        one = [m[..., rows, :] for m in one] if i == len(parts) - 1 else one
        tensors = [torch.from_numpy(np.ascontiguousarray(m)).to(like) for m in one]
        if isinstance(part, tuple):
            angle = angles[in_block][slot][..., None, None]
            matrix = tensors[0] + angle.cos() * tensors[1] + angle.sin() * tensors[2]
        else:
            matrix = tensors[0][:, None]
        found = matrix if found is None else matrix @ found
    assert found is not None
    return found


def _expectations(
    program: VectorProgram,
    parts: Sequence[Sequence[Part]],
    angles: Sequence[Sequence[Tensor]],
    cones: slice,
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
        matrix = _matrix(step, own, angles, cones, like)
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


def _applied(step: VectorStep, matrix: Tensor, vector: Vector) -> Vector:
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
