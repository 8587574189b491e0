"""Vectors of Pauli strings: the same as strings one by one, and as density matrices."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from qmtl.circuit import Angle, AngleEncoding, Gate, HeadCircuit
from qmtl.errors import CircuitTooLargeError
from qmtl.noise import Channel, DeviceNoise
from qmtl.simulators import LightConeSimulator, NoisySimulator, _noisy
from qmtl.simulators._cones import Op
from qmtl.simulators._network import NetworkEngine, contractions
from qmtl.simulators._pauli import PauliEngine
from qmtl.simulators._transfer import channel_matrices
from qmtl.tasks import Task
from tests.laws import assert_same_values_and_gradients
from tests.noise.reference import SPREAD, mixed_outputs, noises
from tests.strategies import binary_tasks, cases, random_angles, random_weights

DAMPED = DeviceNoise(
    Channel.amplitude_damping(0.07),
    Channel.pauli(SPREAD),
    {("CZ", (0, 1)): ((Channel.amplitude_damping(0.07), (0,)), (Channel.pauli(SPREAD), (0, 1)))},
    readout=(0.03, 0.08),
)


@dataclass(frozen=True)
class FeatureBlock:
    """A block that reads a feature."""

    def n_weights(self, n_wires, read):
        return 1

    def gates(self, n_wires, read):
        return [Gate("RX", (0,), Angle(features=(0,), weight=0))]


MIXED = [Task.binary("a"), Task.multiclass("b", 3), Task.regression("c", 2)]


class VectorSimulator(NoisySimulator):
    """A noisy simulator that always takes vectors, in chunks of a few samples."""

    most_bytes = 20_000

    def _new(self, circuit, tasks, joint):
        every = tuple(circuit.registers)
        chosen = every if tasks is None else tasks
        run = self._runs(circuit, chosen if circuit.layout == "shared" else every)
        found = _noisy._program(circuit, chosen, run, None, strings=False)
        for engine in found.engines:
            assert isinstance(engine, NetworkEngine)
            engine.most_bytes = self.most_bytes
        return found


@settings(max_examples=4)
@given(cases(max_wires=5, max_tasks=4, max_batch=1), noises())
def test_values_match_default_mixed(case, noise):
    angles, weights = case.angles(), case.weights()
    values = VectorSimulator(noise).expectation_values(case.circuit, angles, weights)
    for name in case.circuit.registers:
        expected = mixed_outputs(case.circuit, name, angles[0], weights, noise)
        torch.testing.assert_close(values[name][0], expected, rtol=0, atol=1e-10, msg=name)


@settings(max_examples=8)
@given(cases(max_wires=6, max_tasks=3, max_batch=3), noises(max_wires=6))
def test_same_as_strings(case, noise):
    assert_same_values_and_gradients(
        VectorSimulator(noise), NoisySimulator(noise), case, atol=1e-10
    )


@settings(max_examples=10)
@given(cases(max_wires=5, max_batch=3))
def test_no_noise_is_lightcone(case):
    assert_same_values_and_gradients(
        VectorSimulator(DeviceNoise()), LightConeSimulator(), case, atol=1e-12
    )


def test_transforms_and_jacobians():
    circuit, simulator = HeadCircuit(MIXED), VectorSimulator(DAMPED)
    angles, weights = random_angles(circuit, 4, grad=True), random_weights(circuit, grad=True)
    values = simulator.expectation_values(circuit, angles, weights)
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
    plain = {name: weight.detach() for name, weight in weights.items()}

    def value(row):
        return simulator.expectation_values(circuit, row[None], plain)["b"][0, 1]

    free = angles.detach().requires_grad_()
    slopes = torch.autograd.grad(
        simulator.expectation_values(circuit, free, plain)["b"][:, 1].sum(), free
    )[0]
    torch.testing.assert_close(
        torch.vmap(torch.func.grad(value))(angles.detach()), slopes, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("batch", [0, 1, 9])
def test_precision_and_chunks(batch):
    circuit = HeadCircuit([*MIXED, *binary_tasks(3)])
    angles, weights = random_angles(circuit, batch), random_weights(circuit)
    single = {name: w.float() for name, w in weights.items()}
    whole, chunked = VectorSimulator(DAMPED), VectorSimulator(DAMPED)
    whole.most_bytes = 10**9
    exact = whole.expectation_values(circuit, angles, weights)
    pieces = chunked.expectation_values(circuit, angles, weights)
    rounded = chunked.expectation_values(circuit, angles.float(), single)
    for name, value in exact.items():
        assert value.shape == (batch, circuit.task(name).n_outputs)
        assert rounded[name].dtype == torch.float32
        torch.testing.assert_close(pieces[name], value, rtol=0, atol=1e-14)
        torch.testing.assert_close(rounded[name].double(), value, rtol=0, atol=1e-5)


def test_an_output_that_is_always_zero():
    """X on the start is zero; so is whatever it would become."""
    ops = (Op("Hadamard", (0,), None), Op("RX", (0,), 0))
    (program,) = contractions(ops, (0b1,), 1, are_apart=False)
    assert (program.places, program.steps, program.operations) == ((-1,), (), 0)


def test_wires_are_joined_late_and_leave_early():
    """A line of many wires never makes a long vector."""
    n = 30
    ops = [Op("RY", (w,), w) for w in range(n)]
    ops += [Op("CZ", (w, w + 1), None) for w in range(n - 1)]
    ops += [Op("RY", (w,), n + w) for w in range(n)]
    (program,) = contractions(tuple(ops), (1 << n // 2,), n, are_apart=False)
    assert program.largest <= 27
    chain = [op for w in range(n - 1) for op in (Op("CZ", (w, w + 1), None), Op("RX", (w + 1,), w))]
    (program,) = contractions((*ops[:n], *chain), (1 << n - 1,), n, are_apart=False)
    assert program.largest <= 64


def test_channels_are_matrices():
    def matrix(channel):
        return channel_matrices(np.array([[*channel.factors, channel.shift]]), 1)[0]

    channel = Channel.thermal_relaxation(50e-6, 70e-6, 4e-6, 0.1)
    again = matrix(channel.then(Channel.depolarising(0.1)))
    assert matrix(Channel.depolarising(0.1)) @ matrix(channel) == pytest.approx(again)


# --- wide registers ----------------------------------------------------------------------------


RELAXING = DeviceNoise(Channel.thermal_relaxation(1e-4, 8e-5, 3e-7), readout=(0.01, 0.03))


def engine_of(circuit, noise, task):
    (engine,) = NoisySimulator(noise)._prepare(circuit, [task]).engines
    return engine


def wide_circuit(n_layers=2):
    """Ten classes on four wires beside two targets: the digits recipe's widest register."""
    tasks = [Task.multiclass("digit", 10), Task.regression("two", 2), Task.binary("a")]
    return HeadCircuit(tasks, AngleEncoding(n_layers=n_layers))


