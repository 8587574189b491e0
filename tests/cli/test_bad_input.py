"""Bad input: one line and exit status 2 from the command line, a ValueError from Python."""

import json

import numpy as np
import pytest
import torch

import qmtl as package
from qmtl.data import from_arrays
from qmtl.errors import ModelFileError, QmtlError, RecipeError, RunDirectoryError
from qmtl.experiments import Run, read_recipe, resume_run, start_run
from tests.cli.command import TABLE_RECIPE, TINY, settings, write_table

Task = package.Task


def test_a_link_to_nothing(qmtl, tmp_path):
    (tmp_path / "last").symlink_to("gone")
    assert "it has no recipe.toml; it is a link to gone" in qmtl.bad("evaluate", "last")


@pytest.mark.parametrize(
    "error", [MemoryError("64 GB"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_too_little_memory(qmtl, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("qmtl.experiments.read_recipe", fail)
    assert "out of memory: " in qmtl.bad("train", "digits")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train"], ["recipe", "--resume"]),
        (["train", "digit"], ["'digit'", "'digits'"]),
        (["train", "none.toml"], ["none.toml", "no such file"]),
        (["train", "digits", "--set", "training.seed"], ["KEY=VALUE", "'training.seed'"]),
        (["train", "digits", "--set", "training.sed=1"], ["'training.sed'", "'seed'"]),
        (["train", "digits", "--set", "trainig.seed=1"], ["'trainig'", "'training'"]),
        (["train", "digits", "--set", "training.seed=x"], ["training.seed", "integer", "'x'"]),
        (["train", "digits", "--set", "encoder.seed=1" + 26 * "0"], ["encoder.seed", "2147483648"]),
        (["train", "digits", "--set", "head.seed=-1"], ["head.seed", "-1"]),
        (["train", "digits", "--set", "data.seed=2147483648"], ["data.seed", "2147483648"]),
        (["train", "digits", "--set", "training.num_workers=9999"], ["num_workers", "1024"]),
        (["train", "digits", "--set", "name.x=1"], ["'name'", "not a table"]),
        (["train", "digits", "--set", 'data.tasks=["digti"]'], ["'digti'", "'digit'"]),
        (["train", "digits", "--set", 'data.tasks=["ink","ink"]'], ["'ink', 'ink'", "distinct"]),
        (["train", "digits", "--set", "data.splits=[1,0,0]"], ["validation", "1797", "empty"]),
        (["train", "digits", "--set", "data.splits=[1,1,1]"], ["sum to 1", "1.0"]),
        (["train", "digits", "--set", "circuit.wires_per_task=2"], ["'digit'", "4 wires", "2"]),
        (["train", "digits", "--set", "circuit.wires_per_task={digits=5}"], ["'digits'"]),
        (["train", "digits", "--set", "circuit.design=cz-rng"], ["'cz-rng'", "'cz-ring'"]),
        (["train", "digits", "--set", "encoder.type=Identity"], ["64 inputs", "12"]),
        (["train", "digits", "--set", "encoder.activation=rleu"], ["'rleu'", "'relu'"]),
        (["train", "digits", "--set", "head.simulator=lightcne"], ["lightcne"]),
        (["train", "digits", "--set", "training.aggregator=upgard"], ["'upgard'", "'UPGrad'"]),
        (["train", "digits", "--set", "training.scalarizer=uww"], ["'uww'", "'UW'"]),
        (["train", "digits", "--compare", "lin"], ["compare", "'linear'", "'lin'"]),
        (["train", "digits", "--resume", "x"], ["not both"]),
        (["train", "--resume", "x", "--out", "y"], ["--resume"]),
        (["train", "--resume", "none"], ["none", "recipe.toml"]),
        (["evaluate", "none"], ["none", "recipe.toml"]),
        (["predict", "none", "x.csv"], ["none", "recipe.toml"]),
        (["explain", "none"], ["'none'", "digits"]),
        (["export", "none", "--onnx", "model.onnx"], ["none", "model.json"]),
        (["circuits", "show", "cz-rign"], ["'cz-rign'", "'cz-ring'"]),
        (["circuits", "show", "iqp", "--task", "a:bin"], ["'bin'", "binary"]),
        (["circuits", "show", "iqp", "--task", "a:multiclass:x"], ["a:multiclass:x", "NAME:KIND"]),
        (["circuits", "show", "iqp", *(["--task", "a:binary"] * 2)], ["'a'", "0", "1"]),
        (["circuits", "export", "iqp", "--format", "sgv"], ["'sgv'", "'svg'"]),
        (["circuits", "export", "iqp", "--format", "svg", "--out", "no/x.svg"], ["--out", "no"]),
        (["circuits", "export", "iqp", "--format", "svg", "--out", "."], ["--out", "is a folder"]),
    ],
)
def test_one_line_names_what_is_wrong(qmtl, tmp_path, words, expected):
    line = qmtl.bad(*words)
    assert all(word in line for word in expected), line
    assert not (tmp_path / "runs").exists()


def test_recipes_that_cannot_be_read(qmtl, tmp_path):
    (tmp_path / "a.toml").write_text("[data\n")
    assert "not valid TOML" in qmtl.bad("train", "a.toml")
    (tmp_path / "a.toml").write_bytes(b"name = '\xff'")
    assert "cannot be read" in qmtl.bad("train", "a.toml")
    (tmp_path / "a.toml").write_text("name = 'x'\n")
    assert "missing key 'data'" in qmtl.bad("train", "a.toml")
    (tmp_path / "a.toml").write_text("[data]\nsource = 'csv'\n")
    assert "missing key 'data.path'" in qmtl.bad("train", "a.toml")
    (tmp_path / "digits").mkdir()
    assert "wires" in qmtl.good("explain", "digits")
    with pytest.raises(RecipeError, match=r"max_epoch.*'max_epochs'"):
        read_recipe("digits", ["training.max_epoch=3"])


def test_tables(qmtl, tmp_path):
    recipe = tmp_path / "shop.toml"
    recipe.write_text(TABLE_RECIPE)
    assert "no such file" in qmtl.bad("train", recipe)
    table = write_table(tmp_path / "shop.csv")
    good = table.read_text()

    def refused(old: str, new: str) -> str:
        recipe.write_text(TABLE_RECIPE.replace(old, new))
        return qmtl.bad("train", recipe)

    assert "'solt'; did you mean 'sold'" in refused("{ sold", "{ solt")
    assert "'binry'; did you mean 'binary'" in refused('"binary"', '"binry"')
    assert "'sise'; did you mean 'size'" in refused("path =", 'inputs = ["sise"]\npath =')
    assert "delimiter" in refused("path =", 'delimiter = ";;"\npath =')
    recipe.write_text(TABLE_RECIPE)
    table.write_text(good.replace("size,", "size,size,", 1))
    assert "'size' appears twice" in qmtl.bad("train", recipe)
    lines = good.splitlines()
    table.write_text("\n".join([*lines[:2], "inf" + lines[2][lines[2].index(",") :], *lines[3:]]))
    assert "row 3, column 'size'" in qmtl.bad("train", recipe)
    blank = [lines[0]] + [",".join([*line.split(",")[:-1], ""]) for line in lines[1:]]
    table.write_text("\n".join(blank))
    assert "'price' has no label" in qmtl.bad("train", recipe)


def test_predict_lacks_a_column_or_a_number(qmtl, finished, tmp_path):
    assert "no such file" in qmtl.bad("predict", finished, "none.csv")
    names = [f"pixel_{i}" for i in range(64)]
    table = tmp_path / "t.csv"
    table.write_text(",".join(names[:63]) + "\n" + ",".join(["0"] * 63))
    assert "'pixel_63'" in qmtl.bad("predict", finished, table)
    table.write_text(",".join(names) + "\n" + ",".join(["0"] * 63 + ["x"]))
    assert "row 2, column 'pixel_63'" in qmtl.bad("predict", finished, table)
    table.write_text(",".join(names) + "\n" + ",".join(["0"] * 64))
    assert "--out" in qmtl.bad("predict", finished, table, "--out", "none/x.csv")
    (tmp_path / "folder").mkdir()
    for folder in ("folder", ".", ".."):
        line = qmtl.bad("predict", finished, table, "--out", folder)
        assert f"--out: {folder} is a folder" in line


def test_run_directories(qmtl, run, tmp_path):
    line = qmtl.bad("train", "digits", "--out", run, *settings())
    assert f"{run} exists already" in line
    (tmp_path / "file").write_text("")
    assert "cannot be made" in qmtl.bad("train", "digits", "--out", "file/run", *settings())
    # Neither a file nor a folder of something else can be continued.
    for other in ("file", "."):
        told = qmtl.bad("train", "digits", "--out", other, *settings())
        assert told.endswith(f"directory {other} exists already; give another --out\n")
    assert f"continue it with: qmtl train --resume {run}" in line
    assert "split" in qmtl.bad("evaluate", run, "--split", "tset")
    assert "--epsilon needs --attack" in qmtl.bad("evaluate", run, "--epsilon", "0.1")
    told = qmtl.bad("evaluate", run, "--attack", "fgsm", "--steps", "3")
    assert "--steps needs --attack pgd" in told
    assert "'fgms'" in qmtl.bad("evaluate", run, "--attack", "fgms")
    assert "epsilon" in qmtl.bad("evaluate", run, "--attack", "pgd", "--epsilon", "-1")
    assert "low must be below high" in qmtl.bad(
        "evaluate", run, "--attack", "pgd", "--low", "1", "--high", "0"
    )
    with pytest.raises(RunDirectoryError, match="exists already"):
        start_run(read_recipe("digits", TINY), run)
    with pytest.raises(RunDirectoryError, match="cannot be made"):
        start_run(read_recipe("digits", TINY), tmp_path / "file" / "run")
    assert issubclass(RunDirectoryError, ValueError)


@pytest.mark.parametrize("content", ['{"metrics": ', "[]", "{}", '{"metrics": {}}', b"\xff\xfe"])
def test_damaged_results(qmtl, run, content):
    content = content if isinstance(content, bytes) else content.encode()
    (run / "results.json").write_bytes(content)
    for words in (["evaluate", run], ["train", "--resume", run], ["predict", run, "x.csv"]):
        assert "results.json is damaged" in qmtl.bad(*words)
    with pytest.raises(RunDirectoryError, match="damaged"):
        Run.read(run)


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (lambda r: r.update(metrics=[]), "metrics"),
        (lambda r: r["metrics"].pop("test"), "metrics.test"),
        (lambda r: r["metrics"]["test"].update(parity=3), "metrics.test.parity"),
        (lambda r: r["metrics"]["test"]["parity"].update(loss="x"), "metrics.test.parity.loss"),
        (lambda r: r["baselines"]["test"].pop("parity"), "baselines and metrics have"),
        (lambda r: r["rivals"].update(linear={}), "rivals.linear"),
        (lambda r: r["parameters"].pop("head"), "parameters.head"),
        (lambda r: r["parameters"].update(head=None), "parameters.head"),
        (lambda r: r["parameters"].update({"linear head": "x"}), "parameters.linear head"),
        (lambda r: r.update(epochs="2"), "epochs"),
        (lambda r: r.update(best_epoch=None), "best_epoch"),
        (lambda r: r.update(seconds=None), "seconds"),
    ],
)
def test_results_of_another_shape(qmtl, run, edit, word):
    results = json.loads((run / "results.json").read_text())
    edit(results)
    (run / "results.json").write_text(json.dumps(results))
    for words in (["evaluate", run], ["train", "--resume", run]):
        assert f"results.json is damaged: {word}" in qmtl.bad(*words)


