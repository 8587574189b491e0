"""Each command on good input."""

import csv
import io
import json
import os
import re
import shutil
import socket
import sys
import time
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch

import qmtl as package
from qmtl._io import process_start
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
        (epoch, split) for epoch in "12" for split in ("train", "validation")
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


def test_evaluate_under_an_attack(qmtl, finished):
    attack = package.methods.Attack(attack="fgsm", epsilon=0.1, low=0, high=1)
    data = package.data.digits(tasks=["parity", "digit", "ink"], splits=(0.2, 0.1, 0.7))
    model = package.load(finished / "model")
    robust = package.training.evaluate(model, data.test, attack=attack)
    words = ("--attack", "fgsm", "--epsilon", "0.1", "--low", "0", "--high", "1")
    out = qmtl.good("evaluate", finished, *words)
    (line,) = [line for line in out.splitlines() if "parity" in line and "accuracy" in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    clean = package.training.evaluate(model, data.test)["parity"]["accuracy"]
    assert cells[2:4] == [f"{clean:.4f}", f"{robust['parity']['accuracy']:.4f}"]
    assert robust["parity"]["accuracy"] < clean
    assert "fgsm 0.1" in out


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


@pytest.mark.parametrize(
    ("head", "trained", "cz", "warned"),
    [
        ("quantum", 57, 32, ""),
        ("quantum-no-entangler", 57, 0, ""),
        ("hyper", 204, 32, ""),
        ("linear", 182, 32, "warning: the recipe has a head 'linear'"),
    ],
)
def test_explain_shows_the_head_of_the_recipe(qmtl, head, trained, cz, warned):
    answer = qmtl("explain", "digits", "--set", f"head.type={head}")
    assert answer.code == 0
    assert f"the head '{head}' trains {trained} parameters\n" in answer.out
    assert f" {cz} two-qubit gates" in answer.out
    assert answer.err.startswith(warned)
    assert bool(answer.err) == bool(warned)


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


def test_why_an_epoch_was_kept_is_said(qmtl, run):
    assert ", the best by validation_loss\n" in qmtl.good("train", "--resume", run)
    recipe = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(recipe.replace("restore_best = true", "restore_best = false"))
    assert ", the last\n" in qmtl.good("train", "--resume", run)


def test_a_pipe_gets_long_names_whole(capsys):
    name, head = "price_of_the_house_before_tax_v2", "a-head-with-a-long-name"
    metrics = {name: {"accuracy": 0.5}}
    show_metrics("t", metrics, {f"{head}-{i}": metrics for i in range(4)})
    shown = capsys.readouterr().out
    assert name in shown
    assert all(f"{head}-{i}" in shown for i in range(4))


def test_a_huge_register_is_shown_by_its_ends(qmtl):
    shown = qmtl.good("circuits", "show", "cz-ring", "--task", "a:multiclass:100")
    assert "light cone of a: wires [0, 1, 2, 3, 4, 5, 6]" in shown
    shown = qmtl.good("circuits", "show", "cz-ring", "--task", "a:regression:30")
    assert "light cone of a: 60 wires [0, 1, 2, …, 57, 58, 59]" in shown


@pytest.mark.filterwarnings("default::UserWarning")
def test_a_column_that_is_left_out_is_named_in_one_line(qmtl, tmp_path):
    table = write_table(tmp_path / "shop.csv").read_text().splitlines()
    mails = ["mail", *(f"someone{i}@example.org" for i in range(len(table) - 1))]
    lines = [f"{line},{mail}" for line, mail in zip(table, mails, strict=True)]
    (tmp_path / "shop.csv").write_text("\n".join(lines))
    (tmp_path / "shop.toml").write_text(TABLE_RECIPE)
    warned = qmtl("train", "shop.toml", "--out", "run")
    said = [line for line in warned.err.splitlines() if "left out" in line]
    assert said == [
        "warning: columns left out of the inputs: 'mail' holds e-mail addresses; list columns in "
        "inputs or ignore"
    ]
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(b"example.org" in path.read_bytes() for path in files)
    assert b"e-mail addresses" in (tmp_path / "run" / "environment.json").read_bytes()


def test_a_table_from_train_to_predict(qmtl, tmp_path):
    write_table(tmp_path / "shop.csv")
    (tmp_path / "shop.toml").write_text(TABLE_RECIPE)
    out = qmtl.good("train", "shop.toml", "--out", "run")
    assert all(word in out for word in ("sold", "grade", "price", "r2", "macro_f1"))
    assert "price" in qmtl.good("evaluate", "run")
    qmtl.good("report", "run")
    assert "csv: shop.csv" in (tmp_path / "run" / "report.html").read_text()
    new = "colour,size,weight,other\nred,4,0.5,x\nviolet,,NA,y\n"
    (tmp_path / "new.csv").write_text(new)
    warned = qmtl("predict", "run", "new.csv")
    assert "warning: new.csv: column 'colour' has 'violet', which training" in warned.err
    (tmp_path / "bad.csv").write_text("colour,size,weight\nred,four,1\n")
    assert "bad.csv: row 2, column 'size': expected a finite" in qmtl.bad(
        "predict", "run", "bad.csv"
    )
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
    _check_evaluation_of_a_table(qmtl, tmp_path, [int(row["row"]) for row in held_out])


def _check_evaluation_of_a_table(qmtl, folder, held_out):
    """The run's test rows in a file of another convention get the scores of the test split."""
    header, *lines = (folder / "shop.csv").read_text().splitlines()
    rows = [header, *(lines[i] for i in held_out)]
    (folder / "test.csv").write_text("\n".join(rows).replace(",", ";").replace(".", ","))
    shown = [line for line in qmtl.good("evaluate", "run", "test.csv").splitlines() if "│" in line]
    assert len(shown) == 7  # metrics of three tasks
    for line in shown:
        _, _, found, expected = (cell.strip() for cell in line.strip("│").split("│"))
        assert found == expected
    (folder / "one.csv").write_text("\n".join(row.rpartition(",")[0] for row in rows))
    answer = qmtl("evaluate", "run", "one.csv")
    assert "grade" in answer.out
    assert "price" not in answer.out
    assert answer.err == "warning: one.csv: the header lacks the targets 'price'\n"
    (folder / "no.csv").write_text("\n".join(row.rsplit(",", 3)[0] for row in rows))
    assert "none of the targets 'sold', 'grade', 'price'" in qmtl.bad("evaluate", "run", "no.csv")
    (folder / "bad.csv").write_text("\n".join(rows).replace("yes", "oui"))
    assert "bad.csv: labels of binary task 'sold'" in qmtl.bad("evaluate", "run", "bad.csv")
    assert "--split" in qmtl.bad("evaluate", "run", "test.csv", "--split", "test")
    assert "--delimiter" in qmtl.bad("evaluate", "run", "--delimiter", ";")
    assert "--decimal needs a table" in qmtl.bad("evaluate", "run", "--decimal", ",")


def test_rows_of_another_table_count_by_the_runs_weights(qmtl, tmp_path):
    """A row of weight 2 counts like two rows, one of weight 0 like none, in `adapt` too."""
    i = np.arange(60)
    table = pd.DataFrame({"x": i % 9, "w": (i + 1) % 4, "amount": i * i % 7})
    table["more"] = i % 4 * 1.37 + i % 12 / 8
    # Cells that are no numbers, in a row of weight 0.
    unread = table.w.eq(0) & (i > 40)
    table = table.astype(dict.fromkeys(("x", "amount", "more"), object))
    table.loc[unread.idxmax(), ["x", "amount", "more"]] = "unknown"
    table.to_csv("a.csv", index=False)
    table.loc[np.repeat(i, table.w)].drop(columns="w").to_csv("again.csv", index=False)
    (tmp_path / "a.toml").write_text(
        '[data]\nsource = "csv"\npath = "a.csv"\nweights = "w"\ninputs = ["x"]\n'
        'targets = { amount = "regression" }\n[encoder]\nhidden = [4]\n[training]\nmax_epochs = 1\n'
    )
    qmtl.good("train", "a.toml", "--out", "run")
    weighted, repeated = qmtl.good("evaluate", "run", "a.csv"), qmtl("evaluate", "run", "again.csv")
    assert "a.csv, 45 rows" in weighted
    assert "lacks the run's weights 'w': rows count equally" in repeated.err
    assert weighted.splitlines()[1:] == repeated.out.splitlines()[1:]
    means = []
    for name in ("a", "again"):
        words = ("adapt", "run", f"{name}.csv", "--target", "more", "--method", "ridge")
        assert qmtl(*words, "--out", name).code == 0
        means.append(package.load(tmp_path / name / "model").target_scale(["more"])[0].item())
    assert means[0] == pytest.approx(means[1])
    # A comma may separate decimals or thousands; the option says which.
    text = "\n".join(["x;w;amount", *(f"{i};1;{i},{i}25" for i in range(1, 9))])
    for name, mark in (("b", ","), ("c", "."), ("d", "")):
        (tmp_path / f"{name}.csv").write_text(text.replace(",", mark))
    for decimal, same in ((",", "c.csv"), (".", "d.csv")):
        expected = qmtl.good("evaluate", "run", same, "--decimal", ".").splitlines()
        found = qmtl.good("evaluate", "run", "b.csv", "--decimal", decimal).splitlines()
        assert found[1:] == expected[1:]


def test_labels_of_another_table_are_read_as_in_training(qmtl, tmp_path):
    """Durations, classes that are numbers with a comma, and the recipe's missing values."""
    lines = ["x;dur;step;mood"]
    for i in range(40):
        cells = (f"{i % 9},5", f"{i % 3} days 0{i % 9}:30:00", ("0,5", "1,0", "1,5")[i % 3])
        lines.append(";".join([*cells, "n.b." if i % 7 == 0 else ("good", "bad")[i % 2]]))
    (tmp_path / "a.csv").write_text("\n".join(lines))
    (tmp_path / "a.toml").write_text(
        '[data]\nsource = "csv"\npath = "a.csv"\nna_values = ["n.b."]\nignore = ["mood"]\n'
        'targets = { dur = "regression", step = "multiclass" }\n'
        "[encoder]\nhidden = [4]\n[training]\nmax_epochs = 1\n"
    )
    qmtl.good("train", "a.toml", "--out", "run")
    assert "a.csv, 40 rows" in qmtl.good("evaluate", "run", "a.csv")
    (tmp_path / "wrong.csv").write_text("\n".join(lines).replace("1,5", "2,5"))
    wrong = qmtl.bad("evaluate", "run", "wrong.csv")
    assert "'step': row 4 has" in wrong
    assert "allowed are '0.5', '1', '1.5'" in wrong
    out = qmtl.good("adapt", "run", "a.csv", "--target", "mood", "--out", "more")
    assert "mood: binary, 34 labels" in out


@pytest.mark.filterwarnings("ignore:columns left out")
def test_a_table_that_changed_after_training_is_refused(qmtl, tmp_path):
    table = write_table(tmp_path / "shop.csv")
    (tmp_path / "shop.toml").write_text(TABLE_RECIPE)
    qmtl.good("train", "shop.toml", "--out", "run", "--set", "training.max_epochs=1")
    more = ("train", "--resume", "run", "--set", "training.max_epochs=2")
    lines = table.read_text().splitlines()
    place = lines[0].split(",").index("size")
    larger = [line.split(",") for line in lines[1:]]
    for cells in larger:
        cells[place] = str(float(cells[place] or 1) * 10)
    shuffled, scaled = [lines[0], *lines[:0:-1]], [lines[0], *map(",".join, larger)]
    relabelled = [
        line.replace("yes", "?").replace("no", "yes").replace("?", "no") for line in lines
    ]
    for changed in (lines[:40], shuffled, scaled, relabelled):
        table.write_text("\n".join(changed))
        for words in (("evaluate", "run"), more):
            assert "run run have changed since it was trained: then" in qmtl.bad(*words)
    # An older version took a column for an input that this one leaves out.
    table.write_text("\n".join([f"{lines[0]},id", *(f"{c},{i}" for i, c in enumerate(lines[1:]))]))
    qmtl.good("train", "shop.toml", "--out", "old", "--set", 'data.inputs=["size","id"]')
    recipe = tmp_path / "old" / "recipe.toml"
    chosen = re.search(r"^inputs = \[.*?\]\n", recipe.read_text(), re.DOTALL | re.MULTILINE)[0]
    recipe.write_text(recipe.read_text().replace(chosen, ""))
    more_of_old = ("train", "--resume", "old", "--set", "training.max_epochs=4")
    hint = re.search(r"then, write (.*) under \[data\] in old/recipe.toml$", qmtl.bad(*more_of_old))
    recipe.write_text(recipe.read_text().replace("[data]", f"[data]\n{hint[1]}"))
    assert "4 epochs" in qmtl.good(*more_of_old)
    # Other marks and quotes are no change.
    table.write_text("\n".join(lines).replace(",", ";"))
    qmtl.good("evaluate", "run")
    assert "2 epochs" in qmtl.good(*more)


def test_predict_reads_marks_and_letters_as_in_training(qmtl, tmp_path):
    text = "größe;ort;preis\n" + "".join(
        f"{1 + i % 9}.{100 + i},5;{'Łódź' if i % 2 else 'Köln'};{i / 4:.2f}\n" for i in range(60)
    )
    (tmp_path / "a.csv").write_bytes(text.encode("cp1250"))
    (tmp_path / "a.toml").write_text(
        '[data]\nsource = "csv"\npath = "a.csv"\nencoding = "cp1250"\n'
        'targets = { preis = "regression" }\n[training]\nmax_epochs = 1\n'
    )
    qmtl.good("train", "a.toml", "--out", "run")
    # Nothing in this file says that 1.234 is more than a thousand, or what its letters are.
    (tmp_path / "b.csv").write_bytes("größe;ort\n1.234;Łódź\n".encode("cp1250"))
    answer = qmtl("predict", "run", "b.csv")
    assert answer.err == ""
    (tmp_path / "c.csv").write_text("größe,ort\n1234.0,Łódź\n", encoding="utf-8")
    assert _table(answer.out) == _table(qmtl.good("predict", "run", "c.csv"))
    frame = package.load(tmp_path / "run" / "model").predict(
        pd.DataFrame({"größe": ["1.234"], "ort": ["Łódź"]})
    )
    assert frame["preis"].item() == pytest.approx(float(_table(answer.out)[0]["preis"]), abs=1e-5)
    # A file of another convention can say so.
    (tmp_path / "d.csv").write_text("größe;ort\n1,234;Łódź\n", encoding="utf-8")
    (tmp_path / "e.csv").write_text("größe,ort\n1.234,Łódź\n", encoding="utf-8")
    for decimal, same in ((".", "c.csv"), (",", "e.csv")):
        expected = qmtl.good("predict", "run", same, "--decimal", ".")
        assert qmtl.good("predict", "run", "d.csv", "--decimal", decimal) == expected
    assert "decimal: expected '.' or ','" in qmtl.bad("predict", "run", "d.csv", "--decimal", ";")


def test_truth_values_with_a_blank_in_a_new_table(qmtl, tmp_path):
    rows = [f"{i / 7:.2f},{i % 3 == 0},{i % 2}" for i in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(["size,flag,y", *rows]))
    (tmp_path / "a.toml").write_text(
        '[data]\nsource = "csv"\npath = "a.csv"\ntargets = ["y"]\nna_values = ["none", -9]\n'
        "[training]\nmax_epochs = 1\n"
    )
    qmtl.good("train", "a.toml", "--out", "run")
    (tmp_path / "b.csv").write_text("size,flag\n1,True\n2,FALSE\n3,none\n")
    answers = _table(qmtl.good("predict", "run", "b.csv"))
    (tmp_path / "c.csv").write_text("size,flag\n1,1\n2,0\n3,\n")
    assert answers == _table(qmtl.good("predict", "run", "c.csv"))
    (tmp_path / "d.csv").write_text("size,flag\n1,True\n2,perhaps\n")
    assert "d.csv: row 3, column 'flag': expected a finite number, got 'perhaps'" in qmtl.bad(
        "predict", "run", "d.csv"
    )


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("Size,colour,weight", "lacks 'size' of the columns that the run's model needs; is it "
         "'Size' for 'size'? it has 'Size', 'colour', 'weight'"),
        ("size,color,wieght", "is it 'wieght' for 'weight', 'color' for 'colour'? it has"),
        ("size,x,weight", "needs; it has 'size', 'x', 'weight'"),
        # A column that the model has already is not meant by another name.
        ("weight,colour,y", "lacks 'size' of the columns that the run's model needs; it has"),
    ],
)  # fmt: skip
def test_a_column_by_nearly_its_name_is_suggested(qmtl, tmp_path, header, told):
    write_table(tmp_path / "shop.csv")
    (tmp_path / "shop.toml").write_text(TABLE_RECIPE)
    qmtl.good("train", "shop.toml", "--out", "run", "--set", "training.max_epochs=1")
    (tmp_path / "new.csv").write_text(f"{header}\n1,2,3\n")
    assert told in qmtl.bad("predict", "run", "new.csv")


