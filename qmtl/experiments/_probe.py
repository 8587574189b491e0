"""The linear probe: what a linear model finds in the encoder's inputs, task by task."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qmtl.data import MultiTaskData
from qmtl.tasks import Task

__all__ = ["linear_probe"]

PENALTIES = (1.0, 10.0, 100.0, 1000.0)
MAX_ITERATIONS = 200
Array = np.ndarray[Any, np.dtype[Any]]
Metrics = dict[str, dict[str, float]]


def linear_probe(data: MultiTaskData) -> dict[str, Metrics]:
    """Logistic or ridge regression on the standardised inputs, one for each task.

    The strength of the L2 penalty is one of four, chosen by the task's main metric on the
    validation split.

    Args:
        data: inputs of several dimensions are flattened.

    Returns:
        Split → task → metric → value, for validation and test. Columns with training labels of
        one class only are predicted as that class.

    Example:
        >>> from qmtl.data import digits
        >>> scores = linear_probe(digits(tasks=["parity"]))
        >>> scores["test"]["parity"]["accuracy"] > 0.85
        True
    """
    result: dict[str, Metrics] = {"validation": {}, "test": {}}
    for task in data.tasks:
        for split, metrics in _probe_task(data, task).items():
            result[split][task.name] = metrics
    return result


def _probe_task(data: MultiTaskData, task: Task) -> dict[str, dict[str, float]]:
    rows = {name: task.labelled(split.targets[task.name]) for name, split in data.splits.items()}
    inputs = {n: s.inputs[rows[n]].flatten(1).numpy() for n, s in data.splits.items()}
    targets = {n: s.targets[task.name][rows[n]] for n, s in data.splits.items()}
    mean, deviation = inputs["train"].mean(0), inputs["train"].std(0)
    # A column that is constant in training says nothing; divided by zero it would say everything.
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0).astype(np.float32)
    inputs = {name: (values - mean) * scale for name, values in inputs.items()}
    best: dict[str, dict[str, float]] | None = None
    for penalty in PENALTIES:
        columns = _fit(task, inputs["train"], targets["train"], penalty)
        scores = {}
        for split in ("validation", "test"):
            predictions = torch.from_numpy(_predict(task, columns, inputs[split]))
            scores[split] = task.evaluate(predictions, targets[split])
        main = task.main_metric
        # Written so that a first value that is NaN is replaced by any number.
        if best is None or not scores["validation"][main] <= best["validation"][main]:
            best = scores
    assert best is not None
    return best


def _fit(task: Task, inputs: Array, targets: Tensor, penalty: float) -> list[Any]:
    """One fitted model of scikit-learn per column of the targets."""
    columns = targets.reshape(len(targets), -1).numpy().T
    return [_fit_column(task, inputs, column, penalty) for column in columns]


def _fit_column(task: Task, inputs: Array, column: Array, penalty: float) -> Any:
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression, Ridge

    present = ~np.isnan(column)
    kept, labels = inputs[present], column[present]
    if task.kind == "regression":
        return Ridge(alpha=penalty).fit(kept, labels)
    labels = labels.astype(np.int64)
    if not len(labels):
        return DummyClassifier(strategy="prior").fit(np.zeros((2, 1)), [0, 1])
    if len(np.unique(labels)) == 1:
        return DummyClassifier(strategy="prior").fit(kept, labels)
    # scikit-learn sums the loss over rows: C is the inverse of the penalty on that sum.
    return LogisticRegression(C=1 / penalty, max_iter=MAX_ITERATIONS, tol=1e-3).fit(kept, labels)


def _predict(task: Task, models: list[Any], inputs: Array) -> Array:
    """Predictions as `Task.activation` returns them."""
    if task.kind == "regression":
        columns = [model.predict(inputs) for model in models]
    elif task.kind == "multiclass":
        (model,) = models
        columns = [_probability(model, inputs, c) for c in range(task.n_outputs)]
    else:
        columns = [_probability(model, inputs, 1) for model in models]
    predictions = np.stack(columns, axis=1)
    flat = task.n_outputs == 1 and task.kind in ("binary", "regression")
    return predictions[:, 0] if flat else predictions


def _probability(model: Any, inputs: Array, label: int) -> Array:
    """Of a label that may not be among the labels of training."""
    known = list(model.classes_)
    if label not in known:
        return np.zeros(len(inputs))
    return np.asarray(model.predict_proba(inputs))[:, known.index(label)]
