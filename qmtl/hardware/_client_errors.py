"""Errors, logs and warnings of the IBM client: one line each, with advice, without secrets."""

import base64
import html
import json
import logging
import os
import re
import shlex
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import groupby
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus, unquote, urlsplit

from qmtl._io import silenced
from qmtl.errors import (
    HardwareAccountError,
    HardwareBusyError,
    HardwareConnectionError,
    HardwareError,
    HardwareJobError,
    HardwareRefusedError,
    QmtlError,
)

T = TypeVar("T")
Secrets = Callable[[], Iterable[str]]

SAVE = (
    "save one with QiskitRuntimeService.save_account(token=..., instance=..., overwrite=True), or "
    "set QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE"
)
LONGEST = 300
SHORTEST = 4  # shorter secrets would occur in any text
PART = 8  # parts of a secret with at least this many characters are hidden, too
# Tokens of a session, which the client receives in exchange for the account's token.
SESSION_TOKEN = re.compile(r"(?i)\bbearer\s+[\w.~+/=-]{8,}|\beyJ[\w-]+\.[\w-]+\.?[\w-]*")


def ask(doing: str, function: Callable[[], T], secrets: Secrets = tuple) -> T:
    """Call the client; raise its errors as `HardwareError`, except for a `QmtlError`.

    During the call, secrets are removed from the client's errors, logs and warnings.

    Args:
        doing: the action, for the message: ``"submitting chunk 2"``.
        function: the function to call.
        secrets: function that returns further secrets to hide, besides those of the environment and
            of saved accounts. A list would show them among the local variables in a traceback.
    """
    try:
        with _discreet(secrets):
            return function()
    except QmtlError:
        raise
    except Exception as error:  # an error of any type may contain the token
        ours = translated(error, doing, secrets)
    # In the except block, the original error, which may contain a token, would be the context.
    raise ours


def translated(error: BaseException, doing: str, secrets: Secrets = tuple) -> HardwareError:
    """Return the `HardwareError` that corresponds to an error of the client; see `ask`."""
    chain = list(_chain(error))
    names = {kind.__name__ for part in chain for kind in type(part).__mro__}
    status = _status(chain)
    reason = one_line(f"{type(error).__name__}: {error}", secrets)
    if "AccountNotFoundError" in names:
        return HardwareAccountError(
            f"no IBM Quantum account is known: {SAVE}; without one, use aer or a fake "
            f"device such as fake_fez"
        )
    if _is_connection(chain):
        return HardwareConnectionError(
            f"{doing}: IBM Quantum cannot be reached; check the network (this tells nothing about "
            "the token) and run the same command again"
        )
    if status is not None and status >= 500:
        return HardwareConnectionError(
            f"{doing}: IBM Quantum is out of order (HTTP {status}); run the same command later"
        )
    if status == 429:
        return HardwareBusyError(
            f"{doing}: IBM Quantum takes no more requests for now (HTTP 429); wait until some of "
            "your jobs are done and run the same command again"
        )
    if "session when using the open plan" in reason or "Code: 1352" in reason:
        return HardwareRefusedError(
            f"{doing}: the Open Plan has no sessions; use mode 'batch' or 'job'"
        )
    if status in (401, 403) or names & {"IBMNotAuthorizedError", "InvalidAccountError"}:
        return HardwareAccountError(f"{doing}: {_account_reason(names, status)}: {SAVE}")
    if "does not have access to the instance" in reason or "not a valid instance" in reason:
        return HardwareAccountError(
            f"{doing}: the account has no access to the chosen instance; list yours with "
            "QiskitRuntimeService().instances() and save the account with one of them"
        )
    return _of_request(names, status, f"{doing}: {reason}")


def _account_reason(names: set[str], status: int | None) -> str:
    if status is None and "ApiException" not in names and "IBMNotAuthorizedError" not in names:
        return "the IBM Quantum account is not complete"
    if status == 403:
        return "IBM Quantum does not allow this to the account (HTTP 403); use another account"
    return "IBM Quantum refuses the token, which is wrong, expired or revoked; use a valid one"


def _of_request(names: set[str], status: int | None, message: str) -> HardwareError:
    if status == 404 or "RuntimeJobNotFound" in names:
        return HardwareJobError(f"{message}; was it sent with another account or instance?")
    if "QiskitBackendNotFoundError" in names:
        return HardwareRefusedError(f"{message}; `qmtl ibm backends` lists those of the account")
    if "RuntimeJobMaxTimeoutError" in names:
        return HardwareJobError(f"{message}; raise max_execution_time and resubmit")
    if names & {"RuntimeJobFailureError", "RuntimeInvalidStateError"}:
        return HardwareJobError(message)
    if "IBMInputValueError" in names or status is not None:
        return HardwareRefusedError(message)
    return HardwareError(message)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, its causes and its contexts, because the client uses ``from None``."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        part = pending.pop(0)
        if part is not None and id(part) not in seen:
            seen.add(id(part))
            yield part
            pending += [part.__cause__, part.__context__]


def _is_connection(chain: Iterable[BaseException]) -> bool:
    from requests import exceptions as ex

    kinds = (ex.ConnectionError, ex.Timeout, ex.ChunkedEncodingError, ConnectionError, TimeoutError)
    # requests also reports repeated 5xx answers of a server as a connection error.
    return any(isinstance(p, kinds) and not isinstance(p, ex.RetryError) for p in chain)


