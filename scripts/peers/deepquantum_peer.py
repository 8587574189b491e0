"""DeepQuantum: state vectors, vmap over the samples, autograd."""

import deepquantum as dq
import torch

from peers.problem import Result, all_gates, without_rot


def build(problem, dtype):
    kind = getattr(torch, dtype)
    circuit = dq.QubitCircuit(problem.n_wires, reupload=True)
    order = []
    for gate in without_rot(all_gates(problem.n_tasks)):
        if gate.name == "CZ":
            circuit.cz(*gate.wires)
            continue
        encode = gate.source == "features"
        getattr(circuit, gate.name.lower())(gate.wires[0], encode=encode)
        if not encode:
            order.append(gate.indices[0])
    for task in range(problem.n_tasks):
        circuit.observable(2 * task)
    circuit.to(kind)
    parameters = list(circuit.parameters())
    with torch.no_grad():
        for parameter, index in zip(parameters, order, strict=True):
            parameter.fill_(problem.weights[index])
    features = torch.tensor(problem.features, dtype=kind, requires_grad=True)
    targets = torch.tensor(problem.targets, dtype=kind)

    def step():
        features.grad = None
        circuit.zero_grad(set_to_none=True)
        circuit(features)
        outputs = circuit.expectation()
        torch.nn.functional.mse_loss(outputs, targets).backward()
        gradient = torch.zeros(len(order), dtype=kind)
        gradient[order] = torch.stack([parameter.grad.squeeze() for parameter in parameters])
        return Result(outputs.detach(), features.grad, gradient)

    return step
