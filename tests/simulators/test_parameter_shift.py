"""Gradients from shots by parameter shift: unbiased, of the right variance, and counted."""

import copy

import pytest
import torch

from qmtl.circuit import AngleEncoding, HeadCircuit, IQPEncoding
from qmtl.errors import InvalidInputError
from qmtl.experiments._robustness import ExtrapolatedSimulator
from qmtl.noise import Channel, CoherentError, DeviceNoise
from qmtl.pennylane import PennyLaneSimulator
from qmtl.simulators import (
    LightConeSimulator,
    NoisySimulator,
    ShotSimulator,
    shift_plan,
    shifted_values,
    simulator_from_dict,
)
from qmtl.tasks import Task
from tests.strategies import binary_tasks, random_angles, random_weights

EXACT = LightConeSimulator()
DAMPED = NoisySimulator(DeviceNoise(Channel.amplitude_damping(0.1), readout=(0.01, 0.05)))
CIRCUITS = {
    "default": HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)]),
    "features times weights": HeadCircuit(binary_tasks(2), IQPEncoding()),
    "gates that cancel": HeadCircuit(binary_tasks(3), AngleEncoding(n_layers=1)),
    "shared": HeadCircuit(binary_tasks(2), layout="shared"),
}


def gradients(values, angles, weights):
    """Of a fixed combination of all outputs."""
    total = sum(
        (v * torch.linspace(0.5, 1.5, v.numel(), dtype=v.dtype).reshape(v.shape)).sum()
        for v in values.values()
    )
    inputs = [angles, *(w for w in weights.values() if w.numel())]
    found = torch.autograd.grad(total, inputs, materialize_grads=True, retain_graph=True)
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize("base", [EXACT, DAMPED], ids=["exact", "damped"])
@pytest.mark.parametrize("name", CIRCUITS)
def test_the_rule_is_the_gradient(name, base):
    """Without shots the two are the same, under noise as well."""
    circuit = CIRCUITS[name]
    angles, weights = random_angles(circuit, 2, grad=True), random_weights(circuit, grad=True)
    plan = shift_plan(circuit)
    turned = plan.angles(angles, torch.cat(list(weights.values())))
    exact = base.expectation_values(circuit, angles, weights)

    def by_shifts(tasks):
        def measured(rows):
            return base.values(plan.circuit, rows, rows.new_zeros(0), tasks).detach()

        together = torch.cat([exact[task] for task in tasks], 1).detach()
        values = shifted_values(plan, tasks, turned, together, measured)
        return dict(zip(tasks, values.split([exact[t].shape[1] for t in tasks], 1), strict=True))

    tasks = list(circuit.registers)
    expected = gradients(exact, angles, weights)
    apart = {task: by_shifts([task])[task] for task in tasks}
    for found in (by_shifts(tasks), apart):
        found = gradients(found, angles, weights)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def spread(shots, n):
    """Mean and variance of gradients by shots, and the exact ones."""
    circuit = CIRCUITS["default"]
    torch.manual_seed(0)
    angles, weights = random_angles(circuit, 1, grad=True), random_weights(circuit, grad=True)
    simulator = ShotSimulator(DAMPED, shots, seed=1, gradient="parameter-shift")
    found = torch.stack(
        [
            gradients(simulator.expectation_values(circuit, angles, weights), angles, weights)
            for _ in range(n)
        ]
    )
    exact = gradients(DAMPED.expectation_values(circuit, angles, weights), angles, weights)
    return found.mean(0), found.var(0), exact


def test_no_bias_and_a_variance_that_falls_with_shots():
    n = 50
    few, many = spread(40, n), spread(640, n)
    for mean, variance, exact in (few, many):
        alive = variance > 1e-12
        torch.testing.assert_close(mean[~alive], exact[~alive], rtol=0, atol=1e-10)
        errors = (mean - exact)[alive] / (variance[alive] / n).sqrt()
        # The largest of some thirty standard normal numbers.
        assert errors.abs().max() < 4.5
        assert 0.5 < errors.square().mean() < 2
    assert float(few[1].sum() / many[1].sum()) == pytest.approx(16, rel=0.3)


