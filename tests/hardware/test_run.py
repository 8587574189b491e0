"""From a model to measured logits, through the genuine client and through the ledger alone."""

import json
from copy import deepcopy

import pytest
import torch
from qiskit.providers.fake_provider import GenericBackendV2

from qmtl import HeadCircuit, QuantumHead, Task
from qmtl.errors import HardwareBudgetError, HardwareJobError, InvalidInputError
from qmtl.hardware import (
    HardwareSettings,
    HardwareSimulator,
    Ledger,
    Progress,
    fetch,
    prepare,
    run,
    submit,
    write_result,
)
from tests.hardware.dispatch_samples import backend_files, quick

QUIET = Progress(write=len)
SHOTS = 2000


@pytest.fixture(scope="module")
def head():
    tasks = [Task.binary("a"), Task.multiclass("b", 3), Task.regression("c")]
    return QuantumHead(HeadCircuit(tasks), seed=1)


@pytest.fixture(scope="module")
def inputs(head):
    return torch.randn(4, head.n_features, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def hanoi(server):
    """The service with a device that is large enough."""
    server.service.backends["ibm_hanoi"] = backend_files("hanoi")
    return server.service


@pytest.fixture
def own_ledger(monkeypatch, tmp_path):
    monkeypatch.setenv("QMTL_LEDGER", str(tmp_path / "ledger.sqlite"))


def measure(head, inputs, backend, **options):
    options = {"shots": SHOTS, "progress": QUIET, **options}
    options["service"] = quick()
    return run(head, inputs, backend, **options)


def check_exact(result):
    """Without noise, the measured values are the exact ones within 4.5 standard errors."""
    for name, exact in result.exact.items():
        width = result.standard_errors[name].clamp_min(2 / result.shots)
        assert ((result.values[name] - exact).abs() < 4.5 * width).all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"twirl_readout": True, "twirl_gates": True},
        {"mitigation": "circuits"},
    ],
    ids=["plain", "twirled", "mitigated"],
)
def test_a_device(hanoi, head, inputs, options):
    """The service's jobs are without noise, so that the exact values are to be found."""
    result = measure(head, inputs, "ibm_hanoi", **options)
    check_exact(result)
    assert result.execution == "device"
    assert result.jobs == ("job0000",)
    assert {n: tuple(v.shape) for n, v in result.logits.items()} == {
        "a": (4, 1), "b": (4, 3), "c": (4, 1),
    }  # fmt: skip
    again = measure(head, inputs, "ibm_hanoi", **options)
    assert len(hanoi.jobs) == 1
    assert again.run == result.run
    assert all(torch.equal(again.logits[name], result.logits[name]) for name in result.logits)


@pytest.mark.parametrize("resilience", [0, 1])
def test_the_estimator_on_a_device(server, resilience):
    """On a small one, since the client measures the whole chip."""
    head = QuantumHead(HeadCircuit([Task.binary("a"), Task.multiclass("b", 3)]), seed=1)
    inputs = torch.randn(3, head.n_features, generator=torch.Generator().manual_seed(0))
    options = {"primitive": "estimator", "resilience": resilience}
    check_exact(measure(head, inputs, "ibm_manila", **options))


def test_several_jobs_on_a_device(hanoi, head, inputs):
    """Chunks of one sample each; fetched as they come."""
    hanoi.runs = False
    options = {"shots": SHOTS, "max_executions": SHOTS}
    name = run(head, inputs, "ibm_hanoi", service=quick(), wait=False, **options).run
    assert len(hanoi.jobs) == 4
    with pytest.raises(HardwareJobError, match="4 queued: nothing to fetch yet"):
        fetch(name, wait=False)
    hanoi.jobs["job0002"].status = "Completed"
    part = fetch(name, wait=False)
    assert part.missing == 3
    assert part.values["b"].isnan().all(dim=1).tolist() == [True, True, False, True]
    assert "3 samples have no result yet" in str(part)
    hanoi.runs = True
    whole = fetch(name, progress=QUIET, service=quick())
    assert whole.missing == 0
    check_exact(whole)


def recalibrate(hanoi, qubits, tmp_path):
    """These qubits are read badly from now on."""
    configuration, properties = hanoi.backends["ibm_hanoi"]
    changed = json.loads(properties.read_text())
    for qubit in qubits:
        for entry in changed["qubits"][qubit]:
            if entry["name"].startswith("readout_error"):
                entry["value"] = 0.4
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    hanoi.backends["ibm_hanoi"] = (configuration, tmp_path / "changed.json")


def test_simulators_come_back_another_day(hanoi, head, inputs, tmp_path):
    def evaluate():
        with torch.no_grad():
            return head.with_simulator(HardwareSimulator("ibm_hanoi", shots=100))(inputs)

    first = evaluate()
    recalibrate(hanoi, range(27), tmp_path)
    again = evaluate()
    assert len(hanoi.jobs) == 1
    assert all(torch.equal(again[name], first[name]) for name in first)


def test_another_day_the_same_call_comes_back(hanoi, head, inputs, tmp_path, monkeypatch):
    """Another calibration would give another layout; the run that was sent is gone on with."""
    first = measure(head, inputs, "ibm_hanoi")
    used = set(first.estimate.layout)
    recalibrate(hanoi, used, tmp_path)
    assert measure(head, inputs, "ibm_hanoi").run == first.run
    assert len(hanoi.jobs) == 1
    anew = measure(head, inputs, "ibm_hanoi", again=True)
    assert anew.run == f"{first.run}-2"
    assert len(hanoi.jobs) == 2
    assert set(anew.estimate.layout) != used


