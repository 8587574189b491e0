"""What the first pages of the documents call works without any extra."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import settings

ROOT = Path(__file__).parents[2]
ONE_TASK = ['data.tasks=["parity"]']  # so that the report has few figures


@pytest.mark.slow
def test_a_plain_installation_trains_evaluates_and_reports(tmp_path):
    """And names what an extra brings; all in one process, which imports torch once."""
    run = str(tmp_path / "run")
    words = [
        "recipes", "--",
        "train", "digits", "--out", run, *settings("training.max_epochs=1", *ONE_TASK), "--",
        "evaluate", run, "--",
        "explain", run, "--",
        "report", run, "--",
        "ibm", "backends",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.plain_installation", *words],
        capture_output=True, text=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    status, torchjd, hidden, imported = done.stdout.splitlines()[-4:]
    assert {"qiskit", "transformers", "ray", "onnx", "jax", "pytest"} <= set(hidden.split())
    assert imported == "hidden and imported:"
    assert (tmp_path / "run" / "report.html").is_file()
    assert torchjd == "TorchJD was imported: False"  # the mean of losses does not need it
    assert status == "status: 2"
    assert done.stdout.count("status: ") == 1
    assert "qiskit-ibm-runtime is not installed" in done.stderr
    assert ".[ibm]" in done.stderr
    assert "Traceback" not in done.stderr