def test_a_run_that_has_not_finished(qmtl, run):
    (run / "results.json").unlink()
    assert f"qmtl train --resume {run}" in qmtl.bad("evaluate", run)
    spaced = run.rename(run.with_name("my runs"))
    told = f"qmtl train --resume '{spaced}'"
    assert told in qmtl.bad("evaluate", spaced)
    assert told in qmtl.good("runs", spaced)


def test_truncated_checkpoint(qmtl, run):
    (run / "results.json").unlink()
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert f"{last} is damaged or cut short" in qmtl.bad("train", "--resume", run)
    with pytest.raises(ModelFileError):
        resume_run(run)


def test_model_files(qmtl, run):
    description = run / "model" / "model.json"
    whole = description.read_text()
    content = json.loads(whole)
    content["version"] = 7
    description.write_text(json.dumps(content))
    line = qmtl.bad("evaluate", run)
    assert "version 7" in line
    assert "version 1" in line
    with pytest.raises(ModelFileError, match="version 7"):
        package.load(run / "model")
    description.write_text(whole)
    weights = run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    assert "model.safetensors is damaged" in qmtl.bad("evaluate", run)
    (run / "inputs.json").write_text('{"numeric": ')
    assert "inputs.json is damaged" in qmtl.bad("predict", run, "x.csv")
    (run / "inputs.json").unlink()
    assert "inputs.json" in qmtl.bad("predict", run, "x.csv")


