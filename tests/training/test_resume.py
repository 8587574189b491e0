"""A run that was interrupted and resumed is the unbroken run, bit for bit."""

import shutil

import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError, ModelFileError
from qmtl.training._checkpoints import BEST, LAST
from tests.training.samples import (
    QUIET,
    InterruptAt,
    InterruptionError,
    disjoint_data,
    same_state,
    tiny_data,
    tiny_model,
    with_missing,
)

CASES = {
    **{name: {"scalarizer": name} for name in ("mean", "uw", "famo", "dwa", "imtll", "random")},
    **{
        name: {"aggregator": name}
        for name in ("nashmtl", "graddrop", "gradvac", "pcd", "excessmtl", "upgrad")
    },
    "cosine": {"schedule": "cosine"},
    "plateau": {"schedule": "plateau", "learning_rate": 0.3},
    "patience": {"patience": 3, "learning_rate": 0.3},
    "sgd": {"optimizer": "sgd", "gradient_clip": 0.1},
    "last": {"restore_best": False, "head_learning_rate": 0.1},
}


def _interrupted(folder, data, epoch=2, dropout=0.0, **options):
    with pytest.raises(InterruptionError):
        qmtl.fit(
            tiny_model(data, dropout=dropout), data, checkpoints=folder,
            callbacks=[InterruptAt(epoch)], **QUIET, **options,
        )  # fmt: skip


def _resumed(folder, data, dropout=0.0, **options):
    model = tiny_model(data, dropout=dropout)
    return qmtl.fit(model, data, checkpoints=folder, resume=True, **QUIET, **options)


def _assert_same(first, second) -> None:
    assert first.history == second.history
    assert first.metrics == second.metrics
    assert (first.epochs, first.best_epoch) == (second.epochs, second.best_epoch)
    assert same_state(first.model, second.model)


@pytest.mark.parametrize("name", CASES)
def test_resumes_bit_for_bit(tmp_path, name):
    data = tiny_data()
    options = {"max_epochs": 5, "seed": 2, **CASES[name]}
    unbroken = qmtl.fit(tiny_model(data), data, **QUIET, **options)
    _interrupted(tmp_path, data, **options)
    _assert_same(_resumed(tmp_path, data, **options), unbroken)


def test_with_dropout_after_two_interruptions(tmp_path):
    data = tiny_data()
    options = {"max_epochs": 5, "dropout": 0.5}
    unbroken = qmtl.fit(tiny_model(data, dropout=0.5), data, max_epochs=5, **QUIET)
    _interrupted(tmp_path, data, epoch=1, **options)
    with pytest.raises(InterruptionError):
        qmtl.fit(
            tiny_model(data, dropout=0.5), data, checkpoints=tmp_path, resume=True,
            callbacks=[InterruptAt(3)], max_epochs=5, **QUIET,
        )  # fmt: skip
    _assert_same(_resumed(tmp_path, data, **options), unbroken)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_checkpoints_of_optimisers_that_looped(tmp_path, monkeypatch, optimizer):
    data, options = tiny_data(), {"max_epochs": 4, "optimizer": optimizer}
    with monkeypatch.context() as earlier:
        earlier.setattr("qmtl.training._optimizers.FUSED", ())
        unbroken = qmtl.fit(tiny_model(data), data, **QUIET, **options)
        _interrupted(tmp_path, data, **options)
    _assert_same(_resumed(tmp_path, data, **options), unbroken)


def test_missing_labels(tmp_path):
    """The optimiser's counts of steps differ between tasks."""
    data = with_missing(0.8)
    options = {"max_epochs": 4, "scalarizer": "uw"}
    unbroken = qmtl.fit(tiny_model(data), data, **QUIET, **options)
    _interrupted(tmp_path, data, **options)
    _assert_same(_resumed(tmp_path, data, **options), unbroken)


