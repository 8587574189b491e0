import copy
import pickle
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from qmtl.circuit import AngleEncoding, HeadCircuit, IdentityAnsatz, PauliStrings
from qmtl.errors import CircuitTooLargeError
from qmtl.simulators.engine_choice import engine_of
from qmtl.simulators.lightcone import CACHED_PLANS, LightConeSimulator
from qmtl.simulators.plan import build_plan
from qmtl.tasks import Task
from tests.strategies import binary_tasks, head_circuits, random_angles, random_weights


def plan_of(circuit, tasks=None):
    return build_plan(circuit, list(circuit.registers) if tasks is None else tasks)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda plan: pickle.loads(pickle.dumps(plan))])
def test_copies_make_engines_of_their_own(copied):
    """Which hold addresses."""
    circuit = HeadCircuit([Task.multiclass(f"t{i}", 4) for i in range(3)])
    plan, weights = plan_of(circuit), torch.zeros(3, 20)
    (group,) = plan.groups
    inputs = (random_angles(circuit, 5).T, random_weights(circuit)["encoding"], weights.double())
    expected, _ = engine_of(group, compiled=True).forward(inputs, False)
    plan.kept["engines"] = group.kept
    other = copied(plan)
    assert not other.kept
    engine = engine_of(other.groups[0], compiled=True)
    assert engine is not engine_of(group, compiled=True)
    assert torch.equal(engine.forward(inputs, False)[0], expected)


@settings(max_examples=40)
@given(head_circuits(max_wires=8))
def test_every_task_is_in_one_group_on_its_own_cone(circuit):
    plan = plan_of(circuit)
    assert plan.tasks == tuple(circuit.registers)
    found = [
        (name, output)
        for group in plan.groups
        for name, outputs in zip(group.tasks, group.outputs, strict=True)
        for output in outputs
    ]
    assert sorted(found) == sorted(
        (task.name, output) for task in circuit.tasks for output in range(task.n_outputs)
    )
    for group in plan.groups:
        assert group.n_cones in (1, len(group.tasks))
        assert group.readout.shape[1] <= 2**group.n_inner
        rows = np.broadcast_to(group.wires, (len(group.tasks), group.n_wires))
        for name, wires in zip(group.tasks, rows.tolist(), strict=True):
            cone = circuit.light_cone(name).wires
            assert len(set(wires)) == len(wires)
            if circuit.layout == "shared":
                assert set(cone) <= set(wires)
            elif len(group.readout) == circuit.task(name).n_outputs:
                assert sorted(wires) == list(cone)
            else:
                assert set(wires) <= set(cone)
                assert len(wires) < len(cone)
            assert set(wires[: group.n_inner]) <= set(circuit.register(name).wires)


def test_a_ring_of_equal_tasks_is_one_group():
    (group,) = plan_of(HeadCircuit(binary_tasks(9))).groups
    assert group.wires.shape == (9, 6)
    assert group.n_inner == 2
    assert group.wires[0].tolist() == [0, 1, 16, 17, 2, 3]
    assert group.amplitudes == 9 * 64
    assert group.encoding_slots.features.shape[:2] == group.encoding_slots.weights.shape
    # Angles that depend on the sample come from features, the others from weights.
    both = [*group.encoding_slots.feature_slots, *group.encoding_slots.weight_slots]
    assert sorted(both) == list(range(group.encoding_slots.constants.shape[1]))
    assert len(group.block_slots.feature_slots) == 0


def test_the_ends_of_a_line_are_groups_of_their_own():
    groups = plan_of(HeadCircuit(binary_tasks(8), AngleEncoding(entangler="cz_line"))).groups
    assert [group.tasks for group in groups] == [
        ("t0",), tuple(f"t{i}" for i in range(1, 7)), ("t7",),
    ]  # fmt: skip


def test_a_small_ring_closes_on_itself():
    for n in range(1, 5):
        plan = plan_of(HeadCircuit(binary_tasks(n)))
        assert sum(len(group.tasks) for group in plan.groups) == n
        assert all(group.n_wires == min(6, 2 * n) for group in plan.groups)


def test_unequal_tasks_are_apart():
    tasks = [Task.binary("a"), Task.multiclass("b", 3), Task.binary("c"), Task.multiclass("d", 3)]
    circuit = HeadCircuit(tasks, wires_per_task=2)
    assert [group.tasks for group in plan_of(circuit).groups] == [("a", "c"), ("b", "d")]


