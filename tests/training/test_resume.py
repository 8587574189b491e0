"""A run that was interrupted and resumed is the unbroken run, bit for bit."""

import errno
import shutil

import pytest
import torch
from pytorch_lightning.callbacks import Callback

import qmtl
from qmtl.errors import InvalidInputError, ModelFileError
from qmtl.training import make_scalarizer
from qmtl.training._checkpoints import BEST, LAST
from qmtl.training._combine import combiner_state, load_combiner_state
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
    **{name: {"scalarizer": name} for name in ("uw", "famo", "dwa", "imtll", "random")},
    **{
        name: {"aggregator": name}
        for name in ("nashmtl", "graddrop", "gradvac", "pcd", "excessmtl", "upgrad")
    },
    "cosine": {"schedule": "cosine"},
    "plateau": {"schedule": "plateau", "learning_rate": 0.3, "max_epochs": 4},
    "patience": {"patience": 3, "learning_rate": 0.3, "max_epochs": 4},
    "sgd": {"optimizer": "sgd", "gradient_clip": 0.1},
    "last": {"restore_best": False, "head_learning_rate": 0.1},
    "drawn inputs": {"adversarial": {"epsilon": 0.1, "share": 0.5}},
    "auxiliary tasks": {"auxiliary": 2},
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
    options = {"max_epochs": 3, "seed": 2, **CASES[name]}
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


@pytest.mark.parametrize("change", [{"seed": 5}, {"gradient_clip": 0.1}, {"batch_size": 4}])
def test_a_run_with_other_settings_does_not_resume(tmp_path, change):
    data = tiny_data()
    qmtl.fit(tiny_model(data), data, checkpoints=tmp_path, max_epochs=1, **QUIET)
    options = {**QUIET, "max_epochs": 2, **change}
    with pytest.raises(ModelFileError, match=f"{next(iter(change))} .*, the settings"):
        qmtl.fit(tiny_model(data), data, checkpoints=tmp_path, resume=True, **options)


def test_weights_of_the_best_epoch_that_are_gone_are_missed(tmp_path):
    data, options = tiny_data(), {"max_epochs": 3}
    qmtl.fit(tiny_model(data), data, checkpoints=tmp_path, **options, **QUIET)
    (tmp_path / BEST).unlink()
    with pytest.raises(ModelFileError, match=f"no checkpoint .*{BEST}"):
        _resumed(tmp_path, data, **options)


def test_a_new_run_that_is_killed_early_leaves_no_old_one_to_resume(tmp_path):
    data = tiny_data()
    qmtl.fit(tiny_model(data), data, checkpoints=tmp_path, max_epochs=2, **QUIET)
    _interrupted(tmp_path, data, epoch=0, max_epochs=4, seed=1)
    with pytest.raises(ModelFileError, match="no checkpoint"):
        _resumed(tmp_path, data, max_epochs=4, seed=1)


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


def _edit(folder, change):
    content = torch.load(folder / LAST, weights_only=True)
    change(content)
    torch.save(content, folder / LAST)


def _without_settings(content):
    del content["qmtl"]["settings"]


