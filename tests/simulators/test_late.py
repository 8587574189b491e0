"""Gradients that threads compute while torch goes on: the same, whatever happens in between."""

import contextlib
import ctypes
import gc
import queue
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from qmtl import HeadCircuit, QuantumHead, Task
from qmtl.circuit import Angle, Gate
from qmtl.errors import InvalidInputError, QmtlError
from qmtl.simulators import LightConeSimulator, compilation, late, threads
from tests.strategies import binary_tasks, random_angles, random_weights

# Wide enough for two threads, with cones of two structures.
TASKS = [*binary_tasks(70), *(Task.multilabel(f"m{i}", 2) for i in range(66))]
CIRCUIT = HeadCircuit(TASKS)
COMPILED, EAGER = LightConeSimulator(), LightConeSimulator(engine="eager")


@pytest.fixture(autouse=True)
def _two_threads(monkeypatch):
    # Small as it is, its work is for both.
    monkeypatch.setattr(threads, "ITEMS_PER_THREAD", 1)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(params=["team", "pool"], autouse=True)
def _runtime(request, monkeypatch):
    if request.param == "pool":
        monkeypatch.setattr(threads, "_team_entries", lambda: None)
    elif threads._team_entries() is None:
        pytest.skip("this torch has no OpenMP with GOMP_parallel_start")


@pytest.fixture
def waited(monkeypatch):
    """Gradients that were waited for."""
    found, start = [], late.Late.start

    def counted(*arguments):
        found.append(arguments)
        return start(*arguments)

    monkeypatch.setattr(late.Late, "start", counted)
    return found


