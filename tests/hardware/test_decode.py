"""Decoding: bits and registers, standard errors, read-out mitigation, and damaged results."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("qiskit")
pytest.importorskip("qiskit_ibm_runtime")


from qmtl.circuit import HeadCircuit, PauliStrings
from qmtl.errors import InvalidInputError
from qmtl.hardware import Ledger, compare, decode, execute, open_backend, prepare
from qmtl.hardware._decode import PubData, raw_from_bytes, raw_from_result, raw_to_bytes
from qmtl.heads import QuantumHead
from qmtl.simulators import PROBABILITY_FLOOR
from qmtl.tasks import Task
from tests.hardware.samples import deviations, features, small_head

SHOTS = 4096


@pytest.fixture(scope="module")
def fez():
    return open_backend("fake_fez")


def run_on(backend, head, n=8, **options):
    run = prepare(head, features(head, n), backend, seed=1, **{"shots": SHOTS} | options)
    raw = [execute(run, i) for i in range(len(run.chunks))]
    return run, raw, decode(run, raw)


def test_the_genuine_samplers_results_are_read():
    """Bits of Aer's own primitive, through PUBs, arrays, bytes and decoding."""
    primitives = pytest.importorskip("qiskit_aer.primitives")
    tasks = [Task.multiclass("my task", 7), Task.binary("b"), Task.regression("c", 2)]
    head = QuantumHead(HeadCircuit(tasks), seed=0)
    run = prepare(head, features(head, 3), "aer", shots=SHOTS)
    result = primitives.SamplerV2(seed=1).run(run.pubs(0)).result()
    raw = raw_from_bytes(raw_to_bytes(raw_from_result(run, 0, result)))
    decoded = decode(run, [raw])
    assert np.abs(deviations(decoded.values, run.exact, compare(run, decoded).errors)).max() < 4.5


def test_pauli_strings_and_the_shared_layout():
    tasks = [Task.regression("a", 2), Task.multiclass("b", 3)]
    for layout in ("partitioned", "shared"):
        readouts = {"a": PauliStrings(("ZZ", "IZ"))}
        head = QuantumHead(HeadCircuit(tasks, layout=layout, readouts=readouts), seed=0)
        run, _, decoded = run_on("aer", head)
        comparison = compare(run, decoded)
        assert comparison.n_beyond <= 1, comparison
        assert comparison.largest < 5


def test_standard_errors_are_those_of_repeated_runs(fez):
    head = small_head()
    run = prepare(head, features(head, 1).expand(200, -1), "aer", shots=50, seed=3)
    decoded = decode(run, [execute(run, 0)])
    for task, values in decoded.values.items():
        told = np.sqrt((decoded.errors[task] ** 2).mean(axis=0))
        np.testing.assert_allclose(values.std(axis=0, ddof=1), told, rtol=0.25)
    one = prepare(head, features(head, 1), "aer", shots=1)
    assert np.isnan(decode(one, [execute(one, 0)]).errors["b"]).all()


@pytest.mark.parametrize("mitigation", ["calibration", "circuits"])
@pytest.mark.parametrize("layout", ["partitioned", "shared"])
def test_mitigation_undoes_readout_errors(fez, mitigation, layout):
    """Mitigated values agree with the prediction without read-out errors, raw ones do not."""
    head = small_head(layout)
    shots = 100_000
    run, _, decoded = run_on(fez, head, mitigation=mitigation, shots=shots)
    comparison = compare(run, decoded)
    assert comparison.largest < 4.5, comparison
    plain, raw, unmitigated = run_on(fez, head, shots=shots)
    far = np.abs(deviations(unmitigated.values, run.predicted, unmitigated.errors)).max()
    assert far > 4.5
    assert compare(plain, unmitigated).largest < 4.5
    assert len(run.circuits) == len(plain.circuits) + 2 * (mitigation == "circuits")
    assert len(raw[0]) == len(plain.circuits)
    for task in decoded.errors:  # what mitigation takes
        assert (decoded.errors[task] >= 0.99 * unmitigated.errors[task]).mean() > 0.9


def test_errors_of_the_calibration_are_propagated(fez):
    head = small_head()
    _, raw, decoded = run_on(fez, head, mitigation="circuits")
    exact = decode(
        prepare(head, features(head, 8), fez, seed=1, mitigation="calibration"), [raw[0][:1]]
    )
    for task in decoded.errors:
        assert (decoded.errors[task] > exact.errors[task]).all()


