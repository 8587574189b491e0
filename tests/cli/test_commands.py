"""Each command on good input."""

import csv
import io
import json

import numpy as np
import pytest
import torch

import qmtl as package
from qmtl.cli._output import show_metrics
from tests.cli.command import TABLE_RECIPE, settings, write_table

FILES = [
    "checkpoints", "environment.json", "inputs.json", "metrics.csv", "model", "predictions.csv",
    "recipe.toml", "results.json",
]  # fmt: skip


def _table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_version_and_help(qmtl):
    assert qmtl.good("--version") == f"qmtl {package.__version__}\n"
    for command in ((), ("train",), ("evaluate",), ("predict",), ("explain",), ("circuits",)):
        assert "Usage" in qmtl.good(*command, "--help")


def test_train_with_settings_and_a_rival(qmtl, tmp_path):
    words = settings("training.seed=3", "training.aggregator=upgrad", 'head.angle_map="tanh"')
    out = qmtl.good("train", "digits", "--out", "a/b", "--compare", "linear", *words)
    assert out.count("baseline") == 1
    assert all(word in out for word in ("epoch 2/2", "parity", "linear", "run directory: a/b"))
    folder = tmp_path / "a" / "b"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    results = json.loads((folder / "results.json").read_text())
    assert list(results["metrics"]) == ["train", "validation", "test"]
    assert list(results["rivals"]) == ["linear"]
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["seeds"]["training"] == 3
    assert environment["data_notes"] == []
    recipe = package.experiments.read_recipe(folder / "recipe.toml")
    assert recipe.training.aggregator == "upgrad"
    assert recipe.training.seed == 3
    history = _table((folder / "metrics.csv").read_text())
    assert {(row["epoch"], row["split"]) for row in history} == {
        (epoch, split) for epoch in "01" for split in ("train", "validation")
    }


def test_the_default_run_directory(qmtl, tmp_path):
    qmtl.good("train", "digits", *settings("training.max_epochs=1"))
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("digits-")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("training.max_epochs", "7", 7),
        ("training.learning_rate", "1e-3", 1e-3),
        ("training.restore_best", "false", False),
        ("training.schedule", "plateau", "plateau"),
        ("training.schedule", '"plateau"', "plateau"),
        ("training.options", "{c = 0.5}", {"c": 0.5}),
        ("training.options.c", "0.5", {"c": 0.5}),
        ("encoder.hidden", "[4, 5]", [4, 5]),
        ("circuit.wires_per_task", "{digit = 5}", {"digit": 5}),
    ],
)
def test_values_of_set(key, value, expected):
    recipe = package.experiments.read_recipe("digits", [f"{key}={value}"])
    section, name = key.split(".")[:2]
    assert getattr(getattr(recipe, section), name) == expected
    assert package.experiments.recipe_from(_toml(recipe)) == recipe


def _toml(recipe):
    import tomllib

    return tomllib.loads(recipe.as_toml())


def test_evaluate_shows_the_runs_own_metrics(qmtl, finished):
    results = json.loads((finished / "results.json").read_text())
    for split in ("train", "validation", "test"):
        out = qmtl.good("evaluate", finished, "--split", split)
        for values in results["metrics"][split].values():
            for metric, value in values.items():
                assert metric == "loss" or f"{value:.4f}" in out


def test_predict_raw_pixels(qmtl, finished, tmp_path):
    from sklearn.datasets import load_digits

    pixels = load_digits().data[:20]
    header = ",".join(f"pixel_{i}" for i in range(64))
    np.savetxt("raw.csv", pixels, delimiter=",", header=header, comments="", fmt="%g")
    printed = qmtl.good("predict", finished, "raw.csv")
    assert qmtl.good("predict", finished, "raw.csv", "--out", "out.csv") == ""
    assert (tmp_path / "out.csv").read_text() == printed
    rows = _table(printed)
    expected = package.load(finished / "model").predict(torch.tensor(pixels / 16))
    assert [int(row["row"]) for row in rows] == list(range(20))
    for i, row in enumerate(rows):
        digits = torch.tensor([float(row[f"digit:{c}"]) for c in range(10)])
        torch.testing.assert_close(digits, expected["digit"][i], rtol=1e-5, atol=1e-6)
        assert row["digit"] == str(int(digits.argmax()))
        odd = float(row["parity:odd"])
        assert odd == pytest.approx(float(expected["parity"][i]), rel=1e-5)
        assert row["parity"] == ("odd" if odd >= 0.5 else "even")
        assert float(row["ink"]) == pytest.approx(float(expected["ink"][i]), rel=1e-5)


