"""Compiled functions in several threads: torch's own, or a pool's, and after a fork."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qmtl.simulators import threads

# Within a step other threads may be at work, which a child does not have.
WITHIN_A_STEP = """
import faulthandler, os, sys, torch
from qmtl import HeadCircuit, Task
from qmtl.errors import QmtlError
from qmtl.simulators import LightConeSimulator
torch.set_num_threads(2)
circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(256)])
simulator = LightConeSimulator()
weights = {k: torch.randn(n, requires_grad=True) for k, n in circuit.weight_sizes.items()}
x = torch.randn(128, circuit.n_features, requires_grad=True)
expected = simulator.joined_values(circuit, x, weights).detach()
found = []
def fork(_):
    pid = os.fork()
    if pid:
        found.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        return
    faulthandler.dump_traceback_later(30, exit=True)
    with torch.no_grad():
        new = simulator.joined_values(circuit, x, weights)
    os._exit(0 if torch.allclose(new, expected, atol=1e-6) else 3)
handle = weights["t0"].register_post_accumulate_grad_hook(fork)
for _ in range(4):
    simulator.joined_values(circuit, x, weights).sum().backward()
handle.remove()
children = []
def go_on(_):
    if (pid := os.fork()) == 0:
        faulthandler.dump_traceback_later(30, exit=True)
        children.append(0)
    else:
        found.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
weights["t0"].register_post_accumulate_grad_hook(go_on)
try:
    simulator.joined_values(circuit, x, weights).sum().backward()
except QmtlError as error:
    os._exit(0 if children and "forked within a step" in str(error) else 4)
if children:
    os._exit(5)
sys.exit(found != [0] * 5)
"""
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
# The end of the interpreter drops in the main thread what other threads have.
WITH_A_DAEMON = """
import sys, threading, torch
from qmtl import HeadCircuit, Task
from qmtl.simulators import LightConeSimulator, threads
torch.set_num_threads(2)
circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(256)])
weights = {k: torch.randn(n, requires_grad=True) for k, n in circuit.weight_sizes.items()}
x = torch.randn(128, circuit.n_features, requires_grad=True)
ready, found = threading.Event(), []
def fail(_):
    raise ValueError
def work():
    values = LightConeSimulator().joined_values(circuit, x, weights)
    weights["t0"].register_hook(fail)
    try:
        values.sum().backward()
    except ValueError:
        found.append(hasattr(threads._THREAD, "running") == (threads._team_entries() is not None))
    ready.set()
    threading.Event().wait()
threading.Thread(target=work, daemon=True).start()
ready.wait()
sys.exit(0 if found == [True] else 3)
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


def run(program):
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(
    ("program", "status"), [(AFTER_A_FORK, 4), (WITHIN_A_STEP, 0)], ids=["after", "within a step"]
)
def test_forked_processes(program, status):
    done = run(program)
    assert done.returncode == status, done.stderr


def test_a_daemon_thread_within_a_step():
    done = run(WITH_A_DAEMON)
    assert done.returncode == 0, done.stderr
