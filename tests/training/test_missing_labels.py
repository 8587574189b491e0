"""Steps in which tasks have no label, and data in which every row belongs to one task."""

import numpy as np
import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.training import MultiTaskDataModule, TrainingSettings
from tests.training.samples import (
    QUIET,
    TASKS,
    Spy,
    arrays,
    disjoint_data,
    tiny_model,
    with_missing,
)


def _rare() -> qmtl.data.MultiTaskData:
    """Task d has labels in one training row only."""
    X, targets = arrays(48)
    splits = {"train": range(32), "validation": range(32, 40), "test": range(40, 48)}
    targets["d"][1:32] = np.nan
    rows = {name: list(part) for name, part in splits.items()}
    return qmtl.data.from_arrays(X, targets, tasks=TASKS, splits=rows)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize(
    "combiner", [{"scalarizer": "mean"}, {"scalarizer": "uw"}, {"aggregator": "upgrad"}]
)
def test_a_task_without_labels_keeps_weights_and_optimiser_state(combiner, optimizer):
    data = _rare()
    spy = Spy()
    model = tiny_model(data)
    options = {"optimizer": optimizer, "weight_decay": 0.1, **QUIET, **combiner}
    qmtl.fit(model, data, max_epochs=3, callbacks=[spy], **options)
    names = {id(p): name for name, p in model.named_parameters()}
    own = [names[id(p)] for p in model.task_parameters("d")]
    labelled = 0
    for step in spy.steps:
        present = bool(TASKS[3].labelled(step["batch"].targets["d"]).any())
        labelled += present
        for name in own:
            before, after = step["before"][name], step["after"][name]
            if present:
                assert not torch.equal(before[0], after[0])
            else:
                assert len(before) == len(after)
                assert all(torch.equal(b, a) for b, a in zip(before, after, strict=True))
    assert labelled == 3
    assert len(spy.steps) == 12


@pytest.mark.parametrize(
    "combiner",
    [{"scalarizer": "mean"}, {"scalarizer": "famo"}, {"scalarizer": "dwa"},
     {"aggregator": "upgrad"}, {"aggregator": "graddrop"}],
)  # fmt: skip
def test_random_missing_labels_train(combiner):
    data = with_missing(0.7)
    result = qmtl.fit(tiny_model(data), data, max_epochs=3, **QUIET, **combiner)
    losses = [row["value"] for row in result.history if row["metric"] == "loss"]
    assert np.isfinite(losses).all()


def test_an_aggregator_with_state_refuses_a_step_without_a_task():
    data = _rare()
    with pytest.raises(InvalidInputError, match=r"'nashmtl' keeps state per task.*'d' has none"):
        qmtl.fit(tiny_model(data), data, aggregator="nashmtl", max_epochs=1, **QUIET)


SIZES = {"a": 16, "b": 64, "c": 144}


def _plan(**options):
    data = disjoint_data(SIZES)
    assert data.is_disjoint
    return MultiTaskDataModule(data, TrainingSettings(batch_size=8, **options)).plan


def _task_of(row: int) -> str:
    return "a" if row < 16 else "b" if row < 80 else "c"


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_single_task_batches_in_proportion_to_size(temperature):
    plan = _plan(temperature=temperature)
    counts = dict.fromkeys(SIZES, 0)
    for epoch in range(60):
        for step in plan.epoch(epoch):
            tasks = {_task_of(row) for row in step}
            assert len(tasks) == 1
            counts[tasks.pop()] += 1
    n = sum(counts.values())
    total = sum(size**temperature for size in SIZES.values())
    for name, size in SIZES.items():
        share = size**temperature / total
        # Four standard deviations of a binomial share.
        assert abs(counts[name] / n - share) < 4 * (share * (1 - share) / n) ** 0.5


@pytest.mark.parametrize(("tasks_per_step", "expected"), [(None, 3), (2, 2), (9, 3)])
def test_aggregator_steps_hold_a_mini_batch_of_each_task(tasks_per_step, expected):
    plan = _plan(aggregator="upgrad", tasks_per_step=tasks_per_step)
    for step in plan.epoch(0):
        tasks = [_task_of(row) for row in step]
        assert len(set(tasks)) == expected
        assert all(tasks.count(name) == 8 for name in set(tasks))


@pytest.mark.parametrize(
    "combiner",
    [{"scalarizer": "mean"}, {"scalarizer": "uw"}, {"aggregator": "upgrad"},
     {"aggregator": "nashmtl"}],
)  # fmt: skip
def test_disjoint_data_train(combiner):
    data = disjoint_data({"a": 8, "b": 16, "c": 24})
    model = tiny_model(data)
    before = {name: p.clone() for name, p in model.named_parameters()}
    result = qmtl.fit(model, data, max_epochs=2, restore_best=False, **QUIET, **combiner)
    assert {row["task"] for row in result.history if row["split"] == "train"} == {"a", "b", "c"}
    assert not any(torch.equal(before[name], p) for name, p in model.named_parameters())
