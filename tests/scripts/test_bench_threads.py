"""The benchmark of threads: every kind of step runs, and ratios are of the medians."""

import subprocess
import sys

import pytest
import torch

from tests.scripts.conftest import SCRIPTS, load_script


@pytest.fixture(scope="module")
def bench_threads():
    return load_script("bench_threads")


def test_ratios_are_of_turns_next_to_each_other(bench_threads):
    # The second turn was slow for both.
    line = bench_threads.line_of("joined", 32, {1: [12.0, 30.0, 10.0], 2: [6.0, 20.0, 4.0]})
    assert "1 thread 12.0 (11.0 to 21.0) ms" in line
    assert "2 threads 6.0 (5.0 to 13.0) ms, 2.00 (1.75 to 2.25) times as fast" in line


@pytest.mark.parametrize("circuit", ["peers", "default"])
@pytest.mark.parametrize("kind", ["joined", "values", "head"])
def test_a_step_gives_every_leaf_a_gradient(bench_threads, kind, circuit, monkeypatch):
    losses, loss_of = [], torch.nn.functional.mse_loss
    monkeypatch.setattr(
        torch.nn.functional, "mse_loss", lambda *given: losses.append(loss_of(*given)) or losses[-1]
    )
    bench_threads.new_step(kind, circuit, 3, 4)()
    (loss,) = losses
    nodes, leaves = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):
            leaves.add(node.variable)
        nodes += [following for following, _ in node.next_functions if following is not None]
    # Features, the encoding's weights, the blocks', and the head's scales.
    assert len(leaves) == (8 if kind == "head" else 5)
    assert all(leaf.grad.abs().sum() > 0 for leaf in leaves)


@pytest.mark.slow
def test_one_command_prints_a_ratio():
    command = [sys.executable, SCRIPTS / "bench_threads", "--tasks", "2", "--batch", "2"]
    command += ["--rounds", "1", "--steps", "joined", "--seconds", "0.01"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    assert "times as fast" in printed.stdout
    assert "two processes do" in printed.stdout
