"""Labels: what is read, and messages of errors."""

import datetime
import math
from functools import partial

import numpy as np
import pandas as pd
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

    def test_texts_of_numpy(self):
        task = Task.multiclass("t", class_names=("x", "y", "z"))
        for texts in (["x", "z"], np.array(["x", "z"]), [np.str_("x"), np.str_("z")],
                      np.array(["x", "z"], dtype=np.dtypes.StringDType())):  # fmt: skip
            assert task.to_targets(texts).tolist() == [0, 2]

    def test_pandas(self):
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
            (REGRESSION, ["3 m"], "row 0 has the text '3 m'; allowed are numbers"),
            (REGRESSION, [[None], ["x"]], "row 1 has the text 'x'"),
            (BINARY, [[[1]], [[0]]], "expected shape (N,)"),
            (BINARY, [{"a": 1}], "a list or another container"),
            (MULTICLASS, ["1", "4.0"], "row 1 has 4; allowed are whole numbers 0..3"),
            (REGRESSION, 3.0, "expected shape (N,), got ()"),
            (REGRESSION, [[1], [2, 3]], "different lengths"),
            (REGRESSION, [object()], "expected a number"),
            (REGRESSION, torch.ones(2, dtype=torch.complex64), "expected numbers or texts"),
            (Task.binary("b", class_names=("no", "yes")), ["maybe"], "allowed are 'no', 'yes'"),
            (BINARY, [np.str_("yes")], "row 0 has the text 'yes'"),
            (Task.binary("b", class_names=("1", "2")), [np.float64(7.5)], "row 0 has 7.5; allowed"),
            (REGRESSION, [1.0, np.array(1j)[()], None], "row 1 has 1j; expected a number"),
        ],
    )
    def test_errors(self, task, values, message):
        with pytest.raises(InvalidInputError) as caught:
            task.to_targets(values)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("names", "labels", "codes"),
        [
            # A number is the class whose name writes it, not the number of the class.
            (("1", "2", "3"), [1, 2.0, "3", "1.0", np.int8(2)], [0, 1, 2, 0, 1]),
            (("1", "2", "3"), np.array([3.0, 1.0, NAN]), [2, 0, None]),
            (("10", "20", "x"), [20, "x", "10.0", None], [1, 2, 0, None]),
            (("-1", "1"), np.array([-1, 1, -100]), [0, 1, None]),
            (("0.5", "1.5"), [1.5, "0.50"], [1, 0]),
            (("-100", "7"), [-100, 7], [0, 1]),
            # The name itself comes before the number that it writes.
            (("01", "1"), ["1", "01", 1], [1, 0, 1]),
            (("1", "01", "1.0"), ["1", "01", 1, "1.0", 1.0], [0, 1, 0, 2, 0]),
            # Blanks around a name, and the form of Unicode, make no difference.
            ((" no", "cafe\u0301"), ["no", "caf\u00e9 ", "cafe\u0301"], [0, 1, 1]),
            # Names that write no number: numbers are those of the classes.
            (("no", "yes"), [0, 1.0, "1", "yes", " no "], [0, 1, 1, 1, 0]),
            # Truth values.
            (("no", "yes"), [True, False, None], [1, 0, None]),
            (("True", "False"), np.array([True, False]), [0, 1]),
            (("false", "true"), [True, "false"], [1, 0]),
            (("FALSE", "TRUE"), ["True", " false", "TRUE", np.bool_(False)], [1, 0, 1, 0]),
            # Whole numbers that no float tells apart, as texts.
            (("9007199254740992", "9007199254740993"), ["9007199254740993"], [1]),
            # A word for a missing value is a class where a class has that name.
            (("APAC", "EUR", "NA"), ["NA", "EUR", "null", "N/A", ""], [2, 1, None, None, None]),
            (("None", "mild"), ["None", None, "mild"], [0, None, 1]),
        ],
    )
    def test_which_label_is_which_class(self, names, labels, codes):
        kind = Task.binary if len(names) == 2 else partial(Task.multiclass, n_classes=len(names))
        task = kind("t", class_names=names)
        missing = MISSING if task.kind == "multiclass" else NAN
        expected = [missing if code is None else code for code in codes]
        found = task.to_targets(labels)
        assert np.array_equal(found, expected, equal_nan=True)
        # A tensor holds targets, so that targets stay as they are.
        assert np.array_equal(task.to_targets(found), found, equal_nan=True)

    def test_truth_words_of_tasks_without_names(self):
        flags = Task.multilabel("t", 2, class_names=("new", "big"))
        assert flags.to_targets([["True", "FALSE"], [False, "true"]]).tolist() == [[1, 0], [0, 1]]
        assert Task.binary("t").to_targets(["True", "0", False]).tolist() == [1, 0, 0]
        for task in (Task.multiclass("t", 3), Task.regression("t")):
            with pytest.raises(InvalidInputError, match="the text 'True'"):
                task.to_targets(["True", "0"])

    @pytest.mark.parametrize(
        ("names", "label"),
        [
            (("1", "2", "3"), 0),
            (("1", "2", "3"), "4"),
            (("10", "20"), 1),
            (("no", "yes"), "2"),
            (("no", "yes"), "Yes"),
            (("no", "yes"), "True"),
            (("9007199254740992", "9007199254740993"), 2**53 + 1),
            (("a", "1"), True + 1),
            (("01", "1.0"), 1),
        ],
    )
    def test_labels_that_are_no_class(self, names, label):
        kind = Task.binary if len(names) == 2 else partial(Task.multiclass, n_classes=len(names))
        with pytest.raises(InvalidInputError, match=r"task 't': row 1 has "):
            kind("t", class_names=names).to_targets([names[1], label])

    @pytest.mark.parametrize(
        "labels",
        [
            np.ma.masked_array([1.0, 0.0], mask=[False, True]),
            np.ma.masked_array([1, 0], mask=[False, True]),
            np.ma.masked_array(["1", "0"], mask=[False, True]),
            np.ma.masked_equal([1, 0], 0),  # its fill_value is 0
            ["1", "#N/A"],
            [1, "?"],
        ],
    )
    def test_masked_and_missing(self, labels):
        for task in (BINARY, REGRESSION):
            found = task.to_targets(labels)
            assert found[0] == 1
            assert found[1].isnan()

    @pytest.mark.parametrize(
        "labels",
        [
            np.array(["2020-01-01", "2020-01-02"], "datetime64[D]"),
            np.array([1, 2], "timedelta64[D]"),
            [datetime.date(2020, 1, 1), None],
            [datetime.timedelta(1)],
        ],
    )
    def test_dates_are_no_labels(self, labels):
        for task in (BINARY, MULTICLASS, REGRESSION):
            with pytest.raises(InvalidInputError, match="a date or a time, which is not a label"):
                task.to_targets(labels)

    def test_names_of_rows(self):
        for labels in ([0, 7], ["0", "7"]):
            with pytest.raises(InvalidInputError, match="row 9 has 7"):
                BINARY.to_targets(labels, rows=[4, 9])
