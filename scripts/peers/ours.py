"""qmtl's own engines, through the public API: a custom encoding and a custom task block."""

from dataclasses import dataclass

import torch

import qmtl
from peers.problem import ENCODING_LAYERS, Problem, Result, random_inputs
from peers.torch_step import torch_step
from qmtl.circuit import Angle, Gate, entangler_gates
from qmtl.simulators import LightConeSimulator


@dataclass(frozen=True)
class RingEncoding:
    """RY(x_i), RZ(w) and a ring of CZs per layer; RZ in the last layer too."""

    n_layers: int = ENCODING_LAYERS

    def n_features(self, n_wires):
        return n_wires

    def n_weights(self, n_wires):
        return self.n_layers * n_wires

    def gates(self, n_wires):
        gates = []
        for layer in range(self.n_layers):
            gates += [Gate("RY", (i,), Angle(features=(i,))) for i in range(n_wires)]
            gates += [Gate("RZ", (i,), Angle(weight=layer * n_wires + i)) for i in range(n_wires)]
            gates += entangler_gates("cz_ring", range(n_wires))
        return gates


@dataclass(frozen=True)
class RotBlock:
    """Rot on every wire, then the entangler, layer by layer."""

    n_layers: int = 2

    def n_weights(self, n_wires, read):
        return 3 * n_wires * self.n_layers

    def gates(self, n_wires, read):
        gates = []
        weight = 0
        for _ in range(self.n_layers):
            for wire in range(n_wires):
                for name in ("RZ", "RY", "RZ"):
                    gates.append(Gate(name, (wire,), Angle(weight=weight)))
                    weight += 1
            gates += entangler_gates("cz_ring", range(n_wires))
        return gates


def head_circuit(n_tasks, *, encoding_layers=ENCODING_LAYERS, wires_per_task=2):
    """The circuit of the benchmark, or the same with other sizes."""
    tasks = [qmtl.Task.binary(f"t{i}") for i in range(n_tasks)]
    return qmtl.HeadCircuit(
        tasks, RingEncoding(encoding_layers), RotBlock(), wires_per_task=wires_per_task
    )


def forward_of(n_tasks):
    """The torch engine on one vector of weights."""
    circuit = head_circuit(n_tasks)
    simulator = LightConeSimulator(engine="eager")
    return lambda features, weights: simulator.values(circuit, features, weights)


def build(problem, dtype):
    """A step with all weights in one vector."""
    kind = getattr(torch, dtype)
    circuit, simulator = head_circuit(problem.n_tasks), LightConeSimulator()
    weights = torch.tensor(problem.weights, dtype=kind, requires_grad=True)
    features = torch.tensor(problem.features, dtype=kind, requires_grad=True)
    targets = torch.tensor(problem.targets, dtype=kind)

    def step():
        features.grad = weights.grad = None
        outputs = simulator.values(circuit, features, weights)
        torch.nn.functional.mse_loss(outputs, targets).backward()
        return Result(outputs.detach(), features.grad, weights.grad)

    return step


def build_eager(problem, dtype):
    return torch_step(problem, dtype, forward_of(problem.n_tasks))


def reference(n_tasks, batch, seed):
    """The problem with its outputs and gradients by the torch engine in double precision."""
    features, weights, targets = random_inputs(n_tasks, batch, seed)
    unsolved = Problem(features, weights, targets, targets, features, weights)
    result = torch_step(unsolved, "float64", forward_of(n_tasks))()
    solved = (result.outputs, result.feature_gradient, result.weight_gradient)
    return Problem(features, weights, targets, *(tensor.numpy() for tensor in solved))
