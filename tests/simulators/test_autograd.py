"""Tensors of unusual kinds, torch's modes, and autograd as its users know it."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

from qmtl import AngleEncoding, HeadCircuit, QuantumHead, Task
from qmtl.errors import InvalidInputError
from qmtl.simulators import LightConeSimulator, simulator_for
from tests.simulators.engine_samples import (
    EAGER,
    MIXED,
    ScaledEncoding,
    assert_all_close,
    head_inputs,
    mixed_sum,
)

CIRCUITS = {
    "Pauli strings": HeadCircuit(MIXED),
    "state vectors": HeadCircuit(MIXED[:2], wires_per_task=4),
    "joint state": HeadCircuit([Task.binary(f"t{i}") for i in range(5)],
                               AngleEncoding(entangler="all_to_all")),
    "products": HeadCircuit(MIXED, ScaledEncoding()),
}  # fmt: skip
SIMULATOR = LightConeSimulator()


@pytest.fixture(params=CIRCUITS.values(), ids=CIRCUITS)
def circuit(request):
    return request.param


def logits_of(circuit, inputs):
    return SIMULATOR.logits(circuit, *inputs)


def gradients(circuit, inputs=None, loss=mixed_sum, simulator=SIMULATOR):
    inputs = head_inputs(circuit) if inputs is None else inputs
    return torch.autograd.grad(loss(simulator.logits(circuit, *inputs)), inputs)


# --- tensors -----------------------------------------------------------------------------------


def lazily_negative(tensor):
    """The same numbers, of which memory holds the negatives."""
    found = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    assert found.is_neg()
    return found


def strided(tensor):
    wide = tensor.new_empty(*(3 * n for n in tensor.shape))
    view = wide[tuple(slice(None, None, 3) for _ in tensor.shape)]
    return view.copy_(tensor)


VIEWS = {
    "lazy sign": lazily_negative,
    "strided": strided,
    "transposed": lambda t: t.mT.contiguous().mT if t.ndim > 1 else t,
    "flipped": lambda t: t.flip(0).flip(0),
    "broadcast": lambda t: t[:1].expand(t.shape),
    "parameter": torch.nn.Parameter,
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_inputs_and_gradients_of_any_layout(circuit, view):
    inputs = [tensor.detach() for tensor in head_inputs(circuit)]
    viewed = [view(tensor) for tensor in inputs]
    copies, before = ([t.detach().resolve_neg().clone() for t in viewed] for _ in range(2))
    for some in (copies, viewed):
        for tensor in some:
            if tensor.is_leaf:
                tensor.requires_grad_()
    found, expected = logits_of(circuit, viewed), EAGER.logits(circuit, *copies)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    factors = torch.randn(found.shape, dtype=torch.float64)
    assert_all_close(
        torch.autograd.grad(found, viewed, view(factors).detach()),
        torch.autograd.grad(expected, copies, view(factors).detach()),
    )
    assert all(torch.equal(a, b) for a, b in zip(viewed, before, strict=True))


def test_kernels_are_compiled_for_one_layout_only(circuit):
    """A loss of another layout must not wait for a compiler."""
    from qmtl.simulators._amplitudes._kernels import walk
    from qmtl.simulators._pauli._kernels import walk as pauli_walk

    inputs = head_inputs(circuit)
    gradients(circuit)
    seen = len(walk.signatures), len(pauli_walk.signatures)
    for view in VIEWS.values():
        if view is not torch.nn.Parameter:
            gradients(circuit, inputs, lambda logits, v=view: mixed_sum(v(logits)))
            gradients(circuit, inputs, lambda logits, v=view: mixed_sum(v(logits.T)))
    assert (len(walk.signatures), len(pauli_walk.signatures)) == seen


def test_one_tensor_as_several_inputs():
    circuit = HeadCircuit([Task.binary("a")], AngleEncoding(1))
    both = torch.randn(circuit.n_circuit_weights, dtype=torch.float64).requires_grad_()
    n = circuit.n_encoding_weights
    found = [
        torch.autograd.grad(s.logits(circuit, both[None, :2], both[:n], both[n:], both[:1]), both)
        for s in (SIMULATOR, EAGER)
    ]
    assert_all_close(*found)


def test_empty_batches(circuit):
    inputs = head_inputs(circuit, 0)
    logits = logits_of(circuit, inputs)
    assert logits.shape == (0, sum(task.n_outputs for task in circuit.tasks))
    logits.sum().backward()
    assert all(tensor.grad is None or (tensor.grad == 0).all() for tensor in inputs)


@pytest.mark.parametrize(
    ("which", "change", "message"),
    [
        (0, lambda t: t.float(), "features must be torch.float64 as the head"),
        (1, lambda t: t.float(), "features must be torch.float32 as the head"),
        (3, lambda t: t.float(), "scales torch.float32"),
        (0, lambda t: t[:, 1:], r"features must have shape \(batch, 8\), got \(3, 7\)"),
        (0, lambda t: t[0], r"features must have shape \(batch, 8\), got \(8,\)"),
        (1, lambda t: t[1:], r"must have \(4, 8, 28\) numbers, got \(4, 7, 28\)"),
        (2, lambda t: t[1:], r"must have \(4, 8, 28\) numbers, got \(4, 8, 27\)"),
        (3, lambda t: t[1:], r"must have \(4, 8, 28\) numbers, got \(3, 8, 28\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(which, change, message):
    """Kernels would read past their ends."""
    circuit = CIRCUITS["Pauli strings"]
    inputs = head_inputs(circuit)
    inputs[which] = change(inputs[which])
    for call in (SIMULATOR.logits, SIMULATOR.readout_rows):
        rows = [torch.ones(1, 3, 7).double()] if call == SIMULATOR.readout_rows else []
        with pytest.raises(InvalidInputError, match=message):
            call(circuit, *inputs, *rows)


def test_simulators_and_heads_have_one_angle_map():
    circuit = CIRCUITS["Pauli strings"]
    head = QuantumHead(circuit, seed=0)
    features = torch.randn(3, circuit.n_features)
    rest = (head.encoding, head.blocks.parameter, head.scales.parameter)
    for simulator in (SIMULATOR, EAGER, simulator_for("default.qubit")):
        found = simulator.logits(circuit, features, *rest)
        torch.testing.assert_close(found, head(features, joined=True), atol=1e-5, rtol=1e-5)


def test_unknown_names_are_refused():
    circuit = CIRCUITS["Pauli strings"]
    with pytest.raises(InvalidInputError, match="unknown angle map 'linear'"):
        SIMULATOR.logits(circuit, *head_inputs(circuit), angle_map="linear")
    with pytest.raises(InvalidInputError, match="unknown task 'z'"):
        SIMULATOR.logits(circuit, *head_inputs(circuit), tasks=["z"])


class Elsewhere(torch.Tensor):
    """A tensor whose numbers are those of another one."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), dtype=inner.dtype
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, kinds, arguments=(), options=None):
        given = tree_map_only(cls, lambda tensor: tensor.inner, (arguments, options or {}))
        return tree_map_only(torch.Tensor, cls, function(*given[0], **given[1]))


