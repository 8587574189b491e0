"""Data frames: what becomes an input and how, what is left out, and predictions for new frames."""

import datetime
import json
import tracemalloc
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import qmtl
from qmtl.data import TableColumns, from_arrays, from_csv, from_frame
from qmtl.errors import InvalidInputError
from qmtl.tasks import Task

N = 60
RNG = np.random.default_rng(0)
SIZE = RNG.normal(3, 2, N)
Y = (SIZE > 3).astype(int)
MOMENT = datetime.datetime(2024, 1, 2, 10, 0, 0, 250_000, datetime.UTC)


def frame(**columns):
    return pd.DataFrame({"size": SIZE, "y": Y, **columns})


class TestInputs:
    @pytest.mark.parametrize(
        "column",
        [
            pd.Series(range(N), dtype="Int32"),
            pd.Series(RNG.normal(size=N), dtype="Float64"),
            pd.array([1.5, None, 3] * 20, dtype="Float64"),
            [True, False] * 30,
            pd.array([True, None, False] * 20, dtype="boolean"),
            [f"{i},5" for i in range(N)],
            [str(i) for i in range(N)],
            pd.to_timedelta(range(N), unit="h"),
            [f"{i % 24}:{i}" for i in range(10, 10 + N // 2)] * 2,
            [datetime.time(i % 24, i) for i in range(N)],
            [f"P{i}DT12H" for i in range(N)],
            [Fraction(i, 7) for i in range(N)],
            pd.arrays.SparseArray([0, 0, 7] * 20),
            np.arange(N, dtype=">i4"),
            [float(i) if i % 7 else None for i in range(N)],
        ],
        ids=lambda column: str(getattr(column, "dtype", type(column[0]).__name__)),
    )
    def test_numbers(self, column):
        data = from_frame(frame(x=column), targets=["y"])
        assert [name for name, *_ in data.columns.numeric] == ["size", "x"]
        assert data.n_inputs == 2
        values = data.train.inputs[:, 1]
        assert values.mean() == pytest.approx(0, abs=1e-5)

    @pytest.mark.parametrize(
        ("column", "categories"),
        [
            (["a", "b ", None] * 20, ("a", "b")),
            (pd.Series(["x", "y"] * 30, dtype="category"), ("x", "y")),
            (pd.Series(["x", "y"] * 30, dtype="string"), ("x", "y")),
            ([1, "2a"] * 30, ("1", "2a")),
            (["<5", ">=5"] * 30, ("<5", ">=5")),
            (["10:30", "noon"] * 30, ("10:30", "noon")),
            (["N/A", "p", "q"] * 20, ("p", "q")),
            (["#DIV/0!", "p", "#REF!"] * 20, ("p",)),
            (["1:10", "1:30", "1:100"] * 20, ("1:10", "1:100", "1:30")),
            (["25:31", "30:28", "9:77"] * 20, ("25:31", "30:28", "9:77")),
        ],
    )
    def test_categories(self, column, categories):
        data = from_frame(frame(x=column), targets=["y"])
        assert data.columns.categorical == (("x", categories),)

    @pytest.mark.parametrize(
        ("texts", "text_format"),
        [
            ("%Y-%m-%d", "%Y-%m-%d"),
            ("%d.%m.%Y", "%d.%m.%Y"),
            ("%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M"),
            ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S"),
            ("%m/%d/%Y %I:%M:%S %p", "%m/%d/%Y %I:%M:%S %p"),
            ("%d.%m.%Y %I:%M %p", "%d.%m.%Y %I:%M %p"),
            ("%d %b %Y", "%d %b %Y"),
            (None, "ISO8601"),
        ],
    )
    def test_dates_become_a_few_numbers(self, texts, text_format):
        stamps = pd.date_range("2021-01-03", periods=N, freq="157h")
        column = stamps.strftime(texts) if texts else stamps
        data = from_frame(frame(when=column), targets=["y"])
        name, found, _, _, cycles = data.columns.dates[0]
        assert (name, found) == ("when", text_format)
        assert cycles[:2] == ("year", "week")
        assert 6 <= data.n_inputs <= 8
        # The same day is the same input, whatever its form.
        when = stamps.normalize() if "day" not in cycles else stamps
        everything = torch.cat([split.index for split in data.splits.values()])
        inputs = torch.cat([split.inputs for split in data.splits.values()])
        for form in (when, pd.Series(when.to_pydatetime(), dtype=object)):
            again = data.columns.encode(frame(when=form))
            torch.testing.assert_close(again[everything], inputs, atol=1e-4, rtol=1e-4)

    def test_dates_of_other_kinds(self):
        days = [datetime.date(2020, 1, 1) + datetime.timedelta(3 * i) for i in range(N)]
        zoned = pd.date_range("2020", periods=N, tz="Europe/Berlin")
        periods = pd.period_range("2020-01", periods=N, freq="M")
        # Files say "always" in this way, and nanoseconds end in 2262.
        always = [f"{2000 + i}-01-{1 + i % 28:02}" for i in range(N - 1)] + ["9999-12-31"]
        for column in (days, zoned, periods, [*days[:-1], None], always):
            data = from_frame(frame(when=column), targets=["y"])
            assert [entry[0] for entry in data.columns.dates] == ["when"]
            assert torch.isfinite(data.train.inputs).all()
        with pytest.raises(InvalidInputError, match="row 1, column 'when': expected a date as in"):
            data.columns.encode(pd.DataFrame({"size": [1, 2], "when": ["2020-01-01", "soon"]}))

    @pytest.mark.parametrize(
        ("kind", "column"),
        [
            ("category", ["2024-01-02 10:00:00.250", "2024-01-03 22:00:00.500", None]),
            ("category", ["2024-01-02T10:00:00.25Z", " 2024-01-03T22:00:00.5Z", "NA"]),
            ("category", ["2024-01-02T12:00:00.25+02:00", "2024-01-03T22:00:00.5Z", None]),
            (object, ["2024-01-02T12:00:00.25+02:00", " 2024-01-03T21:00:00.5-01:00", "?"]),
            (object, [MOMENT, datetime.datetime(2024, 1, 3, 22, 0, 0, 500_000), None]),
            (object, [MOMENT, pd.Timestamp("2024-01-03 22:00:00.5"), "NA"]),
            (object, [MOMENT.astimezone(), "2024-01-03 22:00:00.5", None]),
        ],
    )
    def test_fractions_of_a_second(self, kind, column):
        column = pd.Series(column * (N // 3), dtype=kind)
        days = [19724 + (10 * 3600 + 0.25) / 86400, 19725 + (22 * 3600 + 0.5) / 86400]
        learned = from_frame(frame(when=column), targets=["y"]).columns
        given = TableColumns((), (), dates=(("when", "ISO8601", 19725.0, 1.0, ()),))
        for columns in (given, learned):
            _, _, mean, std, _ = columns.dates[0]
            found = columns.encode(frame(when=column))[:3, int("size" in columns.names)]
            wanted = [(day - mean) / std for day in days] + [0.0]
            torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-5, rtol=1e-6)

    def test_dates_among_moments(self):
        cells = [MOMENT.replace(tzinfo=None), datetime.date(2024, 1, 3), None, "2024-01-03"]
        columns = TableColumns((), (), dates=(("when", "ISO8601", 19725.0, 1.0, ()),))
        found = columns.encode(pd.DataFrame({"when": pd.Series(cells, dtype=object)}))
        wanted = [(10 * 3600 + 0.25) / 86400 - 1, 0, 0, 0]
        torch.testing.assert_close(found[:, 0], torch.tensor(wanted))

    def test_mixed_up_days_and_months(self):
        column = [f"{1 + i % 12:02}/{1 + i % 11:02}/2020" for i in range(N)]
        with pytest.warns(UserWarning, match="'when' has dates of which day and month cannot be"):
            assert from_frame(frame(when=column), targets=["y"]).n_inputs == 1

    @pytest.mark.parametrize(
        ("name", "column", "reason"),
        [
            ("id", [f"u{i:04}" for i in range(N)], "looks like ids or names"),
            ("id", list(range(100, 100 + N)), "looks like an id: it numbers the rows"),
            ("PassengerId", list(range(N, 0, -1)), "looks like an id"),
            ("user_id", list(range(N)), "looks like an id"),
            ("Unnamed: 0", list(range(N)), "looks like an id"),
            *(
                (name, list(range(1, N + 1)), "looks like an id")
                for name in (
                    "Id",
                    "ID",
                    "Customer ID",
                    "Loan_ID",
                    "Index",
                    "RowNumber",
                    "Serial No.",
                    "S.No",
                    "#",
                )
            ),
            ("wave", [1j] * N, "holds values of the type complex"),
            ("mail", [f"a{i % 9}@example.org" for i in range(N)], "holds e-mail addresses"),
            (
                "note",
                [f"this is remark number {i} of ours" for i in range(N)],
                "looks like free text",
            ),
            ("town", [f"t{i % 26}" for i in range(N)], "has 26 categories, more than max_cat"),
            ("share", [f"{i / 7:.1f}%" for i in range(N)], "holds numbers with signs"),
            ("share", [f"{i % 12} %" for i in range(N)], "holds numbers with signs"),
            ("share", ["5%", "10%", "12.5%"] * 20, "holds numbers with signs"),
            ("rent", ["$5", "-$1,000", "unknown"] * 20, "holds numbers with signs"),
            ("rent", [f"€ 1,{100 + i}.50" for i in range(N)], "holds numbers with signs"),
            ("rent", [f"-{i % 15} $" for i in range(N)], "holds numbers with signs"),
            ("gain", [f"({i / 4:.2f})" if i % 3 else f"{i}" for i in range(N)], "holds numbers w"),
            ("cold", [f"\u2212{i / 4:.1f}" for i in range(N)], "holds numbers with signs"),
            ("host", [f"10.0.0.{i}" for i in range(N)], "looks like ids or names"),
            ("day", [f"{1 + i % 28:02}.12.20" for i in range(N)], "holds dates that are not all"),
            (
                "day",
                ["0000-00-00", *[f"2020-01-{1 + i % 28}" for i in range(1, N)]],
                "holds dates that are not all of one known",
            ),
            (
                "day",
                ["soon", *[f"2020-01-{1 + i % 15} 10:00" for i in range(1, N)]],
                "holds dates that are not all of one known",
            ),
            ("none", [None] * N, "is empty"),
            ("none", ["N/A", ""] * (N // 2), "is empty"),
        ],
    )
    def test_what_is_left_out(self, name, column, reason, tmp_path):
        table = frame(**{name: column})
        with pytest.warns(UserWarning, match="left out of the inputs") as caught:
            data = from_frame(table, targets=["y"], max_categories=20)
        assert len(caught) == 1
        assert f"'{name}' {reason}" in str(caught[0].message)
        assert data.columns.names == ("size",)
        assert data.notes == (str(caught[0].message).split("; list")[0],)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what was said to be ignored needs no warning
            assert from_frame(table, targets=["y"], ignore=[name]).columns.names == ("size",)
        if isinstance(column[0], int):  # a number can be used where one insists
            data = from_frame(table, targets=["y"], inputs=["size", name])
            assert data.columns.names == ("size", name)
        else:
            with pytest.raises(InvalidInputError, match=f"inputs: column '{name}' "):
                from_frame(table, targets=["y"], inputs=["size", name], max_categories=20)

    def test_numbers_that_only_look_like_ids(self):
        whole = list(range(N))
        names = ("day", "grid", "No1", "humid", "casino")
        data = from_frame(frame(**dict.fromkeys(names, whole)), targets=["y"])
        assert data.columns.names == ("size", *names)

    def test_nothing_is_left(self):
        table = frame(id=[f"u{i}" for i in range(N)]).drop(columns="size")
        with pytest.raises(InvalidInputError, match="no column is left for them: 'id' looks like"):
            from_frame(table, targets=["y"])


class TestTargets:
    TABLE = frame(t_a=["no", "yes"] * 30, t_b=[0.5, 1.25, 2.75] * 20, t_c=[1, 2, 3] * 20)

    @pytest.mark.parametrize(
        ("targets", "kinds"),
        [
            ("y", {"y": "binary"}),
            (["t_a", "y"], {"t_a": "binary", "y": "binary"}),
            (["t_[ab]"], {"t_a": "binary", "t_b": "regression"}),
            ({"t_*": "multiclass", "t_b": "regression", "t_a": None},
             {"t_c": "multiclass", "t_b": "regression", "t_a": "binary"}),
            (Task.regression("t_c"), {"t_c": "regression"}),
            ([Task.regression("both", 2, class_names=("t_b", "t_c"))], {"both": "regression"}),
        ],
    )  # fmt: skip
    def test_forms(self, targets, kinds):
        data = from_frame(self.TABLE, targets=targets)
        assert {task.name: task.kind for task in data.tasks} == kinds
        assert not {"t_a", "t_b", "t_c", "y"} & set(kinds) & set(data.columns.names)

    def test_labels_of_every_type(self):
        columns = {
            "flag": pd.array([True, None, False, None] * 15, dtype="boolean"),
            "word": pd.Categorical(["b", "a"] * 30),
            "count": pd.array([1, 2, None] * 20, dtype="Int64"),
            "mark": ["1,5", "2", "0,25"] * 20,
        }
        targets = {"flag": "binary", "word": None, "count": "multiclass", "mark": "regression"}
        data = from_frame(frame(**columns), targets=targets)
        rows = data.train.index
        assert torch.equal(data.train.targets["flag"].isnan(), rows % 2 == 1)
        assert torch.equal(data.train.targets["word"], 1.0 - rows % 2)
        assert data.task("count").class_names == ("1", "2")
        expected = torch.tensor([0, 1, -100])[rows % 3]
        assert torch.equal(data.train.targets["count"], expected)
        assert data.train.targets["mark"].tolist() == [[1.5, 2, 0.25][i] for i in rows % 3]

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            (pd.date_range("2020", periods=N), "are dates, such as '2020-01-01"),
            (pd.date_range("2020", periods=N).strftime("%Y-%m-%d"), "are dates"),
            ([f"user {i}" for i in range(N)], "look like ids or free text"),
            ([0, 1, "unknown"] * 20, "got 'unknown' beside 0"),
        ],
    )
    def test_what_is_no_label(self, column, message):
        with pytest.raises(InvalidInputError, match=message):
            from_frame(frame(t=column), targets=["t"])

    def test_dates_among_the_columns_of_a_task(self):
        table = frame(when=pd.date_range("2024", periods=N))
        for make, other in ((Task.regression, "size"), (Task.multilabel, "y")):
            task = make("t", 2, class_names=(other, "when"))
            with pytest.raises(InvalidInputError, match="row 0 has '2024-01-01 00:00:00', a date"):
                from_frame(table, targets=[task])

    def test_truth_values_among_other_words_are_no_numbers(self):
        column = ["True", "False", "true", "TRUE", "yes", "true"] * 10
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            data = from_frame(frame(agreed=column), targets=["y"])
        ((_, categories),) = data.columns.categorical
        assert categories == ("False", "TRUE", "True", "true", "yes")

    @pytest.mark.parametrize("cell", ["about 20", "-", "inf"])
    def test_a_word_among_numbers_is_named_with_its_row(self, cell):
        column = [f"{i},5" for i in range(N)]
        column[5] = cell
        for kind in (None, "regression"):
            with pytest.raises(InvalidInputError) as caught:
                from_frame(frame(price=column), targets={"price": kind})
            told = f"row 5, column 'price': expected a finite number, got {cell!r}; if it means a "
            assert str(caught.value).startswith(f"{told}missing value, list it in na_values")

    @pytest.mark.parametrize(
        ("column", "kind", "named"),
        [
            (["yes"] * N, "binary", "got 1 (yes)"),
            (["yes", None] * 30, None, "only one class, 'yes'"),
            ([1] * N, None, "only one class, '1'"),
            ([0.0, None] * 30, "binary", "only one class, '0'"),
            (["a"] * N, "multiclass", "got 1 (a)"),
            ([2] * N, Task.multiclass("x", 3), "only one class, '2'"),
            (["b"] * N, Task.binary("x", class_names=("a", "b")), "only one class, 'b'"),
        ],
    )
    def test_one_class_everywhere_is_refused(self, column, kind, named):
        with pytest.raises(InvalidInputError, match=r"'x'") as caught:
            from_frame(frame(x=column), targets={"x": kind})
        assert named in str(caught.value)
        if kind is None or isinstance(kind, Task):
            tasks = None if kind is None else [kind]
            with pytest.raises(InvalidInputError, match=r"'x'"):
                from_arrays(SIZE[:, None], {"x": column}, tasks=tasks)

    @pytest.mark.parametrize("column", [[5] * N, [5.0, None] * 30, ["5,0"] * N])
    def test_a_constant_regression_is_warned_of(self, column):
        told = "target 'price' is 5 in every labelled row"
        with pytest.warns(UserWarning, match=told) as caught:
            from_frame(frame(price=column), targets={"price": "regression", "y": "binary"})
        assert [Path(one.filename).name for one in caught] == [Path(__file__).name]
        if column[0] != "5,0":
            price = Task.regression("price")
            with pytest.warns(UserWarning, match=told) as caught:
                from_arrays(SIZE[:, None], {"price": column}, tasks=[price])
            assert [Path(one.filename).name for one in caught] == [Path(__file__).name]

    def test_one_constant_output_of_several(self):
        pair = Task.regression("pair", 2, class_names=("size", "five"))
        with pytest.warns(UserWarning, match=r"target 'pair' \(five\) is 5 in every"):
            from_frame(frame(five=[5] * N), targets=[pair])
        tags = Task.multilabel("tags", 2, class_names=("y", "one"))
        data = from_frame(frame(one=[1] * N), targets=[tags])  # one of them can be learned
        assert data.train.targets["tags"].shape[1] == 2
        tags = Task.multilabel("tags", 2, class_names=("zero", "one"))
        with pytest.raises(InvalidInputError, match="labels of 'tags': only one class"):
            from_frame(frame(one=[1] * N, zero=[0] * N), targets=[tags])

    def test_splits_and_groups(self):
        part = ["train", "Validation ", "TEST"] * 20
        who = pd.Series([f"p{i // 6}" if i > 5 else None for i in range(N)])
        data = from_frame(frame(part=part), targets="y", split_column="part")
        assert data.test.index.tolist() == list(range(2, N, 3))
        data = from_frame(frame(who=who), targets="y", group_column="who")
        sides = [{who[i] for i in split.index.tolist()} for split in data.splits.values()]
        assert sum(map(len, sides)) == 10


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ([[1, 2]], {}, "expected a pandas DataFrame, got list"),
        (frame()[:0], {}, "at least one row"),
        (pd.concat([frame(), frame()], axis=1), {}, "the column name 'size' appears twice"),
        (pd.concat({"a": frame()}, axis=1), {}, "got several levels"),
        (frame(x=[str(i) for i in range(N - 1)] + ["12O"]), {}, "row 59, column 'x': expected a"),
        (frame(x=[10**400] * N), {}, "row 0, column 'x': expected a finite number, got '1000"),
        (frame(x=[np.inf] + [1.0] * (N - 1)), {}, "row 0, column 'x': expected a finite number"),
        (frame(), {"max_categories": 0}, "max_categories: expected a whole number of"),
    ],
)  # fmt: skip
def test_errors(table, options, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        from_frame(table, **{"targets": "y"} | options)
    assert "\n" not in str(caught.value)


class TestColumns:
    COLUMNS = TableColumns((("age", 40, 10.0), ("flat", 5.0, 0.0)), (("smoker", ("no", "yes")),))

    def test_encode(self):
        rows = pd.DataFrame({
            "other": "?", "smoker": ["yes", "never", None], "flat": [5, 7, None],
            "age": ["60", " nan", "1e1"],
        })  # fmt: skip
        assert self.COLUMNS.encode(rows).tolist() == [[2, 0, 0, 1], [0, 2, 0, 0], [-3, 0, 0, 0]]
        assert self.COLUMNS.encode(rows[:0]).shape == (0, 4)
        assert self.COLUMNS.unseen(rows) == {"smoker": ["never"]}

    def test_categories_that_are_numbers_or_truth_values(self):
        columns = TableColumns((), (("a", ("1", "2", "x")), ("b", ("False", "TRUE"))))
        table = pd.DataFrame({"a": [1.0, 2.0, np.nan], "b": [True, False, True]})
        assert columns.encode(table)[:, :3].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
        assert columns.encode(table)[:, 3:].tolist() == [[0, 1], [1, 0], [0, 1]]
        assert columns.unseen(table) == {}

    def test_plain_numbers_and_others(self):
        columns = TableColumns(tuple((name, 1.0, 2.0) for name in "abcdef"))
        row = {"f": [3, 5], "e": ["3", None], "d": [True, False], "c": [None, 3.0],
               "b": pd.array([3, None], dtype="Int64"), "a": ["true", "false"]}  # fmt: skip
        wanted = [[0.0, 1.0, 0.0, 0.0, 1.0, 1.0], [-0.5, 0.0, 1.0, -0.5, 0.0, 2.0]]
        assert columns.encode(pd.DataFrame(row)).tolist() == wanted
        row |= {"f": [3.0, np.inf]}
        with pytest.raises(InvalidInputError, match="row 1, column 'f': expected a finite number"):
            columns.encode(pd.DataFrame(row))

    def test_many_categories_take_no_square_of_memory(self):
        texts = tuple(f"code {i}" for i in range(20_000))
        columns = TableColumns((), (("x", ("no",)), ("code", texts)))
        tracemalloc.start()
        rows = {"x": ["no", "new", None], "code": ["code 7", "code 19999", "new"]}
        found = columns.encode(pd.DataFrame(rows))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.nonzero().tolist() == [[0, 0], [0, 8], [1, 20_000]]
        assert peak < 50e6

    def test_round_trip(self):
        dates = (("when", "%d.%m.%Y", 18000.0, 20.0, ("year", "week")),)
        for columns in (self.COLUMNS, TableColumns((("x", 0, 1),), dates=dates)):
            assert TableColumns.from_dict(json.loads(json.dumps(columns.to_dict()))) == columns
        # As version 0.1 wrote them.
        old = {"scale": "standard", "numeric": [["age", 1.0, 2.0]], "categorical": []}
        assert TableColumns.from_dict(old).names == ("age",)
        with pytest.raises(InvalidInputError, match="unknown table columns key 'numerc'"):
            TableColumns.from_dict({"numerc": []})

    @pytest.mark.parametrize("cell", ["inf", "-inf", "1e999", "x", "1_0"])
    def test_bad_cells(self, cell):
        rows = pd.DataFrame({"age": ["1", cell], "flat": 1, "smoker": "no"}, index=[7, 9])
        with pytest.raises(InvalidInputError) as caught:
            self.COLUMNS.encode(rows)
        assert f"row 9, column 'age': expected a finite number, got {cell!r}" in str(caught.value)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (((("a", 0.0, 1.0),), (("a", ("x",)),)), "appears twice"),
            (((("a", 0.0, -1.0),),), "positive std"),
            (((("a", 0.0),),), "expected"),
            (((), (), "minmax"), "unknown scale"),
            (((), (), "standard", (("d", "ISO8601", 0, 1, ("moon",)),)), "unknown cycle of dates"),
        ],
    )
    def test_errors(self, arguments, message):
        with pytest.raises(InvalidInputError, match=message):
            TableColumns(*arguments)

    def test_a_table_without_a_column(self):
        table = pd.DataFrame({"ages": [1], "flat": [1], "smoker": [""]})
        with pytest.raises(InvalidInputError, match="no column 'age'; did you mean 'ages'"):
            self.COLUMNS.encode(table)
        with pytest.raises(InvalidInputError, match="expected a pandas DataFrame, got list"):
            self.COLUMNS.encode([{"age": 1}])

    def test_a_table_with_a_column_twice(self):
        rows = pd.DataFrame(
            [[60, 50, 5, "no", 1, 2]], columns=["age", "age", "flat", "smoker", 0, 0]
        )
        with pytest.raises(InvalidInputError, match="the table has the column 'age' 2 times"):
            self.COLUMNS.encode(rows)
        assert self.COLUMNS.encode(rows.iloc[:, 1:]).tolist() == [[1, 0, 1, 0]]

    def test_truth_values_some_of_which_are_missing(self):
        # Such a column is no longer of the type bool, which the training data had.
        columns = TableColumns((("flag", 0.5, 0.5),))
        for missing in (None, np.nan, pd.NA, ""):
            for true in (True, "TRUE"):
                flags = pd.DataFrame({"flag": [true, False, missing]})
                assert columns.encode(flags).tolist() == [[1], [-1], [0]]
        with pytest.raises(InvalidInputError, match=r"row 1, column 'flag': .* got 'no'"):
            columns.encode(pd.DataFrame({"flag": [True, "no"]}))


