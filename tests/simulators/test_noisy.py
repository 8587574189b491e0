"""NoisySimulator: against PennyLane's density matrices, and laws of noise."""

import copy
import pickle
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qmtl.circuit import AngleEncoding, HeadCircuit, IQPEncoding, RotationAnsatz
from qmtl.errors import CircuitTooLargeError, InvalidInputError
from qmtl.noise import Channel, DeviceNoise
from qmtl.simulators import LightConeSimulator, NoisySimulator, Simulator
from qmtl.tasks import Task
from tests.laws import (
    assert_batch_is_samples,
    assert_same_values_and_gradients,
    assert_subset_is_the_same,
    assert_valid_outputs,
    vjp,
)
from tests.noise.reference import SPREAD, mixed_outputs, noises
from tests.strategies import binary_tasks, cases, random_angles, random_case, random_weights

DAMPED = DeviceNoise(
    Channel.amplitude_damping(0.07),
    Channel.pauli(SPREAD),
    {("CZ", (0, 1)): ((Channel.amplitude_damping(0.07), (0,)), (Channel.pauli(SPREAD), (0, 1)))},
    readout=(0.03, 0.08),
)
UNIFORM = DeviceNoise.uniform(0.03, 0.05, 0.02)
NOISES = [UNIFORM, DAMPED]
MIXED = [Task.binary("a"), Task.multiclass("b", 3), Task.regression("c")]


# --- against density matrices ------------------------------------------------------------------


@given(cases(max_wires=6, max_tasks=4, max_batch=1), noises())
def test_values_match_default_mixed(case, noise):
    angles, weights = case.angles(), case.weights()
    values = NoisySimulator(noise).expectation_values(case.circuit, angles, weights)
    for name in case.circuit.registers:
        expected = mixed_outputs(case.circuit, name, angles[0], weights, noise)
        torch.testing.assert_close(values[name][0], expected, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("n_tasks", [3, 4])
def test_noise_of_gates_that_cancel_is_seen(n_tasks, noise):
    """The ideal cone of one encoding layer is narrower than the noisy one."""
    circuit = HeadCircuit(binary_tasks(n_tasks), AngleEncoding(n_layers=1))
    case = random_case(circuit, batch=1)
    angles, weights = case.angles(), case.weights()
    value = NoisySimulator(noise).expectation_values(circuit, angles, weights, ["t1"])["t1"][0]
    expected = mixed_outputs(circuit, "t1", angles[0], weights, noise)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)


# --- gradients ---------------------------------------------------------------------------------


