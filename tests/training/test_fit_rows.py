"""fit_rows takes the steps of fit, and nothing else."""

import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.training import fit_rows
from tests.training.samples import QUIET, same_state, tiny_data, tiny_model

SETTINGS = qmtl.TrainingSettings(max_epochs=3, batch_size=8, accelerator="cpu")


def test_the_steps_are_those_of_fit():
    data = tiny_data()
    ours, theirs = tiny_model(data), tiny_model(data)
    fitted = fit_rows(ours, data.train, SETTINGS)
    options = QUIET | {"restore_best": False, "accelerator": "cpu"}
    result = qmtl.fit(theirs, data, max_epochs=3, **options)
    assert same_state(ours, theirs)
    losses = [
        row["value"] for row in result.history if (row["split"], row["epoch"]) == ("train", 3)
    ]
    assert fitted.training_losses()[2] == pytest.approx(sum(losses) / len(losses))
    assert {row["split"] for row in fitted.history} == {"train"}
    assert (fitted.epochs, fitted.best_epoch) == (3, 3)


def test_the_best_epoch_is_that_of_fit():
    data = tiny_data()
    ours, theirs = tiny_model(data), tiny_model(data)
    settings = SETTINGS.model_copy(update={"learning_rate": 1.0, "max_epochs": 30, "patience": 3})
    fitted = fit_rows(ours, data.train, settings, data.validation)
    result = qmtl.fit(theirs, data, settings, progress=False)
    assert (fitted.epochs, fitted.best_epoch) == (result.epochs, result.best_epoch)
    assert fitted.best_epoch < fitted.epochs
    assert same_state(ours, theirs)


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tiny_data()
    model, before = tiny_model(data), torch.get_rng_state()
    fit_rows(model, data.train, SETTINGS, data.validation)
    assert not list(tmp_path.iterdir())
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patience": 2}, "patience needs validation rows"),
        ({"schedule": "plateau"}, "'plateau' needs validation rows"),
        ({"devices": 2}, "devices must be 1"),
        ({"scalarizer": "uww"}, "did you mean 'UW'"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    data = tiny_data()
    with pytest.raises(InvalidInputError, match=message):
        fit_rows(tiny_model(data), data.train, SETTINGS.model_copy(update=changes))
