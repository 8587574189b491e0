"""One task of each kind, with random labels and logits."""

import math

import numpy as np
import torch

from qmtl.tasks import Task

NAN = math.nan

BINARY = Task.binary("b")
MULTICLASS = Task.multiclass("m", 4)
MULTILABEL = Task.multilabel("l", 3)
REGRESSION = Task.regression("r")
SEVERAL = Task.regression("s", 2)
ALL = [BINARY, MULTICLASS, MULTILABEL, REGRESSION, SEVERAL]


def random_labels(task: Task, n: int, *, seed: int = 0, missing: float = 0.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    if task.kind == "multiclass":
        labels = rng.integers(0, task.n_outputs, n).astype(float)
    elif task.kind == "regression":
        labels = rng.normal(size=n if task.n_outputs == 1 else (n, task.n_outputs))
    else:
        labels = rng.integers(0, 2, n if task.kind == "binary" else (n, task.n_outputs))
        labels = labels.astype(float)
    labels[rng.random(labels.shape) < missing] = NAN
    return task.to_targets(labels)


def random_logits(task: Task, n: int, *, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, task.n_outputs, generator=generator, requires_grad=True)
