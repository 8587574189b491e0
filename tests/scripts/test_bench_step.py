"""The benchmark of a step: sweeps, the fitted exponent, and the share of the machine's speed."""

import csv
import subprocess
import sys

import pytest
from peers.limits import Ran

from tests.scripts.conftest import SCRIPTS, load_script

SIZES = {"tasks": 64, "batch": 32, "wires": 2, "layers": 2}


@pytest.fixture(scope="module")
def bench_step():
    return load_script("bench_step")


def test_the_exponent_is_that_of_many_tasks(bench_step):
    rows = [
        {"sweep": "tasks", "tasks": n, "step_ms": 50.0 if n < 64 else n**1.5 / 100}
        for n in (8, 64, 256, 1024)
    ]
    assert bench_step.exponent(rows) == pytest.approx(1.5)
    assert bench_step.exponent(rows[:2]) is None


def test_shares_are_of_the_machine_measured(bench_step):
    plan = {"gflop": 0.5, "amplitudes": 64, "estimated_mb": 1.0, "features": 128, "itemsize": 4}
    events = {"plan": plan, "steps": {"ms": [100.0, 50.0, 200.0]}, "first": {"ms": 1.0}}
    speed = {"gflops": 20.0, "gbytes": 10.0}
    row = bench_step.row_of(Ran("ok", events), {}, "tasks", SIZES, speed)
    assert (row["step_ms"], row["gflops"], row["share_of_flops"]) == (100.0, 5.0, 0.25)
    megabytes = 2 * 32 * (128 + 64) * 4 / 1e6
    assert row["compulsory_mb"] == pytest.approx(megabytes)
    assert row["share_of_bytes"] == pytest.approx(megabytes / 1e3 / 0.1 / 10.0)


def test_a_cell_without_a_step_says_why(bench_step):
    row = bench_step.row_of(Ran("over time", {}), {}, "tasks", SIZES, {"gflops": 1, "gbytes": 1})
    assert row["step_ms"] is None
    assert "over time" in bench_step.line_of(row)


@pytest.mark.parametrize("kind", ["peers", "default"])
def test_both_circuits_take_all_sizes(bench_step, kind):
    circuit = bench_step.new_circuit(kind, {"tasks": 3, "wires": 3, "layers": 3})
    assert (circuit.n_wires, len(circuit.tasks), circuit.encoding.n_layers) == (9, 3, 3)


@pytest.mark.slow
def test_one_command_measures_a_sweep_and_draws_it(tmp_path):
    out = tmp_path / "step.csv"
    command = [sys.executable, SCRIPTS / "bench_step", "--sweeps", "tasks", "--tasks", "2"]
    command += ["--seconds", "0.01", "--out", out]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (row,) = csv.DictReader(out.read_text().splitlines())
    assert (row["status"], row["sweep"], row["tasks"]) == ("ok", "tasks", "2")
    numbers = [float(row[key]) for key in ("step_ms", "first_ms", "peak_mb", "machine_gflops")]
    assert min(numbers) > 0
    plot = [sys.executable, SCRIPTS / "plot_bench", out, "--out", tmp_path / "step.png"]
    subprocess.run(plot, check=True, capture_output=True, timeout=120)
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")
