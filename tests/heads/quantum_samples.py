"""A circuit with one task of each kind, and features for it."""

import torch

from qmtl.circuit import HeadCircuit
from qmtl.tasks import Task

TASKS = [
    Task.binary("cola"),
    Task.multiclass("emotion", 3),
    Task.regression("stsb"),
    Task.multilabel("finding", 2),
]
CIRCUIT = HeadCircuit(TASKS)


def features(circuit=CIRCUIT, batch=5, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, circuit.n_features, generator=generator).to(dtype)


def assert_equal(left, right):
    assert list(left) == list(right)
    for name in left:
        assert torch.equal(left[name], right[name]), name
