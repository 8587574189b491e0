"""What tests of methods have in common: losses by hand, and runs that are resumed."""

import shutil

import numpy as np
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

import qmtl
from qmtl.tasks import task_layout
from tests.training.samples import QUIET, Spy, same_state


def task_losses(model, batch, logits=None):
    """Each task's loss over the rows that have a label, by `Task.loss`; tasks without are left out.

    Args:
        model: the model.
        batch: the rows.
        logits: by task; None for the model's.
    """
    if logits is None:
        logits = model(batch.inputs.to(next(model.parameters()).dtype))
    layout, losses = task_layout(model.tasks), {}
    for task in model.tasks:
        targets = batch.targets[:, layout.column_slices[task.name]]
        targets = targets if task.kind == "multilabel" else targets[:, 0]
        if task.kind == "multiclass":
            targets = targets.nan_to_num(nan=-100).long()
        if task.labelled(targets).any():
            losses[task.name] = task.loss(logits[task.name], model.standardise(task, targets))
    return losses


def first_step(model, data, **options):
    """What a `Spy` saw of the first step of a training."""
    spy = Spy()
    options = {"optimizer": "sgd", "restore_best": False} | options
    qmtl.fit(model, data, max_epochs=1, callbacks=[spy], **options, **QUIET)
    return spy.steps[0]


def flat(gradients, model):
    """Gradients by name as one vector, zeros where there is none."""
    parts = [
        torch.zeros_like(p) if gradients[n] is None else gradients[n]
        for n, p in model.named_parameters()
    ]
    return nn.utils.parameters_to_vector(parts)


class CopyAt(Callback):
    """Copies a folder in the second step of an epoch: what a killed process would leave."""

    def __init__(self, epoch, folder, copy):
        self.epoch, self.folder, self.copy = epoch, folder, copy

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == self.epoch and batch_idx == 1:
            shutil.copytree(self.folder, self.copy)


def assert_resumes(folder, make_model, data, **options):
    """A run that goes on from the files of its third epoch is the unbroken run, bit for bit.

    `tests.training.test_resume` breaks runs off by an error, and compares with a run without files.
    """
    options = {"max_epochs": 3, "checkpoints": folder / "run", **options, **QUIET}
    left = CopyAt(2, folder / "run", folder / "left")
    unbroken = qmtl.fit(make_model(), data, callbacks=[left], **options)
    shutil.rmtree(folder / "run")
    left.copy.rename(folder / "run")
    resumed = qmtl.fit(make_model(), data, resume=True, **options)
    # As text: metrics of few rows may be NaN.
    assert repr(resumed.history) == repr(unbroken.history)
    assert repr(resumed.metrics) == repr(unbroken.metrics)
    assert same_state(resumed.model, unbroken.model)
    values = [row["value"] for row in resumed.history if row["metric"] == "loss"]
    assert np.isfinite(values).all()


def assert_alike(first, second, tolerance=1e-7):
    """Two models have the same parameters but for rounding."""
    for (name, ours), theirs in zip(
        first.state_dict().items(), second.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance, msg=name)
