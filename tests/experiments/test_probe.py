"""The linear probe: every kind of task, missing labels and classes, against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from qmtl.data import from_arrays
from qmtl.experiments._rivals import linear_probe
from qmtl.tasks import Task


def data(targets, tasks, n=240, **options):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(n, 5)).astype(np.float32)
    inputs[:, 4] = 3.0  # a constant column
    return from_arrays(
        inputs, {k: f(inputs, rng) for k, f in targets.items()}, tasks=tasks, **options
    )


def test_every_kind_is_learned():
    tasks = [
        Task.binary("binary"),
        Task.multiclass("multiclass", 3),
        Task.multilabel("multilabel", 2),
        Task.regression("regression", 2),
    ]
    probed = linear_probe(
        data(
            {
                "binary": lambda x, _: np.where(x[:, 0] > 2, np.nan, x[:, 0] + x[:, 1] > 0),
                "multiclass": lambda x, _: x[:, :3].argmax(1),
                "multilabel": lambda x, _: np.stack([x[:, 0] > 0, x[:, 1] > 0.5], 1),
                "regression": lambda x, _: np.stack([x[:, 0], 2 * x[:, 1] - x[:, 2]], 1),
            },
            tasks,
        )
    ).metrics
    assert set(probed) == {"validation", "test"}
    for split in probed.values():
        assert split["binary"]["accuracy"] > 0.85
        assert split["multiclass"]["accuracy"] > 0.75
        assert split["multilabel"]["auroc"] > 0.9
        assert split["regression"]["r2"] > 0.95


def test_classes_and_labels_absent_from_training_are_predicted_as_such():
    tasks = [Task.multilabel("finding", 3), Task.multiclass("type", 4)]
    rare = data(
        {
            # The second label has no positive, the third no label at all.
            "finding": lambda x, _: np.stack(
                [x[:, 0] > 0, np.zeros(len(x)), np.full(len(x), np.nan)], 1
            ),
            "type": lambda x, _: np.where(x[:, 0] > 0, 2, 0),
        },
        tasks,
    )
    probed = linear_probe(rare).metrics
    assert probed["test"]["type"]["accuracy"] > 0.9
    assert probed["test"]["finding"]["accuracy"] > 0.9


def test_regression_is_ridge_on_standardised_inputs_with_the_penalty_chosen_on_validation():
    noisy = data({"y": lambda x, rng: x[:, 0] + rng.normal(size=len(x))}, [Task.regression("y")])
    train, validation, test = (s.inputs.double().numpy() for s in noisy.splits.values())
    mean, scale = train[:, :4].mean(0), train[:, :4].std(0)

    def scores(split, inputs, penalty):
        model = Ridge(alpha=penalty).fit((train[:, :4] - mean) / scale, noisy.train.targets["y"])
        return model.score((inputs[:, :4] - mean) / scale, split.targets["y"])

    best = max((1, 10, 100, 1000), key=lambda p: scores(noisy.validation, validation, p))
    expected = scores(noisy.test, test, best)
    assert linear_probe(noisy).metrics["test"]["y"]["r2"] == pytest.approx(expected, abs=1e-4)


def test_a_penalty_whose_score_is_undefined_is_not_chosen(monkeypatch):
    # Validation and test of each penalty in turn.
    scores = iter([math.nan, 0.1, 0.9, 0.2, 0.4, 0.3, math.nan, 0.4])
    monkeypatch.setattr(Task, "evaluate", lambda task, *_: {task.main_metric: next(scores)})
    task = Task.binary("y")
    found = linear_probe(data({"y": lambda x, _: x[:, 0] > 0}, [task])).metrics
    assert found["validation"]["y"][task.main_metric] == 0.9
    assert found["test"]["y"][task.main_metric] == 0.2


def test_images_are_flattened():
    images = torch.rand(60, 1, 4, 4)
    labels = (images.mean((1, 2, 3)) > 0.5).long()
    probed = linear_probe(
        from_arrays(images, {"bright": labels}, tasks=[Task.binary("bright")])
    ).metrics
    assert probed["test"]["bright"]["accuracy"] > 0.6
