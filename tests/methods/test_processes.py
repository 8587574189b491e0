"""Methods in two processes train as in one; those of which this is not shown are refused."""

import socket

import pytest
import pytorch_lightning as pl
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.training import MultiTaskDataModule, MultiTaskModule
from tests.methods import in_processes
from tests.training.samples import tiny_data, tiny_model


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """And keep the same best epoch; `tests.cli.test_processes` lets Lightning start the second.

    They are forks, since a new process takes seconds to import Lightning.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        in_processes.train_here, (port, tmp_path), nprocs=2, start_method="fork"
    )
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for ours, *both in zip(in_processes.trained(1), *(one["states"] for one in found), strict=True):
        for theirs in both:
            for name, value in ours.items():
                torch.testing.assert_close(theirs[name], value, atol=1e-6, rtol=1e-6)
    first, second = (one["best epoch"] for one in found)
    assert first.startswith("Result")
    assert first == second


def test_every_method_is_shown_or_refused():
    shown = {name for options in in_processes.METHODS for name in options}
    for name, section in qmtl.TrainingSettings.method_sections().items():
        if name in shown:
            assert section.one_process is None
        else:
            with pytest.raises(ValueError, match=f"{name} needs devices = 1, got 2: "):
                qmtl.TrainingSettings(**{name: True, "devices": 2})


def test_a_trainer_of_ones_own_with_several_processes(monkeypatch):
    data = tiny_data()
    settings = qmtl.TrainingSettings(auxiliary=2, max_epochs=1)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    module = MultiTaskModule(tiny_model(data), settings)
    # As in a trainer with devices = 2, of which the settings do not know.
    monkeypatch.setattr("qmtl.training._module.n_processes", lambda: 2)
    with pytest.raises(InvalidInputError, match="auxiliary needs one process, the trainer has 2"):
        trainer.fit(module, MultiTaskDataModule(data, settings))
