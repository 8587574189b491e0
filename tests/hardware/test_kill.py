"""The process is killed (-9) at every step of submitting and fetching; the same command goes on.

Steps are what leaves the process: each transaction of the ledger, and each request about jobs. The
process dies after the step, before it knows of it.
"""

import itertools
import os
import signal
import sqlite3

import pytest

from qmtl.hardware import Ledger, submit, wait
from tests.hardware.dispatch_samples import quick, small_run
from tests.hardware.server import SERVER
from tests.hardware.test_dispatch import check_once


def die_at_step(step):
    """Kill this process right after its `step`-th step."""
    import requests

    steps = itertools.count()

    def dying(function, counts=lambda *_: True):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            if counts(*args) and next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    class Connection(sqlite3.Connection):
        commit = dying(sqlite3.Connection.commit)

    def about_jobs(_, request):
        return "/jobs" in request.url or "/sessions" in request.url

    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **kwargs: connect(*args, factory=Connection, **kwargs)
    adapter = requests.adapters.HTTPAdapter
    adapter.send = dying(adapter.send, about_jobs)


def command(prepared):
    """What ``qmtl ibm submit --wait`` does."""
    run = submit(prepared, service=quick())
    wait(run, service=quick())


def command_until(step, prepared, environment):
    os.environ.update(environment)
    die_at_step(step)
    command(prepared)


def killed_at(prepared, step):
    """Whether the command was killed at this step; it may have ended before."""
    process = SERVER.Process(target=command_until, args=(step, prepared, dict(os.environ)))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.slow
def test_killed_at_every_step(service):
    """A run per step: killed there, and then the same command again, which ends."""
    for step in itertools.count():
        prepared = small_run(seed=step, mode="batch")
        if not killed_at(prepared, step):
            break
        command(prepared)
        run = submit(prepared)
        check_once(service, run)
        assert set(Ledger().results(run)) == {0}
        service.jobs.clear()
    assert step > 15


def test_killed_while_it_is_executed_here(tmp_path, monkeypatch):
    """On a backend of this machine: each chunk's result is stored once."""
    monkeypatch.setenv("QMTL_LEDGER", str(tmp_path / "ledger.sqlite"))
    for step in range(0, 14, 3):
        prepared = small_run(2, backend="aer", mode="job", seed=step)
        assert killed_at(prepared, step)
        command(prepared)
        run = submit(prepared)
        assert set(Ledger().results(run)) == {0, 1}
        assert {chunk.state for chunk in Ledger().chunks(run)} == {"stored"}
