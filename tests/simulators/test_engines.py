"""The compiled engines against torch: values, gradients, Jacobians, and every transform."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given

from qmtl import AngleEncoding, HeadCircuit, Task
from qmtl.circuit import IdentityAnsatz, RealAmplitudes
from qmtl.simulators import LightConeSimulator, compilation
from qmtl.simulators.amplitudes import build_program, work
from qmtl.simulators.amplitudes.engine import AmplitudeEngine
from qmtl.simulators.pauli import pauli_program
from qmtl.simulators.pauli.tape import Tape
from qmtl.simulators.plan import build_plan
from tests.laws import assert_same_values_and_gradients
from tests.simulators.engine_samples import CHUNKED, CIRCUITS, COMPILED, EAGER
from tests.strategies import binary_tasks, cases, random_angles, random_case, random_weights


@pytest.fixture(params=COMPILED.values(), ids=COMPILED)
def engine(request):
    return request.param


@pytest.fixture(params=CIRCUITS.values(), ids=CIRCUITS)
def circuit(request):
    return request.param


@pytest.mark.parametrize("engine", COMPILED.values(), ids=COMPILED)
@given(case=cases(max_wires=7))
def test_random_circuits_agree_with_torch(engine, case):
    assert_same_values_and_gradients(engine, EAGER, case)


@pytest.mark.parametrize("batch", [1, 9, 32, 33, 140])
def test_any_batch_agrees_with_torch(engine, circuit, batch):
    assert_same_values_and_gradients(engine, EAGER, random_case(circuit, batch))


@pytest.mark.parametrize("simulator", CHUNKED.values(), ids=CHUNKED)
def test_chunks_change_nothing(simulator, circuit):
    assert_same_values_and_gradients(simulator, EAGER, random_case(circuit, 8))


def _values_and_gradients(simulator, circuit, dtype, batch=40):
    angles = random_angles(circuit, batch, dtype, grad=True)
    weights = random_weights(circuit, dtype, grad=True)
    values = simulator.expectation_values(circuit, angles, weights)
    flat = torch.cat([value.flatten() for value in values.values()])
    inputs = [t for t in (angles, *weights.values()) if t.numel()]
    return flat, torch.autograd.grad(flat.square().sum(), inputs)


def test_single_precision_agrees_to_1e_5(engine, circuit):
    single, gradients = _values_and_gradients(engine, circuit, torch.float32)
    double, expected = _values_and_gradients(EAGER, circuit, torch.float64)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, atol=1e-5, rtol=1e-5)
    for gradient, reference in zip(gradients, expected, strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient.double(), reference, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_nothing_but_rounding(engine, circuit, dtype):
    one, gradients = _values_and_gradients(engine, circuit, dtype, batch=200)
    torch.set_num_threads(2)
    try:
        two, others = _values_and_gradients(engine, circuit, dtype, batch=200)
    finally:
        torch.set_num_threads(1)
    scale = 100 * torch.finfo(dtype).eps
    for a, b in zip((one, *gradients), (two, *others), strict=True):
        torch.testing.assert_close(a, b, atol=scale * float(b.detach().abs().max()), rtol=0)


def test_states_that_were_not_kept_are_computed_again(circuit, monkeypatch):
    engine = COMPILED["amplitudes"]
    kept = _values_and_gradients(engine, circuit, torch.float64)
    monkeypatch.setattr(work, "KEPT_STATES_BYTES", 1)
    again = _values_and_gradients(engine, circuit, torch.float64)
    assert torch.equal(kept[0], again[0])
    assert all(torch.equal(a, b) for a, b in zip(kept[1], again[1], strict=True))


def _held(value):
    """Addresses of all arrays that these hold."""
    if isinstance(value, torch.Tensor):
        return {value.data_ptr()}
    if isinstance(value, np.ndarray):
        return {value.__array_interface__["data"][0]}
    parts = value if isinstance(value, tuple | list) else getattr(value, "__dict__", {}).values()
    return set().union(*map(_held, parts))


def test_calls_hold_all_that_threads_work_on(engine, circuit, monkeypatch):
    """Which may go on for longer than the step, after Ctrl-C."""
    missing, run = [], compilation.run_in_threads

    def checked(address, data, n_threads, held):
        table = np.array(held.table[3:])
        # Sizes and counters are small; an empty array may be anywhere.
        missing.extend(set(table[table > 2**20].tolist()) - _held(held.arrays))
        run(address, data, n_threads, held)

    monkeypatch.setattr(compilation, "run_in_threads", checked)
    _jacobian_rows(engine, circuit, batched=True)
    monkeypatch.setattr(work, "KEPT_STATES_BYTES", 1)
    _jacobian_rows(engine, circuit, batched=True)
    assert not missing


def _jacobian_rows(simulator, circuit, batched):
    """Rows for mixed outputs and for outputs of one task, by the inputs."""
    angles, weights = random_angles(circuit, 6, grad=True), random_weights(circuit, grad=True)
    values = simulator.expectation_values(circuit, angles, weights)
    flat = torch.cat([value.flatten() for value in values.values()])
    dense = torch.randn(2, len(flat), generator=torch.Generator().manual_seed(3))
    rows = torch.cat([torch.eye(len(flat))[::5], dense]).double()
    inputs = [t for t in (angles, *weights.values()) if t.numel()]
    if batched:
        # torch.vmap is what TorchJD uses; is_grads_batched goes another way, tested below.
        return torch.vmap(lambda row: torch.autograd.grad(flat, inputs, row))(rows)
    each = [torch.autograd.grad(flat, inputs, row, retain_graph=True) for row in rows]
    return [torch.stack(column) for column in zip(*each, strict=True)]


def test_jacobian_in_one_pass_equals_separate_passes(engine, circuit):
    together = _jacobian_rows(engine, circuit, batched=True)
    apart = _jacobian_rows(EAGER, circuit, batched=False)
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def test_states_are_computed_again_for_each_row_of_a_jacobian(circuit, monkeypatch):
    run = AmplitudeEngine._run_kernel

    def within_bounds(engine, work, items, angles, states, values, rest, **direction):
        # A kernel's writes are not checked: outside of its arrays they break other memory.
        _, _, place, row, kept = items.max(0)
        assert row < len(values)
        assert kept < len(states)
        assert all(place < len(target) for target in rest[1:2] if direction["back"])
        run(engine, work, items, angles, states, values, rest, **direction)

    engine = COMPILED["amplitudes"]
    kept = _jacobian_rows(engine, circuit, batched=True)
    monkeypatch.setattr(work, "KEPT_STATES_BYTES", 1)
    monkeypatch.setattr(AmplitudeEngine, "_run_kernel", within_bounds)
    again = _jacobian_rows(engine, circuit, batched=True)
    for a, b in zip(again, kept, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("simulator", CHUNKED.values(), ids=CHUNKED)
def test_jacobian_in_chunks(simulator):
    together = _jacobian_rows(simulator, CIRCUITS["mixed"], batched=True)
    apart = _jacobian_rows(EAGER, CIRCUITS["mixed"], batched=False)
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def test_jacobian_runs_only_cones_that_have_a_gradient(monkeypatch):
    circuit, places = CIRCUITS["default"], []
    pull_back = Tape.pull_back

    def counted(tape, which, *arguments):
        places.append(len(which))
        return pull_back(tape, which, *arguments)

    monkeypatch.setattr(Tape, "pull_back", counted)
    angles, weights = random_angles(circuit, 4, grad=True), random_weights(circuit)
    values = COMPILED["paulis"].expectation_values(circuit, angles, weights)
    losses = torch.stack([value.sum() for value in values.values()])
    rows = torch.eye(5).double()
    fast = torch.vmap(lambda row: torch.autograd.grad(losses, angles, row, retain_graph=True)[0])
    jacobian = fast(rows)
    # Of five rows with five cones each; the blocks' weights need no gradient.
    assert places == [5]
    older = torch.autograd.grad(losses, angles, rows, is_grads_batched=True)[0]
    torch.testing.assert_close(jacobian, older)


def _gradients_by_some(simulator, circuit, wanted):
    angles, weights = random_angles(circuit, 5), random_weights(circuit)
    inputs = {"angles": angles, **weights}
    chosen = [inputs[name].requires_grad_() for name in inputs if wanted(name)]
    values = simulator.expectation_values(circuit, angles, weights)
    total = sum(value.square().sum() for value in values.values())
    return torch.autograd.grad(total, chosen)


@pytest.mark.parametrize(
    "wanted",
    [
        lambda name: name == "angles",
        lambda name: name == "encoding",
        lambda name: name not in ("angles", "encoding"),
        lambda name: name != "angles",
    ],
    ids=["features", "encoding", "own", "weights"],
)
def test_gradients_by_some_inputs_only(engine, wanted):
    circuit = CIRCUITS["mixed"]
    found = _gradients_by_some(engine, circuit, wanted)
    expected = _gradients_by_some(EAGER, circuit, wanted)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_gradients_that_nobody_asked_for_are_not_made(monkeypatch):
    tapes, pull_back = [], Tape.pull_back

    def counted(tape, *arguments):
        tapes.append(tape.rows.shape[1] > 0)
        return pull_back(tape, *arguments)

    monkeypatch.setattr(Tape, "pull_back", counted)
    for wanted, by_features in ((lambda n: n == "angles", [True]), (lambda n: n == "t0", [False])):
        tapes.clear()
        _gradients_by_some(COMPILED["paulis"], CIRCUITS["default"], wanted)
        assert tapes == by_features


def test_torchjd_gets_the_same_jacobian(engine):
    from torchjd.autojac import jac

    circuit, found = CIRCUITS["default"], []
    for simulator in (engine, EAGER):
        angles, weights = random_angles(circuit, 4, grad=True), random_weights(circuit, grad=True)
        values = simulator.expectation_values(circuit, angles, weights)
        losses = [value.square().mean() for value in values.values()]
        found.append(jac(losses, [angles, weights["encoding"]]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_older_batched_gradients_are_right(engine, circuit):
    angles, weights = random_angles(circuit, 3, grad=True), random_weights(circuit, grad=True)
    inputs = [t for t in (angles, *weights.values()) if t.numel()]
    found = []
    for simulator in (engine, EAGER):
        values = simulator.expectation_values(circuit, angles, weights)
        flat = torch.cat([value.flatten() for value in values.values()])
        rows = torch.eye(len(flat)).double()[::3]
        found.append(torch.autograd.grad(flat, inputs, rows, is_grads_batched=True))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def test_derivatives_of_constants(engine):
    """The outputs depend on nothing: torch's path, which further derivatives take, has no graph."""
    encoding = AngleEncoding(1, axes="Z", trainable="Z", entangler="none")
    blocks = {"a": IdentityAnsatz(), "b": RealAmplitudes(1)}
    circuit = HeadCircuit([Task.binary("a"), Task.binary("b")], encoding, blocks)
    angles, weights = random_angles(circuit, 3, grad=True), random_weights(circuit, grad=True)
    inputs = [angles, weights["encoding"]]
    values = engine.joined_values(circuit, angles, weights)
    rows = torch.ones(2, *values.shape, dtype=torch.float64)
    found = torch.autograd.grad(
        values, inputs, rows, is_grads_batched=True, retain_graph=True, materialize_grads=True
    )
    first = torch.autograd.grad(values.sum(), inputs, create_graph=True, materialize_grads=True)
    total = sum(gradient.sum() for gradient in first) + values.sum()
    second = torch.autograd.grad(total, [*inputs, weights["b"]], materialize_grads=True)
    assert sum(gradient.abs().sum() for gradient in (*found, *first, *second[:2])) < 1e-12
    assert second[2].abs().max() > 1e-3