def test_disjoint_data(tmp_path):
    data = disjoint_data({"a": 8, "b": 24})
    unbroken = qmtl.fit(tiny_model(data), data, max_epochs=4, **QUIET)
    _interrupted(tmp_path, data, max_epochs=4)
    _assert_same(_resumed(tmp_path, data, max_epochs=4), unbroken)


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 3},
        {"max_epochs": 20, "patience": 1, "optimizer": "sgd", "learning_rate": 1e-12},
    ],
    ids=["all epochs", "early stopping"],
)
def test_a_finished_run_is_not_trained_further(tmp_path, options):
    data = tiny_data()
    first = qmtl.fit(tiny_model(data), data, checkpoints=tmp_path, **QUIET, **options)
    before = (tmp_path / LAST).read_bytes()
    _assert_same(_resumed(tmp_path, data, **options), first)
    assert (tmp_path / LAST).read_bytes() == before


def test_a_moved_folder(tmp_path):
    data = tiny_data()
    unbroken = qmtl.fit(tiny_model(data), data, max_epochs=4, learning_rate=0.3, **QUIET)
    _interrupted(tmp_path / "here", data, max_epochs=4, learning_rate=0.3)
    shutil.move(tmp_path / "here", tmp_path / "there")
    _assert_same(_resumed(tmp_path / "there", data, max_epochs=4, learning_rate=0.3), unbroken)
    assert not (tmp_path / "here").exists()
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == sorted([BEST, LAST])


def test_a_new_run_forgets_the_old_one_in_its_folder(tmp_path):
    data = tiny_data()
    qmtl.fit(tiny_model(data), data, checkpoints=tmp_path, max_epochs=6, **QUIET)
    options = {"max_epochs": 1, "optimizer": "sgd", "learning_rate": 1e-12}
    result = qmtl.fit(tiny_model(data), data, checkpoints=tmp_path, **QUIET, **options)
    fresh = qmtl.fit(tiny_model(data), data, **QUIET, **options)
    _assert_same(result, fresh)


def test_files_that_are_no_checkpoint(tmp_path):
    data = tiny_data()
    with pytest.raises(ModelFileError, match="there is no checkpoint"):
        _resumed(tmp_path, data)
    qmtl.fit(tiny_model(data), data, checkpoints=tmp_path, max_epochs=1, **QUIET)
    whole = (tmp_path / LAST).read_bytes()
    (tmp_path / LAST).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFileError, match=r"last\.ckpt is damaged or cut short") as caught:
        _resumed(tmp_path, data)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)
    (tmp_path / LAST).write_bytes(b"not a checkpoint")
    with pytest.raises(ModelFileError, match="damaged"):
        _resumed(tmp_path, data)
    torch.save({"state_dict": {}}, tmp_path / LAST)
    with pytest.raises(ModelFileError, match="not a checkpoint of qmtl"):
        _resumed(tmp_path, data)


def test_checkpoints_of_another_run(tmp_path):
    data = tiny_data()
    qmtl.fit(tiny_model(data), data, checkpoints=tmp_path, max_epochs=1, **QUIET)
    circuit = qmtl.HeadCircuit(data.tasks)
    encoder = qmtl.encoders.MLP(3, 9, out_features=circuit.n_features, seed=0)
    wider = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
    for epochs in (1, 2):
        with pytest.raises(ModelFileError, match=r"does not fit the model.*layers\.0\.weight"):
            qmtl.fit(wider, data, checkpoints=tmp_path, resume=True, max_epochs=epochs, **QUIET)
    for setting, value in (("optimizer", "sgd"), ("scalarizer", "uw"), ("aggregator", "upgrad")):
        with pytest.raises(InvalidInputError, match=rf"{setting} .*'{value}'"):
            _resumed(tmp_path, data, max_epochs=2, **{setting: value})
    content = torch.load(tmp_path / LAST, weights_only=True)
    for version in (1, 7):
        content["qmtl"]["version"] = version
        torch.save(content, tmp_path / LAST)
        with pytest.raises(ModelFileError, match=rf"version {version}, expected 2") as caught:
            _resumed(tmp_path, data, max_epochs=2)
        assert "\n" not in str(caught.value)
