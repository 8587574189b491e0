"""The IBM Quantum service: the genuine client, with every call's errors told in one line.

The account is the client's own: the one saved with `QiskitRuntimeService.save_account`, or that of
the environment (``QISKIT_IBM_TOKEN``, ``QISKIT_IBM_INSTANCE``, ...), which comes first.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ParamSpec, Self, TypeVar

from qmtl.errors import (
    HardwareAccountError,
    HardwareBusyError,
    HardwareConnectionError,
    HardwareError,
    HardwareRefusedError,
    HardwareResultError,
    InvalidInputError,
    MissingDependencyError,
    unknown_name,
)
from qmtl.hardware._posting import posting_once, primitive_options
from qmtl.hardware._prepared import PreparedRun
from qmtl.hardware._service_errors import Secrets, ask, one_line
from qmtl.hardware._states import STATUSES, BackendState, JobState

__all__ = ["Client"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Client:
    """A service; it is opened when it is first used.

    Args:
        given: an open `QiskitRuntimeService`; None for that of the account.
    """

    given: Any = None
    _backends: dict[str, tuple[Any, str]] = field(default_factory=dict, repr=False)
    _jobs: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, service: Any) -> Self:
        """The client of a service; of a client itself; of None that of the account.

        Raises:
            InvalidInputError: for anything else.
        """
        if isinstance(service, cls):
            return service
        if service is not None and not (hasattr(service, "backend") and hasattr(service, "jobs")):
            # What came is not shown: it may be a token.
            raise InvalidInputError(
                f"service must be a QiskitRuntimeService, or None for the account's, got a "
                f"{type(service).__name__}"
            )
        return cls(service)

    @cached_property
    def service(self) -> Any:
        """The open service.

        Raises:
            HardwareAccountError: no account, a token that is refused, an instance of others.
            HardwareConnectionError: the service cannot be reached.
            MissingDependencyError: if the client is not installed.
        """
        if self.given is not None:
            return self.given
        try:
            from qiskit_ibm_runtime import QiskitRuntimeService
        except ImportError:
            message = (
                'the IBM client is not installed; pip install "qmtl[ibm]" or, in a clone, ".[ibm]"'
            )
            raise MissingDependencyError(message) from None
        return ask("opening the account", QiskitRuntimeService)

    def _ask(self, doing: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return ask(doing, partial(function, *args, **kwargs), secrets=self._secrets)

    def _secrets(self) -> list[str]:
        """The token of a service that was opened in code; others are known."""
        account: Any = getattr(self.given, "_account", None)
        return [str(getattr(account, "token", None) or "")]

    def backend(self, name: str) -> Any:
        """The backend of that name, as Qiskit has it.

        Raises:
            InvalidInputError: if the account has none of that name.
        """
        if name not in self._backends:
            try:
                backend = self._ask(f"opening {name}", self.service.backend, name)
            except HardwareRefusedError:
                # The client tells a listing that failed as a backend that is not there; this call
                # tells what is wrong.
                self.seconds_left()
                known = [b.name for b in self._ask("listing backends", self.service.backends)]
                if name in known:
                    raise
                raise unknown_name("backend of the account", name, known) from None
            # Jobs are looked up in the instance that has the backend.
            self._backends[name] = (backend, self.service.active_instance())
        return self._backends[name][0]

    def backends(self) -> list[BackendState]:
        """The account's backends with their queues."""
        found = []
        for backend in self._ask("listing backends", self.service.backends):
            status = self._ask(f"asking for {backend.name}", backend.status)
            found.append(
                BackendState(
                    backend.name, backend.num_qubits, status.pending_jobs, status.status_msg
                )
            )
        return found

    def seconds_left(self) -> float | None:
        """Seconds of QPU time that the instance has left; None if it is not limited."""
        usage: Mapping[str, Any] = self._ask("asking for the usage", self.service.usage)
        if usage.get("usage_limit_reached"):
            return 0.0
        left = usage.get("usage_remaining_seconds")
        return None if left is None else float(left)

    def open_mode(self, prepared: PreparedRun, session: str | None) -> Any:
        """What jobs are sent to: the backend, or a batch or session that takes several.

        Args:
            prepared: the run.
            session: the batch or session that the run was sent to so far, to go on with.
        """
        from qiskit_ibm_runtime import Batch, Session

        backend = self.backend(prepared.backend)
        if prepared.mode == "job":
            return backend
        kind = Batch if prepared.mode == "batch" else Session
        again = None if session is None else self._still_open(kind, session)
        return again or self._ask(f"opening a {prepared.mode}", kind, backend)

    def _still_open(self, kind: Any, session: str) -> Any:
        """A batch or session to go on with; None if another must do."""
        doing = f"looking for {kind.__name__.lower()} {session}"
        try:
            found = self._ask(doing, kind.from_id, session, self.service)
            details = self._ask(doing, found.details) or {}
        except (HardwareAccountError, HardwareBusyError, HardwareConnectionError):
            raise
        except HardwareError:
            # One that has ended, or in which no job ever ran.
            return None
        return found if details.get("accepting_jobs") else None

    def close_mode(self, mode: Any) -> None:
        """Tell the service that nothing more is sent to a batch or session."""
        self._ask("closing the batch or session", mode.close)

    def send(self, prepared: PreparedRun, chunk: int, mode: Any, tags: list[str]) -> str:
        """Send a chunk, once; the job's identifier. If it raises, the job may exist nevertheless.

        Args:
            prepared: the run.
            chunk: index of the chunk.
            mode: what `open_mode` gave.
            tags: of the job.
        """
        options = primitive_options(prepared.primitive, prepared.options)
        options.environment.job_tags = tags
        if prepared.primitive == "sampler":
            from qiskit_ibm_runtime.executor_sampler import Sampler as Primitive
        else:
            from qiskit_ibm_runtime.executor_estimator import Estimator as Primitive
        primitive = Primitive(mode=mode, options=options)
        with posting_once(self.service, self._backends[prepared.backend][1]):
            job = self._ask(f"submitting chunk {chunk}", primitive.run, prepared.pubs(chunk))
        self._jobs[job.job_id()] = job
        return str(job.job_id())

    def find(self, backend: str, tags: list[str]) -> list[JobState]:
        """All jobs that have these tags, oldest first."""
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
        """What the service says of a job now."""
        opened = self._job(job)
        status: Any = self._ask(f"asking for job {job}", _status, opened)
        if status not in STATUSES:
            return JobState(job, "running", f"the service says {status}")
        reason = _failure(opened, self._secrets) if STATUSES[status] == "failed" else ""
        return JobState(job, STATUSES[status], reason)

    def result(self, job: str) -> Any:
        """The result of a job that is done, as the primitive gives it.

        Raises:
            HardwareResultError: if what arrives is no result.
        """
        try:
            result = self._ask(f"fetching job {job}", self._job(job).result)
        except HardwareError as error:
            # Anything that is not of the service is of the text that it sent.
            if type(error) is not HardwareError:
                raise
            result = None
        if result is None:
            raise HardwareResultError(f"the result of job {job} arrived damaged")
        return result

    def cancel(self, job: str) -> None:
        """Cancel a job; one that has ended stays as it is."""
        from qiskit_ibm_runtime.exceptions import RuntimeInvalidStateError

        def cancel() -> None:
            with suppress(RuntimeInvalidStateError):
                self._job(job).cancel()

        self._ask(f"cancelling job {job}", cancel)

    def _job(self, job: str) -> Any:
        if job not in self._jobs:
            self._jobs[job] = self._ask(f"asking for job {job}", self.service.job, job)
        return self._jobs[job]


def _status(job: Any) -> Any:
    """A job's status.

    The client asks for a failed job's result, too, to tell why; if there is none this raises, but
    the second time the status is known.
    """
    try:
        return job.status()
    except Exception:
        return job.status()


def _failure(job: Any, secrets: Secrets) -> str:
    """Why a job failed; the client tells it when it is asked for the result, without a request."""
    from qiskit_ibm_runtime.exceptions import RuntimeJobMaxTimeoutError

    try:
        job.result()
    except RuntimeJobMaxTimeoutError as error:
        return one_line(f"it ran longer than max_execution_time ({error})", secrets)
    except Exception as error:
        text = str(error).strip("'\"").removeprefix("Unable to retrieve job result. ")
        return one_line(text, secrets)
    return "no reason is given"
