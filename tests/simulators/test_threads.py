"""Kernels in several threads: every part once, and what forks, Ctrl-C and new processes see."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from qmtl.simulators._kernels import OPERATIONS_PER_THREAD, PIECES_PER_THREAD, run_items


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


# One process for all: imports take longer than what is tested.
PROGRAM = """
import faulthandler, os, sys, torch
from qmtl import HeadCircuit, Task
from qmtl.simulators import LightConeSimulator
torch.set_num_threads(2)
circuit = HeadCircuit([Task.binary(f"t{i}") for i in range(256)])
simulator = LightConeSimulator()
x = torch.randn(128, circuit.n_features, requires_grad=True)
weights = torch.randn(circuit.n_circuit_weights, requires_grad=True)
expected = None
def gradients():
    found = torch.autograd.grad(simulator.values(circuit, x, weights).square().sum(), [x, weights])
    assert expected is None or all(map(torch.equal, found, expected))
    return found
def in_a_child(run):
    if (pid := os.fork()) == 0:
        faulthandler.dump_traceback_later(60, exit=True)
        # A child does not have the threads of torch, which its own operations would wait for.
        torch.set_num_threads(1)
        run()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
expected = gradients()
"""
FORKS = """
def in_two_threads():
    with torch.no_grad():
        one = simulator.values(circuit, x, weights)
        torch.get_num_threads = lambda: 2
        assert torch.equal(simulator.values(circuit, x, weights), one)
in_a_child(in_two_threads)
gradients()
handle = weights.register_hook(lambda _: in_a_child(lambda: in_two_threads()))
gradients(), gradients()
handle.remove()
"""
CTRL_C = """
import signal
# A shell's background job ignores Ctrl-C, and so would what it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
steps = caught = 0
for _ in range(3):
    print("ready", flush=True)
    end = time.monotonic() + 20
    try:
        while time.monotonic() < end:
            gradients()
            steps += 1
    except KeyboardInterrupt:
        caught += 1
gradients()
# Python loses an interrupt that comes while it deletes an object.
assert steps and caught >= 2
"""
FIRST_STEP = """
import torch, time
from qmtl import HeadCircuit, QuantumHead, Task
head = QuantumHead(HeadCircuit([Task.binary(f"t{i}") for i in range(5)]), seed=0)
start = time.process_time()
head(torch.zeros(32, head.n_features), joined=True).sum().backward()
took = time.process_time() - start
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_later_processes_forked_processes_and_ctrl_c():
    exec(FIRST_STEP, {})
    program = f"{FIRST_STEP}print(took, flush=True)\n{PROGRAM}{FORKS}{CTRL_C}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, env=environment)  # fmt: skip
    # Kernels are on disk: to compile one takes many seconds.
    assert float(process.stdout.readline()) < 3
    for _ in range(3):
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors


@pytest.mark.parametrize("n_items", [1, 2, 3, 100])
@pytest.mark.usefixtures("two_threads")
def test_every_item_is_run_once(n_items):
    for operations in (1, 3 * OPERATIONS_PER_THREAD):
        done, is_one = [], operations == 1 or n_items == 1
        run_items(lambda *part, to=done: to.append(part[:2]), n_items, operations, "x")
        assert len(done) == (1 if is_one else min(n_items, 2 * PIECES_PER_THREAD))
        assert [i for part in sorted(done) for i in range(*part)] == [*range(n_items)]


def test_no_more_threads_than_torch_uses():
    names = set()
    run_items(lambda *_: names.add(threading.current_thread()), 9, 100 * OPERATIONS_PER_THREAD)
    assert names == {threading.main_thread()}


@pytest.mark.usefixtures("two_threads")
def test_errors_of_other_threads_are_raised():
    def fail(first, last):
        raise ValueError(f"{first} to {last}")

    with pytest.raises(ValueError, match="0 to 1"):
        run_items(fail, 8, 3 * OPERATIONS_PER_THREAD)
