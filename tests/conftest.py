"""Settings that hold for every test: reproducible examples, one thread, plain precision."""

import functools
import gc
import importlib.metadata
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import typer.main
from hypothesis import HealthCheck, settings
from matplotlib.layout_engine import ConstrainedLayoutEngine

settings.register_profile(
    "qmtl",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.too_slow],
)
# New examples in every run, for changes of simulators: pytest --hypothesis-profile=thorough
settings.register_profile(
    "thorough", settings.get_profile("qmtl"), derandomize=False, max_examples=200
)
settings.load_profile("qmtl")
torch.set_num_threads(1)
# To compile all tests takes ten seconds; processes that they start find the package compiled.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# A write that has to survive a power failure, as of checkpoints and ledgers, takes 10 ms on a disk.
MEMORY = "/dev/shm"
if os.path.isdir(MEMORY) and shutil.disk_usage(MEMORY).free > 2**32:
    tempfile.tempdir = os.environ["TMPDIR"] = MEMORY
if not torch.accelerator.is_available():
    # Torch's own seed leaves a stack for every kind of device, which takes a millisecond.
    torch.manual_seed = lambda seed: torch.default_generator.manual_seed(int(seed))
# Torch, JAX, PennyLane and Qiskit are a million objects, and to look through all of them takes a
# second: do so rarely, and not while they are imported.
gc.set_threshold(30_000, 20, 50)
gc.disable()
# Each command line of a test would make all commands anew.
typer.main.get_command = functools.cache(typer.main.get_command)
# Every trainer of Lightning asks all installed packages for plugins, and no test installs one.
importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)
# To place a plot's labels takes longer than to draw it. Tests of plots do so, by `figure_layout`.
LAYOUT = ConstrainedLayoutEngine.execute
ConstrainedLayoutEngine.execute = lambda engine, figure: None


def pytest_collection_finish():
    """Modules stay: the garbage collector need not look through them ever."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _same_seed():
    torch.manual_seed(0)


@pytest.fixture
def figure_layout(monkeypatch):
    """The layout of figures is computed, as everywhere outside the tests."""
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", LAYOUT)


@pytest.fixture(scope="session")
def data_folder():
    """Real data sets, which the repository does not hold: QMTL_DATA, or ../shared/data."""
    root = Path(__file__).parents[1]
    folder = (root / os.environ.get("QMTL_DATA", "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real data: set QMTL_DATA to their folder (there is no {folder})")
    return folder
