"""Sending and fetching through the genuine client: what happens when things go wrong."""

import contextlib
import itertools
import multiprocessing
import re

import pytest

from qmtl.errors import (
    HardwareAccountError,
    HardwareBudgetError,
    HardwareBusyError,
    HardwareConnectionError,
    HardwareJobError,
    HardwareRefusedError,
    HardwareResultError,
    InvalidInputError,
)
from qmtl.hardware import Ledger, Progress, cancel, read_result, submit, wait
from qmtl.hardware import status as status_of
from tests.hardware.dispatch_samples import impatient, quick, small_run
from tests.hardware.ibm_server import Fault

# Faults of creating a job: what the service does, and whether the job is there afterwards.
CREATION = {
    "dropped before creation": Fault("POST", "/jobs"),
    "dropped after creation": Fault("POST", "/jobs", after=True),
    "502 before creation": Fault("POST", "/jobs", 502),
    "502 after creation": Fault("POST", "/jobs", 502, after=True),
    "429": Fault("POST", "/jobs", 429),
    "dropped twice after creation": Fault("POST", "/jobs", after=True, times=2),
    "502 thrice after creation": Fault("POST", "/jobs", 502, after=True, times=3),
}


def submitted(prepared, service=None, **arguments):
    return submit(prepared, service=quick(service), **arguments)


def finish(run):
    """Wait for the run; its result."""
    wait(run, service=quick())
    return read_result(run)


def check_once(service, run, chunks=1):
    """One live job per chunk, one result each, and the ledger knows no other."""
    ledger = Ledger()
    live = service.live()
    assert len(live) == chunks
    assert sorted(job.id for job in live) == sorted(c.job for c in ledger.chunks(run))
    assert set(ledger.results(run)) == set(range(chunks))
    assert all(chunk.state == "stored" for chunk in ledger.chunks(run))


@pytest.mark.parametrize(("chunks", "mode"), [(1, "job"), (3, "batch"), (2, "job")])
def test_a_run_without_trouble(service, chunks, mode):
    run = submitted(small_run(chunks, mode=mode))
    result = finish(run)
    check_once(service, run, chunks)
    assert result.missing == 0
    # X on |0>: every shot gives 1.
    assert result.values["a"].tolist() == [[-1.0]] * (2 * chunks)
    hashes = [chunk.hash for chunk in Ledger().chunks(run)]
    assert [job.tags for job in service.jobs.values()] == [
        [f"qmtl:{run}", f"qmtl:{digest}"] for digest in hashes
    ]
    sessions = {job.session for job in service.jobs.values()}
    assert sessions == ({None} if mode == "job" else {"session0"})
    if mode == "batch":
        assert service.sessions["session0"]["mode"] == "batch"
        assert not service.sessions["session0"]["accepting_jobs"]


def test_the_same_call_again_sends_nothing(service):
    run = submitted(small_run())
    finish(run)
    before = len(service.requests)
    assert submitted(small_run()) == run
    finish(run)
    assert len(service.requests) == before
    check_once(service, run)


@pytest.mark.parametrize("fault", CREATION)
def test_faults_of_creation(service, fault):
    """A job that was created is not visible at once."""
    kind = CREATION[fault]
    service.faults = [Fault(**vars(kind))]
    service.hide = 2 if kind.after else 0
    service.runs = False
    run = submitted(small_run())
    assert len(service.live()) == 1
    service.runs = True
    finish(run)
    check_once(service, run)


def test_duplicates_that_come_to_light_late_are_cancelled(service):
    """A job so long invisible that it is sent again: the newer one is cancelled in the end."""
    service.faults = [Fault("POST", "/jobs", after=True)]
    service.hide = 6
    service.runs = False
    run = submitted(small_run())
    assert len(service.jobs) == 2
    for job in service.jobs.values():
        job.hidden = 0
    wait(run, service=quick(), once=True)
    (chunk,) = Ledger().chunks(run)
    service.runs = True
    finish(run)
    check_once(service, run)
    assert chunk.state == "sent"


class Plain:
    """A service of which nothing but its public methods is known."""

    def __init__(self, service):
        for name in ("backend", "backends", "active_instance", "job", "jobs", "usage"):
            setattr(self, name, getattr(service, name))


