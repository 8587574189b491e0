"""Heads for tests of hardware runs, and how far measured values may be from expected ones."""

import numpy as np
import torch

from qmtl.circuit import AngleEncoding, HeadCircuit, RotationAnsatz
from qmtl.heads import QuantumHead
from qmtl.tasks import Task


def small_head(layout="partitioned", seed=0):
    tasks = [Task.binary("my task"), Task.multiclass("b", 3)]
    return QuantumHead(
        HeadCircuit(tasks, layout=layout), seed=seed, initial="normal", angle_map="tanh"
    )


def binary_head(n_tasks, entangler="cz_ring"):
    tasks = [Task.binary(f"t{i}") for i in range(n_tasks)]
    encoding, ansatz = AngleEncoding(entangler=entangler), RotationAnsatz(entangler=entangler)
    return QuantumHead(
        HeadCircuit(tasks, encoding, ansatz), seed=0, initial="normal", angle_map="tanh"
    )


def features(head, n=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, head.n_features, generator=generator)


def deviations(measured, expected, errors):
    """In standard errors, of all tasks."""
    parts = [(measured[t] - expected[t]) / errors[t] for t in measured]
    return np.concatenate([part.ravel() for part in parts])
