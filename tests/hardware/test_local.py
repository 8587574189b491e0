"""Execution here: whole circuits and single tasks, fake backends and Aer, seeds and limits."""

import numpy as np
import pytest
import torch

pytest.importorskip("qiskit")
pytest.importorskip("qiskit_ibm_runtime")

from dataclasses import replace

from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.transpiler import InstructionProperties
from qiskit_ibm_runtime.fake_provider import FakeManilaV2

from qmtl.circuit import HeadCircuit
from qmtl.errors import CircuitTooLargeError, InvalidInputError
from qmtl.hardware import (
    HardwareSimulator,
    Ledger,
    Progress,
    backend_names,
    compare,
    decode,
    execute,
    fetch,
    open_backend,
    prepare,
    run,
    status,
    submit,
)
from qmtl.heads import QuantumHead
from qmtl.tasks import Task
from tests.hardware.samples import binary_head, features, small_head


@pytest.fixture(scope="module")
def fez():
    return open_backend("fake_fez")


def outcomes(run, task):
    """The task's first measured bit, (samples, shots)."""
    raw = execute(run, 0)
    register = next(t.register for t in run.decoding.tasks if t.task == task)
    return raw[0].arrays[register][..., -1] & 1


@pytest.mark.parametrize("backend", ["fake_fez", "aer"])
def test_task_by_task_gives_the_same_as_the_whole_circuit(backend):
    head = binary_head(2)
    run = prepare(head, features(head, 4), backend, shots=4096, seed=0)
    assert run.execution == "whole circuit"
    for how in (run, replace(run, execution="task by task")):
        comparison = compare(how, decode(how, [execute(how, 0)]))
        assert comparison.largest < 4.5, comparison


def test_shots_of_tasks_are_correlated_in_whole_circuits_only():
    """A wire of each task, entangled: seen together in one circuit, apart in two."""
    head = binary_head(2)
    run = prepare(head, features(head, 8), "aer", shots=4096, seed=0, predict=False)

    def correlation(of):
        a, b = (outcomes(of, name).astype(float) for name in ("t0", "t1"))
        covariance = ((a - a.mean(1, keepdims=True)) * (b - b.mean(1, keepdims=True))).mean(1)
        return np.abs(covariance).max()

    assert correlation(run) > 0.05
    assert correlation(replace(run, execution="task by task")) < 0.02


def test_seeds():
    head = small_head()
    x = features(head, 2)

    def values(seed):
        run = prepare(head, x, "aer", shots=64, seed=seed, predict=False)
        return decode(run, [execute(run, 0)]).values["b"]

    np.testing.assert_array_equal(values(5), values(5))
    assert (values(5) != values(6)).any()
    assert (values(None) != values(None)).any()


@pytest.mark.slow
def test_fifty_tasks_on_a_hundred_wires(fez):
    head = binary_head(50)
    run = prepare(head, features(head, 1), fez, seed=0)
    comparison = compare(run, decode(run, [execute(run, 0)]))
    assert comparison.n_compared == 50
    assert comparison.largest < 4.5, comparison


def own_backend(seed=2):
    couplings = [[i, i + 1] for i in range(5)]
    return GenericBackendV2(6, ["cz", "rz", "sx", "x", "delay"], coupling_map=couplings, seed=seed)


def test_a_backend_of_ones_own():
    """Whatever takes a name takes the object; what was prepared for it runs on it."""
    backend = own_backend()
    assert (open_backend(backend).kind, open_backend(backend).n_qubits) == ("fake", 6)
    head = small_head()
    prepared = prepare(head, features(head), backend, seed=0)
    for given in (None, backend, open_backend(backend)):
        comparison = compare(prepared, decode(prepared, [execute(prepared, 0, backend=given)]))
        assert comparison.largest < 4.5
    with pytest.raises(InvalidInputError, match="prepared for generic_backend_6q, got backend aer"):
        execute(prepared, 0, backend="aer")
    with torch.no_grad():
        values = head.with_simulator(HardwareSimulator(backend, shots=10))(features(head, 1))
    assert values["b"].shape == (1, 3)


