"""Tasks that look at the same wires, run on one state: the same numbers, zeros included."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qmtl import AngleEncoding, HeadCircuit, IQPEncoding, QuantumHead, Task
from qmtl.errors import CircuitTooLargeError
from qmtl.simulators import LightConeSimulator
from tests.laws import (
    assert_gradients_stay_in_cone,
    assert_same_values_and_gradients,
    assert_subset_is_the_same,
    vjp,
)
from tests.simulators.engine_samples import (
    EAGER,
    JOINT,
    REFERENCE,
    FeatureBlock,
    OneEngine,
    amplitudes,
    assert_all_close,
    head_inputs,
)
from tests.strategies import ansatze, binary_tasks, random_angles, random_case, random_weights

DENSE = AngleEncoding(entangler="all_to_all")
MIXED = [Task.binary("a"), Task.multiclass("b", 3), Task.multilabel("c", 2), Task.regression("d")]
CIRCUIT = HeadCircuit([*MIXED, *binary_tasks(2)], DENSE, wires_per_task=2)


def is_joint(circuit):
    return any(group.joint is not None for group in JOINT.plan(circuit).groups)


def test_the_circuit_is_joint():
    (group,) = JOINT.plan(CIRCUIT).groups
    assert group.tasks == tuple(CIRCUIT.registers)
    assert (group.n_cones, group.amplitudes) == (1, 2**CIRCUIT.n_wires)
    assert sum(g.amplitudes for g in EAGER.plan(CIRCUIT).groups) == 6 * 2**CIRCUIT.n_wires


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_gradients_are_those_of_pennylane(dtype):
    angles, weights = random_angles(CIRCUIT, 3), random_weights(CIRCUIT)
    expected = vjp(REFERENCE, CIRCUIT, angles, weights)
    weights = {name: weight.to(dtype) for name, weight in weights.items()}
    found = vjp(JOINT, CIRCUIT, angles.to(dtype), weights)
    for a, b in zip(found, expected, strict=True):
        double = [value.double() for value in a.values()]
        assert_all_close(double, b.values(), 1e-10 if dtype == torch.float64 else 1e-5)


@given(
    ansatze,
    st.lists(st.sampled_from(MIXED), min_size=2, max_size=3),
    st.sampled_from([DENSE, IQPEncoding(pattern="all_to_all"), AngleEncoding(3, axes="XY")]),
    st.integers(0, 10**6),
)
def test_random_circuits(ansatz, kinds, encoding, seed):
    tasks = [Task(f"{kind.name}{i}", kind.kind, kind.n_outputs) for i, kind in enumerate(kinds)]
    case = random_case(HeadCircuit(tasks, encoding, ansatz, wires_per_task=2), 2, seed)
    assert_same_values_and_gradients(JOINT, EAGER, case)
    assert_gradients_stay_in_cone(JOINT, case)


@pytest.mark.parametrize("some", [["b"], ["d", "a", "c"], ["t1", "b"]])
def test_some_of_the_tasks(some):
    assert_subset_is_the_same(JOINT, random_case(CIRCUIT), some, atol=1e-12)


@pytest.mark.parametrize("way", ["backward", "vmap", "is_grads_batched", "create_graph"])
def test_what_nobody_asks_for_has_a_gradient_of_zero(way):
    inputs = head_inputs(CIRCUIT)
    logits, blocks = JOINT.logits(CIRCUIT, *inputs), inputs[2]
    parts = [logits[:, own].square().sum() for own in CIRCUIT.output_slices.values()]
    losses, eye = torch.stack(parts), torch.eye(6, dtype=torch.float64)

    def row_of(row, **options):
        return torch.autograd.grad(losses, blocks, row, retain_graph=True, **options)[0]

    if way == "vmap":
        rows = torch.vmap(row_of)(eye)
    elif way == "is_grads_batched":
        rows = row_of(eye, is_grads_batched=True)
    else:
        rows = torch.stack([row_of(row, create_graph=way == "create_graph") for row in eye])
    first = CIRCUIT.n_encoding_weights
    slices = [CIRCUIT.weight_slices[name] for name in CIRCUIT.registers]
    own = torch.stack([rows[:, s.start - first : s.stop - first].any(1) for s in slices])
    assert torch.equal(own, eye.bool())
    if way == "create_graph":
        (second,) = torch.autograd.grad(rows[0].square().sum(), blocks)
        assert (second[slices[1].start - first :] == 0).all()


def test_blocks_that_are_not_finite_run_apart():
    """Or a task's NaN would be in the state of all."""
    circuit, made = HeadCircuit(binary_tasks(4), DENSE), []

    def counted(group):
        made.append(group.joint is not None)
        return amplitudes(group)

    simulator = OneEngine(counted, joint=True)
    inputs = head_inputs(circuit)
    simulator.logits(circuit, *inputs).sum().backward()
    assert made == [True]
    with torch.no_grad():
        inputs[2][-1] = torch.nan
    found = simulator.logits(circuit, *inputs)
    assert made == [True, False]
    assert_all_close([found[:, :3]], [EAGER.logits(circuit, *inputs)[:, :3]])


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
        HeadCircuit(binary_tasks(4), DENSE, FeatureBlock()),
    ],
)
def test_other_circuits_are_not(circuit):
    assert not is_joint(circuit)


def test_it_is_chosen_where_it_takes_fewer_operations():
    circuit = HeadCircuit(binary_tasks(6), DENSE)
    joint = LightConeSimulator().explain(circuit, 32)
    assert joint.groups[0].n_cones == 1
    assert "1 state of 2^12 amplitudes per sample" in str(joint)
    assert joint.operations < EAGER.explain(circuit, 32).operations / 3


def test_a_head_trains_on_it():
    head = QuantumHead(HeadCircuit(binary_tasks(6), DENSE), seed=0)
    logits = head(torch.zeros(2, 12))
    sum(value.sum() for value in logits.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_what_no_memory_holds_is_an_error():
    circuit = HeadCircuit(binary_tasks(20), DENSE)
    weights = torch.zeros(circuit.n_circuit_weights)
    with pytest.raises(CircuitTooLargeError, match=r"40 of 40 wires.*entangler 'all_to_all'"):
        LightConeSimulator().values(circuit, torch.zeros(1, circuit.n_features), weights)
    assert "does not fit" in str(LightConeSimulator().explain(circuit, 1))
