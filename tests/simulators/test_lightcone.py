import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from qmtl.circuit import (
    AngleEncoding,
    HeadCircuit,
    IdentityAnsatz,
    IQPEncoding,
    RealAmplitudes,
    RotationAnsatz,
)
from qmtl.errors import InvalidInputError
from qmtl.simulators import LightConeSimulator, Simulator, simulator_for, simulator_from_dict
from qmtl.tasks import Task
from tests.laws import (
    assert_batch_is_samples,
    assert_gradients_stay_in_cone,
    assert_permuted,
    assert_subset_is_the_same,
    assert_valid_outputs,
    vjp,
)
from tests.simulators.engine_samples import FeatureBlock, head_inputs
from tests.strategies import binary_tasks, cases, random_angles, random_case, random_weights

SIMULATOR = LightConeSimulator()
MIXED = [Task.binary("a"), Task.multiclass("b", 3), Task.regression("c", 2)]


def evaluate(circuit, angles, weights, tasks=None):
    return SIMULATOR.expectation_values(circuit, angles, weights, tasks)


# --- laws on random circuits -------------------------------------------------------------------


@given(cases(max_wires=8))
def test_outputs_are_valid(case):
    assert_valid_outputs(
        case.circuit, evaluate(case.circuit, case.angles(), case.weights()), atol=1e-12
    )


@given(cases(max_wires=8, max_batch=3))
def test_gradients_stay_in_the_cone_exactly(case):
    # Tasks of a shared register have one state, with the gates that some of them do not need.
    atol = 0.0 if case.circuit.layout == "partitioned" else 1e-14
    assert_gradients_stay_in_cone(SIMULATOR, case, atol=atol)


@given(cases(max_wires=8), st.data())
def test_a_subset_of_tasks_is_the_same(case, data):
    names = list(case.circuit.registers)
    tasks = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    assert_subset_is_the_same(SIMULATOR, case, tasks, atol=1e-14)


@given(cases(max_wires=8))
def test_a_batch_is_its_samples(case):
    assert_batch_is_samples(SIMULATOR, case, atol=1e-14)


@given(cases(max_wires=6, max_tasks=3, max_batch=2))
def test_deterministic(case):
    first = vjp(SIMULATOR, case.circuit, case.angles(), case.weights())
    second = vjp(LightConeSimulator(), case.circuit, case.angles(), case.weights())
    for a, b in zip(first, second, strict=True):
        assert all(a[name].equal(b[name]) for name in a)


# --- permutations ------------------------------------------------------------------------------


