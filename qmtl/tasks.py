"""`Task`: its name, kind and number of outputs; its labels, loss, activation and metrics.

Missing labels are NaN in float targets and -100 in integer targets. They never reach a loss, a
gradient or a metric.
"""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nnf

from qmtl.errors import InvalidInputError, unknown_name

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

__all__ = ["MISSING", "Kind", "Task", "check_tasks"]

Kind = Literal["binary", "multiclass", "multilabel", "regression"]

MISSING = -100
"""The missing label in integer targets (torch's `ignore_index`)."""

_CLASS_METRICS = (
    "accuracy", "balanced_accuracy", "f1", "macro_f1", "weighted_f1",
    "auroc", "average_precision", "matthews", "ece",
)  # fmt: skip
_METRICS: dict[str, tuple[str, ...]] = {
    "binary": _CLASS_METRICS,
    "multiclass": _CLASS_METRICS,
    "multilabel": ("accuracy", "f1", "macro_f1", "weighted_f1", "auroc", "average_precision"),
    "regression": ("r2", "mse", "mae", "pearson", "spearman"),
}
_DEFAULT_METRICS: dict[str, tuple[str, ...]] = {
    "binary": ("accuracy", "f1", "auroc"),
    "multiclass": ("accuracy", "macro_f1"),
    "multilabel": ("accuracy", "macro_f1", "auroc"),
    "regression": ("r2", "mae"),
}


