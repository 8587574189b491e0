"""Initial parameters: every named part draws from a generator of its own.

So the weights of one task depend on the seed and its name only: adding, leaving out or reordering
tasks leaves the others' weights alone.
"""

import math
import zlib

import numpy as np
import torch
from torch import nn

from qmtl.circuit.head_circuit import HeadCircuit
from qmtl.errors import InvalidInputError, unknown_name

__all__ = [
    "INITIAL_STD",
    "STARTS",
    "block_weights",
    "circuit_weights",
    "drawn_seed",
    "linear_layer",
]

INITIAL_STD = {"encoding": 0.1, "block": 0.5}
STARTS = ("normal", "equator")
EQUATOR_STD = 0.1


def drawn_seed(seed: int | None) -> int:
    """The seed, or for None one that torch's global generator gives.

    Raises:
        InvalidInputError: if it is neither an integer nor None.

    Example:
        >>> drawn_seed(3)
        3
    """
    if seed is None:
        return int(torch.randint(2**31, (), device="cpu"))
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise InvalidInputError(f"seed must be an integer or None, got {seed!r}")
    return int(seed)


def _generator(seed: int, name: str) -> torch.Generator:
    # crc32 is the same on every machine and in every process; hash() is not.
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))


def circuit_weights(seed: int, name: str, size: int, std: float) -> nn.Parameter:
    """Flat weights from N(0, std²) of the part of that name.

    Example:
        >>> circuit_weights(0, "task cola", 6, INITIAL_STD["block"]).shape
        torch.Size([6])
    """
    weights = torch.randn(size, generator=_generator(seed, name)) * std
    # DistributedDataParallel waits for the gradient of every trainable parameter, empty or not.
    return nn.Parameter(weights, requires_grad=size > 0)


def block_weights(
    seed: int, name: str, circuit: HeadCircuit, task: str, start: str
) -> nn.Parameter:
    """A task block's initial weights.

    Args:
        seed: of the draw, with `name`.
        name: of the part that is drawn.
        circuit: the block's.
        task: whose block.
        start: ``"normal"``: N(0, 0.5²). ``"equator"``: N(0, 0.1²), but N(π/2, 0.1²) for the last
            RY on each wire that is read. Around features of zero the default encoding leaves all
            wires at a pole, where ⟨Z⟩ has no slope; a quarter turn before the measurement makes an
            output, to first order, linear in the wire's own features, and class probabilities
            equal.

    Raises:
        InvalidInputError: for another start.

    Example:
        >>> from qmtl.tasks import Task
        >>> circuit = HeadCircuit([Task.binary("cola")])
        >>> weights = block_weights(0, "task cola", circuit, "cola", "equator")
        >>> weights.detach().sub(torch.tensor([0, 0, 0, 0, 0, math.pi / 2])).abs().max() < 0.4
        tensor(True)

    References:
        Starting near the identity: Grant et al., arXiv:1903.05076.
    """
    if start not in STARTS:
        raise unknown_name("initial", start, STARTS)
    size = circuit.n_weights(task)
    if start == "normal":
        return circuit_weights(seed, name, size, INITIAL_STD["block"])
    weights = circuit_weights(seed, name, size, EQUATOR_STD)
    with torch.no_grad():
        weights[_last_turns(circuit, task)] += math.pi / 2
    return weights


def _last_turns(circuit: HeadCircuit, task: str) -> list[int]:
    """Weights of the last RY on each read wire, where a plain weight turns it."""
    register = circuit.register(task)
    n_wires = len(register.wires)
    read = register.readout.read_wires(n_wires)
    last: dict[int, int] = {}
    for gate in circuit.ansatz(task).gates(n_wires, read):
        angle = gate.angle
        if gate.name != "RY" or angle is None or angle.weight is None:
            continue
        if not angle.features and angle.constant == 1:
            last[gate.wires[0]] = angle.weight
    return [last[wire] for wire in read if wire in last]


def linear_layer(
    seed: int, name: str, in_features: int, out_features: int, *, bias: bool = True
) -> nn.Linear:
    """A linear layer with torch's usual initial weights, U(±1/√in_features), drawn for that name.

    Example:
        >>> same = [linear_layer(0, "task cola", 4, 1).weight for _ in range(2)]
        >>> torch.equal(*same)
        True
    """
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, in_features, out_features, bias=bias)
    generator = _generator(seed, name)
    bound = 1 / math.sqrt(in_features)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer
