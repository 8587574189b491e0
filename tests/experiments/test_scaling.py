"""`qmtl scaling`: counts, exponents, crossovers, cost, accuracy."""

import csv
import math

import pytest
import torch

from qmtl.errors import InvalidInputError, QmtlError
from qmtl.experiments._scaling import ScalingSettings, run_scaling
from qmtl.experiments._scaling_accuracy import (
    AccuracyResult,
    AccuracySettings,
    digit_dichotomies,
    measure_accuracy,
    scaling_data,
    summarise,
)
from qmtl.experiments._scaling_cost import CostPoint, measure_cost
from qmtl.experiments._scaling_parameters import (
    HEADS,
    circuit_size,
    count_head,
    counted_head,
    crossover,
    fitted_exponents,
)

IDS = [f"{head.rule}-{head.name}" for head in HEADS]
POWERS = [2**i for i in range(1, 9)]


@pytest.mark.parametrize("head", HEADS, ids=IDS)
def test_closed_form_is_what_is_built(head):
    for n in [*range(1, 13), 33]:
        assert count_head(head, n).parameters == head.closed_form(n), n


@pytest.mark.slow
def test_exponents():
    counts = [count_head(head, n) for head in HEADS for n in POWERS]
    assert all(count.parameters == count.closed_form for count in counts)
    fits = fitted_exponents(counts)
    assert fits["matched", "linear"].slope == pytest.approx(2, abs=0.05)
    for name in ("quantum", "local-cone", "local-register", "low-rank", "vqc-per-task"):
        assert fits["matched", name].slope == pytest.approx(1, abs=0.05)
    assert fits["fixed", "quantum"].slope == pytest.approx(1, abs=0.05)
    assert fits["fixed", "fixed-width"].slope == pytest.approx(1, abs=0.05)
    assert {fit.n for fit in fits.values()} == {5}
    assert all(fit.error < 0.02 for fit in fits.values())


def test_the_representation_grows_only_when_matched():
    for head in HEADS:
        widths = [count_head(head, n).representation for n in (4, 8)]
        assert widths == ([8, 16] if head.rule == "matched" else [8, 8])


def test_crossovers():
    assert crossover(counted_head("linear")).tasks == 5
    for rival in HEADS:
        found, quantum = crossover(rival), counted_head("quantum", rival.rule)
        sign = {"quantum": -1, "neither": 0, "rival": 1}[found.smaller]
        differences = [quantum.closed_form(n) - rival.closed_form(n) for n in range(1, 1025)]
        signs = [(d > 0) - (d < 0) for d in differences]
        assert set(signs[found.tasks - 1 :]) == {sign}
        assert found.tasks == 1 or signs[found.tasks - 2] != sign


def test_depth_does_not_grow_and_two_qubit_gates_do_so_linearly():
    sizes = [circuit_size("matched", n) for n in (4, 16, 256)]
    assert {(s.depth, s.two_qubit_depth, s.cone_wires) for s in sizes} == {(12, 5, 6)}
    assert [s.two_qubit_gates for s in sizes] == [20, 80, 1280]
    fixed = circuit_size("fixed", 256)
    assert (fixed.circuits, fixed.wires) == (256, 4)


@pytest.mark.slow
def test_cost_of_a_step():
    cost = measure_cost(CostPoint("quantum", 3, batch_size=4))
    assert 0 < cost.fastest_ms <= cost.step_ms <= cost.slowest_ms
    assert cost.steps >= 5
    assert math.isnan(cost.peak_mb) or cost.peak_mb >= 0


def test_a_step_that_fails_says_why(monkeypatch):
    monkeypatch.setattr("qmtl.experiments._scaling_cost.CHILD", "qmtl.no_such_module")
    with pytest.raises(QmtlError, match=r"timing linear with 2 tasks .*no_such_module"):
        measure_cost(CostPoint("linear", 2))


@pytest.mark.parametrize(
    ("head", "tasks", "words"),
    [("liner", 2, "'linear'"), ("linear", 0, "tasks must be an integer >= 1, got 0")],
)
def test_cost_of_nonsense(head, tasks, words):
    with pytest.raises(InvalidInputError, match=words):
        CostPoint(head, tasks)


def test_dichotomies_are_balanced_distinct_and_of_the_digit():
    data = digit_dichotomies(seed=1)
    targets = torch.stack([data.train.targets[task.name] for task in data.tasks])
    assert len(torch.unique(targets, dim=0)) == 126
    assert len(torch.unique(1 - targets, dim=0)) == 126
    assert (targets.mean(dim=1) - 0.5).abs().max() < 0.02


def test_the_seed_orders_tasks():
    first, again, other = (scaling_data(None, seed) for seed in (0, 0, 1))
    names = [[task.name for task in data.tasks] for data in (first, again, other)]
    assert names[0] == names[1] != names[2]
    assert sorted(names[0]) == sorted(names[2])