@pytest.mark.parametrize("name", ["wines.csv", "my wines.TSV", "none.csv"])
def test_a_table_in_place_of_a_recipe(qmtl, tmp_path, name):
    if name != "none.csv":
        write_table(tmp_path / name)
    told = qmtl.bad("train", name)
    quoted = f"'{name}'" if " " in name else name
    assert f"{name} looks like a table, not a recipe; write a recipe for it" in told
    assert told.endswith(f"with: qmtl init {quoted}\n")


@pytest.mark.filterwarnings("default")
def test_runs_say_how_many_tasks_have_a_score(qmtl, tmp_path):
    write_table(tmp_path / "shop.csv")
    text = (tmp_path / "shop.csv").read_text().splitlines()
    rows = [text[0] + ",flat,part", *(f"{line},5,{i}.5" for i, line in enumerate(text[1:]))]
    (tmp_path / "shop.csv").write_text("\n".join(rows) + "\n")
    targets = 'flat = "regression", part = "regression", sold = "binary" }'
    (tmp_path / "shop.toml").write_text(
        re.sub("sold = .* }", targets, TABLE_RECIPE).replace("= 3", "= 1")
    )
    trained = qmtl("train", "shop.toml", "--out", "runs/one")
    assert "warning: target 'flat' is 5 in every labelled row" in trained.err
    assert trained.err.count("is 5 in every labelled row") == 1
    metrics = json.loads((tmp_path / "runs/one/results.json").read_text())["metrics"]["test"]
    assert metrics["flat"]["r2"] is None
    mains = [next(v for k, v in metrics[t].items() if k != "loss") for t in ("part", "sold")]
    (line,) = _lines(qmtl.good("runs", tmp_path / "runs"))
    assert line.rstrip().endswith("mean of main metrics, 2 of 3 tasks")
    assert f" {sum(mains) / 2:.4f} " in line
    results = json.loads((tmp_path / "runs/one/results.json").read_text())
    results["metrics"]["test"]["part"] = {"loss": 1.0, "mse": 1234.5, "r2": mains[0]}
    (tmp_path / "runs/one/results.json").write_text(json.dumps(results))
    (line,) = _lines(qmtl.good("runs", tmp_path / "runs"))
    assert line.rstrip().endswith("mean of main metrics, 1 of 3 tasks"), "an error is no score"
    assert f" {mains[1]:.4f} " in line
    (tmp_path / "one.toml").write_text(
        re.sub("sold = .* }", 'flat = "binary" }', TABLE_RECIPE), encoding="utf-8"
    )
    assert "column 'flat' as binary: expected 2 classes, got 1 (5)" in qmtl.bad("train", "one.toml")


