"""Every error of the client is one line that says what to do."""

import pytest
import requests
from ibm_cloud_sdk_core import ApiException
from qiskit.providers.exceptions import QiskitBackendNotFoundError
from qiskit_ibm_runtime import exceptions as ibm
from qiskit_ibm_runtime.accounts.exceptions import AccountNotFoundError, InvalidAccountError
from qiskit_ibm_runtime.api.exceptions import RequestsApiError

from qmtl.errors import (
    HardwareAccountError,
    HardwareBusyError,
    HardwareConnectionError,
    HardwareError,
    HardwareJobError,
    HardwareRefusedError,
)
from qmtl.hardware import Client
from qmtl.hardware._client import primitive_options
from qmtl.hardware._client_errors import ask, translated
from tests.hardware.dispatch_samples import impatient

CHECK = "Unable to retrieve instances. Please check that you are using a valid API token."


def caused(error, cause):
    error.__cause__ = cause
    return error


def hidden(error, context):
    """As the client does it: ``raise error from None``."""
    error.__context__ = context
    error.__suppress_context__ = True
    return error


def failed(status, text="a reason"):
    return hidden(
        ibm.IBMRuntimeError(f"Failed to run program: {text}"), RequestsApiError(text, status)
    )


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (AccountNotFoundError("x"), HardwareAccountError, "save_account"),
        (
            caused(InvalidAccountError(CHECK), ApiException(400, message="not found")),
            HardwareAccountError,
            "refuses the token",
        ),
        (
            caused(InvalidAccountError(CHECK), requests.ConnectionError("no route")),
            HardwareConnectionError,
            "tells nothing about the token",
        ),
        (
            caused(InvalidAccountError(CHECK), ApiException(503, message="maintenance")),
            HardwareConnectionError,
            r"out of order \(HTTP 503\)",
        ),
        (InvalidAccountError("Invalid `token` value."), HardwareAccountError, "not complete"),
        (
            ibm.IBMInputValueError("an account that does not have access to the instance crn:1."),
            HardwareAccountError,
            "instances()",
        ),
        (ibm.IBMNotAuthorizedError("401 Client Error"), HardwareAccountError, "refuses the token"),
        (failed(400), HardwareRefusedError, "a reason"),
        (failed(403), HardwareAccountError, "does not allow"),
        (failed(409), HardwareRefusedError, "a reason"),
        (failed(429), HardwareBusyError, "wait until some of your jobs are done"),
        (failed(500), HardwareConnectionError, "run the same command later"),
        (
            hidden(
                ibm.IBMRuntimeError("Failed to run program"),
                caused(RequestsApiError("aborted"), requests.ConnectionError("aborted")),
            ),
            HardwareConnectionError,
            "check the network",
        ),
        (
            RequestsApiError("not authorized to run a session when using the open plan", 403),
            HardwareRefusedError,
            "use mode 'batch'",
        ),
        (ibm.RuntimeJobNotFound("Job not found: j"), HardwareJobError, "another account"),
        (ibm.RuntimeJobFailureError("no"), HardwareJobError, "no"),
        (ibm.RuntimeInvalidStateError("was cancelled"), HardwareJobError, "was cancelled"),
        (ibm.RuntimeJobMaxTimeoutError("long"), HardwareJobError, "max_execution_time"),
        (ibm.IBMInputValueError("gate 'ry' is not in the backend"), HardwareRefusedError, "'ry'"),
        (QiskitBackendNotFoundError("No backend"), HardwareRefusedError, "qmtl ibm backends"),
        (requests.exceptions.ReadTimeout("slow"), HardwareConnectionError, "cannot be reached"),
        (ValueError("something\nnew"), HardwareError, "something new"),
    ],
)  # fmt: skip
def test_the_table(error, expected, words):
    told = translated(error, "doing this")
    assert type(told) is expected
    assert "\n" not in str(told)
    with pytest.raises(expected, match=words):
        raise told


def test_errors_of_our_own_pass():
    def wrong():
        raise HardwareJobError("ours")

    with pytest.raises(HardwareJobError, match=r"^ours$"):
        ask("doing this", wrong)


def test_long_reasons_are_cut():
    assert len(str(translated(ValueError("x" * 9999), "doing this"))) < 400


def test_no_account(monkeypatch, tmp_path):
    from qiskit_ibm_runtime.accounts import management

    monkeypatch.setattr(management, "_DEFAULT_ACCOUNT_CONFIG_JSON_FILE", str(tmp_path / "none"))
    monkeypatch.delenv("QISKIT_IBM_TOKEN", raising=False)
    with pytest.raises(HardwareAccountError, match="no IBM Quantum account is known"):
        Client.of(None).backends()


def test_a_refused_token_is_told_at_once(service, monkeypatch):
    """The client itself asks again at each request, and waits for a minute before that."""
    monkeypatch.setenv("QISKIT_IBM_TOKEN", "a-wrong-token")
    with pytest.raises(HardwareAccountError, match="refuses the token, which is wrong, expired"):
        Client.of(None).backend("ibm_manila")
    assert [path for _, path in service.requests].count("/identity/token") == 1


def test_nobody_answers(service):
    client = Client.of(impatient())
    assert client.seconds_left() == 600
    service.go_away()
    with pytest.raises(HardwareConnectionError, match="tells nothing about the token"):
        client.seconds_left()


def test_options():
    options = primitive_options("estimator", {"resilience_level": 2})
    assert options.resilience_level == 2
