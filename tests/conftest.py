"""Settings that hold for every test: reproducible examples, one thread, plain precision."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "qmtl",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("qmtl")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_folder():
    """Real data sets, which the repository does not hold: QMTL_DATA, or ../shared/data."""
    root = Path(__file__).parents[1]
    folder = (root / os.environ.get("QMTL_DATA", "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real data: set QMTL_DATA to their folder (there is no {folder})")
    return folder