def test_recipes_are_listed_and_shown(qmtl, tmp_path):
    listed = qmtl.good("recipes")
    assert all(name in listed for name in package.experiments.built_in_recipes())
    assert "qmtl train digits" in listed
    (tmp_path / "mine.toml").write_text(qmtl.good("recipes", "digits"), encoding="utf-8")
    read = package.experiments.read_recipe
    assert read("mine.toml") == read("digits")
    assert "did you mean 'digits'" in qmtl.bad("recipes", "digit")


def test_a_narrow_terminal_cuts_no_text_off(qmtl, run, monkeypatch):
    wide = qmtl.good("runs", run)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    narrow = re.sub(r"\x1b\[[\d;]*m", "", qmtl.good("runs", run))
    assert max(map(len, narrow.splitlines())) <= 40
    assert sorted("".join(narrow.split())) == sorted("".join(wide.split()))
    assert re.search(r"^state +finished +$", narrow, re.MULTILINE)
    metrics = re.sub(r"\x1b\[[\d;]*m", "", qmtl.good("evaluate", run))
    assert max(map(len, metrics.splitlines()[1:])) <= 40
    assert re.search(r"│parity *│accuracy *│", metrics)


def test_a_resumed_run_counts_the_time_of_all_sessions(qmtl, run, monkeypatch):
    def seconds():
        return json.loads((run / "results.json").read_text())["seconds"]

    first = seconds()
    clock = time.perf_counter
    # A slower clock makes sessions long, so that the sum cannot be mistaken for one of them.
    monkeypatch.setattr(time, "perf_counter", lambda: 100_000 * clock())
    qmtl.good("train", "--resume", run, "--set", "training.max_epochs=3")
    second = seconds()
    assert second > 20 * first
    monkeypatch.undo()
    out = qmtl.good("train", "--resume", run, "--set", "training.max_epochs=4")
    third = seconds()
    # What follows the last checkpoint of a session is not in it: up to a quarter here.
    assert third > 0.5 * second
    assert f"4 epochs in {third:.1f} s" in out
    (run / "results.json").unlink()  # killed before it wrote them
    qmtl.good("train", "--resume", run)
    assert 0.5 * second < seconds() < third + 5


