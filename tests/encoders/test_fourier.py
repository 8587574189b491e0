"""FourierFeatures: the kernel that it approximates, files, sections, and errors."""

import math

import pytest
import torch

import qmtl
from qmtl.encoders import ENCODERS, FourierFeatures
from qmtl.errors import InvalidInputError, RecipeError
from qmtl.experiments._build import build_model
from qmtl.experiments._recipe import recipe_from


def test_the_cosines_approximate_a_gaussian_kernel():
    encoder = FourierFeatures(3, 4096, n_cosines=4096, scale=2.0, seed=0)
    with torch.no_grad():
        encoder.layer.weight.copy_(torch.eye(4096))
        encoder.layer.bias.zero_()
    x, y = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0))
    found = (encoder(x) * encoder(y)).sum(1)
    expected = torch.exp(-(x - y).square().sum(1) / (2 * 2.0**2))
    assert (found - expected).abs().max() < 0.06


def test_only_the_layer_learns():
    encoder = FourierFeatures(3, 2, n_cosines=8, seed=0)
    assert [name for name, _ in encoder.named_parameters()] == ["layer.weight", "layer.bias"]
    again = FourierFeatures(3, 2, n_cosines=8, seed=0)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in encoder.state_dict().items())


def test_a_recipe_trains_and_its_model_is_saved(tmp_path):
    recipe = recipe_from(
        {
            "data": {"source": "wine", "tasks": ["cultivar"]},
            "encoder": {"type": "FourierFeatures", "n_cosines": 64, "seed": 2},
        }
    )
    data = recipe.data.load()
    model = build_model(recipe, data)
    result = qmtl.fit(model, data, max_epochs=40, seed=0, progress=False)
    assert result.metrics["train"]["cultivar"]["accuracy"] > 0.9
    model.save(tmp_path)
    expected = model.predict(data.test.inputs)["cultivar"]
    assert torch.equal(qmtl.load(tmp_path).predict(data.test.inputs)["cultivar"], expected)
    assert ENCODERS["FourierFeatures"] is FourierFeatures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 2), "in_features must be an integer >= 1, got 0"),
        ((2, True), "out_features must be an integer >= 1, got True"),
        ((2, 2, 1.5), "n_cosines must be an integer >= 1, got 1.5"),
        ((2, 2, 3, 0.0), "scale must be a positive number, got 0.0"),
        ((2, 2, 3, math.nan), "scale must be a positive number, got nan"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        FourierFeatures(*arguments)


def test_errors_of_recipes_and_inputs():
    with pytest.raises(RecipeError, match=r"key .encoder\.scal.; did you mean .scale."):
        recipe_from({"data": {"source": "wine"}, "encoder": {"type": "FourierFeatures", "scal": 1}})
    with pytest.raises(InvalidInputError, match=r"shape \(batch, 2\), got \(1, 3\)"):
        FourierFeatures(2, 2, seed=0)(torch.zeros(1, 3))
