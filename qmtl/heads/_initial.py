"""Initial parameters: every named part draws from its own generator.

So the weights of a task depend only on the seed and the task's name. Adding, removing or reordering
tasks does not change the other tasks' weights. Generators run on the CPU, so that weights are equal
on every device; torch's default device (also ``meta``) then gets the weights.
"""

import math
import zlib

import torch
from torch import Tensor

from qmtl._calls import as_seed
from qmtl.circuit import Ansatz, HeadCircuit, elementary
from qmtl.errors import unknown_name

INITIAL_STD = {"encoding": 0.1, "block": 0.5}
"""Standard deviations of the initial weights of a quantum head, in radians, by part."""
STARTS = ("normal", "equator", "uniform")
EQUATOR_STD = 0.1


def drawn_seed(seed: int | None) -> int:
    """Return the seed itself, or for None a seed from torch's global generator.

    Raises:
        InvalidInputError: if the seed is neither an integer nor None.
    """
    return int(torch.randint(2**31, (), device="cpu")) if seed is None else as_seed(seed)


def _generator(seed: int, name: str) -> torch.Generator:
    # crc32 is the same on every machine and in every process; hash() is not.
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))


def circuit_weights(
    seed: int, name: str, size: int, std: float = INITIAL_STD["encoding"]
) -> Tensor:
    """Draw flat weights from N(0, std²) for the part with this name."""
    drawn = torch.randn(size, generator=_generator(seed, name), device="cpu") * std
    return drawn.to(torch.get_default_device())


def block_weights(
    seed: int,
    name: str,
    circuit: HeadCircuit,
    task: str,
    start: str,
    known: dict[tuple[int, ...], Tensor] | None = None,
) -> Tensor:
    """Draw a task block's initial weights.

    Args:
        seed: seed of the draw, combined with `name`.
        name: name of the part to draw.
        circuit: circuit of the block.
        task: task of the block.
        start: ``"normal"``: N(0, 0.5²). ``"uniform"``: U(0, 2π). ``"equator"``: N(0, 0.1²), but
            N(π/2, 0.1²) for the last RY on each wire that is read. Near features of zero the
            default encoding leaves all wires at a pole, where ⟨Z⟩ has zero slope. A quarter turn
            before the measurement makes an output, to first order, linear in the features of its
            wire, and makes class probabilities equal. A block without such an RY on every wire that
            is read, such as a block that ends in CNOTs, gets the uniform start.
        known: cache of `starting_angles`, which equal blocks share.

    Raises:
        InvalidInputError: for another `start`.

    Example:
        >>> from qmtl.tasks import Task
        >>> circuit = HeadCircuit([Task.binary("cola")])
        >>> weights = block_weights(0, "task cola", circuit, "cola", "equator")
        >>> weights.sub(torch.tensor([0, 0, 0, 0, 0, math.pi / 2])).abs().max() < 0.4
        tensor(True)

    References:
        Starting near the identity: Grant et al., arXiv:1903.05076.
    """
    angles = starting_angles(circuit, task, start, known)
    if start == "uniform" or (start == "equator" and not angles.any()):
        drawn = torch.empty(len(angles), device="cpu")
        drawn.uniform_(0, 2 * math.pi, generator=_generator(seed, name))
        return drawn.to(torch.get_default_device())
    std = INITIAL_STD["block"] if start == "normal" else EQUATOR_STD
    drawn = circuit_weights(seed, name, len(angles), std)
    return angles.to(drawn) + drawn


def starting_angles(
    circuit: HeadCircuit, task: str, start: str, known: dict[tuple[int, ...], Tensor] | None = None
) -> Tensor:
    """Return the means of a block's initial weights (float64, on the CPU); see `block_weights`."""
    if start not in STARTS:
        raise unknown_name("initial", start, STARTS)
    ansatz, register = circuit.ansatz(task), circuit.register(task)
    n_wires = len(register.wires)
    read = tuple(register.readout.read_wires(n_wires))
    # A user's blocks may not be hashable.
    key, known = (id(ansatz), n_wires, *read), {} if known is None else known
    if key not in known:
        (size,) = circuit.weight_sizes[task]
        known[key] = torch.zeros(size, dtype=torch.float64, device="cpu")
        if start == "equator":
            known[key][_last_turns(ansatz, n_wires, read)] += math.pi / 2
    return known[key]


def all_blocks(seed: int, circuit: HeadCircuit, start: str) -> dict[str, Tensor]:
    """Draw the `block_weights` of all tasks, by task name."""
    known: dict[tuple[int, ...], Tensor] = {}
    return {
        name: block_weights(seed, f"task {name}", circuit, name, start, known)
        for name in circuit.registers
    }


def _last_turns(ansatz: Ansatz, n_wires: int, read: tuple[int, ...]) -> list[int]:
    """Find, for each read wire, the weight of an RY that only diagonal gates follow.

    The list is empty if a read wire has no such RY.
    """
    last: dict[int, int] = {}
    for gate in elementary(ansatz.gates(n_wires, read)):
        angle = gate.angle
        plain = angle is not None and not angle.features and angle.constant == 1
        if gate.name == "RY" and plain and angle is not None and angle.weight is not None:
            last[gate.wires[0]] = angle.weight
        elif not gate.is_diagonal:
            for wire in gate.wires:
                last.pop(wire, None)
    return [last[wire] for wire in read] if all(wire in last for wire in read) else []


def linear_weights(
    seed: int, name: str, in_features: int, out_features: int
) -> tuple[Tensor, Tensor]:
    """Draw weight and bias of a linear layer from U(±1/√in_features), as torch does."""
    generator, bound = _generator(seed, name), 1 / math.sqrt(in_features)
    weight = torch.empty(out_features, in_features, device="cpu")
    bias = torch.empty(out_features, device="cpu")
    for drawn in (weight, bias):
        drawn.uniform_(-bound, bound, generator=generator)
    device = torch.get_default_device()
    return weight.to(device), bias.to(device)
