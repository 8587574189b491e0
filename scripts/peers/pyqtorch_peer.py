"""PyQTorch: batched state vectors, autograd."""

import pyqtorch as pyq
import torch

from peers.problem import all_gates, without_rot
from peers.torch_step import torch_step


def build(problem, dtype):
    operations = []
    for gate in without_rot(all_gates(problem.n_tasks)):
        if gate.name == "CZ":
            operations.append(pyq.CZ(*gate.wires))
        else:
            name = f"{gate.source}{gate.indices[0]}"
            operations.append(getattr(pyq, gate.name)(gate.wires[0], name))
    kind = torch.complex64 if dtype == "float32" else torch.complex128
    circuit = pyq.QuantumCircuit(problem.n_wires, operations).to(dtype=kind)
    read = [pyq.Observable(pyq.Z(2 * task)).to(dtype=kind) for task in range(problem.n_tasks)]

    def forward(features, weights):
        values = {f"features{i}": column for i, column in enumerate(features.unbind(1))}
        values |= {f"weights{i}": weight for i, weight in enumerate(weights.unbind())}
        state = pyq.run(circuit, values=values)
        return torch.stack([observable.expectation(state).real for observable in read], dim=1)

    return torch_step(problem, dtype, forward)