def in_parallel():
    """Whether torch would run this thread's operations in it alone."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    return ctypes.CDLL(str(library)).omp_in_parallel()


def new_inputs(grad=("angles", "encoding", "own")):
    angles, weights = random_angles(CIRCUIT, 5), random_weights(CIRCUIT)
    angles.requires_grad_("angles" in grad)
    for name, weight in weights.items():
        weight.requires_grad_(("encoding" if name == "encoding" else "own") in grad)
    return angles, weights


def loss_of(simulator, angles, weights):
    values = simulator.expectation_values(CIRCUIT, angles, weights)
    return torch.cat(list(values.values()), dim=1).square().sum()


def gradients(simulator, grad=("angles", "encoding", "own")):
    angles, weights = new_inputs(grad)
    leaves = [leaf for leaf in (angles, *weights.values()) if leaf.requires_grad]
    return torch.autograd.grad(loss_of(simulator, angles, weights), leaves)


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("grad", "times"),
    [
        (("angles", "encoding", "own"), 2),
        (("encoding", "own"), 2),
        (("angles", "own"), 2),
        (("angles", "encoding"), 0),
        (("own",), 0),
    ],
)
def test_gradients_are_those_of_torch(grad, times, waited):
    assert_same(gradients(COMPILED, grad), gradients(EAGER, grad))
    assert len(waited) == times  # once for each structure of cones


def test_both_threads_are_asked_for(monkeypatch):
    asked, start = [], compilation.Background

    def counted(address, data, n_threads, held):
        asked.append(n_threads)
        return start(address, data, n_threads, held)

    monkeypatch.setattr(compilation, "Background", counted)
    gradients(COMPILED)
    assert asked == [2] * 4


def test_errors_in_between_leave_no_graphs(waited):
    def fail(_):
        raise ValueError

    for _ in range(3):
        angles, weights = new_inputs()
        weights["t2"].register_hook(fail)
        with pytest.raises(ValueError, match=r"^$"):
            loss_of(COMPILED, angles, weights).backward()
    graphs = [weakref.ref(arguments[0]) for arguments in waited]
    waited.clear()
    del angles, weights
    gradients(COMPILED)
    waited.clear()
    gc.collect()
    assert graphs
    assert not any(graph() for graph in graphs)


def test_a_team_that_another_thread_forgets_is_ended_by_its_own():
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
    address = ctypes.cast(function, ctypes.c_void_p).value
    expected, given, taken = gradients(EAGER), queue.SimpleQueue(), threading.Event()

    def work():
        given.put(threads.Background(address, 0, 2))
        taken.wait(60)
        found.append(gradients(COMPILED))
        found.append(getattr(threads._THREAD, "running", None))

    found = []
    worker = threading.Thread(target=work)
    worker.start()
    forgotten = given.get(timeout=60)
    del forgotten
    gc.collect()
    taken.set()
    worker.join()
    assert_same(found[0], expected)
    assert found[1] is None


@pytest.mark.parametrize("grad", [(), ("own",)])
def test_values_are_those_of_torch(grad):
    found = [s.expectation_values(CIRCUIT, *new_inputs(grad)) for s in (COMPILED, EAGER)]
    assert_same(*(values.values() for values in found))


def test_an_error_between_the_two_halves_of_a_forward_pass(monkeypatch):
    def fail(_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(torch, "stack", fail)
        with pytest.raises(MemoryError):
            COMPILED.expectation_values(CIRCUIT, *new_inputs())
    gc.collect()
    assert not hasattr(threads._THREAD, "running")
    assert_same(gradients(COMPILED), gradients(EAGER))


def test_weights_that_are_refused_leave_no_threads_at_work():
    angles, weights = new_inputs()
    weights["t5"] = weights["t5"][:-1]
    with pytest.raises(InvalidInputError, match=r"weights\['t5'\] must have shape"):
        COMPILED.expectation_values(CIRCUIT, angles, weights)
    assert not hasattr(threads._THREAD, "running")
    del weights["m3"], weights["t5"]
    with pytest.raises(InvalidInputError, match="weights must have the key 't5'"):
        COMPILED.joined_values(CIRCUIT, angles, weights)
    assert not in_parallel()


def test_no_bit_depends_on_the_threads():
    two = gradients(COMPILED)
    torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(gradients(COMPILED), two, strict=True))


def test_some_gradients_of_a_graph_that_is_kept(waited):
    angles, weights = new_inputs()
    own = [weights["t3"], weights["m5"]]
    loss = loss_of(COMPILED, angles, weights)
    expected = loss_of(EAGER, angles, weights)
    for wanted in (own, [angles], [angles, *own], [weights["encoding"]], own):
        found = torch.autograd.grad(loss, wanted, retain_graph=True)
        assert_same(found, torch.autograd.grad(expected, wanted, retain_graph=True))
    # Only those that need the encoding's gradients.
    assert len(waited) == 2 * 3


def test_gradients_add_up_in_leaves():
    angles, weights = new_inputs()
    loss = loss_of(COMPILED, angles, weights)
    loss.backward(retain_graph=True)
    once = angles.grad.clone()
    loss.backward()
    torch.testing.assert_close(angles.grad, 2 * once)


def test_second_derivatives():
    found = []
    for simulator in (COMPILED, EAGER):
        angles, weights = new_inputs()
        loss = loss_of(simulator, angles, weights)
        first = torch.autograd.grad(loss, [angles, weights["t0"]], create_graph=True)
        total = sum(part.square().sum() for part in first)
        found.append(torch.autograd.grad(total, [angles, weights["m1"], weights["encoding"]]))
    assert_same(*found)


def test_a_batch_of_gradients():
    angles, weights = new_inputs()
    values = COMPILED.expectation_values(CIRCUIT, angles, weights)
    losses = torch.stack([value.square().sum() for value in values.values()])
    some = torch.eye(len(TASKS), dtype=torch.float64)[::40]

    def row_of(row):
        return torch.autograd.grad(losses, (angles, weights["encoding"]), row, retain_graph=True)

    rows = torch.vmap(row_of)(some)
    for i, row in enumerate(some):
        assert_same([part[i] for part in rows], row_of(row))


def test_a_batch_of_gradients_by_the_older_vmap():
    angles, weights = new_inputs()
    values = COMPILED.expectation_values(CIRCUIT, angles, weights)
    losses = torch.stack([value.square().sum() for value in values.values()])
    some = torch.eye(len(TASKS), dtype=torch.float64)[::60]
    rows = torch.autograd.grad(losses, [angles], some, is_grads_batched=True, retain_graph=True)
    for i, row in enumerate(some):
        assert_same([rows[0][i]], torch.autograd.grad(losses, [angles], row, retain_graph=True))


# One structure of cones, so that the outputs come straight from the engine.
ALIKE = HeadCircuit(binary_tasks(70))


@pytest.mark.parametrize("new", [lambda g: None, torch.clone, lambda g: 2 * g])
def test_hooks_of_nodes_see_whole_gradients(new):
    def hook(given, _):
        seen.extend(given)
        return None if new(given[0]) is None else tuple(map(new, given))

    seen, found = [], []
    for is_hooked in (False, True):
        angles, weights = random_angles(ALIKE, 5, grad=True), random_weights(ALIKE, grad=True)
        values = COMPILED.joined_values(ALIKE, angles, weights)
        if is_hooked:
            values.grad_fn.register_hook(hook)
        found.append(torch.autograd.grad(values.sum(), (angles, *weights.values())))
    factor = 1 if new(torch.ones(1)) is None else float(new(torch.ones(1)))
    assert seen
    assert not any(gradient.isnan().any() for gradient in seen)
    assert_same(found[1], [factor * gradient for gradient in found[0]])


def test_hooks_within_the_engine_cannot_change_what_is_not_there_yet():
    angles, weights = random_angles(ALIKE, 5, grad=True), random_weights(ALIKE, grad=True)
    values = COMPILED.joined_values(ALIKE, angles, weights)
    ((node, _), *_) = values.grad_fn.next_functions
    node.register_hook(lambda given, _: tuple(g if g is None else g.clone() for g in given))
    with pytest.raises(QmtlError, match="register it on a tensor"):
        values.sum().backward()
    assert not hasattr(threads._THREAD, "running")
    assert_same(gradients(COMPILED), gradients(EAGER))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing(use_reentrant):
    found = []
    for simulator in (COMPILED, EAGER):
        angles, weights = new_inputs()

        def loss(angles, simulator=simulator, weights=weights):
            return loss_of(simulator, angles, weights)

        checkpoint(loss, angles, use_reentrant=use_reentrant).backward()
        found.append([angles.grad, *(weight.grad for weight in weights.values())])
    assert_same(*found)


def test_inference_mode():
    angles, weights = new_inputs(())
    expected = EAGER.expectation_values(CIRCUIT, angles, weights)
    with torch.inference_mode():
        found = COMPILED.expectation_values(CIRCUIT, angles, weights)
    assert_same(found.values(), expected.values())


def test_ctrl_c_during_the_work_leaves_nothing_behind(monkeypatch):
    """Python raises it as soon as the compiled function returns."""

    def interrupted(function):
        def call(data):
            function(data)
            raise KeyboardInterrupt

        return call

    part = threads._Part.__init__

    def patched(self, *arguments, **options):
        part(self, *arguments, **options)
        self.function = interrupted(self.function)

    with monkeypatch.context() as patch:
        patch.setattr(threads._Part, "__init__", patched)
        with pytest.raises(KeyboardInterrupt):
            COMPILED.expectation_values(CIRCUIT, *new_inputs())
    assert not hasattr(threads._THREAD, "running")
    assert_same(gradients(COMPILED), gradients(EAGER))


@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("grad", [(), ("angles", "encoding", "own")], ids=["forward", "whole"])
def test_ctrl_c_at_any_moment(grad):
    """Python looks for signals where functions begin, and after calls."""

    def interrupt(frame, event, _):
        nonlocal left
        if event != "c_call" and frame.f_code.co_filename == threads.__file__:
            left -= 1
            if not left:
                sys.setprofile(None)
                raise KeyboardInterrupt

    def step():
        if grad:
            gradients(COMPILED, grad)
        else:
            COMPILED.expectation_values(CIRCUIT, *new_inputs(grad))

    expected, n, left = gradients(EAGER), 0, 0
    while not left:
        n += 1
        left = n
        sys.setprofile(interrupt)
        # One that comes while an object is deleted is only printed, by Python.
        with contextlib.suppress(KeyboardInterrupt):
            step()
        sys.setprofile(None)
        # What is left of a backward pass torch keeps until the next one, which ends it.
        assert grad or not in_parallel()
        assert_same(gradients(COMPILED), expected)
        assert not hasattr(threads._THREAD, "running")
        assert not in_parallel()
    assert n > 50


def test_a_thread_that_ends_within_a_step_ends_its_team():
    def fail(_):
        raise ValueError

    def work():
        angles, weights = new_inputs()
        weights["t2"].register_hook(fail)
        graphs.append(loss_of(COMPILED, angles, weights))
        with pytest.raises(ValueError, match=r"^$"):
            graphs[0].backward()
        found.append(getattr(threads._THREAD, "running", None) is not None)
        found.append(weakref.ref(threads._THREAD.running) if found[0] else lambda: None)

    graphs, found = [], []
    worker = threading.Thread(target=work)
    worker.start()
    worker.join(60)
    assert not worker.is_alive()
    was_at_work, team = found
    assert was_at_work == (threads._team_entries() is not None)
    assert team() is None
    assert_same(gradients(COMPILED), gradients(EAGER))


def test_another_thread_cannot_end_a_step():
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
    address = ctypes.cast(function, ctypes.c_void_p).value
    background = threads.Background(address, 0, 2)
    if threads._team_entries() is None:
        background.finish()
        return
    with ThreadPoolExecutor(1) as pool, pytest.raises(QmtlError, match="by another one"):
        pool.submit(background.finish).result()
    background.finish()
    assert not hasattr(threads._THREAD, "running")


def test_anomalies_are_looked_for_without_threads(waited):
    expected = gradients(EAGER)
    with pytest.warns(UserWarning, match="Anomaly"), torch.autograd.detect_anomaly():
        assert_same(gradients(COMPILED), expected)
    assert not waited


def test_a_hook_may_simulate_in_between():
    angles, weights = new_inputs()
    seen = []

    def simulate(_):
        with torch.enable_grad():
            seen.append(gradients(COMPILED))

    weights["t2"].register_hook(simulate)
    loss_of(COMPILED, angles, weights).backward()
    (inner,) = seen
    assert_same(inner, gradients(EAGER))
    torch.testing.assert_close(angles.grad, inner[0])


def test_after_an_error_in_between_all_is_as_before():
    def fail(_):
        raise KeyboardInterrupt

    angles, weights = new_inputs()
    weights["t2"].register_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        loss_of(COMPILED, angles, weights).backward()
    # Torch keeps the graph until its next backward pass.
    assert_same(gradients(COMPILED), gradients(EAGER))
    assert not hasattr(threads._THREAD, "running")
    # Torch's own operations are parallel again.
    assert not in_parallel()


def test_backward_passes_of_several_python_threads():
    expected, found = gradients(EAGER), []

    def work():
        for _ in range(5):
            found.append(gradients(COMPILED))

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 15
    for one in found:
        assert_same(one, expected)


def test_one_graph_in_two_python_threads():
    angles, weights = new_inputs()
    leaves = [angles, *weights.values()]
    loss = loss_of(COMPILED, angles, weights)
    factors = [torch.tensor(float(i), dtype=torch.float64) for i in range(1, 7)]
    found = {}

    def work(factor):
        found[float(factor)] = torch.autograd.grad(loss, leaves, factor, retain_graph=True)

    workers = [threading.Thread(target=work, args=(factor,)) for factor in factors]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    once = gradients(EAGER)
    for factor, one in found.items():
        assert_same([part / factor for part in one], once)


def test_few_tasks_do_not_start_early(monkeypatch):
    monkeypatch.setattr(late, "Late", None)
    circuit = HeadCircuit(binary_tasks(late.FEWEST_TASKS - 1))
    angles = random_angles(circuit, 2, grad=True)
    values = COMPILED.expectation_values(circuit, angles, random_weights(circuit, grad=True))
    sum(value.sum() for value in values.values()).backward()
    assert angles.grad is not None


def test_what_callers_do_meanwhile_comes_before_the_waiting_backwards_too(waited, monkeypatch):
    angles, weights = new_inputs()
    scales, order = torch.rand(len(TASKS), dtype=torch.float64).requires_grad_(), []
    finish = late.Late.finish
    monkeypatch.setattr(
        late.Late, "finish", lambda *a: order.append("finish") if finish(*a) is None else None
    )
    factors = []

    def meanwhile():
        # A node of its own, as the stack of hundreds of leaves is.
        factors.append(scales.clone())
        factors[0].register_hook(lambda _: order.append("factors"))

    joined = COMPILED.joined_values(CIRCUIT, angles, weights, meanwhile=meanwhile)
    assert len(factors) == 1
    (
        joined * factors[0].repeat_interleave(torch.tensor([t.n_outputs for t in TASKS]))
    ).sum().backward()
    # Both structures are waited for; the first group's wait comes last.
    assert len(waited) == 2
    assert order == ["finish", "factors", "finish"]


def test_a_head_stacks_its_scales_meanwhile(waited):
    head = QuantumHead(CIRCUIT, seed=0).double()
    features = random_angles(CIRCUIT, 5).requires_grad_()
    sum(out.square().sum() for out in head(features).values()).backward()
    two = [features.grad, *(p.grad for p in head.parameters())]
    assert len(waited) == 2
    head.zero_grad()
    features.grad = None
    torch.set_num_threads(1)
    sum(out.square().sum() for out in head(features).values()).backward()
    one = [features.grad, *(p.grad for p in head.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_lazy_signs():
    angles, weights = new_inputs(grad=())
    lazy = torch.complex(torch.zeros_like(angles), -angles).conj().imag
    assert lazy.is_neg()
    expected = EAGER.joined_values(CIRCUIT, angles, weights)
    found = COMPILED.joined_values(CIRCUIT, lazy, weights)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@dataclass(frozen=True)
class FirstFeature:
    """Loads a feature on the first wire, or none, and rotates the others by weights."""

    n_loaded: int

    def n_features(self, n_wires):
        return self.n_loaded

    def n_weights(self, n_wires):
        return n_wires

    def gates(self, n_wires):
        loads = [Gate("RX", (i,), Angle(features=(i,))) for i in range(self.n_loaded)]
        return loads + [Gate("RY", (i,), Angle(weight=i)) for i in range(n_wires)]


@pytest.mark.parametrize("n_loaded", [0, 1])
def test_cones_without_features(n_loaded):
    circuit = HeadCircuit(binary_tasks(70), FirstFeature(n_loaded))
    angles, weights = random_angles(circuit, 5), random_weights(circuit)
    inputs = [angles.requires_grad_(), *(w.requires_grad_() for w in weights.values())]
    found, expected = (
        simulator.joined_values(circuit, angles, weights) for simulator in (COMPILED, EAGER)
    )
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), inputs, materialize_grads=True),
        torch.autograd.grad(expected.square().sum(), inputs, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)
