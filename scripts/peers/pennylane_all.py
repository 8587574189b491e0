"""PennyLane on all wires: default.qubit (broadcast, backprop), lightning.qubit (adjoint), maestro.

Maestro's matrix-product states have no gradient but parameter shift.
"""

import numpy as np
import pennylane as qml
import torch

from peers.problem import all_gates
from peers.torch_step import torch_step


def _forward(n_tasks, device, diff_method, *, expand=False):
    gates = all_gates(n_tasks)

    @qml.qnode(device, interface="torch", diff_method=diff_method)
    def circuit(features, weights):
        for gate in gates:
            if gate.name == "CZ":
                qml.CZ(gate.wires)
            elif gate.source == "features":
                getattr(qml, gate.name)(features[:, gate.indices[0]], wires=gate.wires)
            else:
                getattr(qml, gate.name)(*weights[list(gate.indices)], wires=gate.wires)
        return [qml.expval(qml.Z(2 * task)) for task in range(n_tasks)]

    if expand:
        circuit = qml.transforms.broadcast_expand(circuit)

    def forward(features, weights):
        return torch.stack(tuple(circuit(features, weights)), dim=1)

    return forward


def build(problem, dtype):
    device = qml.device("default.qubit", wires=problem.n_wires)
    return torch_step(problem, dtype, _forward(problem.n_tasks, device, "backprop"))


def build_lightning(problem, dtype):
    kind = np.complex64 if dtype == "float32" else np.complex128
    device = qml.device("lightning.qubit", wires=problem.n_wires, c_dtype=kind)
    plain = _forward(problem.n_tasks, device, "adjoint")

    def forward(features, weights):
        # PennyLane converts the device's numbers to torch's default type, which has only half the
        # digits of double precision.
        before = torch.get_default_dtype()
        torch.set_default_dtype(features.dtype)
        try:
            return plain(features, weights)
        finally:
            torch.set_default_dtype(before)

    return torch_step(problem, dtype, forward)


def build_maestro(problem, dtype):
    options = {"simulation_type": "MatrixProductState"}
    device = qml.device("maestro.qubit", wires=problem.n_wires, **options)
    # PennyLane does not shift the parameters of a batch.
    return torch_step(
        problem, dtype, _forward(problem.n_tasks, device, "parameter-shift", expand=True)
    )
