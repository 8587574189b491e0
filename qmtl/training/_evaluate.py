"""Losses and metrics of a model, and of constant predictions, on a split."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from qmtl.data import MultiTaskData, Split
from qmtl.methods import Attack, attacked_split, evaluating
from qmtl.model import MultiTaskModel
from qmtl.tasks import evaluate_all, evaluate_joined, task_layout

__all__ = ["baseline_metrics", "evaluate", "joined_scores", "score", "to_device"]

Metrics = dict[str, dict[str, float]]


def to_device(targets: Tensor, device: torch.device) -> Tensor:
    """Targets on a device; in float32 on MPS, which has no float64."""
    return targets.to(device, torch.float32 if device.type == "mps" else targets.dtype)


def joined_scores(
    model: MultiTaskModel,
    logits: Tensor,
    targets: Tensor,
    tasks: Sequence[str] | None = None,
    sample_weight: Tensor | None = None,
) -> Metrics:
    """Loss and metrics of these tasks, from joined logits and targets of a whole split.

    The loss of a task without labels is NaN.
    """
    by_name = {task.name: task for task in model.tasks}
    layout = task_layout(tuple(by_name[name] for name in tasks or by_name))
    if sample_weight is not None:  # the losses' type may not hold the weights' absolute values
        sample_weight = sample_weight / sample_weight.max()
    mean, std = model.target_scale(tasks)
    terms = layout.loss_terms(logits, (targets - mean) / std, sample_weight=sample_weight)
    sums, counts = (part.tolist() for part in terms)
    column = layout.column_of_output.to(logits.device)
    predictions = layout.activation(logits) * std[column] + mean[column]
    scores = evaluate_joined(layout, predictions, targets, sample_weight)
    return {
        task.name: {"loss": total / count if count else math.nan, **scores[task.name]}
        for task, total, count in zip(layout.tasks, sums, counts, strict=True)
    }


def score(
    model: MultiTaskModel,
    logits: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    sample_weight: Tensor | None = None,
) -> Metrics:
    """`joined_scores` from each task's logits and canonical targets.

    Raises:
        InvalidInputError: if a label or a shape does not fit; the error names the task.
    """
    tasks = [task for task in model.tasks if task.name in logits]
    scores = evaluate_all(tasks, model.predictions(logits), targets, sample_weight)
    if sample_weight is not None:
        sample_weight = sample_weight / sample_weight.max()
    for task in tasks:
        wanted = model.standardise(task, targets[task.name])
        total, count = task.loss_terms(logits[task.name], wanted, sample_weight)
        scores[task.name] = {"loss": float(total / count), **scores[task.name]}
    return scores


@torch.no_grad()
def evaluate(
    model: MultiTaskModel, split: Split, *, batch_size: int = 256, attack: Attack | None = None
) -> Metrics:
    """Loss and metrics of every task that the split has targets for, in evaluation mode.

    Args:
        model: the model to evaluate.
        split: rows with targets of some of its tasks.
        batch_size: number of rows at once.
        attack: an attack that changes the inputs first, for robust metrics; see
            `qmtl.methods.attacked_split` for errors.

    Example:
        >>> import qmtl
        >>> data = qmtl.data.digits(tasks=["parity"])
        >>> circuit = qmtl.HeadCircuit(data.tasks)
        >>> encoder = qmtl.encoders.MLP(64, out_features=circuit.n_features, seed=0)
        >>> model = MultiTaskModel(encoder, qmtl.QuantumHead(circuit, seed=0))
        >>> list(evaluate(model, data.test)["parity"])
        ['loss', 'accuracy', 'f1', 'auroc']
        >>> robust = evaluate(model, data.test, attack=qmtl.methods.Attack(epsilon=0.1))["parity"]
        >>> robust["loss"] > evaluate(model, data.test)["parity"]["loss"]
        True
    """
    if attack is not None:
        split = attacked_split(model, split, attack, batch_size=batch_size)
    reference = next(model.parameters())
    tasks = tuple(task for task in model.tasks if task.name in split.targets)
    names = None if len(tasks) == len(model.tasks) else [task.name for task in tasks]
    with evaluating(model):
        parts = [
            model(chunk.to(reference), names, joined=True)
            for chunk in split.inputs.split(batch_size)
        ]
    targets = task_layout(tasks).join_targets(split.targets)
    weights = split.sample_weight
    weights = None if weights is None else to_device(weights, reference.device)
    targets = to_device(targets, reference.device)
    return joined_scores(model, torch.cat(parts), targets, names, weights)


def baseline_metrics(data: MultiTaskData, split: Split) -> Metrics:
    """Metrics of the best constant prediction: class frequencies or mean of the training labels.

    Example:
        >>> import qmtl
        >>> data = qmtl.data.digits()
        >>> round(baseline_metrics(data, data.test)["digit"]["accuracy"], 1)
        0.1
    """
    rows = {}
    for task in data.tasks:
        labels = data.train.targets[task.name]
        prediction = task.baseline(labels, data.train.sample_weight)
        rows[task.name] = prediction.expand(len(split), *prediction.shape)
    return evaluate_all(data.tasks, rows, split.targets, split.sample_weight)
