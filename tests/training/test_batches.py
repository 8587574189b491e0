"""Which rows make each step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qmtl.training import MultiTaskDataModule, TrainingSettings
from qmtl.training.batches import BatchPlan, EpochBatches, SplitRows, plan_batches
from tests.training.samples import disjoint_data, tiny_data, with_missing


def _mixed(seed: int = 0, n: int = 23, size: int = 5) -> BatchPlan:
    return BatchPlan((torch.arange(n),), size, 1, 1.0, seed)


def test_a_function_of_seed_and_epoch_alone():
    batches = EpochBatches(_mixed())
    first = list(batches)
    batches.set_epoch(3)
    third = list(batches)
    again = EpochBatches(_mixed())
    again.set_epoch(3)
    state = torch.get_rng_state()
    assert list(again) == third != first
    assert list(EpochBatches(_mixed(seed=1))) != first
    assert torch.equal(state, torch.get_rng_state())


@given(n=st.integers(1, 40), size=st.integers(1, 12), world=st.integers(1, 4))
def test_mixed_batches_see_every_row_once_and_ranks_partition_them(n, size, world):
    plan = _mixed(n=n, size=size)
    steps = list(EpochBatches(plan))
    assert len(steps) == plan.n_steps == len(EpochBatches(plan))
    assert sorted(row for step in steps for row in step) == list(range(n))
    shares = [list(EpochBatches(plan, rank, world)) for rank in range(world)]
    for i, step in enumerate(steps):
        parts = [share[i] for share in shares]
        assert all(parts)
        assert sorted(row for part in parts for row in part if row >= 0) == sorted(step)


@pytest.mark.parametrize("tasks_per_step", [1, 3])
def test_ranks_partition_single_task_steps_too(tasks_per_step):
    data = disjoint_data({"a": 5, "b": 9, "c": 13})
    options = {"batch_size": 4, "seed": 0, "single_task": True, "tasks_per_step": tasks_per_step}
    plan = plan_batches(data.train, data.tasks, **options)
    shares = [list(EpochBatches(plan, rank, 2)) for rank in range(2)]
    for whole, *parts in zip(plan.epoch(0), *shares, strict=True):
        assert sorted(r for part in parts for r in part if r >= 0) == sorted(whole)


def test_rows_of_a_batch_are_the_splits():
    split = with_missing().train
    rows = [5, 0, 5]
    batch = SplitRows(split)[rows]
    assert list(batch.targets) == list(split.targets)
    for name, values in split.targets.items():
        torch.testing.assert_close(
            batch.targets[name], values[rows], rtol=0, atol=0, equal_nan=True
        )


def test_padding_has_no_label():
    data = tiny_data()
    batch = SplitRows(data.train)[[-1, 2]]
    for task in data.tasks:
        labelled = task.labelled(batch.targets[task.name])
        assert labelled.tolist() == [False, True]
    assert torch.equal(batch.inputs[1], data.train.inputs[2])
    # The split itself is not written to.
    assert all(task.labelled(data.train.targets[task.name]).all() for task in data.tasks)


def test_a_batch_goes_to_a_device_whole():
    batch = SplitRows(with_missing().train)[[0, 3]]
    moved = batch.to(torch.device("meta"))
    assert list(moved.targets) == list(batch.targets)
    for name, values in batch.targets.items():
        there = moved.targets[name]
        assert (there.device.type, there.shape, there.dtype) == ("meta", values.shape, values.dtype)


def test_rows_without_any_label_are_left_out():
    data = with_missing(0.8)
    rows = MultiTaskDataModule(data, TrainingSettings()).plan.rows
    labelled = torch.stack([t.labelled(data.train.targets[t.name]) for t in data.tasks]).any(0)
    assert len(rows) == 1
    assert rows[0].tolist() == labelled.nonzero().flatten().tolist()
    assert len(rows[0]) < len(data.train)


def test_validation_is_whole_and_in_order():
    data = tiny_data()
    loader = MultiTaskDataModule(data, TrainingSettings()).val_dataloader()
    assert torch.equal(torch.cat([batch.inputs for batch in loader]), data.validation.inputs)


def test_single_task_batches_run_on_into_the_next_shuffle():
    rows = torch.arange(10), torch.arange(10, 13), torch.arange(13, 43)
    plan = BatchPlan(rows, 4, 3, 1.0, seed=0)
    steps = plan.epoch(0)
    assert len(steps) == plan.n_steps == 4
    for step in steps:
        # A task with fewer rows than a mini-batch gives all that it has, once.
        assert [sum(r in part for r in step) for part in map(torch.Tensor.tolist, rows)] == [
            4,
            3,
            4,
        ]
    first = [row for step in steps for row in step if row < 10]
    assert sorted(first[:10]) == list(range(10))


@pytest.mark.parametrize("temperature", [0.0, 5000.0, 1e300])
def test_any_temperature_draws_as_many_tasks_as_asked_for(temperature):
    data = disjoint_data({"a": 4, "b": 9, "c": 13})
    options = {"batch_size": 4, "seed": 0, "single_task": True, "temperature": temperature}
    for n in (1, 2, 3):
        plan = plan_batches(data.train, data.tasks, tasks_per_step=n, **options)
        assert {len(step) for step in plan.epoch(0)} == {4 * n}
    if temperature:
        one = plan_batches(data.train, data.tasks, **options)
        assert all(row >= 13 for step in one.epoch(0) for row in step)


def test_single_task_batches_of_tasks_without_training_rows():
    data = disjoint_data({"a": 4, "b": 9, "c": 13})
    data.train.targets["b"].fill_(torch.nan)
    options = {"batch_size": 4, "seed": 0, "single_task": True, "tasks_per_step": 3}
    plan = plan_batches(data.train, data.tasks, temperature=0.0, **options)
    assert {len(step) for step in plan.epoch(0)} == {8}
