"""Steps in which tasks have no label, and data in which every row belongs to one task."""

import numpy as np
import pytest
import torch

import qmtl
from qmtl.errors import InvalidInputError
from qmtl.training import MultiTaskDataModule, MultiTaskModule, TrainingSettings, make_scalarizer
from qmtl.training._batches import SplitRows
from qmtl.training._combine import scalarize
from tests.training.samples import (
    QUIET,
    TASKS,
    Spy,
    arrays,
    disjoint_data,
    present,
    rows_of_task,
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
    labelled = 0
    for step in spy.steps:
        there = present(step["batch"])[3]
        labelled += there
        for before, after in rows_of_task(model, step, "d"):
            if there:
                assert not torch.equal(before[0], after[0])
            else:
                assert all(torch.equal(b, a) for b, a in zip(before, after, strict=False))
    assert labelled == 3
    assert len(spy.steps) == 12


@pytest.mark.parametrize("combiner", [{"scalarizer": "mean"}, {"aggregator": "upgrad"}])
def test_a_frozen_task_keeps_weights_and_optimiser_state(combiner):
    data = with_missing()
    model = tiny_model(data)
    qmtl.fit(model, data, max_epochs=1, **QUIET, **combiner)
    model.head.freeze("b")
    before = {name: value.clone() for name, value in model.head.weights().items()}
    qmtl.fit(model, data, max_epochs=1, restore_best=False, **QUIET, **combiner)
    same = {n: torch.equal(before[n], value) for n, value in model.head.weights().items()}
    assert same == {"encoding": False, "a": False, "b": True, "c": False, "d": False}
    model.head.unfreeze("b")
    qmtl.fit(model, data, max_epochs=1, restore_best=False, **QUIET, **combiner)
    assert not torch.equal(before["b"], model.head.weights()["b"])


@pytest.mark.parametrize(
    "combiner",
    [{"scalarizer": "mean"}, {"scalarizer": "imtll"}, {"scalarizer": "dwa"}, {"scalarizer": "pbi"},
     {"aggregator": "upgrad"}, {"aggregator": "graddrop"}],
)  # fmt: skip
def test_random_missing_labels_train(combiner):
    data = with_missing(0.7)
    result = qmtl.fit(tiny_model(data), data, max_epochs=3, **QUIET, **combiner)
    losses = [row["value"] for row in result.history if row["metric"] == "loss"]
    assert np.isfinite(losses).all()


@pytest.mark.parametrize(
    ("combiner", "other"),
    [({"aggregator": "nashmtl"}, "aggregator such as 'upgrad'"),
     ({"scalarizer": "famo"}, "scalarizer such as 'mean' or 'uw'")],
)  # fmt: skip
def test_what_learns_from_all_losses_refuses_a_step_without_a_task(combiner, other):
    data = _rare()
    name = next(iter(combiner.values()))
    words = rf"'{name}' keeps state per task.*'d' has none.*{other}"
    spy = Spy()
    with pytest.raises(InvalidInputError, match=words):
        qmtl.fit(tiny_model(data), data, callbacks=[spy], max_epochs=1, **QUIET, **combiner)
    assert not spy.steps


@pytest.mark.parametrize("seed", range(4))
def test_a_gap_in_a_later_epoch_is_found_before_training(seed):
    data = with_missing(0.6)
    spy = Spy()
    options = {"aggregator": "nashmtl", "max_epochs": 30, "seed": seed}
    with pytest.raises(InvalidInputError, match="has none in step"):
        qmtl.fit(tiny_model(data), data, callbacks=[spy], **options, **QUIET)
    assert not spy.steps


class _Weights(Spy):
    """Looks at the tasks' weights in the scalarizer and their optimiser state instead."""

    def _look(self, trainer, pl_module):
        state = trainer.optimizers[0].state
        (p,) = pl_module.combiner.parameters()
        state = {"step": torch.zeros(len(p)), **state.get(p, {})}
        return [p.detach().clone(), *(v.expand(len(p)).clone() for v in state.values())]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("name", ["uw", "imtll"])
def test_a_task_without_labels_keeps_its_weight_in_the_scalarizer(name, optimizer):
    data = _rare()
    spy = _Weights()
    options = {"scalarizer": name, "optimizer": optimizer, "max_epochs": 3}
    qmtl.fit(tiny_model(data), data, callbacks=[spy], **options, **QUIET)
    absent = 0
    for step in spy.steps:
        for i, there in enumerate(present(step["batch"])):
            pairs = list(zip(step["before"], step["after"], strict=False))
            if there:
                assert not torch.equal(pairs[0][0][i], pairs[0][1][i])
                continue
            absent += 1
            assert all(torch.equal(b[i], a[i]) for b, a in pairs)
    assert absent == 9


def test_fixed_weights_are_those_of_the_tasks_that_are_present():
    values = {"weights": [1.0, 2.0, 3.0], "reference": [0.1, 0.2, 0.3]}
    losses = torch.tensor([1.0, 5.0])
    for name in ("constant", "pbi", "cosmos", "stch"):
        options = {k: v for k, v in values.items() if k == "weights" or name in ("pbi", "stch")}
        part = {k: [v[0], v[2]] for k, v in options.items()}
        whole = make_scalarizer(name, 3, options)
        found = scalarize(whole, losses, torch.tensor([0, 2]), torch.ones(3))
        assert torch.equal(found, make_scalarizer(name, 2, part)(losses))
        assert len(whole.weights) == 3


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
            tasks = {_task_of(row) for row in step.tolist()}
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
        tasks = [_task_of(row) for row in step.tolist()]
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


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"scalarizer": "mean"}, 1), ({"aggregator": "upgrad"}, 3), ({"aggregator": "pcgrad"}, 3)],
)
def test_a_step_of_disjoint_rows_runs_the_head_once(options, expected, monkeypatch):
    """On the task of a batch of one task; on all tasks where an aggregator takes all rows."""
    data = disjoint_data({"a": 8, "b": 16, "c": 24})
    model = tiny_model(data)
    seen = []
    forward = type(model.head).forward

    def counted(head, features, tasks=None, *, joined=False):
        if model.training:
            seen.append(len(head.tasks) if tasks is None else len(tasks))
        return forward(head, features, tasks, joined=joined)

    monkeypatch.setattr(type(model.head), "forward", counted)
    qmtl.fit(model, data, max_epochs=1, **QUIET, **options)
    steps = 6 if expected == 1 else 2
    assert seen == [expected] * steps


