"""Methods in two processes train as in one; those of which this is not shown are refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import qmtl
from tests.methods import in_processes

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    path = tmp_path / "states.pt"
    done = subprocess.run(
        [sys.executable, in_processes.__file__, path], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for ours, theirs in zip(in_processes.trained(1), torch.load(path), strict=True):
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, atol=1e-6, rtol=1e-6)


def test_every_method_is_shown_or_refused():
    shown = {name for options in in_processes.METHODS for name in options}
    for name, section in qmtl.TrainingSettings.method_sections().items():
        if name in shown:
            assert section.one_process is None
        else:
            with pytest.raises(ValueError, match=f"{name} needs devices = 1, got 2: "):
                qmtl.TrainingSettings(**{name: True, "devices": 2})
