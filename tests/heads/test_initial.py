"""How parameters start: every part from its own name, blocks near zero or near the equator."""

import math

import pennylane as qml
import pytest
import torch

from qmtl.circuit import ANSATZE, Angle, Gate, GateSequence, HeadCircuit
from qmtl.errors import InvalidInputError
from qmtl.heads import HEAD_TYPES, HeadOptions, QuantumHead, block_weights, build_head
from qmtl.pennylane import from_qfunc
from qmtl.tasks import Task
from tests.heads.rival_samples import features_for, rival

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


RY = Gate("RY", (0,), Angle(weight=0))


@pytest.mark.parametrize(
    ("gates", "turned"),
    [
        ([RY], True),
        ([RY, Gate("CZ", (0, 1)), Gate("RZ", (0,), Angle(weight=1))], True),
        ([RY, Gate("RX", (1,), Angle(weight=1))], True),
        ([Gate("RX", (0,), Angle(weight=0))], False),
        ([Gate("RY", (0,), Angle(weight=0, constant=2.0))], False),
        ([RY, Gate("CNOT", (1, 0))], False),
        ([RY, Gate("Hadamard", (0,))], False),
    ],
)
def test_blocks_that_no_turn_brings_to_the_equator_start_anywhere(gates, turned):
    block = GateSequence.of(2, gates)
    tasks = [Task.binary(f"t{i}") for i in range(40)]
    weights = QuantumHead(HeadCircuit(tasks, ansatz=block), seed=0).weights()
    found = torch.stack([weights[task.name].detach() for task in tasks])
    if turned:
        assert (found[:, 0] - math.pi / 2).abs().max() < 0.5
    else:
        assert 0 <= found.min() < 0.5
        assert 2 * math.pi - 0.5 < found.max() < 2 * math.pi


def test_templates_start_with_outputs_that_follow_the_features():
    """The outputs of PennyLane's templates differ between samples as those of the default block."""
    task, features = Task.binary("a"), torch.randn(200, 2, generator=torch.manual_seed(0))
    blocks = {
        template: from_qfunc(template, 2, weights=template.shape(n_layers=2, n_wires=2))
        for template in (qml.BasicEntanglerLayers, qml.StronglyEntanglingLayers)
    }
    for block in (None, *blocks.values()):
        heads = [QuantumHead(HeadCircuit([task], ansatz=block), seed=seed) for seed in range(10)]
        spread = torch.stack([head(features)["a"].std() for head in heads])
        assert spread.median() > 0.05


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


@pytest.mark.parametrize("kind", ["quantum", "quantum-no-block", "linear", "low-rank"])
def test_a_head_is_made_on_the_meta_device_and_filled_later(kind):
    """As torch, accelerate and Lightning make large models: without weights, which are loaded."""
    head = rival(kind)
    with torch.device("meta"):
        loaded, filled = rival(kind), rival(kind)
    assert {p.device.type for p in loaded.parameters()} == {"meta"}
    loaded.load_state_dict(head.state_dict(), assign=True)
    filled.to_empty(device="cpu").load_state_dict(head.state_dict())
    features = features_for(head)
    for made in (loaded, filled):
        for name, logits in made(features).items():
            assert torch.equal(logits, head(features)[name])


@pytest.mark.parametrize("kind", HEAD_TYPES)
def test_every_head_is_made_on_the_default_device(kind):
    with torch.device("meta"):
        head = rival(kind)
    assert {p.device.type for p in head.parameters()} == {"meta"}
