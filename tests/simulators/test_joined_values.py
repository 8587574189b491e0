"""All tasks' outputs in one tensor."""

import pytest
import torch

from qmtl.circuit import AngleEncoding, HeadCircuit
from qmtl.simulators import LightConeSimulator, joined_values
from qmtl.tasks import Task
from tests.strategies import random_angles, random_weights


class Halved(LightConeSimulator):
    """A simulator of one's own."""

    def expectation_values(self, *arguments, **options):
        values = super().expectation_values(*arguments, **options)
        return {name: value / 2 for name, value in values.items()}


@pytest.mark.parametrize("simulator", [LightConeSimulator(), LightConeSimulator(engine="eager")])
@pytest.mark.parametrize("entangler", ["cz_ring", "cnot_ring"])
def test_joined_values_are_in_the_order_asked_for(simulator, entangler):
    tasks = [Task.binary("a"), Task.multiclass("b", 3), Task.multilabel("c", 2), Task.binary("d")]
    circuit = HeadCircuit(tasks, AngleEncoding(entangler=entangler))
    angles, weights = random_angles(circuit, 3), random_weights(circuit)
    for some in (None, ["d", "c", "a"], ["b"], []):
        found = simulator.joined_values(circuit, angles, weights, some)
        apart = [
            simulator.expectation_values(circuit, angles, weights, [name])[name]
            for name in ("abcd" if some is None else some)
        ]
        expected = torch.cat([angles.new_zeros(3, 0), *apart], dim=1)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


class Reversed(LightConeSimulator):
    """Tasks in another order, and one more than asked for."""

    def expectation_values(self, circuit, angles, weights, tasks=None):
        values = super().expectation_values(circuit, angles, weights)
        return dict(reversed(values.items()))


def test_tasks_are_found_by_name():
    circuit = HeadCircuit([Task.binary("a"), Task.multiclass("b", 3), Task.binary("c")])
    inputs = circuit, random_angles(circuit, 3), random_weights(circuit)
    for some in (None, ["c", "b"]):
        found = joined_values(Reversed(), *inputs, some)
        torch.testing.assert_close(found, joined_values(LightConeSimulator(), *inputs, some))


def test_joined_values_of_a_simulator_of_ones_own_are_its_own():
    circuit = HeadCircuit([Task.binary("a"), Task.binary("b")])
    inputs = circuit, random_angles(circuit, 3), random_weights(circuit)
    own, plain = joined_values(Halved(), *inputs), joined_values(LightConeSimulator(), *inputs)
    torch.testing.assert_close(own, plain / 2)
    assert joined_values(Halved(), *inputs, []).shape == (3, 0)
