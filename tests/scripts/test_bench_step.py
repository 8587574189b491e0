"""The benchmark of a step: one command prints ratios, growth and calls."""

import contextlib
import io
import math
import re
import subprocess
import sys

import pytest

from tests.scripts.conftest import load_script


@pytest.fixture
def run(monkeypatch, capsys):
    """The command in this process; the candidates that it measures have their own."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["bench_step", *arguments])
        run.script.main()
        return str(capsys.readouterr().out)

    run.script = load_script("bench_step")
    return run


def test_a_step_of_the_digits_head_enters_few_files_and_makes_few_calls(run):
    calls, files = map(int, re.findall(r"(\d+) Python calls in (\d+) files", run("--calls"))[0])
    assert calls <= 110
    # Among them the circuit: plans are found by its hash.
    assert files <= 10


def test_the_first_step_of_a_process_is_timed(run, monkeypatch):
    """Twice with the same new folder for kernels; here the program runs in this process."""
    caches = []

    def execute(command, env):
        caches.append(env["NUMBA_CACHE_DIR"])
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(command[-1], {})
        return printed.getvalue()

    monkeypatch.setattr(subprocess, "check_output", execute)
    lines = run("--first", "--rounds", "2").splitlines()
    for line, cache in zip(lines, ["an empty", "a full"], strict=True):
        assert re.fullmatch(rf"first step with {cache} cache: [\d.]+, [\d.]+ s", line)
    first, again, *others = caches
    assert first == again
    assert first not in others


@pytest.mark.slow
def test_one_command_measures_steps_beside_a_linear_layer(run):
    output = run("--tasks", "2", "--rounds", "1", "--growth", "--baseline", "")
    own, linear, ratio, seconds, megabytes = re.findall(
        r"T = +2: +([\d.]+) ms; nn.Linear\(2T, T\) +([\d.]+) ms, +([\d.]+) times; "
        r"planned in ([\d.]+) s; peak of memory (\d+) MB",
        output,
    )[0]
    assert float(own) / float(linear) == pytest.approx(float(ratio), abs=0.1)
    assert float(seconds) < 60
    assert int(megabytes) > 100


def test_growth_is_an_exponent(run, monkeypatch):
    facts = {"device": "a machine", "planned": 0.0, "mb": 1}
    monkeypatch.setattr(
        run.script, "measure", lambda _, n_tasks, older: ({"qmtl": n_tasks**1.5}, facts, {})
    )
    output = run("--tasks", "4", "8", "64", "--growth", "--baseline", "")
    assert "exponent of time against T: 1.500" in output


@pytest.mark.parametrize("kind", ["fit", "upgrad"])
def test_steps_of_fit_are_measured(kind):
    script = load_script("bench_step")
    script.FIT_STEPS = 5
    step, _ = script.STEPS[kind](2, "cpu")
    assert math.isfinite(step())
