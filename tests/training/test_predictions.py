"""What was written is what is read, for every kind of task and any name."""

import math

import pytest
import torch

from qmtl._io import as_csv
from qmtl.errors import RunDirectoryError
from qmtl.tasks import Task
from qmtl.training._evaluate import prediction_rows, read_predictions

TASKS = [
    Task.binary("row", class_names=("no", "yes")),
    Task.binary("y:1"),
    Task.multiclass('a "quoted", name', 3, class_names=("target", "x:p", "line\nbreak")),
    Task.multilabel("m", 2, class_names=("target", "b\\")),
    Task.multilabel("one", 1),
    Task.regression("price"),
    Task.regression("both", 2),
]
TARGETS = {
    "row": [1, None, 0],
    "y:1": [None, None, None],
    'a "quoted", name': [0, 2, None],
    "m": [[1, 0], [None, 1], [0, None]],
    "one": [[1], [0], [None]],
    "price": [0.1, None, -3e-8],
    "both": [[1, 2], [None, 4], [5, None]],
}


class Fixed(torch.nn.Module):
    """A model that predicts what it was given."""

    def __init__(self, tasks):
        super().__init__()
        self.tasks = tasks
        generator = torch.Generator().manual_seed(0)
        self.predictions = {
            task.name: task.activation(torch.randn(3, task.n_outputs, generator=generator))
            for task in tasks
        }

    def predict(self, inputs):
        return self.predictions


def write(path, targets):
    model = Fixed(TASKS)
    rows = prediction_rows(model, torch.zeros(3, 1), torch.arange(3), targets)
    path.write_text(as_csv(rows), encoding="utf-8")
    return model


@pytest.mark.parametrize("with_targets", [True, False])
def test_round_trip(tmp_path, with_targets):
    targets = {task.name: task.to_targets(TARGETS[task.name]) for task in TASKS}
    model = write(tmp_path / "p.csv", targets if with_targets else None)
    found = read_predictions(tmp_path / "p.csv", TASKS)
    assert list(found) == [task.name for task in TASKS]
    for name, one in found.items():
        expected = model.predictions[name]
        assert one.predictions.shape == expected.shape
        # A file holds the digits of single precision.
        torch.testing.assert_close(one.predictions.to(expected), expected, rtol=0, atol=0)
        if with_targets:
            torch.testing.assert_close(one.targets, targets[name], equal_nan=True)
            assert one.targets.dtype == targets[name].dtype
        else:
            assert one.targets is None


def test_small_differences_of_a_large_regression_are_kept():
    model = Fixed([Task.regression("price"), Task.binary("sold")])
    prices = [1_234_567.12345, 1_234_567.12346, -9_876_543.21098]
    model.predictions["price"] = torch.tensor(prices, dtype=torch.float64)
    model.predictions["sold"] = torch.tensor([1 / 3, 0.5, 2 / 3], dtype=torch.float64)
    rows = prediction_rows(model, torch.zeros(3, 1), range(3))
    assert [row["price"] for row in rows] == prices
    assert [row["sold:1"] for row in rows] == [0.333333333, 0.5, 0.666666667]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("price,", "prices,", "no column 'price'"),
        ("yes", "maybe", "no column"),
        (",yes,", ",perhaps,", "no class 'perhaps'"),
        ("0.1,", "zero,", "column 'price:target'"),
    ],
)
def test_damage_is_named(tmp_path, old, new, message):
    path = tmp_path / "p.csv"
    write(path, {task.name: task.to_targets(TARGETS[task.name]) for task in TASKS})
    content = path.read_text(encoding="utf-8")
    assert old in content
    path.write_text(content.replace(old, new), encoding="utf-8")
    with pytest.raises(RunDirectoryError, match=message):
        read_predictions(path, TASKS)


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        read_predictions(tmp_path / "none.csv", TASKS)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(RunDirectoryError, match="is empty"):
        read_predictions(tmp_path / "empty.csv", TASKS)


def test_predictions_that_are_no_numbers_are_blank_with_a_warning(tmp_path):
    model = Fixed(TASKS)
    for values in model.predictions.values():
        values[1] = math.nan
    with pytest.warns(UserWarning, match=r"are not a number in 1 of 3 rows: their cells") as caught:
        rows = prediction_rows(model, torch.zeros(3, 1), torch.arange(3))
    assert len(caught) == len(TASKS)
    assert set(list(rows[1].values())[1:]) == {""}
    assert "" not in rows[0].values()
    (tmp_path / "p.csv").write_text(as_csv(rows), encoding="utf-8")
    for one in read_predictions(tmp_path / "p.csv", TASKS).values():
        assert one.predictions[1].isnan().all()