def permuted_inputs(circuit, order, angles, weights):
    """Angles and weights with register ``order[i]`` moved to register i (equal registers)."""
    n, k = circuit.n_wires, circuit.n_wires // len(circuit.tasks)
    wires = [order[w // k] * k + w % k for w in range(n)]
    per_wire = angles.shape[1] // n
    moved = angles.reshape(len(angles), n, per_wire)[:, wires].flatten(1)
    names = list(circuit.registers)
    turned = {name: weights[names[order[i]]] for i, name in enumerate(names)}
    turned["encoding"] = weights["encoding"].reshape(-1, n)[:, wires].flatten()
    return moved, turned


def permuted_values(circuit, order):
    angles, weights = random_angles(circuit), random_weights(circuit)
    values = evaluate(circuit, angles, weights)
    return values, evaluate(circuit, *permuted_inputs(circuit, order, angles, weights))


ENCODINGS = [AngleEncoding(), AngleEncoding(3, axes="YX", trainable="ZY"), IQPEncoding()]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("n_tasks", "k"), [(5, 2), (4, 1), (5, 1), (3, 3)])
def test_cyclic_shifts_on_a_ring_permute_the_outputs(encoding, n_tasks, k):
    circuit = HeadCircuit(binary_tasks(n_tasks), encoding, wires_per_task=k)
    for shift in range(1, n_tasks):
        order = [(i + shift) % n_tasks for i in range(n_tasks)]
        values, permuted = permuted_values(circuit, order)
        assert_permuted(values, permuted, list(circuit.registers), order)


@pytest.mark.parametrize("order", [[1, 0, 2, 3, 4], [0, 2, 4, 1, 3], [4, 1, 2, 3, 0]])
def test_other_permutations_on_a_ring_do_not(order):
    circuit = HeadCircuit(binary_tasks(5))
    values, permuted = permuted_values(circuit, order)
    changed = [
        (permuted[f"t{i}"] - values[f"t{j}"]).abs().max().item() for i, j in enumerate(order)
    ]
    assert max(changed) > 1e-2


@pytest.mark.parametrize("order", [[1, 0, 2, 3], [2, 3, 1, 0], [3, 2, 1, 0]])
@pytest.mark.parametrize(
    "encoding", [AngleEncoding(entangler="none"), AngleEncoding(entangler="all_to_all")]
)
def test_without_an_entangler_or_with_all_pairs_any_permutation_does(order, encoding):
    circuit = HeadCircuit(binary_tasks(4), encoding)
    values, permuted = permuted_values(circuit, order)
    assert_permuted(values, permuted, list(circuit.registers), order)


@pytest.mark.parametrize("order", [[1, 0, 2, 3], [2, 3, 1, 0], [3, 2, 1, 0]])
def test_any_permutation_of_tasks_does_in_the_shared_layout(order):
    circuit = HeadCircuit(binary_tasks(4), layout="shared", n_wires=3)
    angles, weights = random_angles(circuit), random_weights(circuit)
    names = list(circuit.registers)
    turned = {name: weights[names[j]] for name, j in zip(names, order, strict=True)}
    turned["encoding"] = weights["encoding"]
    values, permuted = evaluate(circuit, angles, weights), evaluate(circuit, angles, turned)
    assert_permuted(values, permuted, names, order)
    # The order in which the tasks are named makes no difference either.
    other = HeadCircuit([circuit.tasks[j] for j in order], layout="shared", n_wires=3)
    again = evaluate(other, angles, weights)
    assert all(again[name].allclose(values[name], rtol=0, atol=1e-14) for name in names)


# --- derivatives -------------------------------------------------------------------------------

SMALL = [
    HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)]),
    HeadCircuit(
        binary_tasks(2), AngleEncoding(2, axes="XZ", trainable="YX", entangler="cnot_ring")
    ),
    HeadCircuit(binary_tasks(2), IQPEncoding(), RealAmplitudes(), layout="shared"),
    HeadCircuit(
        [Task.regression("a", 2)],
        AngleEncoding(2, reupload=False, trainable="Y"),
        RotationAnsatz(3),
        wires_per_task=3,
    ),
]


@pytest.mark.parametrize("circuit", SMALL)
def test_gradients_equal_finite_differences(circuit):
    inputs = head_inputs(circuit, 2)
    assert torch.autograd.gradcheck(lambda *t: SIMULATOR.logits(circuit, *t), inputs)


def test_second_derivatives_equal_finite_differences():
    """`tests.simulators.test_engines` compares those of more circuits with torch."""
    inputs = head_inputs(SMALL[0], 1)
    assert torch.autograd.gradgradcheck(lambda *t: SIMULATOR.logits(SMALL[0], *t), inputs)


@pytest.mark.parametrize("circuit", [*SMALL, HeadCircuit(MIXED)])
def test_gradients_of_weights_obey_the_parameter_shift_rule(circuit):
    angles, weights = random_angles(circuit, 2), torch.cat([*random_weights(circuit).values()])
    jacobian = torch.autograd.functional.jacobian(
        lambda w: SIMULATOR.values(circuit, angles, w), weights
    )
    for i, step in enumerate(torch.eye(len(weights), dtype=torch.float64) * torch.pi / 2):
        up, down = (SIMULATOR.values(circuit, angles, weights + s * step) for s in (1, -1))
        torch.testing.assert_close(jacobian[..., i], (up - down) / 2, rtol=0, atol=1e-12)


# --- what is asked for -------------------------------------------------------------------------


@pytest.mark.parametrize("entangler", ["cz_ring", "cnot_ring", "all_to_all"])
@pytest.mark.parametrize("engine", ["compiled", "eager"])
def test_outputs_are_in_the_order_asked_for(engine, entangler):
    tasks = [Task.binary("a"), Task.multiclass("b", 3), Task.multilabel("c", 2), Task.binary("d")]
    circuit = HeadCircuit(tasks, AngleEncoding(1, entangler=entangler))
    angles, weights = random_angles(circuit, 3), random_weights(circuit)
    flat, simulator = torch.cat([*weights.values()]), LightConeSimulator(engine=engine)
    for some in (None, ["d", "c", "a"], ["b"], []):
        found = simulator.values(circuit, angles, flat, some)
        apart = [
            simulator.expectation_values(circuit, angles, weights, [name])[name]
            for name in ("abcd" if some is None else some)
        ]
        expected = torch.cat([angles.new_zeros(3, 0), *apart], dim=1)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
        named = simulator.expectation_values(circuit, angles, flat, some)
        assert list(named) == list("abcd" if some is None else some)


