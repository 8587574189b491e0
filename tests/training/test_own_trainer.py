"""`MultiTaskModule` in a trainer of the user's own: its options, loggers and `Trainer.predict`."""

import csv

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger

from qmtl.errors import InvalidInputError
from qmtl.training import MultiTaskDataModule, MultiTaskModule, TrainingSettings
from tests.training.samples import tiny_data, tiny_model


def parts(**settings):
    data, settings = tiny_data(), TrainingSettings(batch_size=8, **settings)
    return MultiTaskModule(tiny_model(data), settings), MultiTaskDataModule(data, settings)


def trainer(**options):
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "logger": False}
    return pl.Trainer(**{"accelerator": "cpu", "enable_model_summary": False, **quiet, **options})


def test_its_loggers_get_the_metrics_of_every_epoch(tmp_path):
    module, batches = parts()
    logger = CSVLogger(tmp_path)
    trainer(max_epochs=2, logger=logger).fit(module, datamodule=batches)
    with open(f"{logger.log_dir}/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    steps = len(batches.train_dataloader())
    assert [row["step"] for row in rows] == [str(steps), str(2 * steps)]
    for row in module.history:
        given = rows[row["epoch"] - 1][f"{row['split']}/{row['task']}/{row['metric']}"]
        assert float(given) == pytest.approx(row["value"])


def test_it_predicts():
    module, batches = parts()
    own = trainer(max_epochs=1)
    inputs = batches.data.test.inputs
    expected = module.model.predict(inputs)
    labelled = torch.utils.data.TensorDataset(inputs, inputs[:, 0])
    for loader in (
        {"datamodule": batches},
        {"dataloaders": torch.utils.data.DataLoader(inputs, batch_size=3)},
        {"dataloaders": torch.utils.data.DataLoader(labelled, batch_size=3)},
    ):
        found = own.predict(module, **loader)
        for task, values in expected.items():
            torch.testing.assert_close(torch.cat([part[task] for part in found]), values)
    torch.testing.assert_close(module(inputs), module.model(inputs))


def test_batches_of_another_loader_are_refused():
    module, batches = parts()
    loader = torch.utils.data.DataLoader(batches.data.train, batch_size=8)
    own, hint = trainer(max_epochs=1), "got list; give the trainer a MultiTaskDataModule"
    for call in (own.fit, own.validate, own.test):
        with pytest.raises(InvalidInputError, match=hint):
            call(module, loader)


@pytest.mark.parametrize("options", [{"max_epochs": -1}, {}])
def test_steps_end_it(options):
    module, batches = parts()
    n = len(batches.train_dataloader())
    own = trainer(max_steps=2 * n, **options)
    own.fit(module, datamodule=batches)
    assert own.global_step == 2 * n
    # The learning rates of "cosine" fall to zero over these steps.
    assert {group["lr"] for group in own.optimizers[0].param_groups} == {0.0}


def test_time_ends_it():
    module, batches = parts(schedule="constant")
    trainer(max_epochs=-1, max_time={"seconds": 0.2}).fit(module, datamodule=batches)
    assert module.history
    module, batches = parts()
    with pytest.raises(
        InvalidInputError, match="'cosine' needs the number of epochs: set max_epochs"
    ):
        trainer(max_epochs=-1).fit(module, datamodule=batches)


class _Seen(Callback):
    def __init__(self):
        self.inputs = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.inputs.append(batch.inputs.clone())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_it_overfits_the_same_batches_in_every_epoch(num_workers):
    module, batches = parts(num_workers=num_workers)
    seen = _Seen()
    own = trainer(max_epochs=2, overfit_batches=2, callbacks=[seen])
    own.fit(module, datamodule=batches)
    first, second = seen.inputs[:2], seen.inputs[2:]
    assert len(second) == 2
    assert not torch.equal(*first)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
