"""Joined tensors: the logits, targets and losses of all tasks side by side."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as nnf

from qmtl.tasks._definition import is_flat

if TYPE_CHECKING:
    from qmtl.tasks._task import Task


def alike(keys: Iterable[Hashable]) -> list[list[int]]:
    """Group the indices of equal keys, in the order of first appearance."""
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def task_layout(tasks: tuple["Task", ...]) -> "TaskLayout":
    """Return the layout of these tasks, cached.

    Example:
        >>> from qmtl.tasks import Task
        >>> task_layout((Task.binary("a"), Task.multiclass("b", 3))).output_slices["b"]
        slice(1, 4, None)
    """
    # Tensors made while torch records a program have no values: they must not be cached.
    return TaskLayout(tasks) if torch.compiler.is_compiling() else _cached_layout(tasks)


@lru_cache(maxsize=256)
def _cached_layout(tasks: tuple["Task", ...]) -> "TaskLayout":
    return TaskLayout(tasks)


def labelled_rows(tasks: Sequence["Task"], targets: Mapping[str, Tensor]) -> Tensor:
    """Apply `Task.labelled` to canonical targets of many tasks on the same rows: bool (tasks, N).

    Example:
        >>> from qmtl.tasks import Task
        >>> tasks = [Task.binary("a"), Task.multiclass("b", 3)]
        >>> targets = {"a": torch.tensor([0.0, float("nan")]), "b": torch.tensor([-100, 2])}
        >>> labelled_rows(tasks, targets)
        tensor([[ True, False],
                [False,  True]])
    """
    layout = task_layout(tuple(tasks))
    return layout.labelled(layout.join_targets(targets)).T


class _Columns(NamedTuple):
    """A set of columns of a joined tensor: consecutive from `start`, or arbitrary."""

    start: int
    n: int
    anywhere: Tensor | None

    @classmethod
    def of(cls, columns: Sequence[int], device: torch.device) -> "_Columns":
        start, n = columns[0], len(columns)
        together = list(columns) == list(range(start, start + n))
        return cls(start, n, None if together else torch.tensor(columns, device=device))

    def __call__(self, joined: Tensor) -> Tensor:
        if self.anywhere is not None:
            return joined.index_select(1, self.anywhere)
        return joined if self.n == joined.shape[1] else joined.narrow(1, self.start, self.n)

    def put(self, joined: Tensor, values: Tensor) -> None:
        if self.anywhere is None:
            joined[:, self.start : self.start + self.n] = values
        else:
            joined[:, self.anywhere] = values.to(joined.dtype)


@dataclass(frozen=True)
class TaskGroup:
    """Tasks of the same kind and number of outputs, all with class weights or all without.

    Attributes:
        tasks: indices of the tasks.
        outputs: the tasks' columns of joined logits.
        columns: the tasks' columns of joined targets.
        weights: the tasks' class weights, float64 (tasks, classes), or None.
    """

    kind: str
    n_outputs: int
    tasks: tuple[int, ...]
    outputs: _Columns
    columns: _Columns
    weights: Tensor | None

    def loss_terms(
        self,
        logits: Tensor,
        targets: Tensor,
        mask: Tensor | None,
        sample_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return sums of losses, and normalisers, (tasks,); the mask marks labelled targets."""
        n_rows, n_tasks = len(logits), len(self.tasks)
        if self.kind == "multiclass":
            flat = logits.reshape(-1, self.n_outputs), targets.reshape(-1).long()
            losses = nnf.cross_entropy(*flat, reduction="none").view_as(targets)
        elif self.kind == "regression":
            losses = (logits - targets).square()
        else:
            positive = None
            if self.kind == "multilabel" and self.weights is not None:
                positive = self.weights.to(logits.dtype).flatten()
            entropy = nnf.binary_cross_entropy_with_logits
            losses = entropy(logits, targets, pos_weight=positive, reduction="none")
        own = None
        if self.weights is not None and self.kind != "multilabel":
            weights = self.weights.to(logits.dtype)
            own = weights.T.gather(0, targets.long())
            losses = losses * own
            own = own if self.kind == "multiclass" else None
        if mask is not None:
            losses = losses * mask
            own = mask if own is None else own * mask
        if sample_weight is not None:
            rows = sample_weight.to(logits.dtype).unsqueeze(1)
            losses = losses * rows
            own = rows.expand_as(losses) if own is None else own * rows
        sums = losses.sum(0)
        if own is None:
            # Without mask and weights, no entry is missing and each counts once.
            n_entries = n_rows * targets.shape[1] // n_tasks
            counts = sums.new_full((n_tasks,), n_entries)
        else:
            counts = own.sum(0, dtype=logits.dtype)
        if len(sums) > n_tasks:
            sums = sums.view(n_tasks, -1).sum(1)
            counts = counts if own is None else counts.view(n_tasks, -1).sum(1)
        return sums, counts

    def activation(self, logits: Tensor) -> Tensor:
        if self.kind == "regression":
            return logits
        if self.kind == "multiclass":
            by_task = logits.view(logits.shape[0], len(self.tasks), self.n_outputs)
            return by_task.softmax(dim=2).flatten(1)
        return logits.sigmoid()


