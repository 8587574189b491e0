"""Prepared runs: one circuit whatever T, costs told, budgets kept, bytes and hashes stable."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("qiskit")
pytest.importorskip("qiskit_ibm_runtime")

from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit_ibm_runtime.executor_estimator.prepare import prepare as prepare_estimator
from qiskit_ibm_runtime.executor_sampler.prepare import prepare as prepare_sampler
from qiskit_ibm_runtime.options_models import EstimatorOptions, SamplerOptions

from qmtl.circuit import HeadCircuit
from qmtl.encoders import MLP
from qmtl.errors import HardwareBudgetError, InvalidInputError
from qmtl.hardware import Backend, HardwareSettings, PreparedRun, open_backend, prepare
from qmtl.hardware._client import primitive_options
from qmtl.heads import LinearHead, QuantumHead
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task
from tests.hardware.samples import binary_head, features, small_head
from tests.hardware.server import SERVER


@pytest.fixture(scope="module")
def fez():
    return open_backend("fake_fez")


@pytest.mark.parametrize("n_tasks", [2, 8, 32])
def test_one_job_and_one_circuit_for_all_tasks(n_tasks):
    head, batch = binary_head(n_tasks), 4
    run = prepare(head, features(head, batch), "aer", predict=False)
    assert len(run.chunks) == len(run.circuits) == run.estimate.jobs == run.estimate.circuits == 1
    assert [pub.samples for pub in run.chunks[0].pubs] == [(0, batch)]
    assert run.estimate.executions == batch * 4096
    naive = n_tasks * batch  # a circuit for each task and sample
    assert naive / run.estimate.circuits == n_tasks * batch
    assert len(run.circuits[0].cregs) == n_tasks


def test_the_shared_layout_has_a_circuit_for_each_task_in_one_job():
    head = small_head("shared")
    run = prepare(head, features(head), "aer", shots=100)
    assert len(run.circuits) == 2
    assert len(run.chunks) == 1
    assert [pub.circuit for pub in run.chunks[0].pubs] == [0, 1]
    assert [task.circuit for task in run.decoding.tasks] == [0, 1]


def test_depth_does_not_grow_with_the_number_of_tasks(fez):
    """On lines for any T; rings of 40 and 100 wires are found among the couplings, too."""
    depths = {}
    for n_tasks in (5, 20, 50):
        line = binary_head(n_tasks, "cz_line")
        run = prepare(line, features(line, 1), fez, predict=False)
        assert (run.estimate.swaps, run.estimate.wires) == (0, 2 * n_tasks)
        depths[n_tasks] = (run.estimate.depth, run.estimate.two_qubit_depth)
        assert not any("swaps" in note for note in run.estimate.notes)
    assert set(depths.values()) == {(13, 5)}
    ring = binary_head(50)
    run = prepare(ring, features(ring, 1), fez, predict=False)
    estimate = run.estimate
    assert len(repr(run)) < 200
    assert "of two-qubit gates 5\n" in str(estimate)
    assert (estimate.swaps, estimate.depth, estimate.two_qubit_gates) == (0, 13, 250)
    assert run.execution == "task by task"
    assert any("not correlated" in note for note in estimate.notes)


def test_a_ring_that_the_couplings_do_not_hold_has_its_cost_stated(fez):
    head = binary_head(5)  # heavy-hex lattices have no ring of ten
    estimate = prepare(head, features(head, 1), fez, predict=False).estimate
    assert estimate.swaps > 0
    assert estimate.two_qubit_gates > 25
    [note] = estimate.notes
    assert f"{estimate.swaps} swaps" in note
    assert "instead of 25" in note
    assert "cz_line" in note


def test_layouts_avoid_what_is_broken(fez):
    head = binary_head(20)
    run = prepare(head, features(head, 1), fez, predict=False)
    target = fez.target
    for instruction in run.circuits[0].data:
        qubits = tuple(run.circuits[0].find_bit(q).index for q in instruction.qubits)
        if instruction.operation.name != "barrier":
            assert target[instruction.operation.name][qubits].error < 0.5
    assert 0 < run.estimate.success < min(run.estimate.task_success.values()) < 1


def test_a_layout_of_ones_own(fez):
    head = binary_head(1)
    run = prepare(head, features(head, 1), fez, predict=False, layout=(11, 12))
    assert run.estimate.layout == (11, 12)
    assert run.decoding.tasks[0].qubits == (11, 12)
    for layout, expected in [((11,), "2 distinct"), ((11, 11), "distinct"), ((0, 156), "156")]:
        with pytest.raises(InvalidInputError, match=expected):
            prepare(head, features(head, 1), fez, layout=layout)


@pytest.mark.parametrize("options", [{}, {"mitigation": "circuits"}, {"primitive": "estimator"}])
def test_bytes_and_back(fez, options):
    head = small_head()
    run = prepare(head, features(head), fez, shots=64, **options).with_context(label="ü")
    again = PreparedRun.from_bytes(run.to_bytes())
    for name in ("backend", "primitive", "mode", "chunks", "decoding", "options", "estimate"):
        assert getattr(again, name) == getattr(run, name), name
    assert (again.hash, again.execution) == (run.hash, run.execution)
    assert again.context["label"] == "ü"
    for one, other in zip(again.values, run.values, strict=True):
        np.testing.assert_array_equal(one, other)
    for expected in ("predicted", "exact"):
        for task, values in getattr(run, expected).items():
            np.testing.assert_array_equal(getattr(again, expected)[task], values)
    assert list(again.circuits) == list(run.circuits)
    with pytest.raises(InvalidInputError, match="cannot be read"):
        PreparedRun.from_bytes(run.to_bytes()[:-30])


def test_the_hash_is_that_of_the_content(fez):
    head = small_head()
    run = prepare(head, features(head), fez, shots=64, predict=False)
    same = prepare(head, features(head), fez, shots=64, predict=False, cache=False)
    assert same.hash == run.hash
    for other in (
        prepare(head, features(head), fez, shots=65, predict=False),
        prepare(head, features(head, seed=1), fez, shots=64, predict=False),
        prepare(small_head(seed=1), features(head), fez, shots=64, predict=False),
        prepare(head, features(head), "aer", shots=64, predict=False),
        prepare(head, features(head), fez, shots=64, predict=False, decoupling="XX"),
    ):
        assert other.hash != run.hash
        assert other.chunks[0].hash != run.chunks[0].hash
    mitigated = prepare(
        head, features(head), fez, shots=64, predict=False, mitigation="calibration"
    )
    assert mitigated.chunks[0].hash == run.chunks[0].hash  # the same is sent
    assert mitigated.hash != run.hash


def hashes():
    run = prepare(binary_head(2), torch.ones(2, 4), "aer", shots=8, cache=False, predict=False)
    return run.hash, run.chunks[0].hash


def test_the_hash_is_the_same_in_another_process():
    with SERVER.Pool(1) as pool:
        assert pool.apply(hashes) == hashes()


def test_pubs_are_those_of_the_primitives(fez):
    head = small_head()
    x = features(head, 4)
    run = prepare(head, x, fez, shots=64, mitigation="circuits", predict=False)
    pubs = [SamplerPub.coerce(pub) for pub in run.pubs(0)]
    assert [(pub.shape, pub.shots) for pub in pubs] == [((4,), 64), ((), 64), ((), 64)]
    estimated = prepare(head, x, fez, shots=64, primitive="estimator", predict=False)
    [pub] = [EstimatorPub.coerce(pub) for pub in estimated.pubs(0)]
    # Z of the binary task, and all strings of the two wires of the other one.
    assert pub.shape == (4, 1 + 3)
    assert pub.precision == pytest.approx(1 / 8)
    SamplerOptions(**run.options)
    EstimatorOptions(**estimated.options)


def test_options_are_those_of_the_client(fez):
    settings = HardwareSettings(twirl_gates=True, decoupling="XY4", max_execution_time=60)
    options = SamplerOptions(**settings.runtime_options(is_local=False))
    assert options.twirling.enable_gates is True
    assert options.dynamical_decoupling.sequence_type == "XY4"
    assert options.max_execution_time == 60
    settings = HardwareSettings(primitive="estimator", resilience=2)
    assert EstimatorOptions(**settings.runtime_options(is_local=False)).resilience_level == 2
    assert HardwareSettings.of(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize(
    "options",
    [
        {"shots": 100},
        {"shots": 100, "twirl_gates": True},
        {"shots": 5000, "twirl_readout": True, "mitigation": "circuits"},
        *({"shots": 100, "primitive": "estimator", "resilience": level} for level in (0, 1, 2)),
        # The square of the square root of 1 / 1000 is below 1 / 1000.
        {"shots": 1000, "primitive": "estimator", "resilience": 0},
        {"shots": 4000, "primitive": "estimator", "resilience": 1},
    ],
    ids=str,
)
def test_executions_are_those_that_the_client_sends(fez, options):
    head = QuantumHead(HeadCircuit([Task.binary("a")]), seed=0)
    device, x = Backend("ibm_fez", "real", fez.device), torch.zeros(3, 2)
    options = options | {"predict": False}
    run = prepare(head, x, device, **options)
    client = prepare_estimator if run.primitive == "estimator" else prepare_sampler
    chosen = primitive_options(run.primitive, run.options)
    program, _ = client(run.pubs(0), chosen, backend=fez.device)
    sent = program.shots * sum(item.size() for item in program.items)
    assert run.estimate.executions == sent
    with pytest.raises(HardwareBudgetError, match=f"needs {sent} executions"):
        prepare(head, x, device, max_shots=sent - 1, **options)
    # A job never has more executions than it may.
    for chunk in prepare(head, x, device, max_executions=sent - 1, **options).chunks:
        assert chunk.executions < sent


def test_predictions_know_that_twirled_measurements_err_both_ways():
    head = QuantumHead(HeadCircuit([Task.binary("a")]), seed=0)
    fake = open_backend("fake_fez")
    device = Backend("ibm_fez", "real", fake.device)
    plain, twirled = (
        prepare(head, torch.zeros(1, 2), device, twirl_readout=on) for on in (False, True)
    )
    up, down = fake.noise.readouts[plain.decoding.tasks[0].qubits[0]]
    assert abs(down - up) > 1e-3
    assert plain.predicted["a"] - twirled.predicted["a"] == pytest.approx(down - up, abs=1e-6)


def test_budgets_stop_before_anything_is_spent(fez):
    head = small_head()
    x = features(head, 4)
    with pytest.raises(HardwareBudgetError, match="16384 executions, more than max_shots"):
        prepare(head, x, fez, max_shots=10_000)
    with pytest.raises(HardwareBudgetError, match="s on the device, more than max_qpu_seconds"):
        prepare(head, x, fez, max_qpu_seconds=2.5)
    estimate = prepare(head, x, fez, max_qpu_seconds=60, predict=False).estimate
    # 2 s for the job, and 250 µs and the circuit's length for each execution.
    assert 2 + 16384 * 250e-6 < estimate.qpu_seconds < 2 + 16384 * 260e-6
    assert estimate.budget_seconds == 60


def test_chunks_keep_the_limits_of_a_job():
    head = small_head()
    x = features(head, 10)
    run = prepare(head, x, "aer", shots=100, max_executions=300, predict=False)
    assert [chunk.pubs[0].samples for chunk in run.chunks] == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert [chunk.executions for chunk in run.chunks] == [300, 300, 300, 100]
    assert run.mode == "batch"
    assert len({chunk.hash for chunk in run.chunks}) == 4
    mitigated = prepare(
        head, x, "aer", shots=100, max_executions=300, mitigation="circuits", predict=False
    )
    assert [chunk.executions for chunk in mitigated.chunks] == [300] * 10
    limit = run.estimate.payload_bytes + 400  # circuits, and results of a few samples
    small = prepare(head, x, "aer", shots=100, max_job_bytes=limit, predict=False)
    assert len(small.chunks) > 1
    with pytest.raises(InvalidInputError, match="one sample takes"):
        prepare(head, x, "aer", shots=100, max_job_bytes=10)


def test_features_come_in_any_array():
    head = small_head()
    x = features(head).numpy()
    expected = prepare(head, x, "aer", shots=8).values[0]
    x.flags.writeable = False
    for given in (x, pd.DataFrame(x), x.astype(">f4"), x[::-1].copy()[::-1], x.tolist()):
        np.testing.assert_array_equal(prepare(head, given, "aer", shots=8).values[0], expected)


def test_errors(fez):
    head = small_head()
    x = features(head)
    linear = MultiTaskModel(MLP(4, 3, out_features=4), LinearHead(head.tasks, 4))
    bad = x.clone()
    bad[0, 0] = torch.nan
    for call, expected in [
        (lambda: prepare(linear, x), "only quantum heads"),
        (lambda: prepare(head, x, "fake_fes"), "did you mean 'fake_fez'"),
        (lambda: prepare(head, x, object()), "must be a name or a Qiskit backend"),
        (lambda: prepare(head, x, fez, shot=5), "did you mean 'shots'"),
        (lambda: prepare(head, x, fez, shots=0), "shots: Input should be greater"),
        (lambda: prepare(head, x, fez, shots=True), "shots takes numbers"),
        (lambda: prepare(head, x, fez, mitigation="calib"), "value of mitigation: .calib."),
        (lambda: prepare(head, x, fez, settings=HardwareSettings(), shots=3), "not both"),
        (lambda: prepare(head, x, fez, tasks=["c"]), "unknown task 'c'"),
        (lambda: prepare(head, x, fez, tasks=[]), "at least one"),
        (lambda: prepare(head, x[:, 1:], fez), r"shape \(samples, 4\), got \(3, 3\)"),
        (lambda: prepare(head, x[:0], fez), "at least one sample"),
        (lambda: prepare(head, [[1, 2], [3]], fez), "rows of different lengths"),
        (lambda: prepare(head, None, fez), "must be real numbers, got None"),
        (lambda: prepare(head, np.ones((2, head.n_features), complex), fez), "complex numbers"),
        (lambda: prepare(head, x + 1j, fez), "inputs must be real"),
        (lambda: prepare(head, x, type(fez)), "name or a Qiskit backend"),
        (lambda: prepare(head, x, "ibm_fez", service="secret"), "QiskitRuntimeService.*got a str$"),
        (lambda: prepare(head, bad, fez), "finite"),
        (lambda: prepare(head, x, fez, mode="batch"), "simulated here"),
        (lambda: prepare(head, x, "aer", layout=[0, 1, 2, 3]), "aer has no qubits to choose"),
        (lambda: prepare(head, x, fez, primitive="estimator", resilience=2), "needs a device"),
        (
            lambda: prepare(head, x, fez, primitive="estimator", mitigation="circuits"),
            "mitigation applies to the sampler only",
        ),
        (
            lambda: prepare(head, x, fez, primitive="estimator", twirl_readout=True),
            "twirl_readout apply to the sampler only",
        ),
        (lambda: prepare(head, x, fez, resilience=2), "the estimator only, got 2"),
        (lambda: prepare(binary_head(80), torch.zeros(1, 160), fez), "has 160 wires"),
        (lambda: HardwareSettings(seed=-1), "seed"),
        (lambda: HardwareSettings(shots=10**8), "at most max_executions"),
    ]:
        with pytest.raises(InvalidInputError, match=expected):
            call()


def test_a_model_is_encoded_in_evaluation_mode():
    head = small_head()
    model = MultiTaskModel(MLP(5, 8, out_features=4, dropout=0.5, seed=0), head).train()
    x = torch.randn(3, 5)
    run = prepare(model, x, "aer", shots=8)
    assert model.training
    model.eval()
    with torch.no_grad():
        expected = head.angles(model.encoder(x))
    np.testing.assert_allclose(run.values[0], expected.numpy()[:, run.decoding.columns[0]])
    subset = prepare(model, x, "aer", shots=8, tasks=["b"])
    assert [task.task for task in subset.decoding.tasks] == ["b"]
    assert list(subset.exact) == ["b"]
