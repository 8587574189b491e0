"""The section [encoder]: every type, the keys that each reads, and data that do not fit."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import qmtl
from qmtl.data import from_arrays, join_modalities
from qmtl.encoders import CNN, MLP, EncoderInputs, Fusion, Identity
from qmtl.errors import InvalidInputError, MissingDependencyError, RecipeError
from qmtl.experiments._build import build_data, build_model
from qmtl.experiments._recipe import read_recipe, recipe_from

LABELS = {"a": torch.arange(40) % 2, "b": torch.arange(40) // 2 % 2}
FLAT = from_arrays(torch.rand(40, 6), LABELS)
IMAGES = from_arrays(torch.rand(40, 1, 8, 10), LABELS)
JOINED, WIDTHS = join_modalities({"text": torch.rand(40, 3), "audio": [None, [0.5, 0.1]] * 20})
MODALITIES = from_arrays(JOINED, LABELS)


def section(**keys):
    return recipe_from({"data": {"source": "digits"}, "encoder": keys}).encoder


def build(section, data, n_features):
    return section.build(EncoderInputs(data.train.inputs, n_features, data.modalities))


class TestTypes:
    @pytest.mark.parametrize(
        ("data", "keys", "kind"),
        [
            (FLAT, {"hidden": [5], "activation": "tanh"}, MLP),
            (FLAT, {"hidden": [], "standardise": True}, MLP),
            (FLAT, {"type": "Identity"}, Identity),
            (IMAGES, {"type": "CNN", "channels": [4, 6], "pooling": "flatten"}, CNN),
            (MODALITIES, {"type": "Fusion", "widths": WIDTHS, "kind": "gated", "dim": 8}, Fusion),
            (MODALITIES, {"type": "Fusion", "widths": WIDTHS, "hidden": [], "n_heads": 2,
                          "kind": "cross-attention", "modality_dropout": 0.2}, Fusion),
        ],
    )  # fmt: skip
    def test_builds(self, data, keys, kind):
        encoder = build(section(**keys), data, 6)
        assert type(encoder) is kind
        assert encoder(data.train.inputs).shape == (len(data.train), 6)
        description = encoder.to_dict()
        renamed = {"type": kind.__name__} | keys
        for key, value in renamed.items():
            stored = description[key]
            assert (dict(stored) if key == "widths" else stored) == value
        again = build(section(**keys), data, 6).state_dict()
        assert all(torch.equal(v, again[k]) for k, v in encoder.state_dict().items())

    def test_inputs_are_standardised_by_the_training_split(self):
        encoder = build(section(standardise=True), FLAT, 6)
        assert torch.equal(encoder.input_mean, FLAT.train.inputs.double().mean(0).float())

    def test_widths_of_the_data(self):
        known = replace(MODALITIES, modalities=WIDTHS)
        assert build(section(type="Fusion"), known, 6).widths == WIDTHS
        other = dict(reversed(WIDTHS.items()))
        with pytest.raises(
            InvalidInputError, match=r"widths are {'audio': 2, 'text': 3}, the data"
        ):
            build(section(type="Fusion", widths=other), known, 6)

    def test_image_backbone(self, monkeypatch, tmp_path):
        seen = {}
        monkeypatch.setattr(
            "qmtl.encoders._image.ImageBackbone",
            lambda *arguments, **options: seen.update(options, arguments=arguments),
        )
        keys = {"network": "resnet34", "library": "timm", "weights": "w.pth", "frozen": True}
        path = tmp_path / "recipe.toml"
        path.write_text(
            '[data]\nsource = "digits"\n[encoder]\ntype = "ImageBackbone"\nnetwork = "resnet34"\n'
            'library = "timm"\nweights = "w.pth"\nfrozen = true\nseed = 4\n'
        )
        read = read_recipe(path).encoder
        assert read.weights == str(tmp_path / "w.pth")
        build(read, IMAGES, 6)
        assert seen == {
            "arguments": (keys["network"], 6, str(tmp_path / "w.pth")),
            "library": "timm",
            "frozen": True,
            "seed": 4,
        }

    def test_image_backbone_without_its_library(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(MissingDependencyError, match=r"\.\[image\]"):
            build(section(type="ImageBackbone", library="timm"), IMAGES, 6)


class TestRecipes:
    @pytest.mark.parametrize(
        "keys",
        [
            {},
            {"type": "CNN", "channels": [4], "pooling": "flatten", "dropout": 0.1},
            {"type": "Fusion", "widths": {"z": 2, "a": 3}, "kind": "gated"},
            {"type": "ImageBackbone", "weights": "/some/file.pth", "frozen": True},
        ],
    )
    def test_resolved_recipe_reads_back(self, tmp_path, keys):
        recipe = recipe_from({"data": {"source": "digits"}, "encoder": keys})
        (tmp_path / "recipe.toml").write_text(recipe.as_toml())
        again = read_recipe(tmp_path / "recipe.toml")
        assert again.encoder == recipe.encoder
        if "widths" in keys:
            assert list(again.encoder.widths) == list(keys["widths"])

    def test_recipes_resolved_by_0_1_read_back(self, tmp_path):
        """They hold the defaults of every type."""
        (tmp_path / "recipe.toml").write_text(
            '[data]\nsource = "digits"\n[encoder]\ntype = "CNN"\nhidden = [64]\n'
            'activation = "gelu"\ndropout = 0.0\nstandardise = false\nchannels = [4]\n'
            'pooling = "average"\nkind = "concat"\ndim = 64\nn_heads = 4\n'
            'modality_dropout = 0.0\nnetwork = "resnet18"\nlibrary = "torchvision"\n'
            "frozen = false\nseed = 2\n"
        )
        assert read_recipe(tmp_path / "recipe.toml").encoder.model_dump() == {
            "type": "CNN", "seed": 2, "channels": [4], "pooling": "average",
            "activation": "gelu", "dropout": 0.0,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"type": "CNNN"}, "unknown value of encoder.type: 'CNNN'; did you mean 'CNN'"),
            (
                {"type": "CNN", "chanels": [4]},
                "unknown key 'encoder.chanels'; did you mean 'channels'",
            ),
            ({"channels": [4]}, "type 'MLP' does not read 'channels'; it reads activation,"),
            ({"type": "CNN", "hidden": [4]}, "type 'CNN' does not read 'hidden'; it reads"),
            ({"type": "CNN", "channels": []}, "encoder.channels: "),
            ({"type": "CNN", "channels": [0]}, "encoder.channels.0: .* got 0"),
            ({"type": "CNN", "pooling": "max"}, "unknown value of encoder.pooling: 'max'"),
            ({"type": "Fusion", "kind": "gate"}, "'gate'; did you mean 'gated'"),
            ({"type": "Fusion", "widths": {"a": 0}}, "encoder.widths.a: .* got 0"),
            ({"type": "Fusion", "weights": "x"}, "type 'Fusion' does not read 'weights'"),
            ({"type": "ImageBackbone", "library": "tim"}, "'tim'; did you mean 'timm'"),
        ],
    )
    def test_errors(self, keys, message):
        with pytest.raises(RecipeError, match=message) as caught:
            section(**keys)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "keys", "message"),
    [
        (FLAT, {"type": "CNN"}, r"'CNN' needs images of shape .* the data have 6 flat inputs"),
        (FLAT, {"type": "ImageBackbone"}, r"'ImageBackbone' needs images .* 6 flat inputs"),
        (IMAGES, {}, r"'MLP' needs flat inputs, got shape \(1, 8, 10\); for images use 'CNN'"),
        (IMAGES, {"type": "Fusion"}, r"'Fusion' needs flat inputs, got shape \(1, 8, 10\)"),
        (IMAGES, {"type": "CNN", "channels": [4] * 4}, r"\(8, 10\) is halved by each of 4 blocks"),
        (
            from_arrays(torch.rand(40, 2, 8, 8), LABELS),
            {"type": "ImageBackbone"},
            "needs 1 or 3 channels, got 2",
        ),
        (
            from_arrays(torch.rand(40, 8, 8), LABELS),
            {"type": "CNN"},
            r"the data have shape \(8, 8\)",
        ),
        (FLAT, {"type": "Identity"}, "passes 6 inputs on, the head takes 5"),
        (FLAT, {"type": "Fusion"}, "needs widths = { modality = columns, ... }: the data have 6"),
        (
            FLAT,
            {"type": "Fusion", "widths": {"a": 4}},
            "widths {'a': 4} and a presence flag for each are 5 inputs, the data have 6",
        ),
        (MODALITIES, {"type": "Fusion", "widths": WIDTHS, "dim": 6}, "n_heads must divide dim"),
    ],
)
def test_data_that_do_not_fit(data, keys, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        build(section(**keys), data, 5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "keys", "settings"),
    [
        (IMAGES, {"type": "CNN", "channels": [4]}, {"aggregator": "mgda"}),
        (MODALITIES, {"type": "Fusion", "widths": WIDTHS, "kind": "gated", "dim": 8}, {}),
        (
            MODALITIES,
            {"type": "Fusion", "widths": WIDTHS, "kind": "cross-attention", "dim": 8},
            {"aggregator": "mgda"},
        ),
    ],
)
def test_trains(data, keys, settings):
    recipe = recipe_from({"data": {"source": "digits"}, "encoder": keys})
    model = build_model(recipe, data)
    assert isinstance(model.encoder.out_features, int)
    before = {name: p.clone() for name, p in model.encoder.named_parameters()}
    qmtl.fit(model, data, max_epochs=2, seed=0, weight_decay=0.0, **settings)
    still = {n for n, p in model.encoder.named_parameters() if torch.equal(p, before[n])}
    # The gates' vector for rows without any modality, of which there are none here.
    assert still == ({"join.nothing"} if keys.get("kind") == "gated" else set())


class TestRealData:
    """The whole way from a recipe to a training step, on data of the shape that they are for."""

    def train(self, data, encoder):
        recipe = recipe_from({"data": data, "encoder": encoder})
        loaded = build_data(recipe)
        model = build_model(recipe, loaded)
        result = qmtl.fit(model, loaded, max_epochs=1, batch_size=64, seed=0)
        assert all(math.isfinite(scores["loss"]) for scores in result.metrics["test"].values())
        return model

    def test_chest_x_rays(self, data_folder):
        data = {
            "source": "chestxray",
            "path": str(data_folder / "chestxray" / "nih1000"),
            "tasks": ["Cardiomegaly", "Effusion"],
            "max_patients": 200,
        }
        model = self.train(data, {"type": "CNN", "channels": [4, 8]})
        assert model.encoder.image_size == (64, 64)

    def test_mustard(self, data_folder, monkeypatch):
        def embed(texts):
            return np.array([[len(text), text.count(" "), 1.0] for text in texts]) / 100

        monkeypatch.setattr("qmtl.encoders.TextEmbedding", lambda *model: embed)
        data = {
            "source": "mustard-extended",
            "path": str(data_folder / "mustard"),
            "split": "fold 0",
            "context": True,
        }
        model = self.train(data, {"type": "Fusion", "kind": "gated", "dim": 8, "hidden": []})
        assert list(model.encoder.widths.values()) == [3, 3]