@dataclass(frozen=True)
class Task:
    """One thing to predict. Build it with `binary`, `multiclass`, `multilabel` or `regression`.

    Args:
        name: non-empty, without "." and not "encoding" (names become parameter keys).
        kind: "binary", "multiclass", "multilabel" or "regression".
        n_outputs: logits of the task: 1, classes, labels, or regression targets.
        class_names: (negative, positive); one per class or label; or the names of the targets.
        class_weights: (negative, positive) for binary, one per class for multiclass, the weight
            of the positives of each label for multilabel; none for regression.
        metric_names: the metrics that `evaluate` returns, the main one first; None for defaults.

    Raises:
        InvalidInputError: a value does not fit; it is named with what was expected.

    Example:
        >>> Task.multiclass("emotion", 9).metric_names is None, Task.binary("cola").main_metric
        (True, 'accuracy')
    """

    name: str
    kind: Kind
    n_outputs: int
    class_names: tuple[str, ...] | None = None
    class_weights: tuple[float, ...] | None = None
    metric_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.kind not in _METRICS:
            raise unknown_name(f"kind of task '{self.name}':", self.kind, _METRICS)
        _check_n_outputs(self)
        for field in ("class_names", "class_weights", "metric_names"):
            object.__setattr__(self, field, _as_tuple(self, field))
        _check_class_names(self)
        _check_class_weights(self)
        _check_metric_names(self)

    @classmethod
    def binary(
        cls,
        name: str,
        *,
        class_names: Sequence[str] | None = None,
        class_weights: Sequence[float] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> "Task":
        """A yes-or-no task: one logit.

        Example:
            >>> Task.binary("spam", class_names=("ham", "spam")).n_outputs
            1
        """
        return cls(name, "binary", 1, class_names, class_weights, metrics)  # type: ignore[arg-type]

    @classmethod
    def multiclass(
        cls,
        name: str,
        n_classes: int,
        *,
        class_names: Sequence[str] | None = None,
        class_weights: Sequence[float] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> "Task":
        """One of `n_classes` (at least 2) exclusive classes: that many logits.

        Example:
            >>> Task.multiclass("digit", 10).main_metric
            'accuracy'
        """
        weights: Any = class_weights
        return cls(name, "multiclass", n_classes, class_names, weights, metrics)  # type: ignore[arg-type]

    @classmethod
    def multilabel(
        cls,
        name: str,
        n_labels: int,
        *,
        class_names: Sequence[str] | None = None,
        class_weights: Sequence[float] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> "Task":
        """Several yes-or-no labels of one sample: one logit each.

        Example:
            >>> Task.multilabel("finding", 2, class_names=("edema", "mass")).n_outputs
            2
        """
        weights: Any = class_weights
        return cls(name, "multilabel", n_labels, class_names, weights, metrics)  # type: ignore[arg-type]

    @classmethod
    def regression(
        cls,
        name: str,
        n_targets: int = 1,
        *,
        class_names: Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> "Task":
        """One or more real numbers; `class_names` are the names of the targets.

        Example:
            >>> Task.regression("stsb").main_metric
            'r2'
        """
        return cls(name, "regression", n_targets, class_names, None, metrics)  # type: ignore[arg-type]

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
        """The first of the task's metrics: the one to select models by.

        Example:
            >>> Task.binary("cola", metrics=("matthews", "accuracy")).main_metric
            'matthews'
        """
        return self._metrics[0]

    @property
    def _metrics(self) -> tuple[str, ...]:
        return self.metric_names or _DEFAULT_METRICS[self.kind]

    @property
    def _is_flat(self) -> bool:
        """Whether canonical targets are (N,), not (N, n_outputs)."""
        return self.kind in ("binary", "multiclass") or (
            self.kind == "regression" and self.n_outputs == 1
        )

    def to_targets(self, values: Any, *, first_row: int = 0) -> Tensor:
        """Check labels and return them in the form that losses and metrics expect.

        Args:
            values: tensor, array, list or column of labels, (N,), (N, 1) or (N, n_outputs).
                Missing: None, NaN, and (but for regression) -100. Texts are looked up in
                `class_names`.
            first_row: the number of the first row in error messages (files count differently).

        Returns:
            binary: float32 (N,) in {0, 1, NaN}; multiclass: int64 (N,) in 0..C-1 or -100;
            multilabel: float32 (N, L) in {0, 1, NaN}; regression: float32 (N,), or (N, n) for
            several targets, finite or NaN. On the device of `values` if that is a tensor.

        Raises:
            InvalidInputError: wrong shape, or a label out of range (with its row).

        Example:
            >>> Task.binary("a").to_targets([1, None, 0])
            tensor([1., nan, 0.])
            >>> Task.multiclass("b", 3).to_targets([2, -100, 0])
            tensor([   2, -100,    0])
        """
        array = torch.from_numpy(_read_labels(self, values, first_row))
        device = values.device if isinstance(values, Tensor) else torch.device("cpu")
        if self.kind == "multiclass":
            return array.nan_to_num(nan=MISSING).long().to(device)
        return array.float().to(device)

    def labelled(self, targets: Tensor) -> Tensor:
        """Which rows of canonical targets have at least one label: bool (N,).

        Example:
            >>> task = Task.multilabel("finding", 2)
            >>> task.labelled(task.to_targets([[1, None], [None, None]]))
            tensor([ True, False])
        """
        present = _present(targets)
        return present if present.ndim == 1 else present.any(dim=1)

    def loss_terms(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the loss over the labelled entries, and what to divide it by.

        Args:
            logits: (B, n_outputs).
            targets: canonical, see `to_targets`; regression targets already standardised.

        Returns:
            Two 0-dim tensors: the (weighted) sum and the normaliser: the number of labelled
            entries, or for weighted multiclass the sum of the weights of the labelled rows, as
            in torch. Both are 0 without labels. Neither they nor their gradients are ever NaN
            because of a missing label.

        Raises:
            InvalidInputError: the shapes do not fit; both are named.

        Example:
            >>> task = Task.regression("a")
            >>> task.loss_terms(torch.tensor([[1.0], [5.0]]), torch.tensor([3.0, float("nan")]))
            (tensor(4.), tensor(1.))
        """
        self._check_logits(logits)
        expected = logits.shape[:1] if self._is_flat else logits.shape
        if targets.shape != expected or targets.is_floating_point() == (self.kind == "multiclass"):
            raise InvalidInputError(
                f"task '{self.name}': logits {tuple(logits.shape)} need targets from "
                f"Task.to_targets of shape {tuple(expected)}, got {tuple(targets.shape)} "
                f"{targets.dtype}"
            )
        present = _present(targets)
        # Missing entries are replaced on both sides *before* the loss: masking it afterwards
        # would leave 0 * NaN in the gradient.
        safe = torch.where(present, targets, torch.zeros_like(targets))
        columns = logits[:, 0] if self._is_flat and self.kind != "multiclass" else logits
        mask = present.unsqueeze(1) if self.kind == "multiclass" else present
        columns = torch.where(mask, columns, torch.zeros_like(columns))
        losses, weights = self._entry_losses(columns, safe)
        present = present.to(logits.dtype)
        return (losses * present).sum(), (weights * present).sum()

    def _entry_losses(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of every entry, and its part in the normaliser."""
        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        ones = torch.ones_like(targets, dtype=logits.dtype)
        if self.kind == "multiclass":
            losses = nnf.cross_entropy(logits, targets, weight=weights, reduction="none")
            return losses, ones if weights is None else weights[targets]
        targets = targets.to(logits.dtype)
        if self.kind == "regression":
            return (logits - targets).square(), ones
        if self.kind == "multilabel":
            entropy = nnf.binary_cross_entropy_with_logits
            return entropy(logits, targets, pos_weight=weights, reduction="none"), ones
        losses = nnf.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return losses if weights is None else losses * weights[targets.long()], ones

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean loss over the labelled entries: 0-dim. Arguments as in `loss_terms`.

        Raises:
            InvalidInputError: there is no label at all, or the shapes do not fit.

        Example:
            >>> task = Task.binary("a")
            >>> task.loss(torch.zeros(2, 1), task.to_targets([1, None]))
            tensor(0.6931)
        """
        total, count = self.loss_terms(logits, targets)
        if count == 0:
            raise InvalidInputError(
                f"task '{self.name}': the loss needs at least one label, but all "
                f"{targets.numel()} targets are missing"
            )
        return total / count

    def _check_logits(self, logits: Tensor) -> None:
        if logits.ndim != 2 or logits.shape[1] != self.n_outputs:
            raise InvalidInputError(
                f"task '{self.name}': logits have shape {tuple(logits.shape)}, "
                f"expected (batch, {self.n_outputs})"
            )

    def activation(self, logits: Tensor) -> Tensor:
        """Predictions from logits (B, n_outputs).

        Returns:
            binary: probability of the positive class (B,); multiclass: class probabilities
            (B, C); multilabel: probabilities (B, L); regression: (B,), or (B, n) for several.

        Example:
            >>> Task.binary("a").activation(torch.zeros(2, 1))
            tensor([0.5000, 0.5000])
        """
        self._check_logits(logits)
        if self.kind == "multiclass":
            return logits.softmax(dim=1)
        values = logits if self.kind == "regression" else logits.sigmoid()
        return values[:, 0] if self._is_flat else values

    def decision(self, predictions: Tensor) -> Tensor:
        """Hard labels from the predictions that `activation` returns; regression unchanged.

        Returns:
            int64: binary (B,), multiclass (B,), multilabel (B, L). A tie at 0.5 is positive.

        Example:
            >>> Task.binary("a").decision(torch.tensor([0.2, 0.5]))
            tensor([0, 1])
        """
        if self.kind == "regression":
            return predictions
        if self.kind == "multiclass":
            return predictions.argmax(dim=-1)
        return (predictions >= 0.5).long()

    def metrics(self) -> "MetricCollection":
        """The task's metrics as a `torchmetrics.MetricCollection`, for running epochs.

        Its inputs are predictions as from `activation` and targets *without* missing labels
        (int64 for classes). `evaluate` handles missing labels and undefined metrics; this
        follows torchmetrics' own conventions. With several regression targets, pearson and
        spearman give one value per target.

        Example:
            >>> collection = Task.binary("a", metrics=("accuracy", "f1")).metrics()
            >>> collection(torch.tensor([0.9, 0.2]), torch.tensor([1, 1]))
            {'accuracy': tensor(0.5000), 'f1': tensor(0.6667)}
        """
        from torchmetrics import MetricCollection

        with _silence():
            built = {name: _torchmetric(self.kind, self.n_outputs, name) for name in self._metrics}
            return MetricCollection(built, compute_groups=False)

    def evaluate(self, predictions: Any, targets: Any) -> dict[str, float]:
        """The task's metrics on the labelled rows and entries.

        Args:
            predictions: as from `activation`; regression in original units.
            targets: labels, see `to_targets`.

        Returns:
            metric name → value; NaN where it is undefined (no labels, one class only for auroc
            and matthews, a constant for pearson) or a prediction is not finite. Metrics that
            average over classes, labels or targets average over those where they are defined.

        Raises:
            InvalidInputError: the shapes do not fit; both are named.

        Example:
            >>> Task.binary("a").evaluate([0.9, 0.2, 0.4], [1, 0, None])
            {'accuracy': 1.0, 'f1': 1.0, 'auroc': 1.0}
        """
        labels = torch.from_numpy(_read_labels(self, targets, 0))
        if not isinstance(predictions, Tensor):
            predictions = torch.tensor(np.asarray(predictions, dtype=np.float64))
        given = predictions.detach().to("cpu", torch.float64)
        expected = (len(labels), self.n_outputs)
        shapes = [expected, expected[:1]] if self.n_outputs == 1 else [expected]
        if tuple(given.shape) not in shapes:
            raise InvalidInputError(
                f"task '{self.name}': predictions have shape {tuple(given.shape)}, expected "
                f"{expected[:1] if self._is_flat and self.n_outputs == 1 else expected} "
                f"for targets of shape {tuple(labels.shape)}"
            )
        given, labels = given.reshape(expected), labels.reshape(len(labels), -1)
        with _silence():
            return {name: _score(self.kind, name, given, labels) for name in self._metrics}

    def baseline(self, train_targets: Any) -> Tensor:
        """The best constant prediction: class frequencies, positive rates, or the mean.

        Args:
            train_targets: labels, see `to_targets`.

        Returns:
            One row of what `activation` returns: 0-dim, or (n_outputs,). A label of a multilabel
            task without any training label gets 0.5.

        Raises:
            InvalidInputError: there is no label (of a regression target) to learn from.

        Example:
            >>> Task.multiclass("a", 3).baseline([0, 2, 2, None])
            tensor([0.3333, 0.0000, 0.6667])
        """
        labels = torch.from_numpy(_read_labels(self, train_targets, 0))
        columns = labels.reshape(len(labels), -1)
        empty = columns.isnan().all(dim=0)
        if empty.all() or (self.kind == "regression" and empty.any()):
            raise InvalidInputError(
                f"task '{self.name}': the baseline needs at least one training label of every "
                f"target, but target {int(empty.long().argmax())} has none"
            )
        if self.kind == "multiclass":
            classes = columns[~columns.isnan()].long()
            counts = torch.bincount(classes, minlength=self.n_outputs).float()
            return counts / counts.sum()
        means = columns.nanmean(dim=0).nan_to_num(nan=0.5).float()
        return means[0] if self._is_flat else means

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold; `from_dict` reads it.

        Example:
            >>> Task.from_dict(Task.binary("a").to_dict()) == Task.binary("a")
            True
        """
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Task":
        """A task from `to_dict`.

        Raises:
            InvalidInputError: a key is unknown or missing, or a value does not fit.

        Example:
            >>> Task.from_dict({"name": "a", "kind": "binary", "n_outputs": 1}).kind
            'binary'
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(data, dict):
            raise InvalidInputError(f"task: expected a dict with {known}, got {data!r}")
        for key in data:
            if key not in known:
                raise unknown_name("task key", key, known)
        for key in known[:3]:
            if key not in data:
                raise InvalidInputError(f"task: the key '{key}' is missing from {data!r}")
        return cls(**data)


def check_tasks(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """The tasks as a tuple, after checking that there are some and no two share a name.

    Raises:
        InvalidInputError: none, something that is no Task, or a duplicate (with both positions).

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


# --- what a task may be ------------------------------------------------------------------------


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name.strip() or "." in name or name == "encoding":
        raise InvalidInputError(
            f"name of a task: expected a non-empty text without '.' other than 'encoding', "
            f"got {name!r}"
        )


def _check_n_outputs(task: Task) -> None:
    n, least = task.n_outputs, 2 if task.kind == "multiclass" else 1
    exact = task.kind == "binary"
    is_int = isinstance(n, int | np.integer) and not isinstance(n, bool)
    if not is_int or n < least or (exact and n != 1):
        expected = "1" if exact else f"a whole number of at least {least}"
        raise InvalidInputError(
            f"n_outputs of {task.kind} task '{task.name}': expected {expected}, got {n!r}"
        )
    object.__setattr__(task, "n_outputs", int(n))


def _as_tuple(task: Task, field: str) -> tuple[Any, ...] | None:
    values = getattr(task, field)
    if values is None:
        return None
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InvalidInputError(
            f"{field} of task '{task.name}': expected a sequence, got {values!r}"
        )
    return tuple(values)


def _check_class_names(task: Task) -> None:
    names = task.class_names
    if names is None:
        return
    expected = 2 if task.kind == "binary" else task.n_outputs
    texts = all(isinstance(name, str) and name for name in names)
    if len(names) != expected or len(set(names)) != expected or not texts:
        raise InvalidInputError(
            f"class_names of {task.kind} task '{task.name}': expected {expected} different "
            f"non-empty texts, got {names!r}"
        )


def _check_class_weights(task: Task) -> None:
    weights = task.class_weights
    if weights is None:
        return
    if task.kind == "regression":
        raise InvalidInputError(
            f"class_weights of regression task '{task.name}': expected None, got {weights!r}"
        )
    expected = 2 if task.kind == "binary" else task.n_outputs
    try:
        numbers = tuple(float(weight) for weight in weights)
    except (TypeError, ValueError):
        numbers = ()
    positive = all(0 < weight < math.inf for weight in numbers)
    if len(numbers) != expected or not positive:
        raise InvalidInputError(
            f"class_weights of {task.kind} task '{task.name}': expected {expected} positive "
            f"numbers, got {weights!r}"
        )
    object.__setattr__(task, "class_weights", numbers)


def _check_metric_names(task: Task) -> None:
    names, fitting = task.metric_names, _METRICS[task.kind]
    if names is None:
        return
    if not names or len(set(names)) != len(names):
        raise InvalidInputError(
            f"metrics of task '{task.name}': expected one or more different names, got {names!r}"
        )
    for name in names:
        if name in fitting:
            continue
        if any(name in known for known in _METRICS.values()):
            raise InvalidInputError(
                f"metrics of task '{task.name}': '{name}' does not fit a {task.kind} task; "
                f"choose among {', '.join(fitting)}"
            )
        raise unknown_name(f"metric of {task.kind} task '{task.name}':", name, fitting)


# --- labels ------------------------------------------------------------------------------------


def _present(targets: Tensor) -> Tensor:
    return ~targets.isnan() if targets.is_floating_point() else targets != MISSING


def _read_labels(task: Task, values: Any, first_row: int) -> np.ndarray:
    """Labels as float64 with NaN for missing, (N,) or (N, n_outputs), checked."""
    array = _as_numbers(task, values, first_row)
    flat = task._is_flat
    if flat and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if not flat and task.n_outputs == 1 and array.ndim == 1:
        array = array[:, None]
    if array.ndim != (1 if flat else 2) or (not flat and array.shape[1] != task.n_outputs):
        expected = "(N,)" if flat else f"(N, {task.n_outputs})"
        raise InvalidInputError(
            f"labels of {task.kind} task '{task.name}': expected shape {expected}, "
            f"got {array.shape}"
        )
    if task.kind == "regression":
        # Beyond float32 a label would silently become infinite.
        bad, allowed = np.abs(array) > np.finfo(np.float32).max, "finite numbers, NaN if missing"
    else:
        array = np.where(array == MISSING, np.nan, array)
        n_classes = task.n_outputs if task.kind == "multiclass" else 2
        bad = ~np.isnan(array) & ~np.isin(array, np.arange(n_classes))
        allowed = f"whole numbers 0..{n_classes - 1}, {MISSING} or NaN if missing"
    if bad.any():
        position = tuple(np.argwhere(bad)[0])
        raise InvalidInputError(
            f"labels of {task.kind} task '{task.name}': row {position[0] + first_row} has "
            f"{array[position]:g}; allowed are {allowed}"
        )
    return array


def _as_numbers(task: Task, values: Any, first_row: int) -> np.ndarray:
    if isinstance(values, Tensor):
        kept = values.detach().cpu()
        values = kept if kept.is_complex() else kept.to(torch.float64)
    try:
        array = np.asarray(values)
        if array.dtype.kind in "US":
            array = np.asarray(values, dtype=object)  # else None and NaN become texts
    except (ValueError, TypeError) as error:
        raise InvalidInputError(
            f"labels of task '{task.name}': expected an array of labels, got rows of "
            f"different lengths or types"
        ) from error
    if array.dtype.kind in "biuf":
        return array.astype(np.float64)
    if array.dtype.kind != "O":
        raise InvalidInputError(
            f"labels of task '{task.name}': expected numbers or texts, got {array.dtype}"
        )
    codes = {text: code for code, text in enumerate(task.class_names or ())}
    numbers = np.empty(array.shape, dtype=np.float64)
    for position, value in np.ndenumerate(array):
        row = first_row + (position[0] if position else 0)
        numbers[position] = _as_number(task, value, codes, row)
    return numbers


def _as_number(task: Task, value: Any, codes: dict[str, int], row: int) -> float:
    # pandas' own missing values are recognised by name: the package does not import pandas.
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return math.nan
    if isinstance(value, str):
        if task.kind in ("binary", "multiclass") and value in codes:
            return codes[value]
        allowed = ", ".join(repr(text) for text in codes) if codes else "numbers (no class_names)"
        if task.kind in ("multilabel", "regression"):
            allowed = "numbers"
        raise InvalidInputError(
            f"labels of {task.kind} task '{task.name}': row {row} has the text {value!r}; "
            f"allowed are {allowed}"
        )
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"labels of {task.kind} task '{task.name}': row {row} has {value!r}; expected a number"
        ) from error


# --- metrics -----------------------------------------------------------------------------------


@contextmanager
def _silence() -> Iterator[None]:
    """Torchmetrics warns where we answer NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)
        yield


def _harden(predictions: Tensor) -> Tensor:
    return (predictions >= 0.5).long()


def _torchmetric(kind: str, n: int, name: str) -> Any:
    """The torchmetrics object for one metric name; `n` is the number of outputs."""
    from torchmetrics import classification as tmc
    from torchmetrics import regression as tmr
    from torchmetrics.wrappers import LambdaInputTransformer

    def hard(metric: Any) -> Any:  # torchmetrics thresholds at > 0.5, `decision` at >= 0.5
        return LambdaInputTransformer(metric, transform_pred=_harden)

    averages = {"f1": "macro", "macro_f1": "macro", "weighted_f1": "weighted"}
    if kind == "regression":
        by_name: dict[str, Any] = {"r2": tmr.R2Score, "mse": tmr.MeanSquaredError}
        by_name["mae"] = tmr.MeanAbsoluteError
        outputs = {"pearson": tmr.PearsonCorrCoef, "spearman": tmr.SpearmanCorrCoef}
        return by_name[name]() if name in by_name else outputs[name](num_outputs=n)
    if kind == "multilabel" and n > 1:  # torchmetrics refuses a single label
        if name == "accuracy":
            return hard(tmc.MultilabelAccuracy(n, average="micro"))
        if name in averages:
            return hard(tmc.MultilabelF1Score(n, average=averages[name]))
        ranked = {"auroc": tmc.MultilabelAUROC, "average_precision": tmc.MultilabelAveragePrecision}
        return ranked[name](n)
    if kind == "multiclass" or name in ("balanced_accuracy", "macro_f1", "weighted_f1"):
        n_classes = n if kind == "multiclass" else 2
        built: Any = {
            "accuracy": lambda: tmc.MulticlassAccuracy(n_classes, average="micro"),
            "balanced_accuracy": lambda: tmc.MulticlassAccuracy(n_classes, average="macro"),
            "auroc": lambda: tmc.MulticlassAUROC(n_classes),
            "average_precision": lambda: tmc.MulticlassAveragePrecision(n_classes),
            "matthews": lambda: tmc.MulticlassMatthewsCorrCoef(n_classes),
            "ece": lambda: tmc.MulticlassCalibrationError(n_classes),
        }
        if name in averages:
            built[name] = lambda: tmc.MulticlassF1Score(n_classes, average=averages[name])
        if kind == "multilabel" and name != "balanced_accuracy":
            return hard(tmc.BinaryF1Score())
        return built[name]() if kind == "multiclass" else hard(built[name]())
    if name in ("accuracy", "f1", "matthews"):
        one = {"accuracy": tmc.BinaryAccuracy, "f1": tmc.BinaryF1Score}
        return hard(one.get(name, tmc.BinaryMatthewsCorrCoef)())
    soft: Any = {"auroc": tmc.BinaryAUROC, "average_precision": tmc.BinaryAveragePrecision}
    return soft.get(name, tmc.BinaryCalibrationError)()


def _score(kind: str, name: str, predictions: Tensor, labels: Tensor) -> float:
    """One metric; predictions (N, n_outputs) and labels (N, 1 or n_outputs), NaN if missing."""
    if kind == "multiclass":
        rows = ~labels[:, 0].isnan()
        return _class_score(name, predictions[rows], labels[rows, 0].long())
    columns = []
    for p, y in zip(predictions.T, labels.T, strict=True):
        present = ~y.isnan()
        columns.append((p[present], y[present]))
    if kind == "multilabel" and name == "accuracy":
        columns = [(torch.cat([p for p, _ in columns]), torch.cat([y for _, y in columns]))]
    if kind == "regression":
        return _mean([_number_score(name, p, y) for p, y in columns])
    if kind == "multilabel" and name in ("macro_f1", "weighted_f1"):
        scores = [_binary_score("f1", p, y.long()) for p, y in columns]
        return _mean(scores, None if name == "macro_f1" else [float(y.sum()) for _, y in columns])
    return _mean([_binary_score(name, p, y.long()) for p, y in columns])


def _mean(scores: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """Mean of the scores that are defined."""
    pairs = zip(scores, weights or [1.0] * len(scores), strict=True)
    kept = [(score, weight) for score, weight in pairs if not math.isnan(score)]
    total = sum(weight for _, weight in kept)
    return sum(score * weight for score, weight in kept) / total if total > 0 else math.nan


def _binary_score(name: str, p: Tensor, y: Tensor) -> float:
    from torchmetrics.functional import classification as tmf

    if not len(y) or not p.isfinite().all():
        return math.nan
    if name in ("auroc", "average_precision"):
        return _ranking_score(name, p, y)
    if name == "f1":
        return float(tmf.binary_f1_score(_harden(p), y))
    if name == "ece":
        return float(tmf.binary_calibration_error(p.clamp(0, 1), y))
    return _hard_score(name, _harden(p), y, 2)


def _class_score(name: str, p: Tensor, y: Tensor) -> float:
    from torchmetrics.functional import classification as tmf

    if not len(y) or not p.isfinite().all():
        return math.nan
    n_classes = p.shape[1]
    if name in ("auroc", "average_precision"):
        return _mean([_ranking_score(name, p[:, c], (y == c).long()) for c in range(n_classes)])
    if name == "ece":
        return float(tmf.multiclass_calibration_error(p.clamp(0, 1), y, n_classes))
    return _hard_score(name, p.argmax(dim=1), y, n_classes)


def _hard_score(name: str, decided: Tensor, y: Tensor, n_classes: int) -> float:
    from torchmetrics.functional import classification as tmf

    if name == "accuracy":
        return float((decided == y).double().mean())
    if name == "balanced_accuracy":
        # torchmetrics' macro average counts a class that is predicted but has no label as 0.
        return _mean([float((decided[y == c] == c).double().mean()) for c in range(n_classes)])
    if name == "matthews":
        if (y == y[0]).all():
            return math.nan
        return float(tmf.multiclass_matthews_corrcoef(decided, y, n_classes))
    average: Any = "weighted" if name == "weighted_f1" else "macro"
    return float(tmf.multiclass_f1_score(decided, y, n_classes, average=average))


def _ranking_score(name: str, p: Tensor, y: Tensor) -> float:
    from torchmetrics.functional import classification as tmf

    positives = int(y.sum())
    if positives == 0 or (name == "auroc" and positives == len(y)):
        return math.nan
    rank = tmf.binary_auroc if name == "auroc" else tmf.binary_average_precision
    # Predictions outside [0, 1], be it by rounding, would be taken for logits.
    return float(rank(p.clamp(0, 1), y))


def _number_score(name: str, p: Tensor, y: Tensor) -> float:
    from torchmetrics import functional as tmf

    if not len(y) or not p.isfinite().all():
        return math.nan
    varies, predicted = bool((y != y[0]).any()), bool((p != p[0]).any())
    if (name == "r2" and not varies) or (
        name in ("pearson", "spearman") and not (varies and predicted)
    ):
        return math.nan
    # No metric here depends on a common shift, and torchmetrics' sums of squares need one.
    centre = y.mean()
    functions: Any = {
        "r2": tmf.r2_score,
        "mse": tmf.mean_squared_error,
        "mae": tmf.mean_absolute_error,
        "pearson": tmf.pearson_corrcoef,
        "spearman": tmf.spearman_corrcoef,
    }
    return float(functions[name](p - centre, y - centre))
