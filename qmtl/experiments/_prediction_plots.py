"""Plots of predictions against targets, and of measured against predicted values."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from qmtl.data import as_samples
from qmtl.errors import InvalidInputError, check_rows, check_type
from qmtl.plotting import COLOURS, axes_or_new, legend_below, line_look, plain
from qmtl.tasks import MISSING, Task
from qmtl.training import class_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Numbers in cells are readable up to this many classes.
MOST_NUMBERS = 12
MOST_TICKS = 24
# Most characters of a task's name in the title of a small figure.
TITLE = 24
# Most curves that can be distinguished.
MOST_CURVES = 12
MOST_POINTS = 2000
RATES = (0, 0.5, 1)


def plot_confusion(task: Task, predictions: Any, targets: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot the confusion matrix in percent of the true class, with true classes as rows.

    Args:
        task: a binary or multiclass task.
        predictions: predictions in the form of `Task.activation`.
        targets: labels, see `Task.to_targets`; rows without a label are left out.
        ax: axes to draw on; None for those of a new figure.

    Raises:
        InvalidInputError: for another kind of task, other shapes, or without any label.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> task = Task.binary("spam", class_names=("ham", "spam"))
        >>> p, y = torch.tensor([0.9, 0.2, 0.6]), task.to_targets([1, 0, 0])
        >>> ax = plot_confusion(task, p, y, Figure().subplots())
        >>> [text.get_text() for text in ax.texts]
        ['50', '50', '0', '100']
    """
    predictions, targets, ax = _checked(task, predictions, targets, ax, "binary", "multiclass")
    rows = _labelled(task, targets)
    labels = class_labels(task)
    counts = np.zeros((len(labels), len(labels)))
    np.add.at(counts, (targets[rows].long().numpy(), task.decision(predictions[rows]).numpy()), 1)
    percent = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    ax.imshow(percent, vmin=0, vmax=100, cmap="cividis", interpolation="nearest")
    ax.grid(visible=False)
    shown = [plain(label, 12) for label in labels] if len(labels) <= MOST_TICKS else []
    turned = max(map(len, shown), default=0) > 3 and len(shown) > 2
    slant: Any = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    ax.set_xticks(range(len(shown)), shown, **slant)
    ax.set_yticks(range(len(shown)), shown)
    if len(labels) <= MOST_NUMBERS:
        for i, j in np.ndindex(*percent.shape):
            colour = "white" if percent[i, j] < 55 else "black"
            size = 10 if len(labels) < 6 else 7
            text = f"{percent[i, j]:.0f}"
            ax.text(j, i, text, ha="center", va="center", color=colour, fontsize=size)
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.set_title(f"{plain(task.name, TITLE)}\n% of the true class", fontsize=10)
    return ax


