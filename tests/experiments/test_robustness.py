"""Robustness of models and heads under noise."""

import copy

import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.experiments._robustness import (
    UnderNoise,
    _show_run,
    evaluate_under_noise,
    robustness,
    run_study,
)
from qmtl.noise import DeviceNoise
from qmtl.simulators import NoisySimulator
from qmtl.training._evaluate import evaluate
from tests.training.samples import tiny_data, tiny_model

NOISE = DeviceNoise.uniform(0.001, 0.01, 0.02)


def test_scale_nought_is_the_model_itself():
    data = tiny_data()
    model = tiny_model(data)
    before = copy.deepcopy(model.state_dict())
    simulator = model.head.simulator
    found = evaluate_under_noise(model, data.test, NOISE, [0, 1, 3])
    plain = evaluate(model, data.test)
    for task, metrics in plain.items():
        for metric, value in metrics.items():
            assert found[0].metrics[task][metric] == pytest.approx(value, nan_ok=True)
    assert model.head.simulator is simulator
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    for task in plain:
        sizes = [one.metrics[task]["deviation"] for one in found]
        assert 0 == sizes[0] < sizes[1] < sizes[2]


def test_scale_one_is_the_model_under_that_noise():
    data = tiny_data()
    model = tiny_model(data)
    found = evaluate_under_noise(model, data.test, NOISE, [1])[0].metrics
    noisy = qmtl.MultiTaskModel(model.encoder, model.head.with_simulator(NoisySimulator(NOISE)))
    for task, metrics in evaluate(noisy, data.test).items():
        assert found[task]["loss"] == pytest.approx(metrics["loss"])


def test_what_is_not_defined_is_shown_as_a_dash(capsys):
    values = {"r2": float("nan"), "loss": 1.0, "deviation": 0.25}
    _show_run("run", [qmtl.Task.regression("a")], [UnderNoise(0, "none", {"a": values})])
    shown = capsys.readouterr().out
    assert "nan" not in shown
    assert "–" in shown


def test_heads_without_a_circuit():
    data = tiny_data()
    encoder = qmtl.encoders.MLP(3, 5, out_features=4, seed=0)
    model = qmtl.MultiTaskModel(encoder, qmtl.LinearHead(data.tasks, 4, seed=0))
    with pytest.raises(InvalidInputError, match="needs a model with a quantum head"):
        evaluate_under_noise(model, data.test, NOISE, [0])


def test_study(tmp_path, capsys):
    few = {
        "tasks": (2, 4),
        "encoding layers": (1, 2),
        "block layers": (1, 4),
        "entangler": ("none", "cz_ring"),
    }
    found = run_study(lambda n: NOISE, tmp_path, study=few, samples=20)
    assert len(found) == 8
    assert all(0 < one.signal < 1 and one.deviation > 0 for one in found)
    by = {(one.varied, one.value): one for one in found}
    assert by["block layers", 4].signal < by["block layers", 1].signal
    assert by["entangler", "cz_ring"].signal < by["entangler", "none"].signal
    assert (tmp_path / "study.csv").read_text().count("\n") == 9
    assert (tmp_path / "study.png").is_file()
    assert "signal left" in capsys.readouterr().out


def test_no_noise_leaves_the_whole_signal():
    found = robustness("tasks", 2, lambda n: DeviceNoise(), samples=5)
    assert found.signal == pytest.approx(1, abs=1e-12)
    assert found.deviation < 1e-12