def test_values_are_those_of_the_shots():
    circuit = CIRCUITS["default"]
    inputs = random_angles(circuit), random_weights(circuit)
    plain = ShotSimulator(EXACT, 50, seed=3).expectation_values(circuit, *inputs)
    shifted = ShotSimulator(EXACT, 50, seed=3, gradient="parameter-shift")
    values = shifted.expectation_values(circuit, *inputs)
    assert all(values[name].equal(plain[name]) for name in plain)


@pytest.mark.filterwarnings("ignore:Setting shots on device")
def test_same_spread_as_pennylane():
    circuit = HeadCircuit([Task.binary("a")])
    torch.manual_seed(2)
    angles, weights = random_angles(circuit, 1, grad=True), random_weights(circuit, grad=True)
    ours = ShotSimulator(EXACT, 100, seed=1, gradient="parameter-shift")
    # PennyLane makes a device, and a stream, for each call.
    options = {"diff_method": "parameter-shift", "shots": 100}
    theirs = [PennyLaneSimulator("default.qubit", seed=i, **options) for i in range(20)]
    variances = []
    for simulators in ([ours] * 100, theirs):
        found = [
            gradients(one.expectation_values(circuit, angles, weights), angles, weights)
            for one in simulators
        ]
        variances.append(float(torch.stack(found).var(0).sum()))
    assert variances[0] == pytest.approx(variances[1], rel=0.35)


def test_executions():
    partitioned, shared = CIRCUITS["default"], CIRCUITS["shared"]
    simulator = ShotSimulator(EXACT, 10, gradient="parameter-shift")
    rotations = sum(gate.angle is not None for gate in partitioned.gates())
    assert simulator.executions(partitioned, 3) == (30, 2 * rotations * 30)
    own = [sum(g.angle is not None for g in shared.gates(t)) for t in shared.registers]
    assert simulator.executions(shared, 3) == (60, 2 * sum(own) * 30)
    assert ShotSimulator(EXACT, 10).executions(partitioned, 3) == (30, 0)
    assert simulator.executions(partitioned, 3, []) == (0, 0)


def test_description_and_copies():
    simulator = ShotSimulator(EXACT, 10, seed=2, gradient="parameter-shift")
    for twin in (copy.deepcopy(simulator), simulator_from_dict(simulator.to_dict())):
        assert repr(twin) == repr(simulator)
        assert twin.gradient == "parameter-shift"
    old = simulator.to_dict()
    del old["gradient"]
    assert simulator_from_dict(old).gradient == "exact"


def test_where_the_rule_does_not_hold():
    stretched = DeviceNoise(coherent={"RY": CoherentError(0.01)})
    with pytest.raises(InvalidInputError, match=r"the noise rescales angles of \['RY'\]"):
        ShotSimulator(NoisySimulator(stretched), 10, gradient="parameter-shift")
    mitigated = ExtrapolatedSimulator({1.0: EXACT, 2.0: EXACT})
    with pytest.raises(InvalidInputError, match="from several circuits"):
        ShotSimulator(mitigated, 10, gradient="parameter-shift")
    with pytest.raises(InvalidInputError, match="did you mean 'parameter-shift'"):
        ShotSimulator(EXACT, 10, gradient="parametershift")
    turned = DeviceNoise(coherent={"CZ": CoherentError(rotations=(("RZ", (0,), 0.02),))})
    assert ShotSimulator(NoisySimulator(turned), 10, gradient="parameter-shift").shots == 10


def test_batches_of_gradients_are_refused():
    circuit = CIRCUITS["default"]
    angles, weights = random_angles(circuit, 1, grad=True), random_weights(circuit)
    simulator = ShotSimulator(EXACT, 5, seed=0, gradient="parameter-shift")
    losses = torch.stack(
        [v.sum() for v in simulator.expectation_values(circuit, angles, weights).values()]
    )
    rows = torch.eye(2, dtype=losses.dtype)
    with pytest.raises(InvalidInputError, match="cannot compute a batch of gradients"):
        torch.autograd.grad(losses, angles, rows, is_grads_batched=True)
