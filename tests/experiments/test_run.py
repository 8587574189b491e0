"""Run directories: names, and going on with more epochs."""

import json
import shutil
import time

import pytest

from qmtl.circuit import load_design, to_toml
from qmtl.errors import QmtlError, RecipeError, RunDirectoryError
from qmtl.experiments import (
    NoiseSection,
    Run,
    is_first_process,
    read_recipe,
    resume_run,
    run_robustness,
    start_run,
)
from qmtl.experiments._build import build_circuit
from qmtl.experiments._report_content import read_runs
from qmtl.noise import DeviceNoise

TINY = [
    "training.max_epochs=1", 'data.tasks=["parity"]', "encoder.hidden=[4]",
    "training.batch_size=1000", "data.splits=[0.2,0.2,0.6]", "training.schedule=constant",
]  # fmt: skip


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    strftime = time.strftime

    def same_second(form, *rest):
        return "20260101-000000" if form == "%Y%m%d-%H%M%S" else strftime(form, *rest)

    monkeypatch.setattr("time.strftime", same_second)
    recipe = read_recipe("digits", TINY)
    names = [start_run(recipe, progress=False).path.name for _ in range(3)]
    first = "digits-20260101-000000"
    assert names == [first, f"{first}-2", f"{first}-3"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of one epoch, not to be changed."""
    folder = tmp_path_factory.mktemp("run") / "run"
    return start_run(read_recipe("digits", TINY), folder, progress=False)


def test_a_finished_run_goes_on_with_more_epochs(finished, tmp_path):
    longer = read_recipe("digits", [*TINY, "training.max_epochs=3"])
    unbroken = start_run(longer, tmp_path / "unbroken", progress=False)
    copy = shutil.copytree(finished.path, tmp_path / "run")
    again = resume_run(copy, ["training.max_epochs=3"], progress=False)
    assert again.results["metrics"] == unbroken.results["metrics"]
    assert again.results["epochs"] == 3
    assert Run.read(copy).recipe.training.max_epochs == 3
    metrics = [(run.path / "metrics.csv").read_text() for run in (again, unbroken)]
    assert metrics[0] == metrics[1]


def test_a_finished_run_without_checkpoint_keeps_its_model(finished, tmp_path):
    copy = shutil.copytree(finished.path, tmp_path / "run")
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(RunDirectoryError, match="cannot go on: it has no checkpoint"):
        resume_run(copy, ["training.max_epochs=3"], progress=False)
    assert Run.read(copy).results == finished.results


def test_what_was_measured_of_the_earlier_model_is_not_that_of_the_new_one(finished, tmp_path):
    copy = shutil.copytree(finished.path, tmp_path / "run")
    noise = NoiseSection(readout=0.1)
    run_robustness(copy, noise, copy / "noise", [0, 1])
    table = (copy / "noise" / "noise.csv").read_text()
    assert read_runs([copy])[0].noise
    resume_run(copy, ["training.max_epochs=2"], progress=False)
    assert not read_runs([copy])[0].noise
    (kept,) = copy.glob("noise-before-*/noise.csv")
    assert kept.read_text() == table


def test_interrupted_while_a_rival_trains_it_goes_on(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    recipe = read_recipe("digits", [*TINY, 'compare=["linear"]'])
    with monkeypatch.context() as patch:
        patch.setattr("qmtl.experiments._rivals.train_rival", interrupted)
        with pytest.raises(KeyboardInterrupt, match="continue with: qmtl train --resume"):
            start_run(recipe, tmp_path / "run", progress=False)
    assert "linear" in resume_run(tmp_path / "run", progress=False).results["rivals"]


def test_a_run_keeps_the_design_that_it_began_with(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text(to_toml(load_design("cz-ring")))
    recipe = read_recipe("digits", [*TINY, f"circuit.design={own}", 'compare=["linear"]'])
    run = start_run(recipe, tmp_path / "run", progress=False)
    circuit = run.load_model().head.circuit
    own.write_text(to_toml(load_design("cz-ring")).replace("cz_ring", "cnot_ring"))
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    again = resume_run(moved, ["training.max_epochs=2"], progress=False)
    assert again.load_model().head.circuit == circuit
    assert build_circuit(Run.read(moved).recipe, circuit.tasks) == circuit


def test_a_run_keeps_the_noise_that_it_began_with(tmp_path):
    own = tmp_path / "own.json"
    DeviceNoise.uniform(0.01, 0.02).save(own)
    recipe = read_recipe("digits", [*TINY, f"training.noise={own}"])
    start_run(recipe, tmp_path / "run", progress=False)
    DeviceNoise.uniform(0.1, 0.2).save(own)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    resume_run(moved, ["training.max_epochs=2"], progress=False)
    kept = Run.read(moved).recipe.training.noise
    assert kept.device_noise(2) == DeviceNoise.uniform(0.01, 0.02)


def test_without_a_change_a_finished_run_is_only_read(finished):
    before = (finished.path / "results.json").stat().st_mtime_ns
    assert resume_run(finished.path, progress=False).results == finished.results
    assert resume_run(finished.path, ["training.patience=3"]).results == finished.results
    assert (finished.path / "results.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encoder.hidden=[8]", r"cannot change encoder.hidden: the run has \[4\], got \[8\]"),
        ("training.optimizer=sgd", "cannot change training.optimizer"),
        ("head.rank=3", "cannot change head.rank: the run has None, got 3"),
        ("training.max_epoch=3", "did you mean 'max_epochs'"),
    ],
)
def test_what_a_run_cannot_go_on_with(finished, override, message):
    with pytest.raises(RecipeError, match=message):
        resume_run(finished.path, [override])


def test_a_file_in_the_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("")
    with pytest.raises(QmtlError, match="cannot be made"):
        start_run(read_recipe("digits", TINY), progress=False)


def test_run_folders_of_0_1_counted_epochs_from_nought(finished, tmp_path):
    copy = shutil.copytree(finished.path, tmp_path / "run")
    results = json.loads((copy / "results.json").read_text())
    assert results["best_epoch"] == 1
    del results["first_epoch"]
    (copy / "results.json").write_text(json.dumps(results | {"best_epoch": 0}))
    assert Run.read(copy).results == finished.results
    rows = (copy / "metrics.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in rows} == {"epoch", "1"}
    (copy / "metrics.csv").write_text("\n".join([rows[0], *(f"0{row[1:]}" for row in rows[1:])]))
    (content,) = read_runs([copy])
    assert {row["epoch"] for row in content.history} == {1}


@pytest.mark.parametrize(
    ("method", "head", "words"),
    [
        ("training.isolation=true", "linear", "isolation needs a QuantumHead"),
        ("training.auxiliary=2", "single-task", "auxiliary: sub-classes need"),
    ],
)
def test_a_rival_that_cannot_train_is_found_before_the_run(tmp_path, method, head, words):
    tasks = 'data.tasks=["parity","ink"]'
    recipe = read_recipe("digits", [*TINY, tasks, method, f'compare=["{head}"]'])
    with pytest.raises(QmtlError, match=words):
        start_run(recipe, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_rank_of_another_program_is_not_ours(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert is_first_process()
    monkeypatch.setenv("QMTL_RUN_DIRECTORY", "run")  # the first process of a run sets it
    assert not is_first_process()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert is_first_process()
