"""What a step on the matrix-product path takes: its memory, its operations, its chunks."""

from collections.abc import Sequence
from typing import NamedTuple

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.simulators.chain_plan import ChainPlan, chain_plan

__all__ = ["ChainCost", "chain_cost", "samples_at_once"]

# Samples run in chunks whose intermediate results take about so many bytes; with more than one
# chunk, each is computed again in the backward pass.
CHUNK_BYTES = 2**29


class ChainCost(NamedTuple):
    """What a training step on the matrix-product path takes, estimated.

    Attributes:
        bytes: peak memory of forward and backward.
        operations: floating-point operations of forward and backward.
        bond: dimension of the matrix product state's largest bond; on a ring, with the bond
            that closes it.
    """

    bytes: int
    operations: int
    bond: int


def chain_cost(
    circuit: HeadCircuit,
    batch: int,
    itemsize: int,
    tasks: Sequence[str] | None = None,
    limit: int = CHUNK_BYTES,
) -> ChainCost:
    """What a training step takes, without running one.

    Args:
        circuit: a circuit to which `chain_applies`.
        batch: number of samples.
        itemsize: bytes of a real number, 4 or 8.
        tasks: those that are asked for; None for all.
        limit: bytes that a step may take.

    Example:
        >>> from qmtl import AngleEncoding, Task
        >>> tasks = [Task.binary(f"t{i}") for i in range(1000)]
        >>> circuit = HeadCircuit(tasks, AngleEncoding(entangler="cnot_line"))
        >>> chain_cost(circuit, batch=8, itemsize=4).bond
        4
    """
    plan = chain_plan(circuit, tuple(circuit.registers) if tasks is None else tuple(tasks))
    numbers, products = _sizes(plan)
    chunk = min(batch, samples_at_once(plan, itemsize, limit))
    return ChainCost(
        bytes=(chunk * numbers + _fixed(plan)) * itemsize,
        operations=6 * batch * products,
        bond=2 ** (plan.bonds + plan.closing),
    )


def samples_at_once(plan: ChainPlan, itemsize: int, limit: int) -> int:
    """How many samples make a chunk that takes no more than `limit` bytes; at least one."""
    room = min(CHUNK_BYTES, limit - _fixed(plan) * itemsize)
    return max(1, room // (_sizes(plan)[0] * itemsize))


def _fixed(plan: ChainPlan) -> int:
    """Numbers that a step takes whatever the samples."""
    return 3 * sum(p.readout.size * len(g.tasks) for g in plan.groups for p in g.parts)


def _sizes(plan: ChainPlan) -> tuple[int, int]:
    """Numbers that a step keeps, and multiplications of its forward pass, per sample."""
    width, rows = plan.width, 4**plan.closing
    square = width**2
    numbers = products = 0
    for group in plan.groups:
        sites, n = len(group.sites), len(group.tasks)
        # Sites are made, then their transfer matrices; their products over the tree; gradients.
        numbers += n * (sites * 3 * square + 4 * square + 4 * rows * width)
        products += n * (sites * 4 * square + sites * width * square + 2 * rows * square)
        for part in group.parts:
            left, strings = 4 ** (len(part.wires) // 2), 4 ** len(part.wires)
            # On a ring the sites of the right half are written out, on a line never.
            right = 5 * square if rows > 1 else rows * width
            numbers += n * (7 * left * rows * width + strings // left * right + 2 * strings)
            products += n * (len(group.sites) * left * rows * square + strings * rows * width)
            products += n * strings * len(part.outputs)
    return numbers, products