def test_a_model_warns_of_categories_that_training_has_not_seen():
    data = from_frame(frame(town=["Bern", "Basel", None] * 20), targets=["y"])
    circuit = qmtl.HeadCircuit(data.tasks)
    encoder = qmtl.encoders.MLP(data.n_inputs, 8, out_features=circuit.n_features, seed=0)
    model = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
    model.columns = data.columns
    with pytest.warns(UserWarning, match="column 'town' has 'Bonn', which training") as caught:
        model.predict(pd.DataFrame({"size": [1, 2, 3], "town": ["Bonn", "Bern", None]}))
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(pd.DataFrame({"size": [1, 2], "town": ["Bern", None]}))


def test_a_model_applies_what_it_was_trained_with(tmp_path):
    stamps = pd.date_range("2021", periods=N, freq="D")
    table = frame(colour=["red", "blue"] * 30, when=stamps, mail=[f"{i}@ab.cd" for i in range(N)])
    path = tmp_path / "table.csv"
    table.to_csv(path, index=False, sep=";", decimal=",")
    with pytest.warns(UserWarning, match="'mail' holds e-mail"):
        data = from_csv(path, targets=["y"])
    circuit = qmtl.HeadCircuit(data.tasks)
    encoder = qmtl.encoders.MLP(data.n_inputs, 8, out_features=circuit.n_features, seed=0)
    model = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
    qmtl.fit(model, data, max_epochs=3, progress=False)
    rows = data.test.index.tolist()
    expected = model.predict(data.test.inputs)["y"]
    model.save(tmp_path / "model")
    assert "@ab.cd" not in (tmp_path / "model" / "model.json").read_text()
    for one in (model, qmtl.load(tmp_path / "model")):
        new = table.loc[rows, ["when", "colour", "size"]]
        torch.testing.assert_close(one.predict(new)["y"], expected)
        with pytest.raises(InvalidInputError, match="the table has no column 'size'"):
            one.predict(new.drop(columns="size"))
        # What has no names is taken for inputs that are encoded already.
        bare = pd.DataFrame(data.test.inputs.numpy())
        torch.testing.assert_close(one.predict(bare)["y"], expected)


