"""The layer that features come from, read off autograd's graph."""

import pytest
import torch
from torch import nn

import qmtl
from qmtl.training.last_layer import last_layer

INPUTS = torch.randn(3, 4)


@pytest.mark.parametrize(
    ("encoder", "inputs", "name"),
    [
        (qmtl.encoders.MLP(4, out_features=6), INPUTS, "layers.0"),
        (qmtl.encoders.MLP(4, 5, out_features=6), INPUTS, "layers.3"),
        (qmtl.encoders.CNN(1, 8, out_features=6), torch.randn(3, 1, 8, 8), "projection"),
        (nn.Linear(4, 6, bias=False), INPUTS, ""),
    ],
)
def test_is_found_in_encoders(encoder, inputs, name):
    layer = encoder.get_submodule(name)
    features = encoder(inputs)
    found = last_layer(features)
    assert found.weight is layer.weight
    assert found.bias is layer.bias
    torch.testing.assert_close(nn.functional.linear(*found), features)


def scaled(inputs):
    return torch.addmm(
        nn.Parameter(torch.ones(6)), inputs, nn.Parameter(torch.ones(6, 4)).T, alpha=2
    )


def hooked(what):
    layer = nn.Linear(4, 6)
    if what != "output":
        getattr(layer, what).register_hook(lambda gradient: 2 * gradient)
    features = layer(INPUTS)
    if what == "output":
        features.register_hook(lambda gradient: 2 * gradient)
    return features


@pytest.mark.parametrize(
    "features",
    [
        lambda: INPUTS,
        lambda: nn.Linear(4, 6)(INPUTS).relu(),
        lambda: nn.Linear(4, 6)(INPUTS.expand(2, 3, 4)),
        lambda: INPUTS @ nn.Parameter(torch.ones(4, 6)),
        lambda: torch.addmm(
            nn.Parameter(torch.ones(3, 1)), INPUTS, nn.Parameter(torch.ones(6, 4)).T
        ),
        lambda: scaled(INPUTS),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 6))(INPUTS),
        lambda: nn.Linear(4, 6).requires_grad_(False)(INPUTS.clone().requires_grad_()),
        lambda: hooked("output"),
        lambda: hooked("weight"),
        lambda: hooked("bias"),
    ],
)
def test_is_none_where_that_is_not_certain(features):
    assert last_layer(features()) is None


def test_a_cast_layer_is_none():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = nn.Linear(4, 6)(INPUTS)
    assert last_layer(features) is None
