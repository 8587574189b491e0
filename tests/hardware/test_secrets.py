"""The token is in no file, log, message or exception of whatever a run does."""

import base64
import contextlib
import copy
import html
import json
import logging
import pickle
import re
import shlex
import traceback
import warnings
from urllib.parse import quote, quote_plus, unquote

import pytest
import torch

from qmtl import HeadCircuit, QuantumHead, Task
from qmtl.errors import HardwareAccountError, HardwareError, QmtlError
from qmtl.hardware import (
    Client,
    HardwareSimulator,
    Ledger,
    Progress,
    cancel,
    prepare,
    run,
    status,
    submit,
    wait,
)
from qmtl.hardware._client_errors import ask, one_line, translated
from tests.hardware.dispatch_samples import BACKEND, quick, small_run
from tests.hardware.ibm_server import INSTANCE, Fault

SECRET = "planted-secret-31415926535"


class Log(logging.Handler):
    """What loggers have said: their records, and a text with tracebacks."""

    def __init__(self):
        super().__init__()
        self.records, self.text = [], ""

    def emit(self, record):
        self.records.append(record)
        self.text += f"{self.format(record)}\n"


@contextlib.contextmanager
def listening(first, *others):
    """Log what loggers say; the first from debugging on, as all that have no level of their own."""
    found, level = Log(), first.level
    first.setLevel(logging.DEBUG)
    for logger in (first, *others):
        logger.addHandler(found)
    try:
        yield found
    finally:
        for logger in (first, *others):
            logger.removeHandler(found)
        first.setLevel(level)


