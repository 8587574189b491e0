"""What a noisy simulation says of itself before it runs."""

import pytest
import torch

from qmtl.circuit import AngleEncoding, HeadCircuit
from qmtl.heads import QuantumHead
from qmtl.noise import Channel, DeviceNoise
from qmtl.simulators import LightConeSimulator, NoisySimulator, ShotSimulator
from qmtl.tasks import Task
from tests.noise.reference import SPREAD, mixed_outputs
from tests.strategies import binary_tasks, random_angles, random_weights

UNIFORM = DeviceNoise.uniform(0.01, 0.02, 0.01)


def test_both_cones_are_shown():
    circuit = HeadCircuit(binary_tasks(7), AngleEncoding(n_layers=1))
    plan = NoisySimulator(UNIFORM).explain(circuit, 32)
    sizes = {(group.cone_wires, group.ideal_wires) for group in plan.groups}
    assert (6, 4) in sizes
    assert "cone 6 wires under noise, 4 without, block 2" in str(plan)
    assert plan.n_tasks == 7
    assert plan.fits
    assert plan.bytes > 0


def test_the_noisy_cone_is_what_matters():
    """Noise outside the shown cone changes nothing, noise in its outermost gate does."""
    circuit = HeadCircuit(binary_tasks(4), AngleEncoding(n_layers=1))
    angles, weights = random_angles(circuit, 1), random_weights(circuit)
    channel = Channel.pauli(SPREAD)

    def value(pair):
        noise = DeviceNoise(gates={("CZ", pair): ((channel, (0, 1)),)})
        return mixed_outputs(circuit, "t1", angles[0], weights, noise)

    exact = mixed_outputs(circuit, "t1", angles[0], weights, DeviceNoise())
    moved = {(i, (i + 1) % 8): float((value((i, (i + 1) % 8)) - exact).abs()) for i in range(8)}
    touched = {wire for pair, size in moved.items() if size > 1e-12 for wire in pair}
    assert len(touched) == 6


def test_heads_explain_their_own_simulator():
    circuit = HeadCircuit([Task.multiclass("digit", 10), Task.binary("a")])
    head = QuantumHead(circuit, NoisySimulator(UNIFORM), seed=0)
    assert "under noise" in str(head.explain(8))
    assert "under noise" in str(head.with_simulator(ShotSimulator(head.simulator, 5)).explain(8))
    shots = ShotSimulator(LightConeSimulator(), 5)
    assert str(head.with_simulator(shots).explain(8)) == str(
        head.with_simulator("lightcone").explain(8)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_does_not_fit_runs_in_chunks(dtype):
    circuit = HeadCircuit(binary_tasks(8))
    whole = NoisySimulator(UNIFORM)
    need = max(group.bytes for group in whole.explain(circuit, 4096, dtype).groups)
    scarce = NoisySimulator(UNIFORM, max_memory=need // 2)
    assert min(group.chunk for group in scarce.explain(circuit, 4096, dtype).groups) < 4096
    angles, weights = random_angles(circuit, 4096, dtype), random_weights(circuit, dtype)
    expected = whole.expectation_values(circuit, angles, weights)
    for name, values in scarce.expectation_values(circuit, angles, weights).items():
        torch.testing.assert_close(values, expected[name], rtol=0, atol=1e-5)
