"""Tables in files and in memory: kinds of targets and inputs, splits, and the messages."""

import warnings

import pytest
import torch

from qmtl.data import from_csv
from qmtl.errors import InvalidInputError
from qmtl.tasks import Task


@pytest.fixture
def write(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "table.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def table(n=20, header="size,colour,sold", row="{i},{c},{s}"):
    colours, sold = ["red", "blue"], ["yes", "no"]
    lines = [row.format(i=i, c=colours[i % 2], s=sold[i // 2 % 2]) for i in range(n)]
    return "\n".join([header, *lines]) + "\n"


class TestFromCsv:
    def test_inferred(self, write):
        data = from_csv(write(table()), targets=["sold"], splits=(0.6, 0.2, 0.2), seed=1)
        assert data.name == "table"
        assert data.task("sold") == Task.binary("sold", class_names=("no", "yes"))
        assert data.columns.names == ("size", "colour")
        assert data.split_seed == 1
        index = data.train.index
        name, mean, std = data.columns.numeric[0]
        assert (name, mean) == ("size", pytest.approx(index.float().mean()))
        assert data.columns.categorical == (("colour", ("blue", "red")),)
        test = data.test
        sizes = (test.index.float() - mean) / std
        torch.testing.assert_close(test.inputs[:, 0], sizes)
        assert torch.equal(test.inputs[:, 2], (test.index % 2 == 0).float())
        assert torch.equal(test.targets["sold"], (test.index // 2 % 2 == 0).float())

    def test_every_kind_of_target(self, write):
        lines = ["x,b,m,r,e,f,g", *(
            f"{i},{i % 2},{'abc'[i % 3]},{i / 7},{i % 2},{'' if i % 4 else 1},{i % 3 + 1}"
            for i in range(30)
        ), "30,,NA,nan,,,"]  # fmt: skip
        targets = {
            "b": "binary", "m": "multiclass", "r": "regression", "g": "multiclass",
            "finding": Task.multilabel("finding", 2, class_names=("e", "f")),
        }  # fmt: skip
        data = from_csv(write("\n".join(lines)), targets=targets, splits=(0.6, 0.2, 0.2))
        assert data.columns.names == ("x",)
        kinds = ["binary", "multiclass", "regression", "multiclass", "multilabel"]
        assert [task.kind for task in data.tasks] == kinds
        assert data.task("g").class_names == ("1", "2", "3")
        for split in data.splits.values():
            i = split.index
            full = i < 30
            i = i[full]
            assert torch.equal(split.targets["m"][full], i % 3)
            assert torch.equal(split.targets["g"][full], i % 3)
            torch.testing.assert_close(split.targets["r"][full], i.double() / 7)
            assert torch.equal(split.targets["finding"][full, 1].isnan(), i % 4 != 0)
            for task in data.tasks:
                assert not task.labelled(split.targets[task.name])[~full].any()

    def test_split_column_and_groups(self, write):
        words = ["train"] * 4 + ["val", "TEST"]
        lines = [f"{i},{i % 2},{words[i]}" for i in range(6)]
        text = "\n".join(["x,y,part", *lines])
        data = from_csv(write(text), targets=["y"], split_column="part")
        assert [split.index.tolist() for split in data.splits.values()] == [[0, 1, 2, 3], [4], [5]]
        assert data.columns.names == ("x",)
        text = "\n".join(["x,y,who", *(f"{i},{i % 2},p{i // 4}" for i in range(40))])
        data = from_csv(write(text), targets=["y"], group_column="who")
        sides = [set((split.index // 4).tolist()) for split in data.splits.values()]
        assert sum(map(len, sides)) == 10
        assert data.columns.names == ("x",)

    def test_scale_and_categories_come_from_train(self, write):
        lines = ["1,a,0,train", "3,b,1,train", "100,c,0,validation", ",,1,test"]
        text = "\n".join(["x,k,y,part", *lines])
        data = from_csv(write(text), targets=["y"], split_column="part")
        assert data.columns.numeric == (("x", 2.0, 1.0),)
        assert data.columns.categorical == (("k", ("a", "b")),)
        assert data.validation.inputs.tolist() == [[98, 0, 0]]
        assert data.test.inputs.tolist() == [[0, 0, 0]]

    def test_inputs_and_ignore(self, write):
        path = write(table(header="size,colour,sold"))
        assert from_csv(path, targets=["sold"], inputs=["size"]).n_inputs == 1
        assert from_csv(path, targets=["sold"], ignore=["size"]).columns.names == ("colour",)
        unnamed = write(table(header=",colour,sold"))
        assert from_csv(unnamed, targets=["sold"], ignore=[""]).columns.names == ("colour",)
        # Numbers of the rows, as pandas writes them.
        with pytest.warns(UserWarning, match="'Unnamed: 0' looks like an id"):
            assert from_csv(unnamed, targets=["sold"]).columns.names == ("colour",)
        other = write(table(header=",colour,sold", row="0.5,{c},{s}"))
        with pytest.raises(InvalidInputError, match="column 1 has no name"):
            from_csv(other, targets=["sold"])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"targets": ["slod"]}, "unknown target column 'slod'; did you mean 'sold'"),
            ({"targets": 3}, "targets: expected tasks"),
            ({"targets": ["so*d", "solt*"]}, "no column fits the pattern 'solt*'; the columns are"),
            ({"targets": []}, "targets: expected at least one column"),
            ({"targets": ["sold", "sold"]}, "used twice"),
            (
                {"targets": {"sold": "binry"}},
                "unknown kind of target 'sold': 'binry'; did you mean",
            ),
            ({"targets": {"sold": "multilabel"}}, "does not say which columns"),
            ({"targets": {"sold": Task.binary("a")}}, "holds a task named 'a'"),
            ({"targets": {"sold": "regression"}}, "row 2, column 'sold': expected a finite number"),
            ({"targets": {"size": "binary"}}, "as binary: expected 2 classes, got 20 (0, 1, 2, 3,"),
            ({"targets": [Task.binary("sold")]}, "row 2 has the text 'yes'"),
            ({"targets": [Task.binary("sold", class_names=("no", "maybe"))]}, "row 2 has the text"),
            ({"targets": [Task.multilabel("l", 2)]}, "name their columns in its class_names"),
            ({"targets": [Task.multilabel("l", 2, class_names=("sold", "x"))]}, "column 'x'"),
            ({"targets": ["sold"], "inputs": ["siz"]}, "unknown column in inputs: 'siz'; did you"),
            ({"targets": ["sold"], "inputs": ["sold"]}, "inputs: 'sold' is the target 'sold'"),
            ({"targets": ["sold"], "inputs": "size"}, "expected a sequence of columns, got 'size'"),
            (
                {"targets": ["sold"], "weights": [1.0]},
                "weights: expected the name of a column, got l",
            ),
            (
                {"targets": ["sold"], "group_column": torch.ones(3)},
                "group_column: expected the name of a column, got Tensor",
            ),
            ({"targets": ["sold"], "ignore": ["x"]}, "unknown column in ignore"),
            ({"targets": ["sold"], "ignore": ["size", "colour"]}, "no column is left"),
            ({"targets": ["sold"], "split_column": "part"}, "unknown split_column: 'part'"),
            (
                {"targets": ["sold"], "split_column": "colour"},
                "row 2, column 'colour': expected tr",
            ),
            ({"targets": ["sold"], "group_column": "sold"}, "group_column: 'sold' is the target"),
            ({"targets": ["sold"], "splits": (1, 0, 0)}, "validation split would be empty"),
        ],
    )
    def test_errors(self, write, options, message):
        with pytest.raises(InvalidInputError) as caught:
            from_csv(write(table()), **options)
        assert message in str(caught.value)
        assert "table.csv: " in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("cell", "message"),
        [
            ("inf", "row 22, column 'size': expected a finite number, got 'inf'"),
            ("-1e39", "row 22, column 'size': expected a finite number, got '-1e+39'"),
            ("12O", "row 22, column 'size': expected a number as in the other rows, got '12O'"),
        ],
    )
    def test_slips_in_a_numeric_column(self, write, cell, message):
        with pytest.raises(InvalidInputError) as caught:
            from_csv(write(table() + f"{cell},red,yes\n"), targets=["sold"])
        assert message in str(caught.value)

    def test_mixed_cells_are_categories(self, write):
        text = "\n".join(["k,y", *(f"{['1', '2', 'more'][i % 3]},{i % 2}" for i in range(30))])
        data = from_csv(write(text), targets=["y"])
        assert data.columns.categorical == (("k", ("1", "2", "more")),)

    def test_mostly_numbers(self, write):
        text = "\n".join(
            ["k,y", *(f"{['1', '2', '3', '4', '5+'][i % 5]},{i % 2}" for i in range(30))]
        )
        with pytest.warns(UserWarning, match=r"'k' holds 4 different .* \('5\+' in row 6\)"):
            data = from_csv(write(text), targets=["y"])
        assert data.columns.categorical == (("k", ("1", "2", "3", "4", "5+")),)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            from_csv(write(text), targets=["y"], inputs=["k"])
        cells = ["bad", "worse", "worst", *(f"{i / 8}" for i in range(20))]
        text = "\n".join(["x,k,y", *(f"{i},{cell},{i % 2}" for i, cell in enumerate(cells))])
        with pytest.warns(UserWarning, match="'k' holds 20 different .* 3 other texts, the first"):
            assert from_csv(write(text), targets=["y"]).columns.names == ("x",)

    @pytest.mark.parametrize(
        ("decimal", "options", "fits"),
        [
            (",", {}, True),
            (".", {}, False),
            (".", {"ignore": ["size"], "targets": {"price": "multiclass"}}, True),
            (".", {"inputs": ["colour"], "targets": {"price": "multiclass"}}, True),
            (".", {"inputs": ["colour"]}, False),
        ],
    )
    def test_a_decimal_mark_that_was_given(self, write, decimal, options, fits):
        rows = [f"{i},5;{'ab'[i % 2]};{i % 3},5" for i in range(30)]
        path = write("\n".join(["size;colour;price", *rows]))
        options = {"targets": ["price"]} | options
        if fits:
            from_csv(path, decimal=decimal, **options)
        else:
            with pytest.raises(InvalidInputError, match="is not a number with the decimal mark"):
                from_csv(path, decimal=decimal, **options)

    @pytest.mark.parametrize(
        "na_values",
        [["-999", "136A"], [-999, "136A"], {"size": [-999.0, "136A"], "sold": "-999"}],
    )
    def test_given_words_for_missing_values(self, write, na_values):
        rows = [f"{i}.5,{'ab'[i % 2]},{['yes', 'no', '-999'][i % 3]}" for i in range(30)]
        rows[4], rows[8] = "-999,a,no", "136A,b,yes"
        path = write("\n".join(["size,kind,sold", *rows]))
        with pytest.raises(
            InvalidInputError, match=r"row 10, .* got '136A'; .* in na_values.* text"
        ):
            from_csv(path, targets={"sold": "multiclass"})
        with pytest.raises(InvalidInputError, match=r"row 10, .* got '136A'; .* in na_values"):
            from_csv(path, targets=["size"])
        data = from_csv(path, targets=["sold"], na_values=na_values)
        assert data.task("sold").class_names == ("no", "yes")
        assert data.columns.names == ("size", "kind")
        everything = [split.inputs[split.index == 4] for split in data.splits.values()]
        assert [rows[0, 0].item() for rows in everything if len(rows)] == [0]

    @pytest.mark.parametrize(
        ("na_values", "message"),
        [
            ({"sise": "-999"}, "unknown column in na_values: 'sise'; did you mean 'size'"),
            (object(), "na_values: expected texts or numbers"),
            ([["-999"]], "na_values: expected texts or numbers"),
            (True, "na_values: expected texts or numbers, .* got True"),
            ([False], "na_values: expected texts or numbers"),
            (b"-", "na_values: expected texts or numbers, .* got b'-'"),
            ({"size": [b"-"]}, "na_values: expected texts or numbers"),
        ],
    )
    def test_wrong_words_for_missing_values(self, write, na_values, message):
        with pytest.raises(InvalidInputError, match=message):
            from_csv(write(table()), targets=["sold"], na_values=na_values)

    @pytest.mark.parametrize("na_values", [1.5, [1.5, 10**400], [-0.25], None, [], {"size": None}])
    def test_other_numbers_than_those_given_stay(self, write, na_values):
        """pandas takes 1 for missing if it is given the number 1.5."""
        rows = [f"{i},{['yes', 'no'][i % 2]}" for i in range(30)]
        path = write("\n".join(["size,sold", *rows]))
        data = from_csv(path, targets=["sold"], na_values=na_values)
        assert data.columns.numeric == from_csv(path, targets=["sold"]).columns.numeric
        data = from_csv(path, targets={"size": "regression"}, na_values=na_values)
        assert not any(split.targets["size"].isnan().any() for split in data.splits.values())

    @pytest.mark.parametrize("blanks", ["", " ", "  \t"])
    @pytest.mark.parametrize("words", [["n.b.", "??", "cafe\u0301", "-999"], ["-999"]])
    def test_given_words_with_blanks_after_them(self, write, blanks, words):
        days = [f"2024-01-{i + 1:02}" for i in range(30)]
        cells = [[f"{i}", "ab"[i % 2], days[i], ["True", "False", ""][i % 3], ["yes", "no"][i % 2]]
                 for i in range(30)]  # fmt: skip
        for place in range(5):
            for row, word in enumerate(words):
                cells[2 + 5 * place + row][place] = f"{word}{blanks}"
        path = write("\n".join(map(",".join, [["size", "kind", "day", "flag", "sold"], *cells])))
        given = ["n.b.", "??", "caf\u00e9", -999]
        data = from_csv(path, targets=["sold"], na_values=given)
        assert data.task("sold").class_names == ("no", "yes")
        assert [name for name, *_ in data.columns.numeric] == ["size", "flag"]
        assert [name for name, *_ in data.columns.dates] == ["day"]
        assert data.columns.categorical == (("kind", ("a", "b")),)
        data = from_csv(path, targets={"size": "regression"}, na_values=given)
        labels = torch.cat([split.targets["size"] for split in data.splits.values()])
        assert (labels.isnan().sum(), labels.nansum()) == (
            len(words),
            sum(range(30)) - sum(range(2, 2 + len(words))),
        )

    @pytest.mark.parametrize("end", ["", "Z"])
    def test_repeated_times_with_fractions_of_a_second(self, write, end):
        stamps = [f"2024-01-02 10:00:00.{1 + i % 10:03}{end}" for i in range(60)]
        cells = [f"{stamp},{i % 2}" for i, stamp in enumerate(stamps)]
        data = from_csv(write("\n".join(["when,y", *cells])), targets=["y"])
        name, _, mean, std, _ = data.columns.dates[0]
        assert name == "when"
        for part in data.splits.values():
            seconds = (part.inputs[:, 0].double() * std + mean - 19724) * 86400
            wanted = 36000 + 0.001 * (1 + part.index.double() % 10)
            torch.testing.assert_close(seconds, wanted, atol=1e-5, rtol=0)

    def test_blank_column(self, write):
        path = write(table(header="size,none,colour,sold", row="{i},,{c},{s}"))
        with pytest.warns(UserWarning, match="'none' is empty"):
            assert from_csv(path, targets=["sold"]).columns.names == ("size", "colour")
        with pytest.raises(InvalidInputError, match="inputs: column 'none' is empty"):
            from_csv(path, targets=["sold"], inputs=["size", "none"])

    def test_category_blank_in_the_train_split(self, write):
        lines = ["1,,0,train", "3,NA,1,train", "100,c,0,validation", "4,d,1,test"]
        text = "\n".join(["x,k,y,part", *lines])
        with pytest.warns(UserWarning, match="'k' is empty in the train split"):
            data = from_csv(write(text), targets=["y"], split_column="part")
        assert data.columns.names == ("x",)

    def test_targets_with_dots(self, write):
        data = from_csv(write(table(header="size,colour,y.1")), targets=["y.1"])
        assert data.task("y.1").kind == "binary"
