"""The wines: tasks, inputs, the section of a recipe."""

import pytest
import torch
from sklearn.datasets import load_wine

from qmtl.data import wine
from qmtl.errors import InvalidInputError
from qmtl.experiments import build_data
from qmtl.experiments._recipe import recipe_from


def test_labels_and_inputs():
    data = wine(seed=1)
    table = load_wine(as_frame=True).frame
    for split in data.splits.values():
        rows = table.iloc[split.index.tolist()]
        assert split.targets["cultivar"].tolist() == rows["target"].tolist()
        assert split.targets["alcohol"].tolist() == rows["alcohol"].tolist()
        assert split.targets["colour"].tolist() == rows["color_intensity"].tolist()
        assert torch.equal(data.columns.encode(rows), split.inputs)
    assert not {"alcohol", "colour", "cultivar"} & set(data.columns.names)
    torch.testing.assert_close(data.train.inputs.mean(0), torch.zeros(11), atol=1e-5, rtol=0)


def test_section():
    section = {"source": "wine", "seed": 3, "tasks": ["colour"], "splits": [0.5, 0.25, 0.25]}
    data = build_data(recipe_from({"data": section}))
    assert [len(split) for split in data.splits.values()] == [90, 44, 44]
    same = wine(seed=3, splits=(0.5, 0.25, 0.25))
    assert torch.equal(data.test.index, same.test.index)
    assert [task.name for task in data.tasks] == ["colour"]


def test_errors():
    with pytest.raises(InvalidInputError, match="unknown task 'colur'; did you mean 'colour'"):
        wine(tasks=["colur"])
