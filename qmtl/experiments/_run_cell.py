"""Running one cell: data, model, training and scores."""

import math
import os
import platform
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from importlib import metadata
from typing import Any, cast

import numpy as np
import torch

from qmtl.data import MultiTaskData
from qmtl.experiments._build import build_data
from qmtl.experiments._cells import CellResult, CellStore, Failure
from qmtl.experiments._grid import PROBE, Cell
from qmtl.experiments._probe import linear_probe
from qmtl.experiments._recipe import Recipe, RivalType, recipe_from
from qmtl.experiments._rivals import train_rival
from qmtl.tasks import METRICS, metric_names
from qmtl.training import baseline_metrics

__all__ = ["cell_data", "run_cell"]

PACKAGES = ("qmtl", "torch", "torchjd", "pytorch-lightning", "scikit-learn", "numpy")
Metrics = dict[str, dict[str, float]]


def run_cell(cell: Cell, store: CellStore, threads: int) -> CellResult | Failure:
    """Run a cell and keep its result; an error becomes a `Failure`, so that other cells go on.

    Args:
        cell: what to run.
        store: where to keep the result.
        threads: of torch and of the simulator.
    """
    torch.set_num_threads(threads)
    head = {"key": cell.key, "head": cell.head, "seed": cell.seed, "setting": cell.setting}
    record: CellResult | Failure
    try:
        found = _probe(cell) if cell.head == PROBE else _train(cell)
        record = CellResult(**head, **found, environment=_environment())
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        record = Failure(**head, error=reason, traceback=traceback.format_exc())
    store.write(cell, record)
    return record


def cell_data(recipe: Recipe, seed: int) -> MultiTaskData:
    """A recipe's data as a cell sees it.

    Tasks that predict probabilities also get the calibration error (``ece``) as their last
    metric, and the tasks are shuffled by the seed, if the recipe says so.

    Example:
        >>> from qmtl.experiments import read_recipe
        >>> recipe = read_recipe("digits")
        >>> [task.name for task in cell_data(recipe, 1).tasks]
        ['ink', 'digit', 'parity', 'five_or_more', 'has_loop']
        >>> cell_data(recipe, 0).task("parity").metric_names
        ('accuracy', 'f1', 'auroc', 'ece')
    """
    content = {"data": recipe.data, "encoder": recipe.encoder}
    dumped = {key: section.model_dump(mode="json") for key, section in content.items()}
    data = _load(recipe_from(dumped).model_dump_json())
    if not recipe.bench.shuffle_tasks:
        return data
    names = [task.name for task in data.tasks]
    return data.subset([names[i] for i in np.random.default_rng(seed).permutation(len(names))])


# The cells of one seed follow each other and share their data.
@lru_cache(maxsize=1)
def _load(recipe: str) -> MultiTaskData:
    data = build_data(Recipe.model_validate_json(recipe))
    tasks = []
    for task in data.tasks:
        names = metric_names(task)
        calibrated = "ece" in METRICS[task.kind] and "ece" not in names
        tasks.append(replace(task, metric_names=(*names, "ece")) if calibrated else task)
    return replace(data, tasks=tuple(tasks))


def _train(cell: Cell) -> dict[str, Any]:
    data = cell_data(cell.recipe, cell.seed)
    trained = train_rival(cell.recipe, data, cast(RivalType, cell.head))
    return {
        "validation": _without_loss(trained.metrics["validation"]),
        "test": _without_loss(trained.metrics["test"]),
        "baseline": trained.baselines["test"],
        "head_parameters": trained.head_parameters,
        "total_parameters": trained.total_parameters,
        "best_epoch": trained.best_epoch,
        "seconds": trained.seconds,
        "step_seconds": trained.step_seconds,
    } | _facts(data)


def _probe(cell: Cell) -> dict[str, Any]:
    data = cell_data(cell.recipe, cell.seed)
    started = time.perf_counter()
    scores = linear_probe(data)
    inputs = math.prod(data.train.inputs.shape[1:])
    count = sum(task.n_outputs * (inputs + 1) for task in data.tasks)
    return {
        **scores,
        "baseline": baseline_metrics(data, data.test),
        "head_parameters": count,
        "total_parameters": count,
        "best_epoch": math.nan,
        "seconds": time.perf_counter() - started,
        "step_seconds": math.nan,
    } | _facts(data)


def _facts(data: MultiTaskData) -> dict[str, Any]:
    labelled = {t.name: t.labelled(data.train.targets[t.name]) for t in data.tasks}
    return {
        "main_metrics": {task.name: task.main_metric for task in data.tasks},
        "rows": {name: int(rows.sum()) for name, rows in labelled.items()},
    }


def _without_loss(metrics: Metrics) -> Metrics:
    return {
        task: {name: value for name, value in values.items() if name != "loss"}
        for task, values in metrics.items()
    }


def _environment(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    return {
        "packages": {name: metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
