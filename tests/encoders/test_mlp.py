"""MLP: its layers, seeds, description and errors."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from qmtl.encoders import MLP
from qmtl.errors import InvalidInputError


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("relu", torch.relu),
        ("gelu", nn.functional.gelu),
        ("silu", nn.functional.silu),
        ("tanh", torch.tanh),
    ],
)
def test_by_hand(activation, function):
    encoder = MLP(4, 8, 6, out_features=3, activation=activation, dropout=0.5, seed=0).eval()
    x = torch.randn(5, 4)
    linear = [layer for layer in encoder.layers if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(4, 8), (8, 6), (6, 3)]
    expected = x
    for i, layer in enumerate(linear):
        expected = expected @ layer.weight.T + layer.bias
        expected = function(expected) if i < 2 else expected
    torch.testing.assert_close(encoder(x), expected)


def test_no_hidden_layer_is_linear():
    encoder = MLP(4, out_features=3, dropout=0.9, seed=0)
    x = torch.randn(5, 4)
    assert [type(layer) for layer in encoder.layers] == [nn.Linear]
    assert torch.equal(encoder(x), encoder.layers[0](x))


def test_dropout_acts_in_training_only_and_not_on_features():
    encoder = MLP(4, 64, out_features=3, dropout=0.5, seed=0)
    x = torch.randn(1, 4)
    assert not torch.equal(encoder(x), encoder(x))
    assert (encoder(x) != 0).all()
    assert torch.equal(encoder.eval()(x), encoder(x))


def test_seed():
    before = torch.get_rng_state()
    first, second = (MLP(4, 8, out_features=3, seed=1).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.manual_seed(1)
    drawn = MLP(4, 8, out_features=3).state_dict()
    assert all(torch.equal(first[key], drawn[key]) for key in first)
    huge = MLP(4, 8, out_features=3, seed=2**64 + 1).state_dict()
    assert all(torch.equal(first[key], huge[key]) for key in first)


def test_description():
    encoder = MLP(
        np.int64(4), np.int32(8), 6, out_features=3, activation="silu", dropout=0.25, seed=0
    )
    again = MLP.from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert again.to_dict() == encoder.to_dict()
    again.load_state_dict(encoder.state_dict())
    x = torch.randn(5, 4)
    assert torch.equal(again.eval()(x), encoder.eval()(x))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MLP(0, out_features=1), "widths must be an integer >= 1, got 0"),
        (lambda: MLP(2, 3.0, out_features=1), "got 3.0"),
        (lambda: MLP(2, True, out_features=1), "got True"),
        (lambda: MLP(2, out_features=-1), "got -1"),
        (
            lambda: MLP(2, out_features=1, activation="rlu"),
            "unknown activation 'rlu'; did you mean",
        ),
        (lambda: MLP(2, out_features=1, dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (lambda: MLP(2, out_features=1, dropout=-0.1), "got -0.1"),
        (lambda: MLP(2, out_features=1, seed="a"), "seed must be an integer or None, got 'a'"),
        (lambda: MLP(2, out_features=1)(torch.zeros(3, 4)), r"shape \(batch, 2\), got \(3, 4\)"),
        (lambda: MLP(2, out_features=1)(torch.zeros(2)), r"shape \(batch, 2\), got \(2,\)"),
    ],
)
def test_errors(build, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


class TestStandardised:
    def test_as_if_the_inputs_were(self):
        rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 3 + 2
        rows[:, 2] = 7.0
        encoder = MLP(4, 5, out_features=3, standardise=True, seed=1)
        plain = MLP(4, 5, out_features=3, seed=1)
        assert torch.equal(encoder(rows), plain(rows))
        encoder.set_input_scale(rows)
        expected = (rows - rows.mean(0)) / rows.std(0, correction=0)
        expected[:, 2] = 0
        torch.testing.assert_close(encoder(rows), plain(expected))
        assert torch.equal(encoder(rows * torch.tensor([1, 1, 9, 1])), encoder(rows))

    def test_a_constant_column_is_told_from_a_small_unit(self):
        rows = torch.randn(999, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        rows = rows * torch.tensor([1.0, 1e-8, 1e3, 0.0]) + torch.tensor([0.0, 0, 1e6, 123456.7])
        encoder = MLP(4, out_features=1, standardise=True, seed=0)
        encoder.set_input_scale(rows.float())
        scales = encoder.get_buffer("input_scale").tolist()
        assert scales[3] == 0
        assert scales[:3] == pytest.approx((1 / rows.std(0, correction=0)[:3]).tolist(), rel=1e-3)

    def test_comes_back_from_a_description_and_a_state(self):
        encoder = MLP(2, out_features=1, standardise=True, seed=0)
        encoder.set_input_scale(torch.tensor([[1.0, 2.0], [3.0, 8.0]]))
        twin = MLP.from_dict(encoder.to_dict())
        twin.load_state_dict(encoder.state_dict())
        assert torch.equal(twin(torch.ones(1, 2)), encoder(torch.ones(1, 2)))
        assert sum(p.numel() for p in encoder.parameters()) == 3

    def test_models_saved_before_it_existed(self):
        description = MLP(2, out_features=1).to_dict()
        del description["standardise"]
        assert not MLP.from_dict(description).standardise

    @pytest.mark.parametrize(
        ("standardise", "shape", "words"),
        [(False, (3, 2), "standardise=True"), (True, (3, 4), "rows, 2"), (True, (0, 2), "one row")],
    )
    def test_nonsense(self, standardise, shape, words):
        with pytest.raises(InvalidInputError, match=words):
            MLP(2, out_features=1, standardise=standardise).set_input_scale(torch.ones(shape))
