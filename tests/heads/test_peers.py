"""The hybrid peers: their circuits against PennyLane, what each task sees, and no dead weight."""

import pytest
import torch

from qmtl.circuit import (
    AngleEncoding,
    ExpectationZ,
    HeadCircuit,
    IQPEncoding,
    RealAmplitudes,
    RotationAnsatz,
)
from qmtl.errors import InvalidInputError
from qmtl.heads import SharedVQCHead, VQCPerTaskHead
from qmtl.tasks import Task
from tests.heads.rival_samples import features_for, mixed_tasks

TASKS = mixed_tasks(4)
HEADS = {
    "per task": lambda simulator: VQCPerTaskHead(HeadCircuit(TASKS[:3]), simulator, seed=0),
    "per task, shared register": lambda simulator: VQCPerTaskHead(
        HeadCircuit(TASKS[:3], layout="shared", n_wires=3), simulator, seed=0
    ),
    "per task, chosen": lambda simulator: VQCPerTaskHead(
        HeadCircuit(
            TASKS[:3],
            AngleEncoding(2, axes="XY", trainable="YZ", entangler="cnot_ring"),
            {"t0": RealAmplitudes(2)},
            wires_per_task={"t0": 3, "t2": 2},
        ),
        simulator,
        angle_map="identity",
        seed=0,
    ),
    "shared": lambda simulator: SharedVQCHead(TASKS, 4, simulator=simulator, seed=0),
    "shared, chosen": lambda simulator: SharedVQCHead(
        TASKS, 3, IQPEncoding(), RotationAnsatz(3), simulator, angle_map="identity", seed=0
    ),
}


@pytest.mark.parametrize("kind", HEADS)
def test_as_on_pennylane(kind):
    """Values and all gradients."""
    results = []
    for simulator in ("lightcone", "default.qubit"):
        head = HEADS[kind](simulator).double()
        x = features_for(head, batch=2, dtype=torch.float64).requires_grad_()
        logits = head(x)
        sum((i + 1) * value.square().sum() for i, value in enumerate(logits.values())).backward()
        results.append([*logits.values(), x.grad, *(p.grad for p in head.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


class TestPerTask:
    def test_by_hand(self):
        """Each task is the circuit of that task alone, with a linear layer after it."""
        circuit = HeadCircuit(TASKS)
        head = VQCPerTaskHead(circuit, angle_map="tanh", seed=0)
        x = features_for(head)
        logits = head(x)
        for task in TASKS:
            wires = circuit.register(task.name).wires
            alone = HeadCircuit(
                [Task.regression("z", len(wires))],
                wires_per_task=len(wires),
                readouts={"z": ExpectationZ(len(wires))},
            )
            angles = torch.pi * torch.tanh(x[:, list(wires)] / 2)
            weights = {"encoding": head.encodings[task.name], "z": head.blocks[task.name]}
            values = head.simulator.expectation_values(alone, angles, weights)["z"]
            weight, bias = head.layers.weight[task.name], head.layers.bias[task.name]
            torch.testing.assert_close(logits[task.name], values @ weight.T + bias)

    @pytest.mark.parametrize("layout", ["partitioned", "shared"])
    def test_features_that_a_task_sees(self, layout):
        circuit = HeadCircuit(TASKS, layout=layout)
        head = VQCPerTaskHead(circuit, angle_map="tanh", seed=0)
        x = features_for(head).requires_grad_()
        for name, value in head(x).items():
            (gradient,) = torch.autograd.grad(value.square().sum(), x, retain_graph=True)
            seen = tuple(gradient.any(dim=0).nonzero().flatten().tolist())
            assert seen == circuit.register(name).wires

    def test_features_that_cannot_be_dealt_out(self):
        class Odd(AngleEncoding):
            def n_features(self, n_wires):
                return n_wires + 1

        with pytest.raises(InvalidInputError, match="divided among registers: it takes 5"):
            VQCPerTaskHead(HeadCircuit([Task.binary("a"), Task.binary("b")], Odd()))


class TestShared:
    def test_width_does_not_grow(self):
        few, many = (SharedVQCHead(mixed_tasks(n), 4) for n in (2, 20))
        assert few.n_features == many.n_features == 4
        assert few.circuit == many.circuit

    def test_all_tasks_see_all_wires(self):
        head = SharedVQCHead(TASKS, 5, seed=0)
        x = features_for(head).requires_grad_()
        for value in head(x).values():
            (gradient,) = torch.autograd.grad(value.square().sum(), x, retain_graph=True)
            assert gradient.any(dim=0).all()

    def test_bad_wires(self):
        with pytest.raises(InvalidInputError, match="n_wires must be an integer >= 1, got 0"):
            SharedVQCHead(TASKS, 0)


@pytest.mark.parametrize("make", [VQCPerTaskHead, SharedVQCHead])
def test_bad_names(make):
    circuit = HeadCircuit(TASKS)
    first = circuit if make is VQCPerTaskHead else TASKS
    with pytest.raises(InvalidInputError, match="unknown angle_map 'tan'; did you mean 'tanh'"):
        make(first, angle_map="tan")
    with pytest.raises(InvalidInputError, match="unknown simulator 'lightcon'"):
        make(first, simulator="lightcon")


@pytest.mark.parametrize("kind", ["per task", "shared"])
def test_no_dead_weight(kind):
    """The Jacobian of what is measured, over many inputs, has full rank in the circuit weights."""
    head = HEADS[kind]("lightcone").double()
    circuit = head.separate if kind == "per task" else head.circuit
    given = (
        {"encoding": head.encodings(), **head.blocks.by_name()}
        if kind == "per task"
        else {"encoding": head.encoding, "wires": head.block}
    )
    generator = torch.Generator().manual_seed(0)
    angles = 6 * torch.rand(40, circuit.n_features, dtype=torch.float64, generator=generator)
    flat = torch.cat([value.detach() for value in given.values()])
    random = 6 * torch.rand(len(flat), dtype=torch.float64, generator=generator)

    def measured(weights):
        parts = weights.split([len(value) for value in given.values()])
        named = dict(zip(given, parts, strict=True))
        values = head.simulator.expectation_values(circuit, angles, named)
        return torch.cat([value.flatten() for value in values.values()])

    jacobian = torch.func.jacrev(measured)(random)
    assert int(torch.linalg.matrix_rank(jacobian, atol=1e-8)) == len(flat)