def test_the_client_that_posts_again_by_itself(service):
    """Where it cannot be kept from that, all jobs but the first are cancelled."""
    from qiskit_ibm_runtime import QiskitRuntimeService

    service.faults = [Fault("POST", "/jobs", 502, after=True, times=2)]
    service.runs = False
    run = submitted(small_run(), service=Plain(QiskitRuntimeService()))
    assert len(service.jobs) == 3
    assert [job.id for job in service.live()] == ["job0000"]
    service.runs = True
    finish(run)
    check_once(service, run)
    assert len(Ledger().jobs(run)) == 3


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (400, HardwareRefusedError, "a fault"),
        (401, HardwareAccountError, "refuses the token"),
        (403, HardwareAccountError, "does not allow"),
        (409, HardwareRefusedError, "a fault"),
        (429, HardwareBusyError, "no more requests"),
    ],
)
def test_refusals_are_told_and_the_same_call_goes_on(service, status, error, words):
    service.faults = [Fault("POST", "/jobs", status, times=9)]
    with pytest.raises(error, match=words) as caught:
        submitted(small_run())
    assert "\n" not in str(caught.value)
    assert service.jobs == {}
    service.faults.clear()
    run = submitted(small_run())
    finish(run)
    check_once(service, run)


def test_401_in_mid_run(service):
    """Between two chunks, and while waiting."""
    service.faults = [Fault("GET", "/jobs", 401)]
    with pytest.raises(HardwareAccountError, match="save_account"):
        submitted(small_run(2))
    run = submitted(small_run(2))
    service.faults = [Fault("GET", "/jobs/job0001", 401)]
    with pytest.raises(HardwareAccountError, match="asking for job job0001"):
        finish(run)
    finish(run)
    check_once(service, run, 2)


