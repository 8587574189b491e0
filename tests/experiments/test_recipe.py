"""Recipes: what is read, what is written, seeds, class weights and metrics."""

import tomllib

import pytest
import torch

from qmtl.circuit import load_design, to_toml
from qmtl.errors import QmtlError
from qmtl.experiments import build_data, built_in_recipes, read_recipe
from qmtl.experiments._recipe import recipe_from

TEXT = 'name = "x"\n[data]\nsource = "digits"\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_recipes_of_windows_editors_are_read(tmp_path, encoding):
    (tmp_path / "r.toml").write_bytes(TEXT.encode(encoding))
    assert read_recipe(tmp_path / "r.toml").name == "x"


def test_other_encodings_are_named(tmp_path):
    (tmp_path / "r.toml").write_bytes(TEXT.replace("x", "ä").encode("latin-1"))
    with pytest.raises(QmtlError, match="cannot be read: 'utf-8' codec"):
        read_recipe(tmp_path / "r.toml")


@pytest.mark.parametrize("name", built_in_recipes())
def test_a_written_recipe_has_every_key_and_reads_back(name, tmp_path):
    recipe = read_recipe(name, ["data.path=here"] if name != "digits" else [])
    text = recipe.as_toml()
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    assert read_recipe(tmp_path / "r.toml") == recipe
    # With its comments made keys, each section has all that it could have.
    lines = [f'{line[2:]} "?"' if line.startswith("# ") else line for line in text.splitlines()]
    tables = tomllib.loads("\n".join(lines))
    for section in type(recipe).model_fields:
        if isinstance(tables[section], dict):
            assert set(tables[section]) == set(type(getattr(recipe, section)).model_fields)


def seeds(recipe):
    return list(recipe.seeds.values())


def test_one_seed_for_all_sections(tmp_path):
    content = {"seed": 3, "data": {"source": "digits", "seed": 5}}
    recipe = recipe_from(content)
    assert seeds(recipe) == [5, 3, 3, 3], "a section's own seed goes before"
    (tmp_path / "r.toml").write_text(recipe.as_toml())
    assert read_recipe(tmp_path / "r.toml") == recipe
    assert seeds(read_recipe("digits", ["seed=7"])) == [7] * 4
    assert seeds(read_recipe("digits", ["seed=7", "training.seed=8"])) == [7, 7, 7, 8]
    assert seeds(recipe.with_values({"seed": 9})) == [9] * 4
    with pytest.raises(QmtlError, match=r"seed: .* greater than or equal to 0, got -1"):
        read_recipe("digits", ["seed=-1"])


def weighted(**keys):
    content = {"source": "digits", "splits": [0.1, 0.1, 0.8], **keys}
    return build_data(recipe_from({"data": content}))


def test_balanced_weights_make_classes_equal():
    data = weighted(class_weights="balanced")
    for task in data.tasks:
        if not task.is_classification:
            assert task.class_weights is None
            continue
        labels = data.train.targets[task.name].long()
        counts = torch.bincount(labels, minlength=max(2, task.n_outputs))
        weights = torch.tensor(task.class_weights)
        torch.testing.assert_close(counts * weights, (counts * weights).mean().expand(len(counts)))
        assert float((counts * weights).sum()) == pytest.approx(len(labels))


def test_weights_and_metrics_by_task():
    keys = {"class_weights": {"parity": [1, 3]}, "metrics": {"parity": ["f1", "accuracy"]}}
    data = weighted(**keys)
    parity = data.task("parity")
    assert parity.class_weights == (1, 3)
    assert parity.metric_names == ("f1", "accuracy")
    assert data.task("digit").class_weights is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"class_weights": {"party": "balanced"}}, "task in class_weights: 'party'; did you"),
        ({"metrics": {"party": ["f1"]}}, "task in data.metrics: 'party'; did you mean 'parity'"),
        ({"class_weights": {"ink": "balanced"}}, "'ink' is regression and has no classes"),
        ({"class_weights": {"parity": [1, 2, 3]}}, "parity"),
        ({"class_weights": "equal"}, "class_weights"),
        ({"metrics": {"parity": ["f2"]}}, "f2"),
    ],
)
def test_weights_and_metrics_that_do_not_fit(keys, message):
    with pytest.raises(QmtlError, match=message):
        weighted(**keys)


def test_a_design_beside_the_recipe_is_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "recipe.toml").write_text('circuit.design = "own.toml"\ndata.source = "digits"\n')
    (tmp_path / "own.toml").write_text(to_toml(load_design("iqp")))
    (tmp_path / "cz-ring").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recipe = read_recipe(tmp_path / "recipe.toml")
    assert recipe.circuit.design == str(tmp_path / "own.toml")
    assert recipe_from(recipe.model_dump(mode="json")) == recipe
    named = read_recipe(tmp_path / "recipe.toml", ["circuit.design=cz-ring"])
    assert named.circuit.design == "cz-ring"


@pytest.mark.parametrize("value", ["training.learning_rate=true", "data.splits=[true, 0.5, 0.5]",
                                   "bench.seeds=false", "head.seed=true"])  # fmt: skip
def test_truth_values_are_no_numbers(value):
    section, _, key = value.partition("=")[0].partition(".")
    with pytest.raises(QmtlError, match=f"{section}: {key} takes numbers, not true or false"):
        read_recipe("digits", [value])
    assert read_recipe("digits", ["encoder.standardise=true"]).encoder.standardise is True


@pytest.mark.parametrize("value", ["training.batch_size=99999999999", "encoder.hidden=[4, 1e99]",
                                   "encoder.hidden=[4, 99999999999]"])  # fmt: skip
def test_numbers_that_no_machine_can_use(value):
    with pytest.raises(QmtlError, match=r"digits: .*(expected whole numbers up to 2,147|1e\+99)"):
        read_recipe("digits", [value])


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ({"kind": "binary"}, "y: missing key 'class_names'"),
        ({"kind": "binary", "class_names": [1, 2]}, "y: class_names.0: .* string, got 1"),
        (
            {"kind": "binary", "names": ["a", "b"]},
            "unknown key 'names'; did you mean 'class_names'",
        ),
        ({"kind": "multi", "class_names": ["a", "b"]}, "'multi'; did you mean 'multiclass'"),
    ],
)
def test_a_target_with_classes_that_does_not_fit(target, told):
    content = {"source": "csv", "path": "a.csv", "targets": {"y": target}}
    with pytest.raises(QmtlError, match=f"data.targets: .*{told}") as caught:
        recipe_from({"data": content})
    assert "union" not in str(caught.value)
