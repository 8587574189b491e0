"""Plans: equal cones together, wherever they are, and without Python work per task."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.circuit import AngleEncoding, HeadCircuit, IdentityAnsatz, PauliStrings, RealAmplitudes
from qmtl.circuit import _light_cone as light_cone_module
from qmtl.errors import CircuitTooLargeError
from qmtl.noise import DeviceNoise
from qmtl.simulators import LightConeSimulator, NoisySimulator
from qmtl.simulators._cones import cones_of, moved_tasks, wire_table
from qmtl.simulators._lightcone import CACHED_PLANS
from qmtl.simulators._plan import build_plan
from qmtl.tasks import Task
from tests.laws import assert_same_values_and_gradients
from tests.simulators.engine_samples import EAGER, ScaledEncoding
from tests.strategies import (
    binary_tasks,
    cases,
    encodings,
    head_circuits,
    random_angles,
    random_case,
    random_weights,
)


def plan_of(circuit, tasks=None):
    return build_plan(circuit, list(circuit.registers) if tasks is None else tasks)


@given(head_circuits(max_wires=8))
def test_every_task_is_in_one_group_on_its_own_cone(circuit):
    plan = plan_of(circuit)
    assert plan.tasks == tuple(circuit.registers)
    columns = np.concatenate([group.columns.ravel() for group in plan.groups])
    assert sorted(columns.tolist()) == list(range(plan.n_outputs))
    for group in plan.groups:
        assert group.n_cones in (1, len(group.tasks))
        assert len(group.structure.readout[0]) <= 2**group.structure.n_inner
        rows = np.broadcast_to(group.wires, (len(group.tasks), group.structure.n_wires))
        for name, wires, own in zip(group.tasks, rows.tolist(), group.columns, strict=True):
            outputs = circuit.output_slices[name]
            assert set(own.tolist()) <= set(range(outputs.start, outputs.stop))
            cone = circuit.light_cone(name).wires
            assert len(set(wires)) == len(wires)
            if circuit.layout == "shared":
                assert set(cone) <= set(wires)
            elif len(own) == circuit.task(name).n_outputs:
                assert sorted(wires) == list(cone)
            else:
                assert set(wires) <= set(cone)
                assert len(wires) < len(cone)
            inner = wires[: group.structure.n_inner]
            assert set(inner) <= set(circuit.register(name).wires)


# --- translation of cones ----------------------------------------------------------------------


class Irregular:
    """Gates in no pattern: a wire's depend on its number."""

    def n_features(self, n_wires):
        return n_wires

    def n_weights(self, n_wires):
        return n_wires

    def gates(self, n_wires):
        gates = []
        for layer in range(2):
            gates += AngleEncoding(1, axes="YX"[layer]).gates(n_wires)[: n_wires + 3 * layer]
            gates += AngleEncoding(1, entangler="cnot_line").gates(n_wires)[-(n_wires // 2) :]
        return [g for g in gates if g.angle is None or g.angle.weight is None or g.wires[0] % 3]


SIZES = st.lists(st.integers(1, 3), min_size=1, max_size=7)


def assert_moved_as_walked(circuit, tasks=None):
    """Every task's cones, found by moving those of another task, are those of its own walk."""
    tasks = list(circuit.registers) if tasks is None else tasks
    table, n, seen = wire_table(circuit), circuit.n_wires, []
    for moved in moved_tasks(circuit, tasks):
        for i, shift in zip(moved.tasks.tolist(), moved.shifts.tolist(), strict=True):
            seen.append(i)
            alone = cones_of(circuit, tasks[i])
            assert len(alone) == len(moved.cones)
            for cone, own in zip(moved.cones, alone, strict=True):
                assert {(w + shift) % n for w in cone.wires} == set(own.wires)
                gates = table.moved(cone.encoding_gates, np.array([shift]))[0]
                assert sorted(gates.tolist()) == sorted(own.encoding_gates)
                assert (cone.outputs, cone.n_inner, cone.readout, cone.block, cone.sizes) == (
                    own.outputs, own.n_inner, own.readout, own.block, own.sizes
                )  # fmt: skip
                angles = [replace(angle, owner="") for angle in own.block_angles]
                assert [replace(angle, owner="") for angle in cone.block_angles] == angles
                if [(w + shift) % n for w in cone.wires] == list(own.wires):
                    assert cone.encoding == own.encoding
                    assert gates.tolist() == list(own.encoding_gates)
    assert sorted(seen) == list(range(len(tasks)))


@given(encodings(), SIZES, st.integers(0, 2))
def test_moved_cones_are_those_of_each_tasks_own_walk(encoding, sizes, kind):
    tasks = [
        Task.binary(f"t{i}") if size < 2 or kind == 0 else Task.multilabel(f"t{i}", 2)
        for i, size in enumerate(sizes)
    ]
    wires = {task.name: size for task, size in zip(tasks, sizes, strict=True)}
    circuit = HeadCircuit(tasks, encoding, RealAmplitudes(), wires_per_task=wires)
    assert_moved_as_walked(circuit)
    assert_moved_as_walked(circuit, [task.name for task in tasks[::-2]])


@pytest.mark.parametrize("entangler", ["cz_ring", "cz_line", "cnot_ring", "cnot_line"])
@pytest.mark.parametrize(("n_tasks", "size"), [(20, 2), (21, 1), (7, 3), (2, 1), (3, 1)])
def test_moved_cones_of_rings_and_lines(entangler, n_tasks, size):
    encoding = AngleEncoding(2, axes="XY", entangler=entangler)
    assert_moved_as_walked(HeadCircuit(binary_tasks(n_tasks), encoding, wires_per_task=size))


@given(SIZES)
def test_moved_cones_of_irregular_encodings(sizes):
    wires = {f"t{i}": size for i, size in enumerate(sizes)}
    circuit = HeadCircuit(binary_tasks(len(sizes)), Irregular(), wires_per_task=wires)
    assert_moved_as_walked(circuit)
    if circuit.n_wires < 10:
        assert_same_values_and_gradients(LightConeSimulator(), EAGER, random_case(circuit, 2))


@given(cases(max_wires=9, max_tasks=9, max_batch=2))
def test_subsets_in_any_order(case):
    tasks = list(case.circuit.registers)[::-2]
    assert_same_values_and_gradients(LightConeSimulator(), EAGER, case, tasks=tasks)


def test_constants_of_moved_cones_are_their_own():
    circuit = HeadCircuit(binary_tasks(6), ScaledEncoding())
    assert len(plan_of(circuit).groups) == 1
    assert_same_values_and_gradients(LightConeSimulator(), EAGER, random_case(circuit, 2))


# --- growth ------------------------------------------------------------------------------------


def calls_of_a_plan(n_tasks, monkeypatch, encoding=None):
    """How many backward walks a plan takes."""
    calls, walk = [], light_cone_module.Walk.back_through

    def counted(*arguments):
        calls.append(arguments)
        return walk(*arguments)

    circuit = HeadCircuit(binary_tasks(n_tasks), encoding)
    with monkeypatch.context() as patch:
        patch.setattr(light_cone_module.Walk, "back_through", counted)
        LightConeSimulator().plan(circuit)
    return len(calls)


@pytest.mark.parametrize("entangler", ["cz_ring", "cz_line", "none"])
def test_walks_of_a_plan_do_not_grow_with_the_tasks(entangler, monkeypatch):
    encoding = AngleEncoding(2, entangler=entangler)
    few, many = (calls_of_a_plan(n, monkeypatch, encoding) for n in (16, 4096))
    assert few == many <= 20


def test_4096_tasks_are_one_group():
    circuit = HeadCircuit(binary_tasks(4096))
    assert circuit.n_features == 8192
    plan = LightConeSimulator().plan(circuit)
    assert [group.wires.shape for group in plan.groups] == [(4096, 6)]


# --- groups ------------------------------------------------------------------------------------


def test_a_ring_of_equal_tasks_is_one_group():
    (group,) = plan_of(HeadCircuit(binary_tasks(9))).groups
    assert group.wires.shape == (9, 6)
    assert group.structure.n_inner == 2
    assert group.wires[0].tolist() == [0, 1, 16, 17, 2, 3]
    assert group.amplitudes == 9 * 64
    # Angles that depend on the sample, and the others.
    sampled, fixed = group.structure.encoding_slots
    assert sorted([*sampled, *fixed]) == list(range(group.encoding.columns.weights.shape[1]))
    assert group.encoding.is_sampled.nonzero()[0].tolist() == list(sampled)
    assert len(group.structure.block_slots[0]) == 0


def test_the_ends_of_a_line_are_groups_of_their_own():
    groups = plan_of(HeadCircuit(binary_tasks(8), AngleEncoding(entangler="cz_line"))).groups
    assert [group.tasks for group in groups] == [
        ("t0",), tuple(f"t{i}" for i in range(1, 7)), ("t7",),
    ]  # fmt: skip


def test_a_small_ring_closes_on_itself():
    for n in range(1, 5):
        plan = plan_of(HeadCircuit(binary_tasks(n)))
        assert sum(len(group.tasks) for group in plan.groups) == n
        assert all(group.structure.n_wires == min(6, 2 * n) for group in plan.groups)


def test_unequal_tasks_are_apart():
    tasks = [Task.binary("a"), Task.multiclass("b", 3), Task.binary("c"), Task.multiclass("d", 3)]
    circuit = HeadCircuit(tasks, wires_per_task=2)
    assert [group.tasks for group in plan_of(circuit).groups] == [("a", "c"), ("b", "d")]


def test_shared_tasks_share_one_encoded_state():
    circuit = HeadCircuit(binary_tasks(4), layout="shared", n_wires=3)
    (group,) = plan_of(circuit).groups
    assert (group.n_cones, group.structure.n_wires) == (1, 3)
    assert group.tasks == ("t0", "t1", "t2", "t3")
    readouts = {"t0": PauliStrings(("ZI",)), "t1": PauliStrings(("IZ",))}
    apart = HeadCircuit(binary_tasks(2), AngleEncoding(1, entangler="none"), IdentityAnsatz(),
                        layout="shared", readouts=readouts)  # fmt: skip
    assert all(group.structure.n_wires == 2 for group in plan_of(apart).groups)
    assert [g.structure.n_wires for g in plan_of(apart, ["t1"]).groups] == [1]


def test_plans_are_kept_per_circuit_and_tasks():
    simulator = LightConeSimulator()
    circuit = HeadCircuit(binary_tasks(3))
    plan = simulator.plan(circuit)
    assert simulator.plan(HeadCircuit(binary_tasks(3))) is plan
    assert simulator.plan(circuit, ["t1"]) is not plan
    for i in range(CACHED_PLANS):
        simulator.plan(HeadCircuit([Task.binary(f"x{i}")]))
    assert simulator.plan(circuit) is not plan


@pytest.mark.parametrize("entangler", ["cnot_ring", "all_to_all"])
def test_hopeless_circuits_are_refused(entangler):
    circuit = HeadCircuit(binary_tasks(64), AngleEncoding(entangler=entangler))
    with pytest.raises(CircuitTooLargeError, match=f"128 of 128 wires.*{entangler}"):
        LightConeSimulator(engine="eager").plan(circuit)


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
    assert group.structure.readout == ((1, -1, -1, 1),)


def test_labels_run_apart_when_that_is_less_work():
    (group,) = plan_of(HeadCircuit([Task.multilabel("m", 14)])).groups
    assert group.wires.shape == (14, 7)
    assert group.columns.tolist() == [[i] for i in range(14)]
    (together,) = plan_of(HeadCircuit([Task.multilabel("m", 2)])).groups
    assert together.columns.tolist() == [[0, 1]]


def test_a_wide_register_of_which_little_is_read_is_cheap():
    circuit = HeadCircuit(binary_tasks(2), wires_per_task=40)
    (group,) = plan_of(circuit).groups
    assert group.structure.n_inner == 3
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


def test_many_wires_read_together_are_planned():
    tasks = [Task.multilabel("a", 14), Task.binary("b")]
    circuit = HeadCircuit(tasks, layout="shared", n_wires=14)
    assert LightConeSimulator().explain(circuit, 1).groups[0].engine == "state vectors"


@pytest.mark.parametrize(
    "simulator", [LightConeSimulator(), NoisySimulator(DeviceNoise.uniform(0.01))]
)
def test_a_readout_with_too_many_outputs_for_its_wires_is_refused(simulator):
    circuit = HeadCircuit([Task.multiclass("a", 1024)], wires_per_task=20)
    with pytest.raises(CircuitTooLargeError, match=r"task 'a'.*1024 outputs on 20 wires"):
        simulator.explain(circuit, 1)