@pytest.mark.filterwarnings("default")
def test_a_resume_below_what_is_trained_says_so(qmtl, run):
    lower = ("train", "--resume", run, "--set", "training.max_epochs=1")
    told = f"the run {run} has trained 2 epochs already, and max_epochs is 1; nothing was trained"
    assert qmtl.good(*lower).splitlines()[0] == told
    finished = f"the run {run} had finished already; nothing was trained"
    assert qmtl.good("train", "--resume", run).splitlines()[0] == finished
    (run / "results.json").unlink()
    answer = qmtl(*lower)
    assert "has trained 2 epochs already, more than max_epochs = 1: nothing is tr" in answer.err
    assert answer.err.count("\n") == 1
    assert "2 epochs in" in answer.out


def test_runs_are_listed_with_their_state(qmtl, run, tmp_path):
    folder = tmp_path / "some"
    for name in (
        "finished",
        "killed",
        "running",
        "elsewhere",
        "damaged",
        "no recipe",
        "odd results",
    ):
        shutil.copytree(run, folder / name)
    began = process_start(os.getpid())
    notes = {
        "killed": {"host": socket.gethostname(), "pid": os.getpid(), "started": began - 100},
        "running": {"host": socket.gethostname(), "pid": os.getpid(), "started": began},
        "elsewhere": {"host": "node-7", "pid": 12, "started": began},
    }
    for name, note in notes.items():
        (folder / name / "results.json").unlink()
        (folder / name / "process.json").write_text(json.dumps(note), encoding="utf-8")
    (folder / "damaged" / "results.json").write_text("{")
    (folder / "odd results" / "results.json").write_text('{"metrics": []}')
    (folder / "no recipe" / "recipe.toml").write_text("[")
    (folder / "empty").mkdir()
    lines = {line.split()[0].split("/")[-1]: line for line in _lines(qmtl.good("runs", folder))}
    results = json.loads((run / "results.json").read_text())
    mains = [
        next(value for name, value in values.items() if name != "loss")
        for values in results["metrics"]["test"].values()
    ]
    assert {"finished", "digits", "quantum", "3"} <= set(lines["finished"].split())
    assert f"{sum(mains) / 3:.4f}" in lines["finished"]
    assert {"stopped", "2", "--resume"} <= set(lines["killed"].split())
    assert {"running", str(os.getpid())} <= set(lines["running"].split())
    assert {"running", "12", "node-7"} <= set(lines["elsewhere"].split())
    recipe = (folder / "elsewhere" / "recipe.toml").read_text()
    longer = ["--set", "training.max_epochs=99"]
    for more in ([], longer):
        refused = qmtl.bad("train", "--resume", folder / "elsewhere", *more)
        assert "is being trained by process 12 on node-7" in refused
    assert (folder / "elsewhere" / "recipe.toml").read_text() == recipe
    assert "damaged" in lines["damaged"]
    assert "empty" not in lines
    own = qmtl.good("runs", run)
    assert "finished" in own
    assert "there is no folder nowhere" in qmtl.bad("runs", "nowhere")


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("/")]


