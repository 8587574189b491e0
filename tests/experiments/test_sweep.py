"""Sweeps: results are kept whole, failures are tried again, damage is not believed."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from qmtl.errors import InvalidInputError, QmtlError
from qmtl.experiments._sweep import Cell, CellStore, Failure, Workers, results_of, run_cells


@dataclass(frozen=True)
class Found:
    value: float
    parts: dict[str, float]


@dataclass(frozen=True)
class Root(Cell):
    """The square root of a number, NaN of none."""

    number: float
    finds: ClassVar[type] = Found

    @property
    def label(self):
        return f"root of {self.number}"

    def run(self):
        if self.number < 0:
            raise ValueError("there is\nno root")
        return Found(math.sqrt(self.number), {"undefined": math.nan})


CELL, FAILURE = Root(4.0), Failure("root", "E: no", "…")
FOUND = Found(2.0, {"b": 0.5})


def test_what_is_written_is_read(tmp_path):
    store = CellStore(tmp_path / "deep" / "cells")
    assert store.read(CELL) is None
    store.write(CELL, CELL.run())
    read = store.read(CELL)
    assert read.value == 2
    assert math.isnan(read.parts["undefined"])
    assert [path.name for path in store.folder.iterdir()] == [f"{CELL.name}.json"]


def test_a_result_replaces_a_failure_but_not_the_other_way_round(tmp_path):
    store = CellStore(tmp_path)
    store.write(CELL, FAILURE)
    assert store.read(CELL) == FAILURE
    store.write(CELL, FOUND)
    store.write(CELL, FAILURE)
    assert store.read(CELL) == FOUND


def test_damaged_files_and_those_of_other_cells_are_none(tmp_path):
    store = CellStore(tmp_path)
    store.write(CELL, FOUND)
    whole = store.path(CELL).read_text()
    damaged = [
        "",
        whole[: len(whole) // 2],
        "[]",
        "null",
        whole.replace('"format": 2', '"format": 1'),
    ]
    damaged += [whole.replace("2.0", '"two"'), whole.replace("finished", "finish")]
    damaged += [whole.replace(CELL.key, "0" * 64)]
    for text in damaged:
        store.path(CELL).write_text(text)
        assert store.read(CELL) is None, text
    store.path(CELL).write_bytes(b"\xff\xfe")
    assert store.read(CELL) is None


@pytest.mark.parametrize("jobs", [1, 2])
def test_only_what_is_missing_runs_and_failures_are_tried_again(tmp_path, jobs):
    cells, store, seen = [Root(4.0), Root(-1.0), Root(9.0)], CellStore(tmp_path), []

    def report(cell, found, done, all_):
        seen.append((cell.number, done, all_))

    store.write(cells[0], FOUND)
    found = run_cells(cells, store, Workers(jobs), report)
    assert sorted(number for number, *_ in seen) == [-1, 9]
    assert [done for _, done, _ in seen] == [2, 3]
    assert found[cells[0].key] == FOUND
    assert found[cells[1].key].error == "ValueError: there is no root"
    assert found[cells[2].key].value == 3
    seen.clear()
    run_cells(cells, store, Workers(1), report)
    assert [number for number, *_ in seen] == [-1]
    with pytest.raises(QmtlError, match=r"1 of 3 cells failed; root of -1\.0: ValueError"):
        results_of(cells, found)


def test_threads_of_the_caller_stay_as_they_are():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert results_of([CELL], run_cells([CELL], None))[0].value == 2
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_workers():
    cores = os.cpu_count() or 1
    assert Workers().jobs == cores
    assert Workers().threads == 1
    assert Workers(jobs=10 * cores).threads == 1
    with pytest.raises(InvalidInputError, match="jobs must be an integer >= 1"):
        Workers(jobs=0)


SLEEPERS = """
import os, sys, time
from dataclasses import dataclass
from pathlib import Path
from qmtl.experiments._sweep import Cell, Workers, run_cells

@dataclass(frozen=True)
class Sleep(Cell):
    number: int
    finds = int
    label = "sleep"
    def run(self):
        Path(sys.argv[1], str(os.getpid())).touch()
        time.sleep(60)

run_cells([Sleep(0), Sleep(1)], None, Workers(2))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX only")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", SLEEPERS, tmp_path])
    _wait(lambda: len(list(tmp_path.iterdir())) == 2, 60)
    parent.kill()
    parent.wait()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    _wait(lambda: not any(_runs(pid) for pid in workers), 10)


def _wait(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A process that nobody waits for stays in the table as a zombie.
    return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
