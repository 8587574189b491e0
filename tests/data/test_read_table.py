"""Text tables as data frames: marks, encodings, odd rows and names, and the messages."""

import io
import math
import os
import re

import pandas as pd
import pytest

import qmtl
from qmtl.data import read_table
from qmtl.errors import InvalidInputError

NAN = float("nan")


@pytest.fixture
def read(tmp_path):
    def read(text, *arguments, **options):
        path = tmp_path / "table.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_table(path, *arguments, **options)

    return read


def rows(frame):
    """The rows as lists, None where missing."""
    values = frame.astype(object).where(frame.notna(), None)
    return [list(frame.columns), *values.to_numpy().tolist()]


def test_nasty_but_fine(read):
    text = '\ufeffa, b ,c\r\n1,"x, ""y""\nz", é \r\n ,,NA\r\n\r\n3,q, w\r\n\r\n\r\n'
    frame = read(text)
    assert rows(frame) == [["a", "b", "c"], [1, 'x, "y"\nz', "é "], [3, "q", "w"]]
    assert list(frame.index) == [2, 5]
    raw = read(text, texts=None)
    assert rows(raw)[1:] == [["1", 'x, "y"\nz', "é"], ["", "", "NA"], ["3", "q", "w"]]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(read, mark):
    text = f"a{mark}b{mark}c\n1{mark}x, y{mark}2\n" if mark != "," else "a,b,c\n1,x; y,2\n"
    assert list(read(text).columns) == ["a", "b", "c"]
    assert list(read(text, mark).columns) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ('name,"size; cm"\n"Smith",3\n', ["name", "size; cm"]),
        ('word;a,b,c\n"x";1\n', ["word", "a,b,c"]),
        ('question|a,b,c,d\n"x"|1\n', ["question", "a,b,c,d"]),
    ],
)
def test_a_mark_that_breaks_a_quoted_cell_is_no_delimiter(read, text, header):
    assert list(read(text).columns) == header


@pytest.mark.parametrize("name", ["\\t", "tab", "\t"])
def test_names_of_a_tab(read, name):
    assert rows(read("a\tb\n1\t2\n", name)) == [["a", "b"], [1, 2]]


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["0,123", "-1,5", "2"], [0.123, -1.5, 2]),
        (["1.234,5", "7", "N/A"], [1234.5, 7, NAN]),
        (["1,234.5", "7", ""], [1234.5, 7, NAN]),
        (["1,234,567", "1,000", "0.5"], [1234567, 1000, 0.5]),
        (["1 234,5", "12", "1e3"], [1234.5, 12, 1000]),
        (["1'234.5", "-12'000", "+3"], [1234.5, -12000, 3]),
        (["1e-3", ".5", "1_0"], None),
        (["1,2", "a,3", "4"], None),
        (["1,23,4", "5", "6"], None),
    ],
)
@pytest.mark.parametrize("mark", [";", "\t", ","])
def test_numbers(read, cells, numbers, mark):
    quoted = [f'"{cell}"' if mark == "," and "," in cell else cell for cell in cells]
    column = read(mark.join(["x", "y"]) + "\n" + "".join(f"{c}{mark}a\n" for c in quoted))["x"]
    if numbers is None:
        assert not pd.api.types.is_numeric_dtype(column)
    else:
        assert column.tolist() == pytest.approx(numbers, nan_ok=True)


def test_a_comma_that_may_be_either(read):
    text = "x;y\n1,234;a\n5,678;b\n"
    with pytest.raises(
        InvalidInputError, match=r"csv: column 'x': '1,234' may be 1234.0 or 1.234; say"
    ):
        read(text)
    assert read(text, decimal=",")["x"].tolist() == [1.234, 5.678]
    assert read(text, decimal=".")["x"].tolist() == [1234, 5678]
    # Another column says what the marks of the file are.
    both = read("x;z;y\n1,234;0,5;a\n1.234;2;b\n")
    assert both["x"].tolist() == [1.234, 1234]


