"""A loopback server that speaks the protocol of IBM Quantum, for the genuine client.

It holds jobs, runs their circuits in Aer without noise, and misbehaves when told to.
"""

import base64
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

PREFIX = "/experimental/api/v1"
INSTANCE = "crn:v1:bluemix:public:quantum-computing:us-east:a/1:2::"


@dataclass
class Fault:
    """What goes wrong with some requests.

    Attributes:
        method: HTTP method.
        path: regular expression of the path.
        status: answered instead of the true status; None to drop the connection.
        after: whether the request is carried out nevertheless, before that.
        times: how often.
        call: called before the answer.
        body: what becomes of the answer, which is sent with its true status.
    """

    method: str
    path: str
    status: int | None = None
    after: bool = False
    times: int = 1
    call: Callable[[], None] | None = None
    body: Callable[[bytes], bytes] | None = None
    message: str = "a fault"


@dataclass
class Job:
    id: str
    backend: str
    tags: list[str]
    params: dict
    session: str | None
    cost: int | None
    created: float
    status: str = "Queued"
    reason: str | None = None
    code: int | None = None
    hidden: int = 0
    result: str | None = None


@dataclass
class Service:
    """The server's state; a test reads and changes it.

    Attributes:
        token: the only API key that is valid.
        runs: whether a job that is asked for is run then; else it stays in the queue.
        hide: how many listings a new job is missing from.
        open_plan: whether sessions are refused.
    """

    backends: dict[str, tuple[Path, Path]]
    token: str = "a-valid-token"
    runs: bool = True
    hide: int = 0
    open_plan: bool = True
    usage: dict = field(
        default_factory=lambda: {"usage_consumed_seconds": 0, "usage_limit_seconds": 600}
    )
    jobs: dict[str, Job] = field(default_factory=dict)
    sessions: dict[str, dict] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    issued: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def live(self) -> list[Job]:
        """Jobs that were not cancelled and did not fail."""
        return [j for j in self.jobs.values() if j.status not in ("Cancelled", "Failed")]

    def go_away(self) -> None:
        """Answer nothing more."""
        self.faults = [Fault(method, ".*", times=10**6) for method in ("GET", "POST", "PATCH")]

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.method == method and re.fullmatch(fault.path, path) and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def add_job(self, body: dict) -> Job:
        job = Job(
            f"job{len(self.jobs):04d}", body["backend"], body.get("tags", []), body["params"],
            body.get("session_id"), body.get("cost"), time.time(), hidden=self.hide,
        )  # fmt: skip
        self.jobs[job.id] = job
        return job


class IbmServer:
    """The server on a free port of 127.0.0.1; ``environment`` points the client to it."""

    def __init__(self, backends: dict[str, tuple[Path, Path]]) -> None:
        self.service = Service(backends)
        service = self.service

        class Handler(_Handler):
            state = service

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                """A client that was killed is no news."""

        self.http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.005,), daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "QISKIT_IBM_TOKEN": self.service.token,
            "QISKIT_IBM_INSTANCE": INSTANCE,
            "QISKIT_IBM_URL": self.url + PREFIX,
            "QISKIT_IBM_CHANNEL": "ibm_quantum_platform",
            "IAM_URL": self.url,
            "QISKIT_FUNCTIONS_EXPERIMENTAL": "1",
            # Else the client inspects the whole stack at every request.
            "USAGE_DATA_OPT_OUT": "True",
        }

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: Service
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or the second packet, the body, waits for 40 ms

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._answer("GET")

    def do_POST(self):
        self._answer("POST")

    def do_PATCH(self):
        self._answer("PATCH")

    def _answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        path, query = parts.path.removeprefix(PREFIX), parse_qs(parts.query)
        with self.state.lock:
            self.state.requests.append((method, path))
            fault = self.state.fault(method, path)
            if fault is None or fault.after or fault.body:
                status, content = self._serve(method, path, query, body)
        if fault is not None:
            if fault.call:
                fault.call()
            if fault.body:
                content = fault.body(content)
            elif fault.status is None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            else:
                status, content = fault.status, _error(fault.status, fault.message)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _serve(self, method: str, path: str, query: dict, body: bytes) -> tuple[int, bytes]:
        if path == "/identity/token":
            return self._token(parse_qs(body.decode()))
        if not self.headers.get("Authorization", "").startswith("Bearer "):
            return 401, _error(401, "not authorized")
        for wanted, pattern, serve in ROUTES:
            if wanted == method and (match := re.fullmatch(pattern, path)):
                data = json.loads(body) if body else {}
                status, content = serve(self.state, *match.groups(), query=query, body=data)
                text = content if isinstance(content, str) else json.dumps(content)
                return status, text.encode()
        return 404, _error(404, f"no {method} {path}")

    def _token(self, form: dict) -> tuple[int, bytes]:
        if form.get("apikey") != [self.state.token]:
            message = {"errorCode": "BXNIM0415E", "errorMessage": "API key could not be found"}
            return 400, json.dumps(message).encode()
        now = int(time.time())
        token = _jwt({"iat": now, "exp": now + 3600})
        self.state.issued.append(token)
        answer = {
            "access_token": token, "refresh_token": "none", "token_type": "Bearer",
            "expires_in": 3600, "expiration": now + 3600,
        }  # fmt: skip
        return 200, json.dumps(answer).encode()


def _error(status: int, message: str) -> bytes:
    return json.dumps({"error": {"code": status, "message": message}}).encode()


