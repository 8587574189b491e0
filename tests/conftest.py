"""Settings that hold for every test: reproducible examples, one thread, plain precision."""

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "qmtl",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("qmtl")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_seed():
    torch.manual_seed(0)
