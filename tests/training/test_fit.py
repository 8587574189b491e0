"""fit: settings, schedules, early stopping, reproducibility, errors."""

import functools
import math
import runpy
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_lightning.callbacks import Callback

import qmtl
from qmtl.errors import InvalidInputError, QmtlError
from tests.training.samples import (
    QUIET,
    InterruptAt,
    Spy,
    arrays,
    same_state,
    tiny_data,
    tiny_model,
    with_missing,
)


def _fit(data=None, model=None, **options):
    data = data or tiny_data()
    return qmtl.fit(model or tiny_model(data), data, **{**QUIET, **options})


def _rates(**options) -> list[list[float]]:
    spy = Spy()
    _fit(callbacks=[spy], **options)
    return spy.rates


def test_same_seed_twice_and_the_callers_random_numbers():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = _fit(max_epochs=2, seed=3, aggregator="random")
    assert torch.equal(torch.rand(3), expected)
    second = _fit(max_epochs=2, seed=3, aggregator="random")
    other = _fit(max_epochs=2, seed=4, aggregator="random")
    assert first.history == second.history
    assert first.metrics == second.metrics
    assert same_state(first.model, second.model)
    assert other.history != first.history


def test_class_weights_that_the_model_lacks():
    data = tiny_data().with_class_weights("balanced")
    with pytest.warns(
        UserWarning, match=r"in the data have no effect: .* from data\.tasks"
    ) as told:
        _fit(data, tiny_model(tiny_data()), max_epochs=1)
    assert {warning.filename for warning in told} == {__file__}
    expected = _fit(tiny_data(), max_epochs=1).history
    assert _fit(data, max_epochs=1).history != expected


def test_a_rank_that_is_no_number(monkeypatch):
    # In a new process, the file runs before Lightning is imported, which reads this.
    monkeypatch.setenv("LOCAL_RANK", "x")
    with pytest.raises(InvalidInputError, match=r"variable LOCAL_RANK, .* number, got 'x'; unset"):
        runpy.run_path(qmtl.training.__file__)
    monkeypatch.setenv("LOCAL_RANK", "-1")  # as some launchers say that there is one process
    runpy.run_path(qmtl.training.__file__)


def test_the_result():
    data = tiny_data()
    result = _fit(data, max_epochs=3)
    assert result.epochs == 3
    assert {row["epoch"] for row in result.history} == {1, 2, 3}
    assert list(result.metrics) == list(result.baselines) == ["train", "validation", "test"]
    table = result.table()
    assert [row["task"] for row in table if row["metric"] in ("accuracy", "r2")] == list("abcd")
    assert all("baseline" in row for row in table)
    assert result.checkpoints is None
    assert not result.model.training


def test_progress_lines(capsys):
    _fit(max_epochs=2, progress=True)
    out = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in out] == ["epoch 1/2", "epoch 2/2"]
    assert all(float(line.split()[-1]) > 0 for line in out)
    _fit(max_epochs=1)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_early_stopping_and_best_epoch():
    # So small a rate changes no float32 weight: nothing gets better.
    result = _fit(max_epochs=20, patience=2, optimizer="sgd", learning_rate=1e-12)
    assert result.epochs == 3
    assert result.best_epoch == 1


def test_restore_best_keeps_the_best_validation_epoch():
    options = {"max_epochs": 4, "learning_rate": 0.5}
    best = _fit(**options)
    last = _fit(restore_best=False, **options)
    losses = [
        sum(r["value"] for r in best.history if (r["epoch"], r["split"], r["metric"]) == key)
        for key in ((epoch, "validation", "loss") for epoch in range(1, 5))
    ]
    assert best.best_epoch == losses.index(min(losses)) + 1 < 4
    kept = sum(values["loss"] for values in best.metrics["validation"].values())
    assert kept == pytest.approx(min(losses), rel=1e-5)
    assert last.best_epoch == 4
    ended = sum(values["loss"] for values in last.metrics["validation"].values())
    assert ended == pytest.approx(losses[-1], rel=1e-5)
    assert best.history == last.history


def test_cosine_schedule_goes_to_zero():
    rates = [rate for rate, _ in _rates(max_epochs=4, schedule="cosine", learning_rate=0.1)]
    expected = [0.05 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]
    assert rates == pytest.approx(expected)


