"""The compiled engines against torch and PennyLane: values, gradients, and every transform."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given

from qmtl import AngleEncoding, HeadCircuit, Task
from qmtl.circuit import IdentityAnsatz, PauliStrings, RealAmplitudes
from qmtl.noise import DeviceNoise
from qmtl.simulators import ANGLE_MAPS, LightConeSimulator, NoisySimulator, _kernels
from qmtl.simulators._kernels import add_at
from tests.laws import assert_same_values_and_gradients
from tests.simulators.engine_samples import (
    CHUNKED,
    CIRCUITS,
    COMPILED,
    EAGER,
    REFERENCE,
    FeatureBlock,
    assert_all_close,
    head_inputs,
    mixed_sum,
)
from tests.strategies import binary_tasks, cases, random_angles, random_case, random_weights


@pytest.fixture(params=COMPILED.values(), ids=COMPILED)
def engine(request):
    return request.param


@pytest.fixture(params=CIRCUITS.values(), ids=CIRCUITS)
def circuit(request):
    return request.param


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(_kernels, "OPERATIONS_PER_THREAD", 1)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def flat_inputs(circuit, batch=3, dtype=torch.float64, *, grad=True):
    """Angles, and all weights in one vector."""
    angles, encoding, blocks, _ = head_inputs(circuit, batch, dtype, grad=False)
    return angles.requires_grad_(grad), torch.cat([encoding, blocks]).requires_grad_(grad)


def values_and_gradients(simulator, circuit, batch=3, dtype=torch.float64):
    inputs = flat_inputs(circuit, batch, dtype)
    values = simulator.values(circuit, *inputs)
    gradients = torch.autograd.grad(mixed_sum(values).to(dtype), inputs, materialize_grads=True)
    return [values, *gradients]


# --- values and gradients ----------------------------------------------------------------------


@pytest.mark.parametrize("engine", COMPILED.values(), ids=COMPILED)
@given(case=cases(max_wires=6))
def test_random_circuits_agree_with_torch(engine, case):
    assert_same_values_and_gradients(engine, EAGER, case)


@given(case=cases(max_wires=6, max_batch=2))
def test_random_circuits_agree_with_pennylane(case):
    assert_same_values_and_gradients(LightConeSimulator(), REFERENCE, case)


@pytest.mark.parametrize("batch", [1, 9, 32, 33])
def test_any_batch_agrees_with_torch(engine, circuit, batch):
    assert_same_values_and_gradients(engine, EAGER, random_case(circuit, batch))


@pytest.mark.parametrize("batch", [300, 1000])
@pytest.mark.parametrize("name", ["cnot", "scaled", "shared", "shared, no block"])
def test_batches_of_several_tiles(engine, name, batch):
    # Tiles have up to 32 samples (state vectors) or 256 (Pauli strings).
    assert_same_values_and_gradients(engine, EAGER, random_case(CIRCUITS[name], batch))


@pytest.mark.parametrize("simulator", CHUNKED.values(), ids=CHUNKED)
def test_chunks_change_nothing(simulator, circuit):
    assert_same_values_and_gradients(simulator, EAGER, random_case(circuit, 8))


def test_single_precision_agrees_to_1e_5(engine, circuit):
    single = values_and_gradients(engine, circuit, 40, torch.float32)
    double = values_and_gradients(EAGER, circuit, 40)
    assert {part.dtype for part in single} == {torch.float32}
    for a, b in zip(single, double, strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("two_threads")
def test_threads_change_nothing_but_rounding(engine, circuit, dtype):
    two = values_and_gradients(engine, circuit, 70, dtype)
    again = values_and_gradients(engine, circuit, 70, dtype)
    assert all(torch.equal(a, b) for a, b in zip(two, again, strict=True))
    torch.set_num_threads(1)
    one = values_and_gradients(engine, circuit, 70, dtype)
    for a, b in zip(one, two, strict=True):
        scale = float(b.detach().abs().max()) if b.numel() else 0
        torch.testing.assert_close(a, b, atol=100 * torch.finfo(dtype).eps * scale, rtol=0)


def test_blocks_that_read_features():
    circuit = HeadCircuit(binary_tasks(4), AngleEncoding(1), FeatureBlock())
    assert_same_values_and_gradients(LightConeSimulator(), REFERENCE, random_case(circuit))
    groups = LightConeSimulator().explain(circuit, 3).groups
    assert {group.engine for group in groups} == {"state vectors by torch"}


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
    assert_all_close(found.values(), expected.values())


@pytest.mark.parametrize(
    "simulator", [LightConeSimulator(), NoisySimulator(DeviceNoise.uniform(0.01))]
)
def test_blocks_of_many_strings_do_not_run_string_by_string(simulator):
    """Of 64 outputs with thousands of strings each, the products alone would take seconds."""
    words = (f"{i:08b}".replace("0", "I").replace("1", "Z") for i in range(1, 65))
    circuit = HeadCircuit(
        [Task.regression("wide", 64)],
        AngleEncoding(1),
        RealAmplitudes(2),
        readouts={"wide": PauliStrings(tuple(words))},
        wires_per_task=8,
    )
    groups = simulator.explain(circuit, 1).groups
    assert {group.engine for group in groups} <= {"state vectors", "vectors of Pauli strings"}


@pytest.mark.parametrize("encoding", [AngleEncoding(3), AngleEncoding(3, axes="YZ")])
def test_deeper_circuits_run_as_pauli_strings(encoding):
    circuit = HeadCircuit(binary_tasks(9), encoding)
    (group,) = LightConeSimulator().explain(circuit, 1).groups
    assert group.engine == "Pauli strings"
    assert_same_values_and_gradients(LightConeSimulator(), EAGER, random_case(circuit, 3))


def test_plans_are_shared_between_threads():
    circuit, simulator = HeadCircuit(binary_tasks(7)), LightConeSimulator()
    inputs = flat_inputs(circuit, 2)
    expected = EAGER.values(circuit, *inputs)
    subsets = [s for n in (1, 2, 3, 4) for s in combinations(range(7), n)] * 2
    with ThreadPoolExecutor(8) as pool:
        run = lambda s: simulator.values(circuit, *inputs, [f"t{i}" for i in s])  # noqa: E731
        for subset, values in zip(subsets, pool.map(run, subsets), strict=True):
            assert_all_close([values], [expected[:, list(subset)]])


def test_numbers_are_added_where_they_belong():
    generator = np.random.default_rng(0)
    index, values = generator.integers(0, 5, (7, 3)), generator.normal(size=(7, 3, 4))
    found, expected = np.ones((5, 4)), np.ones((5, 4))
    add_at(found, index, values)
    np.add.at(expected, index.ravel(), values.reshape(21, 4))
    np.testing.assert_allclose(found, expected)


# --- logits ------------------------------------------------------------------------------------


def logits_and_gradients(simulator, circuit, inputs, **options):
    logits = simulator.logits(circuit, *inputs, **options)
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    return [logits, *torch.autograd.grad(mixed_sum(logits), wanted, materialize_grads=True)]


@pytest.mark.parametrize("angle_map", ANGLE_MAPS)
def test_logits_are_those_of_pennylane(angle_map):
    for circuit in (CIRCUITS["mixed"], CIRCUITS["scaled"]):
        for tasks in (None, ["c", "a"], ["b"], []):
            inputs, options = head_inputs(circuit), {"angle_map": angle_map, "tasks": tasks}
            found = logits_and_gradients(LightConeSimulator(), circuit, inputs, **options)
            assert_all_close(found, logits_and_gradients(REFERENCE, circuit, inputs, **options))


def test_logits_by_every_engine(engine, circuit):
    inputs = head_inputs(circuit, 5)
    expected = logits_and_gradients(EAGER, circuit, inputs)
    assert_all_close(logits_and_gradients(engine, circuit, inputs), expected)


@given(case=cases(max_wires=6))
def test_logits_of_random_circuits(case):
    inputs = head_inputs(case.circuit, case.batch, seed=case.seed)
    expected = logits_and_gradients(EAGER, case.circuit, inputs)
    assert_all_close(logits_and_gradients(LightConeSimulator(), case.circuit, inputs), expected)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (1, 2, 3), (0, 3)])
def test_gradients_by_some_inputs_only(engine, wanted):
    circuit, found = CIRCUITS["mixed"], []
    for simulator in (engine, EAGER):
        inputs = head_inputs(circuit, 5, grad=False)
        for i in wanted:
            inputs[i].requires_grad_()
        found.append(logits_and_gradients(simulator, circuit, inputs))
    assert_all_close(*found)


@cache
def _expected_readout_rows(circuit, subset):
    """Gradients by the logits, and the rows that they give."""
    inputs = head_inputs(circuit, 4)
    logits = EAGER.logits(circuit, *inputs, tasks=subset)
    generator = torch.Generator().manual_seed(1)
    gradients = torch.randn(3, *logits.shape, dtype=torch.float64, generator=generator)
    gradients[1, :, 1:] = 0
    rows = [
        torch.autograd.grad(logits, inputs[:2], row, retain_graph=True, materialize_grads=True)
        for row in gradients
    ]
    return gradients, list(map(torch.stack, zip(*rows, strict=True)))


@pytest.mark.parametrize("subset", [None, ["d", "b"]])
def test_rows_of_jacobians(engine, circuit, subset):
    subset = [name for name in subset if name in circuit.registers] if subset else None
    gradients, expected = _expected_readout_rows(circuit, None if subset is None else tuple(subset))
    inputs = head_inputs(circuit, 4)
    inputs[0].register_hook(lambda _: pytest.fail("a hook was called"))
    found = engine.readout_rows(circuit, *inputs, gradients, tasks=subset)
    assert not any(part.requires_grad for part in found)
    assert_all_close(found, expected)
    none = engine.readout_rows(circuit, *inputs, gradients[:0], tasks=subset)
    assert [len(part) for part in none] == [0, 0]


def test_probabilities_near_zero_have_precise_logits():
    circuit = HeadCircuit([Task.multiclass("m", 4), Task.binary("t")], AngleEncoding(1))
    inputs = [tensor.detach() / 50 for tensor in head_inputs(circuit, 50)]
    exact = EAGER.values(circuit, inputs[0], torch.cat(inputs[1:3]), ["m"])
    assert exact.min() < 1e-6
    found = LightConeSimulator().values(circuit, inputs[0].float(), torch.cat(inputs[1:3]).float())
    torch.testing.assert_close(found[:, :4].double(), exact, atol=1e-15, rtol=1e-3)


# --- derivatives of all kinds ------------------------------------------------------------------


def _jacobian_rows(simulator, circuit, way):
    """Rows for single outputs and for mixed ones, with respect to angles and weights."""
    inputs = flat_inputs(circuit, 4)
    flat = simulator.values(circuit, *inputs).flatten()
    dense = torch.randn(2, len(flat), generator=torch.Generator().manual_seed(3))
    rows = torch.cat([torch.eye(len(flat))[::5], dense]).double()
    options = {"retain_graph": True, "materialize_grads": True}
    if way == "vmap":
        return torch.vmap(lambda row: torch.autograd.grad(flat, inputs, row, **options))(rows)
    if way == "is_grads_batched":
        return torch.autograd.grad(flat, inputs, rows, is_grads_batched=True, **options)
    each = [torch.autograd.grad(flat, inputs, row, **options) for row in rows]
    return [torch.stack(column) for column in zip(*each, strict=True)]


@cache
def _expected_rows(circuit):
    """Kept for all engines and ways, as the other expected values of this file."""
    return _jacobian_rows(EAGER, circuit, "separate")


@pytest.mark.parametrize("way", ["vmap", "is_grads_batched", "separate"])
def test_jacobians(engine, circuit, way):
    assert_all_close(_jacobian_rows(engine, circuit, way), _expected_rows(circuit))


@pytest.mark.parametrize("simulator", CHUNKED.values(), ids=CHUNKED)
def test_jacobian_in_chunks(simulator):
    expected = _expected_rows(CIRCUITS["mixed"])
    assert_all_close(_jacobian_rows(simulator, CIRCUITS["mixed"], "vmap"), expected)


def test_torchjd_gets_the_same_jacobian(engine):
    from torchjd.autojac import jac

    circuit, found = CIRCUITS["default"], []
    for simulator in (engine, EAGER):
        inputs = head_inputs(circuit, 4)
        losses = simulator.logits(circuit, *inputs).square().mean(0)
        found.append(jac(list(losses), inputs[:2]))
    assert_all_close(*found)


@cache
def second_derivatives(simulator, circuit):
    inputs = head_inputs(circuit, 2)
    total = mixed_sum(simulator.logits(circuit, *inputs))
    options = {"create_graph": True, "materialize_grads": True}
    first = torch.autograd.grad(total, inputs, **options)
    square = sum(gradient.square().sum() for gradient in first)
    return torch.autograd.grad(square, inputs, materialize_grads=True)


def test_second_derivatives(engine, circuit):
    found = second_derivatives(engine, circuit), second_derivatives(EAGER, circuit)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_third_derivatives(engine):
    circuit = HeadCircuit([Task.binary("a")])

    def derivative(simulator, order):
        angles, weights = flat_inputs(circuit, 1)
        result = simulator.values(circuit, angles, weights).sum()
        for _ in range(order):
            result = torch.autograd.grad(result, angles, create_graph=True)[0].sum()
        return result

    for order in (1, 2, 3):
        torch.testing.assert_close(derivative(engine, order), derivative(EAGER, order))


def transformed(name):
    """The inputs of a circuit, and of any simulator a sum of outputs and the outputs."""
    circuit = CIRCUITS[name]
    angles, weights = flat_inputs(circuit, 2, grad=False)

    def total(simulator):
        return lambda angles: simulator.values(circuit, angles, weights).pow(2).sum()

    def outputs(simulator):
        return lambda weights: simulator.values(circuit, angles, weights)

    return circuit, angles, weights, total, outputs


@cache
def expected_transform(name, transform):
    _, angles, weights, total, outputs = transformed(name)
    if transform in (torch.func.grad, torch.func.hessian):
        return transform(total(EAGER))(angles)
    return transform(outputs(EAGER))(weights)


@pytest.mark.parametrize("name", ["default", "scaled", "dense"])
def test_function_transforms(engine, name):
    circuit, angles, weights, total, outputs = transformed(name)
    for transform in (torch.func.grad, torch.func.hessian):
        found, expected = transform(total(engine))(angles), expected_transform(name, transform)
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        found, expected = transform(outputs(engine))(weights), expected_transform(name, transform)
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    per_sample = torch.vmap(lambda x: engine.values(circuit, x[None], weights)[0])(angles)
    torch.testing.assert_close(per_sample, outputs(EAGER)(weights), atol=1e-10, rtol=0)
    over_weights = torch.vmap(outputs(engine))(torch.stack([weights, -weights]))
    torch.testing.assert_close(over_weights[1], outputs(EAGER)(-weights), atol=1e-10, rtol=0)
    tangent = torch.ones_like(weights)
    found, expected = (torch.func.jvp(outputs(s), (weights,), (tangent,)) for s in (engine, EAGER))
    assert_all_close(found, expected)


def test_scarce_memory_does_not_stop_function_transforms():
    circuit = CIRCUITS["default"]
    scarce = LightConeSimulator(max_memory=600_000)
    angles, weights = flat_inputs(circuit, 64, grad=False)
    found, expected = (
        torch.func.grad(lambda a, s=s: s.values(circuit, a, weights).square().sum())(angles)
        for s in (scarce, EAGER)
    )
    torch.testing.assert_close(found, expected)


def test_derivatives_of_constants(engine):
    """The outputs of "a" depend on nothing."""
    encoding = AngleEncoding(1, axes="Z", trainable="Z", entangler="none")
    blocks = {"a": IdentityAnsatz(), "b": RealAmplitudes(1)}
    circuit = HeadCircuit([Task.binary("a"), Task.binary("b")], encoding, blocks)
    features, encoding, own, scales = head_inputs(circuit)
    logits = engine.logits(circuit, features, encoding, own, scales)
    inputs, rows = [features, encoding], torch.ones(2, *logits.shape, dtype=torch.float64)
    options = {"materialize_grads": True, "retain_graph": True}
    found = torch.autograd.grad(logits, inputs, rows, is_grads_batched=True, **options)
    first = torch.autograd.grad(logits.sum(), inputs, create_graph=True, materialize_grads=True)
    total = sum(gradient.sum() for gradient in first) + logits.sum()
    second = torch.autograd.grad(total, [*inputs, own], materialize_grads=True)
    assert sum(gradient.abs().sum() for gradient in (*found, *first, *second[:2])) < 1e-12
    assert second[2].abs().max() > 1e-3


# --- zero, NaN and infinity --------------------------------------------------------------------


def test_a_gradient_of_zero(engine, circuit):
    inputs = head_inputs(circuit, 2)
    (engine.logits(circuit, *inputs) * 0).sum().backward()
    assert all((tensor.grad == 0).all() for tensor in inputs)


def test_nan_gradients_stay_nan(engine):
    circuit = CIRCUITS["default"]
    angles, weights = flat_inputs(circuit, 2)
    (engine.values(circuit, angles, weights)[:, 0].sum() * torch.nan).backward()
    seen = {f for g in circuit.light_cone("t0").gates if g.angle for f in g.angle.features}
    if engine is not COMPILED["joint"]:
        assert {f for f in range(10) if angles.grad[:, f].isnan().all()} == seen
    for name, own in circuit.weight_slices.items():
        if name != "encoding":
            gradient = weights.grad[own]
            assert gradient.isnan().any() if name == "t0" else (gradient == 0).all()


def test_infinite_features_give_nan_without_a_warning(engine):
    circuit = CIRCUITS["default"]
    inputs = head_inputs(circuit, 2)
    angles, weights = inputs[0].detach().clone(), torch.cat(inputs[1:3])
    angles[0, 0] = torch.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = engine.values(circuit, angles, weights)
        values[1].sum().backward()
    assert values[0, 0].isnan()
    assert values[1].isfinite().all()


@pytest.mark.parametrize("name", ["default", "mixed", "shared", "dense"])
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_what_is_wrong_with_one_task_stays_with_it(engine, name, wrong):
    """Its weights or its gradient: the others have the values and gradients they always have."""
    circuit = CIRCUITS[name]
    task, *others = reversed(circuit.registers)
    first = circuit.n_encoding_weights
    own = {n: slice(s.start - first, s.stop - first) for n, s in circuit.weight_slices.items()}
    inputs, broken = head_inputs(circuit), head_inputs(circuit)
    with torch.no_grad():
        broken[2][own[task]] = wrong
    expected = engine.logits(circuit, *inputs, tasks=others)
    gradients = torch.autograd.grad(expected.square().sum(), inputs)
    logits = engine.logits(circuit, *broken)
    assert_all_close(
        [logits[:, circuit.output_slices[n]] for n in others],
        expected.split([circuit.task(n).n_outputs for n in others], 1),
    )
    # Features and encoding see no gradient of the broken task.
    kept = torch.cat([logits[:, circuit.output_slices[n]] for n in others], 1)
    found = torch.autograd.grad(kept.square().sum(), broken)
    assert_all_close(found[:2], gradients[:2])
    for n in others:
        assert_all_close([found[2][own[n]]], [gradients[2][own[n]]])
    rows = torch.zeros(1, *logits.shape, dtype=torch.float64)
    for n in others:
        rows[:, :, circuit.output_slices[n]] = 1
    assert all(part.isfinite().all() for part in engine.readout_rows(circuit, *broken, rows))
    # A gradient that is not finite reaches its own block, and no other one.
    logits = engine.logits(circuit, *inputs)
    factors = torch.ones_like(logits)
    factors[:, circuit.output_slices[task]] = wrong
    found = torch.autograd.grad((logits * factors).sum(), inputs[2])[0]
    expected = torch.autograd.grad(engine.logits(circuit, *inputs).sum(), inputs[2])[0]
    assert not found[own[task]].isfinite().all()
    for n in others:
        assert_all_close([found[own[n]]], [expected[own[n]]])
