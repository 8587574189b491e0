"""``qmtl bench`` in this process and in processes that are killed."""

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib

import pytest

from qmtl.cli import main
from tests.cli.command import SCRIPT, fork, settings

TINY = [
    "digits", "--heads", "linear,local-register", "--seeds", "2", "--jobs", "1",
    "--grid", "training.learning_rate=0.001,0.03", "--set", "training.max_epochs=1",
    "--set", "encoder.hidden=[4]", "--set", "data.splits=[0.2,0.1,0.7]",
    "--set", 'data.tasks=["parity","ink"]', "--set", "bench.search_seeds=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished benchmark, not to be changed, and what its command printed."""
    folder, out, err = tmp_path_factory.mktemp("bench"), io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        monkeypatch.setattr(sys, "argv", ["qmtl", "bench", *TINY, "--out", str(folder)])
        with contextlib.suppress(SystemExit):
            main()
    return folder / "digits", out.getvalue(), err.getvalue()


def test_it_writes_and_shows_its_tables(finished):
    folder, out, err = finished
    files = {path.name for path in folder.iterdir()}
    tables = {"table.md", "summary.csv", "metrics.csv", "seeds.csv", "recipe.toml"}
    assert files == tables | {"cells", "forest.png", "score_against_parameters.png"}
    assert (folder / "table.md").read_text().startswith("# Benchmark `digits`")
    # The terminal shows a table of heads and a verdict, no Markdown.
    assert "| --" not in out
    assert "|--" not in out
    assert "local-register against linear: " in out
    assert err.count(": linear, seed 0, learning_rate ") == 2
    with (folder / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["head"] for row in rows] == ["linear", "local-register"]
    assert rows[1]["wilcoxon_p"] != ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--heads", "linaer"], "did you mean 'linear'"),
        (["digts"], "did you mean 'digits'"),
        (["digits", "--grid", "training.learning_rate"], "KEY=V1,V2"),
        (["digits", "--grid", "training.learning_rat=1"], "training.learning_rat"),
        (["digits", "digits"], "two recipes have the name 'digits'"),
        (["digits", "--set", "data.tasks=[]"], "task"),
    ],
)
def test_bad_input(qmtl, arguments, message):
    assert message in qmtl.bad("bench", *arguments)


@pytest.mark.slow
def test_killed_and_started_again_it_runs_only_what_is_missing(
    finished, qmtl, tmp_path, monkeypatch
):
    """Killed without warning (kill -9) as soon as the second cell is there."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # the fork has one thread
    command = ["bench", *TINY, "--out", tmp_path]
    cells = tmp_path / "digits" / "cells"
    process, _printed = fork(*command)
    deadline = time.monotonic() + 200
    while len(list(cells.glob("*.json"))) < 2:
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    before = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert all(json.loads((cells / name).read_text()) for name in before)
    again = qmtl(*command)
    assert again.code == 0, again.err
    after = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert {name: after[name] for name in before} == before
    # Four cells of the search, two of the chosen settings, two probes.
    assert len(after) == 8
    ran = [line for line in again.err.splitlines() if line.startswith("digits ")]
    assert len(ran) == 8 - len(before)
    reference, *_ = finished
    assert (tmp_path / "digits" / "seeds.csv").read_text() == (reference / "seeds.csv").read_text()


@pytest.fixture
def cluster():
    """The address of a Ray cluster that ``ray start --head`` starts on this machine."""
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Ray's sockets lie in its folder, and their paths may have 107 characters only.
    folder = tempfile.mkdtemp(prefix="ray-")
    head = subprocess.Popen(
        [SCRIPT.with_name("ray"), "start", "--head", "--block", "--node-ip-address", "127.0.0.1",
         "--port", str(port), "--num-cpus", "1", "--include-dashboard", "false",
         "--object-store-memory", "100000000", "--temp-dir", folder],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
    try:
        _wait_for(port, head)
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port, process, seconds=90):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, "the cluster did not start"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"nothing listens on port {port} after {seconds} s")


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_table(finished, qmtl, cluster, tmp_path):
    qmtl.good("bench", *TINY, "--cluster", cluster, "--out", tmp_path)
    reference, *_ = finished
    assert (tmp_path / "digits" / "seeds.csv").read_text() == (reference / "seeds.csv").read_text()


def test_a_cluster_that_is_not_there(qmtl, tmp_path):
    pytest.importorskip("ray")
    error = qmtl.bad("bench", *TINY, "--cluster", "nowhere://x", "--out", tmp_path)
    assert "cluster 'nowhere://x' cannot be reached" in error


def test_the_first_seed(qmtl, tmp_path):
    words = settings("training.max_epochs=1", "bench.grid={}", "bench.probe=false")
    one = ("--jobs", "1")
    qmtl.good("bench", "digits", "--heads", "linear", "--seeds", "2", "--seed", "7", *words, *one)
    with (tmp_path / "bench" / "digits" / "recipe.toml").open("rb") as file:
        assert tomllib.load(file)["bench"]["first_seed"] == 7
    again = qmtl(
        "bench", "digits", "--heads", "linear", "--seeds", "1", "--seed", "8", *words, *one
    )
    # The cell of seed 8 is there already.
    assert again.code == 0
    assert "seed 8" not in again.err
