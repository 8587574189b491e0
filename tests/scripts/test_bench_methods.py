"""The comparisons of methods: as many trials for each, and what the tables say of known numbers."""

import pandas as pd
import pytest

from qmtl.experiments import estimate, read_recipe
from qmtl.training import TrainingSettings
from tests.scripts.conftest import load_script

bench = load_script("bench_methods")
robust = load_script("bench_robust")


def test_every_method_of_the_package_has_as_many_trials():
    recipe = read_recipe("digits")
    found = bench.methods()
    assert set(TrainingSettings.method_sections()) < set(found)
    assert found["igb"] == ("training.scalarizer", ["igb"])
    plain = {"training.learning_rate": 0.01, "training.head_learning_rate": 0.05}
    for key, values in found.values():
        grid = bench.grid_of(recipe, key, values, plain)
        n_trials = 1
        for own in grid.values():
            n_trials *= len(own)
        assert n_trials == bench.TRIALS
        for value in values:
            # A value that does not fit would raise.
            assert recipe.with_values({key: value}) != recipe


def _row(method, difference, p, joint, **more):
    row = {"family": "digits", "method": method, "score": 90.0, "score_interval": 1.0, "seeds": 5}
    row |= {"difference": difference, "difference_interval": 0.5, "p": p, "p_holm": p}
    row |= {"delta_m_percent": 1.0, "delta_m_interval": 0.5, "joint_steps": joint}
    return row | {"setting": "training.learning_rate=0.01", "refused": ""} | more


def test_sentences_say_what_the_numbers_show():
    plain = _row("plain", "", "", 1.0)
    rows = [plain, _row("a", 2.0, 0.01, 1.5), _row("b", -1.0, 0.02, 4.0), _row("c", 3.0, 0.2, 2.0)]
    helps, hurts, costs = bench.sentences(rows)
    assert "Of 3 comparisons" in helps
    assert "1 show a gain" in helps
    assert "a on digits (+2.0)" in helps
    assert "c on" not in helps
    assert "b on digits (-1.0)" in hurts
    assert "1.5 (a) to 4.0 (b) times as long as the plain head's, 2.0" in costs
    unclear = [plain, _row("a", 2.0, 0.5, 1.5)]
    assert "0 show a gain" in bench.sentences(unclear)[0]
    assert "No method shows a loss" in bench.sentences(unclear)[1]
    refused = _row("d", "", "", "", refused="it is not for this")
    cosines = {"digits": {"Adam's momentum": estimate([0.25, 0.27])}}
    text = bench.markdown([*rows, refused], cosines, 5, "command")
    assert "| d | refused | – | – | – | – | it is not for this |" in text
    assert "| digits | Adam's momentum | 0.26 ± 0.13 |" in text


def test_a_later_call_adds_its_rows_and_corrects_all(tmp_path):
    first = [_row("plain", "", "", 1.0), _row("single-task", 1.0, 0.001, "")]
    first += [_row("flatness", 2.0, 0.02, 3.0), _row("gone", 9.0, 0.001, 3.0)]
    table = pd.DataFrame(first)
    table.to_csv(tmp_path / "methods.csv", index=False)
    old = bench.read_rows(tmp_path / "methods.csv")
    rows = bench.merged(
        old, [_row("adversarial", -1.0, 0.04, 6.0), _row("flatness", 3.0, 0.03, 3.0)]
    )
    assert [row["method"] for row in rows] == ["plain", "single-task", "adversarial", "flatness"]
    # Two methods: the smaller p is doubled, and the larger one is no smaller than that.
    assert [row["p_holm"] for row in rows[2:]] == [0.06, 0.06]
    assert rows[1]["p_holm"] == 0.001
    assert rows[3]["difference"] == 3.0


def test_the_table_of_attacks_pairs_by_seed():
    rows = []
    for h, head in enumerate(robust.HEADS):
        for t, training in enumerate(robust.TRAININGS):
            for seed in range(3):
                row = {"head": head, "training": training, "seed": seed, "rate": 0.1}
                row |= {
                    "head_rate": 0.2,
                    "clean": 60 + seed - 5 * h + 2 * t - 0.1 * seed * h + 0.2 * seed * t,
                }
                rows.append(row)
    text = robust.markdown(pd.DataFrame(rows), ["clean"], 3)
    assert "| quantum | plain | 61.0 ± 2.5 |" in text
    assert "| plain: quantum against linear | +5.1 ± 0.2* |" in text
    (line,) = [line for line in text.splitlines() if "linear: pgd against plain" in line]
    assert float(line.split("|")[2].split("±")[0]) == pytest.approx(2.2)
