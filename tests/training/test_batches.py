"""Which rows make each step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qmtl.tasks import labelled_rows, task_layout
from qmtl.training import MultiTaskDataModule, TrainingSettings
from qmtl.training._batches import BatchPlan, EpochBatches, SplitRows
from tests.training.samples import disjoint_data, tiny_data, with_missing


def _mixed(seed: int = 0, n: int = 23, size: int = 5) -> BatchPlan:
    return BatchPlan((torch.arange(n),), size, 1, 1.0, seed)


def _tasks_apart(data, tasks_per_step: int, temperature: float = 1.0) -> BatchPlan:
    options = {"tasks_per_step": tasks_per_step, "temperature": temperature, "batch_size": 4}
    return MultiTaskDataModule(data, TrainingSettings(aggregator="upgrad", **options)).plan


def _steps(batches) -> list[list[int]]:
    return [rows.tolist() for rows in batches]


def test_a_function_of_seed_and_epoch_alone():
    batches = EpochBatches(_mixed())
    first = _steps(batches)
    batches.set_epoch(3)
    third = _steps(batches)
    again = EpochBatches(_mixed())
    again.set_epoch(3)
    state = torch.get_rng_state()
    assert _steps(again) == third != first
    assert _steps(EpochBatches(_mixed(seed=1))) != first
    assert torch.equal(state, torch.get_rng_state())


@given(n=st.integers(1, 40), size=st.integers(1, 12), world=st.integers(1, 4))
def test_mixed_batches_see_every_row_once_and_ranks_partition_them(n, size, world):
    plan = _mixed(n=n, size=size)
    steps = _steps(EpochBatches(plan))
    assert len(steps) == plan.n_steps == len(EpochBatches(plan))
    assert sorted(row for step in steps for row in step) == list(range(n))
    shares = [_steps(EpochBatches(plan, rank, world)) for rank in range(world)]
    for i, step in enumerate(steps):
        assert sorted(row for share in shares for row in share[i]) == sorted(step)


@given(n=st.integers(1, 40), size=st.integers(1, 12), smallest=st.integers(1, 6))
def test_no_small_batch_ends_an_epoch(n, size, smallest):
    plan = BatchPlan((torch.arange(n),), size, 1, 1.0, 0, smallest)
    steps = _steps(plan.epoch(0))
    assert len(steps) == plan.n_steps
    assert sorted(row for step in steps for row in step) == list(range(n))
    assert all(len(step) >= min(n, size, smallest) for step in steps)
    assert all(len(step) < size + smallest for step in steps)


@pytest.mark.parametrize("tasks_per_step", [1, 3])
def test_ranks_partition_single_task_steps_too(tasks_per_step):
    data = disjoint_data({"a": 5, "b": 9, "c": 13})
    plan = _tasks_apart(data, tasks_per_step)
    shares = [_steps(EpochBatches(plan, rank, 2)) for rank in range(2)]
    for whole, *parts in zip(plan.epoch(0), *shares, strict=True):
        assert sorted(r for part in parts for r in part) == sorted(whole.tolist())


def test_streams_reshuffle_when_all_rows_have_been_seen():
    # Seven rows in batches of three: a batch may continue in the next shuffle.
    plan = BatchPlan((torch.arange(7), torch.arange(7, 9)), 3, 2, 1.0, seed=0)
    steps = _steps(plan.epoch(1) + plan.epoch(2))
    assert [len(step) for step in steps] == [5] * 4
    for first, second in (steps[:2], steps[2:]):
        rows = [row for row in first + second if row < 7]
        assert len(set(rows)) == 6
        assert sorted(first[3:]) == sorted(second[3:]) == [7, 8]


def test_rows_of_a_batch_are_the_splits():
    data = with_missing()
    rows = torch.tensor([5, 0, 5])
    batch = SplitRows(data.train, data.tasks)[rows]
    assert not batch.complete
    expected = task_layout(data.tasks).join_targets(data.train.take(rows).targets)
    torch.testing.assert_close(batch.targets, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(batch.inputs, data.train.inputs[rows])


def test_a_batch_of_no_rows_has_some_without_labels():
    data = tiny_data()
    rows = SplitRows(data.train, data.tasks)
    batch = rows[torch.tensor([], dtype=torch.int64)]
    assert len(batch.inputs) == 2  # Batch normalisation cannot train on one.
    assert batch.targets.isnan().all()
    assert not batch.complete
    # The split itself is not written to.
    assert labelled_rows(data.tasks, data.train.targets).all()
    assert rows[torch.tensor([2])].complete


def test_a_batch_goes_to_a_device_whole():
    data = with_missing()
    batch = SplitRows(data.train, data.tasks)[torch.tensor([0, 3])]
    moved = batch.to(torch.device("meta"))
    for here, there in ((batch.inputs, moved.inputs), (batch.targets, moved.targets)):
        assert (there.device.type, there.shape, there.dtype) == ("meta", here.shape, here.dtype)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_loaders_give_the_batches_of_an_epoch(n_workers):
    data = tiny_data()
    settings = TrainingSettings(batch_size=5, num_workers=n_workers)
    module = MultiTaskDataModule(data, settings)
    loader = module.train_dataloader()
    loader.sampler.set_epoch(2)
    plan = module.plan.epoch(2)
    assert len(loader) == len(plan)
    for rows, batch in zip(plan, loader, strict=True):
        assert torch.equal(batch.inputs, data.train.inputs[rows])


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
        assert [int(torch.isin(step, part).sum()) for part in rows] == [4, 3, 4]
    first = [row for step in steps for row in step.tolist() if row < 10]
    assert sorted(first[:10]) == list(range(10))


@pytest.mark.parametrize("temperature", [0.0, 5000.0, 1e300])
def test_any_temperature_draws_as_many_tasks_as_asked_for(temperature):
    data = disjoint_data({"a": 4, "b": 9, "c": 13})
    for n in (1, 2, 3):
        plan = _tasks_apart(data, n, temperature)
        assert {len(step) for step in plan.epoch(0)} == {4 * n}
    if temperature:
        one = _tasks_apart(data, 1, temperature)
        assert all(row >= 13 for step in one.epoch(0) for row in step)


def test_single_task_batches_of_tasks_without_training_rows():
    data = disjoint_data({"a": 4, "b": 9, "c": 13})
    data.train.targets["b"].fill_(torch.nan)
    plan = _tasks_apart(data, 3, temperature=0.0)
    assert {len(step) for step in plan.epoch(0)} == {8}


def test_steps_of_large_tables_have_more_rows():
    settings = TrainingSettings()
    assert [settings.batch_for(n) for n in (0, 1, 16_383, 16_384, 65_536, 10**7)] == [
        32, 32, 32, 64, 256, 512,
    ]  # fmt: skip
    assert TrainingSettings(batch_size=7).batch_for(10**7) == 7
    # As many epochs as with 32 rows, and fewer steps.
    few = settings.for_rows(100_000, 100_000 // 256)
    many = TrainingSettings(batch_size=32).for_rows(100_000, 100_000 // 32)
    assert few.batch_size == 256
    assert abs(few.max_epochs - many.max_epochs) <= 1
    data = tiny_data()
    assert MultiTaskDataModule(data, settings).plan.batch_size == 32
