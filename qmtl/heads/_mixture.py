"""MixtureHead: block weights as mixtures of a few blocks that all tasks share."""

from typing import Any

import torch
from torch import Tensor, nn

from qmtl.circuit import HeadCircuit
from qmtl.errors import check_integer
from qmtl.heads._generated import GeneratedBlocks, block_shapes
from qmtl.heads._initial import block_weights, circuit_weights
from qmtl.heads._quantum import QuantumHead
from qmtl.simulators import Simulator

# Standard deviation of the initial coefficients, so that tasks start differently.
COEFFICIENT_STD = 0.5


class MixtureBlocks(GeneratedBlocks):
    """Block weights Σ_s a_ts B_s.

    Args:
        circuit: circuit of the blocks.
        size: S, the number of blocks in the inventory of each shape.
        seed: seed of the initial values.
        initial: initial weights of the inventories' blocks, see `qmtl.heads.block_weights`.

    Attributes:
        inventory: the blocks B of all shapes, one flat parameter.
    """

    def __init__(self, circuit: HeadCircuit, size: int, seed: int, initial: str) -> None:
        vectors = {
            name: circuit_weights(seed, f"mixture of task {name}", size, COEFFICIENT_STD)
            for name in circuit.registers
        }
        super().__init__(circuit, vectors)
        self.size = size
        blocks = [
            # The name contains the gates, so that other shapes do not change these weights.
            block_weights(seed, f"block {s} of {[*map(str, gates)]}", circuit, names[0], initial)
            for gates, names in block_shapes(circuit).items()
            for s in range(size)
        ]
        joined = torch.cat(blocks)
        # DistributedDataParallel waits for the gradient of every trainable parameter, empty or not.
        self.inventory = nn.Parameter(joined, requires_grad=len(joined) > 0)

    def made(self, shape: int, vectors: Tensor) -> Tensor:
        parts = self.inventory.split([self.size * n for n in self.n_weights])
        weights: Tensor = coefficients(vectors) @ parts[shape].view(self.size, -1)
        return weights


def coefficients(vectors: Tensor) -> Tensor:
    """Return coefficients that sum to one in each row, (tasks, S)."""
    return vectors - vectors.mean(dim=1, keepdim=True) + 1 / vectors.shape[1]


class MixtureHead(QuantumHead):
    r"""A quantum head whose tasks mix their blocks from an inventory that they share.

    Task t's block weights are :math:`Σ_s a_{ts} B_s`. All tasks whose blocks have the same gates
    share S blocks :math:`B_s`. Each task has S coefficients: a vector v, shifted so that
    :math:`Σ_s a_s = 1`. In all other respects, also for simulators, hardware and training, the head
    is a `QuantumHead`. It has encoding + S · (weights of a block, for each shape) + T · (S + 1)
    parameters. A new task adds S + 1 parameters and its register's encoding.

    Unlike a softmax's, the coefficients may be negative or large. So a mixture may leave the convex
    hull of the blocks, and its gradient does not vanish. The coefficients sum to one, so a rotation
    that all blocks share, such as the initial quarter turn or a whole period, is part of every
    mixture. Angles are mixed as numbers: a period added to a single block gives another head.

    `freeze` keeps a task's vector and scale, but its block still changes with the shared inventory.

    Args:
        circuit: circuit as for `QuantumHead`.
        simulator: simulator as for `QuantumHead`.
        inventory: S, the number of blocks for each shape of block. With 1, all tasks of a shape
            share one block.
        **options: further arguments of `QuantumHead`; ``initial`` sets the initial blocks of the
            inventory.

    Raises:
        InvalidInputError: for an inventory below 1.

    Example:
        >>> from qmtl import Task
        >>> circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(16)])
        >>> head = MixtureHead(circuit, inventory=2, seed=0)
        >>> head.count_parameters(), head.weights()["t3"].shape
        (92, torch.Size([6]))

    References:
        Multi-head routing of adapters (MHR): Caccia et al., arXiv:2211.03831.
    """

    settings = ("frozen", "inventory")

    def __init__(
        self,
        circuit: HeadCircuit,
        simulator: str | Simulator = "lightcone",
        *,
        inventory: int = 2,
        **options: Any,
    ) -> None:
        inventory = check_integer("inventory", inventory)
        self.inventory = inventory
        super().__init__(circuit, simulator, **options)

    def _make_blocks(self, seed: int, initial: str) -> MixtureBlocks:
        return MixtureBlocks(self.circuit, self.inventory, seed, initial)
