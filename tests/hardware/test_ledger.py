"""The ledger: several processes, holders that die, files that are something else."""

import multiprocessing
import os
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from qmtl.errors import InvalidInputError, LedgerError
from qmtl.hardware import Ledger
from qmtl.hardware._claim import Claim, Holder, claimed
from qmtl.hardware._ledger import ledger_path
from tests.hardware.dispatch_samples import small_run

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    return Ledger(path)


@pytest.fixture
def run(ledger):
    return ledger.add_run(small_run(2)).run


def test_a_run_is_entered_once(ledger):
    prepared = small_run(3)
    first = ledger.add_run(prepared)
    assert ledger.add_run(prepared) == first
    assert (first.samples, first.shots, first.mode) == (6, 20, "batch")
    assert first.run == prepared.hash[:12]
    assert [chunk.hash for chunk in ledger.chunks(first.run)] == [c.hash for c in prepared.chunks]
    again = ledger.prepared(first.run)
    assert again.hash == prepared.hash
    assert ledger.add_run(prepared, again=True).run == f"{first.run}-2"
    assert ledger.find_request(prepared.hash).run == f"{first.run}-2"


def test_an_empty_ledger_knows_no_name(ledger):
    with pytest.raises(InvalidInputError, match=r"unknown run 'abc': the ledger .* has none"):
        ledger.run("abc")


def test_names_may_be_cut_short(ledger, run):
    other = ledger.add_run(small_run(seed=3)).run
    assert ledger.run(run[:6]).run == run
    assert ledger.knows(other[:6])
    assert not ledger.knows("xyz")
    for wrong in ("", "xyz", run + "9"):
        with pytest.raises(InvalidInputError, match="unknown run"):
            ledger.run(wrong)


def test_a_result_is_stored_once(ledger, run):
    with claimed(ledger, run, 0) as claim:
        claim.intend()
        claim.note_job("j")
        claim.confirm()
        claim.store(b"first", "j")
        claim.store(b"second", "j")
    assert ledger.results(run) == {0: b"first"}
    assert ledger.jobs(run) == ["j"]
    assert [event.split(" ", 1)[1] for event in ledger.events(run)][:3] == [
        "entered for ibm_manila",
        "chunk 0: about to be sent",
        "chunk 0: job j",
    ]


def is_free(ledger, run, idx=0):
    """Whether another thread can hold the chunk."""

    def ask():
        with claimed(ledger, run, idx) as claim:
            return claim is not None

    with ThreadPoolExecutor() as pool:
        return pool.submit(ask).result()


def test_one_holds_a_chunk(ledger, run):
    with claimed(ledger, run, 0) as claim:
        assert isinstance(claim, Claim)
        assert not is_free(ledger, run)
        assert is_free(ledger, run, 1)
    assert is_free(ledger, run)


def test_who_was_interrupted_before_it_let_go_holds_nothing(ledger, run, monkeypatch):
    """Ctrl-C comes while the hold is given back: the same thread is not in its own way."""

    def interrupted():
        raise KeyboardInterrupt

    def work():
        with claimed(ledger, run, 0) as claim:
            claim.intend()
            monkeypatch.setattr(ledger, "transaction", interrupted)

    with pytest.raises(KeyboardInterrupt):
        work()
    monkeypatch.undo()
    assert not is_free(ledger, run)  # nobody else knows
    with claimed(ledger, run, 0) as claim:
        assert claim is not None
    assert "took over from" in ledger.events(run)[-1]


def test_a_thread_that_has_ended_holds_nothing(ledger, run):
    with ThreadPoolExecutor() as pool:
        pool.submit(claimed(ledger, run, 0).__enter__).result()
    with claimed(ledger, run, 0) as claim:
        assert claim is not None


