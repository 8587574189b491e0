"""`qmtl ibm` on the command line: here, and through the genuine client."""

import json
import re
import shlex
from pathlib import Path

import pytest

from qmtl.hardware import Ledger, Progress
from tests.hardware.dispatch_samples import backend_files
from tests.hardware.ibm_server import IbmServer

FEW = ("--samples", 3, "--shots", 200, "--tasks", "parity,ink", "--set", "cache=false")


@pytest.fixture(autouse=True)
def _ledger(monkeypatch, tmp_path):
    monkeypatch.setenv("QMTL_LEDGER", str(tmp_path / "ledger.sqlite"))


@pytest.fixture
def service(monkeypatch):
    """The loopback service, as the account's."""
    server = IbmServer({"ibm_hanoi": backend_files("hanoi")})
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server.service
    server.close()


def only_run():
    return Ledger().runs()[-1].run


def test_here(qmtl, run):
    words = ("ibm", "submit", run, "--backend", "fake_fez", *FEW, "--set", "seed=1")
    words += ("--set", "decoupling=XX")
    out = qmtl.good(*words)
    name = only_run()
    assert out == f"run {name} was measured here; `qmtl ibm fetch {name}` shows it\n"
    out = qmtl.good("ibm", "fetch", name)
    for word in (
        "parity",
        "measured",
        "predicted with noise",
        "exact without noise",
        "accuracy",
        "0 beyond",
        "note: Twirling and decoupling have no effect on fake_fez.",
    ):
        assert word in out
    assert re.search(r"metric +┃ +measured +┃ +simulated", out)
    record = json.loads((run / "hardware" / f"{name}.json").read_text())
    assert record["execution"] == "whole circuit"
    assert (record["samples"], record["shots"], record["split"]) == (3, 200, "test")
    assert set(record["metrics"]) == {"measured", "simulated"}
    assert (run / "hardware" / f"{name}.csv").is_file()
    assert f"run {name} on fake_fez: 1 stored; 3 samples, 200 shots" in qmtl.good("ibm", "list")
    out = qmtl.good("ibm", "status", name[:5], "--log")
    assert f"local-{name}-0-1" in out
    assert "result stored" in out
    # The same command takes the result again, as for devices, unless it is told to measure anew.
    assert f"did you mean '{name}'?" in qmtl.bad("ibm", "submit", f"{name[:-2]}xx")
    told = f"run {name} was measured before; `qmtl ibm fetch {name}` shows it; --again measures"
    assert told in qmtl.good(*words)
    assert only_run() == name
    qmtl.good(*words, "--again")
    assert only_run() == f"{name}-2"


def test_simulated_metrics_are_those_of_the_weights_that_were_measured(qmtl, run):
    """The model of a run directory may have been trained further since."""
    qmtl.good("ibm", "submit", run, "--backend", "aer", *FEW, "--wait")
    path = run / "hardware" / f"{only_run()}.json"
    first = json.loads(path.read_text())["metrics"]
    qmtl.good("train", "--resume", run, "--set", "training.max_epochs=4")
    qmtl.good("ibm", "fetch", only_run())
    assert json.loads(path.read_text())["metrics"] == first


def test_commands_to_go_on_with_name_the_ledger(qmtl, run, service):
    """A ledger that is not the user's is given by --ledger, in what is told, too."""
    ledger = ("--ledger", "my ledger.sqlite")
    out = qmtl.good("ibm", "submit", run, "--backend", "ibm_hanoi", *FEW, *ledger)
    [told] = re.findall("`qmtl (.*)`", out)
    words = shlex.split(told)
    assert words[-2:] == list(ledger)
    assert qmtl(*words).code == 0
    qmtl.good("ibm", "cancel", words[2], *ledger)


def test_a_device(qmtl, run, service):
    service.runs = False
    words = ("ibm", "submit", run, "--backend", "ibm_hanoi", *FEW)
    qmtl.good(*words)
    name = only_run()
    qmtl.good(*words)
    assert only_run() == name
    assert len(service.jobs) == 1
    assert "queued" in qmtl.good("ibm", "status", name)
    assert "1 sent" in qmtl.good("ibm", "status", name, "--offline")
    waiting = qmtl("ibm", "fetch", name)
    assert waiting.code == 1
    assert (
        waiting.out == f"run {name} on ibm_hanoi: 1 queued; `qmtl ibm fetch {name} --wait` waits\n"
    )
    service.jobs["job0000"].status = "Failed"
    service.jobs["job0000"].reason = "out of helium"
    assert "job0000 failed: out of helium" in qmtl.bad("ibm", "fetch", name, "--wait")
    assert "--resubmit" in qmtl.bad(*words)
    assert len(service.jobs) == 1
    service.runs = True
    for option in (("--backend", "aer"), ("--shots", "1"), ("--again",), ("--set", "seed=1")):
        told = qmtl.bad("ibm", "submit", name, *option)
        assert f"{option[0]} is not for a run in the ledger" in told
    out = qmtl.good("ibm", "submit", name, "--resubmit", "--wait")
    assert f"run {name} on ibm_hanoi (device): 3 samples, 200 shots, 1 job" in out
    assert json.loads((run / "hardware" / f"{name}.json").read_text())["jobs"] == ["job0001"]


