"""Every head type of the comparison on mixed tasks, and features for it."""

import torch

from qmtl.circuit import HeadCircuit
from qmtl.heads import HeadOptions, build_head
from qmtl.tasks import Task

KINDS = [
    Task.binary,
    lambda name: Task.multiclass(name, 5),
    lambda name: Task.regression(name, 2),
    lambda name: Task.multilabel(name, 3),
]
OPTIONS = HeadOptions(width=4, seed=0)


def mixed_tasks(n):
    return [KINDS[i % 4](f"t{i}") for i in range(n)]


def make(kind, circuit, seed=0):
    """A head of that type."""
    return build_head(kind, circuit, HeadOptions(width=4, seed=seed))


def rival(kind, n_tasks=4, seed=0):
    return make(kind, HeadCircuit(mixed_tasks(n_tasks)), seed)


def features_for(head, batch=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, head.n_features, generator=generator).to(dtype)
