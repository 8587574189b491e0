"""Heads whose blocks follow from shared parameters: mixtures of blocks, or a small network."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from qmtl.circuit import HeadCircuit
from qmtl.errors import check_integer
from qmtl.heads._generated import BlockShape, GeneratedBlocks, block_shapes
from qmtl.heads._initial import block_weights, circuit_weights, linear_weights, starting_angles
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


AXES = ("RX", "RY", "RZ", "IsingZZ")
# Frequencies of layer, wire and axis. With three, features repeat after 16 layers or wires.
FREQUENCIES = 3
N_FEATURES = 3 * 2 * FREQUENCIES
TOKEN_STD = 1.0
# A small factor of the output layer's initial weights, so that blocks start near `initial`.
OUTPUT_SCALE = 0.2


def place_features(gates: BlockShape, n_weights: int) -> Tensor:
    """Return Fourier features of each weight's place in a block, (weights, 18), float64.

    A place consists of three numbers: the axis of the weight's gate, the gate's first wire, and the
    layer (the number of earlier weights with the same axis and wire). Features are sin(ωx) and
    cos(ωx) of these numbers x, with ω = π/2, π/4 and π/8.

    Example:
        >>> from qmtl import RotationAnsatz
        >>> place_features(tuple(RotationAnsatz().gates(2, (0,))), 6).shape
        torch.Size([6, 18])
    """
    places: dict[int, tuple[int, int, int]] = {}
    seen: dict[tuple[int, int], int] = {}
    for gate in gates:
        weight = None if gate.angle is None else gate.angle.weight
        if weight is None or weight in places:
            continue
        axis, wire = AXES.index(gate.name), gate.wires[0]
        layer = seen.get((axis, wire), 0)
        seen[axis, wire] = layer + 1
        places[weight] = (layer, wire, axis)
    numbers = torch.tensor([places[i] for i in range(n_weights)], dtype=torch.float64).view(-1, 3)
    frequencies = math.pi / 2 ** torch.arange(1, FREQUENCIES + 1, dtype=torch.float64)
    angles = (numbers[:, :, None] * frequencies).flatten(1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class HyperBlocks(GeneratedBlocks):
    """Block weights from a network with one hidden layer.

    Args:
        circuit: circuit of the blocks.
        token: length of a task's token.
        hidden: number of hidden units.
        seed: seed of the initial values.
        initial: initial weights of the blocks, see `qmtl.heads.block_weights`.

    Attributes:
        network: all weights of the network, one flat parameter.
    """

    def __init__(
        self, circuit: HeadCircuit, token: int, hidden: int, seed: int, initial: str
    ) -> None:
        tokens = {
            name: circuit_weights(seed, f"token of task {name}", token, TOKEN_STD)
            for name in circuit.registers
        }
        super().__init__(circuit, tokens)
        layers = [
            *linear_weights(seed, "hidden layer", N_FEATURES + token, hidden),
            *(OUTPUT_SCALE * part for part in linear_weights(seed, "output layer", hidden, 1)),
        ]
        self._layers = [layer.shape for layer in layers]
        joined = torch.cat([layer.flatten() for layer in layers])
        # DistributedDataParallel waits for the gradient of every trainable parameter.
        self.network = nn.Parameter(joined, requires_grad=any(self.n_weights))
        # Plain tensors, because conversion of a model to float32 and back would round buffers.
        self._features = [
            place_features(gates, n) for gates, n in zip(self.shapes, self.n_weights, strict=True)
        ]
        self._start = [starting_angles(circuit, names[0], initial) for names in self.members]

    def made(self, shape: int, vectors: Tensor) -> Tensor:
        parts = self.network.split([size.numel() for size in self._layers])
        weight, bias, out, offset = (
            part.view(size) for part, size in zip(parts, self._layers, strict=True)
        )
        of_place, of_token = weight.split([N_FEATURES, vectors.shape[1]], dim=1)
        features, start = self._features[shape].to(vectors), self._start[shape].to(vectors)
        hidden = torch.tanh((features @ of_place.T + bias) + (vectors @ of_token.T)[:, None])
        weights: Tensor = start + (hidden @ out[0] + offset)
        return weights


class HyperHead(QuantumHead):
    r"""A quantum head whose block weights are the outputs of one small network.

    The weight at place i of task t's block is :math:`θ_{ti} = θ^0_i + u·\tanh(W γ_i + V e_t + b) +
    c`. Here γ_i are Fourier features of the place (layer, wire, axis), see `place_features`; e_t is
    the task's token, a vector of d numbers; W, V, b, u and c are the network of all tasks. θ⁰ is
    not trained: with ``initial="equator"`` it is π/2 for the last RY on each wire that is read,
    otherwise 0. In all other respects, also for simulators, hardware and training, the head is a
    `QuantumHead`.

    With h hidden units the head has encoding + h (d + 20) + 1 + T (d + 1) parameters. A new task
    adds d + 1 parameters and its register's encoding.

    `freeze` keeps a task's token and scale, but its block still changes with the shared network.

    Args:
        circuit: circuit as for `QuantumHead`.
        simulator: simulator as for `QuantumHead`.
        token: d, the length of a task's token.
        hidden: h, the number of hidden units.
        initial: ``"equator"`` or ``"normal"``, for θ⁰.
        **options: further arguments of `QuantumHead`.

    Raises:
        InvalidInputError: for a token or hidden layer below 1.

    Example:
        >>> from qmtl import Task
        >>> circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(16)])
        >>> head = HyperHead(circuit, token=2, seed=0)
        >>> head.count_parameters(), head.weights()["t3"].shape
        (257, torch.Size([6]))

    References:
        Universal hypernetworks: arXiv:2604.02215.
    """

    settings = ("frozen", "token", "hidden", "initial")

    def __init__(
        self,
        circuit: HeadCircuit,
        simulator: str | Simulator = "lightcone",
        *,
        token: int = 2,
        hidden: int = 8,
        initial: str = "equator",
        **options: Any,
    ) -> None:
        token = check_integer("token", token)
        hidden = check_integer("hidden", hidden)
        self.token, self.hidden, self.initial = token, hidden, initial
        super().__init__(circuit, simulator, initial=initial, **options)

    def _make_blocks(self, seed: int, initial: str) -> HyperBlocks:
        return HyperBlocks(self.circuit, self.token, self.hidden, seed, initial)
