"""Results do not depend on what the caller's other threads do at the same time."""

import logging
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import qmtl


@pytest.fixture
def fast_switching():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_encoders_made_in_threads_are_equal(fast_switching):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: qmtl.encoders.MLP(5, 6, out_features=3, seed=0), range(200)))
    first = made[0].state_dict()
    for encoder in made:
        assert all(torch.equal(first[name], value) for name, value in encoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_an_encoder_made_while_another_thread_starts_to_train_is_the_same(fast_switching):
    task = qmtl.Task("a", "binary", 1)
    model = qmtl.MultiTaskModel(
        qmtl.encoders.MLP(2, out_features=1), qmtl.LinearHead([task], n_features=1)
    )
    rows = qmtl.data.Split(torch.zeros(4, 2), {"a": torch.tensor([0.0, 1.0, 0.0, 1.0])})
    data = qmtl.data.MultiTaskData("rows", (task,), rows, rows, rows)
    settings = qmtl.TrainingSettings(scalarizer="random")

    def starts(_):
        for _ in range(100):
            qmtl.training.check_fit(model, data, settings)

    def weights(_):
        encoder = qmtl.encoders.MLP(5, 6, out_features=3, seed=0)
        return torch.cat([p.flatten() for p in encoder.parameters()])

    starts(None)
    with ThreadPoolExecutor(4) as pool:
        started = pool.map(starts, range(3))
        made = list(pool.map(weights, range(800)))
        assert list(started) == [None] * 3
    assert all(torch.equal(other, made[0]) for other in made)


def test_estimators_fitted_in_threads_are_equal():
    inputs = np.random.default_rng(0).normal(size=(40, 3))
    labels = (inputs[:, 0] > 0).astype(int)

    def probabilities(_):
        model = qmtl.QuantumMultiTaskClassifier(random_state=0, max_epochs=3, hidden=4)
        return model.fit(inputs, labels).predict_proba(inputs)

    probabilities(None)
    logger = logging.getLogger("pytorch_lightning")
    before = logger.level, list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(probabilities, range(8)))
    assert (logger.level, list(warnings.filters)) == before
    assert all(np.array_equal(found[0], other) for other in found)