class TaskLayout:
    """The columns of each task's outputs and targets in joined tensors.

    Tasks of one kind run together. Each torch call costs microseconds even for small tensors:
    separate calls for a thousand small tasks would take most of a training step.

    Joined logits have shape (rows, outputs), in the tasks' order. Joined targets have shape (rows,
    columns): one column for binary, multiclass and single regression tasks, otherwise one per
    output. Joined targets have one floating type for all tasks; NaN is a missing label.

    Args:
        tasks: the tasks, in order.

    Attributes:
        tasks: the tasks.
        output_slices: task name → columns of its outputs in joined logits.
        column_slices: task name → columns of its targets in joined targets.
        n_outputs: number of columns of joined logits.
        n_columns: number of columns of joined targets.
        column_of_output: index of the target column of each output, int64 (outputs,).
        dtype: type of joined targets: float64 if there are regression tasks, so that their labels
            keep all digits until they are standardised; otherwise float32.
    """

    def __init__(self, tasks: Sequence["Task"]) -> None:
        self.tasks = tuple(tasks)
        widths = [1 if is_flat(task) else task.n_outputs for task in self.tasks]
        self.output_slices = _slices(self.tasks, [task.n_outputs for task in self.tasks])
        self.column_slices = _slices(self.tasks, widths)
        self.n_outputs = sum(task.n_outputs for task in self.tasks)
        self.n_columns = sum(widths)
        regression = any(task.kind == "regression" for task in self.tasks)
        self.dtype = torch.float64 if regression else torch.float32
        keys = [(t.kind, t.n_outputs, t.class_weights is not None) for t in self.tasks]
        self._places = alike(keys)
        order = [place for group in self._places for place in group]
        # Layouts are cached: tensors made here must have values, so they are on the CPU.
        cpu = partial(torch.tensor, device="cpu")
        task_of_column = [i for i, width in enumerate(widths) for _ in range(width)]
        column_of_output = [
            column if is_flat(task) else column + i
            for task, column in zip(self.tasks, accumulate([0, *widths[:-1]]), strict=True)
            for i in range(task.n_outputs)
        ]
        self.column_of_output = cpu(column_of_output)
        same = column_of_output == list(range(self.n_columns))
        self._indices = (
            None if order == sorted(order) else cpu(order).argsort(),
            None if same else self.column_of_output,
            cpu(task_of_column),
        )
        self._on_devices: dict[torch.device, tuple[TaskGroup, ...]] = {}

    def groups(self, device: torch.device) -> tuple[TaskGroup, ...]:
        """Return the tasks grouped by kind, with index tensors on the device."""
        if device not in self._on_devices:
            *maybe, task_of_column = self._indices
            self._order, self._column_of_output = (
                None if index is None else index.to(device) for index in maybe
            )
            self._task_of_column = task_of_column.to(device)
            groups = tuple(self._group(places, device) for places in self._places)
            if torch.compiler.is_compiling():
                # Tensors of a recorded program have no values: do not cache them.
                return groups
            self._on_devices = {device: groups}
        return self._on_devices[device]

    def _group(self, places: Sequence[int], device: torch.device) -> TaskGroup:
        tasks = [self.tasks[i] for i in places]

        def columns(slices: Mapping[str, slice]) -> _Columns:
            own = [slices[task.name] for task in tasks]
            return _Columns.of([i for s in own for i in range(s.start, s.stop)], device)

        weights = None
        if tasks[0].class_weights is not None:
            exact = torch.float32 if device.type == "mps" else torch.float64
            given = [task.class_weights for task in tasks]
            weights = torch.tensor(given, dtype=exact, device=device)
        return TaskGroup(
            tasks[0].kind, tasks[0].n_outputs, tuple(places),
            columns(self.output_slices), columns(self.column_slices), weights,
        )  # fmt: skip

    def join_targets(self, targets: Mapping[str, Tensor]) -> Tensor:
        """Join each task's canonical targets to one tensor (rows, columns).

        Example:
            >>> from qmtl.tasks import Task
            >>> layout = TaskLayout([Task.binary("a"), Task.multiclass("b", 3)])
            >>> layout.join_targets({"a": torch.tensor([1.0]), "b": torch.tensor([-100])})
            tensor([[1., nan]])
        """
        first = targets[self.tasks[0].name]
        # Devices such as MPS may lack float64.
        dtype = torch.float32 if first.device.type == "mps" else self.dtype
        joined = first.new_empty((len(first), self.n_columns), dtype=dtype)
        for group in self.groups(first.device):
            given = [targets[self.tasks[i].name] for i in group.tasks]
            stack = torch.stack(given, 1).flatten(1)
            if not stack.is_floating_point():
                stack = torch.where(stack < 0, torch.nan, stack.to(dtype))
            group.columns.put(joined, stack)
        return joined

    def labelled(self, targets: Tensor) -> Tensor:
        """Return which task has a label in which row, bool (rows, tasks), from joined targets.

        Example:
            >>> from qmtl.tasks import Task
            >>> layout = TaskLayout([Task.binary("a"), Task.multilabel("b", 2)])
            >>> layout.labelled(torch.tensor([[torch.nan, 1.0, torch.nan]]))
            tensor([[False,  True]])
        """
        mask = ~targets.isnan()
        if self.n_columns == len(self.tasks):
            return mask
        self.groups(targets.device)
        counts = mask.new_zeros((len(mask), len(self.tasks)), dtype=torch.int32)
        return counts.index_add_(1, self._task_of_column, mask.int()) > 0

    def loss_terms(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        complete: bool = False,
        sample_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return `Task.loss_terms` of all tasks, with a few torch calls per kind of task.

        Args:
            logits: joined logits (rows, outputs).
            targets: joined targets (rows, columns); regression targets are already standardised.
            complete: whether no label is missing; True saves a check.
            sample_weight: weights of the rows, (rows,); None counts each row once.

        Returns:
            The sum over each task's labelled entries, and the normaliser: both (tasks,).

        Example:
            >>> from qmtl.tasks import Task
            >>> layout = TaskLayout([Task.regression("a"), Task.regression("b")])
            >>> targets = torch.tensor([[3.0, 1.0], [float("nan"), 1.0]])
            >>> layout.loss_terms(torch.tensor([[1.0, 2.0], [5.0, 2.0]]), targets)
            (tensor([4., 2.]), tensor([1., 2.]))
        """
        groups = self.groups(logits.device)
        mask = None
        if not complete:
            # Replace missing entries in logits and targets *before* the loss: a mask after the loss
            # would leave 0 * NaN in the gradient.
            mask = ~targets.isnan()
            targets = torch.where(mask, targets, 0.0)
            wide = mask
            if self._column_of_output is not None:
                wide = mask.index_select(1, self._column_of_output)
            logits = torch.where(wide, logits, 0.0)
        targets = targets.to(logits.dtype)
        terms = [
            group.loss_terms(
                group.outputs(logits),
                group.columns(targets),
                None if mask is None else group.columns(mask),
                sample_weight,
            )
            for group in groups
        ]
        if len(terms) == 1:
            return terms[0]
        sums, counts = (torch.cat(parts) for parts in zip(*terms, strict=True))
        if self._order is not None:
            return sums.index_select(0, self._order), counts.index_select(0, self._order)
        return sums, counts

    def activation(self, logits: Tensor) -> Tensor:
        """Return joined predictions, in the shape of joined logits; regressions stay standardised.

        Example:
            >>> from qmtl.tasks import Task
            >>> TaskLayout([Task.binary("a"), Task.regression("b")]).activation(torch.zeros(1, 2))
            tensor([[0.5000, 0.0000]])
        """
        groups = self.groups(logits.device)
        if len(groups) == 1:
            return groups[0].activation(logits)
        parts = [group.activation(group.outputs(logits)) for group in groups]
        predictions = torch.empty_like(logits)
        for group, part in zip(groups, parts, strict=True):
            group.outputs.put(predictions, part)
        return predictions


def _slices(tasks: Sequence["Task"], sizes: Sequence[int]) -> dict[str, slice]:
    ends = accumulate(sizes)
    return {t.name: slice(e - n, e) for t, n, e in zip(tasks, sizes, ends, strict=True)}