def test_names_that_are_not_texts():
    table = pd.DataFrame({0: 100.0 + SIZE, 1: -SIZE, 2: Y})
    for data, new in (
        (from_frame(table, targets="2"), table),
        (from_frame(table, targets={2: "binary"}, inputs=[0, 1]), table),
        (from_frame(table.assign(more=0), targets=[2], ignore=["more"]), table),
        (qmtl.data.from_arrays(table[[0, 1]], {"2": Y}, standardise=True), table[[1, 0]]),
    ):
        circuit = qmtl.HeadCircuit(data.tasks)
        encoder = qmtl.encoders.MLP(2, out_features=circuit.n_features, seed=0)
        model = qmtl.MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
        model = qmtl.fit(model, data, max_epochs=1, progress=False).model
        expected = model.predict(data.test.inputs)["2"]
        torch.testing.assert_close(model.predict(new)["2"][data.test.index], expected)


def test_rows_of_several_levels_are_named_without_types_of_numpy():
    table = frame(x=[*map(str, range(N - 1)), "ab"])
    table.index = pd.MultiIndex.from_product([range(6), range(N // 6)])
    with pytest.raises(InvalidInputError, match=f"row 5, {N // 6 - 1}, column 'x': expected a"):
        from_frame(table, targets=["y"])
    columns = TableColumns((("x", 0.0, 1.0),))
    with pytest.raises(InvalidInputError, match=f"row 5, {N // 6 - 1}, column 'x': expected a"):
        columns.encode(table)


def test_columns_given_as_an_index():
    table = frame(other=SIZE, more=SIZE)
    options = {"targets": table.columns[[1]], "ignore": table.columns[3:]}
    for inputs in (None, table.columns[[2, 0]]):
        data = from_frame(table, inputs=inputs, **options)
        assert set(data.columns.names) == {"size", "other"}
    assert "more" in from_frame(table, targets="y", ignore=None).columns.names
    with pytest.raises(
        InvalidInputError, match="ignore: expected a sequence of columns, got 'size'"
    ):
        from_frame(table, targets="y", ignore="size")


def test_arrays_that_are_a_frame_keep_the_order_of_columns():
    X = pd.DataFrame({"a": SIZE, "b": -SIZE})
    data = qmtl.data.from_arrays(X, {"y": Y})
    assert torch.equal(data.columns.encode(X[["b", "a"]])[data.test.index], data.test.inputs)


def test_durations_are_numbers_in_days(tmp_path):
    seconds = np.arange(60) * 1000.0
    plain = frame(time=pd.to_timedelta(seconds, unit="s"))
    texts = frame(time=[str(value) for value in plain["time"]])
    clock = frame(time=[f"{int(s) // 3600:02d}:{int(s) // 60 % 60:02d}:40" for s in seconds])
    path = tmp_path / "a.csv"
    plain.to_csv(path, index=False)
    expected = from_frame(plain, targets="y").columns
    assert expected.numeric[-1][0] == "time"
    assert from_frame(texts, targets="y").columns.is_close(expected)
    assert from_csv(path, targets="y").columns.is_close(expected)
    assert [entry[0] for entry in from_frame(clock, targets="y").columns.numeric][-1] == "time"
    days = frame(time=pd.to_timedelta(np.arange(60) % 19, unit="D"))  # "17 days" in a file
    days.to_csv(path, index=False)
    expected_days = from_frame(days, targets="y").columns
    assert from_csv(path, targets="y").columns.is_close(expected_days)
    assert torch.equal(expected_days.encode(pd.read_csv(path)), expected_days.encode(days))
    for table in (days, pd.read_csv(path)):
        labelled = from_frame(table, targets={"time": "regression"})
        assert labelled.test.targets["time"].tolist() == (labelled.test.index % 19).tolist()
    new = texts.assign(time=["-1 days +23:00:00"] + ["0:00:00"] * 59)
    assert torch.equal(
        expected.encode(new), expected.encode(plain.assign(time=pd.to_timedelta(new["time"])))
    )


def test_one_wrong_time_of_day_is_named():
    times = [f"{h}:{m:02d}" for h in range(20) for m in (0, 20, 40)]
    with pytest.raises(InvalidInputError, match=r"row 7, column 'at': .* got '10:75'"):
        from_frame(frame(at=[*times[:7], "10:75", *times[8:]]), targets=["y"])
    columns = from_frame(frame(at=times), targets=["y"]).columns
    with pytest.raises(InvalidInputError, match=r"column 'at': .* got '10:75'"):
        columns.encode(frame(at=["10:30", "10:75", *times[2:]]))


def test_ordered_categories_order_the_classes():
    size = pd.Categorical(["small", "large", "medium"] * 20, ["small", "medium", "large"])
    table = frame(kind=size.as_ordered(), other=size)
    data = from_frame(table, targets=["kind", "other"])
    assert data.task("kind").class_names == ("small", "medium", "large")
    assert data.task("other").class_names == ("large", "medium", "small")
    found = data.test.targets["kind"].tolist()
    assert found == size.codes[data.test.index].tolist()


@pytest.mark.parametrize("value", [[1, 2], (1,), {"a": 1}, np.zeros(2)])
def test_columns_of_lists_are_left_out(value):
    with pytest.warns(UserWarning, match=f"'many' holds values of the type {type(value).__name__}"):
        data = from_frame(frame(many=[value] * N), targets="y")
    assert data.columns.names == ("size",)


def test_truth_values_with_blanks_are_one_input_in_frames_and_files(tmp_path):
    flags = [True, False, None] * 20
    tables = [
        frame(flag=pd.array(flags, dtype="boolean")),
        frame(flag=pd.Series(flags, dtype=object)),
    ]
    tables[0].to_csv(tmp_path / "a.csv", index=False)
    found = [from_frame(table, targets="y") for table in tables]
    found.append(from_csv(tmp_path / "a.csv", targets="y"))
    for data in found:
        assert data.columns.is_close(found[0].columns)
        assert [name for name, *_ in data.columns.numeric] == ["size", "flag"]
        assert torch.equal(data.train.inputs, found[0].train.inputs)
    blank = found[0].train.inputs[found[0].train.index % 3 == 2]
    assert (blank[:, 1] == 0).all()  # the mean
