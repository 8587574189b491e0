"""Cells: what is in their key, and what is not."""

from dataclasses import replace

import pytest
import torch

from qmtl.data import digits
from qmtl.errors import InvalidInputError, RecipeError
from qmtl.experiments._bench import cell_of, settings_of
from qmtl.experiments._build import PROBE
from qmtl.experiments._recipe import parse_grid, read_recipe
from qmtl.experiments._sweep import fingerprint
from tests.experiments.bench_samples import tiny

RATES = {"training.learning_rate": 0.01}


def key(recipe=None, head="linear", seed=0, setting=RATES, data="data"):
    return cell_of(recipe or tiny(), head, seed, setting, data).key


def test_settings_are_all_combinations():
    grid = {"a": [1, 2], "b": ["x", "y"]}
    assert len(settings_of(grid)) == 4
    assert settings_of({}) == [{}]


@pytest.mark.parametrize(
    "other",
    [
        {"head": "quantum"},
        {"seed": 1},
        {"setting": {"training.learning_rate": 0.02}},
        {"data": "other data"},
        {"recipe": tiny("training.max_epochs=2")},
        {"recipe": tiny("encoder.hidden=[5]")},
        {"recipe": tiny("circuit.wires_per_task=3")},
        {"recipe": tiny("bench.shuffle_tasks=false")},
    ],
)
def test_key_changes_with_what_the_result_depends_on(other):
    assert key(**other) != key()


@pytest.mark.parametrize(
    "override",
    [
        'name="other"',
        "bench.seeds=9",
        'bench.heads=["quantum"]',
        "bench.grid={}",
        'compare=["linear"]',
        'logging.loggers=["csv"]',
    ],
)
def test_key_is_the_same_whatever_else_is_compared(override):
    assert key(tiny(override)) == key()


def test_key_is_that_of_the_data_not_of_their_folder():
    def in_folder(folder):
        recipe = read_recipe("chestxray", [f"data.path={folder}"])
        return cell_of(recipe, "linear", 0, RATES, "data").key

    assert in_folder("/here") == in_folder("/there")


@pytest.mark.parametrize("name", ["circuit.design", "training.noise.file", "grid"])
def test_key_is_that_of_the_content_of_files(tmp_path, name):
    def in_file(content, file):
        (tmp_path / file).write_text(content)
        value = str(tmp_path / file)
        if name == "grid":
            return key(setting={"circuit.design": value})
        return key(tiny().with_values({name: value}))

    assert in_file("a", "one.toml") == in_file("a", "two.toml")
    assert in_file("a", "one.toml") != in_file("b", "one.toml")


def test_a_setting_is_in_the_recipe_of_its_cell():
    cell = cell_of(tiny(), "local-cone", 7, RATES, "data")
    assert cell.recipe.training.learning_rate == 0.01
    assert cell.recipe.head.type == "local-cone"
    seeds = (cell.recipe.data.seed, cell.recipe.encoder.seed, cell.recipe.head.seed)
    assert {*seeds, cell.recipe.training.seed} == {7}


def test_the_probe_depends_on_the_data_alone():
    assert key(tiny("training.max_epochs=9"), PROBE, setting={}) == key(head=PROBE, setting={})
    assert key(head=PROBE, seed=1, setting={}) != key(head=PROBE, setting={})


@pytest.mark.parametrize("name", ["data.seed", "head.type", "bench.seeds", "name"])
def test_what_the_benchmark_sets_is_not_for_the_grid(name):
    with pytest.raises(InvalidInputError, match="is not for a grid"):
        cell_of(tiny(), "linear", 0, {name: 1}, "data")


def test_unknown_keys_name_the_nearest():
    with pytest.raises(RecipeError, match=r"training\.learning_rte.*learning_rate"):
        cell_of(tiny(), "linear", 0, {"training.learning_rte": 1}, "data")


def test_fingerprint_sees_one_changed_label():
    data = digits(tasks=["parity"])
    before = fingerprint(data)
    data.test.targets["parity"][3] = 1 - data.test.targets["parity"][3]
    assert fingerprint(data) != before


def test_fingerprint_sees_one_changed_weight():
    data = digits(tasks=["parity"])
    weights = torch.ones(len(data.test))
    first = replace(data, test=replace(data.test, sample_weight=weights))
    weights[3] = 2
    second = replace(data, test=replace(data.test, sample_weight=weights))
    assert len({fingerprint(one) for one in (data, first, second)}) == 3


@pytest.mark.parametrize("text", ["a", "=1", "a=", ""])
def test_bad_grids(text):
    with pytest.raises(RecipeError, match="KEY=V1,V2"):
        parse_grid([text])
    with pytest.raises(RecipeError, match="given twice"):
        parse_grid(["a=1", "a=2"])


def test_grid_values_are_toml():
    assert parse_grid(["encoder.hidden=[8],[16,8]", "a=true,1.5"]) == {
        "encoder.hidden": [[8], [16, 8]],
        "a": [True, 1.5],
    }
