"""What one of two processes trains: by every method that takes them, and for the best epoch."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import qmtl
from tests.encoders.test_calibration import KINDS, data_and_model
from tests.training.samples import QUIET, tiny_data, tiny_model, with_missing

METHODS: list[dict[str, Any]] = [
    {"scalarizer": "mean"},
    {"agreement": 0.5},
    {"flatness": 0.1},
    {"flatness": 0.1, "aggregator": "upgrad"},
    {"isolation": True},
    {"isolation": True, "aggregator": "upgrad"},
    {"loss": "unified"},
    {"scalarizer": "igb"},
]


def trained(devices: int) -> list[dict[str, torch.Tensor]]:
    """The states of models after two epochs in so many processes."""
    data = with_missing(0.3)
    runs = [(data, tiny_model(data).double(), options) for options in METHODS]
    runs += [(*data_and_model(kind, True), {}) for kind in KINDS]
    runs += [(tiny_data(), with_experts(), {})]
    for rows, model, options in runs:
        given = {"max_epochs": 2, "accelerator": "cpu", "devices": devices}
        qmtl.fit(model, rows, **given, **options, **QUIET)
    return [model.double().state_dict() for _, model, _ in runs]


def with_experts() -> qmtl.MultiTaskModel:
    """A model whose tasks mix experts, and a parameter that no decay moves, since it is unused."""
    head = qmtl.QuantumHead(qmtl.HeadCircuit(tiny_data().tasks), seed=0)
    encoder = qmtl.encoders.Experts(3, head.task_columns(), 4, gate="dselect", seed=0)
    encoder.unused = nn.Parameter(torch.ones(2))
    return qmtl.MultiTaskModel(encoder, head).double()


def best_epoch() -> str:
    """What this process says of a training of which one epoch is the best.

    It has no folder for checkpoints, and batch normalisation sees the rows that are left over.
    """
    data = tiny_data(58)
    circuit = qmtl.HeadCircuit(data.tasks)
    layers = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, circuit.n_features)
    model = qmtl.MultiTaskModel(nn.Sequential(*layers), qmtl.QuantumHead(circuit, seed=0))
    options = {"devices": 2, "accelerator": "cpu", "learning_rate": 1.0, "max_epochs": 4}
    return repr(qmtl.fit(model, data, **QUIET, **options))


def train_here(rank: int, port: int, folder: Path) -> None:
    """Be one of two processes, as `torchrun` tells a process that it is."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "tests"}
    sys.argv = [__file__]  # a worker of pytest has no file
    torch.set_num_threads(1)
    found = {"states": trained(2), "best epoch": best_epoch()}
    torch.save(found, folder / f"{rank}.pt")
    # Without Python's own end: a thread of Gloo that asks for the interpreter lock then aborts.
    os._exit(0)