@given(cases(max_wires=8, max_batch=2))
def test_dependencies_are_what_has_a_gradient(case):
    assert_dependencies(case, exact=case.circuit.layout == "partitioned")


@pytest.mark.parametrize("entangler", ["cnot_line", "cz_ring"])
def test_dependencies_of_chains_and_of_blocks_with_features(entangler):
    encoding = AngleEncoding(1, entangler=entangler)
    assert_dependencies(random_case(HeadCircuit(binary_tasks(7), encoding)), exact=True)
    case = random_case(HeadCircuit(binary_tasks(4), encoding, FeatureBlock()))
    assert_dependencies(case, exact=True)


def assert_dependencies(case, *, exact):
    """The pairs are those of the light cones (or more), and all that have a gradient."""
    circuit = case.circuit
    found = [set(zip(*map(list, part), strict=True)) for part in SIMULATOR.dependencies(circuit)]
    cones = [set(), set()]
    for i, name in enumerate(circuit.registers):
        cone = circuit.light_cone(name)
        cones[0] |= {(i, f) for g in cone.gates if g.angle for f in g.angle.features}
        used = {g.angle.weight for g in cone.encoding if g.angle}
        cones[1] |= {(i, weight) for weight in used - {None}}
        _, grads = vjp(SIMULATOR, circuit, case.angles(), case.weights(), [name], case.seed)
        for pairs, gradient in zip(found, (grads["angles"], grads["encoding"][None]), strict=True):
            assert {(i, j) for j in gradient.any(0).nonzero()[:, 0].tolist()} <= pairs
    for pairs, expected in zip(found, cones, strict=True):
        assert pairs == expected if exact else pairs >= expected


# --- precision ---------------------------------------------------------------------------------


class NoDouble(TorchDispatchMode):
    """Fails when an operation makes a tensor of double precision; counts the others."""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.operations += 1
                wide = tensor.dtype in (torch.float64, torch.complex128)
                # A plan's constants come from NumPy as they are, and are cast at once.
                assert not wide or "lift_fresh" in str(func), (
                    f"{func} made {tensor.dtype} of shape {tuple(tensor.shape)}"
                )
        return out


@given(cases(max_wires=6, max_tasks=3, max_batch=3))
def test_float32_stays_float32(case):
    circuit = case.circuit
    angles, weights = case.angles(torch.float32, grad=True), case.weights(torch.float32, grad=True)
    with NoDouble() as mode:
        eager = LightConeSimulator(engine="eager")
        values = eager.expectation_values(circuit, angles, weights)
        total = sum(v.square().sum() for v in values.values())
        grads = torch.autograd.grad(total, [angles, *weights.values()], allow_unused=True)
    assert mode.operations > 0
    assert {v.dtype for v in values.values()} == {torch.float32}
    assert {g.dtype for g in grads if g is not None} == {torch.float32}
    exact = evaluate(circuit, case.angles(), case.weights())
    for name, v in values.items():
        torch.testing.assert_close(v.double(), exact[name], rtol=0, atol=5e-6)


def test_default_dtype_does_not_matter():
    circuit = HeadCircuit(MIXED)
    case = random_case(circuit)
    expected = evaluate(circuit, case.angles(torch.float32), case.weights(torch.float32))
    torch.set_default_dtype(torch.float64)
    try:
        values = evaluate(circuit, case.angles(torch.float32), case.weights(torch.float32))
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(values[name].equal(expected[name]) for name in expected)


# --- inputs ------------------------------------------------------------------------------------


