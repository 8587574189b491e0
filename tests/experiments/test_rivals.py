"""Heads of a comparison; single-task models are trained each as if it were alone."""

import pytest

import qmtl
from qmtl.encoders import MLP
from qmtl.errors import RecipeError
from qmtl.experiments import build_data, read_recipe, resume_run, start_run
from qmtl.experiments._rivals import train_rival
from qmtl.heads import LinearHead

CHANGES = ["training.max_epochs=2", "encoder.hidden=[4]", "data.tasks=['parity', 'ink']"]


def test_each_single_task_model_is_trained_as_if_alone():
    recipe = read_recipe("digits", [*CHANGES, "training.aggregator=nashmtl"])
    data = build_data(recipe)
    trained = train_rival(recipe, data, "single-task")
    best = []
    for task in data.tasks:
        own = data.subset([task.name])
        model = qmtl.MultiTaskModel(
            MLP(64, 4, out_features=4, seed=0), LinearHead([task], 4, seed=0)
        )
        settings = recipe.training.model_copy(update={"aggregator": None})
        alone = qmtl.fit(model, own, settings, progress=False)
        for split, metrics in alone.metrics.items():
            assert trained.metrics[split][task.name] == metrics[task.name]
            assert trained.baselines[split][task.name] == alone.baselines[split][task.name]
        best.append(alone.best_epoch)
    assert trained.best_epoch == sum(best) / len(best)
    assert trained.head_parameters == 10
    assert trained.total_parameters == 10 + 2 * (65 * 4 + 5 * 4)


def test_single_quantum_heads_have_their_own_register_only():
    tasks = "data.tasks=['digit', 'parity']"
    recipe = read_recipe("digits", [*CHANGES, tasks, "head.single_task=quantum"])
    trained = train_rival(recipe, build_data(recipe), "single-task")
    # Four and two wires, two encoding layers, two block layers, a scale.
    alone = [qmtl.HeadCircuit([task]).count_parameters().total for task in build_data(recipe).tasks]
    assert trained.head_parameters == sum(alone)


def test_a_run_compares_with_them(tmp_path):
    recipe = read_recipe("digits", [*CHANGES, "compare=['single-task', 'linear']"])
    run = start_run(recipe, tmp_path / "run", progress=False)
    assert run.results["parameters"]["single-task head"] == 10
    (run.path / "results.json").unlink()
    again = resume_run(run.path, progress=False)
    assert again.results["rivals"] == run.results["rivals"]


def test_they_are_not_a_head():
    with pytest.raises(RecipeError, match=r"head\.type: single-task models .* qmtl bench --heads"):
        read_recipe("digits", ["head.type=single-task"])