def test_resume_of_a_finished_run_only_shows_it(qmtl, run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    out = qmtl.good("train", "--resume", run)
    assert "run directory" in out
    assert "epoch 1/2" not in out
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_resume_of_a_run_without_results(qmtl, run):
    results = json.loads((run / "results.json").read_text())
    weights = (run / "model" / "model.safetensors").read_bytes()
    (run / "results.json").unlink()
    (run / "model" / "model.safetensors").unlink()
    qmtl.good("train", "--resume", run)
    again = json.loads((run / "results.json").read_text())
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in results.items() if k != "seconds"
    }
    assert (run / "model" / "model.safetensors").read_bytes() == weights


def test_explain(qmtl, finished):
    text = qmtl.good("explain", "digits", "--batch-size", "64")
    assert all(word in text for word in ("12 wires", "12 features", "batch"))
    assert "wires" in qmtl.good("explain", finished)


def test_circuits(qmtl, tmp_path):
    listed = qmtl.good("circuits", "list")
    assert all(name in listed for name in ("cz-ring", "iqp", "shared-register", "hardware-lean"))
    shown = qmtl.good("circuits", "show", "cz-ring", "--task", "a:binary", "--task", "r:regression")
    assert "4 wires" in shown
    assert "light cone of r" in shown
    words = ("cz-ring", "--task", "a:binary", "--task", "m:multilabel:2")
    assert "RY" in qmtl.good("circuits", "export", *words, "--format", "text")
    assert qmtl.good("circuits", "export", *words, "--format", "svg").startswith("<")
    pytest.importorskip("qiskit")
    qasm = qmtl.good("circuits", "export", *words)
    assert qasm.startswith("OPENQASM 3")
    qmtl.good("circuits", "export", *words, "--out", "x.qasm")
    assert (tmp_path / "x.qasm").read_text() == qasm


def test_names_are_no_markup(qmtl, run, capsys):
    names = {"parity": "[/foo]", "digit": "[bold]y", "ink": ":smile:"}
    results = json.loads((run / "results.json").read_text())
    for part in ("metrics", "baselines"):
        for split, tasks in results[part].items():
            results[part][split] = {names[task]: values for task, values in tasks.items()}
    results["rivals"] = {"[/rival]": results["metrics"]}
    (run / "results.json").write_text(json.dumps(results))
    shown = qmtl.good("train", "--resume", run)
    assert all(name in shown for name in (*names.values(), "[/rival]"))
    show_metrics("[/title] of [red]x", results["metrics"]["test"], {})
    assert "[/title] of [red]x" in capsys.readouterr().out


def test_a_huge_register_is_shown_by_its_ends(qmtl):
    shown = qmtl.good("circuits", "show", "cz-ring", "--task", "a:multiclass:100")
    assert "light cone of a: wires [0, 1, 2, 3, 4, 5, 6]" in shown
    shown = qmtl.good("circuits", "show", "cz-ring", "--task", "a:regression:30")
    assert "light cone of a: 60 wires [0, 1, 2, …, 57, 58, 59]" in shown


def test_a_table_from_train_to_predict(qmtl, tmp_path):
    write_table(tmp_path / "shop.csv")
    (tmp_path / "shop.toml").write_text(TABLE_RECIPE)
    out = qmtl.good("train", "shop.toml", "--out", "run")
    assert all(word in out for word in ("sold", "grade", "price", "r2", "macro_f1"))
    assert "price" in qmtl.good("evaluate", "run")
    new = "colour,size,weight,other\nred,4,0.5,x\nviolet,,NA,y\n"
    (tmp_path / "new.csv").write_text(new)
    warned = qmtl("predict", "run", "new.csv")
    assert "warning: new.csv: column 'colour' has 'violet', which the run has not" in warned.err
    rows = _table(warned.out)
    assert len(rows) == 2
    for row in rows:
        assert row["sold"] in ("yes", "no")
        assert row["grade"] in ("low", "mid", "high")
        grades = [float(row[f"grade:{name}"]) for name in ("low", "mid", "high")]
        assert sum(grades) == pytest.approx(1, abs=1e-5)
        assert float(row["price"]) == pytest.approx(11, abs=15)
    held_out = _table((tmp_path / "run" / "predictions.csv").read_text())
    assert {"sold:target", "grade:target", "price:target"} <= set(held_out[0])
    # The table's own rows, read again, give the predictions of the run.
    own = _table(qmtl.good("predict", "run", "shop.csv"))
    for row in held_out:
        assert float(own[int(row["row"])]["price"]) == pytest.approx(float(row["price"]), rel=1e-4)
