"""Simulators that run one engine only, whatever it costs, and circuits that ask for all of it."""

from dataclasses import dataclass
from unittest.mock import patch

import torch

from qmtl import AngleEncoding, HeadCircuit, IdentityAnsatz, IQPEncoding, RealAmplitudes, Task
from qmtl.circuit import Angle, Gate, entangler_gates
from qmtl.pennylane import PennyLaneSimulator
from qmtl.simulators import LightConeSimulator, _choice, _lightcone
from qmtl.simulators._amplitudes import AmplitudeEngine, build_program
from qmtl.simulators._pauli import PauliEngine, pauli_program
from qmtl.simulators._plan import build_plan
from qmtl.simulators._torch import TorchEngine
from tests.strategies import binary_tasks

MIXED = [Task.binary("a"), Task.multiclass("b", 3), Task.regression("c"), Task.multilabel("d", 2)]


@dataclass(frozen=True)
class ScaledEncoding:
    """Features times weights, a constant, and a fixed turn."""

    def n_features(self, n_wires):
        return n_wires

    def n_weights(self, n_wires):
        return n_wires

    def gates(self, n_wires):
        for i in range(n_wires):
            yield Gate("RY", (i,), Angle(features=(i,), weight=i, constant=0.7))
            yield Gate("RX", (i,), Angle(constant=0.3))
        yield from entangler_gates("cz_ring", range(n_wires))


@dataclass(frozen=True)
class FeatureBlock:
    """A block that loads a feature of the circuit, too."""

    def n_weights(self, n_wires, read):
        return 1

    def gates(self, n_wires, read):
        return [Gate("RX", (0,), Angle(features=(0,), weight=0))]


CIRCUITS = {
    "default": HeadCircuit(binary_tasks(5)),
    "mixed": HeadCircuit(MIXED),
    "rx": HeadCircuit(MIXED, AngleEncoding(axes="XY", trainable="YX")),
    "cnot": HeadCircuit(MIXED[:2], AngleEncoding(entangler="cnot_ring"), RealAmplitudes(2)),
    "scaled": HeadCircuit(MIXED[:3], ScaledEncoding()),
    "iqp": HeadCircuit(MIXED, IQPEncoding()),
    "shared": HeadCircuit(MIXED, layout="shared", n_wires=4),
    "shared, no block": HeadCircuit(MIXED[:2], layout="shared", ansatz=IdentityAnsatz()),
    "dense": HeadCircuit(MIXED, AngleEncoding(1, entangler="all_to_all"), wires_per_task=2),
}


def paulis(group):
    program = pauli_program(group.structure, 20_000)
    return TorchEngine(group) if program is None else PauliEngine(group, program)


def amplitudes(group):
    program = build_program(group)
    return TorchEngine(group) if program is None else AmplitudeEngine(program)


class OneEngine(LightConeSimulator):
    """A light-cone simulator that runs one engine; on one state for all tasks if it may, or never.

    Args:
        make: the engine of a group.
        joint: whether tasks run on one state.
        chunk: samples at a time.
    """

    def __init__(self, make, *, joint=False, chunk=None):
        super().__init__()
        self.make, self.joint, self.chunk = make, joint, chunk

    def _new(self, *arguments):
        def plan_of(circuit, tasks, plan):
            may = self.joint and _choice._may_join(circuit, plan)
            return build_plan(circuit, tasks, joint=True) if may else plan

        own = {"engine_of": lambda group, *, compiled: self.make(group), "choose_plan": plan_of}
        with patch.multiple(_lightcone, chained_tasks=lambda *_: (), **own):
            return super()._new(*arguments)

    def _new_step(self, *arguments):
        step = super()._new_step(*arguments)
        step.chunk = self.chunk or step.chunk
        return step


EAGER, REFERENCE = LightConeSimulator(engine="eager"), PennyLaneSimulator("default.qubit")
JOINT = OneEngine(amplitudes, joint=True)
COMPILED = {"paulis": OneEngine(paulis), "amplitudes": OneEngine(amplitudes), "joint": JOINT}
CHUNKED = {
    "paulis": OneEngine(paulis, chunk=3),
    "amplitudes": OneEngine(amplitudes, chunk=3),
    "joint": OneEngine(amplitudes, joint=True, chunk=3),
    "torch": OneEngine(TorchEngine, chunk=3),
}


def head_inputs(circuit, batch=3, dtype=torch.float64, seed=0, *, grad=True):
    """Features, weights of the encoding and of all blocks, and scales, as `logits` takes them."""
    generator = torch.Generator().manual_seed(seed)
    n = circuit.n_encoding_weights
    shapes = [(batch, circuit.n_features), (n,), (circuit.n_circuit_weights - n,)]
    shapes.append((len(circuit.tasks),))
    return [
        torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_(grad)
        for shape in shapes
    ]


def mixed_sum(values, seed=0):
    """A sum in which every output of every sample has another weight."""
    generator = torch.Generator().manual_seed(seed)
    return (values * torch.randn(values.shape, dtype=torch.float64, generator=generator)).sum()


def assert_all_close(found, expected, atol=1e-10):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=0)