def test_more_samples_do_not_reduce_the_error_of_the_calibration_that_they_share():
    head = QuantumHead(HeadCircuit([Task.binary("a")]), seed=0, initial="normal")
    x = torch.zeros(50, head.n_features)
    run = prepare(head, x, "fake_torino", shots=1000, mitigation="circuits")
    rows = []
    for seed in range(20):
        own = replace(run, options={**run.options, "simulator": {"seed_simulator": seed}})
        rows += compare(own, decode(own, [execute(own, 0)])).table()
    spread = np.std([row["measured"] for row in rows])
    told = np.mean([row["standard_error"] for row in rows])
    # Independent samples would give less than half.
    assert 0.8 * spread < told < 1.5 * spread


@pytest.mark.parametrize("resilience", [0, 1])
def test_the_estimators_values(fez, resilience):
    head = small_head()
    run, _, decoded = run_on(fez, head, primitive="estimator", resilience=resilience)
    assert compare(run, decoded).largest < 5
    np.testing.assert_allclose(decoded.values["b"].sum(axis=1), 1, atol=0.5)
    assert (decoded.values["b"] >= 0).all()


def test_the_estimators_readout_errors_are_twirled(monkeypatch):
    """Errors that go one way only would leave a bias that no factor undoes."""
    head = QuantumHead(HeadCircuit([Task.binary("a")]), seed=0)
    backend = open_backend("fake_manila")
    noise = replace(backend.noise, readout=(0.0, 0.2), readouts={})
    monkeypatch.setitem(vars(backend), "noise", noise)
    run, _, decoded = run_on(backend, head, primitive="estimator", shots=20_000)
    assert compare(run, decoded).largest < 5


def test_probabilities_of_strings_are_clipped_and_renormalised():
    head = QuantumHead(HeadCircuit([Task.multiclass("b", 4)]), seed=0)
    run = prepare(head, features(head, 1), "aer", primitive="estimator", predict=False)
    strings = run.decoding.strings[0]
    first, second = run.decoding.tasks[0].qubits
    at = {string: i for i, string in enumerate(strings)}
    evs = np.zeros((1, 3))
    evs[0, at[first,]], evs[0, at[second,]], evs[0, at[first, second]] = 1.0, 0.9, 1.1
    decoded = decode(run, [(PubData({"evs": evs, "stds": np.full((1, 3), 0.1)}),)])
    # (1 + 1 + .9 + 1.1, 1 + 1 - .9 - 1.1, 1 - 1 + .9 - 1.1, 1 - 1 - .9 + 1.1) / 4
    expected = np.array([4.0, 0.0, 0.0, 0.2])
    np.testing.assert_allclose(decoded.values["b"][0], expected / expected.sum(), atol=1e-12)


def test_errors_of_probabilities_from_strings_know_that_strings_share_their_shots():
    head = QuantumHead(HeadCircuit([Task.multiclass("b", 8)]), seed=0, initial="normal")
    x = features(head, 5)
    sampled, estimated = (
        prepare(head, x, "aer", shots=5000, seed=1, primitive=primitive)
        for primitive in ("sampler", "estimator")
    )
    expected, found = (decode(run, [execute(run, 0)]).errors["b"] for run in (sampled, estimated))
    assert expected.max() > 3 * expected.min()
    np.testing.assert_allclose(found, expected, rtol=0.1, atol=2e-4)


def test_logits_are_those_of_the_head():
    head = small_head()
    with torch.no_grad():
        head.scales["my task"].fill_(3.0)
    _, _, decoded = run_on("aer", head, n=2)
    told = {name: torch.from_numpy(values).float() for name, values in decoded.values.items()}
    for name, logits in head.logits(told).items():
        np.testing.assert_allclose(logits.detach().numpy(), decoded.logits[name], rtol=1e-5)
    np.testing.assert_allclose(decoded.logit_errors["my task"], 3 * decoded.errors["my task"])


