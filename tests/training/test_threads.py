"""Threads: a small step takes one, and torch has as many as before when training is over."""

import pytest
import torch
from pytorch_lightning import Callback

import qmtl
from qmtl.errors import InvalidInputError
from tests.training.samples import tiny_data, tiny_model


class Seen(Callback):
    """What torch's setting is within steps, and an error if there is to be one."""

    def __init__(self, error=None):
        self.error, self.threads = error, set()

    def on_train_batch_end(self, *_):
        self.threads.add(torch.get_num_threads())
        if self.error:
            raise self.error


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def train(seen, **options):
    data = tiny_data()
    return qmtl.fit(
        tiny_model(data), data, max_epochs=1, progress=False, callbacks=[seen], **options
    )


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("threads", "expected"), [(None, 1), (1, 1), (2, 2), (3, 3)])
def test_a_small_model_trains_on_one_thread_unless_told_otherwise(threads, expected):
    seen = Seen()
    train(seen, threads=threads)
    assert seen.threads == {expected}
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_the_setting_comes_back_after_an_error():
    with pytest.raises(ZeroDivisionError):
        train(Seen(ZeroDivisionError()))
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_large_model_takes_what_there_is():
    data, seen = tiny_data(), Seen()
    width = data.train.inputs.shape[1]
    circuit = qmtl.HeadCircuit(data.tasks)
    encoder = qmtl.encoders.MLP(width, 4000, 4000, out_features=circuit.n_features)
    model = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
    qmtl.fit(model, data, batch_size=24, max_epochs=1, progress=False, callbacks=[seen])
    assert seen.threads == {2}


@pytest.mark.parametrize("threads", [0, -1, 1.5])
def test_threads_are_a_number(threads):
    with pytest.raises(InvalidInputError, match="threads"):
        train(Seen(), threads=threads)