def test_findings_of_real_chest_x_rays(data_folder):
    data = scaling_data(data_folder / "chestxray" / "nih1000", 0)
    assert len(data.tasks) == 14
    assert data.n_inputs == 256
    assert data.tasks[0].main_metric == "auroc"


def test_accuracy_of_growing_task_lists():
    settings = AccuracySettings(
        heads=("quantum", "linear"), seeds=2, head_learning_rates=(0.1,), max_epochs=1, hidden=16
    )
    cells = measure_accuracy(settings, [1, 3])
    assert {(c.head, c.tasks, c.seed) for c in cells} == {
        (head, n, seed) for head in settings.heads for n in (1, 3) for seed in (0, 1)
    }
    for cell in cells:
        assert cell.head_parameters == counted_head(cell.head).closed_form(cell.tasks)
        assert 0.4 < cell.baseline < 0.6 < cell.test <= 1
    for point in summarise(cells):
        assert point.test.n == 2
        if point.head == "linear":
            assert point.ahead_of_linear.mean == 0


def test_finished_runs_are_kept_and_not_done_again(tmp_path):
    settings = AccuracySettings(
        heads=("linear",), seeds=1, head_learning_rates=(0.1,), max_epochs=1, hidden=4
    )
    seen = []

    def report(cell, found, done, all_):
        seen.append((cell.tasks, cell.seed, done, all_))

    options = {"store": tmp_path / "cells", "report": report}
    found = measure_accuracy(settings, [1, 2], **options)
    assert [(done, all_) for *_, done, all_ in seen] == [(n, 2) for n in (1, 2)]
    seen.clear()
    assert measure_accuracy(settings, [1, 2], **options) == found
    assert seen == []
    # More seeds and rates are more runs, and another budget is another run.
    more = settings.model_copy(update={"seeds": 2, "head_learning_rates": (0.1, 0.2)})
    measure_accuracy(more, [1], **options)
    assert len(seen) == 4 - 1
    seen.clear()
    measure_accuracy(settings.model_copy(update={"max_epochs": 2}), [1], **options)
    assert len(seen) == 1


def test_a_run_that_fails_is_named(monkeypatch):
    monkeypatch.setattr("qmtl.experiments._scaling_accuracy.train_rival", lambda *_, **__: 1 / 0)
    settings = AccuracySettings(heads=("linear",), seeds=1, head_learning_rates=(0.1,))
    with pytest.raises(QmtlError, match=r"1 of 1 cells failed; T = 1, linear, seed 0.*ZeroDiv"):
        measure_accuracy(settings, [1])


def _cell(head, seed, rate, validation, test):
    scores = {"validation": validation, "test": test, "test_first": test, "baseline": 0.5}
    return AccuracyResult(
        "d", head, 2, seed, rate, "accuracy", **scores, head_parameters=1, encoder_parameters=1
    )


def test_rates_are_chosen_on_validation_and_never_on_test():
    cells = [
        _cell("linear", seed, rate, validation, test)
        for rate, validation, test in ((0.1, 0.9, 0.6), (0.2, 0.8, 0.99))
        for seed in (0, 1)
    ]
    cells += [_cell("quantum", seed, 0.2, 0.7, 0.7 + seed / 10) for seed in (1, 0)]
    linear, quantum = summarise(cells)
    assert (linear.head_learning_rate, linear.test.mean) == (0.1, 0.6)
    assert quantum.ahead_of_linear.mean == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heads": ("quantun",)}, "'quantum'"),
        ({"heads": ()}, "heads: .*at least 1 item"),
        ({"seeds": 0}, "seeds: Input should be greater"),
    ],
)
def test_accuracy_of_nonsense(change, words):
    with pytest.raises(InvalidInputError, match=words):
        AccuracySettings(**change)


def _rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_whole_run(tmp_path):
    accuracy = AccuracySettings(
        heads=("quantum", "linear"),
        seeds=1,
        head_learning_rates=(0.1,),
        max_epochs=1,
        hidden=8,
        most_tasks=2,
    )
    settings = ScalingSettings(
        tasks=(2, 16, 32), parts=("parameters", "accuracy"), accuracy=accuracy
    )
    lines = []
    run_scaling(settings, tmp_path, lines.append)
    names = {path.name for path in tmp_path.iterdir()}
    tables = ("accuracy.csv", "accuracy_runs.csv", "circuits.csv", "parameters.csv")
    assert names == {*tables, "parameters.png", "accuracy.png", "cells"}
    rows = _rows(tmp_path / "parameters.csv")
    assert len(rows) == 3 * len(HEADS)
    assert all(row["parameters"] == row["closed_form"] for row in rows)
    text = "\n".join(lines)
    assert "differ for 0" in text
    assert "2 of 2: T = 2, " in text
    assert "fewer from T = 5: the quantum head" in text
    assert "over 1 seed; " in text
    assert "nan" not in text, "one seed has no interval"
    assert "at most T = 2 tasks, which stands for all larger numbers" in text


def test_unknown_parts():
    with pytest.raises(InvalidInputError, match="'parameters'"):
        ScalingSettings(parts=("parameter",))