X = np.random.default_rng(0).normal(size=(20, 3))
HALF = np.arange(20) % 2


def _with_nan() -> np.ndarray:
    values = X.copy()
    values[4, 1] = np.nan
    return values


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: from_arrays(_with_nan(), {"a": HALF}), ["NaN", "row 4"]),
        (lambda: from_arrays(X, {"a": HALF + 1}, tasks=[Task.binary("a")]), ["'a'", "row 1", "2"]),
        (lambda: from_arrays(X, {"b": HALF}, tasks=[Task.binary("a")]), ["'b'", "Known: a"]),
        (lambda: from_arrays(X, {"a": HALF[:5]}), ["'a'", "5 labels", "20 rows"]),
        (lambda: from_arrays(X, {"a": HALF}, tasks=[Task.binary("a")] * 2), ["'a'", "0 and 1"]),
        (lambda: from_arrays(X, {"a": HALF}, splits=(1, 0, 0)), ["validation", "20 rows"]),
        (
            lambda: from_arrays(X, {"a": np.full(20, np.nan)}, tasks=[Task.binary("a")]),
            ["'a'", "no label"],
        ),
        (lambda: package.digits_head(torch.zeros(2, 5)), ["12", "5"]),
        (lambda: package.digits_head(torch.full((2, 12), torch.nan)), ["NaN", "2 of 2"]),
        (lambda: package.digits_head(torch.zeros(2, 12), tasks=["digti"]), ["'digti'", "'digit'"]),
        (
            lambda: package.HeadCircuit([Task.multiclass("m", 9)], wires_per_task=3),
            ["'m'", "4 wires", "3"],
        ),
    ],
)
def test_from_python_a_value_error_with_names_and_numbers(monkeypatch, make, words):
    circuit = package.HeadCircuit(package.data.digits().tasks)
    head = package.QuantumHead(circuit, seed=0)
    monkeypatch.setattr(package, "digits_head", head, raising=False)
    with pytest.raises(QmtlError) as caught:
        make()
    assert isinstance(caught.value, ValueError)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("evaluate", "rum"), "did you mean 'run'?"),
        (("train", "--resume", "./rnu"), "did you mean 'run'?"),
        (("ibm", "estimate", "run1"), "did you mean 'run'?"),
        (("report", "run", "run/modle"), "did you mean 'run/model'?"),
        (("export", "runn"), "did you mean 'run'?"),
        (("runs", "rum"), "did you mean 'run'?"),
        (("train", "recipes.toml"), "did you mean 'recipe.toml'?"),
        (("predict", "run", "tabel.csv"), "did you mean 'table.csv'?"),
        (("evaluate", "nothing-like-it"), "it has no recipe.toml\n"),
    ],
)
def test_a_path_that_is_not_there_gets_the_names_that_are_near(qmtl, run, words, expected):
    run.with_name("recipe.toml").touch()
    run.with_name("table.csv").touch()
    assert expected in qmtl.bad(*words)
