"""A run of a method that is interrupted and resumed."""

import pytest

import qmtl
from tests.training.samples import QUIET, InterruptAt, InterruptionError, same_state, tiny_model


def assert_resumes(folder, data, dropout=0.3, **options) -> None:
    """A run that is interrupted in its third epoch comes to the unbroken one, bit for bit."""
    options = {"max_epochs": 3, "seed": 2, **QUIET} | options
    unbroken = qmtl.fit(tiny_model(data, dropout=dropout), data, **options)
    with pytest.raises(InterruptionError):
        qmtl.fit(
            tiny_model(data, dropout=dropout), data, checkpoints=folder,
            callbacks=[InterruptAt(2)], **options,
        )  # fmt: skip
    resumed = qmtl.fit(
        tiny_model(data, dropout=dropout), data, checkpoints=folder, resume=True, **options
    )
    # As text: metrics of few rows may be NaN.
    assert repr(resumed.history) == repr(unbroken.history)
    assert repr(resumed.metrics) == repr(unbroken.metrics)
    assert same_state(resumed.model, unbroken.model)