EDITS = {
    "a weight": lambda c: c["state_dict"]["model.encoder.layers.0.bias"].add_(1e-3),
    "the epoch": lambda c: c.update(epoch="x"),
    "a moment": lambda c: c["optimizer_states"][0]["state"][0].update(exp_avg=None),
    "a learning rate": lambda c: c["optimizer_states"][0]["param_groups"][0].update(lr=None),
    "a task": lambda c: c["qmtl"]["history"]["keys"].__setitem__(0, "x"),
    "a table": lambda c: c.update(loops=1),
    "a key": _without_settings,
    "the seal": lambda c: c.update(digest="0"),
    "no seal": lambda c: c.pop("digest"),
    "a class": lambda c: c["qmtl"]["combiner"]["attributes"].update(
        {"": {"x": {"kind": "Optimizer", "value": 0}}}
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_checkpoint_is_refused_in_one_line(tmp_path, edit):
    data = tiny_data()
    qmtl.fit(tiny_model(data), data, checkpoints=tmp_path, max_epochs=1, **QUIET)
    _edit(tmp_path, EDITS[edit])
    with pytest.raises(ModelFileError, match=r"last\.ckpt was changed") as caught:
        _resumed(tmp_path, data, max_epochs=2)
    assert "\n" not in str(caught.value)


def test_a_swapped_checkpoint_is_refused_in_one_line(tmp_path):
    data = tiny_data()
    qmtl.fit(tiny_model(data), data, checkpoints=tmp_path, max_epochs=1, **QUIET)
    turned = data.subset([task.name for task in data.tasks[::-1]])
    with pytest.raises(ModelFileError, match="the checkpoint has the tasks"):
        _resumed(tmp_path, turned, max_epochs=2)
    shutil.copy(tmp_path / BEST, tmp_path / LAST)
    with pytest.raises(ModelFileError, match="does not fit this run") as caught:
        _resumed(tmp_path, data, max_epochs=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Optimizer", "__class__", "lr_scheduler", "os"])
def test_a_name_in_a_checkpoint_reaches_no_class_but_three(name):
    combiner = make_scalarizer("famo", 2)
    state = combiner_state(combiner)
    state["attributes"][""]["_optimizer"] = {"kind": name, "value": {}}
    with pytest.raises(InvalidInputError, match=f"'{name}'"):
        load_combiner_state(combiner, state)
    state["attributes"][""] = {"forward": {"kind": "plain", "value": 1}}
    with pytest.raises(ModelFileError, match="keeps no 'forward'"):
        load_combiner_state(combiner, state)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "plateau"])
def test_a_resumed_run_takes_new_rates(tmp_path, schedule):
    data, options = tiny_data(), {"schedule": schedule, "restore_best": False}
    first = tmp_path / "first"
    qmtl.fit(tiny_model(data), data, checkpoints=first, max_epochs=2, **options, **QUIET)
    results = {}
    for name, value in {"seed": 0, "learning_rate": 1e-6, "head_learning_rate": 0.2,
                        "weight_decay": 0.5}.items():  # fmt: skip
        folder = shutil.copytree(first, tmp_path / name)
        results[name] = _resumed(folder, data, max_epochs=4, **options, **{name: value})
    same = results.pop("seed")  # as before
    for name, other in results.items():
        assert not same_state(same.model, other.model), name


class Rates(Callback):
    """Takes down the learning rate of every epoch."""

    def __init__(self):
        self.rates = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_a_longer_run_takes_its_schedule_to_the_new_end(tmp_path):
    data, options = tiny_data(), {"schedule": "cosine", "learning_rate": 0.4}
    qmtl.fit(tiny_model(data), data, checkpoints=tmp_path, max_epochs=2, **options, **QUIET)
    rates = Rates()
    qmtl.fit(
        tiny_model(data), data, checkpoints=tmp_path, resume=True, max_epochs=4,
        callbacks=[rates], **options, **QUIET,
    )  # fmt: skip
    # The third and fourth of four epochs: half of the way down, and three quarters.
    assert rates.rates == pytest.approx([0.2, 0.4 * (1 - 0.5**0.5) / 2])


def test_a_resumed_run_takes_a_new_patience(tmp_path):
    data = tiny_data()
    options = {"optimizer": "sgd", "learning_rate": 1e-12, "max_epochs": 20}
    first = qmtl.fit(tiny_model(data), data, checkpoints=tmp_path, patience=1, **options, **QUIET)
    assert first.epochs == 2
    assert _resumed(tmp_path, data, patience=1, **options).epochs == 2
    assert _resumed(tmp_path, data, patience=4, **options).epochs == 5


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    data = tiny_data()
    qmtl.fit(tiny_model(data), data, checkpoints=tmp_path, max_epochs=1, **QUIET)
    before = (tmp_path / LAST).read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(ModelFileError, match=r"ckpt cannot be written: No space") as e:
            _resumed(tmp_path, data, max_epochs=2)
    assert "\n" not in str(e.value)
    assert (tmp_path / LAST).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([BEST, LAST])


def test_what_a_killed_process_left_is_removed(tmp_path):
    data = tiny_data()
    qmtl.fit(tiny_model(data), data, checkpoints=tmp_path, max_epochs=1, **QUIET)
    (tmp_path / f".{LAST}.abc123").write_bytes(b"half")
    _resumed(tmp_path, data, max_epochs=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([BEST, LAST])


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