@pytest.mark.parametrize(
    ("cells", "decimal", "bad"),
    [
        (["1,5", "2,5"], ".", "1,5"),
        (["7", "1.5"], ",", "1.5"),
        (["1,5", "1.5"], ",", "1.5"),
        (["1.234", "2.345"], ",", None),
        (["1.234,5", "1,5e3"], ",", None),
        (["1,234.5", "1e-3"], ".", None),
        (["1,5", "soon"], ".", None),  # a column of texts
        (["31.12.2020", "1.1.2021"], ",", None),
    ],
)
def test_a_decimal_mark_that_contradicts_the_file(read, cells, decimal, bad):
    text = "x;y\n" + "".join(f"{cell};a\n" for cell in cells)
    if bad is None:
        assert len(read(text, decimal=decimal)) == len(cells)
    else:
        told = f"column 'x': '{bad}' is not a number with the decimal mark '{decimal}'"
        with pytest.raises(InvalidInputError, match=re.escape(told)):
            read(text, decimal=decimal)


@pytest.mark.parametrize(
    ("text", "usual", "found"),
    [
        ("x;y\n1.234;a\n5.678;b\n", ",", [1234, 5678]),
        ("x;y\n1,234;a\n5,678;b\n", ",", [1.234, 5.678]),
        ("x;y\n1,234;a\n5,678;b\n", ".", [1234, 5678]),
        # What the file shows comes first.
        ("x;y\n1.234;a\n5.67;b\n", ",", [1.234, 5.67]),
        ("x;y\n0.234;a\n0.567;b\n", ",", [0.234, 0.567]),
        ("x;y\n1,234;a\n5,67;b\n", ".", [1.234, 5.67]),
        ("x,y\n1.234,a\n5.678,b\n", ",", [1.234, 5.678]),
    ],
)
def test_the_usual_decimal_mark(read, text, usual, found):
    assert read(text, usual_decimal=usual)["x"].tolist() == found


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"])
def test_encodings(read, encoding):
    content = "größe,é\n1,ü\n".encode(encoding)
    # The byte order mark is no part of the first name, nor does a given encoding change that.
    assert rows(read(content, encoding=encoding.removesuffix("-sig"))) == [["größe", "é"], [1, "ü"]]
    assert rows(read(content, usual_encoding="latin-1")) == [["größe", "é"], [1, "ü"]]
    if encoding in ("cp1252", "latin-1"):
        with pytest.warns(UserWarning, match="not UTF-8; it is read as Windows-1252"):
            assert rows(read(content)) == [["größe", "é"], [1, "ü"]]
    else:
        assert rows(read(content)) == [["größe", "é"], [1, "ü"]]


@pytest.mark.parametrize(
    ("text", "header", "first"),
    [
        ("a;b;;\n1;2;;\n3;4;;\n", ["a", "b", "Unnamed: 2", "Unnamed: 3"], [1, 2, None, None]),
        ("a,b\n1,2,\n3,4,\n", ["a", "b", "Unnamed: 2"], [1, 2, None]),
        ("a,b\nr1,1,2\nr2,3,4\n", ["Unnamed: 0", "a", "b"], ["r1", 1, 2]),
        (",a\n0,5\n1,6\n", ["Unnamed: 0", "a"], [0, 5]),
        ("sep=;\na;b\n1;2\n", ["a", "b"], [1, 2]),
        ("\n\na,b\n1,2\n", ["a", "b"], [1, 2]),
        ("a,b\n1,2\n,\n, \n", ["a", "b"], [1, 2]),
        ("only\n1\n2\n", ["only"], [1]),
        ('"a\nb",c\n1,2\n', ["a\nb", "c"], [1, 2]),
    ],
)
def test_headers_and_separators(read, text, header, first):
    frame = read(text)
    assert rows(frame)[:2] == [header, first]


@pytest.mark.parametrize("word", ["N/A", "null", "None", "NULL", "#N/A", "<NA>", "n/a", "?", "nan"])
def test_words_for_missing_values(read, word):
    frame = read(f"x,y\n1,a\n{word},{word}\n", texts=["y"])
    assert math.isnan(frame["x"].iloc[1])
    assert frame["y"].tolist() == ["a", word]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("a,b\n", "there is a header but no row under it"),
        ("a,b\n,\n", "there is a header but no row under it"),
        ("a,b,a\n1,2,3\n", "the column name 'a' appears twice"),
        ("a,b\n1,2\n3\n", "row 3 has 1 cells, but the header has 2"),
        ('a,b\n"1",2\n3\n', "row 3 has 1 cells, but the header has 2"),
        ("a,b\n1,2,3\n1,2\n", "row 2 has 3 cells"),
        ('a,b\n1,"2\n', "cannot be read as a table: line 2: unexpected end of data"),
        ('\n"a\nb",c\n1,2\n"3,4\n', "line 5: unexpected end of data"),
        ('a\tb\n1\tx\n2\t"y\n3\tz\n4\t"y\n', "line 5: '\t' expected after '\"'"),
        (b"a,b\n1,\x00\n", "expected text in utf-8 or cp1252"),
        (b"\x89PNG\r\n\x1a\n\x81\x00", "read the file with pandas and use from_frame"),
    ],
)
def test_errors(read, text, message):
    with pytest.raises(InvalidInputError) as caught:
        read(text)
    assert message in str(caught.value)
    assert "table.csv" in str(caught.value)


