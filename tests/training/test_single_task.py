"""Single-task models: each trained as if it were alone, put together, resumed, run by recipe."""

import pytest
import torch

import qmtl
from qmtl.encoders import MLP, SeparateEncoders
from qmtl.errors import InvalidInputError
from qmtl.experiments._recipe import read_recipe
from qmtl.experiments._run import Run, resume_run, start_run
from qmtl.heads import LinearHead, SeparateHeads
from qmtl.training import TrainingSettings, check_fit
from tests.training.samples import (
    QUIET,
    TASKS,
    InterruptAt,
    InterruptionError,
    disjoint_data,
    same_state,
    tiny_data,
    with_missing,
)


def part(task):
    return qmtl.MultiTaskModel(
        MLP(3, 5, out_features=4, dropout=0.2, seed=0), LinearHead([task], 4, seed=0)
    )


def separate(tasks=TASKS):
    parts = [part(task) for task in tasks]
    return qmtl.MultiTaskModel(
        SeparateEncoders([p.encoder for p in parts]), SeparateHeads([p.head for p in parts])
    )


@pytest.mark.parametrize(
    "data",
    [tiny_data(), with_missing(), disjoint_data({"a": 20, "b": 9})],
    ids=["aligned", "missing", "disjoint"],
)
def test_each_is_trained_as_if_alone(data):
    options = {"max_epochs": 3, "gradient_clip": 0.5, "seed": 3, **QUIET}
    model = separate(data.tasks)
    whole = qmtl.fit(model, data, **options)
    for task in data.tasks:
        alone = qmtl.fit(part(task), data.subset([task.name]), **options)
        for split, metrics in alone.metrics.items():
            assert whole.metrics[split][task.name] == metrics[task.name]
            assert whole.baselines[split][task.name] == alone.baselines[split][task.name]
        assert whole.best_epochs[task.name] == alone.best_epoch
        rows = [row for row in whole.history if row["task"] == task.name]
        assert rows == alone.history
        rows = data.subset([task.name]).test.inputs
        assert torch.equal(model.predict(rows)[task.name], alone.model.predict(rows)[task.name])
    assert whole.epochs == 3
    assert whole.best_epoch == max(whole.best_epochs.values())
    assert [row["epoch"] for row in whole.history] == sorted(r["epoch"] for r in whole.history)


def test_combiners_have_nothing_to_weigh():
    data = with_missing(0.7)
    first, second = separate(), separate()
    qmtl.fit(first, data, max_epochs=2, **QUIET)
    # Nash-MTL would refuse steps in which a task has no label.
    qmtl.fit(second, data, max_epochs=2, aggregator="nashmtl", **QUIET)
    assert same_state(first, second)


def test_resume(tmp_path):
    data = tiny_data()
    options = {"max_epochs": 3, "optimizer": "adam", **QUIET}
    expected = qmtl.fit(separate(), data, **options)

    class InThirdTask(InterruptAt):
        starts = 0

        def on_train_start(self, trainer, pl_module):
            self.starts += 1

        def on_train_batch_end(self, *arguments):
            if self.starts == 3:
                super().on_train_batch_end(*arguments)

    with pytest.raises(InterruptionError):
        qmtl.fit(
            separate(), data, checkpoints=tmp_path, callbacks=[InThirdTask(epoch=1)], **options
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["task-0", "task-1", "task-2"]
    model = separate()
    result = qmtl.fit(model, data, checkpoints=tmp_path, resume=True, **options)
    assert same_state(model, expected.model)
    assert result.metrics == expected.metrics
    assert result.history == expected.history


def test_save_load_and_plot(tmp_path):
    import matplotlib.pyplot as plt

    model = separate()
    result = qmtl.fit(model, tiny_data(), max_epochs=1, **QUIET)
    model.save(tmp_path)
    x = torch.randn(4, 3)
    for name, value in qmtl.load(tmp_path).predict(x).items():
        assert torch.equal(value, model.predict(x)[name])
    labels = [text.get_text() for text in result.plot().get_legend().get_texts()]
    plt.close("all")
    assert labels == [task.name for task in TASKS]


def test_errors():
    data = tiny_data()
    with pytest.raises(InvalidInputError, match="the model has"):
        qmtl.fit(separate(TASKS[::-1]), data, **QUIET)
    model = separate()
    two = SeparateEncoders([MLP(3, out_features=8), MLP(3, out_features=8)])
    unequal = qmtl.MultiTaskModel(two, model.head)
    settings = TrainingSettings(max_epochs=1)
    for call in (
        lambda: qmtl.fit(unequal, data, settings),
        lambda: check_fit(unequal, data, settings),
    ):
        with pytest.raises(InvalidInputError, match="got 2 encoders and 4 heads"):
            call()


def test_run_directory(tmp_path):
    changes = ["head.type=single-task", "training.max_epochs=2", "encoder.hidden=[4]",
               "data.tasks=['parity', 'ink']", "compare=['linear']"]  # fmt: skip
    run = start_run(read_recipe("digits", changes), tmp_path / "run", progress=False)
    parameters = run.results["parameters"]
    assert parameters["head"] == parameters["linear head"] == 10
    assert parameters["encoder"] == 2 * (65 * 4 + 5 * 4)
    assert Run.read(run.path).results["metrics"]["test"] == run.results["metrics"]["test"]
    (run.path / "results.json").unlink()
    again = resume_run(run.path, progress=False)
    assert again.results["metrics"] == run.results["metrics"]
