"""Predictions as rows: a column of its own for everything, whatever the names are."""

import pytest
import torch

from qmtl.encoders import Identity
from qmtl.heads import LinearHead
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task
from qmtl.training._evaluate import prediction_rows


def rows_of(tasks, targets):
    model = MultiTaskModel(Identity(2), LinearHead(tasks, 2, seed=0))
    canonical = {task.name: task.to_targets(targets[task.name]) for task in tasks}
    return model, prediction_rows(model, torch.ones(1, 2), [7], canonical)


def test_plain_names():
    tasks = [
        Task.binary("b", class_names=("no", "yes")),
        Task.multilabel("l", 1, class_names=("x",)),
        Task.regression("r.1", 2),
    ]
    _, (row,) = rows_of(tasks, {"b": [1], "l": [[0]], "r.1": [[1.0, None]]})
    assert list(row) == [
        "row", "b", "b:yes", "b:target", "l:x", "l:x:p", "l:x:target",
        "r.1:0", "r.1:1", "r.1:0:target", "r.1:1:target",
    ]  # fmt: skip
    assert row["row"] == 7
    assert row["b:target"] == "yes"
    assert row["r.1:1:target"] == ""


def test_no_two_columns_have_one_name():
    tasks = [
        Task.regression("row"),
        Task.regression("\\row"),
        Task.multiclass("y", 2, class_names=("1", "target")),
        Task.regression("y:1"),
        Task.regression("y:target"),
        Task.regression("y\\:1"),
        Task.multilabel("m", 2, class_names=("a", "a:p")),
    ]
    targets = {task.name: [0.0] for task in tasks} | {"y": ["target"], "m": [[0, 1]]}
    model, (row,) = rows_of(tasks, targets)
    # One for the number; two per regression; three per two classes; three per label.
    assert len(row) == 1 + 5 * 2 + 4 + 6
    assert row["row"] == 7
    assert row["y:target"] == "target"
    values = model.predict(torch.ones(1, 2))
    for name, value in (
        ("\\row", values["row"]),
        ("y\\:1", values["y:1"]),
        ("y:1", values["y"][0, 0]),
    ):
        assert row[name] == pytest.approx(float(value), rel=1e-8)
        assert len(f"{row[name]}") <= 15