def test_arguments(read, tmp_path):
    with pytest.raises(InvalidInputError, match=r"no\.csv: there is no such file"):
        read_table(tmp_path / "no.csv")
    with pytest.raises(InvalidInputError, match="is a directory"):
        read_table(tmp_path)
    with pytest.raises(InvalidInputError, match=r"delimiter: expected one character \(\\t for"):
        read("a\n1\n", ";;")
    with pytest.raises(InvalidInputError, match="header is one cell, 'a;b'; did you mean ';'"):
        read("a;b\n1;2\n", ",")
    with pytest.raises(InvalidInputError, match="decimal: expected"):
        read("a\n1\n", decimal=";")
    with pytest.raises(InvalidInputError, match="Python knows no encoding 'utf9'"):
        read("a\n1\n", encoding="utf9")
    with pytest.raises(InvalidInputError, match="Python knows no encoding"):
        read("a\n1\n", encoding="utf8\0")


def test_a_pipe(tmp_path):
    # As a shell's <(command) gives it, which can be read only once.
    ends = os.pipe()
    with os.fdopen(ends[1], "w") as file:
        file.write("a,b\n1,x\n")
    try:
        assert rows(read_table(f"/dev/fd/{ends[0]}")) == [["a", "b"], [1, "x"]]
    finally:
        os.close(ends[0])


@pytest.mark.parametrize("before", [0, 498, 998])
def test_cells_of_several_lines_around_the_first_thousand(read, before):
    frame = read("id;word\n" + before * "1;2\n" + 400 * '7;"a,b\nc,d,e\nf"\n')
    assert frame.shape == (before + 400, 2)
    assert rows(frame)[-1] == [7, "a,b\nc,d,e\nf"]


def test_lines_of_blanks_are_not_rows(read):
    frame = read("   \n\n  \na,b\n1,x\n  \n \n2,y\n   ")
    assert rows(frame) == [["a", "b"], [1, "x"], [2, "y"]]
    assert list(frame.index) == [2, 5]
    assert rows(read("a\n1\n  \n2\n")) == [["a"], [1], [2]]


def test_a_large_file_is_read_like_a_small_one(read):
    n = 300_000  # lines of 20 bytes: pandas reads a file of this size in parts
    lines = [f"{i % 9},007,{i % 7}.5,word{i % 3}" for i in range(n)]
    frame = read("\n".join(["a,b,c,d", *lines]), texts=["b"])
    assert rows(frame.tail(1))[1:] == [[(n - 1) % 9, "007", (n - 1) % 7 + 0.5, "word2"]]
    lines[n - 5] = "n.b.,007,true,word0"
    frame = read("\n".join(["a,b,c,d", *lines]), texts=["b"])
    assert rows(frame.iloc[[0, n - 5]])[1:] == [
        ["0", "007", "0.5", "word0"],
        ["n.b.", "007", "true", "word0"],
    ]
    lines[n - 6], lines[n - 5] = "1,2,3", "1,2,3,4,5"  # as many cells as there should be
    with pytest.raises(InvalidInputError, match=f"row {n - 4} has 3 cells"):
        read("\n".join(["a,b,c,d", *lines]))


@pytest.mark.parametrize(
    "source", [io.StringIO("a,b\n1,2\n"), "https://example.org/a.csv", 7], ids=["file", "url", "7"]
)
def test_only_paths_of_local_files_are_read(source):
    with pytest.raises(InvalidInputError, match=r"path of a local file.*from_frame"):
        qmtl.data.from_csv(source, targets=["b"])


def test_types_of_columns(read):
    lines = [f"w{i},{'ab'[i % 2]},{i},{i}.5,1'{100 + i}," for i in range(300)]
    text = "\n".join(["new,repeated,whole,real,grouped,none", *lines])
    kinds = ["str", "str", "int64", "float64", "float64", "float64"]
    assert list(map(str, read(text).dtypes)) == kinds
    assert set(map(str, read(text, texts=None).dtypes)) == {"str"}
