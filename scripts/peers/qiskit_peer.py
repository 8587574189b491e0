"""Qiskit Machine Learning: EstimatorQNN with the reverse-mode gradient of qiskit-algorithms."""

import numpy as np
from qiskit.circuit import ParameterVector, QuantumCircuit
from qiskit.quantum_info import SparsePauliOp
from qiskit_algorithms.gradients import ReverseEstimatorGradient
from qiskit_machine_learning.neural_networks import EstimatorQNN

from peers.problem import Result, all_gates, without_rot


def network(n_tasks, n_weights):
    n = 2 * n_tasks
    features, weights = ParameterVector("x", n), ParameterVector("w", n_weights)
    sources = {"features": features, "weights": weights}
    circuit = QuantumCircuit(n)
    for gate in without_rot(all_gates(n_tasks)):
        if gate.name == "CZ":
            circuit.cz(*gate.wires)
        else:
            angle = sources[gate.source][gate.indices[0]]
            getattr(circuit, gate.name.lower())(angle, gate.wires[0])
    read = [SparsePauliOp.from_sparse_list([("Z", [2 * t], 1)], n) for t in range(n_tasks)]
    return EstimatorQNN(
        circuit=circuit,
        observables=read,
        input_params=list(features),
        weight_params=list(weights),
        gradient=ReverseEstimatorGradient(),
        input_gradients=True,
    )


def build(problem, dtype):
    layer = network(problem.n_tasks, len(problem.weights))

    def step():
        outputs = layer.forward(problem.features, problem.weights)
        by_feature, by_weight = layer.backward(problem.features, problem.weights)
        slope = 2 * (outputs - problem.targets) / outputs.size
        return Result(
            outputs,
            np.einsum("bt,btf->bf", slope, by_feature),
            np.einsum("bt,btw->w", slope, by_weight),
        )

    return step
