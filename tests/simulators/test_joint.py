"""Tasks that look at the same wires, run on one state: the same numbers, zeros included."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qmtl import AngleEncoding, HeadCircuit, IQPEncoding, QuantumHead, Task
from qmtl.circuit import Angle, Gate
from qmtl.errors import CircuitTooLargeError
from qmtl.simulators import (
    LightConeSimulator,
    PennyLaneSimulator,
    compilation,
    engine_choice,
)
from tests.laws import assert_gradients_stay_in_cone, assert_subset_is_the_same, vjp
from tests.strategies import ansatze, binary_tasks, random_angles, random_case, random_weights

JOINT, EAGER = LightConeSimulator(), LightConeSimulator(engine="eager")
DENSE = AngleEncoding(entangler="all_to_all")
MIXED = [Task.binary("a"), Task.multiclass("b", 3), Task.multilabel("c", 2), Task.regression("d")]
CIRCUIT = HeadCircuit([*MIXED, *binary_tasks(2)], DENSE, wires_per_task=2)


@pytest.fixture(autouse=True)
def _joint_whatever_it_costs(monkeypatch):
    monkeypatch.setattr(engine_choice, "_cost", lambda plan: not plan.is_joint)


def is_joint(circuit):
    groups = JOINT.plan(circuit).groups
    return [len(member) for group in groups for member in group.members] == [len(circuit.tasks)]


def assert_close_to(found, expected, atol=1e-10):
    for a, b in zip(found, expected, strict=True):
        for name in b:
            torch.testing.assert_close(a[name], b[name], atol=atol, rtol=0)


def test_the_circuit_is_joint():
    assert is_joint(CIRCUIT)
    plan = JOINT.plan(CIRCUIT)
    assert plan.groups[0].tasks == tuple(CIRCUIT.registers)
    assert plan.groups[0].amplitudes == 2**CIRCUIT.n_wires
    assert sum(g.amplitudes for g in EAGER.plan(CIRCUIT).groups) == 6 * 2**CIRCUIT.n_wires


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_gradients_are_those_of_pennylane(dtype):
    angles, weights = random_angles(CIRCUIT, 3), random_weights(CIRCUIT)
    expected = vjp(PennyLaneSimulator("default.qubit"), CIRCUIT, angles, weights)
    found = vjp(
        JOINT,
        CIRCUIT,
        angles.to(dtype),
        {name: weight.to(dtype) for name, weight in weights.items()},
    )
    atol = 1e-10 if dtype == torch.float64 else 1e-5
    assert_close_to([{k: v.double() for k, v in part.items()} for part in found], expected, atol)


@settings(max_examples=25, deadline=None)
@given(
    ansatze,
    st.lists(st.sampled_from(range(len(MIXED))), min_size=2, max_size=3),
    st.sampled_from([DENSE, IQPEncoding(pattern="all_to_all"), AngleEncoding(3, axes="XY")]),
    st.integers(0, 10**6),
)
def test_random_circuits(ansatz, which, encoding, seed):
    kinds = [MIXED[i] for i in which]
    tasks = [
        type(kind)(f"{kind.name}{i}", kind.kind, kind.n_outputs) for i, kind in enumerate(kinds)
    ]
    circuit = HeadCircuit(tasks, encoding, ansatz, wires_per_task=2)
    case = random_case(circuit, 2, seed)
    found = vjp(JOINT, circuit, case.angles(), case.weights())
    assert_close_to(found, vjp(EAGER, circuit, case.angles(), case.weights()))
    assert_gradients_stay_in_cone(JOINT, case)


@pytest.mark.parametrize("some", [["b"], ["d", "a", "c"], ["t1", "b"]])
def test_some_of_the_tasks(some):
    assert_subset_is_the_same(JOINT, random_case(CIRCUIT), some, atol=1e-12)


def test_what_nobody_asks_for_has_a_gradient_of_zero():
    angles, weights = random_angles(CIRCUIT, 3), random_weights(CIRCUIT, grad=True)
    values = JOINT.expectation_values(CIRCUIT, angles, weights)
    names = list(CIRCUIT.registers)
    for name in names:
        found = torch.autograd.grad(
            values[name].square().sum(), [weights[n] for n in names], retain_graph=True
        )
        for other, gradient in zip(names, found, strict=True):
            assert bool((gradient == 0).all()) == (other != name)
    nan = torch.autograd.grad(torch.nan * values["b"].sum(), [weights["b"], weights["a"]])
    assert nan[0].isnan().all()
    assert (nan[1] == 0).all()


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_what_is_wrong_with_one_task_stays_with_it(wrong):
    angles, weights = random_angles(CIRCUIT, 3), random_weights(CIRCUIT)
    right = JOINT.expectation_values(CIRCUIT, angles, weights)
    found = JOINT.expectation_values(
        CIRCUIT, angles, weights | {"d": torch.full_like(weights["d"], wrong)}
    )
    for name, values in found.items():
        assert values.isnan().all() if name == "d" else torch.allclose(values, right[name])

    weights = random_weights(CIRCUIT, grad=True)
    values = JOINT.expectation_values(CIRCUIT, angles, weights)
    names = list(CIRCUIT.registers)
    loss = values["b"].square().sum() + (values["d"] * wrong).sum()
    gradients = torch.autograd.grad(loss, [weights[n] for n in (*names, "encoding")])
    finite = [bool(gradient.isfinite().all()) for gradient in gradients]
    assert finite == [name != "d" for name in names] + [False]
    again = JOINT.expectation_values(CIRCUIT, angles, weights, ["b"])["b"]
    (expected,) = torch.autograd.grad(again.square().sum(), [weights["b"]])
    torch.testing.assert_close(gradients[names.index("b")], expected, atol=1e-10, rtol=0)


def test_small_probabilities_are_precise_beside_other_readouts(monkeypatch):
    monkeypatch.undo()
    tasks = [*binary_tasks(2), Task.multiclass("m", 4)]
    circuit = HeadCircuit(tasks, AngleEncoding(1, entangler="all_to_all"))
    angles, weights = random_angles(circuit, 50) / 100, random_weights(circuit)
    weights = {name: weight / 50 for name, weight in weights.items()}
    exact = EAGER.expectation_values(circuit, angles, weights)["m"]
    assert exact.min() < 1e-6
    weights = {name: weight.float() for name, weight in weights.items()}
    for one in (None, ["m"]):
        found = JOINT.expectation_values(circuit, angles.float(), weights, one)["m"].double()
        torch.testing.assert_close(found, exact, atol=1e-15, rtol=1e-3)


def test_zeros_are_zero_by_torch_operations_too():
    circuit = HeadCircuit(binary_tasks(4), DENSE)
    assert is_joint(circuit)
    angles, weights = random_angles(circuit, 3), random_weights(circuit, grad=True)
    values = JOINT.expectation_values(circuit, angles, weights)
    losses = torch.stack([value.square().sum() for value in values.values()])
    (rows,) = torch.autograd.grad(
        losses, [weights["t2"]], torch.eye(4).double(), is_grads_batched=True, retain_graph=True
    )
    assert (rows.abs().sum(1) > 0).tolist() == [False, False, True, False]
    (first,) = torch.autograd.grad(losses[0], [weights["t0"]], create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), [weights["t2"]])
    assert (second == 0).all()


def test_a_row_of_the_jacobian_for_each_task():
    angles, weights = random_angles(CIRCUIT, 3, grad=True), random_weights(CIRCUIT, grad=True)
    values = JOINT.expectation_values(CIRCUIT, angles, weights)
    losses = torch.stack([value.square().sum() for value in values.values()])
    inputs = (angles, weights["encoding"], weights["c"])

    def row_of(row):
        return torch.autograd.grad(losses, inputs, row, retain_graph=True)

    rows = torch.vmap(row_of)(torch.eye(len(values), dtype=torch.float64))
    for i, row in enumerate(torch.eye(len(values), dtype=torch.float64)):
        for a, b in zip(rows, row_of(row), strict=True):
            torch.testing.assert_close(a[i], b, atol=1e-12, rtol=0)
    assert (rows[2].flatten(1).abs().sum(1) > 0).tolist() == [i == 2 for i in range(len(values))]


def test_second_derivatives_and_transforms():
    circuit = HeadCircuit(MIXED[:3], DENSE, wires_per_task=2)
    assert is_joint(circuit)
    angles, weights = random_angles(circuit, 1), random_weights(circuit)

    def loss(simulator):
        def total(angles):
            values = simulator.expectation_values(circuit, angles, weights)
            return torch.cat(list(values.values()), dim=1).pow(2).sum()

        return total

    for transform in (torch.func.grad, torch.func.hessian):
        found, expected = (transform(loss(s))(angles) for s in (JOINT, EAGER))
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    found, expected = (torch.autograd.functional.hessian(loss(s), angles) for s in (JOINT, EAGER))
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_no_bit_depends_on_the_threads(monkeypatch):
    asked = []
    call = compilation.Kernel.call

    def counted(*arguments, **options):
        asked.append(call(*arguments, **options))
        return asked[-1]

    monkeypatch.setattr(compilation.Kernel, "call", counted)
    circuit = HeadCircuit(binary_tasks(6), DENSE)
    angles, weights = random_angles(circuit, 32), random_weights(circuit)
    one = vjp(JOINT, circuit, angles, weights)
    torch.set_num_threads(2)
    try:
        two = vjp(JOINT, circuit, angles, weights)
    finally:
        torch.set_num_threads(1)
    assert [found.n_threads for found in asked] == [1, 1, 2, 2]
    for a, b in zip(one, two, strict=True):
        assert all(a[name].equal(b[name]) for name in a)


def test_in_chunks():
    needed = JOINT.explain(CIRCUIT, 8, torch.float64).bytes
    assert JOINT.explain(CIRCUIT, 64, torch.float64).bytes > needed
    small = LightConeSimulator(max_memory=needed)
    angles, weights = random_angles(CIRCUIT, 64), random_weights(CIRCUIT)
    assert_close_to(
        vjp(small, CIRCUIT, angles, weights), vjp(JOINT, CIRCUIT, angles, weights), 1e-12
    )


@pytest.mark.parametrize(
    "circuit",
    [
        HeadCircuit(binary_tasks(6)),
        HeadCircuit(binary_tasks(1), DENSE),
        HeadCircuit(binary_tasks(4), DENSE, layout="shared", n_wires=4),
        # Fewer gates of the last layer reach a task on a ring.
        HeadCircuit(binary_tasks(4), AngleEncoding(8, trainable="Y", entangler="cz_line")),
        # 2^16 states read by 64 outputs.
        HeadCircuit([Task.multiclass(f"m{i}", 16) for i in range(4)], DENSE),
    ],
)
def test_other_circuits_are_not(circuit):
    assert not is_joint(circuit) or len(circuit.tasks) == 1


def test_it_is_chosen_where_it_takes_fewer_operations(monkeypatch):
    monkeypatch.undo()
    circuit = HeadCircuit(binary_tasks(6), DENSE)
    joint = LightConeSimulator().explain(circuit, 32)
    assert joint.groups[0].n_cones == 1
    assert "1 state of 2^12 amplitudes per sample" in str(joint)
    apart = LightConeSimulator(engine="eager").explain(circuit, 32)
    assert joint.operations < apart.operations / 3


def test_a_head_trains_on_it():
    head = QuantumHead(HeadCircuit(binary_tasks(6), DENSE), seed=0)
    logits = head(torch.zeros(2, 12))
    sum(value.sum() for value in logits.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_what_no_memory_holds_is_an_error():
    circuit = HeadCircuit(binary_tasks(20), DENSE)
    weights = random_weights(circuit, torch.float32)
    with pytest.raises(CircuitTooLargeError, match=r"40 of 40 wires.*entangler 'all_to_all'"):
        JOINT.expectation_values(circuit, torch.zeros(1, circuit.n_features), weights)
    assert "does not fit" in str(JOINT.explain(circuit, 1))


@dataclass(frozen=True)
class FedAgain:
    """A block that loads a feature of its own wire."""

    def n_weights(self, n_wires, read):
        return 1

    def gates(self, n_wires, read):
        return [Gate("RX", (0,), Angle(features=(0,), weight=0))]


def test_blocks_with_features_run_apart():
    circuit = HeadCircuit(binary_tasks(4), DENSE, FedAgain())
    assert not is_joint(circuit)
    case = random_case(circuit, 2)
    found = vjp(JOINT, circuit, case.angles(), case.weights())
    assert_close_to(found, vjp(EAGER, circuit, case.angles(), case.weights()))
