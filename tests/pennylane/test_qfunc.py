"""PennyLane's gates, functions and templates in head circuits, against PennyLane itself."""

from dataclasses import dataclass

import numpy as np
import pennylane as qml
import pytest
import torch

from qmtl.circuit import Angle, Gate, HeadCircuit, default_readout
from qmtl.errors import InvalidInputError
from qmtl.noise import DeviceNoise
from qmtl.pennylane import PennyLaneSimulator, from_qfunc
from qmtl.simulators import LightConeSimulator, NoisySimulator, ShotSimulator
from qmtl.tasks import Task
from tests.laws import assert_same_values_and_gradients, vjp
from tests.strategies import random_angles, random_case, random_weights


@dataclass(frozen=True)
class Everything:
    """A block with each gate that is made of several, one weight used twice."""

    def n_weights(self, n_wires, read):
        return 9

    def gates(self, n_wires, read):
        w = [Angle(weight=i) for i in range(9)]
        return [
            Gate("Rot", (0,), (w[0], w[1], w[2])),
            Gate("H", (1,)),
            Gate("CRX", (0, 1), w[3]),
            Gate("S", (0,)),
            Gate("CRY", (1, 2), w[4]),
            Gate("T", (1,)),
            Gate("CRZ", (2, 0), w[5]),
            Gate("SWAP", (0, 2)),
            Gate("IsingXX", (0, 1), w[6]),
            Gate("IsingYY", (2, 1), w[7]),
            Gate("IsingZZ", (0, 2), w[8]),
            Gate("CY", (1, 0)),
            Gate("ControlledPhaseShift", (0, 1), w[3]),
            Gate("SX", (0,)),
        ]


def everything(w):
    qml.Rot(w[0], w[1], w[2], wires=0)
    qml.H(1)
    qml.CRX(w[3], wires=[0, 1])
    qml.S(0)
    qml.CRY(w[4], wires=[1, 2])
    qml.T(1)
    qml.CRZ(w[5], wires=[2, 0])
    qml.SWAP([0, 2])
    qml.IsingXX(w[6], wires=[0, 1])
    qml.IsingYY(w[7], wires=[2, 1])
    qml.IsingZZ(w[8], wires=[0, 2])
    qml.CY([1, 0])
    qml.ControlledPhaseShift(w[3], wires=[0, 1])
    qml.SX(0)


TASKS = {
    "z": Task.regression("a", 3),
    "probabilities": Task.multiclass("a", 7),
}
SIMULATORS = {
    "compiled": LightConeSimulator(),
    "torch": LightConeSimulator(engine="eager"),
    "without noise": NoisySimulator(DeviceNoise()),
    "pennylane": PennyLaneSimulator(),
}


def pennylane(function, circuit):
    """A simulator that applies PennyLane's own operations after ours of the encoding."""
    return _Reference(function, circuit)


class _Reference:
    def __init__(self, function, circuit):
        self.function, self.circuit = function, circuit

    def expectation_values(self, circuit, angles, weights, tasks=None):
        (register,) = circuit.registers.values()

        @qml.qnode(qml.device("default.qubit", wires=circuit.n_wires), interface="torch")
        def run(x, w):
            for gate in circuit.encoding_gates:
                if gate.angle is None:
                    getattr(qml, gate.name)(wires=gate.wires)
                elif gate.angle.weight is not None:
                    weight = weights["encoding"][gate.angle.weight]
                    getattr(qml, gate.name)(weight, wires=gate.wires)
                else:
                    getattr(qml, gate.name)(x[gate.angle.features[0]], wires=gate.wires)
            self.function(w)
            return qml.probs(wires=register.wires)

        matrix = torch.tensor(register.readout.matrix(len(register.wires)), dtype=torch.float64)
        return {"a": torch.stack([matrix @ run(x, weights["a"]) for x in angles])}


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("name", SIMULATORS)
def test_gates_made_of_several_are_pennylanes(kind, name):
    task = TASKS[kind]
    circuit = HeadCircuit([task], ansatz=Everything(), wires_per_task=3)
    case = random_case(circuit)
    assert_same_values_and_gradients(SIMULATORS[name], pennylane(everything, circuit), case)


def test_parameter_shift_of_gates_made_of_several():
    circuit = HeadCircuit([TASKS["z"]], ansatz=Everything(), wires_per_task=3)
    case = random_case(circuit, batch=1)
    shots = ShotSimulator(LightConeSimulator(), 400_000, seed=0, gradient="parameter-shift")
    _, found = vjp(shots, circuit, case.angles(), case.weights())
    _, exact = vjp(LightConeSimulator(), circuit, case.angles(), case.weights())
    for name in exact:
        torch.testing.assert_close(found[name], exact[name], rtol=0, atol=0.03)


def test_qiskit_has_the_same_gates():
    pytest.importorskip("qiskit")
    from qiskit.quantum_info import Statevector

    from qmtl.hardware import to_qiskit
    from tests.laws import dense_state

    circuit = HeadCircuit([TASKS["z"]], ansatz=Everything(), wires_per_task=3)
    angles, weights = random_angles(circuit, 1), random_weights(circuit)
    made = to_qiskit(circuit, weights, measure=False)
    bound = made.circuit.assign_parameters(made.parameter_values(angles)[0])
    state = Statevector(bound).data.reshape(2, 2, 2).transpose(2, 1, 0)
    expected = dense_state(circuit.gates(), 3, angles[0].tolist(), weights)
    assert abs(np.vdot(expected, state)) == pytest.approx(1, abs=1e-12)


