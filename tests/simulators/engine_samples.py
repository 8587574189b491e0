"""Simulators that run one engine only, whatever it costs, and circuits that ask for all of it."""

from dataclasses import dataclass

from qmtl import AngleEncoding, HeadCircuit, IdentityAnsatz, IQPEncoding, RealAmplitudes, Task
from qmtl.circuit import Angle, Gate, entangler_gates
from qmtl.simulators import LightConeSimulator
from qmtl.simulators.amplitudes import AmplitudeEngine, build_program
from qmtl.simulators.chunks import ChunkedEngine
from qmtl.simulators.eager import EagerEngine
from qmtl.simulators.pauli import PauliEngine, pauli_program
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


CIRCUITS = {
    "default": HeadCircuit(binary_tasks(5)),
    "mixed": HeadCircuit(MIXED),
    "rx": HeadCircuit(MIXED, AngleEncoding(axes="XY", trainable="YX")),
    "cnot": HeadCircuit(MIXED[:2], AngleEncoding(entangler="cnot_ring"), RealAmplitudes(2)),
    "scaled": HeadCircuit(MIXED[:3], ScaledEncoding()),
    "iqp": HeadCircuit(MIXED, IQPEncoding()),
    "shared": HeadCircuit(MIXED, layout="shared", n_wires=4),
    "shared, no block": HeadCircuit(MIXED[:2], layout="shared", ansatz=IdentityAnsatz()),
}


def paulis(group):
    program = pauli_program(group.structure, 10**6)
    return EagerEngine(group) if program is None else PauliEngine(group, program)


def amplitudes(group):
    program = build_program(group)
    return EagerEngine(group) if program is None else AmplitudeEngine(program)


class OneEngine(LightConeSimulator):
    """A light-cone simulator without the choice."""

    def __init__(self, make, chunk=None):
        super().__init__()
        self.make, self.chunk = make, chunk

    def _engines(self, circuit, plan, angles, *, plain):
        if not plain or not len(angles):
            return super()._engines(circuit, plan, angles, plain=plain)
        engines = [group.kept.setdefault("one", self.make(group)) for group in plan.groups]
        return [ChunkedEngine(e, self.chunk) for e in engines] if self.chunk else engines


EAGER = LightConeSimulator(engine="eager")
COMPILED = {"paulis": OneEngine(paulis), "amplitudes": OneEngine(amplitudes)}
CHUNKED = {
    "paulis": OneEngine(paulis, 3),
    "amplitudes": OneEngine(amplitudes, 3),
    "torch": OneEngine(EagerEngine, 3),
}