def _jwt(payload: dict) -> str:
    parts = [{"alg": "none"}, payload, {}]
    texts = [base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=") for p in parts]
    return b".".join(texts).decode()


def _list_backends(state, query, body):
    devices = [
        {
            "name": name, "qubits": json.loads(files[0].read_text())["n_qubits"],
            "queue_length": 3, "status": {"name": "online"}, "class": "qpu",
        }
        for name, files in state.backends.items()
    ]  # fmt: skip
    return 200, {"devices": devices}


def _backend(state, name, what, query, body):
    if name not in state.backends:
        return 404, {"error": {"code": 404, "message": f"no backend {name}"}}
    if what == "status":
        return 200, {"state": True, "status": "active", "length_queue": 3}
    content = json.loads(state.backends[name][what == "properties"].read_text())
    return 200, {**content, "backend_name": name}


def _usage(state, query, body):
    return 200, state.usage


def _create_job(state, query, body):
    job = state.add_job(body)
    return 200, {"id": job.id, "backend": job.backend}


def _list_jobs(state, query, body):
    wanted = set(query.get("tags", []))
    found = []
    for job in state.jobs.values():
        if wanted <= set(job.tags):
            if job.hidden > 0:
                job.hidden -= 1
            else:
                found.append(job)
    if query.get("sort") != ["ASC"]:
        found.reverse()
    limit, offset = int(query["limit"][0]), int(query.get("offset", ["0"])[0])
    page = [_described(job) for job in found[offset : offset + limit]]
    return 200, {"jobs": page, "count": len(found)}


def _job(state, name, query, body):
    if name not in state.jobs:
        return 404, {"error": {"code": 1291, "message": f"Job not found. Job ID: {name}"}}
    job = state.jobs[name]
    if job.status == "Queued" and state.runs:
        job.status = "Completed"
    return 200, _described(job)


def _described(job: Job) -> dict:
    state = {"status": job.status}
    if job.reason:
        state |= {"reason": job.reason, "reason_code": job.code}
    return {
        "id": job.id, "backend": job.backend, "tags": job.tags, "program": {"id": "executor"},
        "session_id": job.session, "state": state,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(job.created)),
    }  # fmt: skip


def _results(state, name, query, body):
    job = state.jobs[name]
    if job.status != "Completed":
        return 404, {"error": {"code": 404, "message": "no results"}}
    if job.result is None:
        job.result = _executed(job.params)
    return 200, job.result


def _executed(params: dict) -> str:
    """What the executor answers: the program's circuits in Aer, without noise."""
    from ibm_quantum_schemas.common import CompressedTensorModel
    from ibm_quantum_schemas.executor.version_2_0 import (
        ParamsModel,
        QuantumProgramResultModel,
    )
    from qiskit_aer import AerSimulator
    from qiskit_ibm_runtime.fake_provider.executor.run_quantum_program import run_quantum_program
    from qiskit_ibm_runtime.quantum_program.converters import quantum_program_from_2_0

    model = ParamsModel.model_validate(params)
    program, options = quantum_program_from_2_0(model)
    for item in program.items:
        if hasattr(item, "samplex"):
            item.samplex.finalize()
    options.simulator.seed_simulator = 7
    result = run_quantum_program(AerSimulator(), program, options.simulator)
    items = [
        {
            "results": {k: CompressedTensorModel.from_numpy(v) for k, v in item.items()},
            "metadata": {},
        }
        for item in result
    ]
    answer = QuantumProgramResultModel(
        data=items,
        metadata={"chunk_timing": []},
        passthrough_data=model.quantum_program.passthrough_data,
        semantic_role=model.quantum_program.semantic_role,
    )
    return answer.model_dump_json()


def _cancel(state, name, query, body):
    job = state.jobs[name]
    if job.status in ("Completed", "Failed", "Cancelled"):
        return 409, {"error": {"code": 1260, "message": "Job cannot be cancelled"}}
    job.status = "Cancelled"
    return 200, {}


def _metrics(state, name, query, body):
    usage = {"qpu_charge_time_seconds": 2, "status": "complete"}
    return 200, {"usage": usage, "timestamps": {}}


def _create_session(state, query, body):
    if body["mode"] == "dedicated" and state.open_plan:
        message = "You are not authorized to run a session when using the open plan."
        return 403, {"error": {"code": 1352, "message": message}}
    name = f"session{len(state.sessions)}"
    state.sessions[name] = {
        "id": name, "backend_name": body["backend"], "mode": body["mode"], "state": "open",
        "accepting_jobs": True,
    }  # fmt: skip
    return 200, state.sessions[name]


def _session(state, name, query, body):
    if name not in state.sessions:
        return 404, {"error": {"code": 404, "message": "no such session"}}
    return 200, state.sessions[name]


def _change_session(state, name, query, body):
    state.sessions[name].update(body)
    return 200, state.sessions[name]


ROUTES = [
    ("GET", "/backends", _list_backends),
    ("GET", "/backends/([^/]+)/(configuration|properties|status)", _backend),
    ("GET", "/instances/usage", _usage),
    ("POST", "/jobs", _create_job),
    ("GET", "/jobs", _list_jobs),
    ("GET", "/jobs/([^/]+)", _job),
    ("GET", "/jobs/([^/]+)/results", _results),
    ("GET", "/jobs/([^/]+)/metrics", _metrics),
    ("POST", "/jobs/([^/]+)/cancel", _cancel),
    ("POST", "/sessions", _create_session),
    ("GET", "/sessions/([^/]+)", _session),
    ("PATCH", "/sessions/([^/]+)", _change_session),
]