@pytest.mark.parametrize("status", ["Failed", "Cancelled"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_jobs_that_fail_or_are_cancelled_elsewhere(service, status, when):
    """They are never sent anew unasked; ``--resubmit`` sends them, and only them."""
    word = {"Failed": "job0000 failed: .*went wrong", "Cancelled": "job0000 was cancelled"}[status]
    service.runs = False
    run = submitted(small_run(2))
    job = service.jobs["job0000"]
    job.status = status
    if status == "Failed":
        job.reason, job.code = "something went wrong", 9999
    service.runs = True
    if when == "after":
        with pytest.raises(HardwareJobError, match=f"(?s){word}"):
            wait(run, service=quick(), once=True)
    for call in (finish, finish, lambda run: submitted(small_run(2))):
        with pytest.raises(HardwareJobError, match=f"(?s){word}.*--resubmit"):
            call(run)
    assert len(service.jobs) == 2
    assert str(status_of(run)) == f"run {run} on ibm_manila: 1 {status.lower()}, 1 stored"
    assert submitted(run, resubmit=True) == run
    assert len(service.jobs) == 3
    finish(run)
    check_once(service, run, 2)
    assert service.jobs["job0002"].tags[2:] == ["qmtl:attempt-2"]


def test_a_job_that_ran_too_long(service):
    run = submitted(small_run(options={"max_execution_time": 5}))
    job = service.jobs["job0000"]
    assert job.cost == 5
    job.status, job.reason, job.code = "Cancelled", "ran too long", 1305
    with pytest.raises(HardwareJobError, match="longer than max_execution_time"):
        finish(run)


def test_a_job_that_is_not_known_any_more(service):
    run = submitted(small_run())
    service.jobs.clear()
    with pytest.raises(HardwareJobError, match=r"Job not found.*another account or instance"):
        finish(run)


@pytest.mark.parametrize(
    "cut",
    [
        lambda body: body[: len(body) // 2],
        lambda body: b"",
        lambda body: b"{}",
        lambda body: re.sub(rb'"shape": ?\[2', b'"shape":[1', body),
    ],
    ids=["half", "nothing", "another text", "fewer samples"],
)
def test_a_result_that_is_cut_short(service, cut):
    run = submitted(small_run())
    service.faults = [Fault("GET", "/jobs/job0000/results", body=cut, times=2)]
    finish(run)
    check_once(service, run)
    service.faults = [Fault("GET", "/jobs/job0001/results", body=cut, times=99)]
    other = submitted(small_run(seed=1))
    with pytest.raises(HardwareResultError, match="job0001"):
        finish(other)
    assert Ledger().results(other) == {}
    service.faults.clear()
    finish(other)
    assert set(Ledger().results(other)) == {0}


def test_a_damaged_result_does_not_keep_the_others_back(service):
    run = submitted(small_run(3, mode="job"))
    service.faults = [Fault("GET", "/jobs/job0000/results", body=lambda body: b"", times=99)]
    with pytest.raises(HardwareResultError, match="job0000"):
        finish(run)
    assert set(Ledger().results(run)) == {1, 2}
    service.faults.clear()
    finish(run)
    check_once(service, run, 3)


def test_a_server_that_goes_away(service, capsys):
    """Waiting survives it; so does a call that gave up."""
    run = submitted(small_run())
    service.faults = [Fault("GET", "/jobs/.*", times=9)]
    wait(run, service=quick(impatient()))
    check_once(service, run)
    assert "cannot be reached" in capsys.readouterr().err
    other = submitted(small_run(seed=1))
    service.faults = [Fault("GET", "/jobs/.*", times=10**6)]
    with pytest.raises(HardwareConnectionError, match="tells nothing about the token"):
        wait(other, service=quick(impatient(), outage=0.05))
    service.faults.clear()
    finish(other)
    assert len(service.live()) == 2


def test_budgets_stop_before_anything_is_sent(service):
    with pytest.raises(HardwareBudgetError, match=r"about 10 s .* budget of 3 s; nothing was sent"):
        submitted(small_run(), budget_seconds=3)
    service.usage["usage_consumed_seconds"] = 595
    with pytest.raises(HardwareBudgetError, match="has 5 s left"):
        submitted(small_run())
    service.usage = {"usage_limit_reached": True}
    with pytest.raises(HardwareBudgetError, match="has 0 s left"):
        submitted(small_run(2))
    assert service.jobs == {}
    assert service.sessions == {}
    service.usage = {}
    run = submitted(small_run(), budget_seconds=11)
    finish(run)
    check_once(service, run)


def test_only_what_is_not_sent_yet_counts_for_the_budget(service):
    service.faults = [Fault("GET", "/jobs/job0000", 400, times=2)]
    with pytest.raises(HardwareRefusedError):
        submitted(small_run(2), budget_seconds=11)
    assert len(service.jobs) == 1
    run = submitted(small_run(2), budget_seconds=11)
    service.usage = {"usage_limit_reached": True}
    assert submitted(small_run(2)) == run


def test_sessions(service):
    with pytest.raises(HardwareRefusedError, match="Open Plan has no sessions; use mode 'batch'"):
        submitted(small_run(2, mode="session"))
    service.open_plan = False
    run = submitted(small_run(2, mode="session"))
    assert service.sessions["session0"]["mode"] == "dedicated"
    finish(run)
    check_once(service, run, 2)


def test_a_session_does_not_stay_open_after_an_error(service):
    service.open_plan = False
    service.faults = [Fault("POST", "/jobs", 400)]
    with pytest.raises(HardwareRefusedError):
        submitted(small_run(2, mode="session"))
    assert not service.sessions["session0"]["accepting_jobs"]
    run = submitted(small_run(2, mode="session"))
    assert {job.session for job in service.jobs.values()} == {"session1"}
    finish(run)
    check_once(service, run, 2)


def test_interrupted_submitting_says_how_to_go_on(service):
    def interrupt():
        raise KeyboardInterrupt

    class Interrupted(Plain):
        def __init__(self, service):
            super().__init__(service)
            self.jobs = lambda **_: interrupt()

    with pytest.raises(KeyboardInterrupt, match=r"`qmtl ibm submit .*` continues it"):
        submitted(small_run(), service=Interrupted(impatient()))
    run = submitted(small_run())
    finish(run)
    check_once(service, run)


@pytest.mark.parametrize("step", range(0, 9, 2))
def test_an_interrupt_at_any_step_leaves_nobody_waiting(service, monkeypatch, step):
    """Ctrl-C within a transaction of the ledger: the next call of the same process continues."""
    steps = itertools.count()
    transaction = Ledger.transaction

    @contextlib.contextmanager
    def interrupted(ledger):
        with transaction(ledger) as connection:
            yield connection
        if next(steps) >= step:  # also while what is held is given back
            raise KeyboardInterrupt

    prepared = small_run(2, seed=step)
    ledger = Ledger()
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "transaction", interrupted)
        with pytest.raises(KeyboardInterrupt):
            submit(prepared, ledger, service=quick())
    run = submitted(prepared)
    finish(run)
    check_once(service, run, 2)


def test_a_run_goes_on_in_its_batch(service):
    service.faults = [Fault("POST", "/jobs", 400)]
    with pytest.raises(HardwareRefusedError):
        submitted(small_run(2))
    run = submitted(small_run(2))
    assert list(service.sessions) == ["session0"]
    assert Ledger().run(run).session == "session0"


def test_a_batch_that_cannot_be_looked_up_is_not_replaced(service):
    service.faults = [Fault("POST", "/jobs", 400)]
    with pytest.raises(HardwareRefusedError):
        submitted(small_run(2))
    service.faults = [Fault("GET", "/sessions/.*", 403, times=10**6)]
    with pytest.raises(HardwareAccountError, match="looking for batch session0"):
        submitted(small_run(2))
    assert list(service.sessions) == ["session0"]
    service.faults = []
    finish(submitted(small_run(2)))
    assert list(service.sessions) == ["session0"]


def test_a_batch_that_is_gone_is_replaced(service):
    service.faults = [Fault("POST", "/jobs", 400)]
    with pytest.raises(HardwareRefusedError):
        submitted(small_run(2))
    service.sessions["session0"]["accepting_jobs"] = False
    run = submitted(small_run(2))
    assert Ledger().run(run).session == "session1"


def test_cancel(service):
    service.runs = False
    run = submitted(small_run(2))
    assert str(cancel(run)) == f"run {run} on ibm_manila: 2 cancelled"
    assert service.live() == []
    with pytest.raises(HardwareJobError, match=r"cancelled by qmtl.*--resubmit"):
        finish(run)
    assert len(service.jobs) == 2
    service.runs = True
    submitted(run, resubmit=True)
    finish(run)
    check_once(service, run, 2)


def test_what_is_done_is_not_cancelled(service):
    """It is paid for."""
    service.runs = False
    run = submitted(small_run(2))
    service.jobs["job0000"].status = "Completed"
    assert str(cancel(run)) == f"run {run} on ibm_manila: 1 sent, 1 cancelled"
    with pytest.raises(HardwareJobError, match="cancelled by qmtl"):
        finish(run)
    assert set(Ledger().results(run)) == {0}


def test_cancel_finds_jobs_that_were_sent_unnoticed(service):
    service.runs = False
    service.faults = [Fault("POST", "/jobs", after=True, call=service.go_away)]
    with pytest.raises(HardwareConnectionError):
        submit(small_run(), service=quick(impatient(), sends=1))
    service.faults.clear()
    (run,) = Ledger().runs()
    (chunk,) = Ledger().chunks(run.run)
    assert (chunk.state, chunk.job) == ("sending", None)
    assert len(service.live()) == 1
    cancel(run.run, service=quick())
    assert service.live() == []


def test_a_lost_ledger(service, monkeypatch, tmp_path):
    """Jobs are found by their tags, and nothing is sent again."""
    run = submitted(small_run(2))
    monkeypatch.setenv("QMTL_LEDGER", str(tmp_path / "another.sqlite"))
    assert submitted(small_run(2)) == run
    finish(run)
    check_once(service, run, 2)
    assert len(service.jobs) == 2


def test_the_same_request_again(service):
    run = submitted(small_run(request="f" * 64))
    assert run == "f" * 12
    assert submitted(small_run(seed=1, request="f" * 64)) == run
    other = submitted(small_run(seed=1, request="f" * 64), again=True)
    assert other == f"{run}-2"
    assert len(service.jobs) == 2


def test_unknown_backends_and_options(service):
    with pytest.raises(InvalidInputError, match="did you mean 'ibm_manila'"):
        submitted(small_run(backend="ibm_manilla"))
    with pytest.raises(InvalidInputError, match=r"'twirling.enable_gate'"):
        submitted(small_run(options={"twirling": {"enable_gate": True}}))
    assert service.jobs == {}


def test_interrupted_waiting_says_how_to_come_back(service):
    def interrupt():
        raise KeyboardInterrupt

    service.runs = False
    run = submitted(small_run())
    progress = Progress(write=lambda text: interrupt())
    with pytest.raises(
        KeyboardInterrupt, match=f"run {run} continues; `qmtl ibm fetch {run} --wait`"
    ):
        wait(run, service=quick(), progress=progress)
    service.runs = True
    finish(run)
    check_once(service, run)


def test_progress_on_a_terminal():
    written = []
    progress = Progress(write=written.append, is_terminal=True)
    progress.show("run a: 10 queued")
    progress.show("run a: 1 done")
    progress.end()
    assert written[0] == "\rrun a: 10 queued (0:00)"
    assert written[1] == "\rrun a: 1 done (0:00)   "
    assert written[2] == "\n"


def submit_elsewhere(barrier, seed):
    barrier.wait()
    wait(submit(small_run(3, seed=seed), service=quick()), service=quick())


def test_two_processes_submit_once(service):
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(3)
    both = [fork.Process(target=submit_elsewhere, args=(barrier, 5)) for _ in range(3)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0, 0]
    (run,) = Ledger().runs()
    assert len(service.jobs) == 3
    check_once(service, run.run, 3)
