"""What a method may do in a training step, by methods that are made for the test."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from pydantic import Field
from torch import nn

import qmtl
from qmtl.errors import InvalidInputError, ModelFileError
from qmtl.methods import Method, MethodSection
from qmtl.training import TrainingSettings
from tests.training.samples import (
    QUIET,
    InterruptAt,
    InterruptionError,
    Spy,
    same_state,
    tiny_data,
    tiny_model,
    with_missing,
)


class Noise(Method):
    """Noise on the inputs, a learned offset with a loss of its own, and a count of steps."""

    needs_features = True

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.offset = nn.Parameter(torch.ones(()))
        self.register_buffer("steps", torch.zeros(()))
        self.seen = []

    def setup(self, step, train):
        self.seen.append(len(train))

    def change_batch(self, batch, step):
        self.seen.append("change_batch")
        noise = torch.randn(batch.inputs.shape, generator=step.generator)
        return replace(batch, inputs=batch.inputs + self.size * noise)

    def losses(self, losses, step):
        self.seen.append("losses")
        return losses

    def extra_loss(self, losses, step):
        self.seen.append("extra_loss")
        return (losses.features.mean() - self.offset) ** 2

    def after_step(self, batch, step):
        self.seen.append("after_step")
        self.steps += 1

    def epoch_end(self, step):
        self.seen.append("epoch_end")

    def metrics(self):
        return {"a": {"offset": float(self.offset.detach())}}


class NoiseSection(MethodSection):
    short: ClassVar[str] = "size"
    excludes: ClassVar[tuple[str, ...]] = ("gradient_clip", "twin")
    one_process: ClassVar[str] = "it is for a test"
    size: float = Field(0.1, gt=0)
    other: int | None = None

    def build(self, model, tasks, seed):
        return Noise(self.size)


class Settings(TrainingSettings):
    noise: NoiseSection | None = None
    twin: NoiseSection | None = None


def _fit(model, data, **options):
    keys = {k: options.pop(k) for k in ("checkpoints", "resume", "callbacks") if k in options}
    settings = Settings(batch_size=8, **{"max_epochs": 2} | options)
    return qmtl.fit(model, data, settings, progress=False, **keys)


def test_the_hooks_of_a_run():
    data, spy = tiny_data(n=24), Spy()
    result = _fit(tiny_model(data), data, noise=0.5, max_epochs=1, callbacks=[spy])
    (method,) = spy.module.methods
    step = ["change_batch", "losses", "extra_loss", "after_step"]
    n_steps = len(spy.steps)
    assert method.seen == [len(data.train), *step * n_steps, "epoch_end"]
    assert float(method.steps) == n_steps
    (row,) = [row for row in result.history if row["metric"] == "offset"]
    assert (row["split"], row["task"]) == ("train", "a")
    assert row["value"] == float(method.offset.detach()) != 1


@pytest.mark.parametrize("options", [{"scalarizer": "uw"}, {"aggregator": "upgrad"}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_extra_loss_is_added_to_the_gradient(options, dtype):
    data, spy = tiny_data(), Spy()
    model = tiny_model(data).to(dtype)
    _fit(model, data, noise=1e-9, max_epochs=1, optimizer="sgd", callbacks=[spy], **options)
    plain, other = Spy(), tiny_model(data).to(dtype)
    _fit(other, data, max_epochs=1, optimizer="sgd", callbacks=[plain], **options)
    first, without = spy.steps[0], plain.steps[0]
    twin = tiny_model(data).to(dtype)
    features = twin.encoder(first["batch"].inputs.to(dtype))
    ((features.mean() - 1) ** 2).backward()
    for name, parameter in twin.named_parameters():
        difference = first["gradients"][name] - without["gradients"][name]
        more = torch.zeros_like(difference) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(difference, more, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("missing", [False, True])
def test_a_run_resumes_bit_for_bit(tmp_path, missing):
    data = with_missing() if missing else tiny_data()
    options = {"noise": {"size": 0.5}, "max_epochs": 4}
    unbroken = _fit(tiny_model(data), data, **options)
    with pytest.raises(InterruptionError):
        _fit(tiny_model(data), data, checkpoints=tmp_path, callbacks=[InterruptAt(2)], **options)
    resumed = _fit(tiny_model(data), data, checkpoints=tmp_path, resume=True, **options)
    assert resumed.history == unbroken.history
    assert same_state(resumed.model, unbroken.model)
    with pytest.raises(ModelFileError, match=r"checkpoint has noise 0\.5, the settings None"):
        _fit(tiny_model(data), data, checkpoints=tmp_path, resume=True, max_epochs=4)


def test_short_forms():
    assert Settings(noise=0.2).noise == NoiseSection(size=0.2)
    assert Settings(noise=True).noise == NoiseSection()
    assert Settings(noise=False).noise is None
    assert Settings(noise={"size": 2}).noise == NoiseSection(size=2)
    for given in (0.2, True, {"size": 2, "other": 3}):
        settings = Settings(noise=given)
        assert Settings.model_validate(settings.model_dump()) == settings
    assert Settings(noise=0.2).model_dump()["noise"] == 0.2


def test_what_does_not_go_together_is_refused_in_one_line():
    for options, said in (
        ({"gradient_clip": 1.0}, r"noise does not go together with gradient_clip = 1\.0"),
        ({"twin": 0.1}, "noise does not go together with twin"),
        ({"devices": 2}, "noise needs devices = 1, got 2: it is for a test"),
    ):
        with pytest.raises(ValueError, match=said):
            Settings(noise=0.5, **options)


class Head(Method):
    def logits(self, features, step):
        return step.model.logits(features)


class HeadSection(MethodSection):
    def build(self, model, tasks, seed):
        return Head()


class Heads(TrainingSettings):
    first: HeadSection | None = None
    second: HeadSection | None = None


@pytest.mark.parametrize("options", [{"scalarizer": "uw"}, {"aggregator": "upgrad"}])
def test_a_method_may_compute_the_logits_but_not_two_of_them(options):
    data = tiny_data()
    ordinary = qmtl.fit(tiny_model(data), data, max_epochs=2, **options, **QUIET)
    settings = Heads(first=True, max_epochs=2, batch_size=8, **options)
    same = qmtl.fit(tiny_model(data), data, settings, progress=False)
    for task in data.tasks:
        ours, theirs = (r.metrics["test"][task.name]["loss"] for r in (same, ordinary))
        assert ours == pytest.approx(theirs, rel=1e-4)
    both = Heads(first=True, second=True, max_epochs=2)
    with pytest.raises(
        InvalidInputError, match="do not go together: both define the step's logits"
    ):
        qmtl.fit(tiny_model(data), data, both, progress=False)