def test_one_seed_for_all_that_is_random(qmtl, tmp_path):
    words = settings("training.max_epochs=1", "head.seed=5")
    qmtl.good("train", "digits", "--seed", "7", "--out", "run", *words)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["seeds"] == {"split": 7, "encoder": 7, "head": 5, "training": 7}
    assert "--resume takes its recipe" in qmtl.bad("train", "--resume", "run", "--seed", "1")


def test_the_home_folder(qmtl, run, monkeypatch, tmp_path):
    """A shell expands ~ in a word of its own only, not in --out=~/x."""
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(run, tmp_path / "runs" / "one")
    assert "parity" in qmtl.good("evaluate", "~/runs/one")
    qmtl.good("circuits", "export", "cz-ring", "--format", "svg", "--out=~/x.svg")
    assert (tmp_path / "x.svg").is_file()
    (tmp_path / "mine.toml").write_text((run / "recipe.toml").read_text())
    assert "wires" in qmtl.good("explain", "~/mine.toml")
    design = package.circuit.to_toml(package.circuit.load_design("iqp"))
    (tmp_path / "own.toml").write_text(design)
    assert "ZZ(x[0]·x[1])" in qmtl.good("circuits", "show", "~/own.toml")


@pytest.mark.parametrize("delimiter", [r"\t", "\t", "tab"])
def test_a_tab_between_cells(qmtl, finished, tmp_path, delimiter):
    header = "\t".join(f"pixel_{i}" for i in range(64))
    (tmp_path / "raw.tsv").write_text(header + "\n" + "\t".join(["3"] * 64) + "\n")
    rows = _table(qmtl.good("predict", finished, "raw.tsv", "--delimiter", delimiter))
    assert len(rows) == 1
    assert "expected one character" in qmtl.bad("predict", finished, "x", "--delimiter", "ab")