def _status(chain: Iterable[BaseException]) -> int | None:
    for part in chain:
        for name in ("status_code", "code"):
            value: Any = getattr(part, name, None)
            if isinstance(value, int) and 400 <= value < 600:
                return value
        found = re.search(r"\b([45]\d\d) (?:Client|Server) Error|too many (5\d\d) error", str(part))
        if found:
            return int(found[1] or found[2])
    return None


def one_line(text: str, secrets: Secrets = tuple) -> str:
    """Return a text as one short line without secrets."""
    line = " ".join(redacted(text, secrets).split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def redacted(text: str, secrets: Secrets = tuple) -> str:
    r"""Replace the account's tokens and other secrets in a text by ``...``.

    This function also finds escaped, quoted, percent-encoded and base64 forms of a secret, in upper
    or lower case, and parts of them.

    Example:
        >>> redacted("no such key: 'my%2Fkey%0A'", lambda: ["my/key\n"])
        "no such key: '...'"
    """
    return _without(text, _parts(secrets))


def _without(text: str, parts: Iterable[str]) -> str:
    text = SESSION_TOKEN.sub("...", text)
    folded = text.lower()
    if len(folded) != len(text):
        folded = text
    hidden = [False] * len(text)
    for part in parts:
        at = folded.find(part)
        while at >= 0:
            hidden[at : at + len(part)] = [True] * len(part)
            at = folded.find(part, at + 1)
    pieces = groupby(zip(text, hidden, strict=True), key=lambda pair: pair[1])
    return "".join("..." if gone else "".join(c for c, _ in own) for gone, own in pieces)


def _parts(secrets: Secrets) -> set[str]:
    """Return the parts of secrets to remove from texts, in lower case."""
    found = set()
    for secret in {*known_secrets(), *secrets()}:
        for rendering in _renderings(secret):
            n = min(len(rendering), PART)
            found |= {rendering[i : i + n].lower() for i in range(len(rendering) - n + 1)}
    return found


def _renderings(secret: str) -> set[str]:
    """Return the forms in which a text may contain a secret."""
    found = set()
    for text in {secret, secret.strip()}:
        escaped = {text, repr(text)[1:-1], json.dumps(text)[1:-1], ascii(text)[1:-1]}
        escaped |= {json.dumps(one)[1:-1] for one in escaped} | {html.escape(text)}
        escaped |= {quote(text, safe=safe) for safe in ("", "/")} | {quote_plus(text)}
        found |= escaped | {shlex.quote(text).strip("'"), text.encode().hex()}
        for before in range(3):
            # Within a longer text, the base64 form of a secret depends on its position. Its ends
            # also depend on the neighbouring text, so they are left out.
            code = base64.b64encode(b"\0" * before + text.encode()).decode().rstrip("=")
            found |= {own := code[4 if before else 0 : -1], own.replace("+", "-").replace("/", "_")}
    return {one for one in found if len(one) >= SHORTEST}


def known_secrets() -> set[str]:
    """Return the tokens and passwords of the environment and of saved accounts."""
    found = {os.environ.get("QISKIT_IBM_TOKEN", "")}
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        for proxy in (os.environ.get(name), os.environ.get(name.lower())):
            found |= _passwords({"urls": {name: proxy or ""}})
    try:
        from qiskit_ibm_runtime import QiskitRuntimeService

        # A log message here would call `_Redactor`, which calls this function.
        with silenced("qiskit_ibm_runtime"):
            accounts = QiskitRuntimeService.saved_accounts()
        for account in accounts.values():
            found |= account_secrets(account)
    except Exception:
        # An unreadable file has not provided a token. Its error must not replace the error that is
        # being reported.
        return found
    return found


def account_secrets(account: Mapping[str, Any]) -> set[str]:
    """Return the token and the proxy passwords of a saved account."""
    return {str(account.get("token") or "")} | _passwords(account.get("proxies") or {})


def _passwords(proxies: Mapping[str, Any]) -> set[str]:
    found = {str(proxies.get("password_ntlm") or "")}
    for url in (proxies.get("urls") or {}).values():
        with suppress(ValueError):
            password = urlsplit(url).password or ""
            found |= {password, unquote(password)}
    return found


class _Redactor(logging.Filter):
    """Removes secrets from the client's logs, tracebacks included."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self.secrets = secrets

    @cached_property
    def parts(self) -> set[str]:
        return _parts(self.secrets)

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if (clean := _without(text, self.parts)) != text:
            record.msg, record.args = clean, ()
        if record.exc_info:
            text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            record.exc_info, record.exc_text = None, _without(text, self.parts)
        return True


@contextmanager
def _discreet(secrets: Secrets) -> Iterator[None]:
    """Remove secrets from logs and warnings within the context."""
    redactor = _Redactor(secrets)
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    handlers = {h for one in loggers for h in getattr(one, "handlers", [])}
    handlers |= {logging.lastResort} - {None}
    for handler in handlers:
        handler.addFilter(redactor)
    try:
        with warnings.catch_warnings(record=True) as caught:
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(redactor)
        for one in caught:
            clean = one.category(redacted(str(one.message), secrets))
            warnings.warn_explicit(clean, one.category, one.filename, one.lineno)
