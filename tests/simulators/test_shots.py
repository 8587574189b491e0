"""ShotSimulator: the statistics of its draws, its gradients, and its random numbers."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.stats import chisquare

from qmtl.circuit import HeadCircuit, distribution_circuit, output_matrix
from qmtl.errors import CircuitTooLargeError, InvalidInputError
from qmtl.noise import DeviceNoise
from qmtl.simulators import (
    LightConeSimulator,
    NoisySimulator,
    ShotSimulator,
    Simulator,
    simulator_from_dict,
)
from qmtl.tasks import Task
from tests.laws import assert_valid_outputs, dense_state, marginal, vjp
from tests.strategies import binary_tasks, cases, random_angles, random_weights

EXACT = LightConeSimulator()
NOISY = NoisySimulator(DeviceNoise.uniform(0.01, 0.03, 0.02))
TASKS = [Task.binary("a"), Task.multiclass("b", 3), Task.multilabel("c", 3)]


def inputs(circuit, batch=3):
    return circuit, random_angles(circuit, batch), random_weights(circuit)


# --- the joint distribution --------------------------------------------------------------------


@given(cases(max_wires=7, max_batch=2))
def test_the_distribution_is_that_of_all_wires_read(case):
    angles, weights = case.angles(), case.weights()
    likely = EXACT.expectation_values(distribution_circuit(case.circuit), angles, weights)
    for name, register in case.circuit.registers.items():
        wires = [register.wires[i] for i in register.readout.read_wires(len(register.wires))]
        for row, found in zip(angles, likely[name], strict=True):
            gates = case.circuit.gates(name)
            state = dense_state(gates, case.circuit.n_wires, row, weights)
            np.testing.assert_allclose(found, marginal(state, wires), atol=1e-10)


@given(cases(max_wires=7, max_batch=2))
def test_outputs_follow_from_the_distribution(case):
    angles, weights = case.angles(), case.weights()
    likely = EXACT.expectation_values(distribution_circuit(case.circuit), angles, weights)
    for name, expected in EXACT.expectation_values(case.circuit, angles, weights).items():
        matrix = torch.from_numpy(output_matrix(case.circuit.register(name)))
        torch.testing.assert_close(likely[name] @ matrix.T, expected, rtol=0, atol=1e-10)


# --- statistics --------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [EXACT, NOISY], ids=["exact", "noisy"])
def test_histograms_pass_a_chi_square_test(base):
    circuit, angles, weights = inputs(HeadCircuit(TASKS), batch=8)
    counts = ShotSimulator(base, 20_000, seed=0).counts(circuit, angles, weights)
    likely = base.expectation_values(distribution_circuit(circuit), angles, weights)
    found = []
    for name, drawn in counts.items():
        assert (drawn.sum(1) == 20_000).all()
        for row, share in zip(drawn.numpy(), likely[name].numpy(), strict=True):
            expected = share / share.sum() * 20_000
            assert (expected > 5).all()
            found.append(chisquare(row, expected).pvalue)
    # 24 tests: the smallest of as many uniform numbers is below 1e-4 once in 400.
    assert min(found) > 1e-4
    assert np.mean(found) == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("base", [EXACT, NOISY], ids=["exact", "noisy"])
def test_errors_fall_as_one_over_the_root_of_the_shots(base):
    circuit, angles, weights = inputs(HeadCircuit(TASKS), batch=400)
    exact = base.expectation_values(circuit, angles, weights)
    sizes = [2**n for n in range(4, 15)]
    deviations = []
    for shots in sizes:
        values = ShotSimulator(base, shots, seed=1).expectation_values(circuit, angles, weights)
        each = torch.cat([(values[name] - exact[name]).flatten() for name in exact])
        deviations.append(float(each.square().mean().sqrt()))
    slope = np.polyfit(np.log(sizes), np.log(deviations), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.02)


def test_standard_errors_say_how_far_off_estimates_are():
    circuit, angles, weights = inputs(HeadCircuit(TASKS), batch=1)
    exact = EXACT.expectation_values(circuit, angles, weights)
    many = angles.expand(2000, -1)
    estimates = ShotSimulator(EXACT, 500, seed=0).estimate(circuit, many, weights)
    for name, estimate in estimates.items():
        spread = (estimate.values - exact[name]).square().mean(0).sqrt()
        torch.testing.assert_close(estimate.errors.mean(0), spread, rtol=0.1, atol=1e-4)
        assert ((estimate.values - exact[name]).mean(0).abs() < 5 * spread / 2000**0.5).all()


def test_a_single_shot():
    estimate = ShotSimulator(EXACT, 1, seed=0).estimate(*inputs(HeadCircuit(TASKS)))["a"]
    assert set(estimate.values.flatten().tolist()) <= {-1.0, 1.0}
    assert estimate.errors.isnan().all()


def test_certain_outcomes_have_no_error():
    circuit = HeadCircuit(binary_tasks(2))
    weights = {name: torch.zeros(size) for name, size in circuit.weight_sizes.items()}
    estimate = ShotSimulator(EXACT, 10, seed=0).estimate(circuit, torch.zeros(2, 4), weights)["t0"]
    assert estimate.values.tolist() == [[1.0], [1.0]]
    assert estimate.errors.tolist() == [[0.0], [0.0]]


def test_outputs_of_a_task_come_from_the_same_shots():
    """The estimated ZZ is that of the very bits that gave the Zs."""
    from qmtl.circuit import PauliStrings

    task = Task.multilabel("a", 3)
    circuit = HeadCircuit([task], readouts={"a": PauliStrings(("ZI", "IZ", "ZZ"))})
    for first, second, both in (
        ShotSimulator(EXACT, 3, seed=0).expectation_values(*inputs(circuit, batch=50))["a"].tolist()
    ):
        # Counts of the four bit strings, which must be whole numbers.
        quarter = [1 + first + second + both, 1 + first - second - both]
        for four_times in quarter:
            assert four_times * 3 / 4 == pytest.approx(round(four_times * 3 / 4), abs=1e-9)
            assert four_times >= -1e-9


@given(cases(max_wires=7))
def test_outputs_are_valid(case):
    simulator = ShotSimulator(EXACT, 10, seed=0)
    values = simulator.expectation_values(case.circuit, case.angles(), case.weights())
    assert_valid_outputs(case.circuit, values, atol=1e-12)


# --- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [EXACT, NOISY], ids=["exact", "noisy"])
def test_gradients_are_those_of_the_means(base):
    case = inputs(HeadCircuit(TASKS))
    _, expected = vjp(base, *case)
    values, gradients = vjp(ShotSimulator(base, 7, seed=0), *case)
    for name in expected:
        torch.testing.assert_close(gradients[name], expected[name], rtol=0, atol=1e-12)
    assert all((v * 7).sub((v * 7).round()).abs().max() < 1e-9 for v in values.values())


def test_jacobian_rows_at_once():
    circuit = HeadCircuit(TASKS)
    angles, weights = random_angles(circuit, grad=True), random_weights(circuit)
    values = ShotSimulator(EXACT, 7, seed=0).expectation_values(circuit, angles, weights)
    losses = torch.stack([v.square().sum() for v in values.values()])
    rows = torch.eye(3, dtype=losses.dtype)
    batched = torch.autograd.grad(losses, angles, rows, is_grads_batched=True, retain_graph=True)
    for row, own in zip(rows, batched[0], strict=True):
        single = torch.autograd.grad(losses, angles, row, retain_graph=True)[0]
        torch.testing.assert_close(own, single, rtol=0, atol=1e-12)


# --- random numbers ----------------------------------------------------------------------------


def draw(simulator):
    return simulator.counts(*inputs(HeadCircuit(TASKS)))["b"]


def test_seeds():
    first, second = ShotSimulator(EXACT, 100, seed=3), ShotSimulator(EXACT, 100, seed=3)
    one, two = draw(first), draw(first)
    assert not one.equal(two)
    assert draw(second).equal(one)
    assert not draw(ShotSimulator(EXACT, 100, seed=4)).equal(one)
    # A copy goes on where the first is.
    twins = copy.deepcopy(second), pickle.loads(pickle.dumps(second))
    assert all(draw(twin).equal(two) for twin in (second, *twins))


def test_without_a_seed_torch_has_it():
    simulator = ShotSimulator(EXACT, 100)
    torch.manual_seed(5)
    one, two = draw(simulator), draw(simulator)
    assert not one.equal(two)
    torch.manual_seed(5)
    assert draw(simulator).equal(one)


def test_samples_and_tasks_are_independent():
    circuit = HeadCircuit(binary_tasks(2))
    weights = {name: torch.zeros(size) for name, size in circuit.weight_sizes.items()}
    angles = torch.full((500, 4), torch.pi / 2)
    values = ShotSimulator(EXACT, 50, seed=0).expectation_values(circuit, angles, weights)
    together = torch.cat([values["t0"][:250], values["t0"][250:], values["t1"][:250]], 1)
    correlation = torch.corrcoef(together.T)
    assert (correlation - torch.eye(3)).abs().max() < 0.2


# --- the contract ------------------------------------------------------------------------------


def test_float32_and_empty_batches_and_subsets():
    circuit = HeadCircuit(TASKS)
    weights = {name: w.float() for name, w in random_weights(circuit).items()}
    simulator = ShotSimulator(EXACT, 10, seed=0)
    for batch in (0, 2):
        values = simulator.expectation_values(
            circuit, random_angles(circuit, batch).float(), weights, ["c", "a"]
        )
        assert list(values) == ["c", "a"]
        assert values["c"].shape == (batch, 3)
        assert values["c"].dtype == torch.float32
    assert isinstance(simulator, Simulator)


def test_shared_layout():
    circuit = HeadCircuit(TASKS, layout="shared")
    exact = EXACT.expectation_values(*inputs(circuit))
    sampled = ShotSimulator(EXACT, 10**6, seed=0).expectation_values(*inputs(circuit))
    for name in exact:
        torch.testing.assert_close(sampled[name], exact[name], rtol=0, atol=0.01)


@pytest.mark.parametrize("simulator", [NOISY, ShotSimulator(NOISY, 64, seed=1)])
def test_description(simulator):
    again = simulator_from_dict(simulator.to_dict())
    assert repr(again) == repr(simulator)
    assert again.to_dict() == simulator.to_dict()
    own, other = (
        copy.deepcopy(s).expectation_values(*inputs(HeadCircuit(TASKS))) for s in (simulator, again)
    )
    assert all(own[name].equal(other[name]) for name in own)


def test_vmap_is_refused():
    circuit, angles, weights = inputs(HeadCircuit(binary_tasks(2)))
    simulator = ShotSimulator(EXACT, 10)
    with pytest.raises(InvalidInputError, match="shots cannot be drawn within vmap"):
        torch.vmap(lambda a: simulator.expectation_values(circuit, a[None], weights)["t0"])(angles)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ShotSimulator(EXACT, 0), "shots must be an integer >= 1, got 0"),
        (lambda: ShotSimulator(EXACT, 1.5), "shots must be an integer"),
        (lambda: ShotSimulator(EXACT, True), "shots must be an integer"),
        (
            lambda: ShotSimulator(EXACT, 2**63),
            r"shots must be less than 2\*\*63, got 9223372036854775808",
        ),
        (lambda: ShotSimulator(EXACT, 5, seed=-1), "seed must be an integer >= 0"),
        (lambda: ShotSimulator("lightcone", 5), "base must be an exact simulator"),
        (lambda: ShotSimulator(ShotSimulator(EXACT, 5), 5), "base must be an exact simulator"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()


def test_too_many_wires():
    circuit = HeadCircuit([Task.multilabel("wide", 11)])
    with pytest.raises(CircuitTooLargeError, match="'wide' reads 11 wires together"):
        ShotSimulator(EXACT, 5).counts(*inputs(circuit))


def test_export_is_refused():
    class Outputs(torch.nn.Module):
        def forward(self, angles):
            circuit = HeadCircuit(TASKS)
            weights = torch.zeros(circuit.n_circuit_weights)
            return ShotSimulator(EXACT, shots=10).expectation_values(circuit, angles, weights)

    angles = torch.zeros(2, HeadCircuit(TASKS).n_features)
    with pytest.raises(InvalidInputError, match="shots cannot be exported"):
        torch.export.export(Outputs(), (angles,))