def test_shared_tasks_share_one_encoded_state():
    circuit = HeadCircuit(binary_tasks(4), layout="shared", n_wires=3)
    (group,) = plan_of(circuit).groups
    assert (group.n_cones, group.n_wires) == (1, 3)
    assert group.tasks == ("t0", "t1", "t2", "t3")
    readouts = {"t0": PauliStrings(("ZI",)), "t1": PauliStrings(("IZ",))}
    apart = HeadCircuit(binary_tasks(2), AngleEncoding(1, entangler="none"), IdentityAnsatz(),
                        layout="shared", readouts=readouts)  # fmt: skip
    assert all(group.n_wires == 2 for group in plan_of(apart).groups)
    assert [g.n_wires for g in plan_of(apart, ["t1"]).groups] == [1]


def test_plans_are_kept_per_circuit_and_tasks():
    simulator = LightConeSimulator()
    circuit = HeadCircuit(binary_tasks(3))
    plan = simulator.plan(circuit)
    assert simulator.plan(HeadCircuit(binary_tasks(3))) is plan
    assert simulator.plan(circuit, ["t0", "t1", "t2"]) is plan
    assert simulator.plan(circuit, ["t1"]) is not plan
    for i in range(CACHED_PLANS):
        simulator.plan(HeadCircuit([Task.binary(f"x{i}")]))
    assert len(simulator._plans) == CACHED_PLANS
    assert simulator.plan(circuit) is not plan


@pytest.mark.parametrize("entangler", ["cnot_ring", "all_to_all"])
def test_hopeless_circuits_are_refused_at_once(entangler):
    circuit = HeadCircuit(binary_tasks(64), AngleEncoding(entangler=entangler))
    start = time.perf_counter()
    with pytest.raises(CircuitTooLargeError, match=f"128 of 128 wires.*{entangler}"):
        LightConeSimulator(engine="eager").plan(circuit)
    assert time.perf_counter() - start < 2


def test_registers_are_limited():
    readout = PauliStrings((21 * "Z",))
    wide = HeadCircuit(binary_tasks(1), readouts={"t0": readout}, ansatz=IdentityAnsatz())
    with pytest.raises(CircuitTooLargeError, match="21 of its wires are read together, at most 20"):
        plan_of(wide)


def test_a_string_over_distant_wires_needs_these_only():
    readout = PauliStrings(("Z" + 28 * "I" + "Z",))
    encoding = AngleEncoding(entangler="none")
    circuit = HeadCircuit(binary_tasks(1), encoding, IdentityAnsatz(), readouts={"t0": readout})
    (group,) = plan_of(circuit).groups
    assert group.wires.tolist() == [[0, 29]]
    assert group.readout.tolist() == [[1, -1, -1, 1]]


def test_labels_run_apart_when_that_is_less_work():
    (group,) = plan_of(HeadCircuit([Task.multilabel("m", 14)])).groups
    assert group.wires.shape == (14, 7)
    assert sorted(group.outputs) == [(i,) for i in range(14)]
    (together,) = plan_of(HeadCircuit([Task.multilabel("m", 2)])).groups
    assert together.outputs == ((0, 1),)


def test_a_wide_register_of_which_little_is_read_is_cheap():
    circuit = HeadCircuit(binary_tasks(2), wires_per_task=40)
    (group,) = plan_of(circuit).groups
    assert group.n_inner == 3
    values = LightConeSimulator().expectation_values(
        circuit, random_angles(circuit), random_weights(circuit)
    )
    assert values["t0"].shape == (3, 1)


def test_a_readout_of_the_last_wire_is_kept():
    # Only readouts that read the same wires of a narrower register may be written on one.
    class Last:
        n_outputs, min_wires, is_probability = 1, 1, False

        def read_wires(self, n_wires):
            return (n_wires // 2,)

        def matrix(self, n_wires):
            return PauliStrings(
                ("I" * (n_wires // 2) + "Z" + "I" * (n_wires - 1 - n_wires // 2),)
            ).matrix(n_wires)

    circuit = HeadCircuit(binary_tasks(1), wires_per_task=4, readouts={"t0": Last()})
    same = HeadCircuit(binary_tasks(1), wires_per_task=4, readouts={"t0": PauliStrings(("IIZI",))})
    angles, weights = random_angles(same), random_weights(same)
    simulator = LightConeSimulator()
    first = simulator.expectation_values(circuit, angles, weights)["t0"]
    assert first.equal(simulator.expectation_values(same, angles, weights)["t0"])


def test_many_wires_read_together_are_planned_at_once():
    tasks = [Task.multilabel("a", 14), Task.binary("b")]
    circuit = HeadCircuit(tasks, layout="shared", n_wires=14)
    start = time.perf_counter()
    assert LightConeSimulator().explain(circuit, 1).groups[0].engine == "state vectors"
    assert time.perf_counter() - start < 20