def plot_roc(task: Task, predictions: Any, targets: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot true against false positive rate of a binary or multilabel task, with areas.

    A multilabel task has a curve for each label with both classes, at most for the twelve labels
    with the most positives. For arguments and errors see `plot_confusion`.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> task = Task.binary("spam")
        >>> p, y = torch.tensor([0.9, 0.2, 0.6]), task.to_targets([1, 0, 0])
        >>> ax = plot_roc(task, p, y, Figure().subplots())
        >>> ax.get_legend_handles_labels()[1]
        ['AUROC 1.000']
    """
    predictions, targets, ax = _checked(task, predictions, targets, ax, "binary", "multilabel")
    shape = (len(targets), task.n_outputs)
    scores, truth = predictions.reshape(shape).numpy(), targets.reshape(shape).numpy()
    positives = np.nansum(truth, axis=0)
    has_both = (truth == 1).any(axis=0) & (truth == 0).any(axis=0)
    both = [i for i in np.argsort(-positives, kind="stable") if has_both[i]]
    if not both:
        raise InvalidInputError(f"task {task.name!r}: a ROC curve needs rows of both classes")
    for number, i in enumerate(sorted(both[:MOST_CURVES])):
        rows = ~np.isnan(truth[:, i])
        false, true = _rates(truth[rows, i] == 1, scores[rows, i])
        area = f"{float(np.diff(false) @ (true[1:] + true[:-1])) / 2:.3f}"
        name = f"{plain(class_labels(task)[i])} {area}"
        label = f"AUROC {area}" if task.kind == "binary" else name
        # Straight lines join the points of thresholds, as the area under the curve assumes: rows
        # with equal scores make a diagonal.
        ax.plot(false, true, label=label, **line_look(number) | {"marker": ""})
    ax.plot([0, 1], [0, 1], color="0.5", linewidth=0.8, linestyle=":")
    ax.set_aspect("equal")
    # With ticks that depend on the size, the layout would have to be computed twice.
    ax.set(xticks=RATES, yticks=RATES)
    ax.set(xlabel="false positive rate", ylabel="true positive rate")
    ax.set_title(f"{plain(task.name, TITLE)}: ROC", fontsize=10)
    if task.kind == "binary":
        ax.legend(loc="lower right", fontsize=9)
    else:
        legend_below(ax, fontsize=7)
    return ax


def plot_calibration(
    task: Task, predictions: Any, targets: Any, ax: "Axes | None" = None, *, bins: int = 10
) -> "Axes":
    """Plot, in bins, how often predictions are right against their predicted probability.

    The `bins` have equal widths, from the smallest probability of a predicted class to 1. For other
    arguments and errors see `plot_confusion`.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> task = Task.binary("spam")
        >>> p, y = torch.tensor([0.9, 0.2, 0.6]), task.to_targets([1, 0, 0])
        >>> plot_calibration(task, p, y, Figure().subplots()).get_ylabel()
        'share that is right'
    """
    predictions, targets, ax = _checked(task, predictions, targets, ax, "binary", "multiclass")
    rows = _labelled(task, targets)
    chosen = task.decision(predictions[rows])
    right = (chosen == targets[rows]).double().numpy()
    given = predictions[rows].double()
    sure = (given.maximum(1 - given) if task.kind == "binary" else given.amax(1)).numpy()
    least = 0.5 if task.kind == "binary" else 1 / task.n_outputs
    place = np.clip(((sure - least) / (1 - least) * bins).astype(int), 0, bins - 1)
    inside = [place == i for i in np.unique(place)]
    means = [sure[own].mean() for own in inside]
    shares = [right[own].mean() for own in inside]
    sizes = [10 + 150 * own.mean() for own in inside]
    ax.plot([least, 1], [least, 1], color="0.5", linewidth=0.8, linestyle=":")
    ax.plot(means, shares, color=COLOURS[0], linewidth=1)
    ax.scatter(means, shares, s=sizes, color=COLOURS[0])
    ax.set(xlim=(least - 0.02, 1.02), ylim=(-0.02, 1.04))
    ax.set(xlabel="probability of the predicted class", ylabel="share that is right")
    ax.set_title(f"{plain(task.name, TITLE)}: calibration", fontsize=10)
    return ax


def plot_regression(
    task: Task, predictions: Any, targets: Any, ax: "Axes | None" = None, *, target: int = 0
) -> "Axes":
    """Plot predictions of a regression task against targets, with the line of zero error.

    `target` is the index of the target if there are several; for other arguments and errors see
    `plot_confusion`. With more than 2,000 rows, at most 2,000 evenly spaced ones are drawn.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> task = Task.regression("price")
        >>> ax = plot_regression(task, torch.ones(2), torch.zeros(2), Figure().subplots())
        >>> ax.get_xlabel()
        'true value'
    """
    predictions, targets, ax = _checked(task, predictions, targets, ax, "regression")
    shape = (len(targets), task.n_outputs)
    own = targets.reshape(shape)[:, target]
    rows = _labelled(task, own)
    y, p = own[rows].numpy(), predictions.reshape(shape)[rows, target].numpy()
    every = -(-len(y) // MOST_POINTS)
    # Rasterised, because an SVG of thousands of shapes is slow to draw.
    picture = len(y) > 300
    dots = ax.scatter(y[::every], p[::every], s=10, alpha=0.5, linewidths=0, rasterized=picture)
    dots.set_color(COLOURS[0])
    low, high = min(y.min(), p.min()), max(y.max(), p.max())
    ax.plot([low, high], [low, high], color=COLOURS[1], linewidth=1, linestyle="--")
    name = task.name if task.n_outputs == 1 else f"{task.name}: {class_labels(task)[target]}"
    ax.set(xlabel="true value", ylabel="predicted value")
    ax.set_title(plain(name, TITLE), fontsize=10)
    return ax


def plot_measured(rows: Sequence[Mapping[str, Any]], ax: "Axes | None" = None) -> "Axes":
    """Plot measured values against those predicted under noise, with standard errors.

    The rows have the keys ``task``, ``measured``, ``predicted`` and ``standard_error`` (which may
    be None), as in the table of a hardware run. Tasks after the twelfth share one style.

    Example:
        >>> from matplotlib.figure import Figure
        >>> row = {"task": "a", "measured": 0.48, "predicted": 0.5, "standard_error": 0.02}
        >>> plot_measured([row], Figure().subplots()).get_xlabel()
        'predicted ⟨Z⟩ or probability'
    """
    check_rows("rows", rows, Mapping)
    ax = axes_or_new(ax)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    named, others = tasks[:MOST_CURVES], tasks[MOST_CURVES:]
    groups = {name: {name} for name in named} | ({"other tasks": set(others)} if others else {})
    for number, (name, members) in enumerate(groups.items()):
        own = [row for row in rows if row["task"] in members]
        ax.errorbar(
            [row["predicted"] for row in own],
            [row["measured"] for row in own],
            yerr=[row.get("standard_error") or 0 for row in own],
            label=plain(name),
            markersize=4,
            elinewidth=0.8,
            **line_look(number) | {"linestyle": "none"},
        )
    values = [row[key] for row in rows for key in ("measured", "predicted")]
    ends = [min(values), max(values)]
    ax.plot(ends, ends, color="0.5", linestyle=":", linewidth=0.8)
    ax.set(xlabel="predicted ⟨Z⟩ or probability", ylabel="measured (± standard error)")
    legend_below(ax, fontsize=7)
    return ax


def _checked(
    task: Task, predictions: Any, targets: Any, ax: "Axes | None", *kinds: str
) -> tuple[Tensor, Tensor, "Axes"]:
    """Return the predictions and the labels as tensors, and axes to draw on."""
    check_type("task", task, Task)
    if task.kind not in kinds:
        raise InvalidInputError(
            f"task {task.name!r} is {task.kind}; this plot is for {' and '.join(kinds)} tasks"
        )
    labels = task.to_targets(targets).cpu()
    given = as_samples(predictions, "predictions").detach().cpu().double()
    if given.numel() != len(labels) * task.n_outputs or len(given) != len(labels):
        raise InvalidInputError(
            f"task {task.name!r}: predictions have shape {tuple(given.shape)}, expected "
            f"{task.n_outputs} for each of {len(labels)} labels"
        )
    if task.kind != "multiclass":
        given = given.reshape(labels.shape)
    return given, labels, axes_or_new(ax)


def _labelled(task: Task, targets: Tensor) -> Tensor:
    rows = targets.isfinite() & ((targets != MISSING) | (task.kind == "regression"))
    if not bool(rows.any()):
        raise InvalidInputError(f"task {task.name!r} has no label to draw")
    return rows


def _rates(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return false and true positive rates without scikit-learn, whose import takes 1 s."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # the last row of each score
    true, false = (np.append(0, np.cumsum(hits[order])[ends]) for hits in (truth, ~truth))
    return false / false[-1], true / true[-1]