ENCODINGS = ("ascii", "cp1252", "latin-1", "cp437", "koi8-r", "utf-8")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_output_in_any_encoding(qmtl, run, encoding, monkeypatch):
    """What an encoding lacks is written as something plain of the same width."""
    # As a redirected standard output comes, which refuses what it cannot encode.
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    for words in (["show", "cz-ring"], ["export", "cz-ring", "--format", "svg"]):
        assert qmtl("circuits", *words).code == 0
    assert qmtl("--help").code == 0
    (run / "results.json").write_text((run / "results.json").read_text().replace("ink", "墨"))
    assert qmtl("train", "--resume", run).code == 0
    stream.flush()
    text = stream.buffer.getvalue().decode(encoding)
    drawn = text.splitlines()[:2]
    assert len({len(line) for line in drawn}) == 1
    if encoding in ("ascii", "latin-1"):
        assert drawn[0].endswith("-<Z>")
    assert ("墨" if encoding == "utf-8" else r"\u58a8") in text
    svg = text[text.index("<svg") : text.index("</svg>") + 6]
    assert "⟨Z⟩" in "".join(ElementTree.fromstring(svg).itertext())


def test_a_resumed_run_takes_more_epochs(qmtl, run):
    out = qmtl.good("train", "--resume", run, "--set", "training.max_epochs=3")
    assert "epoch 3/3" in out
    assert "nothing was trained" in qmtl.good("train", "--resume", run)


def test_export_of_a_trained_head(qmtl, run, tmp_path):
    pytest.importorskip("qiskit")
    model = package.load(run / "model")
    qasm = qmtl.good("export", run)
    assert qasm == model.head.to_qasm()
    assert qasm.startswith("OPENQASM 3")
    assert "input float[64] x_0;" in qasm
    assert "w_" not in qasm
    weight = model.head.weights()["parity"][0].item()
    assert f"{weight:.6g}"[:6] in qasm
    qmtl.good("export", run, "--task", "ink", "--symbolic", "--out", "ink.qasm")
    text = (tmp_path / "ink.qasm").read_text()
    assert "w_ink_0" in text
    assert "bit[2] parity" not in text
    assert "did you mean 'parity'" in qmtl.bad("export", run, "--task", "partiy")
    qmtl.good("export", run, "--onnx", "model.pt2")
    rows = torch.rand(2, 64)
    found = torch.export.load("model.pt2").module()(rows)["parity"]
    torch.testing.assert_close(found, model.predict(rows)["parity"])
    assert "--onnx cannot be" in qmtl.bad("export", run, "--onnx", "x.onnx", "--task", "ink")
    assert "'x.onx'" in qmtl.bad("export", run, "--onnx", "x.onx")


def test_export_of_heads_with_a_circuit_per_task_and_of_others(qmtl, tmp_path):
    pytest.importorskip("qiskit")
    tasks = [package.Task.binary("a/b"), package.Task.multiclass("c", 3)]
    circuit = package.HeadCircuit(tasks, layout="shared")
    for name, head in (
        ("quantum", package.QuantumHead(circuit, seed=0)),
        ("linear", package.LinearHead(tasks, circuit.n_features)),
    ):
        encoder = package.encoders.Identity(circuit.n_features)
        (tmp_path / name).mkdir()
        package.MultiTaskModel(encoder, head).save(tmp_path / name / "model")
    assert "give --out FOLDER, or one --task of a/b, c" in qmtl.bad("export", "quantum")
    qmtl.good("export", "quantum", "--out", "all")
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["0-a_b.qasm", "1-c.qasm"]
    assert qmtl.good("export", "quantum", "--task", "c") == (tmp_path / "all/1-c.qasm").read_text()
    assert "is a LinearHead" in qmtl.bad("export", "linear")


