"""Mutated tables, recipes and saved runs: a short run, and that it finds what is wrong."""

import re
import sys
from pathlib import Path

import pytest

from tests.scripts.conftest import load_script


def test_a_few_of_each_kind_work_or_are_refused_in_one_line(monkeypatch, capsys):
    counts = ["--tables", "6", "--recipes", "6", "--models", "6", "--seed", "1"]
    monkeypatch.setattr(sys, "argv", ["fuzz_inputs", *counts])
    with pytest.raises(SystemExit) as end:
        load_script("fuzz_inputs").main()
    printed = capsys.readouterr().out
    assert end.value.code == 0, printed
    found = re.findall(r"^(\w+) +(\w+) +(\d+)$", printed, flags=re.MULTILINE)
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
