"""Compiled functions in several threads: torch's own, or a pool's, and after a fork."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qmtl.simulators import threads

# The child has lost the workers of OpenMP: torch's own parallel operations would wait for them.
AFTER_A_FORK = """
import ctypes, os, sys
from qmtl.simulators.threads import run_in_threads
found = []
function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(found.append)
address = ctypes.cast(function, ctypes.c_void_p).value
run_in_threads(address, 1, 2)
if os.fork() == 0:
    run_in_threads(address, 1, 2)
    os._exit(len(found))
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.fixture(params=["torch", "pool"])
def runtime(request, monkeypatch):
    if request.param == "pool":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    elif threads._openmp() is None:
        pytest.skip("this torch has no OpenMP with GOMP_parallel")


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.usefixtures("runtime")
def test_every_thread_calls_the_function(n_threads):
    found = []
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(found.append)
    address = ctypes.cast(function, ctypes.c_void_p).value
    threads.run_in_threads(address, 7, n_threads)
    assert found == [7] * n_threads


def test_no_more_threads_than_torch_uses():
    assert torch.get_num_threads() == 1
    assert threads.thread_count(1000) == 1
    torch.set_num_threads(2)
    try:
        assert threads.thread_count(1000) == 2
        assert threads.thread_count(1) == 1
        # Of large items a few are enough.
        assert threads.thread_count(2, fewest=1) == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_after_a_fork():
    done = subprocess.run(
        [sys.executable, "-c", AFTER_A_FORK],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4, done.stderr