TEMPLATES = {
    "StronglyEntanglingLayers": (qml.StronglyEntanglingLayers, (2, 3, 3)),
    "BasicEntanglerLayers": (qml.BasicEntanglerLayers, (2, 3)),
    "RandomLayers": (lambda w, wires: qml.RandomLayers(w, wires, seed=3), (2, 4)),
    "SimplifiedTwoDesign": (
        lambda w, wires: qml.SimplifiedTwoDesign(w[:3], w[3:].reshape(2, 2, 2), wires),
        11,
    ),
    "of your own": (
        lambda w, wires: [
            qml.RX(0.5 * w[0] - w[1] + 0.2, wires[0]),
            qml.CRot(*w[2:5], wires=wires[:2]),
            qml.adjoint(qml.T)(1),
            qml.Toffoli(wires),
            qml.ctrl(qml.RY, 0)(w[5], 2),
            qml.QFT(wires),
        ],
        6,
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_are_pennylanes(name):
    function, shape = TEMPLATES[name]
    block = from_qfunc(function, 3, weights=shape)
    circuit = HeadCircuit([TASKS["z"]], ansatz=block, wires_per_task=3)
    whole = (shape,) if isinstance(shape, int) else shape
    reference = pennylane(lambda w: function(w.reshape(whole), wires=range(3)), circuit)
    case = random_case(circuit, batch=2)
    assert_same_values_and_gradients(LightConeSimulator(), reference, case)


def test_an_encoding_with_features_weights_and_their_products():
    def load(x, w, wires):
        qml.IQPEmbedding(x, wires)
        for i in wires:
            qml.RY(w[i] * x[i] + 0.3 * x[i] ** 2, i)

    encoding = from_qfunc(load, 2, n_features=2, weights=2)
    assert sum(gate.name == "CNOT" for gate in encoding.gates(2)) == 0
    task = Task.multiclass("a", 4)
    circuit = HeadCircuit([task], encoding)
    angles, weights = random_angles(circuit, 2), random_weights(circuit)
    found = LightConeSimulator().expectation_values(circuit, angles, weights)["a"]

    @qml.qnode(qml.device("default.qubit"))
    def run(x):
        load(x, weights["encoding"], range(2))
        for gate in circuit.block_gates("a"):
            parameters = [] if gate.angle is None else [weights["a"][gate.angle.weight]]
            getattr(qml, gate.name)(*parameters, wires=gate.wires)
        return qml.probs(wires=[0, 1])

    for x, values in zip(angles, found, strict=True):
        torch.testing.assert_close(values, run(x), rtol=0, atol=1e-10)
    assert default_readout(task).n_outputs == 4


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (lambda w: qml.RX(torch.sin(w[0]), 0), {"weights": 1}, "not linear in weight 0"),
        (lambda w: qml.RX(w[0] * w[1], 0), {"weights": 2}, "the product of weights 0 and 1"),
        (lambda x: qml.RX(x[0] ** 3, 0), {"n_features": 1}, "its angle is not a sum"),
        (lambda w: qml.RX(w[0], 5), {"weights": 1}, "on wire 5; there are 2"),
        (lambda w: qml.RX(w[0], "a"), {"weights": 1}, "on wire 'a'; there are 2"),
        (lambda w: qml.RX(w[0], 0), {"weights": 2}, "depend on 1 of its 2 weights"),
        (
            qml.AmplitudeEmbedding,
            {"n_features": 4},
            r"cannot be applied to features of shape \(4,\), wires",
        ),
        (qml.StronglyEntanglingLayers, {"weights": 5}, "cannot be applied"),
        (lambda x: [qml.X(0)] if x[0] > 0 else [], {"n_features": 1}, "other gates at other val"),
        (3, {}, "must be a function or a template, got 3"),
        (qml.H, {"weights": -1}, "weights must be an integer >= 0, got -1"),
        (qml.RX, {"weights": 2.5}, "weights must be a number of weights, or their shape as a tu"),
        (qml.RX, {"weights": "ab"}, "weights must be a number of weights, or their shape as a tu"),
        (lambda w: qml.RX(np.sin(w[0]), 0), {"weights": 1}, "applies NumPy to its features or we"),
        (lambda w: qml.RX(w, 0), {"weights": 3}, r"RX on wires \[0\] has 3 angles: a gate .* one"),
        (lambda: qml.RX(float("nan"), 0), {}, "constant must be a finite number, got nan"),
        (lambda w: qml.RX(w[0] / 0, 0), {"weights": 1}, "constant must be a finite number, got in"),
        (lambda w: qml.RX(w[0] * float("nan"), 0), {"weights": 1}, "its angle is not a sum"),
        (
            lambda w: qml.evolve(qml.X(0) @ qml.Z(1), w[0]),
            {"weights": 1},
            "cannot be applied to weights",
        ),
    ],
)
def test_functions_that_are_no_circuit_are_refused(function, options, message):
    with pytest.raises(InvalidInputError, match=message):
        from_qfunc(function, 2, **options)
