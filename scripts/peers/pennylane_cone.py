"""Light cones with PennyLane: default.qubit on one cone, broadcast over tasks × samples."""

import pennylane as qml
import torch

from peers.problem import cone
from peers.torch_step import torch_step


def build(problem, dtype):
    narrow = cone(problem.n_tasks)
    device = qml.device("default.qubit", wires=narrow.n_wires)
    where = [None if g.indices is None else torch.from_numpy(g.indices.T) for g in narrow.gates]

    @qml.qnode(device, interface="torch", diff_method="backprop")
    def circuit(columns, weights):
        for gate, indices in zip(narrow.gates, where, strict=True):
            if indices is None:
                qml.CZ(gate.wires)
            elif gate.source == "features":
                getattr(qml, gate.name)(columns[indices[0]].flatten(), wires=gate.wires)
            else:
                angles = weights[indices].repeat_interleave(problem.batch, dim=1)
                getattr(qml, gate.name)(*angles, wires=gate.wires)
        return qml.expval(qml.Z(narrow.read))

    def forward(features, weights):
        return circuit(features.T, weights).view(problem.n_tasks, problem.batch).T

    return torch_step(problem, dtype, forward)
