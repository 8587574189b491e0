"""Training for comparisons: a head, separate single-task models, or a linear probe."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch

from qmtl.circuit import rebuilt
from qmtl.data import MultiTaskData
from qmtl.encoders import EncoderInputs
from qmtl.experiments._build import build_circuit, build_model, with_noise
from qmtl.experiments._recipe import SINGLE_TASK, Recipe, RivalType
from qmtl.heads import Head, LinearHead, build_head
from qmtl.model import MultiTaskModel
from qmtl.tasks import Task
from qmtl.training import Result, StepTimes, TrainingSettings, baseline_metrics, check_fit, fit

PENALTIES = (1.0, 10.0, 100.0, 1000.0)
MAX_ITERATIONS = 200
Array = np.ndarray[Any, np.dtype[Any]]
Metrics = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Trained:
    """The result of training a head, or all single-task models together.

    Metrics and baselines (of the best constant prediction) are by split, task and name. Only
    trained parameters are counted. `best_epoch` is the kept epoch, counted from 1. `step_seconds`
    is the median over steps. For single-task models on mixed batches it is the sum over tasks,
    because each model takes a step for rows that another head processes in one step.
    """

    metrics: Metrics
    baselines: Metrics
    head_parameters: int
    total_parameters: int
    best_epoch: float
    seconds: float
    step_seconds: float


def train_rival(recipe: Recipe, data: MultiTaskData, head: RivalType) -> Trained:
    """Train a head of this type on the recipe's encoder, data and settings.

    ``single-task`` trains an encoder and a head for each task alone, on the rows with a label of
    the task, and keeps each at its best epoch.
    """
    trained = [_train(*own) for own in _parts(recipe, data, head)]
    if head != SINGLE_TASK:
        return trained[0]
    steps = [own.step_seconds for own in trained]
    return Trained(
        _joined([own.metrics for own in trained]),
        _joined([own.baselines for own in trained]),
        sum(own.head_parameters for own in trained),
        sum(own.total_parameters for own in trained),
        fmean(own.best_epoch for own in trained),
        sum(own.seconds for own in trained),
        fmean(steps) if data.is_disjoint else sum(steps),
    )


def check_rival(recipe: Recipe, data: MultiTaskData, head: RivalType) -> None:
    """Raise, without training, the errors of `train_rival` for this recipe and head."""
    for model, own, settings in _parts(recipe, data, head):
        check_fit(model, own, settings)
        # A circuit that is too large to simulate raises an error on its first run.
        model.predict(own.train.inputs[:1])


Part = tuple[MultiTaskModel, MultiTaskData, TrainingSettings]


def _parts(recipe: Recipe, data: MultiTaskData, head: RivalType) -> Iterator[Part]:
    """Yield the models to train one after another, each with its data and settings."""
    if head != SINGLE_TASK:
        yield build_model(recipe, data, head), data, recipe.training
        return
    # With a single loss there is nothing to combine.
    alone = dict.fromkeys(("scalarizer", "aggregator", "tasks_per_step"))
    settings = recipe.training.model_copy(update={**alone, "options": {}})
    whole = build_circuit(recipe, data.tasks)
    for task in data.tasks:
        circuit = rebuilt(whole, tasks=[task])
        options = with_noise(recipe.head, recipe.training, circuit)
        own = data.subset([task.name])
        built: Head
        if recipe.head.single_task == "quantum":
            built = build_head("quantum", circuit, options)
        else:
            # As many features as the other heads share.
            built = LinearHead([task], whole.n_features, seed=options.seed)
        columns = built.task_columns()
        given = EncoderInputs(own.train.inputs, built.n_features, own.modalities, columns)
        encoder = recipe.encoder.of_task(task.name).build(given)
        yield MultiTaskModel(encoder, built), own, settings


def _train(model: MultiTaskModel, data: MultiTaskData, settings: TrainingSettings) -> Trained:
    times = StepTimes()
    result: Result = fit(model, data, settings, progress=False, callbacks=[times])
    return Trained(
        result.metrics,
        result.baselines,
        sum(p.numel() for p in model.head.parameters() if p.requires_grad),
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        result.best_epoch,
        result.seconds,
        times.median,
    )


def _joined(metrics: Sequence[Metrics]) -> Metrics:
    return {
        split: {task: values for own in metrics for task, values in own[split].items()}
        for split in metrics[0]
    }


def linear_probe(data: MultiTaskData) -> Trained:
    """Fit logistic or ridge regression to the standardised inputs, one model for each task.

    Inputs are flattened. The strength of the L2 penalty is chosen among four, by the task's main
    metric on the validation split. If a column has training labels of a single class, the probe
    predicts this class. The result has no metrics on the train split, no epoch and no step time.

    Example:
        >>> from qmtl.data import digits
        >>> scores = linear_probe(digits(tasks=["parity"])).metrics
        >>> scores["test"]["parity"]["accuracy"] > 0.85
        True
    """
    import sklearn.linear_model  # noqa: F401  (threadpool_limits affects loaded libraries only)
    from threadpoolctl import threadpool_limits

    started = time.perf_counter()
    found: Metrics = {"validation": {}, "test": {}}
    # In small fits, the threads of several libraries would wait for each other.
    with threadpool_limits(1):
        for task in data.tasks:
            for split, metrics in _probe_task(data, task).items():
                found[split][task.name] = metrics
    seconds = time.perf_counter() - started
    inputs = math.prod(data.train.inputs.shape[1:])
    count = sum(task.n_outputs * (inputs + 1) for task in data.tasks)
    baselines = {"test": baseline_metrics(data, data.test)}
    return Trained(found, baselines, count, count, math.nan, seconds, math.nan)


def _probe_task(data: MultiTaskData, task: Task) -> dict[str, dict[str, float]]:
    """Return the metrics on validation and test of the task's best model."""
    inputs, targets, weights = {}, {}, {}
    for name, split in data.splits.items():
        rows = task.labelled(split.targets[task.name])
        inputs[name] = split.inputs[rows].flatten(1).numpy()
        targets[name] = split.targets[task.name][rows]
        weights[name] = None if split.sample_weight is None else split.sample_weight[rows]
    train = None if weights["train"] is None else weights["train"].numpy()
    mean = np.average(inputs["train"], 0, train)
    deviation = np.sqrt(np.average((inputs["train"] - mean) ** 2, 0, train))
    # A column that is constant in training has no information and becomes zero.
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0).astype(np.float32)
    inputs = {name: (values - mean) * scale for name, values in inputs.items()}
    columns = targets["train"].reshape(len(targets["train"]), -1).numpy().T
    row_weights = np.ones(len(targets["train"])) if train is None else train
    best: dict[str, dict[str, float]] = {}
    highest = math.nan
    for penalty in PENALTIES:
        models = [_fit(task, inputs["train"], one, penalty, row_weights) for one in columns]
        scores = {}
        for name in ("validation", "test"):
            predictions = torch.from_numpy(_predict(task, models, inputs[name]))
            scores[name] = task.evaluate(predictions, targets[name], weights[name])
        own = scores["validation"][task.main_metric]
        # Any number is better than NaN.
        if math.isnan(highest) or own > highest:
            best, highest = scores, own
    return best


