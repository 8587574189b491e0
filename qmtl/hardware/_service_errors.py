"""What the IBM client raises, as one line that says what to do.

The client's own exceptions are not chained to ours: they carry requests, whose headers hold the
token.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from qmtl.errors import (
    HardwareAccountError,
    HardwareBusyError,
    HardwareConnectionError,
    HardwareError,
    HardwareJobError,
    HardwareRefusedError,
    QmtlError,
)

__all__ = ["Secrets", "ask", "one_line", "translated"]

T = TypeVar("T")
Secrets = Callable[[], Iterable[str]]

SAVE = (
    "save one with QiskitRuntimeService.save_account(token=..., instance=..., overwrite=True), or "
    "set QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE"
)
LONGEST = 300
SHORTEST = 4  # a token of fewer letters would be found in any text


def ask(doing: str, function: Callable[[], T], secrets: Secrets = tuple) -> T:
    """Call the client; whatever it raises becomes one of our errors.

    Args:
        doing: what is being done, for the message: ``"submitting chunk 2"``.
        function: what to call.
        secrets: gives tokens that must not be told, beside the account's; a function, so that
            they are not among the locals of a traceback.

    Raises:
        HardwareError: if the call raised anything but an error of ours.

    Example:
        >>> ask("counting", lambda: 1 / 0)
        Traceback (most recent call last):
        qmtl.errors.HardwareError: counting: ZeroDivisionError: division by zero
    """
    try:
        return function()
    except QmtlError:
        raise
    except Exception as error:
        told = translated(error, doing, secrets)
    # Outside of the except block, so that the error that may hold a token is not its context.
    raise told


def translated(error: BaseException, doing: str, secrets: Secrets = tuple) -> HardwareError:
    """The error of ours for one of the client's.

    Args:
        error: what the client raised.
        doing: what was being done.
        secrets: as for `ask`.
    """
    chain = list(_chain(error))
    names = {name for part in chain for name in _class_names(part)}
    status = _status(chain)
    reason = one_line(f"{type(error).__name__}: {error}", secrets)
    if "AccountNotFoundError" in names:
        return HardwareAccountError(f"no IBM Quantum account is known: {SAVE}")
    if _is_connection(chain):
        return HardwareConnectionError(
            f"{doing}: IBM Quantum cannot be reached; look at the network (this tells nothing "
            "about the token) and run the same command again"
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
            f"{doing}: the account has no access to the instance that is set; list yours with "
            "QiskitRuntimeService().instances() and save the account with one of them"
        )
    return _of_request(names, status, f"{doing}: {reason}")


def _account_reason(names: set[str], status: int | None) -> str:
    if status is None and "ApiException" not in names and "IBMNotAuthorizedError" not in names:
        return "the IBM Quantum account is not complete"
    if status == 403:
        return "IBM Quantum does not allow this to the account (HTTP 403); with another account"
    return "IBM Quantum refuses the token, which is wrong, expired or revoked; with a valid one"


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
    """The error, its causes and contexts: the client hides what happened behind ``from None``."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        part = pending.pop(0)
        if part is not None and id(part) not in seen:
            seen.add(id(part))
            yield part
            pending += [part.__cause__, part.__context__]


def _class_names(error: BaseException) -> Iterator[str]:
    return (kind.__name__ for kind in type(error).__mro__)


def _is_connection(chain: Iterable[BaseException]) -> bool:
    from requests import exceptions

    kinds = (
        exceptions.ConnectionError,
        exceptions.Timeout,
        exceptions.ChunkedEncodingError,
        ConnectionError,
        TimeoutError,
    )
    # requests tells a server that answers 5xx once too often as a connection error, too.
    return any(
        isinstance(part, kinds) and not isinstance(part, exceptions.RetryError) for part in chain
    )


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
    """Text on one line, not too long, without the account's tokens and other secrets."""
    for secret in {*_secrets(), *secrets()}:
        if len(secret) >= SHORTEST:
            text = text.replace(secret, "...")
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def _secrets() -> set[str]:
    """Tokens that must not be told: of the environment and of saved accounts."""
    found = {os.environ.get("QISKIT_IBM_TOKEN", "")}
    try:
        from qiskit_ibm_runtime import QiskitRuntimeService

        accounts = QiskitRuntimeService.saved_accounts().values()
        return found | {str(account.get("token", "")) for account in accounts}
    except Exception:
        # An accounts file that cannot be read, whatever is wrong with it, has no token that could
        # have been used; and the error that is being told must not give way to another.
        return found
