"""Lightning's callbacks and trainer beside `fit`, and steps of several batches."""

import csv
import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    BatchSizeFinder,
    Callback,
    DeviceStatsMonitor,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)

import qmtl
from qmtl.errors import InvalidInputError, ModelFileError
from qmtl.training import MultiTaskDataModule, MultiTaskModule, TrainingSettings, log_to
from tests.training.samples import (
    QUIET,
    Spy,
    arrays,
    disjoint_data,
    same_state,
    tiny_data,
    tiny_model,
)

# So small that no float32 weight changes, and nothing gets better.
NOTHING = {"optimizer": "sgd", "learning_rate": 1e-12}


def _fit(data=None, model=None, **options):
    data = data or tiny_data()
    return qmtl.fit(model or tiny_model(data), data, **{**QUIET, **options})


@pytest.mark.parametrize(
    ("name", "mode"),
    [("validation/a/accuracy", "max"), ("validation/c/mae", "min"), ("train/b/loss", "min")],
)
def test_callbacks_see_the_metrics_of_tasks(name, mode):
    stop = EarlyStopping(name, mode=mode, patience=2, min_delta=1e-6)
    result = _fit(max_epochs=20, callbacks=[stop], **NOTHING)
    split, task, metric = name.split("/")
    key = {"epoch": 1, "split": split, "task": task, "metric": metric}
    (first,) = [r["value"] for r in result.history if key.items() <= r.items()]
    assert result.epochs == 3
    assert float(stop.best_score) == pytest.approx(first)


def test_a_checkpoint_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"monitor": "validation/a/auroc", "mode": "max", "filename": "{epoch}"}
    mine = ModelCheckpoint(dirpath=tmp_path / "mine", **options)
    _fit(max_epochs=2, callbacks=[mine, ModelCheckpoint(**options | {"monitor": "train/a/loss"})])
    assert len(list((tmp_path / "mine").glob("epoch=*.ckpt"))) == 1
    # Where Lightning puts them, not into a folder that is gone afterwards.
    assert len(list((tmp_path / "checkpoints").glob("epoch=*.ckpt"))) == 1


@pytest.mark.parametrize("name", ["validation/a/accuracy", "validation/c/mae", "validation/b/loss"])
def test_the_monitor_chooses_the_epoch_and_stops(name):
    result = _fit(max_epochs=30, monitor=name, patience=3, learning_rate=0.1)
    _, task, metric = name.split("/")
    key = {"split": "validation", "task": task, "metric": metric}
    values = [r["value"] for r in result.history if key.items() <= r.items()]
    best = max(values) if metric == "accuracy" else min(values)
    assert result.best_epoch == values.index(best) + 1
    assert result.metrics["validation"][task][metric] == pytest.approx(best, rel=1e-5)
    assert result.epochs == min(30, result.best_epoch + 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("validation/a/acuracy", "did you mean 'validation/a/accuracy'"),
        ("a_accuracy", "unknown monitor 'a_accuracy'"),
        ("validation/d/loss", "monitor 'validation/d/loss' needs .* task 'd' has no label"),
    ],
)
def test_a_monitor_that_is_not_there(name, words):
    data = tiny_data()
    data.validation.targets["d"].fill_(float("nan"))
    with pytest.raises(InvalidInputError, match=words):
        _fit(data, monitor=name)


def test_callbacks_that_need_a_logger(tmp_path):
    for callback in (LearningRateMonitor(), DeviceStatsMonitor()):
        with pytest.raises(InvalidInputError, match=r"log_to\('csv'\)"):
            _fit(max_epochs=1, callbacks=[callback])
    with log_to("csv", folder=tmp_path) as log:
        rates = {"learning_rate": 0.1, "head_learning_rate": 0.02, "schedule": "cosine"}
        rates["optimizer"] = "adam"
        _fit(max_epochs=2, callbacks=[log, LearningRateMonitor("epoch")], **rates)
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    seen = [float(r["lr-RowAdam/pg1"]) for r in rows if r["lr-RowAdam/pg1"]]
    assert seen == pytest.approx([0.1, 0.05])
    # And the metrics, once for each epoch.
    assert sum(bool(row["validation/a/accuracy"]) for row in rows) == 2