def test_cancel(qmtl, run, service):
    service.runs = False
    qmtl.good("ibm", "submit", run, "--backend", "ibm_hanoi", *FEW)
    name = only_run()
    assert qmtl.good("ibm", "cancel", name) == f"run {name} on ibm_hanoi: 1 cancelled\n"
    assert service.live() == []


def test_ctrl_c_says_how_to_come_back(qmtl, run, service, monkeypatch):
    def interrupt(progress, text):
        raise KeyboardInterrupt

    service.runs = False
    qmtl.good("ibm", "submit", run, "--backend", "ibm_hanoi", *FEW)
    name = only_run()
    monkeypatch.setattr(Progress, "show", interrupt)
    answer = qmtl("ibm", "fetch", name, "--wait")
    assert answer.code == 130
    assert answer.err.splitlines()[-1] == (
        f"qmtl: interrupted; run {name} continues; `qmtl ibm fetch {name} --wait` waits for it"
    )
    assert len(service.live()) == 1


def test_backends(qmtl, service):
    out = qmtl.good("ibm", "backends")
    assert out.startswith(
        "ibm_hanoi: 27 qubits, 3 jobs wait, active\nhere, without an account: aer"
    )
    assert "fake_boston" in out
    assert "ibm_hanoi" not in qmtl.good("ibm", "backends", "--local")


def test_estimate(qmtl, run, service):
    out = qmtl.good("ibm", "estimate", run, "--backend", "ibm_hanoi", *FEW)
    for line in (
        "executions         600\n",
        "QPU time           about",
        "circuits           1, in 1 job\n",
    ):
        assert line in out
    assert service.jobs == {}
    assert Ledger().runs() == []


def test_more_samples_than_there_are(qmtl, run, service):
    words = ("ibm", "estimate", run, "--backend", "ibm_hanoi", *FEW[2:], "--samples", 10_000)
    words += ("--split", "validation")
    answer = qmtl(*words)
    assert answer.code == 0
    assert re.search(r"note: the validation split has \d+ samples, not 10000", answer.err)


def test_budgets(qmtl, run, service):
    words = ("ibm", "submit", run, "--backend", "ibm_hanoi", *FEW)
    for more, used, text in (
        (("--max-qpu-seconds", 0.5), 0, "more than max_qpu_seconds (0.5); nothing was sent"),
        ((), 600, "the account has 0 s left; nothing was sent"),
    ):
        service.usage["usage_consumed_seconds"] = used
        answer = qmtl(*words, *more)
        assert answer.code == 2
        progress, line = answer.err.splitlines()
        assert progress == "preparing 3 samples for ibm_hanoi"
        assert line.startswith("qmtl: ")
        assert text in line
    assert service.jobs == {}


def test_without_an_account(qmtl, run, monkeypatch, tmp_path):
    from qiskit_ibm_runtime.accounts import management

    monkeypatch.setattr(management, "_DEFAULT_ACCOUNT_CONFIG_JSON_FILE", str(tmp_path / "none"))
    monkeypatch.delenv("QISKIT_IBM_TOKEN", raising=False)
    words = ("ibm", "submit", run, "--backend", "ibm_hanoi", *FEW)
    assert "no IBM Quantum account is known: save one with" in qmtl.bad(*words)
    assert "no IBM Quantum account" in qmtl.bad("ibm", "backends")
    assert "aer" in qmtl("ibm", "backends").out
    assert "aer" in qmtl.good("ibm", "backends", "--local")
    assert qmtl.good("ibm", "list").startswith("no runs in ")


@pytest.mark.parametrize("command", ["list", "status", "fetch", "cancel", "submit"])
def test_a_misspelt_ledger_is_not_made(qmtl, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Ledger("mine.sqlite")
    name = [] if command == "list" else ["abc"]
    told = qmtl.bad("ibm", command, *name, "--ledger", "mein.sqlite")
    assert "there is no ledger mein.sqlite; did you mean 'mine.sqlite'?" in told
    assert not Path("mein.sqlite").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("submit", "RUN", "--backend", "fake_fezz"), "did you mean 'fake_fez'"),
        (("submit", "nowhere"), "nowhere is not a run directory"),
        (("submit", "RUN", "--split", "tst"), "did you mean 'test'"),
        (("submit", "RUN", "--set", "layout=best"), "layout: expected a list, got 'best'"),
        (("submit", "RUN", "--set", "predict=no"), "predict: Input should be a valid boolean"),
        (("submit", "RUN", "--set", "mitigatoin=none"), "did you mean 'mitigation'"),
        (("submit", "RUN", "--set", "mitigation=nothing"), "value of mitigation: 'nothing'. Known"),
        (("submit", "RUN", "--set", "mode"), "--set: expected KEY=VALUE"),
        (("submit", "RUN", "--set", "max_qpu_seconds=9"), "max_qpu_seconds is given twice, or has"),
        (("submit", "RUN", "--set", "seed=1", "--set", "seed=2"), "seed is given twice"),
        (("submit", "RUN", "--tasks", "party"), "did you mean 'parity'"),
        (("estimate", "nowhere"), "nowhere is not a run directory"),
        (("fetch", "abc"), "unknown run 'abc'"),
        (("status", "abc"), "unknown run 'abc'"),
        (("cancel", "abc"), "unknown run 'abc'"),
        (("list", "--ledger", "."), "the ledger"),
    ],
)
def test_bad_input(qmtl, run, words, expected):
    words = [run if word == "RUN" else word for word in words]
    assert expected in qmtl.bad("ibm", *words)