def test_chunks_that_are_missing_leave_nan():
    head = small_head()
    run = prepare(head, features(head, 5), "aer", shots=100, max_executions=200, seed=0)
    raw = {i: execute(run, i) for i in (0, 2)}
    decoded = decode(run, raw)
    assert np.isnan(decoded.values["b"]).any(axis=1).tolist() == [False, False, True, True, False]
    comparison = compare(run, decoded)
    assert comparison.n_compared == 3 * 4
    assert {row["task"] for row in comparison.table()} == {"my task", "b"}
    whole = decode(run, [*raw.values(), execute(run, 1)][:0] + [execute(run, i) for i in range(3)])
    np.testing.assert_array_equal(whole.values["b"][:2], decoded.values["b"][:2])


def test_results_that_do_not_fit_are_refused():
    head = small_head()
    run = prepare(head, features(head, 2), "aer", shots=16, predict=False)
    raw = execute(run, 0)
    with pytest.raises(InvalidInputError, match="1 chunks, got results of"):
        decode(run, [raw, raw])
    with pytest.raises(InvalidInputError, match="1 PUBs"):
        decode(run, [()])
    with pytest.raises(InvalidInputError, match=r"a Sequence, got PubData; pass a list, \[execute"):
        decode(run, raw)
    for call, told in [
        (lambda: decode(3, []), "prepared must be a PreparedRun, got int"),
        (lambda: compare(run, 3), "decoded must be a Decoded, got int"),
        (lambda: execute(3, 0), "prepared must be a PreparedRun, got int"),
        (lambda: execute(run, 1), "the run has 1 chunks, got chunk 1"),
        (lambda: execute(run, -1), "chunk must be an integer >= 0, got -1"),
        (lambda: Ledger(3), "path must be a path .*, got 3"),
    ]:
        with pytest.raises(InvalidInputError, match=told):
            call()
    cut = PubData({n: a[:1] for n, a in raw[0].arrays.items()}, raw[0].bits)
    with pytest.raises(InvalidInputError, match="2 samples"):
        decode(run, [(cut,)])
    with pytest.raises(InvalidInputError, match="cannot be read"):
        raw_from_bytes(raw_to_bytes(raw)[:-10])
    with pytest.raises(InvalidInputError, match="must have 1 PUBs"):
        raw_from_result(run, 0, [])
    with pytest.raises(InvalidInputError, match="without predictions"):
        compare(run, decode(run, [raw]))


def test_calibration_circuits_that_read_more_wrong_than_right_are_refused():
    """With few shots this happens by chance."""
    run, [(pub, zeros, ones)], _ = run_on("aer", small_head(), 1, shots=9, mitigation="circuits")
    with pytest.raises(InvalidInputError, match="cannot correct; take more shots or another lay"):
        decode(run, [(pub, ones, zeros)])


def test_comparisons_tell_how_many_deviations_are_expected():
    head = small_head()
    run, _, decoded = run_on("aer", head, n=16)
    comparison = compare(run, decoded)
    # 64 outputs, each with a chance of about 6e-5, more for small probabilities.
    assert 0.0005 < comparison.expected_beyond < 0.1
    assert comparison.n_compared == 64
    rows = comparison.table()
    assert [(row["task"], row["output"]) for row in rows][:2] == [("my task", 0), ("b", 0)]
    assert all(abs(row["deviation_in_standard_errors"]) < 4.5 for row in rows)
    assert "64 outputs compared" in str(comparison)


def test_shots_that_all_agree_leave_an_error_of_one_shot():
    head = QuantumHead(HeadCircuit([Task.binary("a"), Task.multiclass("b", 4)]), seed=0)
    run = prepare(head, features(head, 1), "aer", shots=100, predict=False)
    registers = run.circuits[0].cregs
    zeros = {register.name: np.zeros((1, 100, 1), np.uint8) for register in registers}
    decoded = decode(run, [(PubData(zeros, {register.name: 2 for register in registers}),)])
    assert decoded.values["a"].tolist() == [[1.0]]
    np.testing.assert_allclose(decoded.errors["a"], 2 / 100)
    assert decoded.values["b"].tolist() == [[1.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(decoded.errors["b"], 1 / 100)
    scale = decoded.logits["b"][0, 1] / np.log(PROBABILITY_FLOOR)
    steps = [1 / 100, *3 * [np.log1p(1 / 100 / PROBABILITY_FLOOR)]]
    np.testing.assert_allclose(decoded.logit_errors["b"][0], scale * np.array(steps), rtol=1e-4)
