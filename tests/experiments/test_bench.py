"""Whole benchmarks: what runs, what is kept, what fails alone, and what is refused."""

import pytest

from qmtl.errors import QmtlError
from qmtl.experiments import _rivals as cell_module
from qmtl.experiments._bench import bench, cell_data
from qmtl.experiments._sweep import Workers
from tests.experiments.bench_samples import tiny

HERE = Workers(jobs=1)


def run(recipe, folder):
    """Run a benchmark; the cells that were run, and the summary."""
    done = []
    found = bench(recipe, folder, HERE, lambda cell, *_: done.append(cell.label))
    return done, found


def test_search_then_rest_and_never_again(tmp_path):
    recipe = tiny("bench.probe=true")
    done, found = run(recipe, tmp_path)
    # Two settings on the first seed, the chosen one on the second; two probes.
    assert len(done) == 2 * (2 + 1) + 2
    assert [scores.head for scores in found.heads] == ["linear", "local-register"]
    assert all(len(scores.results) == 2 and all(scores.results) for scores in found.heads)
    assert found.probe is not None
    again, same = run(recipe, tmp_path)
    assert again == []
    assert same == found
    more, _ = run(recipe.with_values({"bench.seeds": 3, "bench.heads": ["linear"]}), tmp_path)
    assert len(more) == 1 + 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tiny(), tmp_path_factory.mktemp("bench"))[1]


def test_both_heads_see_the_same_rows_and_order_of_tasks(finished):
    for first, second in zip(*(scores.results for scores in finished.heads), strict=True):
        assert first.rows == second.rows
        assert first.baselines == second.baselines
        assert list(first.metrics["test"]) == list(second.metrics["test"])
    orders = {tuple(result.metrics["test"]) for result in finished.heads[0].results}
    assert len(orders) == 2, "the seed shuffles the tasks"
    kept = tiny("bench.shuffle_tasks=false")
    assert [task.name for task in cell_data(kept, 1).tasks] == ["parity", "five_or_more", "ink"]


def test_results_hold_what_the_table_needs(finished):
    result = finished.heads[0].results[0]
    # A dense head on 2 wires per task has (6 + 1) * 3 parameters, and an encoder 64 → 4 → 6.
    assert result.head_parameters == 21
    assert result.total_parameters == 21 + 65 * 4 + 5 * 6
    assert result.step_seconds > 0
    assert result.best_epoch == 1
    assert list(result.metrics["test"]["parity"])[1:] == ["accuracy", "f1", "auroc", "ece"]
    assert "ece" not in result.metrics["test"]["ink"]


def test_a_failed_cell_is_recorded_and_tried_again(tmp_path, monkeypatch):
    fit = cell_module.fit

    def fails_for_linear(model, data, settings, **options):
        if type(model.head).__name__ == "LinearHead" and settings.seed == 1:
            raise RuntimeError("no memory\nleft")
        return fit(model, data, settings, **options)

    monkeypatch.setattr(cell_module, "fit", fails_for_linear)
    _, found = run(tiny("bench.grid={}"), tmp_path)
    (failure,) = found.failures
    assert failure.label == "linear, seed 1"
    assert failure.error == "RuntimeError: no memory left"
    assert "fails_for_linear" in failure.traceback
    assert found.head("linear").results[1] is None
    assert all(found.head("local-register").results)
    monkeypatch.undo()
    done, found = run(tiny("bench.grid={}"), tmp_path)
    assert len(done) == 1
    assert not found.failures


def test_a_head_of_which_every_setting_fails_has_no_row(tmp_path, monkeypatch):
    monkeypatch.setattr(cell_module, "fit", lambda *_, **__: 1 / 0)
    _, found = run(tiny('bench.heads=["linear"]'), tmp_path)
    assert found.heads == ()
    assert len(found.failures) == 2, "the chosen setting of seed 1 was never known"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('bench.grid={"training.lr"=[1]}', "training.lr"),
        ('bench.grid={"head.seed"=[1]}', "not for a grid"),
        ('bench.grid={"training.scalarizer"=["men"]}', "'Mean'"),
        ("training.devices=2", "devices must be 1"),
        ("training.options={weights=[1.0, 1.0, 1.0]}", "shuffle_tasks"),
    ],
)
def test_what_no_cell_could_run_with_is_refused_before_any_runs(tmp_path, override, message):
    with pytest.raises(QmtlError, match=message):
        bench(tiny('bench.heads=["quantum"]', override), tmp_path, HERE)
    assert not list(tmp_path.iterdir())
