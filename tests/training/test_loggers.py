"""Loggers by name: what they are given, and what happens without them."""

import csv
import operator
import sqlite3
import tomllib

import pytest
from pytorch_lightning.loggers import CSVLogger

import qmtl
from qmtl.errors import InvalidInputError, MissingDependencyError, RecipeError
from qmtl.experiments._recipe import read_recipe, recipe_from
from qmtl.experiments._run import resume_run, start_run
from qmtl.training import _loggers as module
from qmtl.training._loggers import log_to
from tests.cli.command import TINY
from tests.training.samples import QUIET, tiny_data, tiny_model


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def recipe(*names, **options):
    values = {"logging.loggers": list(names), "logging.options": options}
    return read_recipe("digits", TINY).with_values(values)


def test_csv_in_a_run_directory_and_again_when_it_resumes(tmp_path):
    run = start_run(recipe("csv"), tmp_path / "run", progress=False)
    log = tmp_path / "run" / "logs" / "csv"
    written = rows(log / "metrics.csv")
    assert {row["step"] for row in written} == {"1", "2"}
    last = written[-1]
    test = run.results["metrics"]["test"]
    logged = [row["test/parity/accuracy"] for row in written if row["test/parity/accuracy"]]
    assert float(logged[0]) == pytest.approx(test["parity"]["accuracy"])
    assert {"train/ink/loss", "validation/digit/accuracy", "validation/ink/r2"} <= last.keys()
    assert "max_epochs" in (log / "hparams.yaml").read_text()
    (tmp_path / "run" / "results.json").unlink()
    resume_run(tmp_path / "run", progress=False)
    # Nothing was left to train, and yet the log is whole again.
    key = operator.itemgetter("step", "train/ink/loss", "test/parity/accuracy")
    assert sorted(map(key, rows(log / "metrics.csv"))) == sorted(map(key, written))


def test_a_second_run_leaves_the_files_of_the_first(tmp_path):
    data = tiny_data()
    for epochs in (1, 2):
        with log_to("csv", folder=tmp_path) as log:
            qmtl.fit(tiny_model(data), data, max_epochs=epochs, callbacks=[log], **QUIET)
    for version, epochs in enumerate((1, 2)):
        written = rows(tmp_path / "csv" / f"version_{version}" / "metrics.csv")
        assert sum(bool(row["validation/b/loss"]) for row in written) == epochs


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = tiny_data()
    with log_to("tensorboard", folder=tmp_path, params={"seed": 3}) as log:
        result = qmtl.fit(tiny_model(data), data, max_epochs=2, callbacks=[log], **QUIET)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "version_0"))
    events.Reload()
    found = {e.step: e.value for e in events.Scalars("validation/b/loss")}
    expected = {
        row["epoch"]: row["value"]
        for row in result.history
        if (row["split"], row["task"], row["metric"]) == ("validation", "b", "loss")
    }
    assert found == pytest.approx(expected)


def test_mlflow(tmp_path):
    pytest.importorskip("mlflow")
    start_run(recipe("mlflow"), tmp_path / "run", progress=False)
    with sqlite3.connect(tmp_path / "run" / "logs" / "mlflow.sqlite") as database:
        (count,) = database.execute(
            "select count(*) from metrics where key = 'validation/parity/loss'"
        ).fetchone()
        (status,) = database.execute("select status from runs").fetchone()
    assert (count, status) == (2, "FINISHED")


def test_wandb_offline(tmp_path):
    pytest.importorskip("wandb")
    start_run(recipe("wandb", wandb={"offline": True}), tmp_path / "run", progress=False)
    (folder,) = (tmp_path / "run" / "logs" / "wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb"))


def test_a_run_that_breaks_off_is_marked(tmp_path, monkeypatch):
    statuses = []
    monkeypatch.setattr(CSVLogger, "finalize", lambda self, status: statuses.append(status))

    def broken():
        with log_to("csv", folder=tmp_path):
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert statuses == ["failed"]


def test_a_logger_that_is_not_installed_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    for name in ("tensorboard", "mlflow", "wandb"):
        with pytest.raises(MissingDependencyError, match=rf"\.\[{name}\]"):
            start_run(recipe(name), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_names_and_options(tmp_path):
    with pytest.raises(RecipeError, match="'tensorbord'; did you mean 'tensorboard'"):
        recipe("tensorbord")
    for names, options, message in (
        (["wand"], {}, "'wand'; did you mean"),
        (["csv"], {"mlflow": {}}, "logger in options: 'mlflow'"),
        (["csv"], {"csv": {"colour": 1}}, "logger 'csv' with options"),
    ):
        with (
            pytest.raises(InvalidInputError, match=message),
            log_to(*names, folder=tmp_path, options=options),
        ):
            pass
    whole = recipe("csv", csv={"prefix": "x"})
    assert recipe_from(tomllib.loads(whole.as_toml())) == whole
