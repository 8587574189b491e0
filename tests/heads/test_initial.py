"""How parameters start: every part from its own name, blocks near zero or near the equator."""

import math

import pytest
import torch

from qmtl.circuit import ANSATZE, Angle, Gate, HeadCircuit
from qmtl.errors import InvalidInputError
from qmtl.heads import HEAD_TYPES, HeadOptions, QuantumHead, block_weights, build_head
from qmtl.tasks import Task

TASKS = [
    Task.binary("cola"),
    Task.multiclass("emotion", 9),
    Task.regression("stsb", 2),
    Task.multilabel("findings", 3),
]
CIRCUIT = HeadCircuit(TASKS)


def test_every_read_wire_gets_a_quarter_turn_and_nothing_else_does():
    for name, register in CIRCUIT.registers.items():
        read = register.readout.read_wires(len(register.wires))
        weights = block_weights(0, name, CIRCUIT, name, "equator")
        turned = weights > math.pi / 4
        assert int(turned.sum()) == len(read)
        assert (weights - math.pi / 2 * turned).abs().max() < 0.5
        # RotationAnsatz ends in one RY per read wire.
        assert turned[-len(read) :].all()


@pytest.mark.parametrize("ansatz", ["RotationAnsatz", "RealAmplitudes"])
def test_outputs_are_undecided_and_slopes_are_steep_where_features_are_zero(ansatz):
    circuit = HeadCircuit(TASKS, ansatz=ANSATZE[ansatz]())
    head = QuantumHead(circuit, seed=0, initial="equator")
    angles = torch.zeros(1, circuit.n_features, requires_grad=True)
    values = head.expectation_values(angles)
    assert values["cola"].abs().max() < 0.3
    assert values["stsb"].abs().max() < 0.3
    # Sixteen basis states, of which nine are classes.
    assert (values["emotion"] - 1 / 16).abs().max() < 0.08
    wire = circuit.registers["cola"].wires[0]
    (slope,) = torch.autograd.grad(values["cola"].sum(), angles)
    # ⟨Z⟩ = cos(2 · angle + π/2): loaded twice.
    assert float(slope[0, wire]) == pytest.approx(-2, abs=0.2)


def test_blocks_that_have_no_such_turn_start_near_zero():
    class Turnless:
        def n_weights(self, n_wires, read):
            return 2

        def gates(self, n_wires, read):
            product = Angle(weight=1, constant=2.0)
            return [Gate("RX", (0,), Angle(weight=0)), Gate("RY", (0,), product)]

    circuit = HeadCircuit([Task.binary("a")], ansatz=Turnless())
    assert block_weights(0, "a", circuit, "a", "equator").abs().max() < 0.5


def test_a_task_draws_from_its_own_name():
    alone = block_weights(3, "task cola", HeadCircuit(TASKS[:1]), "cola", "equator")
    among = block_weights(3, "task cola", CIRCUIT, "cola", "equator")
    assert torch.equal(alone, among)
    assert not torch.equal(among, block_weights(4, "task cola", CIRCUIT, "cola", "equator"))


@pytest.mark.parametrize("kind", [kind for kind in HEAD_TYPES if "vqc" in kind or "quant" in kind])
def test_every_head_with_a_circuit_takes_it(kind):
    heads = [
        build_head(kind, CIRCUIT, HeadOptions(seed=0, initial=i)) for i in ("normal", "equator")
    ]
    same = [torch.equal(a, b) for a, b in zip(*(h.parameters() for h in heads), strict=True)]
    # There is no block to start anywhere.
    assert all(same) == (kind == "quantum-no-block")


@pytest.mark.parametrize("kind", ["quantum", "vqc-per-task", "shared-vqc"])
def test_an_unknown_start(kind):
    with pytest.raises(InvalidInputError, match="did you mean 'equator'"):
        build_head(kind, CIRCUIT, HeadOptions(initial="equater"))


def test_without_blocks_the_quarter_turn_stays():
    options = HeadOptions(seed=0, initial="equator")
    head = build_head("quantum-no-block", CIRCUIT, options)
    angles = torch.zeros(1, CIRCUIT.n_features, requires_grad=True)
    values = head.expectation_values(angles)
    assert float(values["cola"].detach()) == pytest.approx(0, abs=1e-6)
    (slope,) = torch.autograd.grad(values["cola"].sum(), angles)
    assert float(slope.abs().max()) > 1.9
    twin = QuantumHead.from_dict(head.to_dict())
    twin.load_state_dict(head.state_dict())
    assert torch.equal(twin.expectation_values(angles)["cola"], values["cola"])
    plain = build_head("quantum-no-block", CIRCUIT, HeadOptions(initial="normal"))
    assert not plain.circuit.ansatz("cola").turned