def test_plateau_schedule_halves_after_five_epochs_without_progress():
    options = {"optimizer": "sgd", "learning_rate": 1e-7}
    rates = [rate for rate, _ in _rates(max_epochs=9, schedule="plateau", **options)]
    assert rates == [1e-7] * 7 + [5e-8] * 2


@pytest.mark.parametrize("combiner", [{"scalarizer": "sum"}, {"aggregator": "sum"}])
def test_gradient_clip_bounds_the_norm(combiner):
    for clip, bounded in ((0.01, True), (None, False)):
        spy = Spy()
        _fit(max_epochs=1, gradient_clip=clip, callbacks=[spy], **combiner)
        for step in spy.steps:
            squares = [g.square().sum() for g in step["gradients"].values() if g is not None]
            norm = float(torch.stack(squares).sum().sqrt())
            assert (norm <= 0.01 * (1 + 1e-5)) == bounded


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_kernel_steps_as_a_loop_does(monkeypatch, optimizer, dtype):
    data, spy = with_missing(0.8), Spy()
    options = {"optimizer": optimizer, "max_epochs": 2, "weight_decay": 0.1, "schedule": "cosine"}
    models = []
    for devices in (("cpu",), ()):
        monkeypatch.setattr("qmtl.training._optimizers.FUSED", devices)
        models.append(tiny_model(data).to(dtype))
        qmtl.fit(models[-1], data, callbacks=[spy], **QUIET, **options)
        assert bool(spy.module.trainer.optimizers[0].defaults["fused"]) == bool(devices)
    tight = 1e-10 if dtype == torch.float64 else 1e-4
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tight, atol=tight)


def test_learning_rates_and_weight_decay_by_part():
    seen = {}

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            seen["optimizer"] = trainer.optimizers[0]
            seen["module"] = pl_module

    options = {"learning_rate": 0.02, "head_learning_rate": 0.3, "weight_decay": 0.1}
    options["schedule"] = "constant"
    for name, kind in (("adam", "RowAdam"), ("adamw", "RowAdamW"), ("sgd", "RowSGD")):
        _fit(max_epochs=1, optimizer=name, scalarizer="uw", callbacks=[Look()], **options)
        assert type(seen["optimizer"]).__name__ == kind
        parts = {}
        for group in seen["optimizer"].param_groups:
            for parameter in group["params"]:
                parts[id(parameter)] = (group["lr"], group["weight_decay"])
        module = seen["module"]
        assert {parts[id(p)] for p in module.model.encoder.parameters()} == {(0.02, 0.1)}
        assert {parts[id(p)] for p in module.model.head.parameters()} == {(0.3, 0.0)}
        assert {parts[id(p)] for p in module.combiner.parameters()} == {(0.02, 0.0)}


