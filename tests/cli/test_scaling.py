"""`qmtl scaling` and `qmtl trainability` on the command line."""

import pytest


def test_scaling_counts(qmtl, tmp_path):
    out = qmtl.good("scaling", "--parts", "parameters", "--tasks", "2,16,32", "--out", "a/b")
    assert "exponent 1.000" in out
    assert out.endswith("wrote a/b\n")
    assert (tmp_path / "a" / "b" / "parameters.png").is_file()


def test_trainability(qmtl, tmp_path):
    words = ("--wires", "2,3", "--layers", "1,2", "--tasks", "1,2", "--samples", "4")
    assert "wrote t" in qmtl.good("trainability", *words, "--out", "t")
    assert (tmp_path / "t" / "variance.csv").is_file()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("scaling", "--tasks", "2,x"), "--tasks: expected whole numbers >= 1"),
        (("scaling", "--tasks", "0,2"), "got '0,2'"),
        (("scaling", "--parts", "costs"), "did you mean 'cost'"),
        (("scaling", "--parts", "accuracy", "--data", "nowhere"), "nowhere"),
        (("trainability", "--wires", "1,2"), "--wires: expected whole numbers >= 2"),
    ],
)
def test_bad_options(qmtl, words, expected):
    assert expected in qmtl.bad(*words)


def test_out_that_is_a_file(qmtl, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file is a file" in qmtl.bad("scaling", "--parts", "parameters", "--out", "file")


def test_help(qmtl):
    for command in ("scaling", "trainability"):
        assert "qmtl " + command in qmtl.good(command, "--help")