def test_a_recipe_for_a_table_of_ones_own(qmtl, tmp_path):
    write_table(tmp_path / "my shop.csv")
    qmtl.good("init", "my shop.csv")
    text = (tmp_path / "my shop.toml").read_text()
    assert '[data.targets]\nprice = "regression"\n' in text
    assert '# grade = "multiclass"  # 3 classes: high, low, mid' in text
    assert "#   numbers: size, weight\n#   categories: colour (3)" in text
    assert "qmtl train 'my shop.toml'" in text
    # What is a comment is the default: without them the recipe is the same.
    keys = [line[2:] for line in text.splitlines() if line.startswith("# ") and " = " in line]
    read = package.experiments.read_recipe
    own = [key for key in keys if key.startswith("seed = ")]
    assert len(own) == 2
    plain = read("my shop.toml")
    assert plain == read("my shop.toml", [f"training.{key}" for key in own[1:]])
    assert "my shop.toml exists already" in qmtl.bad("init", "my shop.csv")
    words = ("--target", "sold", "--target", "grade=multiclass", "--out", "two.toml")
    qmtl.good("init", "my shop.csv", *words)
    targets = read("two.toml").data.targets
    assert targets == {"sold": "binary", "grade": "multiclass"}
    out = qmtl.good("train", "two.toml", "--set", "training.max_epochs=1", "--out", "run")
    assert "sold" in out
    assert "grade" in out


@pytest.mark.parametrize(
    ("header", "row", "kinds"),
    [
        ("size;rooms;price", lambda i: f"{50 + i * 7 % 83},{i % 10};{i % 5 + 1};{300 + i},5",
         {"price": "regression", "size": "regression"}),
        ("size;rooms;price", lambda i: f"{50 + i},{i % 10};{i % 5};1.{300 + i},25",
         {"price": "regression", "size": "regression", "rooms": "multiclass"}),
        ("size\tprice", lambda i: f"{50 + i}\t1'{300 + i}.5", {"price": "regression"}),
        ("sold;price", lambda i: f"{'ja' if i % 2 else 'nein'};{i % 2},0",
         {"price": "binary", "sold": "binary"}),
    ],
)  # fmt: skip
def test_a_recipe_has_the_kinds_that_training_reads(qmtl, tmp_path, header, row, kinds):
    n = 120
    (tmp_path / "a.csv").write_text("\n".join([header, *map(row, range(n))]) + "\n")
    qmtl.good("init", "a.csv")
    target, *others = kinds
    text = (tmp_path / "a.toml").read_text()
    assert f'[data.targets]\n{target} = "{kinds[target]}"' in text
    shown = {line[2:].split(" = ")[0]: line.split('"')[1] for line in text.splitlines()
             if line.startswith("# ") and '= "' in line.split("#")[1] and line[2:].split(" ")[0]
             in header and " # or " not in line}  # fmt: skip
    if "rooms" not in kinds:
        assert ('\n# rooms = "regression"  # or multiclass\n' in text) == ("rooms" in header)
    assert shown == {name: kinds[name] for name in others}
    for name, kind in kinds.items():
        read = package.data.from_csv("a.csv", targets=[name])
        qmtl.good("init", "a.csv", "--target", name, "--out", f"{name}.toml")
        recipe = package.experiments.read_recipe(f"{name}.toml")
        assert recipe.data.targets == {name: kind}
        assert recipe.data.load().task(name) == read.task(name)


@pytest.mark.parametrize(
    ("cell", "target", "message"),
    [
        ("about 20", [], "row 7, column 'price': expected a finite number, got 'about 20'"),
        ("about 20", ["price"],
         "slip.csv: row 7, column 'price': expected a finite number, got 'about 20'"),
        ("about 20", ["price=regression"],
         "slip.csv: row 7, column 'price': expected a finite number, got 'about 20'"),
        ("inf", ["price"], "slip.csv: row 7, column 'price': expected a finite number, got 'inf'"),
        ("300,5", ["seven"], "from 1 value (7); say it with --target seven=regression"),
        ("300,5", ["two words"], "; say it with --target 'two words=regression' or --target"),
        ("300,5", ["one"], "labels of 'one': only one class, '1'"),
        ("300,5", ["yes=binary"], "column 'yes' as binary: expected 2 classes, got 1 (yes)"),
    ],
)  # fmt: skip
def test_what_a_target_lacks_is_said_in_words_of_the_command_line(
    qmtl, tmp_path, cell, target, message
):
    rows = [f"7;1;yes;{i * 3};{300 + i},5" for i in range(60)]
    rows[5] = f"7;1;yes;9;{cell}"
    header = "seven;one;yes;two words;price"
    (tmp_path / "slip.csv").write_text("\n".join([header, *rows]) + "\n")
    words = [word for name in target for word in ("--target", name)]
    told = qmtl.bad("init", "slip.csv", *words)
    assert message in told
    assert "Task" not in told
    assert not list(tmp_path.glob("*.toml"))


