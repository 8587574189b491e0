"""What tests of methods have in common: losses by hand, and runs that are broken off."""

import numpy as np
import pytest
import torch
from torch import nn

import qmtl
from qmtl.tasks import task_layout
from tests.training.samples import QUIET, InterruptAt, InterruptionError, Spy, same_state


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
    qmtl.fit(model, data, max_epochs=1, callbacks=[spy], **{"optimizer": "sgd"} | options, **QUIET)
    return spy.steps[0]


def flat(gradients, model):
    """Gradients by name as one vector, zeros where there is none."""
    parts = [
        torch.zeros_like(p) if gradients[n] is None else gradients[n]
        for n, p in model.named_parameters()
    ]
    return nn.utils.parameters_to_vector(parts)


def assert_resumes(folder, make_model, data, **options):
    """A run that is killed in its third epoch and goes on is the unbroken run, bit for bit."""
    options = {"max_epochs": 3, **options, **QUIET}
    unbroken = qmtl.fit(make_model(), data, **options)
    with pytest.raises(InterruptionError):
        qmtl.fit(make_model(), data, checkpoints=folder, callbacks=[InterruptAt(2)], **options)
    resumed = qmtl.fit(make_model(), data, checkpoints=folder, resume=True, **options)
    assert resumed.history == unbroken.history
    assert same_state(resumed.model, unbroken.model)
    values = [row["value"] for row in resumed.history if row["metric"] == "loss"]
    assert np.isfinite(values).all()


def assert_alike(first, second, tolerance=1e-7):
    """Two models have the same parameters but for rounding."""
    for (name, ours), theirs in zip(
        first.state_dict().items(), second.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance, msg=name)