def test_losses_of_disjoint_rows_are_those_of_the_whole_batch():
    data = disjoint_data({"a": 8, "b": 16, "c": 24})
    model = tiny_model(data).double()
    settings = TrainingSettings(aggregator="upgrad", batch_size=8)
    batch = next(iter(MultiTaskDataModule(data, settings).train_dataloader()))
    found = MultiTaskModule(model, settings).step.losses(batch)
    losses = found.values
    logits, targets = model(batch.inputs.double()), dict(zip("abc", batch.targets.T, strict=True))
    whole = torch.stack([t.loss(logits[t.name], targets[t.name]) for t in data.tasks])
    assert found.present is None
    parameters = list(model.parameters())
    for one, other in zip(losses, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
        grads = [
            torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
            for loss in (one, other)
        ]
        for got, expected in zip(*grads, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)


def test_a_process_without_rows_of_a_task_that_others_have(monkeypatch):
    data = disjoint_data({"a": 8, "b": 16, "c": 24})
    model = tiny_model(data)
    module = MultiTaskModule(model, TrainingSettings(aggregator="upgrad"))
    others = iter([torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 4.0]])])
    monkeypatch.setattr("qmtl.training._step.n_processes", lambda: 2)
    monkeypatch.setattr("qmtl.training._step.sum_over_processes", lambda v: v + next(others))
    batch = SplitRows(data.train, data.tasks)[torch.tensor([0, 1, 9])]
    found = module.step.losses(batch)
    losses = found.values
    assert found.present is None
    assert float(losses[2].detach()) == 0.75
    (blocks, *_) = model.task_rows()
    (gradient,) = torch.autograd.grad(losses[2], blocks.parameter)
    assert not gradient.any()
