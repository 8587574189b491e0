"""qmtl adapt and qmtl merge: a run directory more, which other commands read."""

import json

import pandas as pd
import pytest
import torch

from qmtl.experiments import Run, read_recipe, start_run
from qmtl.model import load
from qmtl.training import evaluate
from tests.cli.command import TINY


@pytest.fixture
def table(tmp_path):
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    frame = pd.DataFrame(pixels[:200], columns=[f"pixel_{i}" for i in range(64)])
    frame["big"] = ["yes" if digit > 6 else "no" for digit in digits[:200]]
    frame.to_csv(tmp_path / "table.csv", index=False)
    return frame


def test_a_task_more(qmtl, finished, table, tmp_path):
    shown = qmtl.good("adapt", finished, "table.csv", "--target", "big=binary", "--out", "more",
                      "--method", "ridge", "--method", "logistic")  # fmt: skip
    assert "big: binary, 200 labels" in shown
    results = json.loads((tmp_path / "more" / "results.json").read_text())
    note = results["adapted"]["big"]
    assert note["method"] in note["losses"]
    assert note["scores"]["accuracy"] > 0.7
    old, new = load(finished / "model"), load(tmp_path / "more" / "model")
    assert [task.name for task in new.tasks] == [*(task.name for task in old.tasks), "big"]
    found = new.predict(table)
    assert all(values.equal(found[name]) for name, values in old.predict(table).items())
    predicted = qmtl.good("predict", "more", "table.csv").splitlines()
    assert "big:yes" in predicted[0]
    qmtl.good("evaluate", "more")
    assert "tasks that are not in the recipe shown here: ['big']" in qmtl("explain", "more").err
    weights = (tmp_path / "more" / "model" / "model.safetensors").read_bytes()
    told = qmtl.bad("train", "--resume", "more", "--set", "training.max_epochs=9")
    assert "it has no checkpoint (as after qmtl adapt or merge)" in told
    assert (tmp_path / "more" / "model" / "model.safetensors").read_bytes() == weights
    qmtl.good("report", "more")
    assert "big" in (tmp_path / "more" / "report.html").read_text()


def test_labels_with_decimal_commas_are_numbers(qmtl, finished, table, tmp_path):
    table["price"] = [f"{300 + i * 7 % 83},5" for i in range(200)]
    table.to_csv(tmp_path / "table.csv", sep=";", index=False)
    words = ("adapt", finished, "table.csv", "--method", "ridge", "--out")
    assert "price: regression, 200 labels" in qmtl.good(*words, "more", "--target", "price")
    mean, _ = load(tmp_path / "more" / "model").target_scale(["price"])
    assert mean.item() == pytest.approx(sum(300.5 + i * 7 % 83 for i in range(200)) / 200)
    table.loc[5, "price"] = "about 20"
    table["seven"] = 7
    table.to_csv(tmp_path / "table.csv", sep=";", index=False)
    told = "table.csv: row 7, column 'price': expected a finite number, got 'about 20'"
    assert told in qmtl.bad(*words, "no", "--target", "price")
    told = "from 1 value (7); say it with --target seven=regression"
    assert told in qmtl.bad(*words, "no", "--target", "seven")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "huge"], "lacks 'huge' of the target"),
        (["--target", "=binary"], "expected NAME or NAME=KIND"),
        (["--target", "big=binry"], "kind of target 'big'"),
        (["--target", "big", "--method", "rigde"], "did you mean 'ridge'"),
    ],
)
def test_what_does_not_fit_is_one_line(qmtl, finished, table, arguments, words):
    assert words in qmtl.bad("adapt", finished, "table.csv", *arguments, "--out", "more")


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("parity", "has_loop"):
        recipe = read_recipe("digits", [*TINY, f'data.tasks=["{name}"]'])
        start_run(recipe, folder / name, progress=False)
    return [folder / "parity", folder / "has_loop"]


@pytest.mark.parametrize("method", ["arithmetic", "atm"])
def test_two_runs_in_one(qmtl, two_runs, tmp_path, method):
    shown = qmtl.good("merge", *two_runs, "--out", "both", "--method", method, "--rounds", 1)
    assert "before merging" in shown
    merged = load(tmp_path / "both" / "model")
    assert [task.name for task in merged.tasks] == ["parity", "has_loop"]
    results = json.loads((tmp_path / "both" / "results.json").read_text())
    assert results["merged"]["method"] == method
    assert list(results["metrics"]["test"]) == ["parity", "has_loop"]
    qmtl.good("report", "both")
    qmtl.good("evaluate", "both")


def test_last_layers_and_encodings_stay_each_runs_own(qmtl, two_runs, tmp_path):
    for flags, folder in (([], "merged"), (["--keep-last"], "kept")):
        qmtl.good("merge", *two_runs, "--out", folder, *flags)
    both = torch.cat([load(run / "model").head.encoding for run in two_runs])
    found = {name: load(tmp_path / name / "model") for name in ("merged", "kept")}
    assert found["kept"].head.encoding.equal(both)
    assert not found["merged"].head.encoding.equal(both)
    last = [load(run / "model").encoder.layers[-1].weight for run in two_runs]
    assert found["kept"].encoder.layers[-1].weight.equal(torch.cat(last))
    # Runs of the same task have one last layer.
    message = qmtl.bad("merge", two_runs[0], two_runs[0], "--keep-last", "--out", "twice")
    assert "keep_last=True is for models of different tasks" in message


def test_runs_of_one_task_have_metrics_of_their_own(qmtl, two_runs, tmp_path):
    recipe = read_recipe("digits", [*TINY, 'data.tasks=["parity"]', "data.seed=7"])
    start_run(recipe, tmp_path / "other", progress=False)
    shown = qmtl.good("merge", two_runs[0], tmp_path / "other", "--out", "both")
    runs = [Run.read(two_runs[0]), Run.read(tmp_path / "other")]
    merged, tables = load(tmp_path / "both" / "model"), shown.split("other: test")
    found = [evaluate(merged, run.load_data().test)["parity"]["accuracy"] for run in runs]
    assert found[0] != found[1]
    for value, table in zip(found, tables, strict=True):
        assert f"{value:.4f}" in table
    results = json.loads((tmp_path / "both" / "results.json").read_text())
    assert results["metrics"]["test"]["parity"]["accuracy"] == pytest.approx(found[0])
    assert results["baselines"] == runs[0].results["baselines"]


def test_runs_that_do_not_fit_are_one_line(qmtl, two_runs, finished):
    message = qmtl.bad("merge", two_runs[0], finished, "--out", "both")
    assert "model 1 2, model 2 8" in message
    assert "did you mean 'atm'" in qmtl.bad("merge", *two_runs, "--method", "amt")