def test_what_lightning_cannot_do_here_says_what_can():
    with pytest.raises(InvalidInputError, match="accumulate_grad_batches"):
        _fit(callbacks=[GradientAccumulationScheduler({0: 2})])
    with pytest.raises(InvalidInputError, match="validation/TASK/METRIC"):
        _fit(max_epochs=1, callbacks=[ModelCheckpoint(monitor="val_acc")])
    for callback, words in (
        (LearningRateFinder(), "give learning_rate to fit"),
        (BatchSizeFinder(), "give batch_size to fit"),
        (BackboneFinetuning(), "model.encoder"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            _fit(max_epochs=1, callbacks=[callback])
    with pytest.raises(InvalidInputError, match="'famo' measures each step on its own batch"):
        _fit(scalarizer="famo", accumulate_grad_batches=2)


@pytest.mark.parametrize("combiner", [{}, {"scalarizer": "uw"}, {"aggregator": "mean"}])
def test_a_step_of_two_batches_is_one_of_a_batch_twice_as_large(combiner):
    data = tiny_data(60)
    models = [tiny_model(data).double() for _ in range(2)]
    options = {"optimizer": "sgd", "max_epochs": 3, "restore_best": False, "progress": False}
    rows = len(data.train)
    assert rows % 14 == 0
    for model, size, count in zip(models, (7, 14), (2, 1), strict=True):
        given = {"batch_size": size, "accumulate_grad_batches": count}
        qmtl.fit(model, data, **options, **given, **combiner)
    ours, theirs = (model.state_dict() for model in models)
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-9, atol=1e-12)


def test_the_last_batches_of_an_epoch_make_a_step():
    data, spy = tiny_data(60), Spy()
    _fit(data, batch_size=14, accumulate_grad_batches=2, max_epochs=1, callbacks=[spy])
    name = next(iter(spy.steps[0]["before"]))
    moved = [not torch.equal(s["before"][name][0], s["after"][name][0]) for s in spy.steps]
    assert moved == [False, True, True]


def test_a_task_absent_from_all_batches_of_a_step_keeps_its_weights():
    data, spy = disjoint_data({"a": 8, "b": 16, "c": 24}), Spy()
    _fit(data, accumulate_grad_batches=2, max_epochs=1, batch_size=4, callbacks=[spy])
    labels = [~step["batch"].targets.isnan() for step in spy.steps]
    kept = 0
    for first in range(0, len(spy.steps) - 1, 2):
        present = (labels[first] | labels[first + 1]).any(dim=0)
        before, after = (
            spy.steps[i][when]["head.blocks.parameter"][0].view(3, -1)
            for i, when in ((first, "before"), (first + 1, "after"))
        )
        assert ((before == after).all(dim=1) == ~present).all()
        kept += int((~present).sum())
    assert kept


@pytest.mark.parametrize("combiner", [{}, {"aggregator": "upgrad"}])
def test_a_trainer_of_ones_own(combiner):
    """Lightning's usual way comes to the weights of `fit`."""
    data = tiny_data()
    # `fit` would take them from the number of rows.
    combiner = {**combiner, "weight_decay": 0.0}
    settings = TrainingSettings(batch_size=8, **combiner)
    ours, theirs = tiny_model(data), tiny_model(data)
    _fit(data, theirs, max_epochs=2, accelerator="cpu", restore_best=False, **combiner)
    stop = EarlyStopping("validation/a/accuracy", mode="max", patience=5)
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "logger": False}
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", callbacks=[stop], **quiet)
    module, batches = MultiTaskModule(ours, settings), MultiTaskDataModule(data, settings)
    trainer.fit(module, datamodule=batches)
    assert same_state(ours, theirs)
    assert {row["split"] for row in module.history} == {"train", "validation"}


