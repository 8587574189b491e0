"""A tiny data set with tasks of all kinds, models for it, and callbacks that look on."""

from typing import Any

import numpy as np
import torch
from pytorch_lightning.callbacks import Callback

import qmtl
from qmtl.tasks import task_layout

TASKS = [
    qmtl.Task.binary("a"),
    qmtl.Task.multiclass("b", 3),
    qmtl.Task.regression("c"),
    qmtl.Task.multilabel("d", 2),
]
# Models of equal circuits share it, so that it plans each circuit once.
SIMULATOR = qmtl.simulators.LightConeSimulator()
QUIET: dict[str, Any] = {"progress": False, "batch_size": 8}


def arrays(n: int = 24) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3)).astype("float32")
    targets = {
        "a": (X[:, 0] > 0).astype("float32"),
        "b": np.arange(n) % 3,
        "c": X[:, 1].copy(),
        "d": (X[:, :2] > 0).astype("float32"),
    }
    return X, targets


def tiny_data(n: int = 24) -> qmtl.data.MultiTaskData:
    X, targets = arrays(n)
    return qmtl.data.from_arrays(X, targets, tasks=TASKS)


def with_missing(share: float = 0.5, n: int = 60) -> qmtl.data.MultiTaskData:
    """Labels of random rows and tasks missing."""
    X, targets = arrays(n)
    rng = np.random.default_rng(1)
    for name, values in targets.items():
        values[rng.random(n) < share] = -100 if name == "b" else np.nan
    return qmtl.data.from_arrays(X, targets, tasks=TASKS)


def disjoint_data(sizes: dict[str, int]) -> qmtl.data.MultiTaskData:
    """Binary tasks, each with training rows of its own."""
    n = sum(sizes.values())
    X = np.random.default_rng(0).normal(size=(n + 8, 3)).astype("float32")
    targets, start = {}, 0
    for name, size in sizes.items():
        targets[name] = np.full(n + 8, np.nan)
        own = slice(start, start + size)
        targets[name][own] = X[own, 0] > 0
        targets[name][n:] = X[n:, 0] > 0
        start += size
    splits = {"train": range(n), "validation": range(n, n + 4), "test": range(n + 4, n + 8)}
    splits = {name: list(rows) for name, rows in splits.items()}
    tasks = [qmtl.Task.binary(name) for name in sizes]
    return qmtl.data.from_arrays(X, targets, tasks=tasks, splits=splits)


def tiny_model(data: qmtl.data.MultiTaskData, **encoder: Any) -> qmtl.MultiTaskModel:
    circuit = qmtl.HeadCircuit(data.tasks)
    mlp = qmtl.encoders.MLP(3, 5, out_features=circuit.n_features, seed=0, **encoder)
    return qmtl.MultiTaskModel(mlp, qmtl.QuantumHead(circuit, SIMULATOR, seed=0))


def same_state(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)


def present(batch: Any, tasks: Any = TASKS) -> list[bool]:
    """Which tasks have a label in a batch."""
    found: list[bool] = task_layout(tuple(tasks)).labelled(batch.targets).any(dim=0).tolist()
    return found


def rows_of_task(model: qmtl.MultiTaskModel, step: dict[str, Any], task: str) -> Any:
    """What a `Spy` saw before and after a step of each parameter's rows of one task.

    The state of an optimiser may be one number for all rows, or have one for each task.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    for rows in model.task_rows():
        if not rows.parameter.requires_grad:
            continue
        own = rows.row_of == rows.names.index(task)
        place = rows.names.index(task)
        yield tuple(
            [
                v if v.ndim == 0 else v[own] if len(v) == len(own) else v[place]
                for v in step[when][names[id(rows.parameter)]]
            ]
            for when in ("before", "after")
        )


class InterruptionError(Exception):
    """Stands for a process that is killed."""


class InterruptAt(Callback):
    """Raises in the second step of an epoch."""

    def __init__(self, epoch: int, error: type[BaseException] = InterruptionError) -> None:
        self.epoch, self.error = epoch, error

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == self.epoch and batch_idx == 1:
            raise self.error


class Spy(Callback):
    """Keeps for every step: the batch, weights and optimiser state before and after, gradients."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.rates: list[list[float]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.steps.append({"batch": batch, "before": self._look(trainer, pl_module)})

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.module = pl_module
        model = pl_module.model
        self.steps[-1]["after"] = self._look(trainer, pl_module)
        self.steps[-1]["gradients"] = {
            name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
        }

    def on_train_epoch_start(self, trainer, pl_module):
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def _look(self, trainer, pl_module):
        state = trainer.optimizers[0].state
        return {
            name: [p.detach().clone()]
            + [torch.as_tensor(v).clone() for _, v in sorted(state.get(p, {}).items())]
            for name, p in pl_module.model.named_parameters()
        }