def test_the_home_folder(monkeypatch, tmp_path):
    """In Python and in QMTL_LEDGER no shell expands it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert Ledger("~/a.sqlite").path == tmp_path / "home" / "a.sqlite"
    assert Ledger(Path("~") / "b.sqlite").path.is_file()
    monkeypatch.setenv("QMTL_LEDGER", "~/deep/c.sqlite")
    assert Ledger().path == tmp_path / "home" / "deep" / "c.sqlite"
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    with pytest.raises(LedgerError, match="~nobody-of-that-name"):
        Ledger("~nobody-of-that-name/a.sqlite")


def hold(path, run, ready):
    with claimed(Ledger(path), run, 0):
        ready.set()
        time.sleep(60)


def test_who_was_killed_holds_nothing(path, ledger, run):
    ready = FORK.Event()
    process = FORK.Process(target=hold, args=(path, run, ready))
    process.start()
    assert ready.wait(30)
    with claimed(ledger, run, 0) as claim:
        assert claim is None
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    with claimed(ledger, run, 0) as claim:
        assert claim is not None
    assert "took over from" in ledger.events(run)[-1]


def test_holders_elsewhere_hold_for_a_time(ledger, run):
    elsewhere = Holder("another-machine", os.getpid(), "0", "x")
    with ledger.transaction() as connection:
        connection.execute(
            "UPDATE chunks SET holder = ?, held_until = ?", (str(elsewhere), "2999-01-01T00:00")
        )
    with claimed(ledger, run, 0) as claim:
        assert claim is None
    with ledger.transaction() as connection:
        connection.execute("UPDATE chunks SET held_until = '2001-01-01T00:00'")
    with claimed(ledger, run, 0) as claim:
        assert claim is not None


def test_a_later_process_of_the_same_number_is_another():
    holder = Holder.of_this_thread()
    with ThreadPoolExecutor() as pool:
        assert not pool.submit(holder.is_gone).result()
    assert Holder(holder.host, holder.pid, "1.00", holder.mark).is_gone()
    assert Holder(holder.host, 2**22 + 1, "1.00", holder.mark).is_gone()


def test_a_clock_that_is_set_does_not_end_a_holder(monkeypatch):
    holder = Holder.of_this_thread()
    created, booted = psutil.Process.create_time, psutil.boot_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: created(self) + 3600)
    monkeypatch.setattr(psutil, "boot_time", lambda: booted() + 3600)
    with ThreadPoolExecutor() as pool:
        assert not pool.submit(holder.is_gone).result()


def test_a_lost_hold_is_noticed(ledger, run):
    with claimed(ledger, run, 0) as claim:
        with ledger.transaction() as connection:
            connection.execute("UPDATE chunks SET holder = 'x 1 1 x'")
        with pytest.raises(LedgerError, match="took over chunk 0"):
            claim.intend()
    assert ledger.chunks(run)[0].state == "planned"


def enter(barrier, seed, path):
    barrier.wait()
    ledger = Ledger(path)
    for run in (ledger.add_run(small_run(seed=0)), ledger.add_run(small_run(seed=seed))):
        with claimed(ledger, run.run, 0) as claim:
            if claim is not None:
                claim.intend()


def assert_all_end_well(target, n, *arguments):
    barrier = FORK.Barrier(n)
    processes = [FORK.Process(target=target, args=(barrier, i, *arguments)) for i in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0] * n


def test_many_processes_at_once(path):
    n = 6
    assert_all_end_well(enter, n, path)
    runs = Ledger(path).runs()
    assert len(runs) == n
    assert all(Ledger(path).chunks(run.run)[0].state == "sending" for run in runs)


def open_many(barrier, _, folder, n_files):
    for i in range(n_files):
        barrier.wait(60)
        assert Ledger(folder / f"{i}.sqlite").runs() == []


def test_many_processes_make_it_at_once(tmp_path):
    # Turning the write-ahead log on is refused at once, whatever the timeout, if another process
    # has the file open: of 6 processes, one in 40 used to fail.
    assert_all_end_well(open_many, 6, tmp_path, 25)


def test_an_error_leaves_nothing_half_written(ledger, run):
    def write():
        with ledger.transaction() as connection:
            connection.execute("UPDATE chunks SET state = 'sent'")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert {chunk.state for chunk in ledger.chunks(run)} == {"planned"}


def test_files_that_are_no_ledger(tmp_path):
    text = tmp_path / "text"
    text.write_text("this is no database, and long enough to tell " * 20)
    with pytest.raises(LedgerError, match="cannot be used: file is not a database"):
        Ledger(text)
    other = tmp_path / "other"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE cookies (name TEXT)")
    before = other.read_bytes()
    with pytest.raises(LedgerError, match="a database of something else"):
        Ledger(other)
    assert other.read_bytes() == before
    newer = tmp_path / "newer"
    Ledger(newer)
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(LedgerError, match="has version 9; this qmtl reads 1"):
        Ledger(newer)
    with pytest.raises(LedgerError, match="cannot be made"):
        Ledger(text / "below" / "ledger.sqlite")


def test_damage_is_told(ledger, path, run):
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE chunks SET holder = 'x'")
    with pytest.raises(LedgerError, match="damaged: 'x' holds a chunk"), claimed(ledger, run, 0):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE chunks SET idx = idx + 7")
    with pytest.raises(LedgerError, match="lacks chunks"):
        ledger.chunks(run)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM chunks")
    with pytest.raises(LedgerError, match="lacks chunks"):
        ledger.chunks(run)


def test_where_it_is(monkeypatch, tmp_path, ledger, path):
    monkeypatch.delenv("QMTL_LEDGER", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert ledger_path().parts[-2:] == ("qmtl", "ledger.sqlite")
    monkeypatch.setenv("QMTL_LEDGER", str(tmp_path / "mine"))
    assert ledger_path() == tmp_path / "mine"
    # Nobody else reads what models were run on.
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("done", "has a chunk in the unknown state 'done'"),
        ("stored", "lacks the result of chunk 0"),
    ],
)
def test_a_state_that_was_edited_by_hand(ledger, run, state, told):
    with ledger.transaction() as connection:
        connection.execute("UPDATE chunks SET state = ? WHERE idx = 0", (state,))
    with pytest.raises(LedgerError, match=f"is damaged: run {run} {told}"):
        ledger.chunks(run)