def test_tensors_without_memory(circuit):
    inputs = head_inputs(circuit, grad=False)
    found = logits_of(circuit, [Elsewhere(inputs[0]), *inputs[1:]])
    torch.testing.assert_close(found.inner, logits_of(circuit, inputs), atol=1e-12, rtol=0)
    meta = logits_of(circuit, [tensor.to("meta") for tensor in inputs])
    assert (meta.device.type, meta.shape) == ("meta", found.shape)
    with pytest.raises((RuntimeError, TypeError), match="meta"):
        logits_of(circuit, [inputs[0], *(tensor.to("meta") for tensor in inputs[1:])])


# --- modes -------------------------------------------------------------------------------------


def test_autocast_does_not_round(circuit):
    inputs = head_inputs(circuit, dtype=torch.float32)
    plain, expected = logits_of(circuit, inputs), gradients(circuit, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = logits_of(circuit, inputs)
        found = torch.autograd.grad(mixed_sum(logits), inputs)
        double = torch.autograd.grad(mixed_sum(logits_of(circuit, inputs)), inputs,
                                     create_graph=True)  # fmt: skip
    assert torch.equal(logits, plain)
    assert_all_close(found, expected, 1e-6)
    assert_all_close(double, expected, 1e-4)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(circuit, mode):
    inputs = head_inputs(circuit)
    with mode():
        found = logits_of(circuit, inputs)
        again = logits_of(circuit, [tensor * 1 for tensor in inputs])
    assert not found.requires_grad
    assert torch.equal(found, again)
    # Small states that several tasks share are only shared if there are gradients.
    rounding = 1e-5 if any(g.joint for g in SIMULATOR.plan(circuit).groups) else 0
    assert_all_close([logits_of(circuit, inputs).detach()], [found], rounding)


def test_anomalies_are_looked_for(circuit):
    expected = gradients(circuit)
    with pytest.warns(UserWarning, match="Anomaly"), torch.autograd.detect_anomaly():
        assert_all_close(gradients(circuit), expected)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing(circuit, use_reentrant):
    inputs = head_inputs(circuit)
    checkpoint(lambda *t: mixed_sum(logits_of(circuit, t)), *inputs,
               use_reentrant=use_reentrant).backward()  # fmt: skip
    assert_all_close([tensor.grad for tensor in inputs], gradients(circuit))


def test_saved_tensors_of_another_kind(circuit):
    """As when they are kept in a lower precision, or elsewhere."""
    for packed in (lambda t: t.mT.contiguous().mT if t.ndim > 1 else t, lambda t: t.detach()):
        with torch.autograd.graph.saved_tensors_hooks(packed, lambda t: t.clone()):
            found = gradients(circuit)
        assert_all_close(found, gradients(circuit))


def test_traced_logits_are_no_constants():
    circuit = CIRCUITS["products"]
    inputs = head_inputs(circuit, grad=False)
    other = [inputs[0] + 1, *inputs[1:]]
    traced = make_fx(lambda x: logits_of(circuit, [x, *inputs[1:]]))(inputs[0])
    torch.testing.assert_close(traced(other[0]), logits_of(circuit, other), atol=1e-10, rtol=0)


def test_compiled_heads_have_the_right_values_and_gradients():
    head = QuantumHead(CIRCUITS["Pauli strings"], seed=0).double()
    compiled = torch.compile(head, backend="eager")
    for batch in (3, 5, 8):
        features = head_inputs(head.circuit, batch)[0]
        found, expected = compiled(features, joined=True), head(features, joined=True)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
        leaves = [features, *head.parameters()]
        assert_all_close(*(torch.autograd.grad(mixed_sum(v), leaves) for v in (found, expected)))


def test_a_transform_leaves_nothing_behind():
    # Layers that no other test has: what is kept of them is made inside the transforms.
    circuit = HeadCircuit(MIXED[:2], AngleEncoding(3, axes="XY", entangler="cz_line"))
    simulator, (features, *rest) = LightConeSimulator(), head_inputs(circuit, 1)

    def total(features):
        return simulator.logits(circuit, features, *rest).sum()

    first = torch.func.hessian(total)(features)
    with torch.inference_mode():
        total(features)
    torch.testing.assert_close(torch.func.hessian(total)(features), first)
    (expected,) = torch.autograd.grad(total(features), features)
    torch.testing.assert_close(torch.func.grad(total)(features), expected)


@pytest.mark.parametrize("entangler", ["cz_ring", "cnot_ring", "all_to_all"])
def test_first_used_under_another_default_device(entangler):
    circuit = HeadCircuit(MIXED, AngleEncoding(1, entangler=entangler))
    inputs = head_inputs(circuit)
    with torch.device("meta"):
        found = logits_of(circuit, inputs)
        found.sum().backward()
    torch.testing.assert_close(found, EAGER.logits(circuit, *inputs), atol=1e-10, rtol=0)
    assert inputs[0].grad.isfinite().all()


# --- graphs ------------------------------------------------------------------------------------


def test_a_graph_that_is_kept(circuit):
    inputs = head_inputs(circuit)
    loss = mixed_sum(logits_of(circuit, inputs))
    loss.backward(retain_graph=True)
    once = [tensor.grad.clone() for tensor in inputs]
    for chosen in ([0], [2], [0, 3], [1]):
        wanted = [inputs[i] for i in chosen]
        found = torch.autograd.grad(loss, wanted, retain_graph=True)
        assert_all_close(found, [once[i] for i in chosen])
    loss.backward()
    assert_all_close([tensor.grad for tensor in inputs], [2 * gradient for gradient in once])
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_two_steps_before_their_backward_passes(circuit):
    first, second = head_inputs(circuit), head_inputs(circuit, seed=1)
    losses = [mixed_sum(logits_of(circuit, inputs)) for inputs in (first, second)]
    assert_all_close(torch.autograd.grad(losses[0], first), gradients(circuit))
    expected = gradients(circuit, head_inputs(circuit, seed=1), simulator=EAGER)
    assert_all_close(torch.autograd.grad(losses[1], second), expected)


@pytest.mark.parametrize("which", range(4))
def test_a_change_in_place_before_the_backward_pass_is_an_error(circuit, which):
    inputs = head_inputs(circuit)
    loss = logits_of(circuit, inputs).sum()
    with torch.no_grad():
        inputs[which].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_outputs_may_be_changed_in_place(circuit):
    angles, encoding, blocks, _ = head_inputs(circuit)
    found = []
    for change in (lambda v: v.mul_(2).add_(1), lambda v: 2 * v + 1):
        given = circuit, angles, torch.cat([encoding, blocks])
        parts = [SIMULATOR.values(*given), *SIMULATOR.expectation_values(*given).values()]
        loss = sum(mixed_sum(change(part)) for part in parts)
        found.append(torch.autograd.grad(loss, [angles, encoding, blocks]))
    assert_all_close(*found)
    found = [gradients(circuit, loss=f) for f in (lambda v: v.mul_(2).sum(), lambda v: 2 * v.sum())]
    assert_all_close(*found)


def test_gradients_are_the_callers(circuit):
    """Who may change them: they are no views of each other, nor of what is kept."""
    inputs = head_inputs(circuit)
    loss = mixed_sum(logits_of(circuit, inputs))
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    before = [gradient.clone() for gradient in first]
    for i, gradient in enumerate(first):
        gradient.fill_(torch.nan)
        assert_all_close(first[i + 1 :], before[i + 1 :])
    assert_all_close(torch.autograd.grad(loss, inputs), before)


def test_hooks_see_whole_gradients_and_may_change_them(circuit):
    expected, inputs, seen = gradients(circuit), head_inputs(circuit), []
    inputs[0].register_hook(lambda g: seen.append(g.clone()))
    inputs[2].register_hook(lambda g: 3 * g)
    logits = logits_of(circuit, inputs)
    logits.register_hook(lambda g: 2 * g)
    logits.grad_fn.register_hook(lambda given, _: seen.extend(g for g in given if g is not None))
    found = torch.autograd.grad(mixed_sum(logits), inputs)
    factors = (2, 2, 6, 2)
    assert_all_close(found, [f * g for f, g in zip(factors, expected, strict=True)])
    assert any(torch.equal(gradient, found[0]) for gradient in seen)
    assert all(gradient.isfinite().all() for gradient in seen)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_in_a_hook_all_is_as_before(circuit, error):
    def fail(_):
        raise error

    for _ in range(2):
        inputs = head_inputs(circuit)
        inputs[2].register_hook(fail)
        with pytest.raises(error):
            logits_of(circuit, inputs).sum().backward()
    assert_all_close(gradients(circuit), gradients(circuit, simulator=EAGER))


def test_a_hook_may_simulate_in_between(circuit):
    inputs, seen = head_inputs(circuit), []

    def simulate(_):
        with torch.enable_grad():
            seen.append(gradients(circuit))

    inputs[2].register_hook(simulate)
    mixed_sum(logits_of(circuit, inputs)).backward()
    assert_all_close([tensor.grad for tensor in inputs], seen[0])


def test_nothing_is_kept_of_a_step(circuit):
    """Neither its graph nor its features, which have an encoder's graph behind them."""
    simulator, inputs = LightConeSimulator(), head_inputs(circuit)
    features = inputs[0] * 1
    logits = simulator.logits(circuit, features, *inputs[1:])
    logits.sum().backward()
    kept = weakref.ref(features), weakref.ref(logits)
    del features, logits
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


def test_backward_passes_of_several_python_threads(circuit):
    expected = gradients(circuit)
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda _: gradients(circuit), range(12)):
            assert_all_close(found, expected)
    inputs, found = head_inputs(circuit), {}
    loss = mixed_sum(logits_of(circuit, inputs))

    def work(factor):
        own = torch.tensor(factor, dtype=torch.float64)
        found[factor] = torch.autograd.grad(loss, inputs, own, retain_graph=True)

    workers = [threading.Thread(target=work, args=(float(i),)) for i in range(1, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for factor, one in found.items():
        assert_all_close([part / factor for part in one], expected)


def test_one_simulator_in_several_threads():
    """Plans are made under a lock, found without one, and forgotten when there are many."""
    simulator = LightConeSimulator()
    circuits = [HeadCircuit([Task.binary(f"t{i}")], AngleEncoding(1)) for i in range(80)]

    def gradients(simulator, circuit):
        inputs = head_inputs(circuit, 2)
        simulator.logits(circuit, *inputs).sum().backward()
        return [i.grad for i in inputs if i.grad is not None]

    def work(start):
        return [gradients(simulator, c) for c in circuits[start:] + circuits[:start]]

    expected = [gradients(LightConeSimulator(), circuit) for circuit in circuits]
    starts = range(0, 80, 20)
    with ThreadPoolExecutor(4) as pool:
        for start, found in zip(starts, pool.map(work, starts), strict=True):
            for one, other in zip(found, expected[start:] + expected[:start], strict=True):
                assert_all_close(one, other)


@pytest.mark.parametrize("simulator", [SIMULATOR, EAGER], ids=["compiled", "eager"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_features_that_are_not_finite_are_named(circuit, simulator, value):
    features, *rest = head_inputs(circuit, 4, grad=False)
    # Their sum overflows, and still they are numbers.
    large = torch.full_like(features, torch.finfo(features.dtype).max)
    assert simulator.logits(circuit, large, *rest).isfinite().all()
    features[1, -1] = features[3, 0] = value
    with pytest.raises(InvalidInputError, match=r"2 of 4 samples .* the first at index 1"):
        simulator.logits(circuit, features, *rest)