def _fit(task: Task, inputs: Array, column: Array, penalty: float, weights: Array) -> Any:
    """Fit a scikit-learn model to one column of the targets."""
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression, Ridge

    present = ~np.isnan(column)
    kept, labels, own = inputs[present], column[present], weights[present]
    if task.kind == "regression":
        return Ridge(alpha=penalty).fit(kept, labels, sample_weight=own)
    if not len(labels):
        return DummyClassifier(strategy="prior").fit(np.zeros((2, 1)), [0, 1])
    labels = labels.astype(np.int64)
    if len(np.unique(labels)) == 1:
        return DummyClassifier(strategy="prior").fit(kept, labels)
    # scikit-learn sums the loss over rows: C is the inverse of the penalty on that sum.
    model = LogisticRegression(C=1 / penalty, max_iter=MAX_ITERATIONS, tol=1e-3)
    return model.fit(kept, labels, sample_weight=own)


def _predict(task: Task, models: list[Any], inputs: Array) -> Array:
    """Return predictions in the form of `Task.activation`."""
    if task.kind == "regression":
        columns = [model.predict(inputs) for model in models]
    elif task.kind == "multiclass":
        columns = [_probability(models[0], inputs, c) for c in range(task.n_outputs)]
    else:
        columns = [_probability(model, inputs, 1) for model in models]
    flat = task.n_outputs == 1 and task.kind in ("binary", "regression")
    return columns[0] if flat else np.stack(columns, axis=1)


def _probability(model: Any, inputs: Array, label: int) -> Array:
    """Return the probability of a label; zero if the label did not occur in training."""
    known = list(model.classes_)
    if label not in known:
        return np.zeros(len(inputs))
    return np.asarray(model.predict_proba(inputs))[:, known.index(label)]
