"""qmtl report, and qmtl train --report."""

import shutil

import pytest

from tests.cli.command import settings


def test_of_one_run_it_lies_in_the_run(qmtl, run):
    (run / "report.html").write_text("an earlier one")
    assert qmtl.good("report", run) == f"wrote {run / 'report.html'}\n"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<title>qmtl report: run</title>" in page


def test_of_several_runs_it_lies_here(qmtl, run, tmp_path):
    # Without predictions there is less to draw.
    (run / "predictions.csv").unlink()
    twin = shutil.copytree(run, tmp_path / "twin")
    assert qmtl.good("report", run, twin) == "wrote report.html\n"
    assert "run · twin" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_after_training(qmtl, tmp_path):
    words = settings("training.max_epochs=1", 'data.tasks=["parity"]')
    out = qmtl.good("train", "digits", "--out", "a", "--report", *words)
    assert out.endswith("report: a/report.html\n")
    assert "parity (binary)" in (tmp_path / "a" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "is not a run directory"),
        (["run", "run"], "given twice"),
        (["run", "--out", "no/such/r.html"], "there is no folder no/such"),
        (["run", "--out", "."], "is a folder"),
    ],
)
def test_bad_input(qmtl, run, arguments, message):
    assert message in qmtl.bad("report", *arguments)
    assert not (run / "report.html").exists()


def test_an_unfinished_run(qmtl, run):
    (run / "results.json").unlink()
    assert "qmtl train --resume" in qmtl.bad("report", run)
    shutil.rmtree(run)
