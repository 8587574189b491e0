"""Choice of settings, comparisons and negative transfer, on results made by hand."""

import math
from dataclasses import replace

import pytest

from qmtl.experiments._bench_report import (
    as_markdown,
    metrics_csv,
    seeds_csv,
    summary_csv,
    verdict,
    write_bench,
)
from qmtl.experiments._bench_summary import HeadScores, choose_setting
from qmtl.experiments._sweep import Failure
from tests.experiments.bench_samples import result, summary, tiny

LINEAR = [{"a": 0.5, "b": 0.7}, {"a": 0.6, "b": 0.6}, {"a": 0.5, "b": 0.5}]
QUANTUM = [{"a": 0.7, "b": 0.7}, {"a": 0.7, "b": 0.7}, {"a": 0.6, "b": 0.5}]
CSV = {"summary.csv", "metrics.csv", "seeds.csv"}
FAILURE = Failure("low-rank, seed 2", "E: no", "…")


def test_the_setting_is_chosen_on_validation_whatever_the_test_split_says():
    good_on_test = result(validation={"a": 0.5}, test={"a": 0.9})
    good_on_validation = result(validation={"a": 0.6}, test={"a": 0.1})
    assert choose_setting([[good_on_test], [good_on_validation]]) == 1


def test_settings_with_a_failed_cell_are_not_chosen():
    good, poor = result(validation={"a": 0.9}), result(validation={"a": 0.2})
    assert choose_setting([[good, None], [poor, poor]]) == 1
    assert choose_setting([[None], [None]]) is None
    assert choose_setting([[None]]) == 0
    # Of equals the first; a metric that is undefined for one task leaves the others to decide.
    assert choose_setting([[poor], [poor]]) == 0
    undefined = result(validation={"a": math.nan, "b": 0.9})
    assert choose_setting([[poor], [undefined]]) == 1


def test_comparison_is_paired_and_corrected():
    compared = summary({"quantum": QUANTUM, "linear": LINEAR, "other": QUANTUM}).compare()
    assert list(compared) == ["quantum", "other"]
    test = compared["quantum"].test
    assert test.difference.mean == pytest.approx((10 + 10 + 5) / 3)
    # Two heads, both with this p: Holm doubles it.
    assert compared["quantum"].corrected == pytest.approx(2 * test.t_test)
    assert summary({"quantum": QUANTUM}).compare() == {}


@pytest.mark.parametrize(("r2", "mean"), [(0.0, 35.0), (math.nan, 70.0)])
def test_a_constant_prediction_has_no_correlation(r2, mean):
    """It counts as 0, unless the targets are constant themselves, and r2 is undefined."""
    scores = {"a": {"accuracy": 0.7}, "b": {"r2": r2, "pearson": math.nan}}
    found = result(
        metrics={"validation": scores, "test": scores},
        main_metrics={"a": "accuracy", "b": "pearson"},
    )
    assert HeadScores("quantum", {}, (found,)).means() == pytest.approx([mean])


def test_tasks_without_a_score_are_not_counted():
    heads = {
        head: [score | {"rare": math.nan} for score in scores]
        for head, scores in (("quantum", QUANTUM), ("linear", LINEAR))
    }
    assert "points, mean over 2 of 3 tasks: " in verdict(summary(heads))[0]


def test_a_head_is_not_better_on_one_of_many_tasks_by_chance():
    many = [f"t{i}" for i in range(20)]
    linear = [dict.fromkeys(many, 0.5)] * 3
    # One task with p = 0.01, and nineteen without any difference.
    quantum = [
        score | {"t7": 0.5 + gain} for score, gain in zip(linear, (0.1, 0.11, 0.08), strict=True)
    ]
    some = summary({"quantum": quantum, "linear": linear})
    assert some.compare_task("t7")["quantum"].t_test == pytest.approx(0.0084, abs=1e-3)
    assert "better on" not in verdict(some)[0]
    far = [
        score | {"t7": 0.5 + gain} for score, gain in zip(linear, (0.1, 0.101, 0.1), strict=True)
    ]
    assert "; better on t7 (Holm" in verdict(summary({"quantum": far, "linear": linear}))[0]