def test_a_backend_of_ones_own_in_the_ledger(tmp_path):
    """A run keeps its backend while it is here; from the ledger it is asked for."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    head, backend = small_head(), own_backend()
    options = {"shots": 50, "seed": 0, "cache": False}
    prepared = prepare(head, features(head), backend, **options)
    assert status(submit(prepared, ledger), ledger).is_complete
    entered = ledger.add_run(prepared, again=True).run
    with pytest.raises(
        InvalidInputError, match="'generic_backend_6q' cannot be opened by its name: pass b"
    ):
        submit(entered, ledger)
    assert status(submit(entered, ledger, backend=backend), ledger).is_complete
    assert run(head, features(head), backend, ledger=ledger, **options).missing == 0


def test_a_fake_backend_that_was_changed_is_another_backend(tmp_path):
    """Its name is that of the unchanged one, whose results must not be taken for its own."""
    head, options = binary_head(1), {"shots": 50, "seed": 0, "cache": False}
    x, ledger = features(head, 1), Ledger(tmp_path / "ledger.sqlite")
    known = run(head, x, "fake_manila", ledger=ledger, **options)
    assert run(head, x, FakeManilaV2(), ledger=ledger, **options).run == known.run
    backend = FakeManilaV2()
    for qubits, found in backend.target["cx"].items():
        worse = InstructionProperties(duration=found.duration, error=0.4)
        backend.target.update_instruction_properties("cx", qubits, worse)
    changed = run(head, x, backend, ledger=ledger, **options)
    assert changed.run != known.run
    assert abs(changed.predicted["t0"]) < 0.8 * abs(known.predicted["t0"])
    entered = ledger.add_run(prepare(head, x, backend, **options), again=True).run
    with pytest.raises(InvalidInputError, match="fake_manila of another calibration: pass backend"):
        submit(entered, ledger)
    assert status(submit(entered, ledger, backend=backend), ledger).is_complete


def test_limits_are_told():
    wide = QuantumHead(HeadCircuit([Task.multilabel("a", 9)], wires_per_task=27), seed=0)
    run = prepare(wide, features(wide, 1), "aer", shots=10, predict=False)
    with pytest.raises(CircuitTooLargeError, match="wires at once, the limit is 26"):
        execute(run, 0)
    head = small_head()
    run = prepare(head, features(head, 1), "aer", shots=10, predict=False)
    with pytest.raises(InvalidInputError, match="must be simulated on this machine"):
        execute(run, 0, backend=replace(open_backend("aer"), kind="real", name="ibm_x"))


def test_a_run_that_was_killed_here_is_told_plainly_and_goes_on(tmp_path, monkeypatch):
    """A kill leaves a chunk as about to be sent; nothing is ever sent from a local run."""
    head, ledger, lines = small_head(), Ledger(tmp_path / "ledger.sqlite"), []
    options = {"shots": 10, "seed": 0, "max_executions": 10}
    prepared = prepare(head, features(head, 3), "aer", **options)

    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("qmtl.hardware._submit.execute", die)
        with pytest.raises(KeyboardInterrupt):
            submit(prepared, ledger)
    (name,) = (one.run for one in ledger.runs())
    again = f"qmtl ibm submit {name} --ledger {ledger.path}"
    told = f"run {name} on aer: 3 not executed (`{again}` continues)"
    assert str(status(name, ledger)) == told
    progress = Progress(write=lines.append, is_terminal=False)
    assert fetch(name, ledger, progress=progress).missing == 0
    shown = f"run {name} on aer, 3 samples: job {{}} of 3 is executed here\n"
    assert lines == [shown.format(i) for i in (1, 2, 3)]
    assert str(status(name, ledger)) == f"run {name} on aer: 3 stored"


def test_a_fake_device_takes_no_more_shots_than_the_device(fez):
    head = binary_head(1)
    most = fez.max_shots
    prepare(head, features(head, 1), fez, shots=most, predict=False)
    prepare(head, features(head, 1), "aer", shots=most + 1, predict=False)
    with pytest.raises(InvalidInputError, match=f"fake_fez takes at most {most} shots per sampl"):
        prepare(head, features(head, 1), fez, shots=most + 1)


def test_fake_devices_that_cannot_be_used():
    head = binary_head(1)
    for name, expected in [
        ("fake_london", r"not simulated here \(u1, u2, u3\)"),
        ("fake_kyoto", "according to its calibration"),  # all two-qubit errors are 1
        ("fake_armonk", "has 2 wires, fake_armonk has 1"),
    ]:
        with pytest.raises(InvalidInputError, match=expected):
            prepare(head, features(head, 1), name)


def test_names_of_backends():
    names = backend_names()
    assert {"aer", "fake_fez", "fake_boston", "fake_torino"} <= set(names)
    assert open_backend("fake_boston").n_qubits == 156
    assert open_backend("aer").n_qubits is None
    for name, expected in [
        ("fake_bostn", "did you mean 'fake_boston'"),
        ("aerr", "did you mean 'aer'"),
        ("fez", "did you mean 'fake_fez' or 'ibm_fez'"),
        ("ibmfez", "a device 'ibm_...'"),
    ]:
        with pytest.raises(InvalidInputError, match=expected) as error:
            open_backend(name)
        assert len(str(error.value)) < 200