def test_stateful_scalarizers_do_their_own_part(monkeypatch):
    from torchjd import scalarization

    calls = []
    update, step = scalarization.FAMO.update, scalarization.DWA.step
    famo = lambda self, values: (calls.append(len(values)), update(self, values))  # noqa: E731
    monkeypatch.setattr(scalarization.FAMO, "update", famo)
    monkeypatch.setattr(scalarization.DWA, "step", lambda self: (calls.append("s"), step(self)))
    data = tiny_data()
    _fit(data, max_epochs=2, scalarizer="famo")
    assert calls == [4] * (2 * math.ceil(len(data.train) / 8))
    calls.clear()
    _fit(data, max_epochs=3, scalarizer="dwa")
    assert calls == ["s"] * 3
    seen = []

    class Weights(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(torch.cat([p.detach() for p in pl_module.combiner.parameters()]))

    _fit(max_epochs=2, scalarizer="uw", callbacks=[Weights()])
    assert seen[0].shape == (4,)
    assert (seen[0] != seen[1]).all()


def test_a_float64_model_trains_in_float64():
    data = tiny_data()
    result = _fit(data, tiny_model(data).double(), max_epochs=1, aggregator="upgrad")
    assert {p.dtype for p in result.model.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scalarizer": "mean", "aggregator": "upgrad"}, ["not both", "'mean'", "'upgrad'"]),
        ({"max_epoch": 3}, ["unknown training setting 'max_epoch'", "'max_epochs'"]),
        ({"max_epochs": 0}, ["max_epochs", "1", "got 0"]),
        ({"optimizer": "lbfgs"}, ["optimizer", "Known: adam", "'lbfgs'"]),
        (
            {"optimizer": torch.optim.SGD([torch.ones(1)])},
            ["optimizer", "'adam'", "got SGD ( Parameter Group 0"],
        ),
        ({"lr": 0.1}, ["unknown training setting 'lr'; did you mean 'learning_rate'?"]),
        ({"learning_rate": math.nan}, ["learning_rate", "finite", "nan"]),
        ({"temperature": math.inf}, ["temperature", "finite", "inf"]),
        ({"learning_rate": -1.0}, ["learning_rate", "greater than 0", "-1.0"]),
        ({"seed": -1, "patience": 0}, ["seed", "patience"]),
        ({"devices": 1, "accelerator": "tpu"}, ["accelerator", "'tpu'"]),
    ],
)
def test_settings_that_do_not_fit(options, words):
    data = tiny_data()
    with pytest.raises(InvalidInputError) as caught:
        qmtl.fit(tiny_model(data), data, **options)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_settings_or_keywords_not_both():
    data = tiny_data()
    with pytest.raises(InvalidInputError, match="not both"):
        qmtl.fit(tiny_model(data), data, qmtl.TrainingSettings(), max_epochs=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_an_accelerator_that_is_not_there():
    with pytest.raises(InvalidInputError, match="'gpu'"):
        _fit(max_epochs=1, accelerator="gpu")


def test_a_loss_that_is_not_finite_names_task_and_epoch():
    data = tiny_data()
    with pytest.raises(QmtlError, match=r"task.* 'c'.* epoch \d, step \d.*learning rate"):
        _fit(data, max_epochs=3, optimizer="sgd", learning_rate=1e38)
    model = tiny_model(data)
    model.head.load_state_dict(model.head.state_dict() | {"scales.task_b": torch.tensor(torch.nan)})
    with pytest.raises(QmtlError, match="loss of task 'b' is nan in epoch 1, step 0"):
        _fit(data, model, max_epochs=3)


def test_tasks_of_data_and_model_must_agree():
    data = tiny_data()
    with pytest.raises(InvalidInputError, match=r"\['a', 'b', 'c', 'd'\].*\['b', 'a'\]"):
        _fit(data.subset(["b", "a"]), tiny_model(data))
    other = qmtl.data.from_arrays(
        torch.rand(30, 3), {"a": torch.arange(30) % 3}, tasks=[qmtl.Task.multiclass("a", 3)]
    )
    with pytest.raises(
        InvalidInputError, match=r"'a' of the data is multiclass with 3 .* is binary with"
    ):
        _fit(other, tiny_model(data.subset(["a"])))


def test_class_names_of_data_and_model_must_agree():
    X, y = torch.rand(30, 3), torch.arange(30) % 2
    plain, named, turned = (
        qmtl.data.from_arrays(X, {"a": y}, tasks=[qmtl.Task.binary("a", class_names=names)])
        for names in (None, ("no", "yes"), ("yes", "no"))
    )
    with pytest.raises(InvalidInputError, match=r"classes yes, no; that of the model .* no, yes"):
        _fit(turned, tiny_model(named))
    for data, other in ((plain, named), (named, plain)):
        _fit(data, tiny_model(other), max_epochs=1)


def test_some_tasks_are_trained_on_tables_as_the_model_encodes_them():
    frames = [
        pd.DataFrame(np.eye(30, 3) * scale, columns=list("xyz")).assign(
            a=[0, 1] * 15, b=[0, 1, 1] * 10
        )
        for scale in (1, 100)
    ]
    first, other = (
        qmtl.data.from_frame(frame, targets=[name], inputs=list("xyz"))
        for frame, name in zip(frames, "ab", strict=True)
    )
    model = tiny_model(first)
    _fit(first, model, max_epochs=1)
    larger = model.with_task(other.tasks[0], seed=0)
    with pytest.warns(UserWarning, match=r"model has x .*scale.*from_arrays\(model.as_samples"):
        _fit(other, larger, tasks=["b"], max_epochs=1)
    assert larger.columns == first.columns
    renamed = qmtl.data.from_frame(
        frames[1].rename(columns={"x": "u"}), targets=["b"], ignore=["a"]
    )
    with pytest.raises(InvalidInputError, match=r"differently: .*from_arrays\(model.as_samples"):
        _fit(renamed, larger, tasks=["b"], max_epochs=1)
    inputs = larger.as_samples(frames[1])
    fitting = qmtl.data.from_arrays(inputs, {"b": frames[1]["b"]}, tasks=other.tasks)
    _fit(fitting, larger, tasks=["b"], max_epochs=1)
    assert larger.columns == first.columns


def test_a_split_is_not_the_data():
    data = tiny_data()
    with pytest.raises(InvalidInputError, match=r"data must be MultiTaskData.* got Split"):
        _fit(data.train, tiny_model(data))


def test_ctrl_c_is_a_keyboard_interrupt_and_stays_one():
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        _fit(max_epochs=2, callbacks=[InterruptAt(0, KeyboardInterrupt)])
    assert signal.getsignal(signal.SIGINT) is handler


@functools.cache
def _trained_on_labels(centre, width):
    X, targets = arrays(40)
    task = qmtl.Task.regression("c", metrics=["r2", "pearson", "spearman"])
    labels = centre + width * targets["c"].astype("float64")
    data = qmtl.data.from_arrays(X, {"c": labels}, tasks=[task])
    model = qmtl.MultiTaskModel(qmtl.encoders.Identity(3), qmtl.heads.LinearHead([task], 3, seed=0))
    result = qmtl.fit(model, data, max_epochs=10, learning_rate=0.1, **QUIET)
    return result.metrics["test"]["c"], result.baselines["test"]["c"]


@pytest.mark.parametrize(("centre", "width"), [(1.7e9, 1e3), (1.7e9, 1.0), (0, 1e30), (0, 1e-30)])
def test_labels_of_any_size_train_alike(centre, width):
    found, plain = _trained_on_labels(centre, width), _trained_on_labels(0, 1)
    for metrics, expected in zip(found, plain, strict=True):
        for name, value in expected.items():
            assert metrics[name] == pytest.approx(value, abs=1e-3, nan_ok=True)


def test_a_target_without_training_labels():
    X, _ = arrays(20)
    task = qmtl.Task.regression("c", 2)
    labels = np.stack([X[:, 0], np.full(20, np.nan)], axis=1)
    data = qmtl.data.from_arrays(X, {"c": labels}, tasks=[task])
    model = qmtl.MultiTaskModel(qmtl.encoders.Identity(3), qmtl.heads.LinearHead([task], 3, seed=0))
    with pytest.raises(qmtl.errors.InvalidInputError, match="'c': the targets' means"):
        qmtl.fit(model, data, max_epochs=1, **QUIET)


def _without_validation_labels():
    data = tiny_data()
    for values in data.validation.targets.values():
        values.fill_(math.nan if values.is_floating_point() else -100)
    return data


@pytest.mark.parametrize(
    ("options", "words"),
    [({"patience": 2}, "patience 2 needs"), ({"schedule": "plateau"}, "schedule 'plateau' needs")],
)
def test_what_needs_a_validation_loss_needs_labels(options, words):
    with pytest.raises(InvalidInputError, match=f"{words} a validation loss.*no task has a label"):
        _fit(_without_validation_labels(), max_epochs=3, **options)


def test_without_validation_labels_the_last_epoch_is_kept():
    data = _without_validation_labels()
    result = _fit(data, max_epochs=3)
    last = _fit(data, max_epochs=3, restore_best=False)
    assert (result.epochs, result.best_epoch) == (3, 3)
    assert same_state(result.model, last.model)


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        ({"z": [0, 1]}, {}, r"targets of \['z'\], .* tasks \['a', 'b', 'c', 'd'\]: none in common"),
        ({"a": [0, 2]}, {}, "labels of binary task 'a': row 1 has 2; allowed are whole numbers 0"),
        ({"b": [0, 3]}, {}, "labels of multiclass task 'b': row 1 has 3; allowed are whole number"),
        ({"a": [0, 1]}, {"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
        ({"a": [0, 1]}, {"attack": 0.1}, "attack must be a Attack, got float"),
    ],
)
def test_evaluate_refuses_targets_of_other_tasks(targets, options, message):
    split = qmtl.data.Split(
        torch.zeros(2, 3), {name: torch.tensor(values) for name, values in targets.items()}
    )
    with pytest.raises(InvalidInputError, match=message):
        qmtl.training.evaluate(tiny_model(tiny_data()), split, **options)
