"""`Task`: a task definition with methods, which the other modules of the package implement."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qmtl.errors import InvalidInputError, unknown_name
from qmtl.tasks import _labels as labels
from qmtl.tasks import _scores as scores
from qmtl.tasks._definition import TaskDefinition, is_flat, metric_names
from qmtl.tasks._layout import task_layout
from qmtl.tasks._metrics import harden, metric_collection

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


@dataclass(frozen=True)
class Task(TaskDefinition):
    """A prediction task. Make one with `binary`, `multiclass`, `multilabel` or `regression`.

    Args:
        name: non-empty, and not "encoding" (the name of the weights that all tasks share).
        kind: "binary", "multiclass", "multilabel" or "regression".
        n_outputs: number of logits: 1, or the number of classes, labels or regression targets.
        class_names: (negative, positive) for binary; one per class or label; or the names of the
            targets.
        class_weights: (negative, positive) for binary; one per class for multiclass; the weight of
            each label's positives for multilabel; None for regression.
        metric_names: the metrics that `evaluate` returns, the main one first; None for the
            defaults.

    Raises:
        InvalidInputError: a value does not fit; the error names it and what was expected.

    Example:
        >>> Task.multiclass("emotion", 9).metric_names is None, Task.binary("cola").main_metric
        (True, 'accuracy')
    """

    @property
    def is_classification(self) -> bool:
        """Whether the task predicts classes or labels, not numbers.

        Example:
            >>> Task.regression("price").is_classification
            False
        """
        return self.kind != "regression"

    @property
    def main_metric(self) -> str:
        """The first of the task's metrics, which model selection uses.

        Example:
            >>> Task.binary("cola", metrics=("matthews", "accuracy")).main_metric
            'matthews'
        """
        return metric_names(self)[0]

    def to_targets(self, values: Any, *, rows: Sequence[Any] | None = None) -> Tensor:
        """Check labels and convert them to the form that losses and metrics expect.

        A text is the class with that name. Otherwise a text from `MISSING_WORDS` is missing, and
        any other text must spell a number: "1", "1.0" and 1 are the same label. Blanks around a
        text are ignored. If class names spell numbers ("1", "2", "3"), a number is the class whose
        name spells it; otherwise, a number counts the classes from 0. True and False, as values or
        as texts in any case, are the classes of these names, if there are such classes. Otherwise
        they are 1 and 0 (texts only in binary and multilabel tasks without class names). None, NaN,
        NA, NaT, masked entries and, except in regression, -100 are also missing.

        Args:
            values: array, list, masked array or column of labels, (N,), (N, 1) or (N, n_outputs);
                or a tensor in the returned form, whose numbers never are class names.
            rows: names of the rows for error messages; None counts from 0.

        Returns:
            For binary, float32 (N,) in {0, 1, NaN}; for multiclass, int64 (N,) in 0..C-1 or -100;
            for multilabel, float32 (N, L) in {0, 1, NaN}; for regression, float64 (N,), or (N, n)
            for several targets, finite or NaN. The device is that of `values`, if it is a tensor.

        Raises:
            InvalidInputError: a shape does not fit, or a label is a date or out of range; the error
                names the label's row.

        Example:
            >>> Task.binary("a").to_targets([1, None, 0])
            tensor([1., nan, 0.])
            >>> Task.multiclass("b", 3).to_targets([2, -100, 0])
            tensor([   2, -100,    0])
            >>> Task.multiclass("stars", 3, class_names=("1", "2", "3")).to_targets([1.0, "3"])
            tensor([0, 2])
        """
        return labels.to_targets(self, values, rows)

    def labelled(self, targets: Tensor) -> Tensor:
        """Return which rows of canonical targets have at least one label: bool (N,).

        Example:
            >>> task = Task.multilabel("finding", 2)
            >>> task.labelled(task.to_targets([[1, None], [None, None]]))
            tensor([ True, False])
        """
        mask = labels.present(targets)
        return mask if mask.ndim == 1 else mask.any(dim=1)

    def loss_terms(
        self, logits: Tensor, targets: Tensor, sample_weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of the loss over the labelled entries, and the normaliser.

        Args:
            logits: (B, n_outputs).
            targets: canonical, see `to_targets`; regression targets already standardised.
            sample_weight: weights of the rows, (B,), which multiply class weights; None for 1 each.

        Returns:
            Two 0-dim tensors, both 0 without labels. The normaliser is the number of labelled
            entries; for multiclass tasks with class weights, the sum of these over the labelled
            rows, as in torch. Each entry counts by its row's weight. A missing label never makes
            the results or their gradients NaN.

        Raises:
            InvalidInputError: the shapes do not fit.

        Example:
            >>> import torch
            >>> task = Task.regression("a")
            >>> task.loss_terms(torch.tensor([[1.0], [5.0]]), torch.tensor([3.0, float("nan")]))
            (tensor(4.), tensor(1.))
        """
        _check_shapes(self, logits, targets)
        if sample_weight is not None and np.shape(sample_weight) != logits.shape[:1]:
            raise InvalidInputError(
                f"task '{self.name}': sample_weight must have shape ({len(logits)},), got "
                f"{tuple(np.shape(sample_weight))}"
            )
        if sample_weight is not None:
            sample_weight = torch.as_tensor(sample_weight, device=logits.device)
        layout = task_layout((self,))
        joined = layout.join_targets({self.name: targets})
        total, count = layout.loss_terms(logits, joined, sample_weight=sample_weight)
        return total[0], count[0]

    def loss(self, logits: Tensor, targets: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Return the mean loss over the labelled entries, 0-dim. Arguments as in `loss_terms`.

        Raises:
            InvalidInputError: there is no label at all, or the shapes do not fit.

        Example:
            >>> import torch
            >>> task = Task.binary("a")
            >>> task.loss(torch.zeros(2, 1), task.to_targets([1, None]))
            tensor(0.6931)
        """
        if sample_weight is not None and len(logits):
            # Only ratios of weights matter, and the logits' type may be too narrow for the weights.
            sample_weight = torch.as_tensor(sample_weight)
            sample_weight = sample_weight / sample_weight.max()
        # Half precision is too narrow for the sum and the number of many rows.
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total, count = self.loss_terms(exact, targets, sample_weight)
        if not count > 0:
            raise InvalidInputError(
                f"task '{self.name}': the loss needs at least one label, but all "
                f"{targets.numel()} targets are missing"
                f"{'' if sample_weight is None else ' or of weight 0'}"
            )
        return (total / count).to(logits.dtype)

    def labels_in_words(self) -> str:
        """Describe the task's labels, for messages.

        Example:
            >>> Task.binary("a", class_names=["no", "yes"]).labels_in_words()
            'binary with 1 outputs, classes no, yes'
        """
        named = f", classes {', '.join(self.class_names)}" if self.class_names else ""
        return f"{self.kind} with {self.n_outputs} outputs{named}"

    def labelled_like(self, other: "Task") -> bool:
        """Return whether two tasks have equal kinds, outputs, and, if both have any, class names.

        Example:
            >>> Task.binary("a", class_names=["no", "yes"]).labelled_like(Task.binary("a"))
            True
        """
        if (self.kind, self.n_outputs) != (other.kind, other.n_outputs):
            return False
        return None in (self.class_names, other.class_names) or (
            self.class_names == other.class_names
        )

    def activation(self, logits: Tensor) -> Tensor:
        """Turn logits (B, n_outputs) into predictions.

        Returns:
            For binary, the probability of the positive class (B,); for multiclass, class
            probabilities (B, C); for multilabel, probabilities (B, L); for regression, values (B,),
            or (B, n) for several targets.

        Example:
            >>> import torch
            >>> Task.binary("a").activation(torch.zeros(2, 1))
            tensor([0.5000, 0.5000])
        """
        _check_logits(self, logits)
        values = task_layout((self,)).activation(logits)
        return values[:, 0] if is_flat(self) and self.kind != "multiclass" else values

    def decision(self, predictions: Tensor) -> Tensor:
        """Turn the predictions of `activation` into hard labels; regression stays unchanged.

        Returns:
            int64: binary (B,), multiclass (B,), multilabel (B, L). A probability of exactly 0.5
            counts as positive.

        Example:
            >>> import torch
            >>> Task.binary("a").decision(torch.tensor([0.2, 0.5]))
            tensor([0, 1])
        """
        predictions = torch.as_tensor(predictions)
        if self.kind == "regression":
            return predictions
        if self.kind == "multiclass":
            return predictions.argmax(dim=-1)
        return harden(predictions)

    def metrics(self) -> "MetricCollection":
        """Return the metrics as a `torchmetrics.MetricCollection`, which accumulates over batches.

        The collection takes predictions in the form of `activation`, and targets *without* missing
        labels (int64 for classes). Undefined metrics follow torchmetrics' conventions. With several
        regression targets, pearson and spearman give one value per target.

        Example:
            >>> import torch
            >>> collection = Task.binary("a", metrics=("accuracy", "f1")).metrics()
            >>> collection(torch.tensor([0.9, 0.2]), torch.tensor([1, 1]))
            {'accuracy': tensor(0.5000), 'f1': tensor(0.6667)}
        """
        return metric_collection(self)

    def evaluate(
        self, predictions: Any, targets: Any, sample_weight: Any = None
    ) -> dict[str, float]:
        """Return the task's metrics on the labelled rows and entries.

        Args:
            predictions: in the form of `activation`: probabilities, not logits; regression values
                in original units.
            targets: labels, see `to_targets`.
            sample_weight: weights of the rows, (N,), not negative: a row of weight 2 counts like
                two rows, a row of weight 0 not at all. None for 1 each.

        Returns:
            A dictionary from metric name to value. The value is NaN if the metric is undefined (no
            labels, one class for auroc and matthews, constant values for pearson) or a prediction
            is not finite. Averages are over the classes, labels or targets with a defined metric.

        Raises:
            InvalidInputError: the shapes do not fit, or a probability is not in [0, 1].

        Example:
            >>> Task.binary("a").evaluate([0.9, 0.2, 0.4], [1, 0, None])
            {'accuracy': 1.0, 'f1': 1.0, 'auroc': 1.0}
        """
        return scores.evaluate(self, predictions, targets, sample_weight)

    def baseline(self, train_targets: Any, sample_weight: Any = None) -> Tensor:
        """Return the best constant prediction: class frequencies, positive rates, or the mean.

        Args:
            train_targets: labels, see `to_targets`.
            sample_weight: weights of the rows, see `evaluate`.

        Returns:
            One row in the form of `activation`: 0-dim, or (n_outputs,); float64 for regression. A
            label of a multilabel task without any training label gets 0.5.

        Raises:
            InvalidInputError: a task or a regression target has no label.

        Example:
            >>> Task.multiclass("a", 3).baseline([0, 2, 2, None])
            tensor([0.3333, 0.0000, 0.6667])
        """
        return labels.best_constant(self, train_targets, sample_weight)


def check_tasks(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """Check that there are tasks and that no two share a name; return them as a tuple.

    Raises:
        InvalidInputError: for no task, an object that is not a Task, or a name used twice.

    Example:
        >>> len(check_tasks([Task.binary("a"), Task.regression("b")]))
        2
    """
    if isinstance(tasks, Task | str) or not isinstance(tasks, Iterable):
        raise InvalidInputError(f"tasks: expected a sequence of Task, got {tasks!r}")
    found = tuple(tasks)
    if not found:
        raise InvalidInputError("tasks: expected at least one Task, got none")
    first: dict[str, int] = {}
    for position, task in enumerate(found):
        if not isinstance(task, Task):
            raise InvalidInputError(f"tasks: expected a Task at position {position}, got {task!r}")
        if task.name in first:
            raise InvalidInputError(
                f"tasks: the name '{task.name}' is used twice, at positions {first[task.name]} "
                f"and {position}; names must differ"
            )
        first[task.name] = position
    return found


def chosen_tasks(
    names: Sequence[str] | None, known: Collection[str], what: str = "task", *, least: int = 0
) -> tuple[str, ...]:
    """Check and return the names of the requested tasks; None means all known tasks.

    `what` describes a name in errors about unknown names.

    Raises:
        InvalidInputError: for a string, an unknown name, a name that comes twice, or fewer than
            `least`.

    Example:
        >>> chosen_tasks(["b"], ["a", "b"]), chosen_tasks(None, ["a", "b"])
        (('b',), ('a', 'b'))
    """
    if names is None:
        return tuple(known)
    if isinstance(names, str) or not isinstance(names, Iterable):
        kind = "string" if isinstance(names, str) else type(names).__name__
        raise InvalidInputError(f"tasks must be a sequence of names, got the {kind} {names!r}")
    chosen = tuple(names)
    for name in chosen:
        if not isinstance(name, str) or name not in known:
            raise unknown_name(what, name, known)
    if len(set(chosen)) < len(chosen):
        raise InvalidInputError(f"tasks must be distinct, got {list(chosen)}")
    if len(chosen) < least:
        raise InvalidInputError(f"tasks must be at least {least}, got {list(chosen)}")
    return chosen


def _check_logits(task: Task, logits: Tensor) -> None:
    if logits.ndim != 2 or logits.shape[1] != task.n_outputs:
        raise InvalidInputError(
            f"task '{task.name}': logits have shape {tuple(logits.shape)}, "
            f"expected (batch, {task.n_outputs})"
        )


def _check_shapes(task: Task, logits: Tensor, targets: Tensor) -> None:
    _check_logits(task, logits)
    expected = logits.shape[:1] if is_flat(task) else logits.shape
    if targets.shape != expected or targets.is_floating_point() == (task.kind == "multiclass"):
        raise InvalidInputError(
            f"task '{task.name}': logits {tuple(logits.shape)} need targets from Task.to_targets, "
            f"{'integers' if task.kind == 'multiclass' else 'floats'} of shape {tuple(expected)}, "
            f"got {tuple(targets.shape)} {targets.dtype}"
        )
