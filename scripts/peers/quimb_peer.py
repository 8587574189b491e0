"""quimb: each output's reverse light cone is contracted, sample by sample; torch differentiates.

The contraction's order is found once for each output.
"""

import cotengra
import quimb.tensor as qtn
import torch

from peers.problem import all_gates, without_rot
from peers.torch_step import torch_step


def build(problem, dtype):
    gates = without_rot(all_gates(problem.n_tasks))
    kind = torch.complex64 if dtype == "float32" else torch.complex128
    z = torch.diag(torch.tensor([1.0, -1.0])).to(kind)
    paths = cotengra.ReusableHyperOptimizer(methods=["greedy"], max_repeats=4, parallel=False)

    def outputs_of(features, weights):
        circuit = qtn.Circuit(problem.n_wires, dtype=str(kind).removeprefix("torch."))
        circuit.apply_to_arrays(lambda array: torch.as_tensor(array).to(kind))
        sources = {"features": features, "weights": weights}
        for gate in gates:
            if gate.name == "CZ":
                circuit.apply_gate_raw(
                    torch.diag(torch.tensor([1.0, 1, 1, -1])).to(kind), gate.wires
                )
            else:
                matrix = _rotation(gate.name, sources[gate.source][gate.indices[0]])
                circuit.apply_gate_raw(matrix, gate.wires)
        return torch.stack(
            [
                circuit.local_expectation(
                    z, (2 * task,), optimize=paths, simplify_sequence="R", backend="torch"
                ).real
                for task in range(problem.n_tasks)
            ]
        )

    def forward(features, weights):
        return torch.stack([outputs_of(own, weights) for own in features])

    return torch_step(problem, dtype, forward)


def _rotation(name, angle):
    cos, sin = torch.cos(angle / 2), torch.sin(angle / 2)
    zero = torch.zeros_like(cos)
    if name == "RY":
        matrix = torch.stack([cos, -sin, sin, cos])
        return torch.complex(matrix, torch.zeros_like(matrix)).reshape(2, 2)
    real, imaginary = torch.stack([cos, zero, zero, cos]), torch.stack([-sin, zero, zero, sin])
    return torch.complex(real, imaginary).reshape(2, 2)