def test_ten_classes_under_relaxation():
    circuit = wide_circuit()
    angles, weights = random_angles(circuit, 3), random_weights(circuit)
    strings, vectors = NoisySimulator(RELAXING), VectorSimulator(RELAXING)
    exact = strings.expectation_values(circuit, angles, weights)
    other = vectors.expectation_values(circuit, angles, weights)
    for name, value in exact.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-12)


def test_cones_too_large_for_strings_take_vectors():
    circuit = wide_circuit(n_layers=3)
    assert isinstance(engine_of(circuit, RELAXING, "digit"), NetworkEngine)
    assert isinstance(engine_of(circuit, RELAXING, "a"), PauliEngine)
    angles, weights = random_angles(circuit, 1, grad=True), random_weights(circuit)
    values = NoisySimulator(RELAXING).expectation_values(circuit, angles, weights, ["digit"])
    value = values["digit"]
    slope = torch.autograd.grad(value[0, 3], angles)[0][0]
    step = torch.zeros_like(angles)
    step[0, 2] = 1e-5

    def at(place):
        found = NoisySimulator(RELAXING).expectation_values(circuit, place, weights, ["digit"])
        return found["digit"][0, 3]

    with torch.no_grad():
        expected = (at(angles + step) - at(angles - step)) / 2e-5
    torch.testing.assert_close(slope[2], expected, rtol=0, atol=1e-8)


def test_many_labels_run_apart():
    circuit = HeadCircuit([Task.multilabel("labels", 9)])
    (group,) = NoisySimulator(RELAXING).plan(circuit).groups
    programs = group.cone.contractions()
    assert len(programs) == 9
    assert max(program.largest for program in programs) < 10_000


def test_blocks_that_depend_on_the_sample():
    circuit = HeadCircuit(binary_tasks(3), ansatz=FeatureBlock())
    assert isinstance(engine_of(circuit, DAMPED, "t1"), NetworkEngine)
    angles, weights = random_angles(circuit, 1), random_weights(circuit)
    values = NoisySimulator(DAMPED).expectation_values(circuit, angles, weights)
    for name in circuit.registers:
        expected = mixed_outputs(circuit, name, angles[0], weights, DAMPED)
        torch.testing.assert_close(values[name][0], expected, rtol=0, atol=1e-10)


def test_what_does_not_fit_is_told():
    circuit = HeadCircuit(binary_tasks(7), AngleEncoding(n_layers=3, entangler="all_to_all"))
    with pytest.raises(
        CircuitTooLargeError, match=r"'t0': under noise .* 14 of 14 wires.* entangler"
    ):
        NoisySimulator(RELAXING).expectation_values(
            circuit, random_angles(circuit), random_weights(circuit)
        )
