"""`qmtl noise` on the command line."""

import csv

import pytest

from qmtl.experiments import _robustness
from qmtl.noise import DeviceNoise

NOISE = ("--one-qubit", 0.001, "--two-qubit", 0.01, "--readout", 0.02)


def rows(path):
    with path.open() as lines:
        return list(csv.DictReader(lines))


def test_a_run(qmtl, finished, tmp_path):
    words = (finished, *NOISE, "--scale", "0,1,2", "--extrapolate", "richardson")
    out = qmtl.good("noise", *words, "--out", "n")
    for word in ("parity", "×0", "×2", "richardson", "deviation"):
        assert word in out
    assert out.endswith("wrote n\n")
    found = {
        (row["scale"], row["extrapolation"]): float(row["value"])
        for row in rows(tmp_path / "n" / "noise.csv")
        if (row["task"], row["metric"]) == ("parity", "deviation")
    }
    assert found["0.0", "none"] == 0
    assert 0 < found["1.0", "richardson"] < found["1.0", "none"] < found["2.0", "none"]
    assert (tmp_path / "n" / "noise.png").is_file()


def test_shots_of_a_file(qmtl, run, tmp_path):
    DeviceNoise.uniform(readout=0.1).save(tmp_path / "noise.json")
    words = (run, "--noise", "noise.json", "--scale", "0,1", "--shots", 50)
    first = qmtl.good("noise", *words)
    assert qmtl.good("noise", *words) == first
    assert qmtl.good("noise", *words, "--seed", 1) != first
    assert (run / "noise" / "noise.csv").is_file()


def test_bad_runs(qmtl, run, tmp_path):
    assert "is not a run directory" in qmtl.bad("noise", tmp_path, *NOISE)
    assert "did you mean 'test'" in qmtl.bad("noise", run, *NOISE, "--split", "tst")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((*NOISE,), "give a run directory, or --study"),
        (("x", "--study", *NOISE), "give a run directory, or --study"),
        (("--study", "--shots", 5, *NOISE), "--study does not take --shots"),
        (("--study", "--scale", "0,1", *NOISE), "--study does not take --scale"),
        (("--study", "--split", "train", *NOISE), "--study does not take --split"),
        (("x", "--no-relaxation", *NOISE), "--no-relaxation needs --backend"),
        (("x", "--scale", "", *NOISE), "--scale: expected numbers >= 0"),
        (("x", "--scale", "0,x", *NOISE), "--scale: expected numbers >= 0"),
        (("x", "--scale", "-1", *NOISE), "--scale: expected numbers >= 0"),
        (("x",), "give the noise once"),
        (("x", "--backend", "fake_fez", *NOISE), "give the noise once"),
    ],
)
def test_bad_options(qmtl, words, expected):
    assert expected in qmtl.bad("noise", *words)


def test_bad_extrapolation(qmtl, run):
    words = ("noise", run, *NOISE, "--scale", "0,1,2", "--extrapolate")
    assert "did you mean 'linear'" in qmtl.bad(*words, "linar")
    assert "two scales of 1 or more" in qmtl.bad(
        "noise", run, *NOISE, "--scale", "0,1", "--extrapolate", "linear"
    )


def test_help(qmtl):
    assert "qmtl noise" in qmtl.good("noise", "--help")


def test_a_file_in_the_place_of_the_folder_is_told_before_anything_is_computed(
    qmtl, run, tmp_path, monkeypatch
):
    (tmp_path / "n").touch()
    monkeypatch.setattr(_robustness, "evaluate_under_noise", None)
    assert "File exists" in qmtl.bad("noise", run, *NOISE, "--out", tmp_path / "n")
