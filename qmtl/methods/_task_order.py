"""The order of tasks on the ring: related tasks side by side, so that they share light cones."""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations, pairwise, permutations
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from qmtl.data import MultiTaskData
from qmtl.errors import InvalidInputError, check_type
from qmtl.methods._gradients import check_tasks_of
from qmtl.model import MultiTaskModel
from qmtl.plotting import COLOURS, INK, axes_or_new, plain
from qmtl.tasks import Task, chosen_tasks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

EXACT = 8
"""Up to this many tasks, all orders are tried; for more, good orders are improved."""
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Penalties of the graphical lasso to try if that of the cross-validation has no solution."""


@dataclass(frozen=True)
class TaskGraph:
    """The graph of the partial correlations between the tasks' labels.

    Attributes:
        names: names of the tasks, in the order of the data.
        weights: symmetric matrix (tasks, tasks) in [0, 1], 0 without an edge and on the diagonal.
            A weight is the absolute partial correlation of two tasks' labels; for tasks with
            several columns, such as classes, the largest singular value of these correlations.
        alpha: the graphical lasso's penalty, chosen by cross-validation; NaN for a single task.
    """

    names: tuple[str, ...]
    weights: "DataFrame"
    alpha: float

    def length(self, order: Sequence[str]) -> float:
        """Return the sum of the weights between neighbours on the ring, in an order of all tasks.

        Raises:
            InvalidInputError: if the order does not contain all tasks once.
        """
        chosen = chosen_tasks(order, self.names)
        if len(chosen) < len(self.names):
            raise InvalidInputError(
                f"an order has all {len(self.names)} tasks, got {len(chosen)}: {list(chosen)}"
            )
        places = [self.names.index(name) for name in chosen]
        return _length(self.weights.to_numpy(), places)

    def order(self) -> list[str]:
        """Return the order with the largest sum of weights between neighbours on the ring.

        It begins with the first task; if no order is better, the order of the data is kept.
        """
        return [self.names[i] for i in _best_ring(self.weights.to_numpy())]

    def worst_order(self) -> list[str]:
        """Return the order with the smallest sum of weights between neighbours, for comparisons."""
        return [self.names[i] for i in _best_ring(-self.weights.to_numpy())]

    def plot(self, order: Sequence[str] | None = None, ax: "Axes | None" = None) -> "Axes":
        """Draw the tasks on the ring, with the graph's edges; wider edges have larger weights.

        The tasks are in their best `order` if none is given; without axes there is a new figure.
        """
        order = self.order() if order is None else list(order)
        total = self.length(order)
        ax = axes_or_new(ax)
        angles = np.pi / 2 - 2 * np.pi * np.arange(len(order)) / len(order)
        places = dict(zip(order, np.stack([np.cos(angles), np.sin(angles)], 1), strict=True))
        most = max(float(self.weights.to_numpy().max()), 1e-12)
        ring = [*order, order[0]]
        beside = {frozenset(pair) for pair in pairwise(ring)}
        ax.plot(
            *np.stack([places[name] for name in ring]).T, color="#bbbbbb", ls=":", lw=1, zorder=0
        )
        for pair in combinations(self.names, 2):
            weight = float(self.weights.loc[pair])
            if weight > 0:
                ends = np.stack([places[name] for name in pair]).T
                colour = COLOURS[0] if frozenset(pair) in beside else COLOURS[1]
                width = 0.4 + 4 * weight / most
                ax.plot(*ends, "-", color=colour, lw=width, alpha=0.75, zorder=1)
        for name, (x, y) in places.items():
            ax.plot(x, y, "o", color=COLOURS[7], ms=6, zorder=2)
            side = "left" if x > 0.2 else "right" if x < -0.2 else "center"
            height = "bottom" if y > 0.9 else "top" if y < -0.9 else "center"
            text = plain(name, 22)
            ax.text(1.09 * x, 1.09 * y, text, ha=side, va=height, fontsize=8, color=INK)
        ax.set(xlim=(-1.2, 1.2), ylim=(-1.3, 1.3), aspect="equal")
        ax.axis("off")
        ax.set_title(f"weight between neighbours (blue): {total:.2f}")
        return ax


def task_graph(data: MultiTaskData, model: MultiTaskModel | None = None) -> TaskGraph:
    """Estimate the graph of tasks by a graphical lasso on the training labels.

    Labels are standardised. A missing label counts as the mean, which shrinks a pair's correlation
    by the share of rows that lack one of the two labels: tasks without common rows have no edge. A
    task of several classes has a column for each class.

    Args:
        data: tasks and training rows.
        model: a model whose residuals replace the labels, to leave out what the inputs explain;
            None for the labels themselves.

    Raises:
        InvalidInputError: if the model has other tasks.

    Example:
        >>> from qmtl.data import digits
        >>> graph = task_graph(digits())
        >>> bool(graph.weights.loc["digit", "parity"] > graph.weights.loc["ink", "parity"])
        True

    References:
        Friedman, Hastie and Tibshirani, Biostatistics 9 (2008), for the graphical lasso; inspired
        by the transferred task graphs of arXiv:2411.15624.
    """
    import pandas as pd

    check_type("data", data, MultiTaskData)
    if model is not None:
        check_tasks_of(model, data)
    predictions = None if model is None else model.predict(data.train.inputs)
    columns, owners = [], []
    for number, task in enumerate(data.tasks):
        values = _columns(task, data.train.targets[task.name])
        if predictions is not None:
            values = values - predictions[task.name].cpu().double().view_as(values)
        columns.append(values)
        owners += [number] * values.shape[1]
    table, kept = _standardised(torch.cat(columns, 1).numpy())
    owner = np.array(owners)[kept]
    names = tuple(task.name for task in data.tasks)
    weights, alpha = np.zeros((len(names), len(names))), np.nan
    varying = np.unique(owner)
    if len(varying) > 1:
        partial, alpha = _partial_correlations(table)
        for i, j in permutations(varying, 2):
            block = partial[np.ix_(owner == i, owner == j)]
            weights[i, j] = np.linalg.norm(block, 2)
        weights = np.minimum((weights + weights.T) / 2, 1)
    return TaskGraph(names, pd.DataFrame(weights, index=names, columns=names), float(alpha))


def task_order(data: MultiTaskData, model: MultiTaskModel | None = None) -> list[str]:
    """Return the best order of the tasks by `task_graph`, for ``data.subset(task_order(data))``.

    A recipe uses it by ``circuit.task_order = "graph"``. The order matters only for partitioned
    circuits.

    Example:
        >>> from qmtl.data import digits
        >>> sorted(task_order(digits())) == sorted(task.name for task in digits().tasks)
        True
    """
    return task_graph(data, model).order()


def _columns(task: Task, targets: Tensor) -> Tensor:
    """Return labels as numbers, float64 (rows, columns), NaN where missing."""
    if task.kind != "multiclass":
        return targets.double().reshape(len(targets), -1)
    known = targets >= 0
    hot = torch.nn.functional.one_hot(targets.clamp(min=0), task.n_outputs).double()
    return hot.where(known[:, None], torch.nan)


def _standardised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns that vary, with mean 0 and deviation 1, and their indices."""
    known = np.ma.masked_invalid(values)
    centred = (known - known.mean(axis=0)).filled(0.0)
    width = np.sqrt((centred**2).mean(axis=0))
    kept = np.flatnonzero(width > 1e-12 * np.maximum(1, np.abs(np.nan_to_num(values)).max(axis=0)))
    return centred[:, kept] / width[kept], kept


