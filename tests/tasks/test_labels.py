"""Labels: what is read, and messages of errors."""

import math

import numpy as np
import pytest
import torch

from qmtl.errors import InvalidInputError
from qmtl.tasks import MISSING, Task
from tests.tasks.task_samples import (
    ALL,
    BINARY,
    MULTICLASS,
    MULTILABEL,
    NAN,
    REGRESSION,
    SEVERAL,
    random_labels,
)


class TestTargets:
    @pytest.mark.parametrize(
        "values",
        [
            [1, 0, None], [1.0, 0.0, NAN], [True, False, None], [[1], [0], [-100]],
            np.array([1, 0, -100], dtype=np.int8), torch.tensor([1, 0, -100]),
            torch.tensor([1.0, 0.0, NAN], dtype=torch.bfloat16),
        ],
    )  # fmt: skip
    def test_binary(self, values):
        targets = BINARY.to_targets(values)
        assert targets.dtype == torch.float32
        assert targets[:2].tolist() == [1.0, 0.0]
        assert targets[2].isnan()

    def test_multiclass(self):
        targets = MULTICLASS.to_targets([3, None, 0.0, NAN, -100])
        assert targets.dtype == torch.int64
        assert targets.tolist() == [3, MISSING, 0, MISSING, MISSING]

    def test_multilabel(self):
        targets = MULTILABEL.to_targets([[1, 0, None], [-100, NAN, True]])
        assert targets.nan_to_num(nan=9).tolist() == [[1, 0, 9], [9, 9, 1]]
        assert Task.multilabel("a", 1).to_targets([1, 0]).shape == (2, 1)
        assert MULTILABEL.labelled(targets).tolist() == [True, True]

    def test_regression(self):
        assert REGRESSION.to_targets([-100, 2.5, None])[:2].tolist() == [-100.0, 2.5]
        assert SEVERAL.to_targets(np.ones((4, 2))).shape == (4, 2)
        stamps = REGRESSION.to_targets([1_700_000_001, 1_700_000_002, None])
        assert stamps.dtype == torch.float64
        assert stamps[:2].tolist() == [1_700_000_001, 1_700_000_002]
        assert float(REGRESSION.baseline(stamps)) == 1_700_000_001.5
        assert SEVERAL.labelled(SEVERAL.to_targets([[NAN, 1], [NAN, NAN]])).tolist() == [
            True,
            False,
        ]

    def test_texts(self):
        task = Task.multiclass("a", 3, class_names=("x", "y", "z"))
        assert task.to_targets(["z", None, "x", NAN]).tolist() == [2, MISSING, 0, MISSING]
        assert task.to_targets(np.array(["y", "x"])).tolist() == [1, 0]

    def test_pandas(self):
        pd = pytest.importorskip("pandas")
        series = pd.Series([1, None, 0], dtype="Int64")
        assert BINARY.to_targets(series).nan_to_num(nan=9).tolist() == [1, 9, 0]

    def test_canonical_is_a_fixed_point(self):
        for task in ALL:
            labels = random_labels(task, 30, missing=0.3)
            assert torch.equal(task.to_targets(labels).nan_to_num(7), labels.nan_to_num(7))

    @pytest.mark.parametrize(
        ("task", "values", "message"),
        [
            (BINARY, [0, 1, 2], "task 'b': row 2 has 2; allowed are whole numbers 0..1"),
            (BINARY, [0, 0.5], "row 1 has 0.5"),
            (BINARY, [-1], "row 0 has -1"),
            (BINARY, [math.inf], "row 0 has inf"),
            (BINARY, ["yes"], "row 0 has the text 'yes'; allowed are numbers (no class_names)"),
            (MULTICLASS, [0, 4, 5], "row 1 has 4; allowed are whole numbers 0..3"),
            (MULTICLASS, np.zeros((3, 4)), "expected shape (N,), got (3, 4)"),
            (MULTILABEL, [[0, 1, 0], [0, 3, 9]], "row 1 has 3"),
            (MULTILABEL, [0, 1], "expected shape (N, 3), got (2,)"),
            (REGRESSION, [1.0, math.inf], "row 1 has inf; allowed are finite numbers"),
            (REGRESSION, [1e300], "row 0 has 1e+300"),
            (REGRESSION, ["3"], "row 0 has the text '3'; allowed are numbers"),
            (REGRESSION, 3.0, "expected shape (N,), got ()"),
            (REGRESSION, [[1], [2, 3]], "different lengths"),
            (REGRESSION, [object()], "expected a number"),
            (REGRESSION, torch.ones(2, dtype=torch.complex64), "expected numbers or texts"),
            (Task.binary("b", class_names=("no", "yes")), ["maybe"], "allowed are 'no', 'yes'"),
        ],
    )
    def test_errors(self, task, values, message):
        with pytest.raises(InvalidInputError) as caught:
            task.to_targets(values)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_first_row(self):
        with pytest.raises(InvalidInputError, match="row 3 has 7"):
            BINARY.to_targets([0, 7], first_row=2)