@pytest.fixture
def log():
    """What all loggers say."""
    root = logging.getLogger()
    known = [one for one in root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    with listening(root, *(logger for logger in known if not logger.propagate)) as found:
        yield found


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


def test_no_secret_is_told(planted, log, capsys, recwarn, tmp_path):
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
    (name,) = (record.run for record in Ledger().runs())
    print(status(name), Ledger().events(name), Ledger().chunks(name), Client.of(None))
    cancel(name)
    written = [
        path.read_bytes().decode(errors="replace")
        for path in tmp_path.rglob("*")
        if path.is_file() and path.name != "accounts.json"
    ]
    assert len(written) > 0
    assert len(errors) == 7
    texts = [
        *written, *capsys.readouterr(), log.text, *(str(w.message) for w in recwarn),
        *(text for error in errors for text in told(error)),
        *(text for r in log.records for text in (str(r.args), r.getMessage())),
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


ODD = 'ab/c+d=e"f\\g\n'  # what each way of writing does something to


@pytest.mark.parametrize(
    "write",
    [
        str, str.strip, str.upper, repr, ascii, json.dumps, shlex.quote, html.escape, quote,
        quote_plus, lambda t: quote(t, safe=""), lambda t: repr(repr(t)),
        lambda t: json.dumps(json.dumps(t)), lambda t: repr(t.encode()),
        lambda t: base64.b64encode(t.encode()).decode(),
        lambda t: base64.b64encode(f"apikey:{t}".encode()).decode(),
        lambda t: base64.urlsafe_b64encode(f"xy{t}".encode()).decode(),
        lambda t: t.encode().hex(), lambda t: t[:20], lambda t: t[-20:],
        lambda t: repr(ValueError(t)), lambda t: repr({"token": t}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("secret", [SECRET, SECRET + "\n", SECRET + ODD, ODD + SECRET])
def test_secrets_are_found_however_they_are_written(monkeypatch, write, secret):
    monkeypatch.setenv("QISKIT_IBM_TOKEN", secret)
    told = one_line(f"the key {write(secret)} is not welcome")
    assert told.startswith("the key ")
    assert told.endswith(" is not welcome")
    read = [told.lower(), unquote(told), *(decoded(word) for word in told.split())]
    assert [text for text in read if SECRET[2:8] in text or SECRET[-8:-2] in text] == []


def decoded(word):
    """What a word, or what is left of it, says in base64 or in hexadecimal digits."""
    code = "".join(re.findall(r"[A-Za-z0-9+/]", word.replace("-", "+").replace("_", "/")))
    parts = [code[i : i + (len(code) - i) // 4 * 4] for i in range(4)]
    texts = [base64.b64decode(part) for part in parts]
    if set(code) <= set("0123456789abcdef"):
        texts.append(bytes.fromhex(code[: len(code) // 2 * 2]))
    return " ".join(text.decode(errors="replace") for text in texts)


def test_other_secrets_and_harmless_text(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://somebody:pass%2Fword-99@proxy.test:3128")
    for text in (
        "pass%2Fword-99",
        "pass/word-99",
        "Bearer abcdefgh.ijk-lmno",
        "eyJhbGci.eyJpYXQi.x",
    ):
        assert one_line(f"say {text} now") == "say ... now"
    harmless = "asking for job job0001: 502 Server Error; check the network"
    assert one_line(harmless) == harmless
    monkeypatch.setenv("QISKIT_IBM_TOKEN", "abc")  # too short to be told from other text
    assert one_line("abc") == "abc"


def test_white_space_around_the_token_goes(planted, monkeypatch, tmp_path):
    """A secret that is mounted as a file ends with a line end: the run works nevertheless."""
    accounts = tmp_path / "home" / "accounts.json"
    if accounts.exists():
        accounts.write_text(accounts.read_text().replace(SECRET, SECRET + "\\n"))
    else:
        monkeypatch.setenv("QISKIT_IBM_TOKEN", f" {SECRET}\r\n")
        monkeypatch.setenv("QISKIT_IBM_INSTANCE", INSTANCE + "\n")
    submit_and_wait()
    assert len(planted.jobs) == 2
    assert planted.token == SECRET


def test_a_blank_token(server, monkeypatch):
    monkeypatch.setenv("QISKIT_IBM_TOKEN", " \n")
    with pytest.raises(HardwareAccountError, match="blank: save one"):
        Client.of(None).seconds_left()


@pytest.mark.parametrize("way", ["argument", "environment", "file"])
def test_a_service_that_was_opened_with_a_line_end(server, monkeypatch, tmp_path, log, way):
    """It is opened again without; the token is in no error, log or warning."""
    from qiskit_ibm_runtime import QiskitRuntimeService

    token = SECRET + "\n"
    server.service.token = SECRET
    account = {"channel": "ibm_quantum_platform", "token": token, "instance": INSTANCE}
    account["url"] = server.environment["QISKIT_IBM_URL"]
    monkeypatch.delenv("QISKIT_IBM_TOKEN")
    with warnings.catch_warnings():  # what the client says here is not ours
        warnings.simplefilter("ignore")
        if way == "environment":
            monkeypatch.setenv("QISKIT_IBM_TOKEN", token)
            service = QiskitRuntimeService()
        elif way == "argument":
            service = QiskitRuntimeService(**account)
        else:
            file = tmp_path / "account.json"
            file.write_text(json.dumps({"mine": account}))
            service = QiskitRuntimeService(filename=str(file), name="mine")
    log.records, log.text = [], ""
    head = QuantumHead(HeadCircuit([Task.binary("a")]), seed=0)
    inputs, quiet = torch.zeros(1, 2), Progress(write=len)
    assert prepare(head, inputs, BACKEND, service=service).backend == BACKEND
    result = run(head, inputs, BACKEND, shots=10, service=service, progress=quiet)
    assert result.missing == 0
    server.service.faults = [Fault("POST", "/jobs", 400, message=f"{token!r} is not welcome")]
    with warnings.catch_warnings(record=True) as caught, pytest.raises(HardwareError) as error:
        submit(small_run(), service=quick(service))
    texts = [*told(error.value), log.text, *(str(w.message) for w in caught)]
    texts += [str(r.args) + r.getMessage() for r in log.records]
    assert [text for text in texts if SECRET[:10] in text] == []
    assert "is not welcome" in str(error.value)


def test_logs_and_warnings_of_the_client(monkeypatch, log):
    """Whatever it says meanwhile, tracebacks included."""
    monkeypatch.setenv("QISKIT_IBM_TOKEN", SECRET)

    def talk():
        logging.getLogger("qiskit_ibm_runtime.somewhere").warning("with %r", [SECRET])
        try:
            raise ValueError(SECRET)
        except ValueError:
            logging.getLogger("urllib3").exception("a failure")
        warnings.warn(f"about {SECRET}", UserWarning, stacklevel=1)
        return 3

    with pytest.warns(UserWarning, match=r"^about \.\.\.$"):
        assert ask("talking", talk) == 3
    assert SECRET not in log.text
    assert "with ['...']" in log.text
    assert "ValueError: ..." in log.text


def test_looking_secrets_up_is_not_logged_itself():
    """A log of the look-up would look the secrets up again, until the stack is full."""
    pytest.importorskip("qiskit_ibm_runtime")  # which sets its level when it is imported
    logger = logging.getLogger("qiskit_ibm_runtime")
    with listening(logger) as found:
        ask("talking", lambda: logger.debug("hello"))
    assert [record.getMessage() for record in found.records] == ["hello"]
