"""torchquantum: batched state vectors in single precision, autograd."""

import torchquantum as tq
import torchquantum.functional as tqf

from peers.problem import all_gates, without_rot
from peers.torch_step import torch_step


def build(problem, dtype):
    gates = without_rot(all_gates(problem.n_tasks))
    apply = {"RY": tqf.ry, "RZ": tqf.rz}
    read = [2 * task for task in range(problem.n_tasks)]

    def forward(features, weights):
        device = tq.QuantumDevice(n_wires=problem.n_wires, bsz=problem.batch)
        for gate in gates:
            if gate.name == "CZ":
                tqf.cz(device, wires=list(gate.wires))
            elif gate.source == "features":
                apply[gate.name](device, wires=gate.wires[0], params=features[:, gate.indices])
            else:
                apply[gate.name](device, wires=gate.wires[0], params=weights[gate.indices[0]][None])
        return tq.expval(device, read, [tq.PauliZ()] * len(read))

    return torch_step(problem, dtype, forward)
