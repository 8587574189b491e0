"""Mutated tables, recipes and saved runs: a short run, and that it finds what is wrong."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.conftest import SCRIPTS, load_script


def test_a_few_of_each_kind_work_or_are_refused_in_one_line():
    counts = ["--tables", "6", "--recipes", "6", "--models", "6", "--seed", "1"]
    command = [sys.executable, str(SCRIPTS / "fuzz_inputs"), *counts]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^(\w+) +(\w+) +(\d+)$", done.stdout, flags=re.MULTILINE)
    assert sum(int(count) for _, _, count in found) == 18
    assert {kind for kind, _, _ in found} == {"table", "recipe", "model"}


@pytest.mark.parametrize(
    ("said", "status", "outcome"),
    [
        ("", 0, "worked"),
        ("qmtl: a.csv: no\n", 2, "refused"),
        ("warning: this\nqmtl: a.csv: no\n", 2, "refused"),
        ("", 2, "failed"),
        ("qmtl: one\nqmtl: two\n", 2, "failed"),
        ("qmtl: no\nand more\n", 2, "failed"),
        ("Traceback (most recent call last):\n", "traceback", "failed"),
        ("qmtl: no\n", 1, "failed"),
    ],
)
def test_outcomes(said, status, outcome, tmp_path, monkeypatch):
    script = load_script("fuzz_inputs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "call", lambda words: (status, said))
    assert script.run_case("table:0", 0)[0] == outcome
    assert list(Path().iterdir()) == []
