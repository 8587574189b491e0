"""Light cones with plain torch: complex states of the cones, batched over tasks × samples.

Written by hand for this circuit: the first layer's product state directly, one matrix
per wire and layer (RZ · RY, Rot), one vector of signs per layer of CZs; autograd does the rest.
"""

import torch

from peers.problem import cone
from peers.torch_step import torch_step


def matrices(gate, indices, features, weights):
    """A gate's matrices, shape (tasks, samples or 1, 2, 2)."""
    if gate.source == "features":
        angles = features.T[indices[:, 0]][..., None]
    else:
        angles = weights[indices][:, None]
    names = ("RZ", "RY", "RZ") if gate.name == "Rot" else (gate.name,)
    result = None
    for name, angle in zip(names, angles.unbind(-1), strict=True):
        matrix = (rz if name == "RZ" else ry)(angle / 2)
        result = matrix if result is None else matrix @ result
    return result


def ry(half):
    cos, sin = half.cos(), half.sin()
    real = torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))
    return torch.complex(real, torch.zeros_like(real))


def rz(half):
    return torch.diag_embed(torch.polar(torch.ones_like(half)[..., None], half[..., None] * SIGNS))


SIGNS = torch.tensor([-1.0, 1.0])


def layers_of(narrow):
    """The cone's gates as alternating lists: one-wire gates by wire, and CZs as a sign vector."""
    states = torch.arange(1 << narrow.n_wires)
    bit = [states >> (narrow.n_wires - 1 - wire) & 1 for wire in range(narrow.n_wires)]
    layers = []
    for gate in narrow.gates:
        kind = "flips" if gate.name == "CZ" else "turns"
        if not layers or layers[-1][0] != kind:
            layers.append((kind, []))
        layers[-1][1].append(gate)
    for i, (kind, gates) in enumerate(layers):
        if kind == "flips":
            odd = sum(bit[a] & bit[b] for a, b in (gate.wires for gate in gates)) & 1
            layers[i] = (kind, 1 - 2 * odd)
        else:
            turns = [(gate, torch.from_numpy(gate.indices)) for gate in gates]
            layers[i] = (kind, turns)
    return layers, 1 - 2 * bit[narrow.read]


def by_wire(turns, features, weights):
    """The product of each wire's gates in a layer."""
    found = {}
    for gate, indices in turns:
        matrix = matrices(gate, indices, features, weights)
        wire = gate.wires[0]
        found[wire] = matrix @ found[wire] if wire in found else matrix
    return found


def build(problem, dtype):
    narrow = cone(problem.n_tasks)
    layers, signs = layers_of(narrow)
    kind = getattr(torch, dtype)
    layers = [(name, part.to(kind) if name == "flips" else part) for name, part in layers]
    signs = signs.to(kind)
    n = narrow.n_wires

    def forward(features, weights):
        state = torch.ones(1, 1, 1, dtype=getattr(torch, f"complex{2 * kind.itemsize * 8}"))
        for wire, matrix in sorted(by_wire(layers[0][1], features, weights).items()):
            assert state.shape[-1] == 1 << wire
            state = (state[..., None] * matrix[..., None, :, 0]).flatten(-2)
        for name, part in layers[1:]:
            if name == "flips":
                state = state * part
                continue
            for wire, matrix in by_wire(part, features, weights).items():
                split = state.unflatten(-1, (1 << wire, 2, 1 << (n - 1 - wire)))
                state = (matrix[..., None, :, :] @ split).flatten(-3)
        probabilities = state.real.square() + state.imag.square()
        return (probabilities @ signs).T

    return torch_step(problem, dtype, forward)
