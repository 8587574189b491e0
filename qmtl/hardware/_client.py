"""The IBM Quantum service, through IBM's client; errors of the client become one line each."""

import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, ParamSpec, Self, TypeVar

from qmtl.errors import (
    HardwareAccountError,
    HardwareBusyError,
    HardwareConnectionError,
    HardwareError,
    HardwareRefusedError,
    HardwareResultError,
    InvalidInputError,
    missing_extra,
    unknown_name,
)
from qmtl.hardware._client_errors import SAVE, Secrets, account_secrets, ask, one_line
from qmtl.hardware._prepared_run import PreparedRun

P = ParamSpec("P")
T = TypeVar("T")
Status = Literal["queued", "running", "done", "failed", "cancelled"]
# The client only warns if the service refuses the token of an account with an instance. Each later
# request then takes a minute.
REFUSED = re.compile("access token.*Status code: 40[013]", re.DOTALL)
STATUSES: dict[str, Status] = {
    "INITIALIZING": "queued",
    "QUEUED": "queued",
    "RUNNING": "running",
    "DONE": "done",
    "ERROR": "failed",
    "CANCELLED": "cancelled",
}


@dataclass(frozen=True)
class JobState:
    """The state of a job according to the service.

    Attributes:
        job, status: its identifier and status.
        reason: why the job failed; empty if it did not.
    """

    job: str
    status: Status
    reason: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether the job has a result, or will have one."""
        return self.status in ("queued", "running", "done")


@dataclass(frozen=True)
class BackendState:
    """The state of a backend of the account.

    Attributes:
        name, qubits: its name, and number of qubits.
        pending: number of jobs in its queue.
        status: ``"active"``, or the reason why the backend is not active.
    """

    name: str
    qubits: int
    pending: int
    status: str


@dataclass(frozen=True)
class Patience:
    """How often and how long to retry requests to the service; times in seconds.

    Attributes:
        sends: number of attempts to send a chunk or to fetch a result before an error is raised.
        lookups: number of look-ups of a job that may exist, before its chunk is sent again.
        first_wait: wait before the second attempt or look-up; each further wait is twice as long.
        longest_wait: longest wait between attempts or look-ups.
        settled: time after which a look-up certainly finds a job that was created.
        outage: longest outage of the service before `wait` raises an error.
        first_poll: first time between polls of the jobs; each further time is half as long again.
        longest_poll: longest time between polls.
    """

    sends: int = 4
    lookups: int = 5
    first_wait: float = 1.0
    longest_wait: float = 30.0
    settled: float = 120.0
    outage: float = 1800.0
    first_poll: float = 1.0
    longest_poll: float = 60.0

    def retrying(self, *errors: type[Exception], **options: Any) -> Any:
        """Return a `tenacity.Retrying` that tries again after these errors, with our waits."""
        import tenacity

        defaults: dict[str, Any] = {
            "retry": tenacity.retry_if_exception_type(errors),
            "stop": tenacity.stop_after_attempt(self.sends),
            "wait": tenacity.wait_exponential(self.first_wait, self.longest_wait),
            "reraise": True,
        }
        return tenacity.Retrying(**(defaults | options))


@dataclass(frozen=True, eq=False)
class Client:
    """Access to IBM's service. The account is opened at the first request.

    Args:
        given: an open `QiskitRuntimeService`; None for the account in the environment
            (``QISKIT_IBM_TOKEN``, ``QISKIT_IBM_INSTANCE``, ...) or else the saved one.
        patience: times and numbers of retries.
    """

    given: Any = None
    patience: Patience = Patience()
    _backends: dict[str, tuple[Any, str]] = field(default_factory=dict, repr=False)
    _jobs: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, service: Any) -> Self:
        """Return a client for a service, or for the account's if None; keep a client unchanged."""
        if isinstance(service, cls):
            return service
        if service is not None and not (hasattr(service, "backend") and hasattr(service, "jobs")):
            # The message must not show the argument, which may be a token.
            raise InvalidInputError(
                f"service must be a QiskitRuntimeService, or None for the account's, got a "
                f"{type(service).__name__}"
            )
        return cls(service)

    @cached_property
    def service(self) -> Any:
        """The open service; raises `HardwareAccountError` without an accepted account."""
        if self.given is not None and _stripped(self._account()) is None:
            return self.given
        try:
            from qiskit_ibm_runtime import QiskitRuntimeService
            from qiskit_ibm_runtime.exceptions import IBMNotAuthorizedError
        except ImportError:
            raise missing_extra("the IBM client is not installed", "ibm") from None

        # The arguments may hold the token. In a closure, they are not among a traceback's local
        # variables.
        def opened() -> Any:
            account = _users_account() if self.given is None else self._account()
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                service = QiskitRuntimeService(**(_stripped(account) or {}))
            for one in told:
                if REFUSED.search(str(one.message)):
                    raise IBMNotAuthorizedError("the token is refused")
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
            return service

        return ask("opening the account", opened)

    def _ask(self, doing: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return ask(doing, partial(function, *args, **kwargs), secrets=self._secrets)

    def _account(self) -> Mapping[str, Any]:
        """Return the account of a service that was opened in code."""
        active = getattr(self.given, "active_account", None)
        account = active() if callable(active) else None
        return account if isinstance(account, Mapping) else {}

    def _secrets(self) -> set[str]:
        return account_secrets(self._account())

    def backend(self, name: str) -> Any:
        """Return the Qiskit backend with this name; raise `InvalidInputError` if there is none."""
        if name not in self._backends:
            try:
                backend = self._ask(f"opening {name}", self.service.backend, name)
            except HardwareRefusedError:
                # The client reports a failed listing as a missing backend. This call then raises
                # the real error.
                self.seconds_left()
                known = [b.name for b in self._ask("listing backends", self.service.backends)]
                if name in known:
                    raise
                raise unknown_name("backend of the account", name, known) from None
            # Jobs are looked up in the instance that has the backend.
            self._backends[name] = (backend, self.service.active_instance())
        return self._backends[name][0]

    def backends(self) -> list[BackendState]:
        """Return the account's backends with their queues."""
        found = []
        for one in self._ask("listing backends", self.service.backends):
            status = self._ask(f"asking for {one.name}", one.status)
            found.append(
                BackendState(one.name, one.num_qubits, status.pending_jobs, status.status_msg)
            )
        return found

    def seconds_left(self) -> float | None:
        """Return the seconds of QPU time that the instance has left; None if it is not limited."""
        usage: Mapping[str, Any] = self._ask("asking for the usage", self.service.usage)
        if usage.get("usage_limit_reached"):
            return 0.0
        left = usage.get("usage_remaining_seconds")
        return None if left is None else float(left)

    def open_mode(self, prepared: PreparedRun, session: str | None) -> Any:
        """Return the target of a run's jobs: the backend, or a batch or session.

        If the batch or session with the identifier `session` is still open, the run continues in
        it.
        """
        from qiskit_ibm_runtime import Batch, Session

        backend = self.backend(prepared.backend)
        if prepared.mode == "job":
            return backend
        kind = Batch if prepared.mode == "batch" else Session
        known = None if session is None else self._still_open(kind, session)
        return known or self._ask(f"opening a {prepared.mode}", kind, backend)

    def _still_open(self, kind: Any, session: str) -> Any:
        """Return the batch or session if it still accepts jobs; None otherwise."""
        doing = f"looking for {kind.__name__.lower()} {session}"
        try:
            found = self._ask(doing, kind.from_id, session, self.service)
            details = self._ask(doing, found.details) or {}
        except (HardwareAccountError, HardwareBusyError, HardwareConnectionError):
            raise
        except HardwareError:
            return None  # the batch or session has ended, or no job ever ran in it
        return found if details.get("accepting_jobs") else None

    def close_mode(self, mode: Any) -> None:
        """Tell the service that no more jobs follow in a batch or session."""
        self._ask("closing the batch or session", mode.close)

    def send(self, prepared: PreparedRun, chunk: int, mode: Any, tags: list[str]) -> str:
        """Send a chunk once to the target from `open_mode`; return the job's identifier.

        If this method raises an error, the job may still exist.
        """
        options = primitive_options(prepared.primitive, prepared.options)
        options.environment.job_tags = tags
        if prepared.primitive == "sampler":
            from qiskit_ibm_runtime.executor_sampler import Sampler as Primitive
        else:
            from qiskit_ibm_runtime.executor_estimator import Estimator as Primitive
        primitive = Primitive(mode=mode, options=options)
        with _posting_once(self.service, self._backends[prepared.backend][1]):
            job = self._ask(f"submitting chunk {chunk}", primitive.run, prepared.pubs(chunk))
        self._jobs[job.job_id()] = job
        return str(job.job_id())

    def find(self, backend: str, tags: list[str]) -> list[JobState]:
        """Return all jobs that have these tags, oldest first."""
        self.backend(backend)
        jobs = self._ask(
            "looking for earlier jobs",
            self.service.jobs,
            limit=None,
            job_tags=tags,
            instance=self._backends[backend][1],
            descending=False,
        )
        self._jobs.update({job.job_id(): job for job in jobs})
        return [self.state(job.job_id()) for job in jobs]

    def state(self, job: str) -> JobState:
        """Return the current state of a job according to the service."""
        opened = self._job(job)
        status: Any = self._ask(f"asking for job {job}", _status, opened)
        if status not in STATUSES:
            return JobState(job, "running", f"the service says {status}")
        reason = ""
        if STATUSES[status] == "failed":
            reason = self._ask(f"asking for job {job}", _failure, opened, self._secrets)
        return JobState(job, STATUSES[status], reason)

    def result(self, job: str) -> Any:
        """Return the result of a job that is done; raise `HardwareResultError` if it is damaged."""
        try:
            result = self._ask(f"fetching job {job}", self._job(job).result)
        except HardwareError as error:
            # Errors of the service are subclasses. A plain `HardwareError` comes from the result.
            if type(error) is not HardwareError:
                raise
            result = None
        if result is None:
            raise HardwareResultError(f"the result of job {job} arrived damaged")
        return result

    def cancel(self, job: str) -> None:
        """Cancel a job; do nothing if it has ended."""
        from qiskit_ibm_runtime.exceptions import RuntimeInvalidStateError

        def cancel() -> None:
            with suppress(RuntimeInvalidStateError):
                self._job(job).cancel()

        self._ask(f"cancelling job {job}", cancel)

    def _job(self, job: str) -> Any:
        if job not in self._jobs:
            self._jobs[job] = self._ask(f"asking for job {job}", self.service.job, job)
        return self._jobs[job]


def _users_account() -> Mapping[str, Any]:
    """Return the account that the client uses by default; empty if several or none are saved."""
    from qiskit_ibm_runtime import QiskitRuntimeService

    account = {"channel": os.environ.get("QISKIT_IBM_CHANNEL") or "ibm_quantum_platform"}
    for key in ("token", "url", "instance"):
        account[key] = os.environ.get(f"QISKIT_IBM_{key.upper()}") or ""
    if account["token"]:
        return account
    saved = list(QiskitRuntimeService.saved_accounts().values())
    return saved[0] if len(saved) == 1 else {}


def _stripped(account: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return an account with white space stripped from its values; None if it had none."""
    found = {key: v.strip() if isinstance(v, str) else v for key, v in account.items()}
    if found == account:
        return None
    if not found.get("token"):
        raise HardwareAccountError(f"the token of the IBM Quantum account is blank: {SAVE}")
    return {key: value for key, value in found.items() if value != ""}


@contextmanager
def _posting_once(service: Any, instance: str) -> Iterator[None]:
    """Prevent the client from posting a job again by itself after a 5xx answer."""
    from requests.adapters import HTTPAdapter
    from urllib3.util.retry import Retry

    # The first job may exist in spite of the answer. The client has no public setting for this. If
    # this private access fails in another version, `settle` finds and cancels the second job.
    try:
        session = service._get_api_client(instance)._session
        prefix, adapters = f"{session.base_url}/jobs", session.adapters
    except AttributeError:
        yield
        return
    # A failed connection is safe to retry: no job was posted.
    retry = Retry(total=None, connect=3, read=0, redirect=0, status=0, other=0, backoff_factor=0.5)
    session.mount(prefix, HTTPAdapter(max_retries=retry))
    try:
        yield
    finally:
        adapters.pop(prefix, None)


def primitive_options(primitive: str, options: Mapping[str, Any]) -> Any:
    """Return the client's `SamplerOptions` or `EstimatorOptions` with these values."""
    from pydantic import ValidationError
    from qiskit_ibm_runtime.options_models import EstimatorOptions, SamplerOptions

    kind = SamplerOptions if primitive == "sampler" else EstimatorOptions
    try:
        return kind(**options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidInputError(f"{kind.__name__} has no such {where!r}: {first['msg']}") from None


def _status(job: Any) -> Any:
    try:
        return job.status()
    except Exception:
        # For a failed job, the client also fetches the result to find the reason. Without a result,
        # its first call raises an error of any type, and its second call returns the status.
        return job.status()


def _failure(job: Any, secrets: Secrets) -> str:
    """Return why a job failed; the client learns the reason only by requesting the result."""
    from qiskit_ibm_runtime.exceptions import RuntimeJobMaxTimeoutError

    try:
        job.result()
    except RuntimeJobMaxTimeoutError as error:
        return one_line(f"it ran longer than max_execution_time ({error})", secrets)
    except Exception as error:  # an error of any type states the reason
        text = str(error).strip("'\"").removeprefix("Unable to retrieve job result. ")
        return one_line(text, secrets)
    return "no reason is given"
