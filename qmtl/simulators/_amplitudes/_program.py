"""Programs: a group's layers as the tables of numbers that the compiled kernel interprets."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmtl.simulators._cones import Layer, Op
from qmtl.simulators._plan import Group

# Kinds of operation.
RY, RX, Z, PHASE = range(4)
# Sources of an angle: the sample, the cone's table, the task's table, or a constant quarter turn.
SAMPLE, CONE, TASK, CONSTANT = range(4)

IntArray = NDArray[np.int64]
ROTATIONS = {"RY": RY, "RX": RX}
Row = tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """A group's tables for the kernel; the module `_kernels` explains them.

    Attributes:
        n_starts: number of operations, from the first, that make the product state.
        n_shared: number of operations, from the first, that run once per cone; the others run once
            per task.
    """

    group: Group
    ops: IntArray
    n_starts: int
    n_shared: int
    terms: IntArray
    signs: NDArray[np.int8]


class _Tables:
    """The tables under construction.

    Args:
        n_wires: number of wires of the state.
        span: number of wires, from the first, on which the layers act.
        source: source of the angles that are equal for all samples.
        by_sample: columns of the angles that depend on the sample, by slot.
        fixed: columns of the other angles, by slot.
    """

    def __init__(
        self,
        n_wires: int,
        span: int,
        source: int,
        by_sample: tuple[int, ...],
        fixed: tuple[int, ...],
    ) -> None:
        self.n_wires, self.span, self.source = n_wires, span, source
        self.by_sample = {slot: i for i, slot in enumerate(by_sample)}
        self.fixed = {slot: i for i, slot in enumerate(fixed)}
        self.rows: list[Row] = []
        self.terms: list[tuple[int, int]] = []
        self.signs: list[NDArray[np.int8]] = []

    def starts(self, layer: Layer) -> Layer:
        """Write rotations of |0…0⟩, from the last wire to the first; return the gates left over.

        Before each rotation only amplitudes of later wires are non-zero, and all of them are real.
        """
        by_wire: dict[int, list[Op]] = {}
        for op in layer.ops:
            by_wire.setdefault(op.wires[0], []).append(op)
        rest: list[Op] = []
        for wire in sorted(by_wire, reverse=True):
            ops, stride = by_wire[wire], 1 << (self.n_wires - 1 - wire)
            if len(ops) > 1 or ops[0].name not in ("RY", "Hadamard"):
                rest += ops
            elif ops[0].slot is None:
                self.rows.append((RY, stride, 0, 0, CONSTANT, stride, 0))
            else:
                self.rows.append((RY, stride, *self._angle(ops[0].slot), stride, 0))
        return Layer(False, tuple(rest))

    def layer(self, layer: Layer) -> None:
        """Write the operations of one layer."""
        if layer.diagonal:
            self._phases(layer)
            return
        size = 1 << self.n_wires
        for op in layer.ops:
            stride = 1 << (self.n_wires - 1 - op.wires[0])
            if op.slot is None:
                # A Hadamard is a Z and then a quarter turn.
                self._phase([], [self._mask(op)])
                self.rows.append((RY, stride, 0, 0, CONSTANT, size, 0))
            else:
                self.rows.append((ROTATIONS[op.name], stride, *self._angle(op.slot), size, 0))

    def _angle(self, slot: int) -> tuple[int, int, int]:
        """Return the column, mask (always 0) and source of a single angle."""
        if slot in self.by_sample:
            return self.by_sample[slot], 0, SAMPLE
        return self.fixed[slot], 0, self.source

    def _mask(self, op: Op) -> int:
        return sum(1 << (self.span - 1 - w) for w in op.wires)

    def _phases(self, layer: Layer) -> None:
        size, shift = 1 << self.n_wires, self.n_wires - self.span
        angles, signs = [], []
        for op in layer.ops:
            if op.slot in self.by_sample:
                slot, mask = self.by_sample[op.slot], self._mask(op) << shift
                self.rows.append((Z, 0, slot, mask, SAMPLE, size, 0))
            elif op.slot is not None:
                angles.append((self.fixed[op.slot], self._mask(op)))
            else:
                signs.append(self._mask(op))
        if angles or signs:
            self._phase(angles, signs)

    def _phase(self, terms: list[tuple[int, int]], masks: list[int]) -> None:
        """Write a diagonal layer: angles as (slot, mask), and masks of Zs and CZs."""
        first, shift, row = len(self.terms), self.n_wires - self.span, len(self.signs)
        self.terms += terms
        signs = np.ones((2,) * self.span, np.int8)
        for mask in masks:
            # All basis states that have a one at each of the mask's wires.
            bits = (mask >> (self.span - 1 - wire) & 1 for wire in range(self.span))
            signs[tuple(1 if bit else slice(None) for bit in bits)] *= -1
        padding = (1 << self.n_wires) - signs.size
        self.signs.append(np.pad(signs.ravel(), (0, padding), constant_values=1))
        last = len(self.terms)
        self.rows.append((PHASE, shift, first, last, self.source, 0, row))


def build_program(group: Group) -> Program | None:
    """Return the group's program; None if the block depends on the sample, which needs torch.

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> from qmtl.simulators._plan import build_plan
        >>> circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(5)])
        >>> program = build_program(build_plan(circuit, list(circuit.registers)).groups[0])
        >>> program.n_starts, program.ops.shape
        (6, (17, 7))
    """
    structure = group.structure
    if structure.block_slots[0]:
        return None
    n = structure.n_wires
    encoding = _Tables(n, n, CONE, *structure.encoding_slots)
    layers = list(structure.encoding)
    if layers and not layers[0].diagonal:
        layers[0] = encoding.starts(layers[0])
    n_starts = len(encoding.rows)
    for layer in layers:
        encoding.layer(layer)
    block = _Tables(n, structure.n_inner, TASK, *structure.block_slots)
    # The block's terms and signs continue the encoding's numbering.
    block.terms, block.signs = encoding.terms, encoding.signs
    for layer in structure.block:
        block.layer(layer)
    ops = encoding.rows + block.rows
    return Program(
        group=group,
        ops=np.array(ops, np.int64).reshape(-1, 7),
        n_starts=n_starts,
        n_shared=len(ops) if group.n_cones == group.n_members else len(encoding.rows),
        terms=np.array(block.terms, np.int64).reshape(-1, 2),
        signs=np.array(block.signs, np.int8).reshape(-1, 1 << n),
    )