def test_a_module_that_is_trained_again_on_other_data():
    X, targets = arrays()
    tasks, settings = [qmtl.Task.regression("c")], TrainingSettings(batch_size=8)
    first, second = (
        qmtl.data.from_arrays(X, {"c": factor * targets["c"]}, tasks=tasks) for factor in (1, 1000)
    )
    head = qmtl.LinearHead(tasks, n_features=3, seed=0)
    module = MultiTaskModule(qmtl.MultiTaskModel(torch.nn.Identity(), head), settings)
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "logger": False}
    for data in (first, second):
        trainer = pl.Trainer(max_epochs=1, accelerator="cpu", **quiet)
        trainer.fit(module, datamodule=MultiTaskDataModule(data, settings))
    # Losses are those of standardised targets.
    assert max(row["value"] for row in module.history if row["metric"] == "loss") < 5


class Modes(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        encoder = pl_module.model.encoder
        self.seen = [module.training for module in encoder.modules()]


@pytest.mark.parametrize("again", ["fit", "load"])
def test_a_second_training_drops_out_as_the_first_did(tmp_path, again):
    data, modes = tiny_data(), Modes()
    model = tiny_model(data, dropout=0.5)
    _fit(data, model, max_epochs=1, callbacks=[modes])
    assert all(modes.seen)
    if again == "load":
        model.save(tmp_path)
        model = qmtl.load(tmp_path)
    assert not model.training
    _fit(data, model, max_epochs=1, callbacks=[modes])
    assert all(modes.seen)


def test_a_part_that_the_caller_keeps_in_evaluation_mode_stays_there():
    data, modes = tiny_data(), Modes()
    model = tiny_model(data, dropout=0.5)
    model.encoder.eval()
    _fit(data, model, max_epochs=1, callbacks=[modes])
    assert not any(modes.seen)


def test_what_a_callback_cannot_do_is_one_line():
    data = tiny_data()
    with pytest.raises(InvalidInputError, match="batch_size not found"):
        qmtl.fit(tiny_model(data), data, max_epochs=1, callbacks=[BatchSizeFinder()], **QUIET)
    # Lightning's own error names the metrics that there are.
    stop = EarlyStopping("val_loss")
    with pytest.raises(RuntimeError, match="validation/a/accuracy"):
        qmtl.fit(tiny_model(data), data, max_epochs=1, callbacks=[stop], **QUIET)


def _loss(values):
    return sum(v["loss"] for v in values.values()) / len(values)


def test_averaged_weights_are_those_whose_validation_loss_was_best():
    data = tiny_data()
    averages = EMAWeightAveraging(decay=0.9)
    result = _fit(data, max_epochs=4, callbacks=[averages], learning_rate=0.05)
    losses = {}
    for row in result.history:
        if (row["split"], row["metric"]) == ("validation", "loss"):
            losses.setdefault(row["epoch"], []).append(row["value"])
    means = {epoch: sum(values) / len(values) for epoch, values in losses.items()}
    assert result.best_epoch == min(means, key=means.get)
    assert _loss(result.metrics["validation"]) == pytest.approx(min(means.values()), rel=1e-5)


@pytest.mark.parametrize("permanent", [True, False])
def test_the_best_epoch_of_a_pruned_model_is_pruned(permanent):
    data = tiny_data()
    model = tiny_model(data)
    pruned = [(m, "weight") for m in model.encoder.modules() if isinstance(m, torch.nn.Linear)]
    given = {"parameters_to_prune": pruned, "amount": 0.5, "make_pruning_permanent": permanent}
    _fit(data, model, max_epochs=2, callbacks=[ModelPruning("l1_unstructured", **given)])
    zeros = sum(int((m.weight == 0).sum()) for m, _ in pruned)
    number = sum(m.weight.numel() for m, _ in pruned)
    assert number / 2 - 1 <= zeros < number
    assert all(hasattr(m, "weight_mask") is not permanent for m, _ in pruned)


class Thaw(BaseFinetuning):
    """Trains the encoder from the third epoch to the fourth only, and keeps its weights."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.model.encoder)

    def finetune_function(self, pl_module, epoch, optimizer):
        encoder = pl_module.model.encoder
        if epoch == 2:
            self.unfreeze_and_add_param_group(encoder, optimizer, lr=0.01)
        if epoch == 4:
            self.freeze(encoder)
        self.seen.append(torch.cat([p.detach().flatten() for p in encoder.parameters()]))


@pytest.mark.parametrize(
    "options", [{}, {"aggregator": "upgrad"}, {"flatness": 0.05}, {"accumulate_grad_batches": 2}]
)
def test_a_callback_may_freeze_and_unfreeze_the_encoder(options):
    thaw = Thaw()
    with warnings.catch_warnings():  # Lightning's: the optimiser has these parameters already
        warnings.simplefilter("ignore", UserWarning)
        _fit(max_epochs=6, callbacks=[thaw], restore_best=False, **options)
    changed = [not torch.equal(a, b) for a, b in itertools.pairwise(thaw.seen)]
    assert changed == [False, False, True, True, False]


def test_an_encoder_that_a_callback_unfreezes_leaves_other_tasks_alone():
    data = tiny_data()
    model = tiny_model(data)
    before = model.predict(data.test.inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        _fit(data, model, max_epochs=4, callbacks=[Thaw()], restore_best=False, tasks=["b"])
    found = model.predict(data.test.inputs)
    assert [torch.equal(found[name], before[name]) for name in "abcd"] == [True, False, True, True]


class Starts(Callback):
    """The weights at the start of each epoch."""

    def __init__(self):
        self.seen = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.seen.append(torch.cat([p.detach().flatten() for p in pl_module.model.parameters()]))


def test_stochastic_averages_of_weights():
    data, starts = tiny_data(), Starts()
    callbacks = [StochasticWeightAveraging(0.01, swa_epoch_start=2), starts]
    result = _fit(data, max_epochs=4, callbacks=callbacks, restore_best=False)
    found = torch.cat([p.detach().flatten() for p in result.model.parameters()])
    assert torch.allclose(found, torch.stack(starts.seen[1:]).mean(0), atol=1e-6)
    for change in ({"restore_best": True}, {"model": _normalised(data)}):
        with pytest.raises(InvalidInputError, match="WeightAveraging averages during training"):
            _fit(data, **{"restore_best": False, "callbacks": callbacks[:1], **change})


def _normalised(data):
    model = tiny_model(data)
    model.encoder = torch.nn.Sequential(torch.nn.BatchNorm1d(data.n_inputs), model.encoder)
    return model


@pytest.mark.parametrize(("epochs", "rate"), [(13, 5e-8), (14, 2.5e-8)])
def test_a_plateau_counts_the_epochs_with_a_validation(epochs, rate):
    data = tiny_data()
    options = {"schedule": "plateau", "optimizer": "sgd", "learning_rate": 5e-8}
    settings = TrainingSettings(batch_size=8, **options)
    module = MultiTaskModule(tiny_model(data), settings)
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "logger": False}
    trainer = pl.Trainer(max_epochs=epochs, check_val_every_n_epoch=2, accelerator="cpu", **quiet)
    trainer.fit(module, datamodule=MultiTaskDataModule(data, settings))
    rows = {row["epoch"] for row in module.history if row["split"] == "validation"}
    assert rows == set(range(2, epochs + 1, 2))
    # The rate is halved after the sixth validation that is no better than the first.
    assert trainer.optimizers[0].param_groups[0]["lr"] == rate


def test_lightnings_trainer_validates_and_tests():
    data, settings = tiny_data(), TrainingSettings(batch_size=8)
    model = tiny_model(data)
    module, batches = MultiTaskModule(model, settings), MultiTaskDataModule(data, settings)
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "logger": False}
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", **quiet)
    trainer.fit(module, datamodule=batches)
    (validated,) = trainer.validate(module, datamodule=batches, verbose=False)
    (tested,) = trainer.test(module, datamodule=batches, verbose=False)
    for split, found in (("validation", validated), ("test", tested)):
        rows = data.splits[split]
        expected = qmtl.training.evaluate(model, rows)
        for task, metrics in expected.items():
            for metric, value in metrics.items():
                assert found[f"{split}/{task}/{metric}"] == pytest.approx(value, nan_ok=True)


def test_lightnings_module_loads_from_a_checkpoint_of_fit(tmp_path):
    data, settings = tiny_data(), TrainingSettings(max_epochs=1)
    model = tiny_model(data)
    qmtl.fit(model, data, settings, progress=False, callbacks=ModelCheckpoint(tmp_path, "one"))
    fresh = tiny_model(data)
    MultiTaskModule.load_from_checkpoint(tmp_path / "one.ckpt", model=fresh, settings=settings)
    assert torch.equal(fresh.predict(data.test.inputs)["a"], model.predict(data.test.inputs)["a"])
    with pytest.raises(ModelFileError, match="the checkpoint has seed 0, the settings 1"):
        MultiTaskModule.load_from_checkpoint(
            tmp_path / "one.ckpt", model=fresh, settings=TrainingSettings(max_epochs=1, seed=1)
        )


def test_one_callback_without_a_list():
    stop = EarlyStopping("validation_loss")
    _fit(max_epochs=1, callbacks=stop)
    assert torch.isfinite(stop.best_score)


@pytest.mark.parametrize("given", [3, "csv", [EarlyStopping], [None]])
def test_what_is_no_callback(given):
    with pytest.raises(InvalidInputError, match="callbacks must be Lightning callbacks, got"):
        _fit(max_epochs=1, callbacks=given)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_precisions_that_convert_models_are_refused(precision):
    data, settings = tiny_data(), TrainingSettings(max_epochs=1)
    module = MultiTaskModule(tiny_model(data), settings)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", precision=precision, **quiet)
    with pytest.raises(InvalidInputError, match=r"train model\.double\(\)"):
        trainer.fit(module, datamodule=MultiTaskDataModule(data, settings))


def test_only_features_that_are_not_finite_hint_at_divergence():
    narrow = tiny_model(tiny_data())
    narrow.encoder = torch.nn.Sequential(narrow.encoder, torch.nn.Unflatten(1, (-1, 1)))
    with pytest.raises(InvalidInputError, match=r"must have shape .*got \(\d+, \d+, 1\)$"):
        _fit(model=narrow, max_epochs=1)


def one_column(data):
    circuit = qmtl.HeadCircuit(data.tasks)
    encoder = qmtl.encoders.MLP(1, 5, out_features=circuit.n_features, seed=0)
    return qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))


def test_the_columns_of_a_table_come_with_its_data():
    """A data frame gets the scale of training, after Lightning's usual way, too."""
    a = np.random.default_rng(0).normal(1000, 100, 80)
    frame = pd.DataFrame({"a": a, "y": np.where(a > 1000, "high", "low")})
    data = qmtl.data.from_frame(frame, targets=["y"])
    model = one_column(data)
    with pytest.warns(UserWarning, match=r"model\.columns = data\.columns"):
        model.predict(frame[["a"]])
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "logger": False}
    settings = TrainingSettings(batch_size=8)
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", **quiet)
    trainer.fit(MultiTaskModule(model, settings), datamodule=MultiTaskDataModule(data, settings))
    model.eval()
    expected = model.predict(data.test.inputs)["y"]
    rows = data.test.index.numpy()
    assert torch.equal(model.predict(frame[["a"]].iloc[rows])["y"], expected)
    own = one_column(data)
    own.load_state_dict(model.state_dict())
    own.columns = data.columns
    assert torch.equal(own.predict(frame[["a"]].iloc[rows])["y"], expected)