@given(cases(max_wires=5, max_tasks=3, max_batch=2), noises(max_wires=5))
def test_gradients_match_finite_differences(case, noise):
    """Along random directions, of a random combination of all outputs."""
    simulator, step = NoisySimulator(noise), 1e-5
    angles, weights = case.angles(), case.weights()
    _, gradients = vjp(simulator, case.circuit, angles, weights, seed=case.seed)
    generator = torch.Generator().manual_seed(case.seed)
    for _ in range(3):
        turns = {
            name: torch.randn(g.shape, dtype=g.dtype, generator=generator)
            for name, g in gradients.items()
        }

        def total(by, turns=turns):
            moved = {name: w + by * turns[name] for name, w in weights.items()}
            place = angles + by * turns["angles"]
            values = simulator.expectation_values(case.circuit, place, moved)
            own = torch.Generator().manual_seed(case.seed)
            return sum(
                (v * torch.randn(v.shape, dtype=v.dtype, generator=own)).sum()
                for v in values.values()
            )

        slope = (total(step) - total(-step)) / (2 * step)
        expected = sum((gradients[name] * turns[name]).sum() for name in gradients)
        torch.testing.assert_close(expected, slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("noise", NOISES)
def test_every_partial_derivative(noise):
    circuit = HeadCircuit(MIXED)
    angles, weights = random_angles(circuit, 1, grad=True), random_weights(circuit, grad=True)

    def outputs(angles, *flat):
        named = dict(zip(weights, flat, strict=True))
        values = NoisySimulator(noise).expectation_values(circuit, angles, named)
        return torch.cat([v.flatten() for v in values.values()])

    assert torch.autograd.gradcheck(outputs, (angles, *weights.values()), atol=1e-6)


@pytest.mark.parametrize("noise", NOISES)
def test_jacobian_rows_at_once_are_the_rows_one_by_one(noise):
    circuit = HeadCircuit(MIXED)
    angles, weights = random_angles(circuit, grad=True), random_weights(circuit, grad=True)
    values = NoisySimulator(noise).expectation_values(circuit, angles, weights)
    losses = torch.stack([v.square().sum() for v in values.values()])
    inputs = [angles, weights["encoding"]]
    rows = torch.eye(len(losses), dtype=losses.dtype)
    batched = torch.autograd.grad(
        losses, inputs, rows, is_grads_batched=True, retain_graph=True, allow_unused=True
    )
    for i, row in enumerate(rows):
        single = torch.autograd.grad(losses, inputs, row, retain_graph=True)
        for ours, theirs in zip(batched, single, strict=True):
            torch.testing.assert_close(ours[i], theirs, rtol=0, atol=1e-12)


def test_transforms():
    """vmap over samples, jacrev, and second derivatives."""
    circuit, simulator = HeadCircuit(binary_tasks(3)), NoisySimulator(DAMPED)
    angles, weights = random_angles(circuit), random_weights(circuit)

    def value(row):
        return simulator.expectation_values(circuit, row[None], weights)["t0"][0, 0]

    together = simulator.expectation_values(circuit, angles, weights)["t0"][:, 0]
    torch.testing.assert_close(torch.vmap(value)(angles), together, rtol=0, atol=1e-12)
    free = angles.clone().requires_grad_()
    single = torch.autograd.grad(
        simulator.expectation_values(circuit, free, weights)["t0"].sum(), free
    )[0]
    torch.testing.assert_close(
        torch.vmap(torch.func.grad(value))(angles), single, rtol=0, atol=1e-12
    )
    assert torch.autograd.gradgradcheck(
        lambda a: simulator.expectation_values(circuit, a, weights)["t0"], free[:1]
    )


# --- laws of noise -----------------------------------------------------------------------------


@given(cases(max_wires=6, max_batch=3))
def test_no_noise_is_lightcone(case):
    for noise in (DeviceNoise(), DAMPED.scaled(0)):
        assert_same_values_and_gradients(
            NoisySimulator(noise), LightConeSimulator(), case, atol=1e-12
        )


@given(cases(max_wires=5, max_batch=2, ansatz=None), st.sampled_from(["uniform", "readout"]))
def test_full_depolarisation(case, kind):
    """Nothing is left: Z-strings are 0 and probabilities 2^-k."""
    noise = DeviceNoise.uniform(3 / 4, 15 / 16)
    if kind == "readout":
        noise = DeviceNoise.uniform(readout=1 / 2)
    values = NoisySimulator(noise).expectation_values(case.circuit, case.angles(), case.weights())
    for name, register in case.circuit.registers.items():
        left = 2.0 ** -len(register.wires) if register.readout.is_probability else 0.0
        assert (values[name] - left).abs().max() < 1e-12, name


@given(cases(max_wires=5), noises())
def test_outputs_are_valid(case, noise):
    simulator = NoisySimulator(noise)
    values = simulator.expectation_values(case.circuit, case.angles(), case.weights())
    assert_valid_outputs(case.circuit, values, atol=1e-12)


def test_scale_weakens_the_signal():
    circuit = HeadCircuit(binary_tasks(4))
    angles, weights = random_angles(circuit, 50), random_weights(circuit)
    spreads = []
    for scale in (0, 0.5, 1, 2, 4):
        simulator = NoisySimulator(UNIFORM.scaled(scale))
        values = simulator.expectation_values(circuit, angles, weights)
        spreads.append(float(torch.cat(list(values.values())).std()))
    assert spreads == sorted(spreads, reverse=True)


# --- the contract ------------------------------------------------------------------------------


@settings(max_examples=10)
@given(cases(max_wires=4), noises(max_wires=4), st.data())
def test_subsets_and_batches(case, noise, data):
    simulator = NoisySimulator(noise)
    tasks = data.draw(st.lists(st.sampled_from(list(case.circuit.registers)), unique=True))
    assert_subset_is_the_same(simulator, case, tasks, atol=1e-13)
    assert_batch_is_samples(simulator, case, atol=1e-13)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("batch", [0, 1, 257])
def test_precision_and_threads(noise, batch):
    circuit = HeadCircuit([*MIXED, *binary_tasks(6)])
    double, weights = random_angles(circuit, batch), random_weights(circuit)
    single = {name: w.float() for name, w in weights.items()}
    simulator = NoisySimulator(noise)
    exact = simulator.expectation_values(circuit, double, weights)
    rounded = simulator.expectation_values(circuit, double.float(), single)
    torch.set_num_threads(2)
    try:
        threaded = simulator.expectation_values(circuit, double, weights)
    finally:
        torch.set_num_threads(1)
    for name, value in exact.items():
        assert value.dtype == torch.float64
        assert rounded[name].dtype == torch.float32
        assert value.shape == (batch, circuit.task(name).n_outputs)
        torch.testing.assert_close(rounded[name].double(), value, rtol=0, atol=1e-5)
        assert threaded[name].equal(value)


def test_shared_layout():
    circuit = HeadCircuit(MIXED, layout="shared")
    angles, weights = random_angles(circuit, 1), random_weights(circuit)
    values = NoisySimulator(DAMPED).expectation_values(circuit, angles, weights)
    for name in circuit.registers:
        expected = mixed_outputs(circuit, name, angles[0], weights, DAMPED)
        torch.testing.assert_close(values[name][0], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n", [20, 40])
def test_tasks_run_in_few_batches_whatever_their_noise(n):
    """Noise that differs from wire to wire leaves a ring's tasks in one batch, but at its ends."""
    gates = {
        ("CZ", (w, (w + 1) % n)): ((Channel.depolarising(0.001 * (w + 1), n_wires=2), (0, 1)),)
        for w in range(n)
    }
    circuit = HeadCircuit(binary_tasks(n // 2))
    simulator = NoisySimulator(DeviceNoise(gates=gates))
    assert len(simulator.plan(circuit).groups) <= 5
    assert repr(simulator) == "NoisySimulator(DeviceNoise with gates)"


@pytest.mark.parametrize("layout", ["partitioned", "shared"])
def test_dependencies_and_rows_are_those_of_the_jacobian(layout):
    """Rows of the readout equal separate passes, and nothing else than told has a slope."""
    circuit, simulator = (
        HeadCircuit([*MIXED, *binary_tasks(4)], layout=layout),
        NoisySimulator(DAMPED),
    )
    features = random_angles(circuit, 2, grad=True)
    encoding, *blocks = random_weights(circuit).values()
    encoding.requires_grad_()
    rest = torch.cat(blocks), torch.ones(len(circuit.tasks), dtype=encoding.dtype)
    logits = simulator.logits(circuit, features, encoding, *rest)
    rows = torch.eye(logits.shape[1], dtype=logits.dtype)[:, None].expand(-1, 2, -1)
    by_features, by_encoding = simulator.readout_rows(circuit, features, encoding, *rest, rows)
    found = simulator.dependencies(circuit)
    of_task = [i for i, task in enumerate(circuit.tasks) for _ in range(task.n_outputs)]
    for row, task, ours, weights in zip(rows, of_task, by_features, by_encoding, strict=True):
        exact = torch.autograd.grad(logits, [features, encoding], row, retain_graph=True)
        for a, b in zip((ours, weights), exact, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        told = [set(index[tasks == task].tolist()) for tasks, index in found]
        assert set(ours.any(0).nonzero()[:, 0].tolist()) <= told[0]
        assert set(weights.nonzero()[:, 0].tolist()) <= told[1]


def test_copies():
    circuit, simulator = HeadCircuit(binary_tasks(2)), NoisySimulator(DAMPED, max_memory=10**9)
    inputs = random_angles(circuit), random_weights(circuit)
    values = simulator.expectation_values(circuit, *inputs)
    for twin in (copy.deepcopy(simulator), pickle.loads(pickle.dumps(simulator))):
        assert (twin.noise, twin.max_memory) == (DAMPED, 10**9)
        again = twin.expectation_values(circuit, *inputs)
        assert all(again[name].equal(values[name]) for name in values)
    assert isinstance(simulator, Simulator)


def test_too_large():
    circuit = HeadCircuit(binary_tasks(6), AngleEncoding(n_layers=3, entangler="all_to_all"))
    with pytest.raises(CircuitTooLargeError, match="task 't0': under noise"):
        NoisySimulator(UNIFORM).expectation_values(
            circuit, random_angles(circuit), random_weights(circuit), ["t0"]
        )


def test_a_circuit_that_is_too_large_is_refused_soon():
    """By its largest cone, before strings are followed through the cones of all other tasks."""
    line = {"entangler": "cz_line"}
    circuit = HeadCircuit(binary_tasks(15), AngleEncoding(15, **line), RotationAnsatz(**line))
    start = time.process_time()
    with pytest.raises(CircuitTooLargeError, match="outputs depend on 30 of 30 wires"):
        NoisySimulator(DAMPED).explain(circuit, 1)
    assert time.process_time() - start < 15  # it took more than 60


def test_iqp_and_cnots():
    for encoding in (IQPEncoding(), AngleEncoding(entangler="cnot_ring")):
        circuit = HeadCircuit(binary_tasks(2), encoding)
        angles, weights = random_angles(circuit, 1), random_weights(circuit)
        values = NoisySimulator(DAMPED).expectation_values(circuit, angles, weights)
        expected = mixed_outputs(circuit, "t0", angles[0], weights, DAMPED)
        torch.testing.assert_close(values["t0"][0], expected, rtol=0, atol=1e-10)


def test_bad_input():
    circuit = HeadCircuit(binary_tasks(2))
    simulator, weights = NoisySimulator(UNIFORM), random_weights(circuit)
    with pytest.raises(InvalidInputError, match=r"angles must have shape \(batch, 4\)"):
        simulator.expectation_values(circuit, torch.zeros(2, 3), weights)
    with pytest.raises(InvalidInputError, match="unknown task 'to'"):
        simulator.expectation_values(circuit, random_angles(circuit), weights, ["to"])
