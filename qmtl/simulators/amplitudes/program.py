"""Programs: a group's layers as the tables of numbers that the compiled kernel interprets."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmtl.simulators.amplitudes import kernel
from qmtl.simulators.layers import Layer, Op
from qmtl.simulators.plan import Group

__all__ = ["Program", "build_program"]

IntArray = NDArray[np.int64]
ROTATIONS = {"RY": (kernel.RY, kernel.RY_FIXED), "RX": (kernel.RX, kernel.RX_FIXED)}


@dataclass(frozen=True)
class Program:
    """A group for the kernel; see there for the tables.

    Attributes:
        n_starts: how many of the first operations make the product state.
        n_shared: how many of the first operations run once per cone; the others once per task.
    """

    group: Group
    starts: IntArray
    ops: IntArray
    n_starts: int
    n_shared: int
    terms: IntArray


class _Tables:
    """The tables while they are written."""

    def __init__(self, n_wires: int) -> None:
        self.n_wires = n_wires
        self.terms: list[tuple[int, int]] = []

    def stride(self, wire: int) -> int:
        return 1 << (self.n_wires - 1 - wire)

    def layer(
        self, layer: Layer, source: int, by_sample: dict[int, int], fixed: dict[int, int], span: int
    ) -> list[tuple[int, ...]]:
        """Rows of one layer on the first `span` wires."""
        if not layer.diagonal:
            return [self._rotation(op, source, by_sample, fixed) for op in layer.ops]
        rows: list[tuple[int, ...]] = []
        first_term = len(self.terms)
        for op in layer.ops:
            if op.slot in by_sample:
                mask = sum(self.stride(w) for w in op.wires)
                rows.append((kernel.SAMPLE_PHASE, 0, by_sample[op.slot], mask, source, 0))
            elif op.slot is not None:
                mask = sum(1 << (span - 1 - w) for w in op.wires)
                self.terms.append((fixed[op.slot], mask))
        n_angles = len(self.terms) - first_term
        for op in layer.ops:
            if op.name == "CZ":
                self.terms.append((-1, sum(1 << (span - 1 - w) for w in op.wires)))
        if len(self.terms) > first_term:
            shift, has_angles = self.n_wires - span, int(n_angles > 0)
            rows.append((kernel.PHASE, shift, first_term, len(self.terms), source, has_angles))
        return rows

    def _rotation(
        self, op: Op, source: int, by_sample: dict[int, int], fixed: dict[int, int]
    ) -> tuple[int, ...]:
        stride = self.stride(op.wires[0])
        if op.slot is None:
            return (kernel.HADAMARD, stride, 0, 0, source, 0)
        sampled, constant = ROTATIONS[op.name]
        if op.slot in by_sample:
            return (sampled, stride, by_sample[op.slot], 0, source, 0)
        return (constant, stride, fixed[op.slot], 0, source, 0)


def _numbered(slots: IntArray) -> dict[int, int]:
    return {int(slot): i for i, slot in enumerate(slots)}


def build_program(group: Group) -> Program | None:
    """The group's program; None if its block depends on the sample (then torch runs it).

    Example:
        >>> from qmtl import HeadCircuit, Task
        >>> from qmtl.simulators.plan import build_plan
        >>> circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(5)])
        >>> program = build_program(build_plan(circuit, list(circuit.registers)).groups[0])
        >>> program.n_starts, program.ops.shape
        (6, (17, 6))
    """
    if len(group.block_slots.feature_slots):
        return None
    n, tables = group.n_wires, _Tables(group.n_wires)
    by_sample = _numbered(group.encoding_slots.feature_slots)
    fixed = _numbered(group.encoding_slots.weight_slots)
    own = _numbered(group.block_slots.weight_slots)
    starts = np.zeros((n, 2), np.int64)
    layers = list(group.encoding)
    kept: tuple[Op, ...] = ()
    if layers and not layers[0].diagonal:
        kept = _starts(starts, layers.pop(0), by_sample, fixed)
    ops = _start_operations(starts)
    n_starts = len(ops)
    for layer in (Layer(False, kept), *layers):
        ops += tables.layer(layer, 0, by_sample, fixed, n)
    n_encoding = len(ops)
    for layer in group.block:
        ops += tables.layer(layer, 1, {}, own, group.n_inner)
    return Program(
        group=group,
        starts=starts,
        ops=np.array(ops, np.int64).reshape(-1, 6),
        n_starts=n_starts,
        n_shared=len(ops) if group.n_cones == len(group.tasks) else n_encoding,
        terms=np.array(tables.terms, np.int64).reshape(-1, 2),
    )


def _start_operations(starts: IntArray) -> list[tuple[int, ...]]:
    """The rotations among the first states, as operations."""
    kinds = {kernel.START_SAMPLE: kernel.RY, kernel.START_FIXED: kernel.RY_FIXED}
    return [
        (kinds[int(kind)], 1 << (len(starts) - 1 - wire), int(slot), 0, 0, 0)
        for wire, (kind, slot) in enumerate(starts)
        if int(kind) in kinds
    ]


def _starts(
    starts: IntArray, layer: Layer, by_sample: dict[int, int], fixed: dict[int, int]
) -> tuple[Op, ...]:
    """Fill in the wires whose first layer is one RY or Hadamard; the gates of the others."""
    by_wire: dict[int, list[Op]] = {}
    for op in layer.ops:
        by_wire.setdefault(op.wires[0], []).append(op)
    kept: list[Op] = []
    for wire, ops in by_wire.items():
        if len(ops) > 1 or ops[0].name not in ("RY", "Hadamard"):
            kept += ops
        elif ops[0].slot is None:
            starts[wire, 0] = kernel.START_HADAMARD
        elif ops[0].slot in by_sample:
            starts[wire] = kernel.START_SAMPLE, by_sample[ops[0].slot]
        else:
            starts[wire] = kernel.START_FIXED, fixed[ops[0].slot]
    return tuple(kept)
