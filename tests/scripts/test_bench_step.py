"""The benchmark of a step: one command prints ratios, growth and calls."""

import math
import re
import sys

import pytest

from tests.scripts.conftest import load_script


@pytest.fixture
def run(monkeypatch, capsys):
    """The command in this process; the candidates that it measures have their own."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["bench_step", *arguments])
        load_script("bench_step").main()
        return str(capsys.readouterr().out)

    return run


def test_a_step_of_the_digits_head_enters_few_files_and_makes_few_calls(run):
    calls, files = map(int, re.findall(r"(\d+) Python calls in (\d+) files", run("--calls"))[0])
    assert calls <= 110
    # Among them the circuit: plans are found by its hash.
    assert files <= 10


@pytest.mark.slow
def test_the_first_step_of_a_process_is_timed(run):
    seconds = list(map(float, re.findall(r"cache: ([\d.]+) s", run("--first", "--rounds", "1"))))
    assert len(seconds) == 2
    assert seconds[1] < seconds[0]  # the second process finds the kernels of the first


@pytest.mark.slow
def test_one_command_measures_steps_beside_a_linear_layer(run):
    output = run(
        "--tasks", "2", "4", "--rounds", "1", "--growth", "--baseline", "", "--largest-linear", "2"
    )
    own, linear, ratio = re.findall(
        r"T = +2: +([\d.]+) ms; nn.Linear\(2T, T\) +([\d.]+) ms, +([\d.]+) times", output
    )[0]
    assert float(own) / float(linear) == pytest.approx(float(ratio), abs=0.1)
    assert "exponent of time against T" in output


@pytest.mark.parametrize("kind", ["fit", "upgrad"])
def test_steps_of_fit_are_measured(kind):
    script = load_script("bench_step")
    script.FIT_STEPS = 5
    step, _ = script.STEPS[kind](2, "cpu")
    assert math.isfinite(step())
