"""Identity: inputs pass through; description and errors."""

import pytest
import torch

from qmtl.encoders import ENCODERS, Identity
from qmtl.errors import InvalidInputError


def test_passes_on():
    encoder = Identity(3)
    x = torch.randn(2, 3)
    assert encoder(x) is x
    assert (encoder.in_features, encoder.out_features) == (3, 3)
    assert list(encoder.parameters()) == []


def test_description():
    assert Identity.from_dict(Identity(3).to_dict()).out_features == 3


@pytest.mark.parametrize("width", [0, -1, 2.5, True, "3", None])
def test_errors(width):
    with pytest.raises(InvalidInputError, match="n_features must be an integer >= 1, got"):
        Identity(width)


def test_registry_names_are_class_names():
    assert all(name == encoder.__name__ for name, encoder in ENCODERS.items())