def test_second_derivatives_are_right(engine, circuit):
    found = []
    for simulator in (engine, EAGER):
        angles, weights = random_angles(circuit, 2, grad=True), random_weights(circuit, grad=True)
        inputs = [t for t in (angles, *weights.values()) if t.numel()]
        values = simulator.expectation_values(circuit, angles, weights)
        total = sum(value.square().sum() for value in values.values())
        first = torch.autograd.grad(total, inputs, create_graph=True)
        square = sum(gradient.square().sum() for gradient in first)
        found.append(torch.autograd.grad(square, inputs))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kept", [2**28, 1])
def test_a_gradient_of_zero(engine, circuit, kept, monkeypatch):
    monkeypatch.setattr(work, "KEPT_STATES_BYTES", kept)
    angles, weights = random_angles(circuit, 2, grad=True), random_weights(circuit)
    values = engine.expectation_values(circuit, angles, weights)
    sum((value * 0).sum() for value in values.values()).backward()
    assert (angles.grad == 0).all()


def test_autocast_does_not_round(engine, circuit):
    angles = random_angles(circuit, 3, torch.float32, grad=True)
    weights = random_weights(circuit, torch.float32)
    plain = engine.expectation_values(circuit, angles, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = engine.expectation_values(circuit, angles, weights)
        total = sum(value.square().sum() for value in values.values())
        (gradient,) = torch.autograd.grad(total, angles)
    expected = torch.autograd.grad(sum(v.square().sum() for v in plain.values()), angles)[0]
    assert all(torch.equal(values[name], plain[name]) for name in plain)
    torch.testing.assert_close(gradient, expected)


def test_infinite_features_give_nan_without_a_warning(engine):
    circuit = CIRCUITS["default"]
    angles, weights = random_angles(circuit, 2), random_weights(circuit)
    angles[0, 0] = torch.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = engine.expectation_values(circuit, angles, weights)
    assert values["t0"][0].isnan().all()
    assert values["t0"][1].isfinite().all()


def test_encodings_without_weights(engine):
    circuit = HeadCircuit(binary_tasks(3), AngleEncoding(trainable=""))
    assert_same_values_and_gradients(engine, EAGER, random_case(circuit))


def test_scarce_memory_does_not_stop_function_transforms():
    circuit = CIRCUITS["default"]
    scarce = LightConeSimulator(max_memory=300_000)
    angles, weights = random_angles(circuit, 64), random_weights(circuit)

    def total(simulator, angles):
        values = simulator.expectation_values(circuit, angles, weights)
        return sum(value.square().sum() for value in values.values())

    found = torch.func.grad(lambda a: total(scarce, a))(angles)
    torch.testing.assert_close(found, torch.func.grad(lambda a: total(EAGER, a))(angles))


def test_third_derivatives_are_right(engine):
    circuit = HeadCircuit([Task.binary("a")])
    weights = random_weights(circuit)

    def derivative(simulator, order):
        angles = random_angles(circuit, 1, grad=True)
        result = simulator.expectation_values(circuit, angles, weights)["a"].sum()
        for _ in range(order):
            result = torch.autograd.grad(result, angles, create_graph=True)[0].sum()
        return result

    for order in (1, 2, 3):
        torch.testing.assert_close(derivative(engine, order), derivative(EAGER, order))


def test_nan_gradients_stay_nan(engine):
    circuit = CIRCUITS["default"]
    angles, weights = random_angles(circuit, 2, grad=True), random_weights(circuit)
    values = engine.expectation_values(circuit, angles, weights)
    (values["t0"].sum() * float("nan")).backward()
    seen = {f for g in circuit.light_cone("t0").gates if g.angle for f in g.angle.features}
    for feature in range(circuit.n_features):
        assert angles.grad[:, feature].isnan().all() == (feature in seen)


def test_forward_mode_runs_on_torch(engine):
    circuit = CIRCUITS["default"]
    angles, weights = random_angles(circuit, 2), random_weights(circuit)

    def outputs(angles):
        return engine.expectation_values(circuit, angles, weights)["t0"]

    backward = torch.autograd.functional.jacobian(outputs, angles)
    forward = torch.autograd.functional.jacobian(
        outputs, angles, vectorize=True, strategy="forward-mode"
    )
    torch.testing.assert_close(forward, backward)


def test_plans_are_shared_between_threads():
    from concurrent.futures import ThreadPoolExecutor
    from itertools import combinations

    circuit, simulator = HeadCircuit(binary_tasks(7)), LightConeSimulator()
    angles, weights = random_angles(circuit, 2), random_weights(circuit)
    subsets = [list(s) for n in (1, 2, 3, 4) for s in combinations(circuit.registers, n)] * 2
    with ThreadPoolExecutor(8) as pool:
        run = lambda s: simulator.expectation_values(circuit, angles, weights, s)  # noqa: E731
        for subset, values in zip(subsets, pool.map(run, subsets), strict=True):
            assert list(values) == subset


def test_blocks_that_read_features_run_on_torch():
    from dataclasses import dataclass

    from qmtl.circuit import Angle, Gate

    @dataclass(frozen=True)
    class FeatureBlock:
        def n_weights(self, n_wires, read):
            return 1

        def gates(self, n_wires, read):
            return [Gate("RX", (0,), Angle(features=(0,), weight=0))]

    circuit = HeadCircuit(binary_tasks(2), ansatz=FeatureBlock())
    (group,) = build_plan(circuit, ["t0"]).groups
    assert build_program(group) is None
    assert pauli_program(group.structure) is None
    assert_same_values_and_gradients(LightConeSimulator(), EAGER, random_case(circuit))


@pytest.mark.parametrize("n_tasks", [12, 30])
def test_cones_too_wide_for_states_run_as_pauli_strings(n_tasks):
    # Wires that start at |0> and stay there pass through CZs as if they were not there.
    dense = AngleEncoding(1, trainable="", entangler="all_to_all")
    wide, narrow = (HeadCircuit(binary_tasks(n), dense) for n in (n_tasks, 3))
    angles, weights = random_angles(narrow), random_weights(wide)
    idle = torch.zeros(len(angles), wide.n_features - narrow.n_features)
    simulator, asked = LightConeSimulator(), list(narrow.registers)
    assert simulator.explain(wide, 3).groups[0].engine == "Pauli strings"
    found = simulator.expectation_values(wide, torch.cat([angles, idle], 1), weights, asked)
    expected = EAGER.expectation_values(narrow, angles, weights)
    for name in asked:
        torch.testing.assert_close(found[name], expected[name], atol=1e-10, rtol=0)
