"""Models for hubs: a folder with a card, and back."""

import pytest
import torch
import yaml

import qmtl
from qmtl._model_files import model_card
from qmtl.errors import InvalidInputError, ModelFileError


def small_model():
    tasks = [
        qmtl.Task.multiclass("a|b", 3, class_names=("x", "<y>", "z\\")),
        qmtl.Task.regression("c\nd"),
    ]
    circuit = qmtl.HeadCircuit(tasks)
    encoder = qmtl.encoders.MLP(4, 5, out_features=circuit.n_features, seed=0)
    return qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))


def test_there_and_back(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path / "model", metrics={"a|b": {"accuracy": 0.5}})
    files = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert files == ["README.md", "model.json", "model.safetensors"]
    again = qmtl.MultiTaskModel.from_pretrained(str(tmp_path / "model"))
    inputs = torch.randn(3, 4)
    for name, values in again.predict(inputs).items():
        assert torch.equal(values, model.predict(inputs)[name])
    assert torch.equal(qmtl.load(tmp_path / "model")(inputs)["a|b"], again(inputs)["a|b"])


def test_metrics_of_all_splits_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="a dict of task → metric → number, such as"):
        small_model().save_pretrained(tmp_path, metrics={"test": {"a|b": {"accuracy": 0.5}}})
    assert not list(tmp_path.iterdir())


def test_an_encoder_of_your_own(tmp_path):
    class Doubling(torch.nn.Module):
        def forward(self, inputs):
            return 2 * inputs

        def to_dict(self):
            return {"type": "Doubling"}

    head = qmtl.QuantumHead(qmtl.HeadCircuit([qmtl.Task.binary("a")]), seed=0)
    model = qmtl.MultiTaskModel(Doubling(), head)
    model.save_pretrained(tmp_path)
    again = qmtl.MultiTaskModel.from_pretrained(tmp_path, encoder=Doubling())
    assert torch.equal(again(torch.ones(1, 2))["a"], model(torch.ones(1, 2))["a"])


def test_the_card_is_markdown_whatever_the_names_are():
    card = model_card(small_model(), title="My model", metrics={"a|b": {"f1": 0.25}})
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "qmtl"
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert "| a\\|b | multiclass | 3 | x, &lt;y>, z\\\\ |" in rows
    assert "| c d | regression | 1 |  |" in rows
    assert "| a\\|b | f1 | 0.2500 |" in rows
    assert "# My model" in body
    assert "two-qubit gates" in body
    linear = qmtl.LinearHead([qmtl.Task.binary("a")], 2, seed=0)
    model = qmtl.MultiTaskModel(qmtl.encoders.Identity(2), linear)
    card = model_card(model, title="one", metrics=None)
    assert "for 1 task, saved" in card
    assert "two-qubit" not in card


def test_a_name_on_a_hub_is_no_folder():
    with pytest.raises(ModelFileError, match=r"no folder org/name; .*snapshot_download"):
        qmtl.MultiTaskModel.from_pretrained("org/name")
