"""Noise and shots in a recipe: what they read, what they build, and that runs resume."""

import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError, RecipeError
from qmtl.experiments import Run, resume_run, start_run
from qmtl.experiments._build import build_data, build_model
from qmtl.experiments._recipe import read_recipe
from qmtl.noise import DeviceNoise
from qmtl.simulators import LightConeSimulator, NoisySimulator, ShotSimulator
from tests.training.samples import InterruptAt, InterruptionError, same_state

SMALL = [
    "training.max_epochs=2",
    "encoder.hidden=[4]",
    "data.splits=[0.1,0.1,0.8]",
    'data.tasks=["parity"]',
]
NUMBERS = "training.noise={one_qubit=0.001,two_qubit=0.01,readout=0.02}"


def recipe(*overrides):
    return read_recipe("digits", [*SMALL, *overrides])


def simulator(*overrides):
    chosen = recipe(*overrides)
    return build_model(chosen, build_data(chosen)).head.simulator


def test_without_noise_nothing_changes():
    assert isinstance(simulator(), LightConeSimulator)


def test_numbers():
    found = simulator(NUMBERS)
    assert isinstance(found, NoisySimulator)
    assert found.noise == DeviceNoise.uniform(0.001, 0.01, 0.02)
    twice = simulator(NUMBERS, "training.noise.scale=2").noise
    assert twice == DeviceNoise.uniform(0.001, 0.01, 0.02).scaled(2)


def test_shots():
    found = simulator("training.shots=64")
    assert (found.base.__class__, found.shots, found.seed) == (LightConeSimulator, 64, None)
    found = simulator("training.shots=64", NUMBERS)
    assert isinstance(found, ShotSimulator)
    assert isinstance(found.base, NoisySimulator)


def test_a_file_beside_the_recipe(tmp_path, monkeypatch):
    noise = DeviceNoise.uniform(0.001, 0.01, 0.02)
    noise.save(tmp_path / "noise.json")
    path = tmp_path / "my.toml"
    path.write_text('[data]\nsource = "digits"\n[training]\nnoise = "noise.json"\n')
    read = read_recipe(path)
    monkeypatch.chdir("/")
    assert read.training.noise.device_noise(4) == noise
    path.write_text(read.as_toml())
    assert read_recipe(path) == read


def test_a_backend_by_name():
    assert recipe("training.noise=fake_fez").training.noise.backend == "fake_fez"


def test_the_shorthand_and_the_table_are_the_same():
    assert recipe('training.noise={backend="fake_fez"}') == recipe("training.noise=fake_fez")


def test_the_resolved_recipe_reads_back(tmp_path):
    first = recipe(NUMBERS, "training.shots=8")
    (tmp_path / "r.toml").write_text(first.as_toml())
    assert read_recipe(tmp_path / "r.toml") == first


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.noise.one_qbit=0.1"], "did you mean 'one_qubit'"),
        (["training.noise.readout=2"], "training.noise.readout: .* got 2"),
        (["training.noise.scale=-1"], "training.noise.scale"),
        (["training.noise.scale=inf"], "training.noise.scale"),
        (["training.shots=0"], "training.shots"),
        (
            ["training.noise.file=a.json", "training.noise.readout=0.1"],
            "give one of file, backend, and numbers",
        ),
    ],
)
def test_bad_values(overrides, message):
    with pytest.raises(RecipeError, match=message):
        recipe(*overrides)


def test_bad_combinations():
    with pytest.raises(RecipeError, match=r"need head.simulator 'lightcone', got 'default"):
        simulator("training.shots=8", "head.simulator=default.qubit")
    with pytest.raises(InvalidInputError, match=r"nowhere.json cannot be read"):
        simulator("training.noise=nowhere.json")


@pytest.mark.parametrize("overrides", [[NUMBERS], [NUMBERS, "training.shots=32"]])
def test_a_run_is_saved_with_its_noise(tmp_path, overrides):
    run = start_run(recipe(*overrides), tmp_path / "run", progress=False)
    again = Run.read(tmp_path / "run")
    assert again.results == run.results
    assert again.recipe == run.recipe
    model = qmtl.load(tmp_path / "run" / "model")
    assert repr(model.head.simulator) == repr(simulator(*overrides))
    assert model.predict(torch.zeros(2, 64))["parity"].shape == (2,)


def test_a_run_with_shots_resumes_to_the_same(tmp_path, monkeypatch):
    chosen = recipe(NUMBERS, "training.shots=16", "training.max_epochs=3")
    whole = start_run(chosen, tmp_path / "whole", progress=False)
    import qmtl.training as module

    fit = module.fit

    def killed(*args, callbacks, **options):
        return fit(*args, callbacks=[*callbacks, InterruptAt(2)], **options)

    monkeypatch.setattr(module, "fit", killed)
    with pytest.raises(InterruptionError):
        start_run(chosen, tmp_path / "cut", progress=False)
    monkeypatch.setattr(module, "fit", fit)
    torch.rand(7)
    cut = resume_run(tmp_path / "cut", progress=False)
    assert cut.results["metrics"] == whole.results["metrics"]
    assert (cut.path / "metrics.csv").read_text() == (whole.path / "metrics.csv").read_text()
    assert (cut.path / "predictions.csv").read_bytes() == (
        whole.path / "predictions.csv"
    ).read_bytes()
    assert same_state(qmtl.load(cut.path / "model"), qmtl.load(whole.path / "model"))


def test_noise_makes_a_difference():
    chosen = recipe("training.noise.readout=0.5")
    data = build_data(chosen)
    logits = build_model(chosen, data)(data.test.inputs[:3])["parity"]
    assert logits.abs().max() < 1e-6
    # A head without a circuit takes no notice.
    assert build_model(chosen, data, "linear")(data.test.inputs[:3])["parity"].abs().max() > 1e-6
