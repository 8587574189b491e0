"""Losses and metrics of a model, and of constant predictions, on a split."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from qmtl.data import MultiTaskData, Split
from qmtl.model import MultiTaskModel
from qmtl.tasks.scores import evaluate_all
from qmtl.tasks.stacked import stacked_loss_terms
from qmtl.training.batches import to_device

__all__ = ["baseline_metrics", "evaluate", "score"]

Metrics = dict[str, dict[str, float]]


def score(
    model: MultiTaskModel, logits: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> Metrics:
    """Loss and metrics of every task, from logits of whole splits.

    A task without labels has the loss NaN.
    """
    tasks = [task for task in model.tasks if task.name in logits]
    terms = stacked_loss_terms(tasks, logits, model.standardise_all(targets)).tolist()
    metrics = evaluate_all(tasks, model.predictions(logits), targets)
    return {
        task.name: {"loss": total / count if count else math.nan, **metrics[task.name]}
        for task, (total, count) in zip(tasks, terms, strict=True)
    }


@torch.no_grad()
def evaluate(model: MultiTaskModel, split: Split, *, batch_size: int = 256) -> Metrics:
    """Loss and metrics of every task on a split, in evaluation mode.

    Example:
        >>> import qmtl
        >>> data = qmtl.data.digits(tasks=["parity"])
        >>> circuit = qmtl.HeadCircuit(data.tasks)
        >>> encoder = qmtl.encoders.MLP(64, out_features=circuit.n_features, seed=0)
        >>> model = MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
        >>> list(evaluate(model, data.test)["parity"])
        ['loss', 'accuracy', 'f1', 'auroc']
    """
    was_training = model.training
    model.eval()
    reference = next(model.parameters())
    try:
        parts = [model(chunk.to(reference)) for chunk in split.inputs.split(batch_size)]
    finally:
        model.train(was_training)
    logits = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    targets = to_device(split.targets, reference.device)
    return score(model, logits, targets)


def baseline_metrics(data: MultiTaskData, split: Split) -> Metrics:
    """Metrics of the best constant prediction: class frequencies, or the mean, of training.

    Example:
        >>> import qmtl
        >>> data = qmtl.data.digits()
        >>> round(baseline_metrics(data, data.test)["digit"]["accuracy"], 1)
        0.1
    """
    rows = {}
    for task in data.tasks:
        prediction = task.baseline(data.train.targets[task.name])
        rows[task.name] = prediction.expand(len(split), *prediction.shape)
    return evaluate_all(data.tasks, rows, split.targets)