def test_transfer_is_delta_m_of_the_means():
    found = summary({"quantum": QUANTUM, "single-task": LINEAR}).transfer()
    a, b = (0.5 + 0.6 + 0.5) / 3, (0.7 + 0.6 + 0.5) / 3
    mean_a, mean_b = (0.7 + 0.7 + 0.6) / 3, (0.7 + 0.7 + 0.5) / 3
    expected = 100 * ((mean_a - a) / a + (mean_b - b) / b) / 2
    assert found["quantum"].mean == pytest.approx(expected)
    assert "single-task" not in found


def test_a_failed_seed_is_left_out_and_said():
    some = summary({"quantum": [QUANTUM[0], None, QUANTUM[2]], "linear": LINEAR}, [FAILURE])
    assert some.compare()["quantum"].test.difference.n == 2
    text = as_markdown(some, tiny())
    assert "low-rank, seed 2: E: no" in text


def test_tables_of_nothing_but_failures():
    text = as_markdown(summary({}, [FAILURE]), tiny())
    assert "Failed cells" in text
    assert "## Heads" not in text


def test_files_of_an_earlier_benchmark_do_not_stay(tmp_path):
    one = [{"a": 0.5}] * 2
    for heads, files in (
        ({"linear": one, "quantum": one}, {"forest.png", "score_against_parameters.png", *CSV}),
        ({"quantum": one}, {"score_against_parameters.png", *CSV}),
        ({}, set()),
    ):
        write_bench(summary(heads), tiny(), tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == files | {"table.md", "recipe.toml"}


def test_markdown_tables_are_tables():
    heads = {"quantum": QUANTUM, "linear": LINEAR, "single-task": LINEAR}
    text = as_markdown(summary(heads), tiny())
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    head = dict(zip(rows[0], rows[1], strict=True))
    assert head["| head"] == "| quantum"
    assert head["mean over tasks"] == "65.0 ± 21.5"
    assert head["against linear"] == "+8.3 ± 7.2"
    assert "majority or mean | 50.0" in text
    assert "Holm's correction over the 2 heads" in text
    assert "tried the same 4 settings" in text


def test_a_task_name_with_a_pipe_does_not_break_the_table():
    text = as_markdown(summary({"linear": [{"a|b": 0.5}]}), tiny())
    assert "a\\|b (accuracy)" in text


def test_csv_files_hold_every_number():
    some = summary({"quantum": QUANTUM, "linear": LINEAR})
    assert len(summary_csv(some).splitlines()) == 1 + 2
    assert len(metrics_csv(some).splitlines()) == 1 + 2 * 2 * 2
    lines = seeds_csv(some).splitlines()
    assert len(lines) == 1 + 2 * 2 * 2 * 3
    assert lines[1] == "quantum,a,accuracy,0,70.0"


def test_what_a_head_misses_though_the_probe_finds_it_is_said():
    probe = HeadScores("linear-probe", {}, (result(test={"a": 0.4, "b": 0.8}),))
    heads = {"linear": [{"a": 0.4, "b": 0.7}], "quantum": [{"a": 0.6, "b": 0.5}]}
    text = as_markdown(summary(heads, probe=probe), tiny())
    assert "though the linear probe is: `quantum`: b.\n" in text
    good = as_markdown(summary({"linear": [{"a": 0.4, "b": 0.7}]}, probe=probe), tiny())
    assert "Every head is above the constant prediction" in good
    assert "constant prediction" not in as_markdown(summary(heads), tiny())


@pytest.mark.parametrize(
    ("best", "words"), [("true", "weights of the best one by valid"), ("false", "of the last one")]
)
def test_which_epoch_is_kept_is_said(best, words):
    recipe = tiny(f"training.restore_best={best}")
    assert words in as_markdown(summary({"linear": [{"a": 0.5}]}), recipe)


def test_seeds_are_named_by_their_number():
    recipe = tiny("bench.first_seed=7")
    some = replace(summary({"linear": LINEAR}), first_seed=7)
    assert "seeds 7 to 9, at most 1 epochs" in as_markdown(some, recipe)
    rows = seeds_csv(some).splitlines()[1:]
    assert {row.split(",")[3] for row in rows} == {"7", "8", "9"}
