"""CNN: its layers by hand, independence of samples, seeds, description and errors."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional

from qmtl.circuit import HeadCircuit
from qmtl.encoders import CNN, ENCODERS
from qmtl.errors import InvalidInputError
from qmtl.heads import LinearHead, QuantumHead
from qmtl.model import MultiTaskModel, load
from qmtl.tasks import Task


@pytest.mark.parametrize("pooling", ["average", "flatten"])
def test_by_hand(pooling):
    encoder = CNN(2, (9, 12), 5, (3, 16), pooling=pooling, activation="gelu", dropout=0.5, seed=0)
    images = torch.randn(4, 2, 9, 12)
    state = encoder.eval().state_dict()
    x = images
    for i, groups in enumerate((3, 8)):
        x = functional.conv2d(x, state[f"layers.{4 * i}.weight"], padding=1)
        parts = x.reshape(4, groups, -1)
        mean, variance = parts.mean(2, keepdim=True), parts.var(2, keepdim=True, correction=0)
        x = ((parts - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
        scale, shift = state[f"layers.{4 * i + 1}.weight"], state[f"layers.{4 * i + 1}.bias"]
        x = functional.gelu(x * scale[:, None, None] + shift[:, None, None])
        height, width = x.shape[2] // 2, x.shape[3] // 2
        x = x[:, :, : 2 * height, : 2 * width].reshape(4, -1, height, 2, width, 2).amax((3, 5))
    assert x.shape == (4, 16, 2, 3)
    x = x.mean((2, 3)) if pooling == "average" else x.flatten(1)
    expected = x @ state["projection.weight"].T + state["projection.bias"]
    torch.testing.assert_close(encoder(images), expected, atol=1e-5, rtol=1e-4)


def test_samples_are_independent():
    """In training, too: so a task's rows alone give the gradient of its loss."""
    encoder = CNN(1, 8, 3, (4,), seed=0).train()
    images = torch.randn(6, 1, 8, 8)
    whole = encoder(images)
    alone = torch.cat([encoder(image[None]) for image in images])
    torch.testing.assert_close(whole, alone)
    assert torch.equal(encoder.eval()(images), whole)
    assert encoder(images[:0]).shape == (0, 3)


def test_dropout_in_training_only():
    encoder = CNN(1, 8, 3, dropout=0.5, seed=0)
    images = torch.randn(2, 1, 8, 8)
    assert not torch.equal(encoder(images), encoder(images))
    assert torch.equal(encoder.eval()(images), encoder(images))


def test_seed():
    before = torch.get_rng_state()
    first, second, other = (CNN(1, 8, 3, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["projection.weight"], other["projection.weight"])


def test_every_weight_learns():
    encoder = CNN(1, 8, 3, seed=0)
    encoder(torch.randn(4, 1, 8, 8)).square().sum().backward()
    assert all((p.grad != 0).any() for p in encoder.parameters())


def test_only_flatten_sees_where():
    """A dot left or right, away from the border and on the same place of the pooling's grid."""
    images = torch.zeros(2, 1, 24, 24)
    images[0, 0, 12, 9] = images[1, 0, 12, 13] = 1.0
    flat = CNN(1, 24, 1, (4, 4), pooling="flatten", seed=0)(images)
    mean = CNN(1, 24, 1, (4, 4), pooling="average", seed=0)(images)
    assert (flat[0] - flat[1]).abs() > 1e-2
    assert (mean[0] - mean[1]).abs() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saves_and_loads_with_a_model(tmp_path, dtype):
    circuit = HeadCircuit([Task.binary("a"), Task.regression("b")])
    encoder = CNN(1, (8, 10), circuit.n_features, [4, 6], pooling="flatten", dropout=0.2, seed=0)
    model = MultiTaskModel(encoder, QuantumHead(circuit, seed=0)).to(dtype)
    model.save(tmp_path)
    again = load(tmp_path)
    assert again.encoder.to_dict() == encoder.to_dict()
    images = torch.randint(0, 255, (3, 1, 8, 10))
    assert all(
        torch.equal(value, again.predict(images)[name])
        for name, value in model.predict(images).items()
    )


def test_description():
    encoder = CNN(3, 16, 5, (2, 4), activation="silu", dropout=0.25)
    again = ENCODERS["CNN"].from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert again.to_dict() == encoder.to_dict()
    assert str(again) == str(encoder)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CNN(0, 8, 3), r"must be integers >= 1, got \(0, 16, 32, 64\)"),
        (lambda: CNN(1, 8, 3, (4, 2.0)), r"must be integers >= 1, got \(1, 4, 2.0\)"),
        (lambda: CNN(1, 8, 3, ()), "at least one block's channels, got none"),
        (lambda: CNN(1, 8, True), "out_features must be an integer >= 1, got True"),
        (lambda: CNN(1, (8, 8, 8), 3), r"image_size must be two integers >= 1, got \(8, 8, 8\)"),
        (lambda: CNN(1, (8, 0), 3), r"image_size must be two integers >= 1, got \(8, 0\)"),
        (lambda: CNN(1, True, 3), r"image_size must be two integers >= 1, got \(True, True\)"),
        (lambda: CNN(1, (16, 7), 3), r"\(16, 7\) is halved by each of 3 blocks.* least 8 pixels"),
        (
            lambda: CNN(1, 8, 3, pooling="flaten"),
            "'flaten'; did you mean 'flatten'",
        ),
        (lambda: CNN(1, 8, 3, activation="rlu"), "unknown activation 'rlu'; did you mean 'relu'"),
        (lambda: CNN(1, 8, 3, dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (
            lambda: CNN(1, 8, 3)(torch.zeros(2, 1, 8, 9)),
            r"shape \(batch, 1, 8, 8\), got \(2, 1, 8, 9\)",
        ),
        (lambda: CNN(1, 8, 3)(torch.zeros(2, 64)), r"shape \(batch, 1, 8, 8\), got \(2, 64\)"),
        (lambda: CNN(1, 8, 3)(torch.zeros(2, 3, 8, 8)), r"got \(2, 3, 8, 8\)"),
    ],
)
def test_errors(build, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_fits_a_head_only_with_its_width():
    head = LinearHead([Task.binary("a")], 4, seed=0)
    with pytest.raises(InvalidInputError, match="encoder gives 3 features, the head takes 4"):
        MultiTaskModel(CNN(1, 8, 3), head)
    assert isinstance(MultiTaskModel(CNN(1, 8, 4), head), nn.Module)
