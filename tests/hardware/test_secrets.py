"""The token is in no file, log, message or exception of whatever a run does."""

import copy
import json
import logging
import pickle
import traceback

import pytest

from qmtl.errors import HardwareError, QmtlError
from qmtl.hardware import Client, HardwareSimulator, Ledger, cancel, status, submit, wait
from qmtl.hardware._client_errors import one_line, translated
from tests.hardware.dispatch_samples import BACKEND, quick, small_run
from tests.hardware.ibm_server import INSTANCE, Fault

SECRET = "planted-secret-31415926535"


@pytest.fixture(params=["environment", "saved account"])
def planted(request, server, monkeypatch, tmp_path):
    """The service, whose token is the secret, with an account of either kind."""
    from qiskit_ibm_runtime.accounts import management

    server.service.token = SECRET
    accounts = tmp_path / "home" / "accounts.json"
    accounts.parent.mkdir()
    monkeypatch.setattr(management, "_DEFAULT_ACCOUNT_CONFIG_JSON_FILE", str(accounts))
    if request.param == "environment":
        monkeypatch.setenv("QISKIT_IBM_TOKEN", SECRET)
    else:
        account = {
            "channel": "ibm_quantum_platform", "token": SECRET, "instance": INSTANCE,
            "url": server.environment["QISKIT_IBM_URL"], "is_default_account": True,
        }  # fmt: skip
        accounts.write_text(json.dumps({"default-ibm-quantum-platform": account}))
        monkeypatch.delenv("QISKIT_IBM_TOKEN")
    return server.service


def submit_and_wait():
    wait(submit(small_run(2), service=quick()), service=quick())


def told(error):
    """All that an error and those behind it say, with the locals of their frames."""
    texts, pending = [], [error]
    while pending:
        part = pending.pop()
        if part is None:
            continue
        texts += [str(part), repr(part), repr(part.args), repr(vars(part))]
        shown = traceback.TracebackException.from_exception(part, capture_locals=True)
        texts += [str(f.locals) for f in shown.stack if "/tests/" not in f.filename]
        pending += [part.__cause__, part.__context__]
    return texts


def test_no_secret_is_told(planted, caplog, capsys, recwarn, tmp_path):
    caplog.set_level(logging.DEBUG)
    echo = f"token {SECRET} is not welcome"
    errors = []
    for fault in (
        Fault("POST", "/sessions", 403, message=echo),
        Fault("POST", "/jobs", 400, message=echo),
        Fault("POST", "/jobs", 401, message=echo),
        Fault("POST", "/jobs", times=9),
        Fault("GET", "/jobs/.*", 401, message=echo, times=9),
        Fault("GET", "/jobs/.*/results", body=lambda body: SECRET.encode(), times=99),
    ):
        planted.faults = [fault]
        with pytest.raises(HardwareError) as caught:
            submit_and_wait()
        errors.append(caught.value)
    planted.faults.clear()
    planted.jobs["job0001"].status, planted.jobs["job0001"].reason = "Failed", "out of order"
    with pytest.raises(QmtlError) as caught:
        submit_and_wait()
    errors.append(caught.value)
    (run,) = (record.run for record in Ledger().runs())
    print(status(run), Ledger().events(run), Ledger().chunks(run), Client.of(None))
    cancel(run)
    written = [
        path.read_bytes().decode(errors="replace")
        for path in tmp_path.rglob("*")
        if path.is_file() and path.name != "accounts.json"
    ]
    assert len(written) > 0
    assert len(errors) == 7
    texts = [
        *written, *capsys.readouterr(), caplog.text, *(str(w.message) for w in recwarn),
        *(text for error in errors for text in told(error)),
        *(text for r in caplog.records for text in (str(r.args), r.getMessage())),
    ]  # fmt: skip
    assert len(planted.issued) > 0
    for secret in (SECRET, *planted.issued):
        assert [t[max(0, t.index(secret) - 99) :][:250] for t in texts if secret in t] == []


def test_other_peoples_exceptions_are_not_behind_ours(planted):
    planted.faults = [Fault("POST", "/jobs", 400)]
    with pytest.raises(HardwareError) as caught:
        submit(small_run(), service=quick())
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_secrets_are_taken_out_of_any_text(planted):
    assert one_line(f"a {SECRET}\n  b") == "a ... b"
    assert SECRET not in str(translated(RuntimeError(SECRET), "testing"))


def test_the_token_of_a_service_that_is_opened_in_code(server, monkeypatch):
    """It is neither in the environment nor in a saved account."""
    from qiskit_ibm_runtime import QiskitRuntimeService

    server.service.token = SECRET
    monkeypatch.delenv("QISKIT_IBM_TOKEN")
    service = QiskitRuntimeService(
        channel="ibm_quantum_platform", token=SECRET, instance=INSTANCE,
        url=server.environment["QISKIT_IBM_URL"],
    )  # fmt: skip
    for message in (f"token {SECRET} is not welcome", "x" * 200 + SECRET):
        server.service.faults = [Fault("POST", "/jobs", 400, message=message)]
        with pytest.raises(HardwareError) as caught:
            submit(small_run(), service=quick(service))
        assert not any(SECRET[:6] in text for text in told(caught.value))
    simulator = HardwareSimulator(BACKEND, service=service)
    assert SECRET.encode() not in pickle.dumps(simulator)
    assert copy.deepcopy(simulator).service is service
    assert SECRET not in repr(simulator)