def test_here_too_the_same_call_takes_the_result_again(own_ledger, head, inputs):
    first, kept = (measure(head, inputs, "aer") for _ in range(2))
    assert kept.run == first.run
    assert torch.equal(kept.values["a"], first.values["a"])
    second = measure(head, inputs, "aer", again=True)
    assert second.run == f"{first.run}-2"
    assert not torch.equal(first.values["a"], second.values["a"])
    assert torch.equal(fetch(first.run).values["a"], first.values["a"])


def test_what_a_request_is(head, inputs):
    def request(head=head, inputs=inputs, backend="fake_hanoi", tasks=None, **options):
        return prepare(head, inputs, backend, tasks=tasks, **{"predict": False} | options).request

    first = request()
    assert request() == first
    assert request(predict=True, max_qpu_seconds=99, max_shots=10**9) == first
    other = QuantumHead(head.circuit, seed=2)
    others = [
        request(head=other),
        request(inputs=inputs + 1e-3),
        request(inputs=inputs[:2]),
        request(backend="aer"),
        request(tasks=["a"]),
        request(shots=100),
        request(mitigation="circuits"),
    ]
    assert len({first, *others}) == 8


def test_budgets(hanoi, head, inputs):
    with pytest.raises(HardwareBudgetError, match="nothing was sent"):
        measure(head, inputs, "ibm_hanoi", max_qpu_seconds=1)
    with pytest.raises(HardwareBudgetError, match="nothing was sent"):
        measure(head, inputs, "ibm_hanoi", max_shots=100)
    assert hanoi.jobs == {}
    assert Ledger().runs() == []


def test_records(own_ledger, head, inputs, tmp_path):
    result = measure(head, inputs, "fake_fez", seed=3)
    path = write_result(result, tmp_path / "hardware", metrics={"a": 1.0})
    record = json.loads(path.read_text())
    assert path.name == f"{result.run}.json"
    keys = ["run", "backend", "shots", "samples", "primitive", "execution", "jobs", "layout"]
    assert list(record)[:8] == keys
    assert (record["samples"], record["shots"], record["metrics"]) == (4, SHOTS, {"a": 1.0})
    assert [(row["task"], row["output"]) for row in record["table"]] == [
        ("a", 0), ("b", 0), ("b", 1), ("b", 2), ("c", 0),
    ]  # fmt: skip
    assert all(abs(row["deviation_in_standard_errors"]) < 5 for row in record["table"])
    lines = path.with_suffix(".csv").read_text().splitlines()
    assert lines[0].startswith("task,output,measured,predicted,exact,standard_error")
    assert len(lines) == 6


def test_results_without_predictions(own_ledger, head, inputs):
    result = measure(head, inputs, "aer", predict=False)
    assert result.comparison is None
    row = result.table()[0]
    assert row["measured"] == pytest.approx(float(result.values["a"].mean()))
    assert row["predicted"] is None
    assert result.exact_logits == {}


def test_exact_logits_are_those_of_the_head(own_ledger, head, inputs):
    result = measure(head, inputs, "fake_fez")
    for task, logits in deepcopy(head).double()(inputs.double()).items():
        torch.testing.assert_close(result.exact_logits[task], logits.detach(), atol=1e-6, rtol=0)


def test_a_single_task_by_its_name(own_ledger, head, inputs):
    assert list(measure(head, inputs[:1], "aer", tasks="b").values) == ["b"]


def test_names_that_results_have_already(hanoi, inputs):
    """Results are attributes of Qiskit's containers, which have a shape and values of their own."""
    head = QuantumHead(HeadCircuit([Task.binary("shape"), Task.multiclass("values", 3)]), seed=1)
    check_exact(measure(head, inputs[:, : head.n_features], "ibm_hanoi"))


def test_bad_input(own_ledger, head, inputs):
    with pytest.raises(InvalidInputError, match="did you mean 'shots'"):
        run(head, inputs, "aer", shot=10)
    with pytest.raises(InvalidInputError, match="not both"):
        run(head, inputs, "aer", settings=HardwareSettings(), shots=10)
    with pytest.raises(InvalidInputError, match="did you mean 'fake_fez'"):
        run(head, inputs, "fake_fezz")
    with pytest.raises(InvalidInputError, match="unknown run"):
        submit("abc")
    with pytest.raises(InvalidInputError, match="must be a run's name, got 3"):
        fetch(3)
    with pytest.raises(InvalidInputError, match="PreparedRun or a run's name, got int"):
        submit(3)
    with pytest.raises(InvalidInputError, match="settings must be HardwareSettings, got"):
        run(head, inputs, "aer", settings={})
    assert Ledger().runs() == []


def test_two_backends_of_your_own_with_one_name_are_two_requests(tmp_path):
    head = QuantumHead(HeadCircuit([Task.binary("a")]), seed=0)
    gates, x, ledger = ["rz", "sx", "x", "cz"], torch.zeros(2, 2), tmp_path / "ledger.sqlite"

    def measured(seed):
        backend = GenericBackendV2(4, gates, seed=seed, noise_info=True)
        return run(head, x, backend, shots=50, seed=1, ledger=ledger)

    one, other = measured(1), measured(2)
    assert one.backend == other.backend
    assert one.run != other.run
    assert measured(1).run == one.run
    assert not torch.equal(one.predicted["a"], other.predicted["a"])


def test_a_run_says_that_it_is_prepared_and_executed(tmp_path):
    head, lines = QuantumHead(HeadCircuit([Task.binary("a")]), seed=0), []
    progress = Progress(write=lines.append, is_terminal=False)
    for _ in range(2):
        result = run(
            head, torch.zeros(3, 2), "aer", shots=9, ledger=tmp_path / "l", progress=progress
        )
    # The second call finds the result of the first.
    assert lines == [
        "preparing 3 samples for aer\n",
        f"run {result.run} on aer, 3 samples: job 1 of 1 is executed here\n",
    ]