def test_a_recipe_for_a_table_ignores_what_cannot_be_an_input(qmtl, tmp_path):
    rows = [f"{i},someone{i}@example.org,{i % 7 + 0.5},{i * 3 % 11 + 0.25}" for i in range(40)]
    (tmp_path / "a.csv").write_text("\n".join([',mail "ü",size,price', *rows]), encoding="utf-8")
    qmtl.good("init", "a.csv")
    recipe = package.experiments.read_recipe("a.toml")
    assert recipe.data.ignore == ["Unnamed: 0", 'mail "ü"']
    data = recipe.data.load()
    assert list(data.columns.names) == ["size"]
    assert not data.notes


def test_odd_names_in_a_recipe_for_a_table(qmtl, tmp_path):
    names = ['say "hi"', "a = b", "ü # no comment", "[x]", "\\n"]
    rows = [",".join(str(i * (j + 1) % 7 + 0.5) for j in range(5)) for i in range(30)]
    header = ",".join('"' + name.replace('"', '""') + '"' for name in names)
    (tmp_path / "0 ö.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    for number, name in enumerate(names):
        qmtl.good("init", "0 ö.csv", "--target", name, "--out", f"{number}.toml")
        recipe = package.experiments.read_recipe(f"{number}.toml")
        assert recipe.data.targets == {name: "regression"}
        assert recipe.data.load().columns.n_inputs == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.csv"], "none.csv"),
        (["shop.csv", "--target", "prize"], "did you mean 'price'"),
        (["shop.csv", "--target", "grade=regresion"], "regression"),
        (["shop.csv", "--target", "grade=binary"], "grade"),
        (["shop.csv", "--out", "no/such/folder.toml"], "there is no folder"),
        (["empty.csv"], "empty.csv"),
        (["ids.csv"], "no column has labels whose kind is clear (the last: labels of 'who': 40 "),
    ],
)
def test_a_table_that_no_recipe_fits(qmtl, tmp_path, words, message):
    write_table(tmp_path / "shop.csv")
    (tmp_path / "empty.csv").write_text("")
    ids = "\n".join(f"person {i}" for i in range(40))
    (tmp_path / "ids.csv").write_text(f"who\n{ids}\n")
    assert message in qmtl.bad("init", *words)
    assert not list(tmp_path.glob("*.toml"))


def test_affinity_shows_every_pair(qmtl, finished, tmp_path):
    table, figure = tmp_path / "a.csv", tmp_path / "a.svg"
    out = qmtl.good("affinity", finished, "--out", table)
    pairs = pd.read_csv(table)
    assert len(pairs) == 3
    assert all(verdict in out for verdict in pairs["verdict"])
    assert "parity, digit" in out
    qmtl.good("affinity", finished, "--split", "test", "--epochs", 1, "--out", figure)
    assert "gradient affinity" in figure.read_text()


def test_affinity_refuses(qmtl, finished, tmp_path):
    assert "unknown split 'tset'; did you mean 'test'" in qmtl.bad(
        "affinity", finished, "--split", "tset"
    )
    assert "Known: parameters, features" in qmtl.bad("affinity", finished, "--by", "weights")
    assert ".csv, .png, .svg, .pdf" in qmtl.bad("affinity", finished, "--out", tmp_path / "a.doc")
    assert "not a run directory" in qmtl.bad("affinity", tmp_path)


def test_explain_shows_tasks_in_the_order_of_their_graph(qmtl):
    set_order = ("--set", 'circuit.task_order="graph"')
    assert qmtl.good("explain", "digits") != qmtl.good("explain", "digits", *set_order)


def test_a_class_called_na(qmtl, tmp_path):
    rows = [f"{size},{zone}" for size, zone in zip(range(60), ["NA", "EU", "AS"] * 20, strict=True)]
    (tmp_path / "a.csv").write_text("\n".join(["size,zone", *rows]))
    qmtl.good("init", "a.csv", "--target", "zone")
    recipe = (tmp_path / "a.toml").read_text()
    line = 'zone = "binary"  # AS, EU; 20 of 60 rows have no label'
    assert line in recipe
    named = 'zone = { kind = "multiclass", class_names = ["AS", "EU", "NA"] }'
    (tmp_path / "a.toml").write_text(recipe.replace(line, named))
    qmtl.good("train", "a.toml", "--out", "run", "--set", "training.max_epochs=1")
    assert "zone:NA" in (tmp_path / "run" / "predictions.csv").read_text()
    assert "'NA'" in (tmp_path / "run" / "recipe.toml").read_text().replace('"', "'")
    qmtl.good("evaluate", "run")
    for wrong, words in (
        ('{ kind = "multiclass" }', "class_names"),
        ('{ kind = "regression", class_names = ["a"] }', "kind"),
        ("3", "expected a list of columns, or a table of column = kind"),
    ):
        (tmp_path / "b.toml").write_text(recipe.replace(line, f"zone = {wrong}"))
        assert words in qmtl.bad("train", "b.toml")
