"""Data of tasks in two known groups, and models for it."""

import numpy as np
import torch

import qmtl
from tests.training.samples import SIMULATOR

GROUPS = [["t0", "t2", "t4"], ["t1", "t3", "t5"]]


def planted(seed: int = 0, n: int = 2000, overlap: float = 1.0) -> qmtl.data.MultiTaskData:
    """Six binary tasks; the even ones follow one direction of the inputs, the odd ones another.

    Args:
        seed: of inputs, directions and labels.
        n: rows.
        overlap: share of the rows with a label of any task that have labels of two given ones;
            every task keeps the rows before its first missing one, so that pairs differ little.
    """
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, 8)).astype("float32")
    directions, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    targets = {}
    # Each row is dropped from a task with probability 1 - p; of the pairs p² / (1 - (1 - p)²).
    share = 2 * overlap / (1 + overlap)
    for number in range(6):
        own = directions[:, number % 2] + 0.2 * rng.normal(size=8) / np.sqrt(8)
        values = (inputs @ own + 0.5 * rng.normal(size=n) > 0).astype(float)
        targets[f"t{number}"] = np.where(rng.random(n) < share, values, np.nan)
    tasks = [qmtl.Task.binary(name) for name in targets]
    return qmtl.data.from_arrays(inputs, targets, tasks=tasks, seed=0)


def model_for(
    data: qmtl.data.MultiTaskData,
    head: str = "quantum",
    hidden: int = 16,
    dtype: torch.dtype = torch.float32,
) -> qmtl.MultiTaskModel:
    circuit = qmtl.HeadCircuit(data.tasks)
    options = qmtl.heads.HeadOptions(simulator=SIMULATOR, seed=0)
    built = qmtl.heads.build_head(head, circuit, options)
    encoder = qmtl.encoders.MLP(data.n_inputs, hidden, out_features=built.n_features, seed=0)
    return qmtl.MultiTaskModel(encoder, built).to(dtype)


def trained_briefly(data: qmtl.data.MultiTaskData, head: str = "quantum") -> qmtl.MultiTaskModel:
    """A model after one epoch, when gradients say what tasks want."""
    model = model_for(data, head)
    options = {
        "learning_rate": 0.003,
        "restore_best": False,
        "progress": False,
        "seed": 0,
        "batch_size": 128,
    }
    qmtl.fit(model, data, max_epochs=1, **options)
    return model