def _partial_correlations(table: np.ndarray) -> tuple[np.ndarray, float]:
    from sklearn.covariance import GraphicalLasso, GraphicalLassoCV
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import KFold

    folds = KFold(min(5, len(table)), shuffle=True, random_state=0)
    # Columns that add up to a constant, as those of a task with several classes do, leave small
    # penalties without a solution. The last penalty always has one.
    fits = [
        GraphicalLassoCV(cv=folds, assume_centered=True),
        *(GraphicalLasso(penalty, assume_centered=True) for penalty in PENALTIES),
    ]
    state = np.random.get_state()  # the lasso draws seeds from the caller's global generator
    with warnings.catch_warnings():
        # A graph with an error of a few per cent orders tasks just as well.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        for lasso in fits:
            with suppress(FloatingPointError):
                lasso.fit(table)
                break
    np.random.set_state(state)
    precision = lasso.precision_
    scale = np.sqrt(np.diag(precision))
    return -precision / np.outer(scale, scale), getattr(
        lasso, "alpha_", lasso.get_params().get("alpha")
    )


def _length(weights: np.ndarray, order: Sequence[int]) -> float:
    places = np.asarray(order)
    # On a ring of two tasks, the pair counts only once.
    after = places[1:] if len(places) == 2 else np.roll(places, -1)
    return float(weights[places[: len(after)], after].sum()) if len(places) > 1 else 0.0


def _best_ring(weights: np.ndarray) -> list[int]:
    """Return the order of tasks on a ring with the largest weights between neighbours."""
    n = len(weights)
    best, most = list(range(n)), _length(weights, range(n))
    if n <= EXACT:
        # Each ring once: it starts with 0, and of its two directions only one is tried.
        tours = ([0, *rest] for rest in permutations(range(1, n)) if n < 3 or rest[0] < rest[-1])
    else:
        tours = (_improved(weights, _greedy(weights, start)) for start in range(n))
    for tour in tours:
        length = _length(weights, tour)
        if length > most + 1e-12:
            best, most = tour, length
    start = best.index(0)
    ring = best[start:] + best[:start]
    return [0, *reversed(ring[1:])] if n > 2 and ring[1] > ring[-1] else ring


def _greedy(weights: np.ndarray, start: int) -> list[int]:
    """Follow the heaviest edge from task to task, among tasks that are not in the ring yet."""
    order, left = [start], set(range(len(weights))) - {start}
    while left:
        last = order[-1]
        order.append(max(sorted(left), key=lambda task: weights[last, task]))
        left.remove(order[-1])
    return order


def _improved(weights: np.ndarray, order: list[int]) -> list[int]:
    """Reverse and move parts of a ring as long as that improves it (2-opt and or-opt)."""
    n, most = len(order), _length(weights, order)
    better = True
    while better:
        better = False
        for i in range(n - 1):
            for j in range(i + 2, n + 1):
                part, rest = order[i:j], order[:i] + order[j:]
                tours = [order[:i] + part[::-1] + order[j:]]
                if len(part) <= 3:
                    tours += [rest[:k] + part + rest[k:] for k in range(len(rest))]
                for tour in tours:
                    length = _length(weights, tour)
                    if length > most + 1e-12:
                        order, most, better = tour, length, True
    return order