@pytest.fixture(params=["lightcone", "default.qubit"])
def simulator(request):
    return simulator_for(request.param)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"angles": torch.zeros(3, 7).double()}, r"shape \(batch, 8\), got \(3, 7\)"),
        ({"angles": torch.zeros(8).double()}, r"shape \(batch, 8\), got \(8,\)"),
        ({"angles": torch.zeros(1, 3, 8).double()}, r"shape \(batch, 8\), got \(1, 3, 8\)"),
        ({"angles": torch.zeros(3, 8).half()}, "a tensor of float32 or float64, got torch.float16"),
        ({"angles": torch.zeros(3, 8).int()}, "a tensor of float32 or float64, got torch.int32"),
        ({"angles": [[0.0] * 8]}, "a tensor of float32 or float64, got list"),
        ({"angles": torch.zeros(3, 8)}, "float32 as the angles are, got torch.float64"),
        ({"a": torch.zeros(5).double()}, r"weights\['a'\] must have shape \(6,\), got \(5,\)"),
        ({"a": torch.zeros(1, 6).double()}, r"shape \(6,\), got \(1, 6\)"),
        ({"encoding": torch.zeros(9).double()}, r"\['encoding'\] .* shape \(8,\), got \(9,\)"),
        ({"b": torch.zeros(8)}, r"\['b'\] must be torch.float64 .* got torch.float32"),
        ({"b": None}, r"weights must have the key 'b', got \['a', 'c', 'encoding'\]"),
        ({"encoding": None}, "must have the key 'encoding'"),
        ({"tasks": ["d"]}, "unknown task 'd'"),
        ({"tasks": "a"}, "sequence of names, got the string 'a'"),
        ({"tasks": ["a", "a"]}, r"must be distinct, got \['a', 'a'\]"),
    ],
)  # fmt: skip
def test_bad_inputs(simulator, change, message):
    circuit = HeadCircuit(MIXED)
    angles, weights = random_angles(circuit), random_weights(circuit)
    tasks = change.get("tasks")
    angles = change.get("angles", angles)
    weights |= {name: w for name, w in change.items() if name not in ("angles", "tasks")}
    weights = {name: w for name, w in weights.items() if w is not None}
    with pytest.raises(InvalidInputError, match=message):
        simulator.expectation_values(circuit, angles, weights, tasks)


def test_weights_of_tasks_that_are_not_asked_for_are_not_needed(simulator):
    circuit = HeadCircuit(MIXED)
    weights = random_weights(circuit)
    del weights["b"]
    values = simulator.expectation_values(circuit, random_angles(circuit), weights, ["c", "a"])
    assert list(values) == ["c", "a"]


def test_nan_is_the_heads_business(simulator):
    circuit = HeadCircuit(MIXED)
    angles = random_angles(circuit)
    angles[1] = torch.nan
    values = simulator.expectation_values(circuit, angles, random_weights(circuit))
    assert values["a"][1].isnan().all()
    if isinstance(simulator, LightConeSimulator):
        assert values["a"][[0, 2]].isfinite().all()


@pytest.mark.parametrize("memory", [True, 0, -1, "1GB", float("nan")])
def test_memory_that_is_no_number_of_bytes(memory):
    with pytest.raises(InvalidInputError, match="max_memory must be bytes > 0, or None, got"):
        LightConeSimulator(max_memory=memory)


@pytest.mark.parametrize("layout", ["partitioned", "shared"])
def test_no_tasks_and_no_samples(layout):
    circuit = HeadCircuit(MIXED, layout=layout)
    weights = random_weights(circuit, grad=True)
    assert evaluate(circuit, random_angles(circuit), weights, []) == {}
    empty = evaluate(circuit, random_angles(circuit, 0), weights)
    assert [tuple(v.shape) for v in empty.values()] == [(0, 1), (0, 3), (0, 2)]
    sum(v.sum() for v in empty.values()).backward()
    assert all(w.grad is None or (w.grad == 0).all() for w in weights.values())


def test_angles_are_not_changed_and_need_not_be_contiguous():
    circuit = HeadCircuit(MIXED)
    angles, weights = random_angles(circuit, 6), random_weights(circuit)
    before = angles.clone()
    expected = evaluate(circuit, angles, weights)
    assert angles.equal(before)
    strided = torch.empty(8, 12).double().T[::2]
    strided.copy_(angles)
    assert not strided.is_contiguous()
    values = evaluate(circuit, strided, weights)
    assert all(values[name].equal(expected[name]) for name in values)


def test_without_weights():
    circuit = HeadCircuit(binary_tasks(2), IQPEncoding(), IdentityAnsatz())
    assert circuit.count_parameters().circuit == 0
    values, grads = vjp(SIMULATOR, circuit, random_angles(circuit), random_weights(circuit))
    assert values["t0"].shape == (3, 1)
    assert grads["angles"].isfinite().all()


def test_simulators_can_be_copied():
    used = LightConeSimulator(max_memory=10**9)
    used.plan(HeadCircuit(MIXED))
    described = simulator_from_dict(used.to_dict())
    for other in (pickle.loads(pickle.dumps(used)), copy.deepcopy(used), described):
        assert repr(other) == "LightConeSimulator(max_memory=1000000000, engine='compiled')"
        assert other.plan(HeadCircuit(MIXED)).tasks == ("a", "b", "c")
    assert isinstance(used, Simulator)
