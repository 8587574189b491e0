"""SeparateEncoders: features side by side, nothing shared, saved and loaded."""

import json

import pytest
import torch
from torch import nn

from qmtl.encoders import ENCODERS, MLP, Identity, SeparateEncoders
from qmtl.errors import InvalidInputError


def test_features_follow_each_other():
    parts = [MLP(4, 3, out_features=2, seed=0), Identity(4), MLP(4, out_features=1, seed=1)]
    encoder = SeparateEncoders(parts)
    x = torch.randn(5, 4)
    features = encoder(x)
    assert (encoder.in_features, encoder.out_features) == (4, 7)
    assert torch.equal(features, torch.cat([part(x) for part in parts], dim=1))
    features[:, :2].sum().backward()
    assert all(p.grad is not None for p in parts[0].parameters())
    assert not any(p.grad.any() for p in parts[2].parameters())


def test_description():
    encoder = SeparateEncoders([MLP(4, 3, out_features=2, seed=0), Identity(4)])
    again = ENCODERS["SeparateEncoders"].from_dict(json.loads(json.dumps(encoder.to_dict())))
    again.load_state_dict(encoder.state_dict())
    x = torch.randn(5, 4)
    assert torch.equal(again(x), encoder(x))


def test_errors():
    with pytest.raises(InvalidInputError, match="one or more modules, got none"):
        SeparateEncoders([])
    with pytest.raises(InvalidInputError, match="state their out_features, got Flatten without"):
        SeparateEncoders([nn.Flatten()])
    with pytest.raises(InvalidInputError, match="unknown encoder 'MLPP'; did you mean 'MLP'"):
        SeparateEncoders.from_dict({"encoders": [{"type": "MLPP"}]})
